"""What the drivers share: a clock in virtual seconds, the balloon's list of pages, and what an allocation may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastonline.core.pageflags import PG_prepared, PG_reserved
from fastonline.drivers.hypervisor import Domain, all_different
from fastonline.geometry import Geometry, format_size, parse_size
from fastonline.hotplug.interruptible import uninterrupted
from fastonline.hotplug.memory import Memory

NEVER = float("inf")


class Actor(Protocol):
    """What `run` lets work: a driver, udev, or whatever else has these two."""

    @property
    def due(self) -> float:
        """When it is next to run, s; a time that has passed: at once; NEVER: not by itself."""

    def work(self, now: float) -> object:
        """Do what is due, and set `due` anew. now: s."""


SLICE = 1.0
"""Virtual seconds that a worker works at a time, where calls to the host cost something: then others have their turn."""


def run(actors: Sequence[Actor], until: float, now: float = 0.0) -> None:
    """Let every one of `actors` work at the times it is due from `now` on, earliest first (in the order given among equals), up
    to `until` (seconds).

    An Actor has `due`, when it is next to run (a time that has passed: at once; NEVER: not by itself), and `work(now)`, which
    sets it anew. While a driver's calls to the host take their time (Domain.now), the others go on.
    """
    while True:
        actor = min(actors, key=lambda actor: actor.due)
        if actor.due > until:
            return
        now = max(now, actor.due)
        actor.work(now)


class Driver:
    """A driver of one guest: mem is its Memory, domain what the host knows of it, target_pages what it is asked to have. pfns:
    int64 arrays, now: virtual seconds."""

    due: float = NEVER

    def __init__(self, mem: Memory, domain: Domain) -> None:
        if mem.geometry.page_size != domain.host.page_size:
            raise ValueError(
                f"the guest's pages are {mem.geometry.page_size} bytes and the host's frames {domain.host.page_size}: "
                "they must agree"
            )
        self.mem = mem
        self.domain = domain
        self.target_pages = self.current_pages

    def __repr__(self) -> str:
        counts = "".join(f" {name}={count}" for name, count in self.counts().items())
        return f"<{type(self).__name__} current={self.current_pages} target={self.target_pages}{counts}>"

    @property
    def current_pages(self) -> int:
        """Pages of the guest that the host backs."""
        return self.domain.tot_pages

    @property
    def usable_pages(self) -> int:
        """Of current_pages, those that the guest's allocator has: what is added and not online yet is missing."""
        return min(self.current_pages, self.mem.totalram_pages)

    def set_target(self, size: int | str, now: float = 0.0) -> None:
        """From now on the guest is to have so much memory (bytes, or text such as "1.1G"), taken down to whole pages; the
        worker is due at once. ValueError or TypeError for what is no size."""
        self.target_pages = parse_size(size) >> self.mem.geometry.page_shift
        self.due = now

    @uninterrupted
    def work(self, now: float) -> None:
        """Do what is due at `now` (virtual seconds), and set `due` anew. What the calls to the host cost passes on the guest's
        clock, Domain.now; the driver is busy until then."""
        self.domain.wait_until(now)
        self._began = self.domain.now
        self._work()
        self.due = max(self.due, self.domain.now)

    def _work(self) -> None:
        """The kernel's worker of this driver."""
        raise NotImplementedError

    def _slice_over(self) -> bool:
        """Has this call of work taken its time?"""
        return self.domain.now - self._began >= SLICE

    def counts(self) -> dict[str, int]:
        """What a run of targets shows of the driver beside its pages: {name: number}."""
        return {}

    def obstacle(self) -> str:
        """Why the target is not reached, in a few words; empty when it is."""
        page = self.mem.geometry.page_size
        if self.target_pages == self.current_pages:
            return ""
        if self.target_pages < self.current_pages:
            return "the guest has no more to give"
        if self.target_pages > self.mem.max_pfn:
            return f"the guest's memory ends at {format_size(self.mem.max_pfn * page)}"
        if self.domain.max_pages is not None and self.domain.room(1) == 0:
            return f"the host allows {format_size(self.domain.max_pages * page)}"
        return "the host has no frame left" if self.domain.host.free_frames == 0 else "no more could be added"

    def validate(self) -> None:
        """Check the guest, the host and what is between them from scratch; AssertionError with the first that is broken."""
        self.mem.validate()
        self.domain.host.validate()

    def check_balloon(self, pfns: NDArray[np.int64]) -> None:
        """Of validate: the pages in a balloon (int64 array) are there once, and have no frame."""
        if not all_different(pfns):
            raise AssertionError("a page is in the balloon twice")
        if self.domain.backed(pfns).any():
            raise AssertionError("a page in the balloon has a frame")


