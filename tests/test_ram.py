"""core/ram.pyx: how much memory may still be written, and what is refused before it is touched."""

import os
import resource

import pytest

import fastonline as fo
from fastonline.core.ram import available_bytes


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
