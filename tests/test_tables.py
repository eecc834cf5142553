"""tables: columns, bars and short sizes."""

import pytest

from fastonline.tables import bar, fitted, html_table, short, table, wrapped


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


ROWS = [("name", "a", "bb", "remark"), ("one", "1", "22", "none"), ("two", "111", "2", "")]


def test_columns_that_do_not_fit_go_into_further_tables():
    assert fitted(ROWS, "<>><") == ["name    a  bb  remark", "one     1  22  none", "two   111   2"]
    assert fitted(ROWS, "<>><", 21) == fitted(ROWS, "<>><")
    assert fitted(ROWS, "<>><", 20) == [
        "name    a  bb", "one     1  22", "two   111   2", "", "name  remark", "one   none", "two",
    ]
    assert all(len(line) <= 12 for line in fitted(ROWS, "<>><", 12))


def test_wrapped():
    assert wrapped("one two three") == ["one two three"]
    assert wrapped("one two three", 8) == ["one two", "  three"]


def test_html():
    assert html_table([("a", "b"), (1, "<2>")]) == (
        "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>&lt;2&gt;</td></tr></tbody></table>"
    )
