"""Traces of page allocations, as ftrace, trace-cmd and perf script print them, and their replay against the allocator.

Events: mm_page_alloc, mm_page_free (mm_page_free_direct up to 3.2) and mm_page_free_batched (mm_pagevec_free) of
include/trace/events/kmem.h; pfn in decimal, or in hexadecimal with 0x (since 5.18).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from fastonline.core.pageflags import KPF_BUDDY
from fastonline.errors import HotplugError
from fastonline.geometry import X86_64, Geometry
from fastonline.hotplug.memory import Memory
from fastonline.lines import TextError, stream
from fastonline.linux.pagetypes import machine_of_map
from fastonline.rules import LINUX_6_12, Rules

_EVENT = re.compile(r"\b(mm_page_alloc|mm_page_free|mm_page_free_direct|mm_page_free_batched|mm_pagevec_free):? ")
_FIELD = re.compile(r"\b(pfn|order)=(0x[0-9a-f]{1,16}|\d{1,19})\b")
_BATCHED = ("mm_page_free_batched", "mm_pagevec_free")


@dataclass(frozen=True)
class Event:
    """One event. nr: its line. alloc: an allocation? batched: mm_page_free_batched, which mm_page_free reports too. pfn: None
    for an allocation that failed."""

    nr: int
    alloc: bool
    batched: bool
    pfn: int | None
    order: int


@dataclass
class Replay:
    """The result of replaying a trace. Each event is counted once.

    - allocations, frees: by order, of those that could be done.
    - failed: allocations that the kernel could not serve.
    - unknown: events that contradict those before (the trace has lost some): an allocation of pages in use, a free of pages
      that are free, or of another order; `first_unknown` is the line of the first.
    - peak: most pages in use at a time, of those that the trace allocated.
    - kernel: a Memory with the pages in use where the kernel had them.
    - own: a Memory whose allocator chose them, given the same orders in the same order; None when it ran out of memory.
    """

    source: str
    kernel: Memory
    own: Memory | None
    allocations: list[int] = field(default_factory=list)
    frees: list[int] = field(default_factory=list)
    failed: int = 0
    unknown: int = 0
    first_unknown: int = 0
    in_use: int = 0
    peak: int = 0

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON: the counts, and the free blocks by order of both machines."""
        names = ("source", "allocations", "frees", "failed", "unknown", "first_unknown", "in_use", "peak")
        return {name: getattr(self, name) for name in names} | {
            "free": {name: _nr_free(mem) for name, mem in (("kernel", self.kernel), ("own", self.own)) if mem is not None}
        }

    def __str__(self) -> str:
        """Return the counts, and the free blocks by order of both machines, in a few lines."""
        page = self.kernel.geometry.page_size
        lines = [
            f"{self.source}: {sum(self.allocations)} allocations, {sum(self.frees)} frees, {self.failed} failed allocations",
            *[f"events that contradict those before: {self.unknown}, the first on line {self.first_unknown}"][: self.unknown],
            f"in use at the end {self.in_use * page >> 10} KiB, at most {self.peak * page >> 10} KiB",
            f"{'order':<11}" + "".join(f"{order:>6}" for order in range(len(self.allocations))),
            f"{'allocations':<11}" + "".join(f"{n:>6}" for n in self.allocations),
            f"{'frees':<11}" + "".join(f"{n:>6}" for n in self.frees),
        ]
        for name, mem in (("free, trace", self.kernel), ("free, here", self.own)):
            if mem is not None:
                lines.append(f"{name:<11}" + "".join(f"{n:>6}" for n in _nr_free(mem)))
        return "\n".join(lines) + "\n"


def is_trace(lines: list[str]) -> bool:
    """Return whether these first lines of a file begin a trace."""
    return any(line.startswith("# tracer:") or _EVENT.search(line) for line in lines)


def read_events(path: str | os.PathLike[str]) -> Iterator[Event]:
    """Yield the events of the trace, one in memory at a time; other lines are passed over, and a last line that is cut.

    TextError for an event that lacks its pfn or order; OSError.
    """
    cut = None
    for nr, line in stream(path):
        if cut is not None:
            raise cut
        match = _EVENT.search(line)
        if match is None:
            continue
        fields = dict(_FIELD.findall(line, match.end()))
        batched = match[1] in _BATCHED
        if "pfn" not in fields or "order" not in fields and not batched:
            cut = TextError(path, nr, f"{match[1]} without its {'order' if 'pfn' in fields else 'pfn'}")
            continue
        pfn, order = (int(text, 16 if text.startswith("0x") else 10) for text in (fields["pfn"], fields.get("order", "0")))
        alloc = match[1] == "mm_page_alloc"
        if pfn >= 1 << 40 or order > 63:
            raise TextError(path, nr, f"invalid page {pfn:#x} of order {order}")
        failed = alloc and pfn == 0 and re.search(r"page=(?:\(nil\)|\(null\)|0x0|0+)\s", line) is not None
        yield Event(nr, alloc, batched, None if failed else pfn, order)


