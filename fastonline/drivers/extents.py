"""Arrays of page frames: extents of 2^order pages, slices for successive pages, and tables that grow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

AT_ONCE = 1 << 15
"""Pages that are touched or discarded at a time: few enough that their arrays stay in the cache."""


def pages_of_extents(extents: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    """(nr << order,) int64: every page of the extents of 2^order pages that begin at `extents`, in their order."""
    if order == 0:
        return extents
    return (extents[:, None] + np.arange(1 << order)).ravel()


def parts_of_extents(extents: NDArray[np.int64], order: int) -> Iterator[NDArray[np.int64]]:
    """Yield the pages of `extents` of an `order` as pages_of_extents, at most AT_ONCE or one extent at a time."""
    step = max(1, AT_ONCE >> order)
    for at in range(0, extents.size, step):
        yield pages_of_extents(extents[at : at + step], order)


def all_different(numbers: NDArray[np.int64]) -> bool:
    """Return whether all `numbers` (an int array) are different."""
    ordered = np.sort(numbers)
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
    successive = 0 <= first < end <= size and end - first == numbers.size and bool((numbers[1:] - numbers[:-1] == 1).all())
    return slice(first, end) if successive else numbers
