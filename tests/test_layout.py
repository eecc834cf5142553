"""hotplug/layout: free blocks of given orders, placed in a zone of which only their number is known."""

import numpy as np
import pytest

from fastonline.core.pageflags import FLAG_NAMES
from fastonline.hotplug.layout import lay_out

MAX_ORDER = 4
BUDDY, RESERVED = (1 << FLAG_NAMES.index(name) for name in ("PG_buddy", "PG_reserved"))


def pages(ranges, layout):
    """The state of every page below the end of the ranges; 0 where none is laid out. Runs may not overlap."""
    state = np.zeros(max(start + nr for start, nr in ranges), np.uint8)
    for start, nr, what in zip(*layout, strict=True):
        part = slice(int(start), int(start) + int(nr))
        assert not state[part].any()
        state[part] = what
    return state


def free_blocks(state):
    """Free blocks by order, as the allocator would have merged them."""
    free, found = state & BUDDY != 0, [0] * (MAX_ORDER + 1)
    for order in range(MAX_ORDER, -1, -1):
        for at in range(0, len(free) >> order << order, 1 << order):
            if free[at : at + (1 << order)].all():
                found[order] += 1
                free[at : at + (1 << order)] = False
    return found


@pytest.mark.parametrize("ranges", [[(0, 256)], [(16, 240)], [(3, 61), (128, 64)], [(0, 1)]], ids=str)
@pytest.mark.parametrize("seed", range(20))
def test_blocks_are_as_many_as_asked_for(ranges, seed):
    """Free blocks as they are left by pages taken at random. Expect as many of each order, and the numbers to add up."""
    rng = np.random.default_rng(seed)
    size = max(start + nr for start, nr in ranges)
    state = np.zeros(size, np.uint8)
    for start, nr in ranges:
        state[start : start + nr] = BUDDY
    state[rng.random(size) < rng.choice([0.0, 0.02, 0.3])] = 0
    wanted = free_blocks(state.copy())
    total, free = sum(nr for _, nr in ranges), sum(nr << order for order, nr in enumerate(wanted))
    managed = int(rng.integers(free, total + 1))
    made = pages(ranges, lay_out(ranges, managed, wanted, MAX_ORDER))
    assert free_blocks(made.copy()) == wanted
    inside = np.concatenate([made[start : start + nr] for start, nr in ranges])
    assert inside.all() and np.count_nonzero(made) == total
    assert np.count_nonzero(made & RESERVED) == total - managed


def test_largest_blocks_lie_in_the_middle():
    state = pages([(0, 160)], lay_out([(0, 160)], 160, [0, 0, 0, 0, 2], MAX_ORDER))
    assert np.flatnonzero(state & BUDDY).tolist() == list(range(64, 96))


def test_a_zone_without_memory_has_no_pages():
    assert [len(part) for part in lay_out([], 0, [0] * 5, MAX_ORDER)] == [0, 0, 0]


@pytest.mark.parametrize("ranges, managed, nr_free, why", [
    ([(0, 32)], 32, [0, 0, 0, 0, 3], "3 free blocks of order 4 do not fit"),
    ([(0, 16)], 16, [17, 0, 0, 0, 0], "do not fit"),
    ([(0, 32)], 15, [0, 0, 0, 0, 1], "15 managed pages"),
    ([(0, 32)], 33, [0, 0, 0, 0, 1], "33 managed pages"),
    ([], 1, [0] * 5, "without memory"),
])
def test_what_cannot_be_laid_out(ranges, managed, nr_free, why):
    with pytest.raises(ValueError, match=why):
        lay_out(ranges, managed, nr_free, MAX_ORDER)
