"""The virtio balloon: pages that the guest lends to the host (drivers/virtio/virtio_balloon.c of 6.1, KERNEL.md 5.4).

`VirtioBalloon` is the guest's side, a list of pages. `VirtioBalloonDriver` adds the host with KVM's view of memory: the guest
gives a page to the host by a message and gets it back by touching it, with or without a message.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from fastonline.core.pageflags import PG_buddy, PG_offline
from fastonline.core.undo import Undo
from fastonline.drivers.driver import NEVER, Driver, alloc_highuser, check_guest, free_heads, ram_pages, si_mem_available
from fastonline.drivers.extents import pages_of_extents, parts_of_extents
from fastonline.drivers.hypervisor import ResidentDomain
from fastonline.errors import expect
from fastonline.geometry import parse_size
from fastonline.hotplug.interruptible import uninterrupted
from fastonline.hotplug.memory import Memory
from fastonline.hotplug.migrate import MovablePages
from fastonline.hotplug.zonelists import movable_zonelist
from fastonline.record import Record

ARRAY_PFNS = 256
"""Units of 4 KiB in one message to the host (VIRTIO_BALLOON_ARRAY_PFNS_MAX)."""
OOM_PFNS = 256
"""Units of 4 KiB that the balloon gives back on OOM (VIRTIO_BALLOON_OOM_NR_PAGES)."""
REPORTING_CAPACITY = 32
"""Free blocks in one report (PAGE_REPORTING_CAPACITY)."""
REPORTING_DELAY = 2.0
"""Seconds between two reports of free blocks (PAGE_REPORTING_DELAY)."""
RETRY = 0.2
"""Seconds that fill_balloon sleeps when no page is available."""
PART_PAGES = 1 << 16
"""Pages that the driver moves between two checks of the clock."""
MESSAGES = PART_PAGES // ARRAY_PFNS
"""Messages that the driver passes to its domain in one call."""


class BalloonPages(MovablePages):
    """The pages of the balloon. They are movable (balloon_compaction.c), PG_offline and not managed. With offline=False
    (deflate on OOM) they are in use and stay managed. mem, on_move: as MovablePages."""

    balloon = True

    def __init__(
        self, mem: Memory, on_move: Callable[[NDArray[np.int64], NDArray[np.int64]], object] | None = None,
        offline: bool = True
    ) -> None:
        super().__init__(mem, on_move, offline)


class VirtioBalloon:
    """A balloon in a machine, with ``inflate`` and ``deflate`` by nr_pages pages. Neither recomputes the watermarks.

    mem: Memory. tell_host: tell_host(queue, pfns, messages) is called with "inflate" or "deflate", an int64 array of pfns, and
    the number of messages for them, up to `batch`. must_tell_host: pages are freed after the message, as in 6.18 and in 2.6.25
    with VIRTIO_BALLOON_F_MUST_TELL_HOST; else before it. deflate_on_oom: the guest may take pages back
    (VIRTIO_BALLOON_F_DEFLATE_ON_OOM), so they stay managed.
    """

    def __init__(
        self, mem: Memory, tell_host: Callable[[str, NDArray[np.int64], int], object] | None = None,
        must_tell_host: bool = True, deflate_on_oom: bool = False, batch: int = 1
    ) -> None:
        expect(mem, Memory, "mem")
        self._mem = mem
        self._tell_host = tell_host
        self._must_tell_host = must_tell_host
        self.units_per_page = max(1, mem.geometry.page_size >> 12)
        """4 KiB units in a page of the guest (VIRTIO_BALLOON_PAGES_PER_PAGE)."""
        self._part = batch * self.array
        self.pages = BalloonPages(mem, None if tell_host is None else self._moved, not deflate_on_oom)

    def __repr__(self) -> str:
        return f"<VirtioBalloon pages={len(self)}>"

    def __len__(self) -> int:
        return len(self.pages)

    @property
    def array(self) -> int:
        """Pages of the guest in one message."""
        return ARRAY_PFNS // self.units_per_page

    def _tell(self, queue, pfns):
        if self._tell_host is not None:
            self._tell_host(queue, pfns, -(-len(pfns) // self.array))

    def _moved(self, old, new):
        """virtballoon_migratepage of each: its new place goes to the host, then its old one comes back."""
        self._tell_host("inflate", new, len(new))
        self._tell_host("deflate", old, len(old))

    def _alloc(self, nr):
        """Movable single pages, down to the min watermarks; from the per-CPU lists where the machine has them."""
        if self._mem.pcp is not None:
            return self._mem.page_lists.alloc(nr, movable_zonelist(self._mem, 0))
        return alloc_highuser(self._mem, nr, highest="Movable")

    @uninterrupted
    def inflate(self, nr_pages: int) -> int:
        """Add nr_pages to the balloon (fill_balloon): movable single pages, from the zones where a process would get them.
        Returns how many were added, fewer when the machine runs out of free pages."""
        if nr_pages < 0:
            raise ValueError(f"{nr_pages} pages")
        left = nr_pages
        while left:
            pfns = self._alloc(min(self._part, left))
            if not len(pfns):
                break
            with Undo() as undo:
                undo.add(self._mem.page_lists.free, pfns)
                self._tell("inflate", pfns)
                if self.pages.offline:
                    self._mem.set_pfns_offline(pfns)
                    undo.add(self._mem.clear_pfns_offline, pfns)
                self.pages.adopt(pfns)
            left -= len(pfns)
        return nr_pages - left

    @uninterrupted
    def deflate(self, nr_pages: int) -> int:
        """Free nr_pages of the balloon, newest first (leak_balloon). Returns how many were freed."""
        if nr_pages < 0:
            raise ValueError(f"{nr_pages} pages")
        left = given = min(nr_pages, len(self.pages))
        while left:
            nr = min(self._part, left)
            if self._must_tell_host:
                self._tell("deflate", self.pages.pfns[-nr:])
            pfns = self.pages.give(nr)
            with Undo() as undo:
                undo.add(self.pages.adopt, pfns[::-1])
                if self.pages.offline:
                    self._mem.clear_pfns_offline(pfns[::-1])     # runs in this order, which are faster
                    undo.add(self._mem.set_pfns_offline, pfns)
                self._mem.page_lists.free(pfns)
            if not self._must_tell_host:
                self._tell("deflate", pfns)
            left -= nr
        return given

    def set_target(self, nr_pages: int) -> int:
        """Inflate or deflate the balloon to `nr_pages`. Returns the pages that it holds then."""
        if nr_pages < 0:
            raise ValueError(f"a balloon cannot hold {nr_pages} pages")
        if nr_pages > len(self):
            self.inflate(nr_pages - len(self))
        else:
            self.deflate(len(self) - nr_pages)
        return len(self)


class BalloonStats(Record):
    """A guest's answer on the stats queue, bytes by the name of the VIRTIO_BALLOON_S_* tag. Tags for swap, faults, page cache
    and huge pages are left out, since a Memory has none of these."""

    __slots__ = ()

    MEMFREE: int
    MEMTOT: int
    AVAIL: int


class VirtioBalloonDriver(Driver):
    """A virtio balloon together with its host.

    mem: Memory. domain: hypervisor.ResidentDomain. The balloon inflates while the guest has pages above its min watermarks, and
    retries every RETRY seconds. A target above the guest's size empties it. must_tell_host, deflate_on_oom: as VirtioBalloon.
    reporting: report free blocks to the host every REPORTING_DELAY (VIRTIO_BALLOON_F_REPORTING). nr_pages: pages of the guest.
    now: virtual seconds.
    """

    domain: ResidentDomain

    def __init__(
        self, mem: Memory, domain: ResidentDomain, must_tell_host: bool = True, deflate_on_oom: bool = False,
        reporting: bool = False
    ) -> None:
        check_guest(mem, domain, ResidentDomain)
        self.balloon = VirtioBalloon(mem, self._tell_host, must_tell_host, deflate_on_oom, MESSAGES)
        self.deflate_on_oom = deflate_on_oom
        self._num_pages = 0
        self._hinted = np.empty(0, np.int64)
        self._seen: tuple[object, ...] = ()      # what the last report depended on: it leaves nothing to report
        super().__init__(mem, domain)
        self.due = self._report_at = REPORTING_DELAY if reporting else NEVER
        mem.register_oom_notifier(self._out_of_memory)

    @property
    def current_pages(self) -> int:
        """Pages of the guest, plugged DIMMs included, that are not in the balloon (virtio_balloon_stat, QEMU)."""
        return ram_pages(self.mem) - len(self.balloon)

    @property
    def num_pages(self) -> int:
        """The balloon size that the host asks for, in 4 KiB units (virtio_balloon_config.num_pages)."""
        return self._num_pages

    def set_target(self, size: int | str, now: float = 0.0) -> None:
        """As Driver.set_target, in units of 4 KiB, which the guest rounds up to pages of the balloon (towards_target). The
        target is for the present RAM; a DIMM that is plugged later adds to it (virtio_balloon_to_target, QEMU)."""
        units = parse_size(size) >> 12
        self._num_pages = max(0, ram_pages(self.mem) * self.balloon.units_per_page - units)
        self.target_pages = units // self.balloon.units_per_page
        self.due = now

    @property
    def actual(self) -> int:
        """The balloon size that the guest reports, in 4 KiB units (virtio_balloon_config.actual)."""
        return len(self.balloon) * self.balloon.units_per_page

    @property
    def hinted_pages(self) -> int:
        """Pages taken for free page hinting."""
        return self._hinted.size << self.mem.geometry.max_page_order

    def counts(self) -> dict[str, int]:
        """{"balloon": pages in it, "hinted": hinted_pages}."""
        return {"balloon": len(self.balloon), "hinted": self.hinted_pages}

    def stats(self) -> BalloonStats:
        """Return the answer on the stats queue."""
        self.domain.count("host_message")
        page = self.mem.geometry.page_size
        free = sum(zone.free_pages for zone in self.mem.zones.values())
        return BalloonStats(MEMFREE=free * page, MEMTOT=self.mem.totalram_pages * page, AVAIL=si_mem_available(self.mem) * page)

    def _tell_host(self, queue, pfns, messages):
        """The host discards what is inflated; of what is deflated it takes note: the next touch gives it a frame."""
        if queue == "inflate":
            self.domain.discard(pfns, calls=messages)
        else:
            self.domain.count("host_message", messages, len(pfns))

    def obstacle(self) -> str:
        """As Driver.obstacle: an empty balloon adds nothing to the guest's RAM."""
        if self.target_pages > self.current_pages and len(self.balloon) == 0:
            return "the balloon is empty, and cannot grow the guest past its boot memory"
        return super().obstacle()

    def _work(self):
        """update_balloon_size_func, and the look for free blocks when it is due."""
        self.due = NEVER
        while (missing := -(-self.num_pages // self.balloon.units_per_page) - len(self.balloon)) != 0:
            part = min(abs(missing), PART_PAGES)
            if missing < 0:
                self.balloon.deflate(part)
            elif self.balloon.inflate(part) < part:
                self.due = self.domain.now + RETRY
                break
            if self._slice_over():
                self.due = self.domain.now
                break
        if self.domain.now >= self._report_at:
            self._report_at = self.domain.now + REPORTING_DELAY
            self.report_free_pages()
        self.due = min(self.due, self._report_at)

    def _out_of_memory(self):
        """Give back lent pages before an allocation fails: hinted blocks by the shrinker, then pages of the balloon."""
        return self.return_free_pages(OOM_PFNS) or self.oom_notify()

    def oom_notify(self) -> int:
        """Give OOM_PFNS back to the guest if deflate_on_oom is set. Returns how many pages. The target does not change; the
        balloon inflates again when it is due (virtballoon_oom_notify)."""
        if not self.deflate_on_oom:
            return 0
        return self.balloon.deflate(max(1, OOM_PFNS // self.balloon.units_per_page))

    @property
    def reporting_order(self) -> int:
        """The order of reported blocks: 2 MiB with 64 KiB pages, whose pageblocks are 512 MiB, else a pageblock."""
        return 5 if self.mem.geometry.page_size == 65536 else self.mem.geometry.pageblock_order

    def report_free_pages(self) -> int:
        """Report every free block of reporting_order, whose frames the host then takes. Returns how many pages. Blocks without
        frames are not reported again (PG_reported). Zones with less than one report above their low watermark are skipped
        (page_reporting_process)."""
        mem, order = self.mem, self.reporting_order
        spare = {zone.nr for zone in mem.zones.values() if zone.free_pages > zone.low + (REPORTING_CAPACITY << order)}
        stats = mem.stats()
        frames = self.domain.frames
        seen = (spare, stats["frees"], stats["allocations"], frames["touch"], frames["populate_physmap"])
        if seen == self._seen:
            return 0
        self._seen = seen
        heads = free_heads(mem, order)
        backed = [self.domain.backed(pfns).reshape(-1, 1 << order).any(axis=1) for pfns in parts_of_extents(heads, order)]
        heads = heads[np.concatenate([np.empty(0, bool), *backed])]
        heads = np.array([
            pfn for pfn in heads.tolist() if (zone := mem.zone_of(pfn)) is not None and zone.nr in spare
        ], np.int64)
        if heads.size:
            self.domain.discard(pages_of_extents(heads, order), calls=-(-heads.size // REPORTING_CAPACITY))
        return heads.size << order

    def hint_free_pages(self) -> NDArray[np.int64]:
        """Take every free block of the largest order and hint it to the host, which need not migrate it (send_free_pages). The
        blocks keep their frames. Returns the first pfn of each, an int64 array."""
        heads = alloc_highuser(self.mem, ram_pages(self.mem), self.mem.geometry.max_page_order, highest="Normal")
        self.domain.count("host_message", heads.size)
        self._hinted = np.append(self._hinted, heads)
        return heads

    def return_free_pages(self, nr_pages: int | None = None) -> int:
        """Free hinted blocks: all (VIRTIO_BALLOON_CMD_ID_DONE), or enough for nr_pages, as for the shrinker. Returns how many
        pages (return_free_pages_to_mm)."""
        order = self.mem.geometry.max_page_order
        nr = self._hinted.size if nr_pages is None else min(self._hinted.size, -(-nr_pages >> order))
        keep = self._hinted.size - nr
        heads, self._hinted = self._hinted[keep:], self._hinted[:keep]
        for pfn in heads.tolist():
            self.mem.free_pages(pfn, order)
        return heads.size << order

    def close(self) -> None:
        """Empty the balloon and free hinted blocks (remove_common)."""
        with suppress(ValueError):      # closed before
            self.mem.unregister_oom_notifier(self._out_of_memory)
        self.return_free_pages()
        self.balloon.deflate(len(self.balloon))
        self.target_pages, self._num_pages = ram_pages(self.mem), 0
        self.due = self._report_at = NEVER

    def validate(self) -> None:
        """As Driver.validate. Also checks that pages of the balloon are distinct, have no frame, and are PG_offline or in
        use."""
        super().validate()
        pfns = self.balloon.pages.pfns
        self.check_balloon(pfns)
        states = self.mem.page_states(0, int(pfns.max()) + 1)[pfns] if pfns.size else pfns
        offline = states & PG_offline != 0
        if not np.all(offline == self.balloon.pages.offline):
            raise AssertionError("a page of the balloon is in the wrong state")
        if np.any(states & PG_buddy):
            raise AssertionError("a page of the balloon is free")
