"""hotplug/blocks.py: memory blocks as sysfs shows them (valid_zones: RECORDED 1, 5, 6)."""

import errno
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import snapshot

import fastonline as fo
from fastonline.linux.sysfs import export_sysfs
from fastonline.testing.walk import through

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
    assert error.value.args[0] == f"no memory block {nr!r} (present: 0-3,32-39)"


def test_numbers_of_numpy(mem):
    assert repr(mem.blocks[np.int64(32)]) == "<Block memory32 0x100000-0x107fff offline Normal Movable>"


# -- one state for all sections of a block

@pytest.fixture
def wide(engine):
    """Blocks of two sections: boot memory in 0 to 3, memory16 and memory17 added."""
    mem = fo.Memory(fo.X86_64, boot="1G", engine=engine, memory_block_size="256M")
    mem.add_memory(32 * BLOCK, 4 * BLOCK)
    return mem


def answers(mem, nr):
    """What everybody says of a block: its state, sysfs's two files, and lsmem's word."""
    block = mem.blocks[nr]
    with tempfile.TemporaryDirectory() as directory:
        export_sysfs(mem, Path(directory, "tree"))
        files = Path(directory, f"tree/sys/devices/system/memory/memory{nr}")
        online, state = (files / "online").read_text().strip(), (files / "state").read_text().strip()
    rows = lsmem_rows(mem.lsmem())
    assert (state, online) == (block.state, "0" if block.state == "offline" else "1")
    assert rows[nr] == block.state
    return state


def lsmem_rows(text):
    """{block: "online" or "offline"} of lsmem's text."""
    rows = {}
    for line in text.splitlines():
        words = line.split()
        if words and words[0].startswith("0x"):
            first, _, last = words[-1].partition("-")
            rows.update(dict.fromkeys(range(int(first), int(last or first) + 1), words[2]))
    return rows


@pytest.mark.parametrize("page", [BLOCK + 5, 5], ids=["second section", "first section"])
def test_a_page_in_any_section_makes_the_block_online(wide, page):
    """One page of one of the two sections is marked. Expect everybody to say online, and online() and offline() to refuse."""
    section = page // BLOCK * BLOCK
    wide.prepare_online_pages(32 * BLOCK + section, BLOCK)
    assert answers(wide, 16) == "offline"
    wide.mark_pages_onlined(32 * BLOCK + page)
    assert answers(wide, 16) == "online" and answers(wide, 17) == "offline"
    for verb in ("online", "offline"):
        with pytest.raises(fo.HotplugError) as error:
            getattr(wide.blocks[16], verb)()
        assert error.value.errno == errno.EINVAL
    wide.validate()
    wide.offline_pages(32 * BLOCK + section, BLOCK)
    assert answers(wide, 16) == "offline" and wide.blocks[16].online() == 2 * BLOCK
    wide.validate()


@pytest.mark.parametrize("mark", [
    lambda mem, pfn: mem.mark_pages_onlined(pfn), lambda mem, pfn: mem.mark_pages_onlined(pfn, 3),
    lambda mem, pfn: mem.mark_pfns_onlined([pfn, pfn + 9]), lambda mem, pfn: mem.generic_online_page(pfn, 0),
], ids=["one", "range", "array", "generic_online_page"])
def test_every_way_of_marking(wide, mark):
    wide.prepare_online_pages(33 * BLOCK, BLOCK)
    mark(wide, 33 * BLOCK + 64)
    assert wide.blocks[16].state == "online"
    wide.validate()


def test_a_block_goes_offline_with_its_last_section(wide):
    """Online as a whole, taken in two parts. Expect the block online in between, with a refusal to take the whole."""
    wide.blocks[16].online()
    wide.offline_pages(32 * BLOCK, BLOCK)
    assert answers(wide, 16) == "online" and wide.blocks[16].valid_zones == "Normal"
    with pytest.raises(fo.HotplugError) as error:
        wide.blocks[16].offline()
    assert error.value.errno == errno.EINVAL
    wide.offline_pages(33 * BLOCK, BLOCK)
    assert answers(wide, 16) == "offline"
    wide.remove_memory(32 * BLOCK, 2 * BLOCK)
    assert 16 not in wide.blocks
    wide.add_memory(32 * BLOCK, 2 * BLOCK)
    assert answers(wide, 16) == "offline"


def test_a_part_of_a_block_is_not_removed(wide):
    """The first section is offline, the second online. Expect EINVAL for half of the block and EBUSY for all of it."""
    wide.online_pages(33 * BLOCK, BLOCK)
    for nr, code in ((BLOCK, errno.EINVAL), (2 * BLOCK, errno.EBUSY)):
        with pytest.raises(fo.HotplugError) as error:
            wide.remove_memory(32 * BLOCK, nr)
        assert error.value.errno == code
    wide.validate()


def test_a_callback_that_keeps_all_pages_back(wide):
    """online_pages has been over the block. Expect it online; over one section, too; and offline where the callback raises."""
    with wide.set_online_page_callback(lambda pfn, order: None):
        assert wide.blocks[16].online() == 0 and answers(wide, 16) == "online"
        wide.online_pages(35 * BLOCK, BLOCK)
        assert wide.blocks[17].state == "online"
    wide.offline_pages(35 * BLOCK, BLOCK)

    def fails(pfn, order):
        wide.generic_online_page(pfn, order)
        raise RuntimeError

    with wide.set_online_page_callback(fails), pytest.raises(RuntimeError):
        wide.blocks[17].online()
    assert wide.blocks[17].state == "offline"
    wide.validate()


