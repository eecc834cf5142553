"""hotplug/memory.pyx: the allocator's calls (2.2), whichever engine."""


import numpy as np
import pytest
from conftest import SMALL_64, SMALL_64K

import fastonline as fo

S = 256


def test_smallest_block_that_fits(online):
    """
        free:   one block of order 2 (4-7), the rest of order 6
    Expect order 2 and below from it while it lasts, higher orders from a large block.
    """
    online.alloc_contig_range(0, 64)
    online.free_pfns([4, 5, 6, 7])
    assert online.zones["Normal"].nr_free == (0, 0, 1, 0, 0, 0, 7)
    assert online.alloc_pages(3) >= 64
    assert online.alloc_pages(1) == 4
    assert online.alloc_pages(0) == 6
    assert online.stats()["allocations"] == [65, 1, 0, 1, 0, 0, 0]


def test_expand_counts(online):
    """One page from a block of order 6. Expect six splits, one a order, and one free block of each order below."""
    online.alloc_pages()
    assert online.stats()["splits"] == [0, 1, 1, 1, 1, 1, 1]
    assert online.zones["Normal"].nr_free == (1, 1, 1, 1, 1, 1, 7)
    online.validate()


@pytest.mark.parametrize("order", range(7))
def test_alloc_and_free_gives_it_all_back(online, order):
    before = online.zones["Normal"].nr_free
    pfns = online.alloc_pages_bulk(2 * S >> order, order)
    assert len(set(pfns.tolist())) == 2 * S >> order and not np.any(pfns & (1 << order) - 1)
    assert pfns.dtype == np.int64
    assert online.zones["Normal"].free_pages == 0 and online.zones["Normal"].managed_pages == 2 * S
    with pytest.raises(MemoryError):
        online.alloc_pages()
    online.validate()
    for pfn in np.random.default_rng(order).permutation(pfns):
        online.free_pages(pfn, order)
    assert online.zones["Normal"].nr_free == before
    assert online.stats()["merges"][order:] == [2 * S >> k + 1 for k in range(order, 6)] + [0]
    online.validate()


def test_bulk_is_the_same_calls_one_by_one(online):
    for order, nr in ((0, 300), (2, 17), (0, 0)):
        other = online.copy()
        assert online.alloc_pages_bulk(nr, order).tolist() == [other.alloc_pages(order) for _ in range(nr)]
        assert online.stats()["splits"] == other.stats()["splits"] and online.buddyinfo() == other.buddyinfo()


def test_bulk_is_all_or_nothing(online):
    before = online.buddyinfo(), online.stats()
    with pytest.raises(MemoryError, match="cannot allocate 513 blocks of order 0: 512 are free"):
        online.alloc_pages_bulk(513)
    assert (online.buddyinfo(), online.stats()) == before


def test_zonelist_goes_from_the_highest_down(make_machine):
    """Expect Normal first, then DMA32, then DMA; a zone that is named is the only one."""
    mem = make_machine(boot="4M")
    assert [mem.zone_of(int(p)).name for p in mem.alloc_pages_bulk(1024, 0)[[0, 767, 768, 959, 960, 1023]]] == [
        "Normal", "Normal", "DMA32", "DMA32", "DMA", "DMA"]
    with pytest.raises(MemoryError, match="DMA32"):
        mem.alloc_pages(0, "DMA32")
    with pytest.raises(MemoryError):
        mem.alloc_pages(0, mem.zones["Movable"])


def test_blocks_never_merge_over_zones(make_machine):
    """
        DMA | 0 ... 63 |  DMA32 | 64 ... 255 |     boot, blocks of order 6
    Expect a zone's border to keep its blocks apart even where both are free and aligned (2.1: same page_zone_id).
    """
    mem = make_machine(boot="1M")
    assert [mem.zones[name].nr_free[6] for name in ("DMA", "DMA32")] == [1, 3]
    pfns = mem.alloc_pages_bulk(256)
    mem.free_pfns(np.random.default_rng(0).permutation(pfns))
    assert [mem.zones[name].nr_free[6] for name in ("DMA", "DMA32")] == [1, 3]


def test_order_13(engine):
    """64 KiB pages: one section is one block of 8192 pages. Expect 8191 merges one way and 13 splits the other."""
    mem = fo.Memory(SMALL_64K, engine=engine)
    mem.add_memory(0, 16384)
    mem.prepare_online_pages(0, 16384)
    assert mem.mark_pfns_onlined(np.random.default_rng(1).permutation(16384)) == 16384
    assert mem.zones["Normal"].nr_free == (0,) * 13 + (2,)
    assert sum(mem.stats()["merges"]) == 2 * 8191
    assert mem.alloc_pages(0) % 8192 == 0
    assert mem.zones["Normal"].nr_free == (1,) * 14
    assert mem.alloc_pages(13) % 8192 == 0
    mem.validate()


