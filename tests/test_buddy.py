"""core/buddy: the arithmetic of one bit a page, against blocks counted from a plain set of free pages."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL_64, SMALL_64K, SMALL_ORDER_7
from hypothesis import given, strategies as st

import fastonline as fo
from fastonline.cost.phases import words_searched

START = 0x2000      # a multiple of every block there is
GEOMETRIES = {
    6: SMALL_64, 7: SMALL_ORDER_7, 13: SMALL_64K,
    10: replace(fo.X86_64, name="SMALL_10", section_size_bits=25, max_physmem_bits=30),
}
PAGES = {6: 256, 7: 512, 10: 8192, 13: 8192}


def full_blocks(free, max_order, nr):
    """For each order, an array over the aligned blocks: are all pages of the block free?"""
    full = np.zeros(nr, bool)
    full[list(free)] = True
    by_order = [full]
    while len(by_order) <= max_order:
        full = full[0::2] & full[1::2]
        by_order.append(full)
    return by_order


def counts(free, max_order, nr):
    """How many blocks of each order have only free pages."""
    return [int(full.sum()) for full in full_blocks(free, max_order, nr)]


def blocks(free, max_order, nr):
    """Free blocks by order of a fully merged buddy allocator."""
    F = counts(free, max_order, nr)
    return tuple(F[k] - 2 * F[k + 1] for k in range(max_order)) + (F[max_order],)


def prepared(max_order, engine="bitmap"):
    """A machine with PAGES pages prepared from START on, none of them online."""
    geometry = GEOMETRIES[max_order]
    start = START if max_order in (10, 13) else 0
    mem = fo.Memory(geometry, engine=engine)
    mem.add_memory(start, PAGES[max_order])
    mem.prepare_online_pages(start, PAGES[max_order])
    zone = next(zone for zone in mem.zones.values() if zone.spanned_pages)
    return mem, zone, start


@pytest.mark.parametrize("max_order", GEOMETRIES)
@given(data=st.data())
def test_single_pages_in_any_order(max_order, data):
    """Expect nr_free to be what the free pages imply after each page, and merges to be the growth of the full blocks."""
    mem, zone, start = prepared(max_order)
    nr = PAGES[max_order]
    around = data.draw(st.integers(0, nr - 128))
    order = data.draw(st.permutations(range(around, around + 128)))
    free = set(range(nr)) - set(order)
    for first, last in ((0, around), (around + 128, nr)):
        if last > first:
            mem.mark_pages_onlined(start + first, last - first)
    before = mem.stats()["merges"]
    F = counts(free, max_order, nr)
    for page in order:
        mem.mark_pages_onlined(start + page)
        free.add(page)
    assert zone.nr_free == blocks(free, max_order, nr)
    grown = np.subtract(counts(free, max_order, nr), F).tolist()
    assert [a - b for a, b in zip(mem.stats()["merges"], before, strict=True)] == grown[1:] + [0]


@pytest.mark.parametrize("max_order", GEOMETRIES)
@given(data=st.data())
def test_ranges_in_blocks_of_any_order(max_order, data):
    """Expect the same blocks whatever block is handed over at a time, and merges only above it."""
    mem, zone, start = prepared(max_order)
    nr, free = PAGES[max_order], set()
    for _ in range(4):
        first = data.draw(st.integers(0, nr - 1))
        count = data.draw(st.integers(1, min(nr - first, 700)))
        order = data.draw(st.integers(0, max_order))
        expected = len(set(range(first, first + count)) - free)
        assert mem.mark_pages_onlined(start + first, count, order) == expected
        free |= set(range(first, first + count))
        assert zone.nr_free == blocks(free, max_order, nr)
    mem.validate()


@pytest.mark.parametrize("max_order", GEOMETRIES)
@given(data=st.data())
def test_batches_dense_and_sparse(max_order, data):
    """Expect an array to leave what its pages one by one would, counts of merges included."""
    one_by_one, zone, start = prepared(max_order)
    batch = prepared(max_order)[0]
    nr = PAGES[max_order]
    seed, count = data.draw(st.integers(0, 1 << 32)), data.draw(st.sampled_from([1, 3, 40, nr // 2, nr]))
    pfns = np.random.default_rng(seed).permutation(nr)[:count] + start
    assert batch.mark_pfns_onlined(pfns) == count
    for pfn in pfns.tolist():
        one_by_one.mark_pages_onlined(pfn)
    assert batch.buddyinfo() == one_by_one.buddyinfo()
    assert batch.stats()["merges"] == one_by_one.stats()["merges"]
    assert zone.nr_free == blocks(set((pfns - start).tolist()), max_order, nr)


@pytest.mark.parametrize("max_order", GEOMETRIES)
@given(data=st.data())
def test_taking_a_range_out(max_order, data):
    """
        |----- free -----|== taken ==|----- free -----|
    Expect the blocks of the rest, and one split for each block that reaches over an end, order by order.
    """
    mem, zone, start = prepared(max_order)
    nr = PAGES[max_order]
    mem.mark_pages_onlined(start, nr)
    first = data.draw(st.integers(0, nr - 1))
    count = data.draw(st.integers(1, min(nr - first, 700)))
    mem.alloc_contig_range(start + first, count)
    assert zone.nr_free == blocks(set(range(nr)) - set(range(first, first + count)), max_order, nr)
    reach_over = [0] + [
        len({end >> k for end in (first, first + count) if end & ((1 << k) - 1)}) for k in range(1, max_order + 1)
    ]
    assert mem.stats()["splits"] == reach_over
    mem.validate()


@pytest.mark.parametrize("max_order", GEOMETRIES)
@given(data=st.data())
def test_reserving_pages_in_any_order(max_order, engine, data):
    """Pages that are free, in use (alone, or part of a large allocation) and offline become Reserved as an array, and run by
    run. Expect the same pages, blocks and splits."""
    batch, zone, start = prepared(max_order, engine)
    nr = PAGES[max_order]
    batch.mark_pages_onlined(start, nr - 3)
    for order in data.draw(st.lists(st.integers(0, max_order - 1), max_size=6)):
        if zone.free_pages > nr // 2:
            batch.alloc_pages(order)
    offline = batch.alloc_pages_bulk(20)
    batch.set_pfns_offline(offline)
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    pfns = rng.permutation(nr)[: data.draw(st.sampled_from([1, 5, 100, nr]))] + start
    pfns[: len(pfns) // 2].sort()
    runs = batch.copy()
    reserved = batch.set_pfns_reserved(pfns)
    ends = np.flatnonzero(np.diff(pfns) != 1) + 1
    assert reserved == sum(runs.set_page_reserved(int(run[0]), len(run)) for run in np.split(pfns, ends))
    assert np.array_equal(batch.page_states(start, nr), runs.page_states(start, nr))
    assert batch.stats()["splits"] == runs.stats()["splits"]
    assert batch.buddyinfo() == runs.buddyinfo()
    assert batch.totalram_pages == runs.totalram_pages
    batch.validate()


@pytest.mark.parametrize("max_order", GEOMETRIES)
@given(data=st.data())
def test_bulk_is_many_single_allocations(max_order, data):
    """Expect alloc_pages_bulk to hand out the pages that so many alloc_pages would, in their order, with their splits."""
    mem, zone, start = prepared(max_order)
    pfns = np.random.default_rng(data.draw(st.integers(0, 1 << 32))).permutation(PAGES[max_order])[: 200] + start
    mem.mark_pfns_onlined(pfns)
    count = data.draw(st.integers(0, 200))
    single = mem.copy()
    assert mem.alloc_pages_bulk(count).tolist() == [single.alloc_pages() for _ in range(count)]
    assert mem.stats()["splits"] == single.stats()["splits"]
    assert mem.buddyinfo() == single.buddyinfo()
    mem.validate()


def lowest_block(free, order, max_order, nr):
    """First page of the lowest of the smallest free blocks that hold 2^order pages, or None."""
    by_order = full_blocks(free, max_order, nr)
    for k in range(order, max_order):
        halves = by_order[k].reshape(-1, 2)
        split = np.flatnonzero(halves & ~halves[:, ::-1])       # full, and its buddy is not
        if len(split):
            return int(split[0]) << k
    whole = np.flatnonzero(by_order[max_order])
    return int(whole[0]) << max_order if len(whole) else None


@pytest.mark.parametrize("max_order", GEOMETRIES)
@given(data=st.data())
def test_the_lowest_smallest_block_is_taken(max_order, data):
    """Free and allocate at random, in every way there is. Expect the lowest of the smallest blocks that fit, each time."""
    mem, zone, start = prepared(max_order)
    nr = PAGES[max_order]
    few = data.draw(st.integers(0, nr - 256)) & ~63
    used = set(range(few, few + 256))       # the rest of the pages stays free or waiting
    if few and data.draw(st.booleans()):
        mem.mark_pages_onlined(start, few)
    free = set(range(few)) if zone.free_pages else set()
    mem.mark_pages_onlined(start + few, 256)
    mem.alloc_contig_range(start + few, 256)
    held = {page: 0 for page in used}
    for _ in range(12):
        singles = sorted(page for page, order in held.items() if order == 0)
        how = data.draw(st.sampled_from(["free", "batch", "alloc", "bulk", "range"]))
        if how == "free" and held:
            page = data.draw(st.sampled_from(sorted(held)))
            order = held.pop(page)
            mem.free_pages(start + page, order)
            free |= set(range(page, page + (1 << order)))
        elif how == "batch" and singles:
            some = data.draw(st.sets(st.sampled_from(singles), min_size=1))
            mem.free_pfns([start + page for page in some])
            free |= some
            for page in some:
                del held[page]
        elif how in ("alloc", "bulk"):
            order = data.draw(st.integers(0, min(max_order, 5))) if how == "alloc" else 0
            for _ in range(data.draw(st.integers(1, 6))):
                page = lowest_block(free, order, max_order, nr)
                if page is None:
                    break
                got = mem.alloc_pages(order) if how == "alloc" else int(mem.alloc_pages_bulk(1)[0])
                assert got - start == page
                free -= set(range(page, page + (1 << order)))
                held[page] = order
        elif how == "range" and free:
            page = data.draw(st.sampled_from(sorted(free)))
            end = page
            while end in free and end < page + 100:
                end += 1
            mem.alloc_contig_range(start + page, end - page)
            free -= set(range(page, end))
            held |= dict.fromkeys(range(page, end), 0)
    mem.validate()
    assert zone.nr_free == blocks(free, max_order, nr)


def test_a_block_is_freed_beside_a_page_in_use():
    """
        |.|=============|=============|.............|   the trees do not show the page yet when the block is freed
        block of 10   page                       largest order: 13
    Expect all to merge when the page is freed.
    """
    mem, zone, start = prepared(13)
    mem.mark_pages_onlined(start, PAGES[13])
    block, page = mem.alloc_pages(10), mem.alloc_pages()
    assert (block, page) == (start, start + 1024)
    mem.free_pages(block, 10)
    mem.free_pages(page)
    mem.validate()
    assert mem.alloc_pages(13) == start


@pytest.mark.parametrize("nr_pages", [1 << 15, 1 << 18, 1 << 22])
def test_an_allocation_looks_at_a_fixed_number_of_words(nr_pages):
    """
        |.|====|..|====|....|===== in use =====|.|====|
         k+1    k+1     k+1                     k
    Free pages at the low end one by one, so that they merge past order k, while the only block of order k lies at the far
    end. Expect an allocation to look at a word of each level (one more for 64 times the pages) and at the words of one group.
    """
    levels = next(n for n in range(1, 9) if 64 ** n >= nr_pages >> 10)
    mem = fo.Memory(fo.X86_64, max_memory=nr_pages * 4096)
    mem.add_memory(0, nr_pages)
    mem.online_pages(0, nr_pages)
    zone = mem.zone_of(nr_pages - 1)
    for order in range(mem.geometry.max_page_order):
        mem.alloc_contig_range(0, nr_pages)
        far = nr_pages - (1 << order)
        mem.free_pfns(np.arange(far, nr_pages))
        for group in range(16):
            for page in range(2 << order):
                mem.free_pages((group << 10) + page)
            before = words_searched(mem)
            assert mem.alloc_pages(order, zone=zone) == far
            assert 0 < words_searched(mem) - before <= levels + 16
            mem.free_pages(far, order)
        mem.alloc_contig_range(far, 1 << order)
        for group in range(16):
            mem.alloc_contig_range(group << 10, 2 << order)
        mem.free_pfns(np.arange(nr_pages))
