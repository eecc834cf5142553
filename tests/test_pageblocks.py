"""hotplug/pageblocks: which pages of the kernel's pageblocks are free."""

import numpy as np
import pytest

from fastonline.core.undo import Undo
from fastonline.hotplug.pageblocks import Pageblocks, count_free_blocks


@pytest.fixture
def blocks():
    """Two Unmovable pageblocks of 8 pages at 16, a Reclaimable one at 64."""
    found = Pageblocks()
    found.add(16, 16, 8, False)
    found.add(64, 8, 8, True)
    return found


def state(blocks):
    return blocks.free_pfns().tolist(), [blocks.is_reclaimable(pfn) for pfn in (16, 24, 64, 71, 72)]


def test_free_blocks_of_each_order(blocks):
    """Pages 0-1, 3 and 4-7 of eight. Expect one block of order 0, 1 and 2 each."""
    assert count_free_blocks(np.array([1, 1, 0, 1, 1, 1, 1, 1], bool), 3) == [1, 1, 1, 0]
    counts = [0] * 5
    blocks.free_blocks(counts)
    assert counts == [0, 0, 0, 3, 0] and blocks.nr_free() == 24


def test_blocks_are_taken_by_kind_lowest_first(blocks):
    with Undo() as undo:
        taken = [blocks.take(order, reclaimable, undo) for order, reclaimable in
                 ((0, False), (1, False), (3, False), (3, False), (2, True), (3, True))]
    assert taken == [16, 18, 24, None, 64, None]
    assert blocks.free_of(np.arange(14, 80)).tolist() == [17, 20, 21, 22, 23, 68, 69, 70, 71]
    assert 16 in blocks and 31 in blocks and 15 not in blocks and 32 not in blocks and 72 not in blocks


def test_what_is_given_back(blocks):
    with Undo() as undo:
        blocks.take(3, False, undo)
        blocks.take_page(70, undo)
        assert blocks.remove_free(0, 100) == [(24, 8)]
        assert blocks.give(np.array([3, 16, 70, 90]), undo).tolist() == [False, True, True, False]
    assert blocks.free_pfns().tolist() == [16, *range(64, 72)]
    assert blocks.remove_free(0, 64) == [] and blocks.remove_free(64, 8) == [(64, 8)] and not blocks.is_reclaimable(64)


def test_a_change_is_undone(blocks):
    before, copy = state(blocks), blocks.copy()
    with pytest.raises(ZeroDivisionError), Undo() as undo:
        copy.take(1, False, undo)
        copy.take_page(70, undo)
        copy.give(np.array([16]), undo)
        raise ZeroDivisionError
    assert state(blocks) == state(copy) == before


def test_a_full_pageblock_has_room_again(blocks):
    """A Reclaimable pageblock is full. Expect its pages to be had when one is given back, and when the change is undone."""
    copy = blocks.copy()
    with pytest.raises(ZeroDivisionError), Undo() as undo:
        assert [blocks.take(3, True, undo), blocks.take(0, True, undo), blocks.nr_free()] == [64, None, 16]
        blocks.give(np.array([70]), undo)
        assert [blocks.take(0, True, undo), blocks.take(0, True, undo), blocks.nr_free()] == [70, None, 16]
        raise ZeroDivisionError
    for whole in blocks, copy:
        with Undo() as undo:
            assert whole.nr_free() == 24 and whole.take(3, True, undo) == 64
            whole.give(np.arange(64, 72), undo)


def test_no_pageblocks():
    none = Pageblocks()
    assert none.nr_free() == 0 and none.free_pfns().tolist() == none.free_of(np.arange(9)).tolist() == []
    assert none.remove_free(0, 100) == [] and 3 not in none
