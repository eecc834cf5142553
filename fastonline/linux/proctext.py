"""Parsers of the kernel's texts: /proc/buddyinfo, /proc/zoneinfo, the System RAM of /proc/iomem, and memory blocks.

Each takes the text, or its numbered lines, and the name that errors call it by: TextError, ``NAME:LINE: reason``.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations

from fastonline.lines import Numbered, TextError, numbered, shown
from fastonline.rules import Rules, as_rules

ZoneKey = tuple[int, str]
"""(nid, name) of a zone."""

# Numbers have no more digits than C gives them, so that what is read here fits where it goes.
ZONE_LINE = re.compile(r"Node +(\d{1,4}), zone +(\w+)(.*)")
_IOMEM = re.compile(r"\s*([0-9a-fA-F]{1,16})-([0-9a-fA-F]{1,16}) : (.*)")
_BLOCK = re.compile(r"memory(\d{1,9}) (\S+) ")

ZONE_NAMES = ("DMA", "DMA32", "Normal", "HighMem", "Movable", "Device")
"""enum zone_type (include/linux/mmzone.h), in its order; a kernel has some of them, Normal and Movable always."""
_RARE = ("DMA", "DMA32", "HighMem", "Device")
"""The others, from the most to the least likely, for texts without other evidence."""

# zoneinfo's own words for what ZoneInfo calls otherwise; the rest has the same name
_FIELDS = {
    "boost": "boost", "min": "min", "low": "low", "high": "high", "cma": "cma_pages",
    "spanned": "spanned_pages", "present": "present_pages", "managed": "managed_pages", "start_pfn:": "start_pfn",
}
_LINES = ("boost", "min", "low", "high", "promo", "scanned", "node_scanned", "spanned", "present", "managed", "cma")


@dataclass(frozen=True)
class ZoneInfo:
    """The entry of one zone in /proc/zoneinfo, in pages."""

    nid: int
    name: str
    free_pages: int
    """NR_FREE_PAGES; behind buddyinfo by what the per-CPU differentials hold."""
    min: int
    low: int
    high: int
    """The watermarks without the boost, which the kernel's text includes (min_wmark_pages, 5.0)."""
    spanned_pages: int
    present_pages: int
    managed_pages: int
    """As present_pages where the kernel does not say it (before 3.9)."""
    protection: dict[str, int]
    """lowmem_reserve: zone name -> pages kept from allocations that could have come from there."""
    start_pfn: int = 0
    """0 for an empty zone, of which the kernel does not say it."""
    boost: int = 0
    """watermark_boost (5.0; in the text since 5.16)."""
    cma_pages: int = 0

    @property
    def end_pfn(self) -> int:
        """The first pfn after the span."""
        return self.start_pfn + self.spanned_pages


@dataclass(frozen=True)
class MemoryBlock:
    """One directory of /sys/devices/system/memory."""

    nr: int
    state: str
    """"online", "offline" or "going-offline"."""
    valid_zones: tuple[str, ...]
    """An online block's zone, or "none" for one in several; an offline one's possible zones."""
    removable: int
    nid: int = 0


class AddressesHidden(TextError):
    """/proc/iomem shows zeros to those who may not see addresses (r_show, kernel/resource.c, 4.6)."""


def parse_buddyinfo(text: str | Numbered, name: str = "buddyinfo") -> dict[ZoneKey, tuple[int, ...]]:
    """Free blocks of each order of every populated zone."""
    zones: dict[ZoneKey, tuple[int, ...]] = {}
    nr = 0
    for nr, line in numbered(text):
        if not line.strip():
            continue
        match = ZONE_LINE.fullmatch(line.strip())
        counts = match[3].split() if match else []
        if match is None or not counts or not all(n.isdecimal() and len(n) < 19 for n in counts):
            raise TextError(name, nr, f"{shown(line)} is not a zone with its free blocks")
        key = int(match[1]), match[2]
        if key in zones:
            raise TextError(name, nr, f"zone {key[1]} of node {key[0]} appears twice")
        zones[key] = tuple(map(int, counts))
        if len(counts) != len(next(iter(zones.values()))):
            raise TextError(name, nr, f"{len(counts)} orders, and {len(next(iter(zones.values())))} in the lines before")
    if not zones:
        raise TextError(name, nr, "no zone found")
    return zones


