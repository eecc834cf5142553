"""Arrays of page frames: extents of 2^order pages, slices for successive pages, and tables that grow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastonline.core.ram import array_of
from fastonline.errors import is_number

MOST_ORDER = 20
"""The largest order of a block of pages: 4 GiB of pages of 4 KiB."""

AT_ONCE = 1 << 15
"""Pages that are touched or discarded at a time: few enough that their arrays stay in the cache."""

MOST_PFNS = 1 << 52
"""A pfn is below this: 64-bit addresses of pages of 4 KiB."""


def as_numbers(numbers: ArrayLike, what: str) -> NDArray[np.int64]:
    """Return `numbers`, one int or an array-like of one dimension, as an int64 array. what: their name, for messages.
    TypeError for anything but integers, ValueError for more dimensions."""
    array = array_of(numbers)
    if array.dtype != np.int64:
        if array.dtype.kind not in "iu" and array.size:
            raise TypeError(f"{what} must be integers, not {array.dtype}")
        array = array.astype(np.int64)
    if array.ndim > 1:
        raise ValueError(f"{what} must have one dimension, not {array.ndim}")
    return array.reshape(-1)


def as_pfns(numbers: ArrayLike) -> NDArray[np.int64]:
    """Return pages: `numbers` as as_numbers takes them. ValueError for one below 0 or from 2^52 on."""
    pfns = as_numbers(numbers, "pfns")
    if pfns.size and not int(pfns.view(np.uint64).max()) < MOST_PFNS:       # a negative number is a huge one here
        raise ValueError("pfns must be at least 0 and below 2^52")
    return pfns


def check_order(order: int) -> None:
    """ValueError unless blocks of 2^order pages can be: 0 to MOST_ORDER."""
    if not is_number(order) or not 0 <= order <= MOST_ORDER:
        raise ValueError(f"invalid order {order!r:.80} (expected 0 to {MOST_ORDER})")


def pages_of_extents(extents: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    """(nr << order,) int64: every page of the extents of 2^order pages that begin at `extents`, in their order."""
    if order == 0 or not extents.size:
        return extents
    check_order(order)
    return (extents[:, None] + np.arange(1 << order)).ravel()


def parts_of_extents(extents: NDArray[np.int64], order: int) -> Iterator[NDArray[np.int64]]:
    """Yield the pages of `extents` of an `order` as pages_of_extents, at most AT_ONCE or one extent at a time."""
    step = max(1, AT_ONCE >> order)
    for at in range(0, extents.size, step):
        yield pages_of_extents(extents[at : at + step], order)


def ascends(numbers: NDArray[np.int64]) -> bool:
    """Return whether each of `numbers` (an int array) is above the one before."""
    return all((numbers[at + 1 : at + 1 + AT_ONCE] > numbers[at : at + AT_ONCE][: numbers.size - 1 - at]).all()
               for at in range(0, numbers.size - 1, AT_ONCE))


def ascending_pfns(numbers: ArrayLike) -> NDArray[np.int64]:
    """Return different pages in ascending order: `numbers` and errors as as_pfns."""
    pfns = as_numbers(numbers, "pfns")
    if not ascends(pfns):
        pfns = np.unique(pfns)
    as_pfns(pfns[:: max(1, pfns.size - 1)])     # the first and the last
    return pfns


def all_different(numbers: NDArray[np.int64]) -> bool:
    """Return whether all `numbers` (an int array) are different."""
    if ascends(numbers):
        return True
    ordered = numbers.astype(np.int32 if numbers.min() >= 0 and numbers.max() < 1 << 31 else numbers.dtype)
    ordered.sort()
    return not np.any(ordered[1:] == ordered[:-1])


def lengthen(array: NDArray[Any], size: int, room: int) -> NDArray[Any]:
    """Return `array` padded with zeros to `size` elements, in the same buffer if that is large enough; else in a new one of at
    least `room` elements. A buffer takes memory only where it is written."""
    buffer = array.base
    if buffer is None or buffer.size < size:
        buffer = np.zeros(max(size, room), array.dtype)
        buffer[: array.size] = array
    return buffer[:size]


def as_slice(numbers: NDArray[np.int64], size: int) -> NDArray[np.int64] | slice:
    """Return a slice for `numbers` if they are successive indices below `size`, else `numbers`. NumPy is several times as fast
    with slices as with arrays of indices."""
    numbers = np.asarray(numbers)
    if numbers.size == 0 or numbers.ndim == 0:
        return numbers
    first, end = int(numbers[0]), int(numbers[-1]) + 1
    successive = 0 <= first < end <= size and end - first == numbers.size and ascends(numbers)
    return slice(first, end) if successive else numbers


def ascending_as_slice(numbers: NDArray[np.int64]) -> NDArray[np.int64] | slice:
    """As as_slice, for `numbers`, one or more, that are known to ascend, so that only the first and the last are looked at."""
    first, end = int(numbers[0]), int(numbers[-1]) + 1
    return slice(first, end) if end - first == numbers.size else numbers
