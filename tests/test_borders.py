"""Zones that begin or end inside a block of the largest order: free pages merge within the zone only."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import ENGINES

import fastonline as fo
from fastonline.core.bitmap_engine import BitmapEngine
from fastonline.core.structpage import StructPageEngine
from fastonline.geometry import X86_32_PAE, X86_64
from fastonline.hotplug.free_order import FreeOrder
from fastonline.hotplug.pcp import PerCpuPages
from fastonline.testing.geometries import SMALL_BORDERS, SMALL_BORDERS_PAE

HIGHMEM = 225278      # where HighMem began in the recorded 32-bit guest of 6.1
PAE = replace(X86_32_PAE, name="PAE", zone_limits=(("DMA", 16 << 20), ("Normal", HIGHMEM << 12), ("HighMem", None)))
RULES = [fo.LINUX_2_6_25, fo.LINUX_6_1, fo.LINUX_6_12]


def orders(zone):
    return {order: nr for order, nr in enumerate(zone.nr_free) if nr}


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: rules.name)
def test_highmem_of_a_32_bit_guest(engine, rules):
    """HighMem begins 2 pages before the end of a block of order 10. Expect Normal to end with 1022 pages in blocks of orders 9
    to 1, HighMem to begin with one of order 1, and the same again after all of it was in use."""
    mem = fo.Memory(PAE, boot="1G", rules=rules, engine=engine)
    assert PAE.zone_borders == (HIGHMEM,)
    normal, high = mem.zones["Normal"], mem.zones["HighMem"]
    assert (normal.start_pfn, normal.spanned_pages) == (4096, HIGHMEM - 4096)
    assert (high.start_pfn, high.spanned_pages, high.present_pages) == (HIGHMEM, 262144 - HIGHMEM, 262144 - HIGHMEM)
    fresh = orders(normal), orders(high)
    assert fresh == ({order: 1 for order in range(1, 10)} | {10: 215}, {1: 1, 10: 36})
    assert mem.zone_of(HIGHMEM - 1).name == "Normal" and mem.zone_of(HIGHMEM).name == "HighMem"
    mem.validate()
    pages = mem.alloc_pages_bulk(mem.totalram_pages)
    mem.validate()
    mem.free_pfns(np.random.default_rng(1).permutation(pages))
    mem.validate()
    assert (orders(normal), orders(high)) == fresh


def test_no_merge_across_the_border_and_merges_on_either_side(engine):
    """Pages on both sides of pfn 37 in use, then freed one by one. Expect 36 to stay alone, 37 to stay alone (its buddy is 36),
    and 38 to 39 to merge."""
    mem = fo.Memory(SMALL_BORDERS, boot="2M", engine=engine)
    dma, dma32 = mem.zones["DMA"], mem.zones["DMA32"]
    assert orders(dma) == {0: 1, 2: 1, 5: 1}                      # 0-31, 32-35, 36
    assert orders(dma32)[0] == 1                                  # 37; then 38-39, 40-47, 48-63 and 64-95, 96-99
    mem.alloc_contig_range(36, 4)
    before = orders(dma), orders(dma32)
    for pfn in (36, 37, 38, 39):
        mem.free_pages(pfn)
        mem.validate()
    assert orders(dma) == before[0] | {0: 1}
    assert orders(dma32) == {0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1}
    assert mem.stats()["merges"][0] == 1


def test_the_lowest_of_the_smallest_blocks_is_taken_wherever_it_lies():
    """On the bitmap engine. Expect pages of the block with the border where they fit best, others where those do."""
    mem = fo.Memory(SMALL_BORDERS, boot="2M", engine="bitmap")
    start, mem_normal = mem.zones["Normal"].start_pfn, mem.zones["Normal"]
    assert start == 100 and orders(mem_normal) == {2: 1, 3: 1, 4: 1, 7: 3}      # 100-103, 104-111, 112-127
    got = [mem.alloc_pages(order) for order in (4, 2, 3, 0)]
    assert got == [112, 100, 104, 128]
    mem.free_pages(got[3])
    mem.free_pages(got[1], 2)
    assert mem.alloc_pages(0) == 100
    mem.validate()


def test_a_range_over_the_border_is_taken_and_given_back(engine):
    mem = fo.Memory(SMALL_BORDERS_PAE, boot="1M", engine=engine, rules=fo.LINUX_2_6_25)
    assert mem.zones["HighMem"].start_pfn == 222
    mem.alloc_contig_range(200, 40)
    mem.validate()
    mem.free_pfns(np.arange(200, 240))
    mem.validate()
    mem.set_pfns_reserved(np.arange(210, 230))
    mem.validate()
    assert mem.mark_pages_onlined(210, 20) == 20
    mem.validate()
    assert orders(mem.zones["HighMem"]) == {1: 1, 5: 1}           # 222-223, 224-255


def test_blocks_over_the_border(engine):
    """Boot memory of two zones in one section. Expect valid_zones to say so, and no offlining."""
    mem = fo.Memory(SMALL_BORDERS_PAE, boot="1M", engine=engine, rules=fo.LINUX_6_1)
    assert mem.blocks[0].valid_zones == "none"
    with pytest.raises(fo.HotplugError, match="several zones"):
        mem.offline_pages(0, 256)
    assert "HighMem" in mem.pagetypeinfo() and "Normal" in mem.zoneinfo()
    mem.validate()


def test_memory_hot_added_over_a_border_is_of_one_zone(engine):
    """The border lies in memory that comes later, all of it in Normal. Expect no border there."""
    mem = fo.Memory(replace(SMALL_BORDERS, zone_limits=(("DMA", 64 << 12), ("DMA32", 1300 << 12), ("Normal", None))),
                    boot="2M", engine=engine)
    mem.add_memory(1024, 512)
    mem.online_pages(1024, 512, fo.MMOP_ONLINE_MOVABLE)
    assert mem.zones["Movable"].nr_free[7] == 4
    pages = mem.alloc_pages_bulk(mem.totalram_pages)
    mem.free_pfns(pages[::-1])
    assert mem.zones["Movable"].nr_free[7] == 4
    mem.validate()
    mem.offline_pages(1024, 512)
    mem.online_pages(1024, 512, fo.MMOP_ONLINE_KERNEL)
    assert mem.zones["Normal"].nr_free[7] == 4
    mem.validate()


@pytest.mark.parametrize("geometry", [SMALL_BORDERS, SMALL_BORDERS_PAE], ids=lambda geometry: geometry.name)
def test_saved_and_loaded(engine, geometry, tmp_path):
    mem = fo.Memory(geometry, boot="1M", engine=engine, rules=fo.LINUX_6_1)
    mem.alloc_pages_bulk(77)
    mem.save(tmp_path / "machine")
    again = fo.load(tmp_path / "machine")
    again.validate()
    assert again.buddyinfo() == mem.buddyinfo() and again.geometry == geometry
    restore, (state,) = mem.__reduce__()[:2]
    state["area_of"][0][5] = 2
    with pytest.raises(ValueError, match="two zones meet at pfn"):
        restore(state)


def test_the_order_of_the_free_lists(engine):
    """On the bitmap engine the order is reckoned from the pages. Expect each zone's own free blocks, smallest first."""
    mem = fo.Memory(SMALL_BORDERS, boot="2M", engine=engine)
    order = FreeOrder(mem)
    if engine == "bitmap":
        assert [list(zip(*map(np.ndarray.tolist, order.find(mem.zones[name])), strict=True)) for name in ("DMA", "DMA32")] == [
            [(0, 36), (2, 32), (5, 0)], [(0, 37), (1, 38), (2, 96), (3, 40), (4, 48), (5, 64)]]
    mem.pcp = PerCpuPages(mem)
    owner = fo.MovablePages(mem)
    owner.alloc(400)
    mem.validate()
    owner.free()
    mem.validate()


@pytest.mark.parametrize("make", [BitmapEngine, StructPageEngine])
def test_borders_that_cannot_be(make):
    for borders in ((1024,), (0,), (1, 2, 3, 4, 5)):
        with pytest.raises(ValueError, match="border at pfn"):
            make(8192, 10, 3, borders=borders)


def test_a_zone_ends_between_pages():
    with pytest.raises(ValueError, match="inside a page"):
        replace(X86_64, zone_limits=(("DMA", (16 << 20) + 1), ("Normal", None)))
    assert ENGINES and X86_64.zone_borders == ()