def replay_trace(
    path: str | os.PathLike[str], geometry: Geometry = X86_64, engine: str = "struct_page", rules: Rules = LINUX_6_12
) -> Replay:
    """Replay a trace twice: at the kernel's page frames, and with this allocator choosing.

    Both machines have the sections that the trace names, with all pages free but those that it frees first. The file is read
    twice; memory is that of the machines and of the pages that the trace names. TextError, OSError; ValueError for pages that
    the geometry has not.
    """
    first: dict[int, int] = {}      # pages that were in use before: {pfn: order}
    end, seen, known = 0, 0, set()
    for event in read_events(path):
        seen += 1
        if event.pfn is None:
            continue
        if event.order > geometry.max_page_order or event.pfn % (1 << event.order):
            raise TextError(path, event.nr, f"no block of order {event.order} at page {event.pfn:#x} in {geometry.name}")
        end = max(end, event.pfn + (1 << event.order))
        if event.pfn not in known:
            known.add(event.pfn)
            if not event.alloc:
                first[event.pfn] = event.order
    if not seen:
        raise TextError(path, 1, "no mm_page_alloc or mm_page_free found")
    if end > geometry.max_pfn:
        raise ValueError(f"{path}: page {end - 1:#x} is past the end of memory in {geometry.name}")
    unit = geometry.pages_per_section
    sections = np.array(sorted({pfn // unit for pfn in known} or {0}), np.uint64) * np.uint64(unit)
    whole = np.full(len(sections), unit, np.uint64)
    kernel = machine_of_map(geometry, sections, whole, np.full(len(sections), KPF_BUDDY, np.uint64), engine, rules)
    return _Replayer(str(path), kernel, first).run(read_events(path))


class _Replayer:
    """A replay under way."""

    def __init__(self, path, kernel, first):
        orders = kernel.geometry.max_page_order + 1
        self.blocks = {}      # those in use: {the kernel's first page: (order, ours or None)}
        for pfn, order in sorted(first.items()):
            with suppress(HotplugError):      # part of a larger block that was in use
                kernel.alloc_contig_range(pfn, 1 << order)
                self.blocks[pfn] = order, None
        self.result = Replay(path, kernel, kernel.copy(), [0] * orders, [0] * orders)
        self.before = set(self.blocks)
        self.batched = set()      # pages that mm_page_free_batched freed: mm_page_free follows up to 4.14, precedes later

    def run(self, events):
        for event in events:
            if event.pfn is None:
                self.result.failed += 1
            elif event.alloc:
                self._alloc(event)
            else:
                self._free(event)
        return self.result

    def _alloc(self, event):
        result, size = self.result, 1 << event.order
        try:
            result.kernel.alloc_contig_range(event.pfn, size)
        except HotplugError:
            self._contradicts(event)
            return
        self.batched.discard(event.pfn)
        own = None
        if result.own is not None:
            try:
                own = result.own.alloc_pages(event.order)
            except MemoryError:
                result.own = None
        self.blocks[event.pfn] = event.order, own
        result.allocations[event.order] += 1
        result.in_use += size
        result.peak = max(result.peak, result.in_use)

    def _free(self, event):
        result, size = self.result, 1 << event.order
        block = self.blocks.get(event.pfn)
        if block is None or block[0] != event.order:
            if block is not None or not event.batched and event.pfn not in self.batched:
                self._contradicts(event)
            self.batched.discard(event.pfn)
            return
        del self.blocks[event.pfn]
        if event.batched:
            self.batched.add(event.pfn)
        pfns = np.arange(event.pfn, event.pfn + size)
        result.kernel.free_pfns(pfns)
        if event.pfn in self.before:
            self.before.discard(event.pfn)
            if result.own is not None:
                result.own.free_pfns(pfns)
        else:
            result.in_use -= size
            if result.own is not None:
                result.own.free_pages(block[1], event.order)
        result.frees[event.order] += 1

    def _contradicts(self, event):
        self.result.unknown += 1
        self.result.first_unknown = self.result.first_unknown or event.nr


def _nr_free(mem):
    """Free blocks by order of all zones."""
    return [sum(counts) for counts in zip(*(zone.nr_free for zone in mem.zones.values()), strict=True)]
