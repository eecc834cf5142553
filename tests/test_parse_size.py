"""Sizes as people type them."""

import pytest

from fastonline import parse_size
from fastonline.geometry import pages_of_size

CASES = [
    ("512M", 512 << 20, "a suffix"),
    ("512 MB", 512 << 20, "a blank and the unit"),
    ("512MiB", 512 << 20, "the long form"),
    ("1653817K", 1653817 << 10, "a balloon's target"),
    ("1653817 kB", 1653817 << 10, "a line of /proc/meminfo"),
    ("0x20000000", 512 << 20, "hexadecimal, as in /sys/devices/system/memory"),
    ("0X20m", 32 << 20, "hexadecimal with a suffix, as memparse takes it"),
    ("0x1b", 27, "a hexadecimal digit, not a unit"),
    ("1.5G", 3 << 29, "a fraction"),
    ("1.1G", 1181116006, "a fraction that is rounded down"),
    ("0.5K", 512, "a fraction of the smallest suffix"),
    ("0.0009765625M", 1 << 10, "exactly, without floats"),
    ("4096", 4096, "bytes"),
    (" 1gib ", 1 << 30, "blanks around it"),
    (123, 123, "an int"),
]


@pytest.mark.parametrize("text, size, why", CASES)
def test_sizes(text, size, why):
    assert parse_size(text) == size, why


@pytest.mark.parametrize("text", [
    "1.5", ".5G", "1.", "1e3", "-1G", "+1G", "", "G", "1..5G", "1,5G", "1.5X", "١G", "0x", "0x1.5M", "1iB", "1 2", "9" * 65,
])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="invalid size"):
        parse_size(text)


def test_only_a_fraction_is_rounded_to_the_unit():
    assert parse_size("1.1G", 4096) == 1181114368 and parse_size("1.1G", 128 << 20) == 8 << 27
    assert parse_size("8K", 4096) == parse_size(8192, 4096) == 8192
    for size in ("5K", "4097", 4097):
        with pytest.raises(ValueError, match=r"\(expected a multiple of 4K\)"):
            parse_size(size, 4096)


def test_pages_of_a_size():
    assert pages_of_size("1M", 4096, "boot") == 256 and pages_of_size("1.1M", 4096, "boot") == 281
    with pytest.raises(ValueError, match="^boot: invalid size"):
        pages_of_size("5000", 4096, "boot")
    with pytest.raises(TypeError, match="^boot: invalid size"):
        pages_of_size(1.5, 4096, "boot")
