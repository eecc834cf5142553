"""Hyper-V's dynamic memory (drivers/hv/hv_balloon.c, 6.18; KERNEL.md 5.7): whole memory blocks are prepared, only the part that
the host backs goes online, the rest when the host covers it. What the 2008 thread asked for, as it came to be in another
hypervisor's driver.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fastonline.core.pageflags import KPF_OFFLINE, PG_reserved
from fastonline.drivers.driver import NEVER, Driver, PageList, alloc_highuser, free_range, si_mem_available
from fastonline.drivers.hypervisor import Domain, ResidentDomain, pages_of_extents
from fastonline.errors import HotplugError, pfn_range
from fastonline.hotplug.memory import Memory

ONLINE_TIMEOUT = 5.0     # s that a hot-add waits for user space to online what it added


@dataclass
class Region:
    """struct hv_hotadd_state: a range that hot-add requests fill from its start on.

    Pfns: [start_pfn, end_pfn) is the region, of which [start_pfn, ha_end_pfn) was added to Linux and [covered_start_pfn,
    covered_end_pfn) is backed but for the gaps, a list of (start_pfn, end_pfn). pfns: int64 array.
    """

    start_pfn: int
    end_pfn: int
    covered_start_pfn: int
    covered_end_pfn: int
    ha_end_pfn: int
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """(start_pfn, end_pfn) inside the covered range that the host did not back."""

    def backed(self, pfns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Bool array: which pages the host backs (has_pfn_is_backed)."""
        there = (pfns >= self.covered_start_pfn) & (pfns < self.covered_end_pfn)
        for start, end in self.gaps:
            there &= (pfns < start) | (pfns >= end)
        return there

    @property
    def nr_backed(self) -> int:
        """Pages of it that the host backs."""
        return self.covered_end_pfn - self.covered_start_pfn - sum(end - start for start, end in self.gaps)


