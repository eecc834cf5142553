"""core/ram.pyx: how much memory may still be written, and what is refused before it is touched."""

import os
import resource
import tracemalloc

import numpy as np
import pytest

import fastonline as fo
from fastonline.core.ram import array_of, available_bytes


def test_available_bytes_are_less_than_there_are():
    assert 0 < available_bytes() < 1 << 50
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo") as file:
            known = {line.split(":")[0]: int(line.split()[1]) << 10 for line in file}
        assert available_bytes() <= known["MemTotal"] + known["SwapTotal"]


def test_descriptors_that_do_not_fit_are_not_touched():
    """Memory whose descriptors take twice what is available. Expect MemoryError, nothing added, and no byte of them written."""
    mem = fo.Memory(fo.X86_64, boot="128M", engine="struct_page")
    pages = 2 * available_bytes() // 64 >> 15 << 15
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MemoryError):
        mem.add_memory(1 << 21, pages)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20      # KiB
    assert len(mem.resources) == 1
    mem.validate()


class Endless:
    """A sequence that is longer than any memory."""

    def __len__(self):
        return 1 << 40

    def __getitem__(self, i):
        raise AssertionError("an element is read")


@pytest.mark.parametrize(
    "values",
    [range(1 << 40), range(1 << 62), range(1 << 63, (1 << 63) + (1 << 40)), range(1 << 70), range(-(1 << 63), (1 << 63) - 1),
     Endless()],
    ids=lambda values: type(values).__name__,
)
def test_arrays_that_do_not_fit_are_not_made(values):
    mem = fo.Memory(fo.X86_64, boot="128M")
    for call in (array_of, mem.free_pfns, mem.check_pfns, fo.MovablePages(mem).free_at):
        with pytest.raises(MemoryError):
            call(values)
    mem.validate()


@pytest.mark.parametrize(
    "values",
    [range(5), range(5, -3, -2), range(0), range(-(1 << 63), 3 - (1 << 63)), range((1 << 63) - 2, (1 << 63) - 1),
     range(1 << 63, (1 << 63) + 2), range(1 << 70, (1 << 70) + 2), range(0, (1 << 62) + 1, 1 << 62), range(5, -3, -(1 << 70)),
     range(-(1 << 52), (1 << 52) + 1, 1 << 53), range(-(1 << 52), 1 << 52, (1 << 53) - 1),
     range(-(1 << 63), (1 << 63) - 1, (1 << 64) - 2),
     [1, 2], (True, False), 7, [], [[1], [2]], np.arange(3, dtype=np.uint32)],
    ids=repr,
)
def test_arrays_are_what_numpy_makes(values):
    made, expected = array_of(values), np.asarray(values)
    assert made.tolist() == expected.tolist()
    assert made.dtype == (np.int64 if isinstance(values, range) and not values else expected.dtype)
    assert array_of([1, 0], bool).tolist() == [True, False]


def test_a_range_makes_no_list():
    """A range of 2^20 elements. Expect 8 bytes for each, where a list of int takes 40."""
    tracemalloc.start()
    try:
        assert array_of(range(1 << 20)).nbytes == 8 << 20
        assert tracemalloc.get_traced_memory()[1] < 9 << 20
    finally:
        tracemalloc.stop()
