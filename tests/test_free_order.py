"""hotplug/free_order: the bitmap engine's free blocks in the order of a kernel's free lists; the struct_page engine has such
lists, and is what this is compared with."""

import random

import pytest

import fastonline as fo
from fastonline.core.undo import Undo
from fastonline.hotplug.free_order import FreeOrder
from fastonline.hotplug.migrate import MovablePages
from fastonline.hotplug.pcp import PerCpuPages
from fastonline.hotplug.zonelists import movable_zonelist

BLOCK = 0x8000


def guests(blocks):
    """A machine of 512 MiB on each engine, with per-CPU lists and these memory blocks in Movable, onlined in this order."""
    both = []
    for engine in ("bitmap", "struct_page"):
        mem = fo.Memory(fo.X86_64, boot="512M", rules=fo.LINUX_6_1, engine=engine)
        mem.pcp = PerCpuPages(mem)
        mem.add_memory(32 * BLOCK, 8 * BLOCK)
        for nr in blocks:
            mem.blocks[nr].online("online_movable")
        both.append(mem)
    return both


def test_blocks_are_used_in_the_order_in_which_they_went_online():
    """KERNEL.md 7.3 (S14): after 34, 32, 35, 33 pages come from block 34 first, ascending, then from 32; freed ones are reused
    first; a block offlined and onlined again comes last (S3c)."""
    for mem in guests([34, 32, 35, 33]):
        got = mem.page_lists.alloc(BLOCK + 100, movable_zonelist(mem, 0))
        assert got[:3].tolist() == [34 * BLOCK, 34 * BLOCK + 1, 34 * BLOCK + 2] and got[-1] // BLOCK == 32
        mem.page_lists.free(got)
        mem.blocks[34].offline()
        mem.blocks[34].online("online_movable")
        order = mem.page_lists.alloc(4 * BLOCK - 2000, movable_zonelist(mem, 0)) // BLOCK
        assert order[[1024, BLOCK + 1024, -1]].tolist() == [32, 35, 34]


def test_blocks_that_no_uevent_has_told_of():
    """Memory goes online by Memory.online_pages, in a zone that had no free block left. Expect its blocks to be found."""
    for mem in guests([]):
        mem.pcp.alloc_kernel(9)
        mem.alloc_pages_bulk(mem.zones["DMA32"].free_pages >> 10, 10, "DMA32")
        mem.online_pages(32 * BLOCK, 2 * BLOCK)
        assert mem.zone_of(mem.pcp.alloc_kernel(9)).name == "Normal"
        mem.online_pages(34 * BLOCK, BLOCK, fo.MMOP_ONLINE_MOVABLE)
        assert len(mem.page_lists.alloc(BLOCK, movable_zonelist(mem, 0))) == BLOCK
        mem.validate()


@pytest.mark.parametrize("seed", range(3))
def test_small_takes_are_one_large_take(seed):
    """Take all free pages of a zone whose blocks are of many sizes at once, and in small portions, with pages freed between.
    Expect the same pages in the same order, and none to be left."""
    rng = random.Random(seed)
    mem = fo.Memory(fo.X86_64, boot="16M")
    zone = mem.zone_of(0x800)
    held = mem.alloc_pages_bulk(zone.free_pages, 0, zone)
    mem.free_pfns(rng.sample(held.tolist(), 1500))
    orders = FreeOrder(mem), FreeOrder(other := mem.copy())
    for order in orders:
        order.freed(held[::-1], Undo())
    for _ in range(4):
        nr = rng.randrange(1, 300)
        small = [int(pfn) for _ in range(nr) for pfn in orders[0].take(zone, 1, mem.alloc_contig_range)]
        assert small == orders[1].take(other.zone_of(0x800), nr, other.alloc_contig_range).tolist()
        mem.free_pfns(small[::3])
        other.free_pfns(small[::3])
    small = []
    while len(some := orders[0].take(zone, 7, mem.alloc_contig_range)):
        small += some.tolist()
    assert small == orders[1].take(other.zone_of(0x800), 1 << 20, other.alloc_contig_range).tolist()
    assert zone.free_pages == 0
    mem.validate()


@pytest.mark.parametrize("seed", range(4))
def test_pages_come_from_where_lists_have_them(seed):
    """Regions of many sizes come and go. Expect nine tenths of their pages to be found where the lists have them: parts of
    blocks of one order and one stamp may come in another order."""
    rng = random.Random(seed)
    mems = guests(rng.sample(range(32, 40), 5))
    regions, same, total = {}, 0, 0
    for step in range(25):
        if regions and rng.random() < 0.4:
            for region in regions.pop(rng.choice(list(regions))):
                region.free()
        else:
            regions[step] = [MovablePages(mem) for mem in mems]
            nr = rng.randrange(1, 20000)
            for region in regions[step]:
                region.alloc(nr)
            ours, theirs = regions[step]
            same += len(set(ours.pfns.tolist()) & set(theirs.pfns.tolist()))
            total += nr
        assert list(mems[0].zones["Movable"].nr_free)[10] == pytest.approx(list(mems[1].zones["Movable"].nr_free)[10], abs=2)
    for mem in mems:
        mem.validate()
    assert mems[0].zones["Movable"].free_pages == mems[1].zones["Movable"].free_pages and same > 0.9 * total
