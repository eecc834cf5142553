"""Series of sizes over time from CSV files, with columns chosen by name."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from datetime import datetime
from math import isfinite

from fastonline.geometry import parse_size
from fastonline.lines import TextError, shown, stream

_TIMES = ("time", "timestamp", "t", "seconds", "secs", "sec", "s", "elapsed", "date", "datetime")
_SIZES = ("target", "size", "memory", "mem")
_UNITS = {
    "b": 1, "bytes": 1, "k": 1 << 10, "kb": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mb": 1 << 20, "mib": 1 << 20,
    "g": 1 << 30, "gb": 1 << 30, "gib": 1 << 30, "pages": 4096,
}
_EPOCH = 1e8      # s: such a time counts from 1970, not from the start


def read_targets(
    path: str | os.PathLike[str], size: str | None = None, time: str | None = None
) -> list[tuple[float, int]]:
    """Return [(seconds, bytes)] of the CSV file `path`, one target per line, times from 0 on.

    size, time: names of the columns; None: a column called target, size, memory or mem, or the only one there is, and one
    called time, timestamp or the like, or the first. Without a header the first column is the time and the second the size.
    Fields are separated by comma, semicolon or tab. Times are seconds (ms, us and ns by the column's name), H:M:S, or dates;
    sizes are bytes or text such as 512M, or in the unit that the column's name ends in (rss_kb, "total (MiB)"), rounded down to
    4 KiB, in which balloons count. Lines that begin with # and a last line that is cut are left out.

    ValueError naming the file and the line: unknown columns, times that descend, no sizes. OSError.
    """
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise TextError(path, 1, "the table is empty")
    nr, header = first
    if _numbers(header):
        names, pending = ["time", "size", *(f"column {i}" for i in range(3, len(header) + 1))], [first]
    else:
        names, pending = [name.strip().strip('"') for name in header], []
    at, of = _columns(path, nr, names, size, time)
    unit, scale = _unit(names[of]), _scale(names[at])
    found: list[tuple[float, int]] = []
    cut: TextError | None = None
    start = 0.0
    for nr, row in (*pending, *rows):
        if cut is not None:
            raise cut
        if len(row) < len(names):      # no error if no line follows
            cut = TextError(path, nr, f"{len(row)} fields, and {len(names)} columns")
            continue
        try:
            when, amount = _time(row[at]) * scale, _bytes(row[of], unit)
        except ValueError:
            raise TextError(
                path, nr, f"{shown(','.join(row))}: no time in column {names[at]!r}, or no size in column {names[of]!r}"
            ) from None
        if not found:
            start = when if when >= _EPOCH else 0.0
        when -= start
        if when < 0 or found and when < found[-1][0]:
            raise TextError(path, nr, f"time {row[at]!r} is below 0, or below the one before it")
        found.append((when, amount >> 12 << 12))
    if not found:
        raise cut or TextError(path, nr, "the table has no line with a size")
    return found


def _rows(path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of the lines that hold any."""
    delimiter = None
    for nr, line in stream(path):
        if not line.strip() or line.startswith("#"):
            continue
        if delimiter is None:
            delimiter = max(",;\t", key=line.count)
        try:
            yield nr, next(csv.reader([line], delimiter=delimiter))
        except csv.Error as e:
            raise TextError(path, nr, f"not a line of a table: {e}") from None


def _numbers(row):
    """Is this line data, not a header?"""
    try:
        return len(row) > 1 and [_time(row[0]), parse_size(row[1])] != []
    except ValueError:
        return False


def _columns(path, nr, names, size, time):
    """The indices of the columns for time and size."""
    plain = [_plain(name) for name in names]
    for wanted in (size, time):
        if wanted is not None and wanted not in names:
            raise TextError(path, nr, f"no column {wanted!r} (expected one of {', '.join(names)})")
    at = names.index(time) if time is not None else next((plain.index(name) for name in _TIMES if name in plain), 0)
    if size is not None:
        of = names.index(size)
    else:
        others = [i for i in range(len(names)) if i != at]
        known = [i for name in _SIZES for i in others if plain[i] == name]
        if len(others) != 1 and not known:
            columns = ", ".join(names[i] for i in others)
            reason = f"which column holds the sizes? name one of: {columns}" if columns else "there is no size"
            raise TextError(path, nr, reason)
        of = (known or others)[0]
    if at == of:
        raise TextError(path, nr, f"column {names[at]!r} cannot hold both times and sizes")
    return at, of


def _plain(name):
    """A column's name without its unit."""
    return re.split(r"[ _(\[]+(?:s|ms|us|ns|" + "|".join(_UNITS) + r")[)\]]?$", name.lower())[0].strip()


def _unit(name):
    """Bytes of a 1 in a column of sizes."""
    match = re.search(r"[ _(\[](" + "|".join(_UNITS) + r")[)\]]?$", name.lower())
    return _UNITS[match[1]] if match else 1


def _scale(name):
    """Seconds of a 1 in a column of times."""
    match = re.search(r"[ _(\[](ms|us|ns)[)\]]?$", name.lower())
    return {"ms": 1e-3, "us": 1e-6, "ns": 1e-9}[match[1]] if match else 1.0


def _time(text):
    """Seconds of a number, of H:M:S, or of a date."""
    text = text.strip()
    if match := re.fullmatch(r"(?:(\d{1,6}):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)", text):
        return int(match[1] or 0) * 3600 + int(match[2]) * 60 + float(match[3])
    try:
        seconds = float(text)
    except ValueError:
        seconds = datetime.fromisoformat(text).timestamp()
    if not isfinite(seconds):
        raise ValueError(f"{text!r} is not a time")
    return seconds


def _bytes(text, unit):
    """Bytes of a size; numbers are in `unit`."""
    text = text.strip()
    if re.fullmatch(r"\d{1,19}(?:\.\d+)?(?:[eE]\+?\d{1,2})?", text):
        return round(float(text) * unit) if "." in text or "e" in text.lower() else int(text) * unit
    return parse_size(text)
