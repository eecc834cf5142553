"""core/numbers.pyx: what is a pfn or a count, and the error for what is not; through classes that take them."""

import numpy as np
import pytest

from fastonline.core.bitmap import Bitmap
from fastonline.core.sections import Sections
from fastonline.core.structpage import StructPageEngine


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


@pytest.mark.parametrize("kind", [int, np.int8, np.int64, np.uint16, np.uint64, Index])
def test_what_counts_as_a_number(kind):
    bits = Bitmap(kind(100))
    bits.set(kind(3), kind(4))
    assert len(bits) == 100 and bits.weight() == 4


@pytest.mark.parametrize("value, error, says", [
    (-1, ValueError, "cannot be negative: -1"), (-(1 << 80), ValueError, "cannot be negative"),
    (1 << 64, OverflowError, "does not fit into 64 bits: 0x10000000000000000"), (2.0, TypeError, "must be an int, not 2.0"),
    (True, TypeError, "must be an int, not True"), ("2", TypeError, "must be an int, not '2'"),
    (None, TypeError, "must be an int, not None"), (np.float32(1), TypeError, "must be an int"),
])
def test_what_is_no_number(value, error, says):
    with pytest.raises(error, match=says):
        Bitmap(value)


@pytest.mark.parametrize("max_order", [-1, 64, 1 << 40])
def test_numbers_between_two_limits(max_order):
    with pytest.raises(ValueError, match=f"{max_order}"):
        StructPageEngine(8192, max_order, 1, 64)


@pytest.mark.parametrize("first, nr", [(-1, 1), (0, 9), (8, 1), (1 << 63, 1 << 63), (0, -1)])
def test_ranges_within_an_end(first, nr):
    """The sum is taken before it can wrap."""
    sections = Sections(15, 8)
    assert sections.missing_runs(0, 8) == [(0, 8)] and sections.missing_runs(8, 0) == []
    with pytest.raises(ValueError, match="are not within 0 to 8"):
        sections.missing_runs(first, nr)
