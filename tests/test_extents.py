"""drivers/extents: extents of pages, slices in the place of indices, tables that grow."""

import numpy as np
import pytest

from fastonline.drivers.extents import (
    AT_ONCE,
    all_different,
    as_numbers,
    as_pfns,
    as_slice,
    lengthen,
    pages_of_extents,
    parts_of_extents,
)


@pytest.mark.parametrize("numbers, expected", [
    (5, [5]), ([], []), ([3, 1], [3, 1]), (np.array([7], np.uint16), [7]), (np.array(4), [4]), (range(2, 4), [2, 3]),
    ((-1, 2), [-1, 2]),
])
def test_numbers_are_an_int64_array(numbers, expected):
    array = as_numbers(numbers, "mfns")
    assert array.dtype == np.int64 and array.tolist() == expected


@pytest.mark.parametrize("numbers", [True, [False], 1.5, [0.5], "7", ["a"], None, [None], 1 << 70, [[1], [2, 3]]])
def test_what_is_not_a_number(numbers):
    with pytest.raises((TypeError, ValueError)):
        as_numbers(numbers, "mfns")


@pytest.mark.parametrize("pfns", [-1, [3, -1], 1 << 52, [0, 1 << 63], np.zeros((2, 2), int)])
def test_what_is_not_a_pfn(pfns):
    with pytest.raises((TypeError, ValueError)):
        as_pfns(pfns)
    assert as_pfns([0, (1 << 52) - 1]).size == 2


def test_pages_of_extents_in_their_order():
    assert pages_of_extents(np.array([8, 0]), 2).tolist() == [8, 9, 10, 11, 0, 1, 2, 3]
    heads = np.array([5, 3])
    assert pages_of_extents(heads, 0) is heads


@pytest.mark.parametrize("order", [0, 9, 16])
def test_parts_are_the_pages_of_all_extents(order):
    """More than are taken at a time. Expect the pages of the extents, and no part larger than AT_ONCE or one extent."""
    heads = np.arange(0, 5 * AT_ONCE, 1 << order)[::-1]
    parts = list(parts_of_extents(heads, order))
    assert np.array_equal(np.concatenate(parts), pages_of_extents(heads, order))
    assert max(part.size for part in parts) <= max(AT_ONCE, 1 << order) and len(parts) > 1


@pytest.mark.parametrize("numbers, different", [
    ([], True), ([7], True), ([3, 1, 2], True), ([1, 2, 3], True), ([3, 2, 1], True), ([3, 1, 3], False), ([2, 2], False),
    ([1, 2, 2, 3], False), ([3, 2, 2], False),
])
def test_all_different(numbers, different):
    assert all_different(np.array(numbers, np.int64)) == different


@pytest.mark.parametrize("numbers, sliced", [
    ([3, 4, 5], True), ([7], True), ([9], True), ([], False), ([8, 9, 10], False), ([10], False), ([-1, 0, 1], False),
    ([5, 4, 3], False), ([3, 3, 5], False), ([3, 5, 4, 6], False), ([3, 5], False), (4, False),
])
def test_successive_indices_make_a_slice(numbers, sliced):
    """Of a table of 10. Expect an array wherever a slice would read other elements."""
    at = as_slice(np.array(numbers, np.int64), 10)
    assert isinstance(at, slice) == sliced
    if sliced:
        assert np.arange(10)[at].tolist() == numbers
    else:
        assert at.tolist() == numbers


def test_a_table_grows_in_place_while_its_buffer_lasts():
    table = lengthen(np.array([1, 2, 3], np.int32), 5, 100)
    assert table.tolist() == [1, 2, 3, 0, 0] and table.base.size == 100
    longer = lengthen(table, 90, 100)
    longer[89] = 7
    assert longer.base is table.base and lengthen(longer, 200, 100)[85:91].tolist() == [0, 0, 0, 0, 7, 0]
