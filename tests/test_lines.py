"""lines: numbered lines of texts, and what makes a file no text."""

import gzip

import pytest

from fastonline.lines import LONGEST_LINE, TextError, numbered, read, shown, stream, without_prefix


def test_lines_are_numbered_from_1_without_their_ends():
    assert list(numbered("\ufeffa\r\nb\n")) == [(1, "a"), (2, "b")] and list(numbered("")) == [(1, "")]
    assert list(numbered([(7, "x")])) == [(7, "x")]


def test_a_file_is_read_like_a_text(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbffirst\r\nsecond")
    assert list(stream(path)) == [(1, "first"), (2, "second")] and read(path) == "first\nsecond\n"


@pytest.mark.parametrize("content, why", [
    (b"\xff\xfea\0", "1: the text is UTF-16"),
    (gzip.compress(b"text"), "1: the file is compressed"),
    (b"a\nb\0\n", "2: the file is not text"),
    (b"a\n" + b"x" * (LONGEST_LINE + 1), "2: the line is longer than 65536 bytes"),
], ids=["utf-16", "gzip", "nul", "long"])
def test_what_is_no_text(tmp_path, content, why):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(TextError, match=f"file:{why}"):
        read(tmp_path / "file")


@pytest.mark.parametrize("prefix", [
    "", "[    0.000000] ", "<6>[    0.000000] ", "[    1.234567][    T1] ", "Nov  6 10:00:00 host kernel: [   12.3] ",
    "2026-11-06T10:00:00.123456+00:00 host kernel: ", "[Fri Nov  6 10:00:00 2026] ", "kern  :warn  : [    1.5] ",
    "kern  :info  : [Fri Nov  6 10:00:00 2026] ", "[   12.345678] host kernel: ", "Nov  6 10:00:00 kernel: ", "kernel: ",
    "2026-11-06T10:00:00,123456+00:00 ",
])
def test_prefixes_of_log_lines(prefix):
    assert without_prefix(prefix + "Built 1 zonelists, mobility grouping on.") == "Built 1 zonelists, mobility grouping on."


def test_long_lines_are_quoted_in_part():
    assert shown("short") == "'short'" and shown("x" * 61) == repr("x" * 57 + "...")
