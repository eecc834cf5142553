"""hotplug/pcp_zone: how many pages the lists of a zone get and give at a time."""

from types import SimpleNamespace

import pytest

from fastonline.hotplug.pcp_zone import MOVABLE, RECLAIMABLE, SCALE_MAX, UNMOVABLE, ZoneLists

ZONE = SimpleNamespace(pcp_batch=8, pcp_high=32, pcp_high_max=512, stat_threshold=10, high=100)
HUGE = 9


@pytest.mark.parametrize("order, kind, indices", [
    (0, MOVABLE, (1, 1)), (3, RECLAIMABLE, (11, 11)), (4, UNMOVABLE, (None, None)), (HUGE, UNMOVABLE, (12, 12)),
    (HUGE, MOVABLE, (12, 13)),
])
def test_the_list_of_an_order(order, kind, indices):
    assert tuple(ZoneLists(HUGE, tunes).pindex(order, kind) for tunes in (False, True)) == indices
    assert all(ZoneLists(HUGE, False).order_of(index) == order for index in indices if index is not None)


def test_the_oldest_pages_leave_first():
    """Twelve pages are wanted of list 1, which has ten. Expect all of these, then a pair of the next list that has one."""
    lists = ZoneLists(HUGE, False)
    lists.lists[1], lists.lists[4], lists.lists[0] = list(range(10)), [20, 22], [30]
    assert lists.count() == 15
    assert list(lists.oldest(12, 1)) == [(0, list(range(10))), (1, [20])]
    assert list(lists.oldest(4, 1)) == [(1, [22]), (0, [30])] and lists.count() == 0


def test_batches_double_as_long_as_nothing_is_freed():
    lists = ZoneLists(HUGE, True)
    assert [lists.nr_alloc(ZONE) for _ in range(8)] == [8, 16, 32, 64, 128, 256, 256, 256]
    assert lists.alloc_factor == SCALE_MAX
    assert [ZoneLists(HUGE, False).nr_alloc(ZONE) for _ in range(3)] == [8, 8, 8]
    assert ZoneLists(HUGE, False).nr_alloc(ZONE, 2) == 2


def test_a_disabled_zone_gets_single_pages():
    lists = ZoneLists(HUGE, True)
    lists.disabled = True
    assert lists.nr_alloc(ZONE) == 1 and lists.high == 0


def test_too_many_pages_are_freed_in_growing_batches():
    lists = ZoneLists(HUGE, False)
    lists.lists[MOVABLE] = list(range(31))
    assert lists.nr_free(ZONE, MOVABLE, 1) == 0
    lists.lists[MOVABLE] = list(range(32))
    assert [lists.nr_free(ZONE, MOVABLE, 1) for _ in range(4)] == [8, 16, 24, 24]
    lists.allocated(1)
    assert lists.free_factor == 1


def test_the_counter_shows_small_changes_late():
    lists = ZoneLists(HUGE, True)
    lists.add_free(ZONE, -10)
    assert lists.diff == -10
    lists.add_free(ZONE, -1)
    assert lists.diff == 0


def test_a_copy_has_lists_of_its_own():
    lists = ZoneLists(HUGE, True)
    lists.lists[0], lists.boost = [1, 2], 7
    copy = lists.copy()
    copy.lists[0].append(3)
    copy.pageblocks.add(0, 8, 8, False)
    assert lists.lists[0] == [1, 2] and copy.boost == 7 and lists.pageblocks.nr_free() == 0
