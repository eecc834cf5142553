"""Snapshots: a machine from a kernel's texts alone, without a page map: zones, free blocks by order, memory blocks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fastonline.core.pageflags import PAGE_FREE, PAGE_WAITING
from fastonline.hotplug.layout import lay_out
from fastonline.hotplug.memory import Memory
from fastonline.hotplug.procfs import lsmem_text
from fastonline.linux.proctext import MemoryBlock, ZoneInfo, ZoneKey, least_min_free_kbytes, rules_of_zoneinfo
from fastonline.linux.ranges import (
    Ranges,
    block_zones,
    check_size,
    ends,
    geometry_of,
    meet,
    memory_of,
    sections_of,
    union,
    with_zone_starts,
    without,
    zone_memory,
)
from fastonline.rules import LINUX_6_12, Rules


@dataclass(kw_only=True, repr=False)
class Snapshot:
    """A machine at one moment, as the kernel's texts show it. Missing parts are empty.

    - source: the file or directory, for messages.
    - arch, page_size: uname -m, and bytes.
    - zones: of /proc/zoneinfo.
    - free: of /proc/buddyinfo: free blocks of each order.
    - blocks, block_size: memory blocks, and bytes of one.
    - zoneinfo: the text of /proc/zoneinfo, whose lines the machine's text has too.
    - ram: (start_pfn, nr_pages) of the System RAM in /proc/iomem.
    - min_free_kbytes: vm.min_free_kbytes; None: the least that gives the zones' watermarks.
    - memmap_on_memory: the parameter of memory_hotplug; None where it is not there.
    - notes: what could not be used, a line each. assumptions: what `machine` takes for granted.
    """

    source: str
    arch: str = "x86_64"
    page_size: int = 4096
    zones: dict[ZoneKey, ZoneInfo] = field(default_factory=dict)
    free: dict[ZoneKey, tuple[int, ...]] = field(default_factory=dict)
    blocks: list[MemoryBlock] = field(default_factory=list)
    block_size: int = 0
    zoneinfo: str = ""
    ram: Ranges = field(default_factory=list)
    min_free_kbytes: int | None = None
    memmap_on_memory: str | None = None
    notes: list[str] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Snapshot {self.source} {self.arch} zones={len(self.zones)} blocks={len(self.blocks)}>"

    def buddyinfo(self) -> str:
        """The text of /proc/buddyinfo. ValueError when the source has no free blocks."""
        if not self.free:
            raise ValueError(f"{self.source}: it has no buddyinfo")
        return "".join(
            f"Node {nid}, zone {name:>8} " + "".join(f"{n:6} " for n in counts) + "\n"
            for (nid, name), counts in self.free.items()
        )

    def lsmem(self, style: str = "2.38") -> str:
        """What util-linux's lsmem of version `style` prints. ValueError when the source has no memory blocks."""
        if not self.blocks:
            raise ValueError(f"{self.source}: it has no memory blocks")
        rows = [(block.nr, block.state, block.removable) for block in self.blocks]
        return lsmem_text(rows, self.block_size, style, self.memmap_on_memory)

    def machine(self, engine: str = "bitmap", rules: Rules | str = LINUX_6_12) -> Memory:
        """Return a Memory with these zones, memory blocks and watermarks, and as many free blocks of each order.

        Which pages are free is not known: they are laid out so that the free blocks are buddyinfo's. Without buddyinfo all
        managed pages are free. ValueError where the texts do not fit together.
        """
        try:
            return self._machine(engine, rules)
        except ValueError as e:
            raise ValueError(str(e) if str(e).startswith(f"{self.source}:") else f"{self.source}: {e}") from None

    def _machine(self, engine, rules):
        if not self.zones and not self.blocks:
            raise ValueError("it has neither zones nor memory blocks")
        geometry = geometry_of(self.arch, self.page_size, len(next(iter(self.free.values()), ())))
        if self.block_size and self.block_size < geometry.section_size:
            geometry = replace(geometry, section_size_bits=self.block_size.bit_length() - 1)
        types = list(next(iter(self.zones.values())).protection) if self.zoneinfo else []
        if "Normal" in types:      # the kernel's own zones: others of its configuration are not there
            geometry = replace(geometry, zone_limits=tuple(limit for limit in geometry.zone_limits if limit[0] in types))
            rules = replace(rules_of_zoneinfo(rules, self.zoneinfo), zone_device="Device" in types)
        zones = self.zones or self._zones_of_blocks(geometry)
        total = sum(zone.present_pages for zone in zones.values()) + len(self.blocks) * self._block_pages
        check_size(total, max((zone.end_pfn for zone in zones.values()), default=0))
        geometry = with_zone_starts(geometry, zones.values())
        for keys, others, missing in ((self.free, zones, "zoneinfo"), (zones, self.free, "buddyinfo")):
            for nid, name in keys if self.free else ():
                populated = keys is self.free or zones[nid, name].present_pages
                if populated and (nid, name) not in others:
                    raise ValueError(f"zone {name} of node {nid} is missing in {missing}")
        memory, taken, known = memory_of(self.blocks, self._block_pages), [], []
        names = [name for name, _ in geometry.zone_limits] + ["Movable"] + ["Device"] * rules.zone_device
        # without other evidence, a zone inside the span of another one comes first
        for zone in sorted(zones.values(), key=lambda zone: zone.spanned_pages):
            if not zone.present_pages and zone.name not in names:
                continue
            ranges = self._ranges(zone, memory, taken)
            if not self.blocks:
                taken = sorted(taken + [(start, end, zone.nid, frozenset({zone.name})) for start, end in ranges])
            free = self.free.get((zone.nid, zone.name)) or (0,) * (geometry.max_page_order + 1)
            runs = lay_out([(start, end - start) for start, end in ranges], zone.managed_pages, free, geometry.max_page_order) \
                if self.free else _all_free(ranges, zone)
            known.append(_LaidOut(**vars(zone), runs=runs))
        memory = memory or taken
        there = union([(start, end) for start, end, _, _ in memory])
        ram = meet(ends(self.ram) or there, there)
        ram = sorted(ram + without([(start, end) for start, end, _, names in memory if not names], ram))
        sections = sections_of(memory, ram)
        least = least_min_free_kbytes(zones.values(), self.page_size)
        return Memory.from_page_map(
            geometry, sections, [(start, end - start) for start, end in ram], known,
            least if self.min_free_kbytes is None else self.min_free_kbytes, rules, engine,
            **({"memory_block_size": self.block_size} if self.block_size > geometry.section_size else {}),
        )

    @property
    def _block_pages(self):
        return self.block_size // self.page_size

    def _ranges(self, zone, memory, taken):
        """The page frames of a zone: those of its span that are there and not taken, as many as are present."""
        if not zone.present_pages:
            return []
        ranges = zone_memory(memory, zone) if memory else without(
            [(zone.start_pfn, zone.end_pfn)], [(start, end) for start, end, _, _ in taken]
        )
        if self.ram:
            ranges = meet(ranges, ends(self.ram))
        there = sum(end - start for start, end in ranges)
        if there < zone.present_pages:
            raise ValueError(
                f"zone {zone.name} of node {zone.nid} has {zone.present_pages} present pages, and the memory blocks and iomem "
                f"only {there} in its span"
            )
        while there > zone.present_pages:      # holes that the texts do not show: taken to be at the end
            start, end = ranges.pop()
            kept = max(0, end - start - (there - zone.present_pages))
            there -= end - start - kept
            if kept:
                ranges.append((start, start + kept))
        return ranges

    def _zones_of_blocks(self, geometry):
        """The zones that online blocks name; those of several, by the limits of the architecture's zones."""
        limits, start = [], 0
        there = {name for _, name in self.free} or {name for name, _ in geometry.zone_limits}
        for name, limit in geometry.zone_limits:
            if name not in there:      # the kernel was built without it
                continue
            end = geometry.max_pfn if limit is None else limit // self.page_size
            limits.append((name, start, end))
            start = end
        spans = {}
        for block in self.blocks:
            first, end = block.nr * self._block_pages, (block.nr + 1) * self._block_pages
            names = block_zones(block)
            for name, low, high in limits if "none" in names else [(name, first, end) for name in names]:
                if max(first, low) < min(end, high):
                    spans.setdefault((block.nid, name), []).append((max(first, low), min(end, high)))
        return {
            (nid, name): ZoneInfo(
                nid=nid, name=name, free_pages=present, min=0, low=0, high=0, spanned_pages=parts[-1][1] - parts[0][0],
                present_pages=present, managed_pages=present, protection={}, start_pfn=parts[0][0],
            )
            for (nid, name), parts in spans.items() for present in [sum(end - start for start, end in parts)]
        }


@dataclass(frozen=True, kw_only=True)
class _LaidOut(ZoneInfo):
    """A zone with its pages, as Memory.from_page_map takes it."""

    runs: Any


def _all_free(ranges, zone):
    """Runs of a zone whose managed pages are the last ones, and free."""
    runs, reserved = [], zone.present_pages - zone.managed_pages
    if reserved < 0:
        what = f"zone {zone.name} of node {zone.nid}"
        raise ValueError(f"{what} manages {zone.managed_pages} of {zone.present_pages} present pages")
    for start, end in ranges:
        middle = min(end, start + reserved)
        reserved -= middle - start
        runs += [(start, middle - start, PAGE_WAITING)] * (middle > start)
        runs += [(middle, end - middle, PAGE_FREE)] * (end > middle)
    starts, lengths, states = zip(*runs, strict=True) if runs else ((), (), ())
    return np.array(starts, np.uint64), np.array(lengths, np.uint64), np.array(states, np.uint8)
