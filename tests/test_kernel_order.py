"""The order in which the struct_page engine allocates is the kernel's: 2.6.25 LIFO (2.1-2.3), 6.1 FIFO for onlined blocks
(2.5, RECORDED 3). The bitmap engine takes the lowest address and says so."""

import pytest
from conftest import SMALL_64

import fastonline as fo

S, B = 256, 64      # pages of a section, and of a block of the largest order


def machine(rules, *sections, by_page=False, engine="struct_page"):
    mem = fo.Memory(SMALL_64, rules=rules, engine=engine)
    for section in sections:
        mem.add_memory(section * S, S)
        mem.prepare_online_pages(section * S, S)
        mem.mark_pages_onlined(section * S, S, order=0 if by_page else None)
    return mem


def blocks(mem):
    """The blocks of the largest order in the order in which they are handed out."""
    free = mem.zones["Normal"].nr_free[-1]
    return mem.alloc_pages_bulk(free, 6).tolist()


def test_2_6_25_takes_the_highest_block_first():
    """
        onlined:    0    64   128   192  ->  each finished block goes to the head
        head ->   192   128    64     0
    Expect descending blocks; inside a block expand() hands out its lowest page first, ascending.
    """
    assert blocks(machine(fo.LINUX_2_6_25, 0)) == [192, 128, 64, 0]
    mem = machine(fo.LINUX_2_6_25, 0)
    assert mem.alloc_pages_bulk(65).tolist() == [*range(192, 256), 128]


def test_in_6_1_onlined_blocks_go_to_the_tail():
    """RECORDED 3: after onlining 34, 32, 35, 33 pages come from 34 first, ascending, then 32, then 35. Expect FIFO."""
    mem = machine(fo.LINUX_6_1, 2, 0, 3, 1)
    order = [2, 0, 3, 1]
    assert blocks(mem) == [section * S + i * B for section in order for i in range(4)]
    mem = machine(fo.LINUX_6_1, 2, 0)
    assert mem.alloc_pages_bulk(S + 1).tolist() == [*range(2 * S, 3 * S), 0]


@pytest.mark.parametrize("rules, expected", [(fo.LINUX_6_1, [0, 64, 128, 192]), (fo.LINUX_2_6_25, [192, 128, 64, 0])],
                         ids=lambda value: getattr(value, "name", None))
def test_page_by_page_ends_in_the_same_order(rules, expected):
    assert blocks(machine(rules, 0, by_page=True)) == expected


def test_offlined_and_onlined_again_goes_to_the_end_of_the_queue():
    """RECORDED 3 (S3c)."""
    mem = machine(fo.LINUX_6_1, 0, 1, 2)
    mem.offline_pages(0, S)
    mem.online_pages(0, S)
    assert blocks(mem) == [*range(S, 3 * S, B), *range(0, S, B)]


def test_freed_at_run_time_is_used_again_first():
    """RECORDED 3: pages freed at run time are reused most-recent-first."""
    mem = machine(fo.LINUX_6_1, 0, 1)
    taken = mem.alloc_pages_bulk(4, 6).tolist()
    for pfn in (taken[0], taken[2]):
        mem.free_pages(pfn, 6)
    assert blocks(mem) == [taken[2], taken[0], *range(S, 2 * S, B)]


def test_expand_puts_upper_halves_at_the_head():
    """
        block of 64 -> wanted 8:   | 0-7 given | 8-15 | 16-31 | 32-63 |
    Expect the lowest part out, and the next ones from the smallest remains.
    """
    mem = machine(fo.LINUX_6_1, 0)
    assert mem.alloc_pages(3) == 0
    assert mem.zones["Normal"].nr_free == (0, 0, 0, 1, 1, 1, 3)
    assert [mem.alloc_pages(3) for _ in range(3)] == [8, 16, 24]


def test_buddy_merge_likely_sends_a_block_to_the_tail():
    """2.5: a freed block whose merged buddy is free goes to the tail, so that it may merge before it is taken again.

        64 pages in pairs:  | 0 1 | 2 3 | 4 5 | ...     0, 1, 6 in use; 2-3 free as a pair
    Expect page 0, whose pair's buddy 2-3 is free, behind page 6.
    """
    mem = machine(fo.LINUX_6_1, 0)
    mem.alloc_pages_bulk(256)
    for pfn in (2, 3, 6, 0):
        mem.free_pages(pfn)
    assert mem.alloc_pages_bulk(2).tolist() == [6, 0]
    mem = machine(fo.LINUX_2_6_25, 0)
    mem.alloc_pages_bulk(256)
    for pfn in (2, 3, 6, 0):
        mem.free_pages(pfn)
    assert mem.alloc_pages_bulk(2).tolist() == [0, 6]


def test_the_bitmap_engine_takes_the_lowest_address():
    mem = machine(fo.LINUX_6_1, 2, 0, engine="bitmap")
    assert mem.alloc_pages_bulk(3).tolist() == [0, 1, 2]
    assert blocks(mem)[:3] == [64, 128, 192]
