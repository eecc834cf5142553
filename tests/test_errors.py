"""errors.py: the kernel's errno, with the range in hex."""

import errno
import os
import pickle

import numpy as np
import pytest

import fastonline as fo
from fastonline.errors import HotplugError, as_int, expect, invalid_name, is_number, pfn_range


def test_hotplug_error_is_an_oserror_with_the_kernels_errno():
    error = HotplugError.of(errno.EBUSY, "offline_pages of [pfn 0x100-0x1ff]: page 0x17f is in use")
    assert isinstance(error, OSError)
    assert error.errno == errno.EBUSY
    assert str(error) == "EBUSY: offline_pages of [pfn 0x100-0x1ff]: page 0x17f is in use"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.errno, str(again)) == (HotplugError, error.errno, str(error))


@pytest.mark.parametrize("engine", ["bitmap", "struct_page"])
@pytest.mark.parametrize("call, args, said", [
    ("online_pages", (0x40000, 0x8000), "EINVAL: onlining of [pfn 0x40000-0x47fff]: "),
    ("prepare_online_pages", (0x40000, 0x8000), "EINVAL: onlining of [pfn 0x40000-0x47fff]: "),
    ("mark_pages_onlined", (0x40000, 1), "EINVAL: mark_pages_onlined of [pfn 0x40000-0x40000]: "),
    ("offline_pages", (0x40000, 0x8000), "EINVAL: offline_pages of [pfn 0x40000-0x47fff]: "),
    ("remove_memory", (0x40000, 0x8000), "EINVAL: remove_memory of [pfn 0x40000-0x47fff]: "),
    ("add_memory", (0, 0x8000), "EEXIST: add_memory of [pfn 0x0-0x7fff]: "),
])
def test_an_error_names_its_own_call_and_its_errno_once(engine, call, args, said):
    """online_pages is not signed by the phase inside it, and the text of strerror(3) does not follow the errno's name."""
    mem = fo.Memory("x86_64", boot="1G", engine=engine)
    with pytest.raises(HotplugError) as refused:
        getattr(mem, call)(*args)
    message = str(refused.value)
    assert message.startswith(said) and "\n" not in message
    assert message.count(errno.errorcode[refused.value.errno]) == 1 and os.strerror(refused.value.errno) not in message
    assert "prepare_online_pages" not in message


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


def test_expect():
    expect(True, int, "nr")
    with pytest.raises(TypeError, match="^the host must be a str, not 7$"):
        expect(7, str, "the host")


def test_as_int():
    assert [as_int(value, "nr") for value in (3, np.uint8(3), np.array(3))] == [3, 3, 3]
    for value in (None, True, 3.0, float("nan"), "3", b"3", [3], 3 + 0j):
        with pytest.raises(TypeError, match="nr must be an int"):
            as_int(value, "nr")