def parse_zoneinfo(text: str | Numbered, name: str = "zoneinfo") -> dict[ZoneKey, ZoneInfo]:
    """Every zone that the text lists, in its order; text of 2.6.25 to 6.18 (zoneinfo_show_print, mm/vmstat.c).

    Up to 4.11 only populated zones are listed, and each still has a protection entry for every type of zone. What stands before
    the first zone is passed over.
    """
    found: dict[ZoneKey, dict[str, int]] = {}
    protection: dict[ZoneKey, list[int]] = {}
    where: dict[ZoneKey, int] = {}
    key: ZoneKey | None = None
    nr = 0
    for nr, line in numbered(text):
        if match := ZONE_LINE.fullmatch(line.strip()):
            key = int(match[1]), match[2]
            if key in found:
                raise TextError(name, nr, f"zone {key[1]} of node {key[0]} appears twice")
            found[key], where[key] = {}, nr
            continue
        words = line.split()
        if key is None or not words:
            continue
        if words[0] == "protection:":
            protection[key] = [_number(word.strip("(),"), line, name, nr) for word in words[1:]]
        elif words[:2] == ["pages", "free"] and len(words) >= 3:
            found[key]["free_pages"] = _number(words[2], line, name, nr)
        elif words[0] in _FIELDS and len(words) >= 2:
            found[key].setdefault(_FIELDS[words[0]], _number(words[1], line, name, nr))
    if not found:
        raise TextError(name, nr, "no zone found")
    types = _zone_types(list(found), protection)
    zones = {}
    for (nid, zone), values in found.items():
        line_nr, entries = where[nid, zone], protection.get((nid, zone))
        if entries is None or len(entries) != len(types) or zone not in types:
            raise TextError(
                name, line_nr, f"zone {zone} of node {nid} has {len(entries or ())} protection entries for the zones "
                f"{', '.join(types or sorted({other for _, other in found}))}"
            )
        values.setdefault("managed_pages", values.get("present_pages", 0))
        boost = values.get("boost", 0)
        for watermark in ("min", "low", "high"):
            if values.get(watermark, boost) < boost:
                raise TextError(name, line_nr, f"zone {zone} of node {nid}: {watermark} is below the boost that it includes")
            if watermark in values:
                values[watermark] -= boost
        try:
            zones[nid, zone] = ZoneInfo(nid=nid, name=zone, protection=dict(zip(types, entries, strict=True)), **values)
        except TypeError:
            raise TextError(name, line_nr, f"zone {zone} of node {nid} lacks some of its pages or watermarks") from None
    return zones


def rules_of_zoneinfo(rules: Rules | str, text: str) -> Rules:
    """The rules, or those of a kernel version, with /proc/zoneinfo listing the zones and lines that this text of it lists."""
    lines: list[str] = []
    empty = inside = done = False
    for _, line in numbered(text):
        words = line.split() or [""]
        inside = (inside or words[:2] == ["pages", "free"]) and words[0] != "protection:"
        done = done or words[0] == "protection:"
        empty = empty or words[:2] == ["present", "0"]
        if inside and not done and words[0] in _LINES:
            lines.append("scanned (a: i:)" if line.strip().endswith(")") else words[0])
    return replace(as_rules(rules), zoneinfo_lines=tuple(dict.fromkeys(lines)), zoneinfo_empty=empty)


