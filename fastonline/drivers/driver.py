"""Common parts of drivers: the virtual clock, the balloon's page list, and how drivers allocate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastonline.core.pageflags import PG_prepared, PG_reserved
from fastonline.core.undo import Undo
from fastonline.drivers.extents import all_different
from fastonline.drivers.hypervisor import Domain
from fastonline.errors import expect
from fastonline.geometry import Geometry, format_size, parse_size
from fastonline.hotplug.interruptible import uninterrupted
from fastonline.hotplug.memory import Memory

NEVER = float("inf")


class Actor(Protocol):
    """An object that `run` schedules: anything with `due` and `work`, such as a driver or udev."""

    @property
    def due(self) -> float:
        """The virtual time of its next work, s. A past time means at once, NEVER means not by itself."""

    def work(self, now: float) -> object:
        """Do the work that is due at `now` (s), and update `due`."""


SLICE = 1.0
"""The longest time slice of a worker, in virtual seconds, when calls to the host cost time."""


AT_ONE_TIME = 10_000
"""The most calls of work at one moment of virtual time, for each actor: more, and one of them does not move its `due`."""


def run(actors: Sequence[Actor], until: float, now: float = 0.0) -> None:
    """Run `actors` in virtual time from `now` to `until` (seconds): the one that is due first works first; among equals, in the
    order given.

    An Actor has `due`, the time of its next work (a past time: at once; NEVER: not by itself), and `work(now)`, which updates
    `due`. While the host calls of one driver take time (Domain.now), the others go on. RuntimeError naming the actor when time
    stands still: its work does not move `due`.
    """
    if now != now or until != until:
        raise ValueError(f"invalid time {now} or {until} (expected virtual seconds)")
    calls = 0
    while True:
        actor = min(actors, key=lambda actor: actor.due, default=None)
        if actor is None or actor.due > until:
            return
        calls = 0 if actor.due > now else calls + 1      # NaN is not above either
        if calls > AT_ONE_TIME * len(actors):
            raise RuntimeError(f"{type(actor).__name__}: its work({now}) leaves due at {actor.due}, so that time stands still")
        now = max(now, actor.due)
        actor.work(now)


def check_guest(mem: object, domain: object, kind: type[Domain] = Domain) -> None:
    """TypeError unless `mem` is a Memory and `domain` of a `kind` of Domain."""
    expect(mem, Memory, "mem")
    expect(domain, kind, "domain")


class Driver:
    """A driver that changes the memory of one guest. mem: its Memory. domain: the host's view of it. target_pages: the size
    that the host asks for. pfns: int64 arrays. now: virtual seconds."""

    due: float = NEVER
    _began = 0.0      # of the latest call of work: the guest's clock

    def __init__(self, mem: Memory, domain: Domain) -> None:
        check_guest(mem, domain)
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
        """The pages of current_pages that the guest's allocator has. Added pages that are not online yet do not count."""
        return min(self.current_pages, self.mem.totalram_pages)

    def set_target(self, size: int | str, now: float = 0.0) -> None:
        """Set the target size of the guest, bytes or text such as "1.1G", rounded down to pages. The worker is due at `now`.
        ValueError or TypeError for an invalid size."""
        self.target_pages = parse_size(size) >> self.mem.geometry.page_shift
        self.due = now

    @uninterrupted
    def work(self, now: float) -> None:
        """Do the work that is due at `now` (virtual seconds), and update `due`. Calls to the host advance the guest's clock,
        Domain.now; the driver is busy until then."""
        self.domain.wait_until(now)
        self._began = self.domain.now
        self._work()
        self.due = max(self.due, self.domain.now)

    def _work(self) -> None:
        """The kernel's worker of this driver."""
        raise NotImplementedError

    def _time_left(self) -> float:
        """Return what is left of the time slice of this call of work, s."""
        return SLICE - (self.domain.now - self._began)

    def _slice_over(self) -> bool:
        """Return whether this call of work has used up its time slice."""
        return self.domain.now - self._began >= SLICE

    def counts(self) -> dict[str, int]:
        """Return {name: number} of the driver's own counters."""
        return {}

    def obstacle(self) -> str:
        """Return why the target is not reached, in a few words; "" if it is."""
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
        """Check guest, host and driver from scratch. AssertionError names the first broken invariant."""
        self.mem.validate()
        self.domain.host.validate()

    def check_balloon(self, pfns: NDArray[np.int64]) -> None:
        """Check that the pages of a balloon (int64 array) are distinct and have no frame."""
        if not all_different(pfns):
            raise AssertionError("a page is in the balloon twice")
        if self.domain.backed(pfns).any():
            raise AssertionError("a page in the balloon has a frame")


