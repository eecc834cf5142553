"""Hyper-V's dynamic memory (drivers/hv/hv_balloon.c, 6.18; KERNEL.md 5.7). Whole memory blocks are prepared; only pages that
the host backs go online, the others when the host backs them. This is what the 2008 thread asked for, in another hypervisor's
driver.
"""

from __future__ import annotations

import errno
from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fastonline.core.pageflags import KPF_OFFLINE, PG_reserved
from fastonline.drivers.driver import NEVER, Driver, PageList, alloc_highuser, check_guest, free_range, si_mem_available
from fastonline.drivers.extents import pages_of_extents, parts_of_extents
from fastonline.drivers.hypervisor import Domain, ResidentDomain
from fastonline.errors import HotplugError, pfn_range
from fastonline.hotplug.memory import Memory
from fastonline.hotplug.notifier import MEM_CANCEL_ONLINE, MEM_ONLINE, NOTIFY_OK

ONLINE_TIMEOUT = 5.0
"""Virtual seconds that hv_mem_hot_add waits, after each block that it added, until user space has onlined it."""

# Steps of the driver that may have to wait: it yields the time until which, s. Returns what hot_add does.
_Steps = Generator[float, None, int]


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
        """Return a bool array: whether the host backs each page (has_pfn_is_backed)."""
        there = (pfns >= self.covered_start_pfn) & (pfns < self.covered_end_pfn)
        for start, end in self.gaps:
            there &= (pfns < start) | (pfns >= end)
        return there

    def backs_all(self, start_pfn: int, end_pfn: int) -> bool:
        """Return whether the host backs every page of [start_pfn, end_pfn)."""
        return (self.covered_start_pfn <= start_pfn and end_pfn <= self.covered_end_pfn
                and not any(start < end_pfn and start_pfn < end for start, end in self.gaps))

    @property
    def nr_backed(self) -> int:
        """The number of its pages that the host backs."""
        return self.covered_end_pfn - self.covered_start_pfn - sum(end - start for start, end in self.gaps)


