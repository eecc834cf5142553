"""The kernel's texts, read: /proc/buddyinfo, /proc/zoneinfo, the System RAM of /proc/iomem, and memory blocks.

Every parser raises ValueError, naming the line, for a text that is not what its name says.
"""

import re
from dataclasses import dataclass

ZoneKey = tuple[int, str]
"""(nid, name) of a zone."""

# Numbers have no more digits than C gives them, so that what is read here fits where it goes.
_ZONE = re.compile(r"Node (\d{1,4}), zone +(\w+)(.*)")
_IOMEM = re.compile(r" *([0-9a-f]{1,16})-([0-9a-f]{1,16}) : (.*)")
_BLOCK = re.compile(r"memory(\d{1,9}) (\S+) ")

# zoneinfo's own words for what ZoneInfo calls otherwise; the rest has the same name
_FIELDS = {
    "min": "min", "low": "low", "high": "high",
    "spanned": "spanned_pages", "present": "present_pages", "managed": "managed_pages", "start_pfn:": "start_pfn",
}


@dataclass(frozen=True)
class ZoneInfo:
    """What /proc/zoneinfo says of one zone, in pages."""

    nid: int
    name: str
    free_pages: int
    """NR_FREE_PAGES; behind buddyinfo by what the per-CPU differentials hold."""
    min: int
    low: int
    high: int
    spanned_pages: int
    present_pages: int
    managed_pages: int
    protection: dict[str, int]
    """lowmem_reserve: zone name -> pages kept from allocations that could have come from there."""
    start_pfn: int = 0
    """0 for an empty zone, of which the kernel does not say it."""

    @property
    def end_pfn(self) -> int:
        """The first pfn behind the span."""
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


def parse_buddyinfo(text: str) -> dict[ZoneKey, tuple[int, ...]]:
    """Free blocks of each order of every populated zone."""
    zones: dict[ZoneKey, tuple[int, ...]] = {}
    for line in text.splitlines():
        match = _ZONE.fullmatch(line)
        counts = match[3].split() if match else []
        if match is None or not counts or not all(n.isdecimal() for n in counts):
            raise ValueError(f"buddyinfo: {line!r} is no zone with its free blocks")
        zones[int(match[1]), match[2]] = tuple(map(int, counts))
    if len({len(counts) for counts in zones.values()}) != 1:
        raise ValueError("buddyinfo: no zones, or of different numbers of orders")
    return zones


def parse_zoneinfo(text: str) -> dict[ZoneKey, ZoneInfo]:
    """Every zone, the empty ones too, in the kernel's order."""
    found: dict[ZoneKey, dict[str, int]] = {}
    protection: dict[ZoneKey, list[int]] = {}
    key: ZoneKey | None = None
    for line in text.splitlines():
        if match := _ZONE.fullmatch(line):
            key = int(match[1]), match[2]
            found[key] = {}
            continue
        words = line.split()
        if key is None or not words:
            raise ValueError(f"zoneinfo: {line!r} belongs to no zone")
        if words[0] == "protection:":
            protection[key] = [_number(word.strip("(),"), line) for word in words[1:]]
        elif words[:2] == ["pages", "free"] and len(words) == 3:
            found[key]["free_pages"] = _number(words[2], line)
        elif words[0] in _FIELDS and len(words) == 2:
            found[key].setdefault(_FIELDS[words[0]], _number(words[1], line))
    names = {nid: [name for other, name in found if other == nid] for nid, _ in found}
    zones = {}
    for (nid, name), fields in found.items():
        reserve = protection.get((nid, name), [])
        if len(reserve) != len(names[nid]):
            raise ValueError(f"zoneinfo: zone {name} of node {nid} is protected from {len(reserve)} zones of {len(names[nid])}")
        try:
            zones[nid, name] = ZoneInfo(nid=nid, name=name, protection=dict(zip(names[nid], reserve, strict=True)), **fields)
        except TypeError:
            raise ValueError(f"zoneinfo: zone {name} of node {nid} lacks some of its pages and watermarks") from None
    if not zones:
        raise ValueError("zoneinfo: there is no zone in it")
    return zones


def parse_iomem(text: str, page_size: int) -> list[tuple[int, int]]:
    """(start_pfn, nr_pages) of System RAM, whole pages only, ascending. Nested lines count too (virtio_mem's)."""
    ram: list[tuple[int, int]] = []
    for line in text.splitlines():
        match = _IOMEM.fullmatch(line)
        if match is None:
            raise ValueError(f"iomem: {line!r} is no resource")
        if not match[3].startswith("System RAM"):
            continue
        start, end = -(-int(match[1], 16) // page_size), (int(match[2], 16) + 1) // page_size
        if end > start:
            if ram and start < sum(ram[-1]):
                raise ValueError(f"iomem: {line!r} meets the System RAM before it")
            ram.append((start, end - start))
    return ram


def parse_blocks(text: str) -> list[MemoryBlock]:
    """Memory blocks, a line each, ascending: ``memory0 online Normal 1 0``, its name and its files state, valid_zones,
    removable, and the number of its node (0 when left out)."""
    blocks: list[MemoryBlock] = []
    for line in text.splitlines():
        match, words = _BLOCK.match(line), line.split()
        zones = tuple(word for word in words[2:] if not word.isdecimal())
        numbers = [int(word) for word in words[2:] if word.isdecimal() and len(word) < 10]
        if match is None or len(numbers) not in (1, 2) or (blocks and int(match[1]) <= blocks[-1].nr):
            raise ValueError(f"blocks: {line!r} is no memory block, or not in its place")
        blocks.append(MemoryBlock(int(match[1]), match[2], zones, *numbers))
    return blocks


def format_block(block: MemoryBlock) -> str:
    """The line that parse_blocks reads."""
    return f"memory{block.nr} {block.state} {' '.join(block.valid_zones)} {block.removable} {block.nid}\n"


def _number(word: str, line: str) -> int:
    if not word.isdecimal() or len(word) > 18:
        raise ValueError(f"zoneinfo: {line!r}: {word!r} is no number of pages")
    return int(word)