class PageList:
    """A list of pages, like the kernel's struct list_head: batches of pages (pfns: int64 arrays) enter and leave at either end.

    It is an array with room at both ends, of 4 bytes a page while the pages are below 2^31. Pages are moved only when it
    grows.
    """

    def __init__(self) -> None:
        self._room: NDArray[np.signedinteger] = np.empty(1024, np.int32)
        self._first = self._end = 512

    def __repr__(self) -> str:
        return f"<PageList pages={len(self)}>"

    def __len__(self) -> int:
        return self._end - self._first

    def view(self) -> NDArray[np.int64]:
        """Return the list, head first, as a read-only int64 array."""
        view = self._room[self._first : self._end].astype(np.int64)
        view.flags.writeable = False
        return view

    def add_head(self, pfns: NDArray[np.int64]) -> None:
        """Add each page at the head, so that the last one is the new head (list_add)."""
        self._need(pfns, pfns.size, 0)
        self._room[self._first - pfns.size : self._first] = pfns[::-1]
        self._first -= pfns.size

    def add_tail(self, pfns: NDArray[np.int64]) -> None:
        """Add each page at the tail (list_add_tail)."""
        self._need(pfns, 0, pfns.size)
        self._room[self._end : self._end + pfns.size] = pfns
        self._end += pfns.size

    def head(self, nr: int) -> NDArray[np.int64]:
        """Return up to `nr` pages from the head without removing them."""
        return self._room[self._first : min(self._end, self._first + nr)].astype(np.int64)

    def drop_head(self, nr: int) -> None:
        """Remove `nr` pages at the head."""
        self._first += nr

    def tail(self, nr: int) -> NDArray[np.int64]:
        """Return up to `nr` pages from the tail without removing them."""
        return self._room[max(self._first, self._end - nr) : self._end][::-1].astype(np.int64)

    def drop_tail(self, nr: int) -> None:
        """Remove `nr` pages at the tail."""
        self._end -= nr

    def _need(self, pfns, before, behind):
        """Make room for `pfns`: so many pages before the head, and so many behind the tail."""
        wide = self._room.dtype == np.int32 and pfns.size and int(pfns.max()) >= 1 << 31
        if self._first >= before and self._end + behind <= self._room.size and not wide:
            return
        spare = len(self) + before + behind
        room = np.empty(before + len(self) + behind + 2 * spare, np.int64 if wide else self._room.dtype)
        first = spare + before
        room[first : first + len(self)] = self._room[self._first : self._end]
        self._first, self._end, self._room = first, first + len(self), room


def pages_without_frame(mem: Memory, domain: Domain) -> NDArray[np.int64]:
    """Return the pages of `mem` that are free, in use or PG_offline and have no frame of the `domain`: an int64
    array, ascending."""
    pfns = [np.empty(0, np.int64)]
    for start, end in mem.resources:
        online = mem.page_states(start, end - start) & (PG_prepared | PG_reserved) == PG_prepared
        pfns.append(np.flatnonzero(online & ~domain.backed(range(start, end))) + start)
    return np.concatenate(pfns)


def highmem_pfn(geometry: Geometry) -> int | None:
    """Return the first highmem pfn of a geometry (PageHighMem), or None."""
    limit = 0
    for name, end in geometry.zone_limits:
        if name == "HighMem":
            return limit >> geometry.page_shift
        limit = end or 0
    return None


