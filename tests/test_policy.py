"""hotplug/policy: which ranges the auto-movable policy lets into ZONE_MOVABLE."""

import pytest

import fastonline as fo
from fastonline.hotplug.policy import auto_movable_can_online_movable

FIRST, BLOCK = 1 << 20, 1 << 15


@pytest.fixture
def mem(engine):
    """512 MiB of boot memory and 2 GiB that is added and offline; memory blocks of 128 MiB."""
    mem = fo.Memory(fo.X86_64, boot="512M", rules="6.12", engine=engine)
    for nr in range(16):
        mem.add_memory(FIRST + nr * BLOCK, BLOCK)
    return mem


def movable_blocks(mem):
    """How many blocks go into Movable, one after the other, until the policy refuses one."""
    for nr in range(16):
        if not auto_movable_can_online_movable(mem, FIRST + nr * BLOCK, BLOCK, 0, mem.auto_movable_ratio):
            return nr
        mem.online_pages(FIRST + nr * BLOCK, BLOCK, fo.MMOP_ONLINE_MOVABLE)
    return 16


@pytest.mark.parametrize("ratio, blocks", [(0, 0), (24, 0), (25, 1), (100, 4), (301, 12)])
def test_movable_stays_below_the_ratio_of_boot_memory(mem, ratio, blocks):
    mem.auto_movable_ratio = ratio
    assert movable_blocks(mem) == blocks
    mem.validate()


def test_hotplugged_kernel_memory_does_not_count(mem):
    """Kernel zones grow by eight blocks. Expect no more room in Movable than before."""
    mem.auto_movable_ratio = 100
    for nr in range(8, 16):
        mem.online_pages(FIRST + nr * BLOCK, BLOCK, fo.MMOP_ONLINE_KERNEL)
    assert movable_blocks(mem) == 4


def test_a_dimm_stays_in_one_kind_of_zone(engine):
    """A DIMM of two blocks, one of which is in a kernel zone. Expect the other one to be refused."""
    mem = fo.Memory(fo.X86_64, boot="512M", rules="6.12", engine=engine)
    mem.add_memory(FIRST, 2 * BLOCK)
    assert auto_movable_can_online_movable(mem, FIRST + BLOCK, BLOCK, 0, mem.auto_movable_ratio)
    mem.online_pages(FIRST, BLOCK, fo.MMOP_ONLINE_KERNEL)
    assert not auto_movable_can_online_movable(mem, FIRST + BLOCK, BLOCK, 0, mem.auto_movable_ratio)


def test_a_dimm_counts_as_a_whole(engine):
    """A DIMM of three blocks, and room for two. Expect the first one to be refused already."""
    mem = fo.Memory(fo.X86_64, boot="512M", rules="6.12", engine=engine)
    mem.auto_movable_ratio = 50
    mem.add_memory(FIRST, 3 * BLOCK)
    assert not auto_movable_can_online_movable(mem, FIRST, BLOCK, 0, mem.auto_movable_ratio)
    mem.auto_movable_ratio = 75
    assert auto_movable_can_online_movable(mem, FIRST, BLOCK, 0, mem.auto_movable_ratio)