class HvBalloon(Driver):
    """Hot-add by regions, and the balloon, of one guest.

    mem: Memory with every page backed by domain (hypervisor.Domain). auto_online: added blocks are onlined at once; else each
    hot-add waits 5 s in vain (`waits` counts them) and whoever onlines the blocks later brings the covered part online.
    backing: "plug", pages get their frames when a region covers them; "touch", at their first touch (a ResidentDomain).

    set_target plays the host's part: a lower target balloons pages out, not below the floor that the guest keeps; a higher one
    takes them back in, then hot-adds from where the last region was covered to. What cannot be had is asked for every second.
    nr_pages: pages, now: virtual seconds.
    HotplugError EINVAL when another online_page_callback is set.
    """

    def __init__(self, mem: Memory, domain: Domain, auto_online: bool = True, backing: str = "plug") -> None:
        if backing not in ("plug", "touch"):
            raise ValueError(f"invalid backing {backing!r} (expected 'plug' or 'touch')")
        if backing == "touch" and not isinstance(domain, ResidentDomain):
            raise ValueError("backing at the first touch needs a ResidentDomain")
        self.backing = backing
        self.auto_online = auto_online
        self.regions: list[Region] = []
        self._boot_pages = mem.totalram_pages
        self._list = PageList()
        super().__init__(mem, domain)
        self.do_hot_add = True
        """False for good once memory that was to be added was there (EEXIST)."""
        self.waits = 0
        mem.set_online_page_callback(self._online_page, KPF_OFFLINE)

    @property
    def current_pages(self) -> int:
        """As Driver.current_pages; of a ResidentDomain boot memory and what regions cover, less what is in the balloon."""
        if not isinstance(self.domain, ResidentDomain):
            return super().current_pages
        return self._boot_pages + sum(region.nr_backed for region in self.regions) - len(self._list)

    @property
    def chunk(self) -> int:
        """Pages of a memory block, in which memory is added (ha_pages_in_chunk; 8852ebf1948d, 6.10)."""
        return self.mem.pages_per_block

    @property
    def ballooned_pages(self) -> int:
        """Pages in the balloon."""
        return len(self._list)

    def counts(self) -> dict[str, int]:
        """{"balloon": pages in it, "regions", "waits"}."""
        return {"balloon": len(self._list), "regions": len(self.regions), "waits": self.waits}

    # -- hot-add

    def hot_add(self, pg_start: int, cnt: int, region: tuple[int, int] | None = None) -> int:
        """A hot-add request: `cnt` pages (int) from pg_start on are the guest's to use. Returns how many of them, from the
        first on, it took (process_hot_add, handle_pg_range).

        region: (start_pfn, nr_pages) that the host says the pages are part of; without, it begins at the chunk that pg_start
        lies in. A request inside a region that is known goes on with it, one that leaves pages out makes a gap of them.

        HotplugError EINVAL for no pages, pages that are the guest's already, or that lie before what their region covers. Pages
        that the host has no frame for, or that could not be added, are not taken: 0 then is a permanent answer when do_hot_add
        is False, else "not now".
        """
        if cnt <= 0 or pg_start < 0 or pg_start + cnt > self.mem.max_pfn:
            raise HotplugError.of(errno.EINVAL, f"hot-add of {cnt} pages at pfn {pg_start:#x}: not pages that can be there")
        if not self.do_hot_add:
            return 0
        pfns = np.arange(pg_start, pg_start + cnt)
        if self.domain.backed(pfns).any() or any(
            region.covered_start_pfn < pg_start + cnt and pg_start < region.covered_end_pfn for region in self.regions
        ):
            raise HotplugError.of(errno.EINVAL, f"hot-add of {pfn_range(pg_start, cnt)}: some of it is the guest's already")
        where = self._pfn_covered(pg_start, cnt)
        if where is None:
            where = self._new_region(pg_start, cnt, region)
        got = self._back(pfns)
        if got == 0:
            return 0
        if where.covered_end_pfn == where.covered_start_pfn:
            where.covered_start_pfn = where.covered_end_pfn = pg_start
        elif where.covered_end_pfn < pg_start:
            where.gaps.append((where.covered_end_pfn, pg_start))
            where.covered_end_pfn = pg_start
        taken = self._handle_pg_range(where, pg_start, got)
        if taken < got:
            self.domain.unback(pfns[taken:got])
        return taken

    def _back(self, pfns):
        """The host says that these pages are the guest's: how many of them, from the first on. Those that are backed when
        touched get no frame yet."""
        if self.backing == "touch":
            self.domain.count("host_message", 1, pfns.size)
            return pfns.size
        self.domain.count("host_message")
        return self.domain.back(pfns)

    def _pfn_covered(self, pg_start, cnt):
        """The region that the range lies in, made longer to hold it; None: there is none."""
        for region in self.regions:
            if region.start_pfn <= pg_start < region.end_pfn:
                if pg_start < region.covered_start_pfn and region.covered_start_pfn < region.covered_end_pfn:
                    raise HotplugError.of(
                        errno.EINVAL,
                        f"hot-add of {pfn_range(pg_start, cnt)}: its region begins at pfn {region.covered_start_pfn:#x}",
                    )
                beyond = pg_start + cnt - region.end_pfn
                if beyond > 0:
                    region.end_pfn += -(-beyond // self.chunk) * self.chunk
                return region
        return None

    def _new_region(self, pg_start, cnt, region):
        if region is None:
            start = pg_start // self.chunk * self.chunk
            end = start + -(-(pg_start - start + cnt) // self.chunk) * self.chunk
        else:
            start, end = region[0], region[0] + region[1]
            if not start <= pg_start or pg_start + cnt > end or start % self.chunk or end % self.chunk:
                raise HotplugError.of(
                    errno.EINVAL,
                    f"hot-add of {pfn_range(pg_start, cnt)}: not inside whole chunks {pfn_range(start, end - start)}",
                )
        where = Region(start, end, pg_start, pg_start, start)
        self.regions.append(where)
        return where

    def _handle_pg_range(self, region, pg_start, cnt):
        """Cover pages: those of blocks that are added come online if the block is, for the others blocks are added."""
        before = region.covered_end_pfn
        below = max(0, min(region.ha_end_pfn - pg_start, cnt))
        if below:
            region.covered_end_pfn += below
            self._bring_online(pg_start, below)
        while region.covered_end_pfn < pg_start + cnt:
            start = region.ha_end_pfn
            covered = min(start + self.chunk, pg_start + cnt)
            covered, earlier = max(covered, region.covered_end_pfn), region.covered_end_pfn
            region.ha_end_pfn += self.chunk
            region.covered_end_pfn = covered
            try:
                self.mem.add_memory(start, self.chunk)
            except HotplugError as e:
                region.ha_end_pfn -= self.chunk
                region.covered_end_pfn = earlier
                if e.errno == errno.EEXIST:
                    self.do_hot_add = False
                break
            if self.auto_online:
                self.mem.online_pages(start, self.chunk)
            else:
                self.waits += 1
        return region.covered_end_pfn - before

    def _bring_online(self, start_pfn, nr_pages):
        """hv_bring_pgs_online: pages of blocks that are online already go online one by one."""
        for first in range(start_pfn // self.chunk * self.chunk, start_pfn + nr_pages, self.chunk):
            if self.mem.sections.online_section_nr(first // self.mem.geometry.pages_per_section):
                start, end = max(first, start_pfn), min(first + self.chunk, start_pfn + nr_pages)
                self.mem.free_reserved_pfns(np.arange(start, end))

    def _online_page(self, pfn, order):
        """hv_online_page: of a block that is being onlined, what a region has and the host backs goes online; what is in no
        region is somebody else's, and goes too."""
        end = pfn + (1 << order)
        for region in self.regions:
            if region.start_pfn < end and pfn < region.end_pfn:
                pfns = np.arange(pfn, end)
                backed = region.backed(pfns)
                if not backed.all():
                    self.mem.free_reserved_pfns(pfns[backed])
                    return
        self.mem.generic_online_page(pfn, order)

    # -- the balloon

    def floor(self) -> int:
        """Pages that the guest keeps for itself (compute_balloon_floor), by its size: 8 MiB + 1/2 below 128 MiB, 40 + 1/4 below
        512, 104 + 1/8 below 2048, 232 + 1/16 below 8192, 488 + 1/32."""
        mib = (1 << 20) // self.mem.geometry.page_size or 1
        size = self.mem.totalram_pages // mib
        for limit, base, shift in ((128, 8, 1), (512, 40, 2), (2048, 104, 3), (8192, 232, 4)):
            if size < limit:
                return (base + (size >> shift)) * mib
        return (488 + (size >> 5)) * mib

    def balloon_up(self, nr_pages: int) -> int:
        """Give the host up to so many pages, in blocks of 2 MiB as long as there are any, not below the floor. Returns how
        many."""
        want = min(nr_pages, max(0, si_mem_available(self.mem) - self.floor()))
        order = min(9, self.mem.geometry.max_page_order)
        heads = alloc_highuser(self.mem, want >> order, order)
        large = pages_of_extents(heads, order)
        pfns = np.concatenate([large, alloc_highuser(self.mem, want - large.size)])
        if pfns.size:
            self.mem.set_pfns_offline(pfns)
            self._list.add_tail(pfns)
            self.domain.count("host_message")
            self.domain.unback(pfns)
        return pfns.size

    def balloon_down(self, nr_pages: int) -> int:
        """The host gives back up to so many pages, those longest in the balloon first. Returns how many it had frames for."""
        pfns = self._list.head(nr_pages)
        if pfns.size == 0:
            return 0
        pfns = pfns[: self._back(pfns)]
        self._list.drop_head(pfns.size)
        self.mem.free_reserved_pfns(pfns)
        return pfns.size

    # -- the host's part

    def _work(self):
        """The host asks for what is between the guest and its target."""
        self.due = NEVER
        missing = self.target_pages - self.current_pages
        if missing < 0:
            self.balloon_up(-missing)
        elif missing > 0:
            missing -= self.balloon_down(missing)
            if missing > 0 and len(self._list) == 0:
                self._grow(missing if self.backing == "touch" else self.domain.available(missing))
        if self.current_pages != self.target_pages:
            self.due = self.domain.now + 1

    def _grow(self, nr_pages):
        if nr_pages <= 0:
            return
        last = self.regions[-1] if self.regions else None
        if last is not None and last.covered_end_pfn < last.end_pfn:
            # fill the blocks that are there, then go on behind them if nobody is there
            part = min(nr_pages, last.end_pfn - last.covered_end_pfn)
            if self.hot_add(last.covered_end_pfn, part) < part:
                return
            nr_pages -= part
        if nr_pages:
            try:
                start = free_range(self.mem, -(-nr_pages // self.chunk) * self.chunk)
            except HotplugError:
                return
            self.hot_add(start, nr_pages)

    def close(self) -> None:
        """Let go of the callback. HotplugError EBUSY while pages are in the balloon."""
        if len(self._list):
            raise HotplugError.of(errno.EBUSY, f"the balloon cannot be closed: {len(self._list)} pages are out")
        self.mem.restore_online_page_callback(self._online_page)
        self.due = NEVER

    def validate(self) -> None:
        """As Driver.validate, and: ballooned pages have no frame, a region's pages have one exactly where covered, and every
        other page of the guest has one. (Pages covered in blocks not online yet are backed and not managed.)"""
        super().validate()
        ballooned = self._list.view()
        self.check_balloon(ballooned)
        waiting = 0
        for region in self.regions:
            pfns = np.arange(region.start_pfn, region.ha_end_pfn)
            covered = region.backed(pfns)
            out = np.isin(pfns, ballooned)
            backed, may_be = self.domain.backed(pfns), covered & ~out
            if np.any(backed & ~may_be) or not isinstance(self.domain, ResidentDomain) and np.any(may_be & ~backed):
                raise AssertionError(f"{region} does not say what the host backs")
            if pfns.size:
                reserved = self.mem.page_states(region.start_pfn, pfns.size) & PG_reserved != 0
                if not np.all(reserved[~covered]):
                    raise AssertionError(f"{region}: a page that is not covered is online")
                waiting += int(np.count_nonzero(reserved & covered))
        managed = self.mem.totalram_pages
        if managed + waiting != self.current_pages:
            raise AssertionError(
                f"{managed} pages are managed and {waiting} covered ones wait, the host backs {self.current_pages}"
            )
