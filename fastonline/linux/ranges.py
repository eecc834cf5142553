"""Ranges of page frames in a kernel's texts: memory blocks, System RAM, and the presets that they fit."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from fastonline.geometry import PRESETS, Geometry
from fastonline.linux.proctext import MemoryBlock, ZoneInfo

Ranges = list[tuple[int, int]]
"""(first pfn, end pfn), ascending and disjoint."""
Memory = list[tuple[int, int, int, frozenset[str]]]
"""(first pfn, end pfn, nid, zones) of memory, ascending; no zones: it is offline; "none": its zone is unknown."""

_NAMES = {
    "x86_64": ("X86_64",), "i686": ("X86_32_PAE",), "aarch64": ("ARM64_4K", "ARM64_16K", "ARM64_64K"), "s390x": ("S390X",),
    "ppc64le": ("PPC64LE_64K",), "riscv64": ("RISCV64",), "loongarch64": ("LOONGARCH64_16K",),
}
"""uname -m -> names of presets."""
GEOMETRIES = {
    (arch, PRESETS[name].page_size): PRESETS[name] for arch, names in _NAMES.items() for name in names
}
"""(uname -m, page size) -> preset."""
_MAX_PAGES = 1 << 30
"""The most pages of a machine that is made from a text, 4 TiB of 4 KiB pages: a short text can claim any amount."""


def check_size(pages: int, end_pfn: int) -> None:
    """Raise ValueError for more pages, or a higher end, than a machine made from a text may have."""
    if pages > _MAX_PAGES or end_pfn > 16 * _MAX_PAGES:
        raise ValueError(f"{pages} pages up to {end_pfn:#x} exceed the largest machine ({_MAX_PAGES})")


def page_size_of(arch: str, orders: int) -> int:
    """Bytes of a page of an architecture whose buddyinfo has so many columns: those of the preset with as many orders, else of
    its first one; 4096 where it has none."""
    presets = [geometry for (known, _), geometry in GEOMETRIES.items() if known == arch]
    same = [geometry for geometry in presets if geometry.max_page_order + 1 == orders]
    return (same or presets)[0].page_size if presets else 4096


def geometry_of(arch: str, page_size: int, orders: int = 0) -> Geometry:
    """The preset of an architecture (uname -m) and page size, with so many orders of free blocks (0: its own). ValueError where
    there is none."""
    try:
        geometry = GEOMETRIES[arch, page_size]
    except KeyError:
        raise ValueError(
            f"no geometry for {arch} with pages of {page_size} bytes (expected one of "
            + ", ".join(f"{arch}/{size}" for arch, size in GEOMETRIES) + ")"
        ) from None
    return replace(geometry, max_page_order=orders - 1) if orders else geometry


def with_zone_starts(geometry: Geometry, zones: Iterable[ZoneInfo]) -> Geometry:
    """Return the geometry with a zone ending where the next begins, for zones that meet inside a block of the largest order:
    HighMem begins where a 32-bit kernel's direct map ends, wherever that is."""
    block, spans = 1 << geometry.max_page_order, dict[str, list[tuple[int, int]]]()
    for zone in zones:
        if zone.spanned_pages:
            spans.setdefault(zone.name, []).append((zone.start_pfn, zone.start_pfn + zone.spanned_pages))
    limits = list(geometry.zone_limits)
    for i, (name, _) in enumerate(limits[:-1]):
        start = min(first for first, _ in spans.get(limits[i + 1][0], [(0, 0)]))
        if any(start - start % block < end <= start for _, end in spans.get(name, ())):
            limits[i] = (name, start * geometry.page_size)
    return replace(geometry, zone_limits=tuple(limits))


def block_zones(block: MemoryBlock) -> frozenset[str]:
    """The zone of an online block, "none" if it has several or its zone is unknown, "" for an offline block. Up to 4.12
    the zones that it could move to stand behind its own (show_valid_zones, drivers/base/memory.c)."""
    return frozenset() if block.state not in ("online", "going-offline") else frozenset(block.valid_zones[:1] or ("none",))


def memory_of(blocks: Iterable[MemoryBlock], block_pages: int) -> Memory:
    """The memory of blocks, neighbours that are alike in one."""
    found: Memory = []
    for block in blocks:
        start, names = block.nr * block_pages, block_zones(block)
        if found and found[-1][1:] == (start, block.nid, names):
            found[-1] = (found[-1][0], start + block_pages, block.nid, names)
        else:
            found.append((start, start + block_pages, block.nid, names))
    return found


def zone_memory(memory: Memory, zone: ZoneInfo) -> Ranges:
    """The memory of a zone's node inside its span that may be the zone's."""
    at = bisect_left(memory, zone.start_pfn, key=lambda part: part[1])
    parts: Ranges = []
    for start, end, nid, names in islice(memory, at, None):
        if start >= zone.end_pfn:
            break
        if nid == zone.nid and names & {zone.name, "none"}:
            parts.append((max(start, zone.start_pfn), min(end, zone.end_pfn)))
    return [(start, end) for start, end in parts if start < end]


def sections_of(memory: Memory, ram: Ranges) -> list[tuple[int, int, int, bool]]:
    """(start_pfn, nr_pages, nid, early) of sections as Memory.from_page_map takes them: offline memory as a whole, of online
    memory what is RAM."""
    starts = [start for start, _, _, _ in memory]
    sections = [(start, end - start, nid, False) for start, end, nid, names in memory if not names]
    for start, end in meet([(start, end) for start, end, _, names in memory if names], ram):
        sections.append((start, end - start, memory[bisect_right(starts, start) - 1][2], True))
    return sorted(sections)


def ends(ram: Iterable[tuple[int, int]]) -> Ranges:
    """(first pfn, end pfn) of (start_pfn, nr_pages)."""
    return [(start, start + nr) for start, nr in ram]


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return the ranges in ascending order, with adjacent and overlapping ones joined."""
    found: Ranges = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def without(a: Ranges, b: Ranges) -> Ranges:
    """Return the parts of `a` that are not in `b`."""
    found, i = [], 0
    for start, end in a:
        while i < len(b) and b[i][1] <= start:
            i += 1
        j = i
        while j < len(b) and b[j][0] < end:
            if start < b[j][0]:
                found.append((start, b[j][0]))
            start = max(start, b[j][1])
            j += 1
        if start < end:
            found.append((start, end))
    return found


def meet(a: Ranges, b: Ranges) -> Ranges:
    """Return the intersection of two lists of ranges."""
    found, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        start, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start < end:
            found.append((start, end))
        if a[i][1] <= b[j][1]:
            i += 1
        else:
            j += 1
    return found
