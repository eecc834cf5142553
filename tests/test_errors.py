"""errors.py: the kernel's errno, with the range in hex."""

import errno
import pickle

import numpy as np
import pytest

from fastonline.errors import HotplugError, invalid_name, is_number, pfn_range


def test_hotplug_error_is_an_oserror_with_the_kernels_errno():
    error = HotplugError.of(errno.EBUSY, "offline_pages of [pfn 0x100-0x1ff]: page 0x17f is in use")
    assert isinstance(error, OSError)
    assert error.errno == errno.EBUSY
    assert str(error) == "EBUSY: offline_pages of [pfn 0x100-0x1ff]: page 0x17f is in use"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.errno, str(again)) == (HotplugError, error.errno, str(error))


@pytest.mark.parametrize("start, nr, text", [(0, 1, "[pfn 0x0-0x0]"), (0x40000, 0x20000, "[pfn 0x40000-0x5ffff]")])
def test_pfn_range(start, nr, text):
    assert pfn_range(start, nr) == text


@pytest.mark.parametrize("value, expected", [
    (0, True), (np.int64(3), True), (True, False), (1.0, False), ("1", False), (None, False),
])
def test_is_number(value, expected):
    assert is_number(value) is expected


def test_an_invalid_name_gets_the_nearest_one():
    error = invalid_name("engine", "bitmpa", ("bitmap", "struct_page"))
    assert type(error) is ValueError
    assert str(error) == "invalid engine 'bitmpa' (expected bitmap, struct_page); did you mean 'bitmap'?"
    assert str(invalid_name("geometry", "arm64-4K", ["X86_64", "ARM64_4K"])).endswith("did you mean 'ARM64_4K'?")
    assert str(invalid_name("driver", 7, ["xen"])) == "invalid driver 7 (expected xen)"
