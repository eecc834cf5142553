"""linux/states.py: what the flags of /proc/kpageflags say of pages."""

import numpy as np
import pytest

from fastonline.core.pageflags import decode_page_flags
from fastonline.linux.states import decode_kpageflags, states_of


@pytest.mark.parametrize("flags, state", [
    (1 << 10, "PG_buddy|PG_prepared"), (1 << 32, "PG_reserved|PG_prepared"), (1 << 5 | 1 << 3, "PG_prepared"),
    (0x800000, "PG_offline|PG_prepared"), (0x800010, "PG_reserved|PG_prepared"),
])
def test_states(flags, state):
    """Free, reserved, in use, with the host, and never plugged (RECORDED 1)."""
    start, end, states = states_of(*(np.array([value], np.uint64) for value in (0, 7, flags)))
    assert (start.tolist(), end.tolist(), decode_page_flags(int(states[0]))) == ([0], [7], state)


def test_pages_that_are_not_there():
    start, _, _ = states_of(np.array([0, 5], np.uint64), np.array([5, 5], np.uint64), np.array([1 << 20, 1 << 10], np.uint64))
    assert start.tolist() == [5]


@pytest.mark.parametrize("flags, text", [
    (0, "no flag"), (17213423656, "uptodate|lru|idle|mappedtodisk"), (1 << 7, "slab"), (1 << 32, "reserved"),
    (1 << 60, "bit 60"),
])
def test_names(flags, text):
    assert decode_kpageflags(flags) == text