def _zone_types(keys: list[ZoneKey], protection: dict[ZoneKey, list[int]]) -> tuple[str, ...]:
    """The kernel's types of zones: those listed, and as many more as there are protection entries. A zone is protected from
    higher zones only, and from a higher one by no less than from a lower one (setup_per_zone_lowmem_reserve)."""
    listed = list(dict.fromkeys(zone for _, zone in keys))
    number = len(next(iter(protection.values()), ()))
    if len(listed) == number:
        return tuple(listed)
    if not set(listed) <= set(ZONE_NAMES):
        return ()
    known = set(listed) | {"Normal", "Movable"}
    choices = combinations([name for name in _RARE if name not in known], max(0, number - len(known)))
    # DMA32 is of 64-bit kernels and HighMem of 32-bit ones
    for more in sorted(choices, key=lambda more: {"DMA32", "HighMem"} <= known | set(more)):
        types = tuple(name for name in ZONE_NAMES if name in known or name in more)
        if len(types) == number and all(
            not any(entries[: types.index(zone) + 1]) and entries == sorted(entries)
            for (_, zone), entries in protection.items() if len(entries) == number
        ):
            return types
    return ()


def parse_iomem(text: str, page_size: int, name: str = "iomem") -> list[tuple[int, int]]:
    """(start_pfn, nr_pages) of System RAM, whole pages only, ascending. Nested lines count too (virtio_mem, kmem)."""
    ram: list[tuple[int, int]] = []
    hidden = 0
    for nr, line in numbered(text):
        if not line.strip():
            continue
        match = _IOMEM.fullmatch(line.rstrip())
        if match is None:
            raise TextError(name, nr, f"{shown(line)} is not a resource")
        if not match[3].startswith("System RAM"):
            continue
        first, last = int(match[1], 16), int(match[2], 16)
        hidden = hidden or (nr if last == 0 else 0)
        start, end = -(-first // page_size), (last + 1) // page_size
        if end > start:
            if ram and start < sum(ram[-1]):
                raise TextError(name, nr, f"{shown(line)} overlaps the System RAM before it")
            ram.append((start, end - start))
    if hidden and not ram:
        raise AddressesHidden(name, hidden, "the addresses are hidden (all 0): reading them takes CAP_SYS_ADMIN")
    return ram


def parse_blocks(text: str, name: str = "blocks") -> list[MemoryBlock]:
    """Memory blocks, a line each, ascending: ``memory0 online Normal 1 0``, its name and its files state, valid_zones,
    removable, and the number of its node (0 when left out)."""
    blocks: list[MemoryBlock] = []
    for nr, line in numbered(text):
        if not line.strip():
            continue
        match, words = _BLOCK.match(line), line.split()
        zones = tuple(word for word in words[2:] if not word.isdecimal())
        numbers = [int(word) for word in words[2:] if word.isdecimal() and len(word) < 10]
        if match is None or len(numbers) not in (1, 2) or (blocks and int(match[1]) <= blocks[-1].nr):
            raise TextError(name, nr, f"{shown(line)} is not a memory block, or out of order")
        blocks.append(MemoryBlock(int(match[1]), match[2], zones, *numbers))
    return blocks


def format_block(block: MemoryBlock) -> str:
    """The line that parse_blocks reads."""
    return f"memory{block.nr} {block.state} {' '.join(block.valid_zones)} {block.removable} {block.nid}\n"


def least_min_free_kbytes(zones: Iterable[ZoneInfo], page_size: int) -> int:
    """The least vm.min_free_kbytes that gives the zones their min watermarks (__setup_per_zone_wmarks, 6.12)."""
    lowmem = [zone for zone in zones if zone.managed_pages and zone.name not in ("HighMem", "Movable")]
    total = sum(zone.managed_pages for zone in lowmem)
    return max((-(-zone.min * total // zone.managed_pages) for zone in lowmem), default=0) * page_size >> 10


def _number(word: str, line: str, name: str, nr: int) -> int:
    if not word.isdecimal() or len(word) > 18:
        raise TextError(name, nr, f"{shown(line)}: {word!r} is not a number of pages")
    return int(word)