class PageList:
    """A list of pages as struct list_head gives drivers: pages (pfns: int64 arrays) enter and leave at either end, by the
    batch.

    An int64 array with room at both ends; nothing is moved but when it must grow.
    """

    def __init__(self) -> None:
        self._room = np.empty(1024, np.int64)
        self._first = self._end = 512

    def __len__(self) -> int:
        return self._end - self._first

    def view(self) -> NDArray[np.int64]:
        """Read-only int64 array of what is on the list, head first."""
        view = self._room[self._first : self._end]
        view.flags.writeable = False
        return view

    def add_head(self, pfns: NDArray[np.int64]) -> None:
        """list_add of one page after the other: the last of them is the head."""
        self._need(pfns.size, 0)
        self._room[self._first - pfns.size : self._first] = pfns[::-1]
        self._first -= pfns.size

    def add_tail(self, pfns: NDArray[np.int64]) -> None:
        """list_add_tail of one page after the other."""
        self._need(0, pfns.size)
        self._room[self._end : self._end + pfns.size] = pfns
        self._end += pfns.size

    def head(self, nr: int) -> NDArray[np.int64]:
        """Up to `nr` pages from the head on, left where they are."""
        return self._room[self._first : min(self._end, self._first + nr)].copy()

    def drop_head(self, nr: int) -> None:
        """Take `nr` pages off the head."""
        self._first += nr

    def tail(self, nr: int) -> NDArray[np.int64]:
        """Up to `nr` pages from the tail on, left where they are."""
        return self._room[max(self._first, self._end - nr) : self._end][::-1].copy()

    def drop_tail(self, nr: int) -> None:
        """Take `nr` pages off the tail."""
        self._end -= nr

    def _need(self, before, behind):
        if self._first >= before and self._end + behind <= self._room.size:
            return
        spare = len(self) + before + behind
        room = np.empty(before + len(self) + behind + 2 * spare, np.int64)
        first = spare + before
        room[first : first + len(self)] = self._room[self._first : self._end]
        self._first, self._end, self._room = first, first + len(self), room


def online_pfns(mem: Memory) -> NDArray[np.int64]:
    """int64 array: the pages of `mem` that are free, in use or PG_offline, ascending."""
    pfns = [np.empty(0, np.int64)]
    for start, end in mem.resources:
        states = mem.page_states(start, end - start)
        pfns.append(np.flatnonzero(states & (PG_prepared | PG_reserved) == PG_prepared) + start)
    return np.concatenate(pfns)


def highmem_pfn(geometry: Geometry) -> int | None:
    """The pfn from which on a geometry's pages are highmem (PageHighMem), or None where there is none."""
    limit = 0
    for name, end in geometry.zone_limits:
        if name == "HighMem":
            return limit >> geometry.page_shift
        limit = end or 0
    return None


def alloc_highuser(mem: Memory, nr: int, order: int = 0, highest: str | None = None) -> NDArray[np.int64]:
    """Up to `nr` blocks of `mem` for a balloon, as alloc_page(GFP_HIGHUSER | __GFP_NORETRY) one by one would give them: (got,)
    int64.

    Zones from `highest` down, each to its min watermark and the lowmem_reserve it keeps from such an allocation
    (zone_watermark_ok of order 0, KERNEL.md 2.4). highest: the zone's name, None: the highest kernel zone, not Movable.
    """
    if highest is None:
        highest = mem.geometry.zone_limits[-1][0]
    top = mem.zones.names.index(highest)
    plan = []
    for nid in mem.nodes:
        for name in reversed(mem.zones.names[: top + 1]):
            zone = mem.zones[nid, name]
            spare = (zone.free_pages - zone.min - zone.protection[top]) >> order
            if order:
                spare = min(spare, sum(count << k - order for k, count in enumerate(zone.nr_free) if k >= order))
            if min(nr, spare) > 0:
                plan.append((min(nr, spare), zone))
                nr -= plan[-1][0]
    blocks, got = np.empty(sum(count for count, _ in plan), np.int64), 0
    try:
        for count, zone in plan:
            blocks[got : got + count] = mem.alloc_pages_bulk(count, order, zone)
            got += count
    except BaseException:
        for pfn in blocks[:got].tolist():
            mem.free_pages(pfn, order)
        raise
    return blocks


def free_heads(mem: Memory, order: int) -> NDArray[np.int64]:
    """int64 array: the first pfn of each aligned block of 2^order pages of `mem` that is wholly free, ascending. order: 5 or
    more."""
    width = np.uint64 if order >= 6 else np.uint32
    per_block = (1 << order) // np.iinfo(width).bits
    words = mem.flags["PG_buddy"].view(width)
    words = words[: words.size // per_block * per_block].reshape(-1, per_block)
    return np.flatnonzero((words == np.iinfo(width).max).all(axis=1)) << order


def ram_pages(mem: Memory) -> int:
    """Pages of RAM that the guest (mem: Memory) has: what it boots with and the memory that was added (get_current_ram_size of
    QEMU)."""
    return sum(end - start for start, end in mem.resources)


def totalreserve_pages(mem: Memory) -> int:
    """Pages of `mem` that stay free: each zone's high watermark and its largest lowmem_reserve
    (calculate_totalreserve_pages)."""
    return sum(min(max(zone.protection) + zone.high, zone.managed_pages) for zone in mem.zones.values())


def si_mem_available(mem: Memory) -> int:
    """Pages of `mem` that can be had without driving the machine under its reserves: free pages less totalreserve_pages (6.1,
    which adds what the page cache would give; there is none here)."""
    return max(0, sum(zone.free_pages for zone in mem.zones.values()) - totalreserve_pages(mem))


def free_range(mem: Memory, nr_pages: int) -> int:
    """The lowest pfn of a range of `nr_pages` that no resource of `mem` has, at the beginning of a memory block. HotplugError
    EBUSY where there is none below the end of what the machine can have."""
    page = mem.geometry.page_size
    return mem.resources.find_resource(nr_pages * page, mem.pages_per_block * page, last=mem.max_pfn * page - 1) // page