@pytest.mark.parametrize("how", ["copy", "pickle", "save"])
def test_the_state_goes_along_with_a_copy(wide, how):
    wide.prepare_online_pages(33 * BLOCK, BLOCK)
    wide.mark_pages_onlined(33 * BLOCK + 5)
    again = through(how, wide)
    assert {nr: block.state for nr, block in again.blocks.items()} == {nr: block.state for nr, block in wide.blocks.items()}
    again.offline_pages(33 * BLOCK, BLOCK)
    assert again.blocks[16].state == "offline" and wide.blocks[16].state == "online"


@pytest.mark.parametrize(("blocks", "message"), [
    ([0, 1, 2, 3], "memory16 is offline, a section of it is online"),
    ([0, 1, 2, 3, 16, 17], "memory17 is online, no section of it is"),
    ([0, 1, 2, 3, 16, 1 << 40], "a memory block"),
])
def test_a_state_that_its_sections_do_not_have(wide, blocks, message):
    """A saved machine whose block states were altered. Expect validate's message, or that there is no such block."""
    wide.blocks[16].online()
    restore, (state,) = wide.__reduce__()
    assert state["blocks_online"].tolist() == [0, 1, 2, 3, 16]
    with pytest.raises((ValueError, OverflowError), match=message):
        restore(state | {"blocks_online": np.array(blocks, np.int64)})


def test_blocks_with_sections_that_are_not_there(engine):
    """Boot memory of 384 MiB in blocks of 256 MiB, and memory that begins in the middle of a block. Expect a block where a
    section is (add_boot_memory_block), and no offlining of such a block: some of it is not there."""
    mem = fo.Memory(fo.X86_64, boot=[(0, 3 * BLOCK), (5 * BLOCK, BLOCK)], engine=engine, memory_block_size="256M")
    assert list(mem.blocks) == [0, 1, 2] and all(nr in mem.blocks for nr in (0, 1, 2))
    assert [mem.blocks[nr].node for nr in mem.blocks] == [0] * 3
    assert [answers(mem, nr) for nr in mem.blocks] == ["online"] * 3 and mem.blocks[2].valid_zones == "DMA32"
    for nr in (1, 2):
        with pytest.raises(fo.HotplugError) as error:
            mem.blocks[nr].offline()
        assert error.value.errno == errno.EINVAL


def test_blocks_unaware_of_marks_with_several_sections(engine):
    """Each section by itself. Expect the block offline, as online_pages has never been over all of it, EBUSY for online(), and
    online after one call for the whole."""
    mem = fo.Memory(fo.X86_64, boot="1G", engine=engine, memory_block_size="256M",
                    rules=replace(fo.LINUX_6_12, blocks_unaware=True))
    mem.add_memory(32 * BLOCK, 2 * BLOCK)
    for section in (32, 33):
        mem.online_pages(section * BLOCK, BLOCK)
        assert answers(mem, 16) == "offline"
    with pytest.raises(fo.HotplugError) as error:
        mem.blocks[16].online()
    assert error.value.errno == errno.EBUSY
    mem.offline_pages(32 * BLOCK, 2 * BLOCK)
    assert mem.blocks[16].online() == 2 * BLOCK and answers(mem, 16) == "online"
    mem.validate()


class Liar:
    """An int to __index__, another to int()."""

    def __index__(self):
        return 0

    def __int__(self):
        return 99


@pytest.mark.parametrize("call, error", [
    (lambda mem: mem.blocks[0].write_state(None), TypeError),
    (lambda mem: mem.blocks[0].write_state(b""), TypeError),
    (lambda mem: mem.blocks[0].write_online(None), TypeError),
    (lambda mem: mem.blocks[0].write_online(0), TypeError),
    (lambda mem: mem.blocks.add(1e300, 1), TypeError),
    (lambda mem: mem.blocks.add(float("nan"), 1), TypeError),
    (lambda mem: mem.blocks.add(0, None), TypeError),
    (lambda mem: mem.blocks.remove(None, 1), TypeError),
    (lambda mem: mem.blocks.remove(0, float("nan")), TypeError),
    (lambda mem: mem.blocks.remove(0, 1 << 200), fo.HotplugError),
    (lambda mem: mem.blocks.auto_online([0], -1), ValueError),
    (lambda mem: mem.blocks.auto_online([0], fo.MMOP_OFFLINE), ValueError),
    (lambda mem: mem.blocks.auto_online([0], 4), ValueError),
    (lambda mem: mem.blocks.auto_online([0], 1.0), TypeError),
    (lambda mem: mem.blocks.auto_online(None, 1), TypeError),
])
def test_arguments_that_are_none(engine, call, error):
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine)
    mem.add_memory("128M", "128M")
    before = snapshot(mem)
    with pytest.raises(error):
        call(mem)
    assert snapshot(mem) == before


def test_the_number_of_a_block_is_its_index(engine):
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine)
    assert Liar() in mem.blocks and mem.blocks[Liar()].nr == 0
