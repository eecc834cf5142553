"""Text input: numbered lines, and errors that name file and line."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator

from fastonline.files import open_regular

LONGEST_LINE = 1 << 16
"""Bytes. Longer lines are refused, so that a file without line ends does not fill memory."""

# What the kernel log, dmesg -T and -x, syslog and journalctl put before a line.
_PREFIX = re.compile(
    r"(?:<\d{1,3}>|kern *:[a-z]+ *: )?"
    r"(?:\d{4}-\d\d-\d\d[T ][\d:.,]+(?:Z|[+-]\d\d:?\d\d)? |[A-Z][a-z]{2} [ \d]\d [\d:.]+ |\[[ \d.]+\] (?=\S+ kernel: ))?"
    r"(?:(?:\S+ )?kernel: )?"
    r"(?:\[[ \d.]+\](?:\[ *[TC]\d+\])? ?|\[[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d [\d:.]+ \d{4}\] ?)?"
)
_PACKED = (b"\x1f\x8b", b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")

Numbered = Iterable[tuple[int, str]]


class TextError(ValueError):
    """A text cannot be used: ``NAME:LINE: reason``."""

    def __init__(self, name: object, nr: int, reason: str) -> None:
        super().__init__(f"{name}:{nr}: {reason}")


def numbered(text: str | Numbered) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) of a text, without CR and byte order mark. Numbered lines stay as they are."""
    if not isinstance(text, str):
        yield from text
        return
    for nr, line in enumerate(text.removeprefix("\ufeff").removesuffix("\n").split("\n"), 1):
        yield nr, line.rstrip("\r")


def stream(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) of the text file `path`. Raises TextError for a file that is not text, OSError as
    `open_regular`."""
    with open_regular(path) as file:
        nr = 0
        while raw := file.readline(LONGEST_LINE):
            nr += 1
            if nr == 1:
                if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise TextError(path, 1, "the text is UTF-16 (expected ASCII or UTF-8)")
                if raw.startswith(_PACKED):
                    raise TextError(path, 1, "the file is compressed: unpack it first")
                raw = raw.removeprefix(codecs.BOM_UTF8)
            if b"\0" in raw:
                raise TextError(path, nr, "the file is not text")
            if len(raw) == LONGEST_LINE:
                raise TextError(path, nr, f"the line is longer than {LONGEST_LINE} bytes")
            yield nr, raw.decode("utf-8", "replace").rstrip("\r\n")


def read(path: str | os.PathLike[str]) -> str:
    """Return the text of a small file, as `stream` reads it."""
    return "".join(line + "\n" for _, line in stream(path))


def without_prefix(line: str) -> str:
    """Return a line of the kernel log without priority, time stamp and host name."""
    match = _PREFIX.match(line)
    return line[match.end():] if match else line


def shown(line: str) -> str:
    """Return a line as messages quote it, at most 60 characters."""
    return repr(line if len(line) <= 60 else line[:57] + "...")
