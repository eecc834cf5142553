"""tables: columns, bars and short sizes."""

import pytest

from fastonline.tables import bar, short, table


def test_columns_are_as_wide_as_their_widest_cell():
    assert table([("zone", "free"), ("DMA", "1"), ("Normal", "12345")], "<>") == [
        "zone     free", "DMA         1", "Normal  12345",
    ]


def test_lines_have_no_blanks_at_the_end():
    assert table([("a", ""), ("b", "long")], "<<") == ["a", "b  long"]


@pytest.mark.parametrize("parts, drawn", [
    ([("#", 1), (".", 1)], "#####....."),
    ([("#", 1), (".", 1000000)], "#........."),         # not nothing
    ([("#", 0), (".", 7)], ".........."),
    ([("#", 3), ("+", 0), (".", 0)], "##########"),
    ([("#", 0), (".", 0)], ""),
])
def test_bars(parts, drawn):
    assert bar(parts, 10) == drawn


@pytest.mark.parametrize("size, text", [
    (0, "0"), (512, "512"), (512 << 20, "512M"), (1 << 40, "1T"), (1023, "1023"), (8 << 30, "8G"),
    ((1 << 30) + 4096, "1.0G"), (1181116006, "1.1G"), (1536 << 20, "1536M"),
])
def test_sizes_in_at_most_seven_characters(size, text):
    assert short(size) == text and len(text) <= 7
