"""hotplug/blocks.py: memory blocks as sysfs shows them (valid_zones: RECORDED 1, 5, 6)."""

import numpy as np
import pytest

import fastonline as fo

BLOCK = 32768


@pytest.fixture
def mem(engine):
    mem = fo.Memory(fo.X86_64, boot="512M", rules=fo.LINUX_6_1, engine=engine)
    mem.add_memory(32 * BLOCK, 8 * BLOCK)
    return mem


def test_words_of_a_block(mem):
    block = mem.blocks[32]
    assert (block.start_pfn, block.phys_index, block.state, block.node, block.removable) == (
        32 * BLOCK,
        "00000020",
        "offline",
        0,
        1,
    )
    assert block.valid_zones == "Normal Movable"
    mem.online_pages(32 * BLOCK, BLOCK, fo.MMOP_ONLINE_MOVABLE)
    assert (block.state, block.valid_zones) == ("online", "Movable")
    mem.offline_pages(32 * BLOCK, BLOCK)
    assert (block.state, block.valid_zones) == ("offline", "Normal Movable")


def test_boot_blocks(mem):
    """Block 0 lies in DMA and DMA32. Expect "none"; an offlined DMA32 block can go back or to Movable."""
    assert mem.blocks[0].valid_zones == "none"
    assert mem.blocks[1].valid_zones == "DMA32"
    mem.offline_pages(BLOCK, BLOCK)
    assert mem.blocks[1].valid_zones == "DMA32 Movable"
    mem.online_pages(BLOCK, BLOCK)
    assert mem.zone_of(BLOCK).name == "DMA32"


def test_default_zone_goes_by_the_spans(mem):
    """
        block    32     33     34     35     36     37     38     39
              Normal    --  Movable   --  Normal    --  Movable   --
    Expect the kernel zone where only it or both meet the block, Movable where only it does; the default comes first.
    """
    for nr, kind in (
        (32, fo.MMOP_ONLINE_KERNEL),
        (36, fo.MMOP_ONLINE_KERNEL),
        (34, fo.MMOP_ONLINE_MOVABLE),
        (38, fo.MMOP_ONLINE_MOVABLE),
    ):
        mem.online_pages(nr * BLOCK, BLOCK, kind)
    words = {33: "Normal Movable", 35: "Normal Movable", 37: "Movable Normal", 39: "Normal Movable"}
    assert {nr: mem.blocks[nr].valid_zones for nr in words} == words
    for nr, word in words.items():
        mem.online_pages(nr * BLOCK, BLOCK)
        assert mem.zone_of(nr * BLOCK).name == word.split()[0]
    mem.validate()


def test_blocks_are_a_mapping(mem):
    assert list(mem.blocks) == [0, 1, 2, 3, *range(32, 40)] == mem.blocks.keys()
    assert len(mem.blocks) == 12 and 32 in mem.blocks and 4 not in mem.blocks
    assert [nr for nr, block in mem.blocks.items() if block.state == "online"] == [0, 1, 2, 3]
    with pytest.raises(KeyError):
        mem.blocks[4]
    mem.remove_memory(33 * BLOCK, BLOCK)
    assert 33 not in mem.blocks and len(mem.blocks.values()) == 11


@pytest.mark.parametrize("nr", [4, -1, True, "32", 1.0, None, 1 << 70])
def test_a_block_that_is_none(mem, nr):
    """Expect the number and the blocks that there are."""
    assert nr not in mem.blocks
    with pytest.raises(KeyError) as error:
        mem.blocks[nr]
    assert error.value.args[0] == f"there is no memory block {nr!r}; there are 0-3,32-39"


def test_numbers_of_numpy(mem):
    assert repr(mem.blocks[np.int64(32)]) == "<Block memory32 offline Normal Movable>"