def alloc_highuser(mem: Memory, nr: int, order: int = 0, highest: str | None = None) -> NDArray[np.int64]:
    """Allocate up to `nr` blocks of `mem` for a balloon, as single calls of alloc_page(GFP_HIGHUSER | __GFP_NORETRY) would.
    Returns a (got,) int64 array.

    Zones from `highest` down give blocks, each down to its min watermark plus lowmem_reserve (zone_watermark_ok of order 0,
    KERNEL.md 2.4). highest: a zone's name, None: the highest kernel zone, not Movable.
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
    blocks = [np.empty(0, np.int64)] * len(plan)
    with Undo() as undo:
        undo.add(_free_blocks, mem, blocks, order)
        for i, (count, zone) in enumerate(plan):
            blocks[i] = mem.alloc_pages_bulk(count, order, zone)
        return blocks[0] if len(plan) == 1 else np.concatenate([np.empty(0, np.int64), *blocks])


def _free_blocks(mem, blocks, order):
    """Free the blocks of 2^order pages in these arrays."""
    for pfns in blocks:
        for pfn in pfns.tolist():
            mem.free_pages(pfn, order)


def add_memory(undo: Undo, mem: Memory, start_pfn: int, nr_pages: int, nid: int = 0) -> None:
    """Call mem.add_memory(start_pfn, nr_pages, nid) as a step of `undo`: when the change fails later, or a listener raises
    after the memory is there, the range is offlined and removed."""
    unit = mem.geometry.pages_per_section
    sections = range(start_pfn // unit, -(-(start_pfn + nr_pages) // unit))
    if not any(mem.sections.present_section_nr(nr) for nr in sections):
        undo.add(_remove_memory, mem, sections)
    mem.add_memory(start_pfn, nr_pages, nid)


def _remove_memory(mem, sections):
    """Offline and remove these sections, if they are there."""
    unit = mem.geometry.pages_per_section
    if mem.sections.present_section_nr(sections[0]):
        for nr in sections:
            if mem.sections.online_section_nr(nr):
                mem.offline_pages(nr * unit, unit)
        mem.remove_memory(sections[0] * unit, len(sections) * unit)


def free_heads(mem: Memory, order: int) -> NDArray[np.int64]:
    """Return the first pfn of each free aligned block of 2^order pages of `mem`: an int64 array, ascending. order: at least
    5."""
    width = np.uint64 if order >= 6 else np.uint32
    per_block = (1 << order) // np.iinfo(width).bits
    words = mem.flags["PG_buddy"].view(width)
    words = words[: words.size // per_block * per_block].reshape(-1, per_block)
    return np.flatnonzero((words == np.iinfo(width).max).all(axis=1)) << order


def ram_pages(mem: Memory) -> int:
    """Return the RAM of the guest (mem: Memory) in pages: boot memory and added memory (get_current_ram_size, QEMU)."""
    return sum(end - start for start, end in mem.resources)


def totalreserve_pages(mem: Memory) -> int:
    """Return the reserves of `mem` in pages: the high watermark and the largest lowmem_reserve of each zone
    (calculate_totalreserve_pages)."""
    return sum(min(max(zone.protection) + zone.high, zone.managed_pages) for zone in mem.zones.values())


def si_mem_available(mem: Memory) -> int:
    """Return the available pages of `mem`: free pages minus totalreserve_pages (6.1 also counts
    reclaimable page cache; a Memory has none)."""
    return max(0, sum(zone.free_pages for zone in mem.zones.values()) - totalreserve_pages(mem))


def free_range(mem: Memory, nr_pages: int) -> int:
    """Return the lowest pfn of a range of `nr_pages` without a resource, at the start of a memory block of `mem`. HotplugError
    EBUSY if there is none below the end of memory."""
    page = mem.geometry.page_size
    return mem.resources.find_resource(nr_pages * page, mem.pages_per_block * page, last=mem.max_pfn * page - 1) // page
