"""Mem-Info: what the kernel logs of its zones when memory runs out, or on sysrq-m (show_free_areas, mm/show_mem.c)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from fastonline.lines import TextError, stream, without_prefix
from fastonline.linux.proctext import ZONE_NAMES, ZoneInfo, ZoneKey
from fastonline.linux.ranges import geometry_of
from fastonline.linux.snapshot import Snapshot

_ZONE = r"(?:Node (\d{1,4}) )?(" + "|".join(sorted(ZONE_NAMES, key=len, reverse=True)) + r")"
_COUNTS = re.compile(_ZONE + r" free:(\d{1,15})kB(.*)")
_LISTS = re.compile(_ZONE + r": ?((?:\d+\*\d+kB|\(\w*\)|=.*| )*)$")
_VALUE = re.compile(r"(boost|min|low|high|present|managed):(\d{1,15})kB")
_BLOCKS = re.compile(r"(\d{1,12})\*(\d{1,9})kB")
_RESERVE = re.compile(r"lowmem_reserve\[\]:((?: -?\d{1,18})+)")


def is_mem_info(line: str) -> bool:
    """Is this line the first of such a text?"""
    return without_prefix(line).strip() == "Mem-Info:"


def read_mem_info(path: str | os.PathLike[str]) -> Snapshot:
    """The Snapshot of the last whole Mem-Info in the log `path`, with or without time stamps.

    The text does not say where zones lie: they are placed by the limits of the architecture, without holes. TextError where
    there is none, or none is whole; OSError.
    """
    last: _Report | None = None
    reports, cut, nr = 0, 0, 0
    report: _Report | None = None
    for nr, line in stream(path):
        bare = without_prefix(line).rstrip()
        if bare.strip() == "Mem-Info:":
            last, report, reports, cut = report if report and report.whole else last, _Report(nr), reports + 1, nr
        elif report is not None or _COUNTS.match(bare):
            if report is None:      # the lines before were left out
                report, reports, cut = _Report(nr), 1, nr
            report.take(bare, str(path), nr)
    if report is not None and report.whole:
        last, cut = report, 0
    if last is None:
        if not reports:
            raise TextError(path, max(nr, 1), "no Mem-Info found")
        raise TextError(path, cut, "the Mem-Info that begins here is cut: zones lack their free blocks")
    snapshot = last.snapshot(str(path))
    if reports > 1 or cut:
        snapshot.notes.insert(0, f"{path}:{last.nr}: this Mem-Info is shown, the last whole one of {reports}")
    return snapshot


@dataclass
class _Report:
    """One Mem-Info. nr: its first line."""

    nr: int
    values: dict[ZoneKey, dict[str, int]] = field(default_factory=dict)
    reserves: dict[ZoneKey, list[int]] = field(default_factory=dict)
    free: dict[ZoneKey, list[tuple[int, int]]] = field(default_factory=dict)
    done: set[ZoneKey] = field(default_factory=set)
    zone: ZoneKey | None = None

    @property
    def whole(self) -> bool:
        """Return whether every zone has free blocks in the report."""
        return bool(self.values) and self.values.keys() == self.done

    def take(self, line: str, path: str, nr: int) -> None:
        """Read one line. Lists of free blocks go on in the next one where the log has broken them."""
        if match := _COUNTS.match(line):
            self.zone = int(match[1] or 0), match[2]
            if self.zone in self.values:
                raise TextError(path, nr, f"zone {self.zone[1]} of node {self.zone[0]} appears twice")
            self.values[self.zone] = {"free": int(match[3])}
            self._values(match[4])
        elif match := _LISTS.match(line):
            self.zone = int(match[1] or 0), match[2]
            self.free[self.zone] = []
            self._blocks(match[3])
        elif match := _RESERVE.match(line.strip()):
            if self.zone in self.values:
                self.reserves[self.zone] = [max(0, int(word)) for word in match[1].split()]
        elif self.zone in self.free and self.zone not in self.done and re.match(r"[ (\d=]", line):
            self._blocks(line)
        elif self.zone in self.values and self.zone not in self.free and line.startswith(" "):
            self._values(line)

    def _values(self, text):
        for name, kbytes in _VALUE.findall(text):
            self.values[self.zone].setdefault(name, int(kbytes))

    def _blocks(self, text):
        self.free[self.zone] += [(int(nr), int(kbytes)) for nr, kbytes in _BLOCKS.findall(text.partition("=")[0])]
        if "=" in text and self.free[self.zone]:
            self.done.add(self.zone)

    def snapshot(self, path: str) -> Snapshot:
        """Return the Snapshot, with zones placed. TextError if a zone has no place."""
        kbytes = min(size for sizes in self.free.values() for _, size in sizes)
        if kbytes < 1 or kbytes & kbytes - 1:
            raise TextError(path, self.nr, f"pages of {kbytes} kB")
        snapshot = Snapshot(source=path, page_size=kbytes << 10)
        for key in self.values:
            if [size for _, size in self.free[key]] != [kbytes << order for order in range(len(self.free[key]))]:
                raise TextError(path, self.nr, f"the orders of zone {key[1]} of node {key[0]} are not whole")
            snapshot.free[key] = tuple(count for count, _ in self.free[key])
        if len({len(counts) for counts in snapshot.free.values()}) > 1:
            raise TextError(path, self.nr, "zones have different numbers of orders")
        if any(name == "HighMem" for _, name in self.values):
            snapshot.arch = "i686"
        elif kbytes == 64:
            snapshot.arch = "aarch64"
        snapshot.zones = self._zones(path, snapshot, kbytes)
        snapshot.assumptions += [
            f"{path}: the log has no places of zones: they follow one another, without holes",
            f"{path}: free pages are laid out to match the free blocks; which pages are free is not known",
        ]
        return snapshot

    def _zones(self, path, snapshot, kbytes):
        limits = dict(geometry_of(snapshot.arch, snapshot.page_size).zone_limits)
        starts, start = {}, 0
        for name, limit in limits.items():
            starts[name], start = start, start if limit is None else limit // snapshot.page_size
        zones, end = {}, 0
        for (nid, name), kb in self.values.items():
            for value in ("min", "low", "high", "present"):
                if value not in kb:
                    raise TextError(path, self.nr, f"zone {name} of node {nid} has no {value!r}")
            pages = {value: number // kbytes for value, number in kb.items()}
            boost = pages.get("boost", 0)
            at = max(end, starts.get(name, 0))
            unit = 1 << 15      # a section, so that no two zones share one
            first = at if name in ("DMA", "DMA32") else -(-at // unit) * unit
            reserve = self.reserves.get((nid, name), [])
            names = [zone for zone in ZONE_NAMES if zone in limits or zone in ("Movable", "Device")]
            zones[nid, name] = ZoneInfo(
                nid=nid, name=name, free_pages=pages["free"], boost=boost,
                min=max(0, pages["min"] - boost), low=max(0, pages["low"] - boost), high=max(0, pages["high"] - boost),
                spanned_pages=pages["present"], present_pages=pages["present"],
                managed_pages=pages.get("managed", pages["present"]),
                protection=dict(zip(names, reserve, strict=False)), start_pfn=first,
            )
            end = first + pages["present"]
        return zones
