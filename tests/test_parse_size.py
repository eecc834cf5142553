"""Sizes as users write them."""

import pytest

from fastonline import parse_size

CASES = [
    ("512M", 512 << 20, "a suffix"),
    ("1.5G", 3 << 29, "a fraction"),
    ("0.5K", 512, "a fraction of the smallest suffix"),
    ("0.0009765625M", 1 << 10, "exactly, without floats"),
    ("4096", 4096, "bytes"),
    (" 1gib ", 1 << 30, "blanks and the long form"),
    (123, 123, "an int"),
]


@pytest.mark.parametrize("text, size, why", CASES)
def test_sizes(text, size, why):
    assert parse_size(text) == size, why


@pytest.mark.parametrize("text", ["1.3K", "1.5", ".5G", "1.", "1e3", "-1G", "+1G", "", "G", "1..5G", "1,5G", "1.5X", "١G"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="size|whole number"):
        parse_size(text)
