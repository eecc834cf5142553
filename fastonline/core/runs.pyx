import numpy as np

from fastonline.core.bitmap cimport find_next_bit, find_next_zero_bit
from fastonline.core.types cimport int64_t

__all__ = ["equal_runs", "range_list", "run_starts", "runs"]


cdef list bit_runs(const word_t *words, uint64_t start, uint64_t end, bint value):
    cdef uint64_t first = start, after
    cdef list found = []
    while first < end:
        first = find_next_bit(words, end, first) if value else find_next_zero_bit(words, end, first)
        if first == end:
            break
        after = find_next_zero_bit(words, end, first) if value else find_next_bit(words, end, first)
        found.append((first, after - first))
        first = after
    return found


def runs(numbers):
    """Find the runs of consecutive integers in `numbers`.

    numbers: an integer array or an iterable of ints, in any order. Returns a list of (first, how many), ascending. A number
    that is there twice begins a run of its own.
    """
    # a loop in C: in NumPy the few pages of a batch would take ten times as long, and signal handlers might run
    cdef int64_t number, first = 0, nr = 0
    cdef list ascending = numbers.tolist() if isinstance(numbers, np.ndarray) else list(numbers), found = []
    ascending.sort()
    for number in ascending:
        if nr and number == first + nr:
            nr += 1
            continue
        if nr:
            found.append((first, nr))
        first, nr = number, 1
    if nr:
        found.append((first, nr))
    return found


def run_starts(values, apart=None):
    """Return where the runs of equal neighbours in the one-dimensional array `values` begin: an int64 array of indices.

    apart: for each two neighbours a bool, True where they are in different runs though they are equal.
    """
    differ = values[1:] != values[: len(values) - 1]
    if apart is not None:
        differ |= apart
    return np.concatenate((np.zeros(min(len(values), 1), np.int64), np.flatnonzero(differ) + 1))


def equal_runs(values):
    """Find the runs of equal neighbours in the one-dimensional array `values`.

    Returns a list of (index, how many), ascending, which covers the array.
    """
    edges = [*run_starts(values).tolist(), len(values)]
    return [(first, end - first) for first, end in zip(edges, edges[1:])]


def range_list(numbers):
    """Return integers as the kernel prints a set of them (bitmap_print_to_pagebuf): ``0-1,3``."""
    return ",".join([f"{first}" if nr == 1 else f"{first}-{first + nr - 1}" for first, nr in runs(numbers)])