def test_host_pages_are_not_managed(online):
    """RECORDED 9: inflating and deflating changes managed and totals page for page, present and spans never."""
    zone = online.zones["Normal"]
    pfns = online.alloc_pages_bulk(100).tolist()
    for pfn in pfns:
        online.set_page_offline(pfn)
    assert (zone.present_pages, zone.managed_pages, zone.free_pages, online.totalram_pages) == (512, 412, 412, 412)
    for pfn in pfns:
        online.clear_page_offline(pfn)
        online.free_pages(pfn)
    assert (zone.managed_pages, zone.nr_free[6]) == (512, 8)
    online.validate()


def test_contiguous_range(online):
    online.alloc_contig_range(10, 100)
    assert online.stats()["allocations"][0] == 100
    assert online.zones["Normal"].nr_free == (0, 2, 0, 1, 1, 0, 6)
    online.free_pfns(range(10, 110))
    assert online.zones["Normal"].nr_free[6] == 8
    with pytest.raises(fo.HotplugError, match="0x1ff"):
        online.alloc_pages_bulk(512), online.free_pfns(range(511)), online.alloc_contig_range(0, 512)
    assert SMALL_64.max_page_order == 6


@pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_1, fo.LINUX_6_12], ids=lambda rules: rules.name)
def test_gfp(engine, rules):
    """Pages are taken by what they are for. Expect Movable memory for GFP_HIGHUSER_MOVABLE alone, the kernel zones down to min
    and what they keep, a quarter of the watermark below it for GFP_ATOMIC, and ValueError for unknown flags."""
    mem = fo.Memory(fo.X86_64, "512M", rules=rules, engine=engine)
    if rules is not fo.LINUX_2_6_25:
        mem.add_memory(0x100000, 32768)
        mem.blocks[32].online("online_movable")
        assert mem.zone_of(mem.alloc_pages(gfp="GFP_HIGHUSER_MOVABLE")).name == "Movable"
    assert mem.zone_of(mem.alloc_pages(gfp="GFP_DMA")).name == "DMA"
    assert mem.zone_of(mem.alloc_pages(3, gfp="GFP_KERNEL")).name == "DMA32"
    dma, dma32 = mem.zones["DMA"], mem.zones["DMA32"]
    while True:
        try:
            mem.alloc_pages(gfp="GFP_KERNEL")
        except MemoryError:
            break
    normal = mem.zones.names.index("Normal")
    for zone in (dma, dma32):
        assert zone.free_pages == zone.min + zone.protection[normal]
    taken = 0
    while True:
        try:
            mem.alloc_pages(gfp="GFP_ATOMIC")
            taken += 1
        except MemoryError:
            break
    atomic = [zone.min // 2 + zone.min % 2 for zone in (dma, dma32)]
    assert taken == sum(zone.min - (half - half // 4) for zone, half in zip((dma, dma32), atomic, strict=True))
    with pytest.raises(ValueError, match="invalid gfp 'GFP_NONE'"):
        mem.alloc_pages(gfp="GFP_NONE")
    with pytest.raises(ValueError, match="exclude"):
        mem.alloc_pages(zone="DMA", gfp="GFP_KERNEL")


def test_watermarks_by_order(engine):
    """Until 4.3 a block of order 3 also needs half, a quarter and an eighth of the watermark in blocks beyond singles, pairs
    and fours. Expect it refused in 2.6.25 where single pages are all there is above the watermark, and given in 6.1."""
    for rules, given in ((fo.LINUX_2_6_25, False), (fo.LINUX_6_1, True)):
        mem = fo.Memory(fo.X86_64, "512M", rules=rules, engine=engine)
        pfns = mem.alloc_pages_bulk(mem.totalram_pages)
        mem.free_pfns(pfns[pfns % 2 == 0])
        mem.free_pages(int(pfns.min() + 1)) if pfns.min() % 2 == 0 else None
        for pfn in range(100001, 100008, 2):
            mem.free_pages(pfn)
        assert mem.zones["DMA32"].nr_free[3] == 1
        try:
            mem.alloc_pages(3, gfp="GFP_KERNEL")
            assert given
        except MemoryError:
            assert not given