class HvBalloon(Driver):
    """Hot-add by regions, and the balloon, of one guest.

    mem: Memory whose pages are all backed by domain (hypervisor.Domain). auto_online: added blocks are onlined at once. If
    False, the driver waits after each block until user space has onlined memory, at most ONLINE_TIMEOUT (`waits` counts the
    timeouts). When the block is onlined later, its covered part goes online. In `driver.run` others work while it waits.
    backing: "plug", pages get their frames when a region covers them; "touch", at their first touch (a ResidentDomain).

    set_target plays the host. A lower target inflates the balloon, down to the guest's floor. A higher one deflates it, then
    hot-adds from the end of the last region on. The host repeats a request that fails every second. nr_pages: pages. now:
    virtual seconds.
    HotplugError EINVAL when another online_page_callback is set.
    """

    def __init__(self, mem: Memory, domain: Domain, auto_online: bool = True, backing: str = "plug") -> None:
        check_guest(mem, domain)
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
        """Set to False for good when memory to be added already exists (EEXIST)."""
        self.waits = 0
        self._request: Generator[float, None, object] | None = None      # the host's request that waits for user space
        self._deadline = 0.0
        self._onlined = False                    # since the last block was added (ol_waitevent)
        self._ahead = 0                          # pages that the host has backed for a request and no region covers yet
        if not auto_online:
            mem.notifiers.register(self._memory_notifier, actions=MEM_ONLINE | MEM_CANCEL_ONLINE)
        mem.set_online_page_callback(self._online_page, KPF_OFFLINE)

    @property
    def current_pages(self) -> int:
        """As Driver.current_pages. For a ResidentDomain: boot memory and covered pages, less the balloon."""
        if not isinstance(self.domain, ResidentDomain):
            return super().current_pages
        return self._boot_pages + sum(region.nr_backed for region in self.regions) - len(self._list)

    @property
    def chunk(self) -> int:
        """The pages of a memory block, the unit of hot-add (ha_pages_in_chunk; 8852ebf1948d, 6.10)."""
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
        """Handle a hot-add request for `cnt` pages (int) from pg_start on. Returns how many of them, from the first on, the
        guest took (process_hot_add, handle_pg_range).

        region: (start_pfn, nr_pages), the region of the pages according to the host; None: it begins at the chunk of pg_start.
        A request inside a known region extends it; pages that it skips become a gap.

        Without auto_online the guest's clock (Domain.now) advances by ONLINE_TIMEOUT for each block that is not onlined.
        HotplugError EBUSY while the driver waits for user space after the host's last request. HotplugError EINVAL for zero
        pages, pages that the guest already has, and pages before the covered range of their region. Pages without a frame, or
        that could not be added, are not taken. 0 is final if do_hot_add is False.
        """
        if self._request is not None:
            raise HotplugError.of(errno.EBUSY, f"hot-add of {cnt} pages at pfn {pg_start:#x}: another request is not answered")
        steps = self._hot_add(pg_start, cnt, region)
        while True:
            try:
                self.domain.wait_until(next(steps))
            except StopIteration as e:
                return e.value

    def _hot_add(self, pg_start: int, cnt: int, region: tuple[int, int] | None = None) -> _Steps:
        if cnt <= 0 or pg_start < 0 or pg_start + cnt > self.mem.max_pfn:
            raise HotplugError.of(errno.EINVAL, f"hot-add of {cnt} pages at pfn {pg_start:#x}: not pages that can be there")
        if not self.do_hot_add:
            return 0
        if self.domain.backed(range(pg_start, pg_start + cnt)).any() or any(
            region.covered_start_pfn < pg_start + cnt and pg_start < region.covered_end_pfn for region in self.regions
        ):
            raise HotplugError.of(errno.EINVAL, f"hot-add of {pfn_range(pg_start, cnt)}: some of it is the guest's already")
        where = self._pfn_covered(pg_start, cnt)
        if where is None:
            where = self._new_region(pg_start, cnt, region)
        got = self._back(np.arange(pg_start, pg_start + cnt))
        if got == 0:
            return 0
        if where.covered_end_pfn == where.covered_start_pfn:
            where.covered_start_pfn = where.covered_end_pfn = pg_start
        elif where.covered_end_pfn < pg_start:
            where.gaps.append((where.covered_end_pfn, pg_start))
            where.covered_end_pfn = pg_start
        before, taken = where.covered_end_pfn, 0
        try:
            yield from self._handle_pg_range(where, pg_start, got)
        finally:
            taken = where.covered_end_pfn - before
            self._ahead = 0
            if taken < got:
                self.domain.unback(np.arange(pg_start + taken, pg_start + got))
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
            inside = 0 <= start <= pg_start and pg_start + cnt <= end <= self.mem.max_pfn
            if not inside or start % self.chunk or end % self.chunk:
                raise HotplugError.of(
                    errno.EINVAL,
                    f"hot-add of {pfn_range(pg_start, cnt)}: not inside whole chunks {pfn_range(start, end - start)}",
                )
        where = Region(start, end, pg_start, pg_start, start)
        self.regions.append(where)
        return where

    def _handle_pg_range(self, region: Region, pg_start: int, cnt: int) -> Generator[float, None, None]:
        """Cover pages: those of blocks that are added come online if the block is, for the others blocks are added. Yields the
        time until which it waits for user space (handle_pg_range, hv_mem_hot_add)."""
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
            self._onlined = False
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
            elif not self._onlined:
                self._ahead = pg_start + cnt - covered
                yield self.domain.now + ONLINE_TIMEOUT
                self.waits += not self._onlined

    def _memory_notifier(self, action, _notify):
        """hv_memory_notifier: any memory went online, or failed to (complete(&ol_waitevent))."""
        self._onlined = True
        if self._request is not None:
            self.due = 0.0      # at once
        return NOTIFY_OK

    def _bring_online(self, start_pfn, nr_pages):
        """hv_bring_pgs_online: pages of blocks that are online already go online one by one."""
        end_pfn = min(start_pfn + nr_pages, self.mem.max_pfn)
        for first in range(start_pfn // self.chunk * self.chunk, end_pfn, self.chunk):
            if self.mem.sections.online_section_nr(first // self.mem.geometry.pages_per_section):
                start, end = max(first, start_pfn), min(first + self.chunk, end_pfn)
                self.mem.free_reserved_pfns(np.arange(start, end))

    def _online_page(self, pfn, order):
        """hv_online_page: of a block that is being onlined, what a region has and the host backs goes online; what is in no
        region belongs to another driver, and goes online too."""
        end = pfn + (1 << order)
        for region in self.regions:
            if region.start_pfn < end and pfn < region.end_pfn and not region.backs_all(pfn, end):
                pfns = np.arange(pfn, end)
                self.mem.free_reserved_pfns(pfns[region.backed(pfns)])
                return
        self.mem.generic_online_page(pfn, order)

    # -- the balloon

    def floor(self) -> int:
        """Return the pages that the guest keeps for itself (compute_balloon_floor), by its size: 8 MiB + 1/2 below 128 MiB,
        40 + 1/4 below 512, 104 + 1/8 below 2048, 232 + 1/16 below 8192, 488 + 1/32."""
        mib = (1 << 20) // self.mem.geometry.page_size or 1
        size = self.mem.totalram_pages // mib
        for limit, base, shift in ((128, 8, 1), (512, 40, 2), (2048, 104, 3), (8192, 232, 4)):
            if size < limit:
                return (base + (size >> shift)) * mib
        return (488 + (size >> 5)) * mib

    def balloon_up(self, nr_pages: int) -> int:
        """Give up to nr_pages to the host, in blocks of 2 MiB while there are any, and not below the floor. Returns how
        many."""
        want = min(nr_pages, max(0, si_mem_available(self.mem) - self.floor()))
        order = min(9, self.mem.geometry.max_page_order)
        heads = alloc_highuser(self.mem, want >> order, order)
        rest = alloc_highuser(self.mem, want - (heads.size << order))
        pfns = np.concatenate([pages_of_extents(heads, order), rest]) if rest.size else pages_of_extents(heads, order)
        if pfns.size:
            for part in parts_of_extents(pfns, 0):
                self.mem.set_pfns_offline(part)
            self._list.add_tail(pfns)
            self.domain.count("host_message")
            self.domain.unback(pfns)
        return pfns.size

    def balloon_down(self, nr_pages: int) -> int:
        """Take up to nr_pages back, oldest in the balloon first. Returns how many the host had frames for."""
        pfns = self._list.head(nr_pages)
        if pfns.size == 0:
            return 0
        pfns = pfns[: self._back(pfns)]
        self._list.drop_head(pfns.size)
        for part in parts_of_extents(pfns, 0):
            self.mem.free_reserved_pfns(part)
        return pfns.size

    # -- the host's part

    def _work(self):
        """Go on with the host's request, or take the next."""
        if self._request is not None and not self._onlined and self.domain.now < self._deadline:
            self.due = self._deadline      # of a new target the driver reads when the request is answered
            return
        steps, self._request = self._request or self._host_asks(), None
        for self._deadline in steps:
            self._request, self.due = steps, self._deadline
            return
        self.due = self.domain.now + 1 if self.current_pages != self.target_pages else NEVER

    def _host_asks(self) -> Generator[float, None, None]:
        """The host asks for what is between the guest and its target."""
        missing = self.target_pages - self.current_pages
        if missing < 0:
            self.balloon_up(-missing)
        elif missing > 0:
            missing -= self.balloon_down(missing)
            if missing > 0 and len(self._list) == 0:
                yield from self._grow(missing if self.backing == "touch" else self.domain.available(missing))

    def _grow(self, nr_pages: int) -> Generator[float, None, None]:
        if nr_pages <= 0:
            return
        last = self.regions[-1] if self.regions else None
        if last is not None and last.covered_end_pfn < last.end_pfn:
            # fill the existing blocks, then go on behind them if that range is free
            part = min(nr_pages, last.end_pfn - last.covered_end_pfn)
            if (yield from self._hot_add(last.covered_end_pfn, part)) < part:
                return
            nr_pages -= part
        if nr_pages:
            try:
                start = free_range(self.mem, -(-nr_pages // self.chunk) * self.chunk)
            except HotplugError:
                return
            yield from self._hot_add(start, nr_pages)

    def close(self) -> None:
        """Cancel a waiting request and unregister the callbacks. HotplugError EBUSY while pages are in the balloon."""
        if len(self._list):
            raise HotplugError.of(errno.EBUSY, f"the balloon cannot be closed: {len(self._list)} pages are out")
        if self._request is not None:
            self._request.close()
            self._request = None
        if not self.auto_online:
            self.mem.notifiers.unregister(self._memory_notifier)
        self.mem.restore_online_page_callback(self._online_page)
        self.due = NEVER

    def validate(self) -> None:
        """As Driver.validate. Also checks that pages in the balloon have no frame, that pages of a region have one exactly
        where covered, and that all other pages of the guest have one. (Covered pages of offline blocks are backed and not
        managed.)"""
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
        managed, ahead = self.mem.totalram_pages, 0 if isinstance(self.domain, ResidentDomain) else self._ahead
        if managed + waiting + ahead != self.current_pages:
            raise AssertionError(
                f"{managed} pages are managed, {waiting} covered ones wait and {ahead} are to be covered, "
                f"the host backs {self.current_pages}"
            )
