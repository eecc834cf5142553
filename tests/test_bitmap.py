"""core/bitmap: words of bits against a set of ints."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fastonline.core.bitmap import Bitmap, zeroed

N = 1000
RANGES = st.tuples(st.booleans(), st.integers(0, N), st.integers(0, N)).map(lambda t: (t[0], t[1], min(t[2], N - t[1])))


@given(st.lists(RANGES, max_size=30), RANGES)
def test_set_clear_and_weight(steps, asked):
    """Ranges begin and end anywhere in a word, are empty, or are whole words. Expect the ones of a plain set."""
    bitmap, ones = Bitmap(N), set()
    for value, start, nr in steps:
        (bitmap.set if value else bitmap.clear)(start, nr)
        (ones.update if value else ones.difference_update)(range(start, start + nr))
    _, start, nr = asked
    assert bitmap.weight(start, nr) == len(ones.intersection(range(start, start + nr)))
    assert bitmap.weight() == len(ones)
    assert np.flatnonzero(np.unpackbits(bitmap.view().view(np.uint8), bitorder="little")).tolist() == sorted(ones)
    assert [bitmap[i] for i in range(N)] == [i in ones for i in range(N)]


@pytest.mark.parametrize(
    "start, nr", [(0, 64), (0, 1), (63, 1), (63, 2), (64, 64), (1, 62), (5, 190), (0, 200), (199, 1), (7, 0)]
)
def test_edges_of_words(start, nr):
    bitmap = Bitmap(200)
    bitmap.set(start, nr)
    assert bitmap.weight() == nr and bitmap.weight(start, nr) == nr
    bitmap.clear(start, nr)
    assert bitmap.weight() == 0


@pytest.mark.parametrize("start, nr", [(0, 201), (200, 1), (-1, 1), (5, -1), (1 << 63, 1 << 63)])
def test_ranges_outside(start, nr):
    bitmap = Bitmap(200)
    for call in (bitmap.set, bitmap.clear, bitmap.weight):
        with pytest.raises((IndexError, OverflowError)):
            call(start, nr)
    with pytest.raises((IndexError, OverflowError)):
        bitmap[200]
    assert bitmap.weight() == 0 and len(bitmap) == 200


def test_view_is_read_only_and_no_copy():
    bitmap = Bitmap(128)
    view = bitmap.view()
    bitmap.set(70)
    assert view.tolist() == [0, 64]
    with pytest.raises(ValueError):
        view[0] = 1
    del bitmap
    assert view[1] == 64


def test_large_arrays_cost_what_is_touched():
    """2^34 bits are 2 GiB of address space. Expect them at once, and a write at the far end to work."""
    array = zeroed(1 << 28)
    array[-1] = 1
    assert array.shape == (1 << 28,) and array.dtype == np.uint64 and array[0] == 0
    assert zeroed((3, 5), np.uint8).tolist() == [[0] * 5] * 3
    with pytest.raises(MemoryError):
        zeroed(1 << 60)
