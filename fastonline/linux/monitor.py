"""Logs of /proc/buddyinfo or /proc/zoneinfo, read again and again (mmtests' monitors); a single text is one, too."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from fastonline.lines import TextError, shown, stream
from fastonline.linux.proctext import ZONE_LINE, ZoneInfo, ZoneKey, parse_buddyinfo, parse_zoneinfo
from fastonline.linux.snapshot import Snapshot

_STAMP = re.compile(
    r"(?:time:? *)?"
    r"(\d{1,12}(?:\.\d+)?|\d{4}-\d\d-\d\d[T ][\d:.,+Z-]+.*|[A-Z][a-z]{2} [A-Z][a-z]{2} +\d+ .*|\d\d:\d\d:\d\d.*)", re.I
)


@dataclass
class Sample:
    """One text of the log. time: the stamp before it, "" where there is none. nr: its first line. zoneinfo: the text, if it is
    one of /proc/zoneinfo."""

    time: str
    nr: int
    zones: dict[ZoneKey, ZoneInfo] = field(default_factory=dict)
    free: dict[ZoneKey, tuple[int, ...]] = field(default_factory=dict)
    zoneinfo: str = ""


def is_monitor(lines: list[str]) -> bool:
    """Return whether these first lines of a file belong to such a log."""
    return any(re.match(r"Node +\d+, (zone|per-node)", line) for line in lines)


def read_samples(path: str | os.PathLike[str]) -> Iterator[Sample]:
    """Yield a Sample for each text of the log, one in memory at a time. What stands before the first text is passed over. A
    last text that is cut is left out where there is another before it. TextError, OSError."""
    pending: list[tuple[int, str]] = []
    seen: set[str] = set()
    time = stamp = ""
    widths = {True: 0, False: 0}      # zones of a zoneinfo, of a buddyinfo
    nr, count = 0, 0
    for nr, line in stream(path):
        bare = line.strip()
        match, zone = _STAMP.fullmatch(bare), ZONE_LINE.fullmatch(bare)
        key = f"{zone[1]} {zone[2]}" if zone else ""
        if pending and (match and not line.startswith(" ") or key in seen):
            sample = _parsed(pending, time, str(path))
            kind = bool(sample.zones)
            widths[kind] = max(widths[kind], len(sample.zones or sample.free))
            yield sample
            count += 1
            pending, seen = [], set()
        if match and not line.startswith(" "):
            stamp = match[1]
        elif bare and (count or pending or bare.startswith("Node ")):
            if not pending:
                time = stamp
            if zone:
                seen.add(key)
            elif not pending and not bare.startswith("Node "):
                raise TextError(path, nr, f"{shown(line)} is neither a zone nor a time")
            pending.append((nr, line))
    if not pending:
        if not count:
            raise TextError(path, max(nr, 1), "no zone found")
        return
    try:
        sample = _parsed(pending, time, str(path))
    except TextError:
        if not count:
            raise
    else:
        if len(sample.zones or sample.free) >= widths[bool(sample.zones)]:
            yield sample


def read_monitor(path: str | os.PathLike[str]) -> Snapshot:
    """The Snapshot of the last text in the log, or of the last buddyinfo and the last zoneinfo."""
    snapshot, count = Snapshot(source=str(path)), 0
    for last in read_samples(path):
        count += 1
        if last.zones:
            snapshot.zones, snapshot.zoneinfo = last.zones, last.zoneinfo
        else:
            snapshot.free = last.free
    if any(name == "HighMem" for _, name in (*snapshot.zones, *snapshot.free)):
        snapshot.arch = "i686"
    if not snapshot.free:
        snapshot.assumptions.append(f"{path}: there is no buddyinfo: all pages count as free")
    if count > bool(snapshot.zones) + bool(snapshot.free):
        at = f", of time {last.time}" if last.time else ""
        snapshot.notes.append(f"{path}:{last.nr}: the last of {count} texts is shown{at}")
    return snapshot


def _parsed(lines, time, path):
    """The Sample of numbered lines."""
    first = ZONE_LINE.fullmatch(lines[0][1].strip())
    if first and first[3].split():
        return Sample(time, lines[0][0], free=parse_buddyinfo(lines, path))
    return Sample(time, lines[0][0], zones=parse_zoneinfo(lines, path), zoneinfo="\n".join(line for _, line in lines))
