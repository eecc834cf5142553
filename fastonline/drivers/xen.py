"""The Xen balloon, the driver for which the 2008 thread proposed onlining in two phases: before the proposal, as proposed, and
later (drivers/xen/balloon.c of 2.6.26, 3.1 and 6.18; KERNEL.md 5.1 to 5.3).

A page that the guest has and the host does not back is on the balloon list. To grow, the driver asks the host for frames, takes
pages off the list, enters the frames into its p2m table and frees the pages. To shrink it allocates pages, makes their p2m
entries INVALID_P2M_ENTRY, puts them on the list and gives the frames back. When the list is empty and the target is higher,
memory must be added: in the thread's way by balloon_expand over prepare_online_pages, since 3.1 by add_memory and an
online_page_callback.
"""

from __future__ import annotations

import contextlib
import errno
import re
import warnings
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastonline.core.pageflags import KPF_OFFLINE, PG_prepared
from fastonline.core.ram import array_of
from fastonline.core.undo import Undo
from fastonline.drivers.driver import (
    NEVER,
    Driver,
    PageList,
    add_memory,
    alloc_highuser,
    check_guest,
    free_range,
    highmem_pfn,
    pages_without_frame,
    si_mem_available,
    totalreserve_pages,
)
from fastonline.drivers.extents import AT_ONCE, all_different, pages_of_extents
from fastonline.drivers.hypervisor import INVALID_P2M_ENTRY, Domain
from fastonline.errors import HotplugError, invalid_name, pfn_range
from fastonline.geometry import pages_of_size
from fastonline.hotplug.memory import Memory
from fastonline.hotplug.notifier import MEM_GOING_ONLINE, MEM_ONLINE, NOTIFY_BAD, NOTIFY_OK

BP_DONE = "BP_DONE"
BP_WAIT = "BP_WAIT"              # memory was added, user space has not onlined it yet
BP_EAGAIN = "BP_EAGAIN"
BP_ECANCELED = "BP_ECANCELED"    # given up until there is a new target

RETRY_UNLIMITED = 0


@dataclass(frozen=True)
class Behaviour:
    """The differences between versions of the driver."""

    name: str
    all_or_nothing: bool
    """If the host gives fewer frames than asked for, they are returned, and the reservation counts as the limit (hard_limit).
    Since 3.1 they are used."""
    expands: bool
    """Grow by balloon_expand of the thread: add, prepare, and put every page on the list."""
    callback: bool
    """Grow by add_memory and ordinary onlining; an online_page_callback puts the pages on the list."""
    promises: bool
    """Count pages added and not onlined yet in hotplug_pages and balloon_hotplug (3.1). Later total_pages includes them."""
    schedule: bool
    """Retry after 1, 2, 4... seconds, at most max_retry_count times (3.1). Before, every second without end."""
    reserves: bool
    """Shrinking stops at si_mem_available."""
    max_retry_count: int
    """Retries before BP_ECANCELED: RETRY_UNLIMITED until 5.3 (XSA-300), then 4."""
    wakes_after: float
    """Seconds after which the worker looks again when it has given up: balloon_thread's 3600 (6.18), NEVER before."""


XEN_2_6_26 = Behaviour(
    "2.6.26", all_or_nothing=True, expands=False, callback=False, promises=False, schedule=False, reserves=False,
    max_retry_count=RETRY_UNLIMITED, wakes_after=NEVER,
)
XEN_THREAD = replace(XEN_2_6_26, name="thread", expands=True)
XEN_3_1 = Behaviour(
    "3.1", all_or_nothing=False, expands=False, callback=True, promises=True, schedule=True, reserves=False,
    max_retry_count=RETRY_UNLIMITED, wakes_after=NEVER,
)
XEN_6_18 = replace(XEN_3_1, name="6.18", promises=False, reserves=True, max_retry_count=4, wakes_after=3600.0)

BEHAVIOURS = {behaviour.name: behaviour for behaviour in (XEN_2_6_26, XEN_THREAD, XEN_3_1, XEN_6_18)}


def by_name(name: str) -> Behaviour:
    """Return the behaviour called `name`: "2.6.26", "thread", "3.1" or "6.18". ValueError for another name.

    "today", the old name of "6.18", warns with DeprecationWarning. The next release drops it.
    """
    if name == "today":
        warnings.warn("the behaviour 'today' is now '6.18'", DeprecationWarning, stacklevel=2)
        name = "6.18"
    if name not in BEHAVIOURS:
        raise invalid_name("behaviour", name, BEHAVIOURS)
    return BEHAVIOURS[name]


def __getattr__(name: str) -> Behaviour:
    if name == "XEN_TODAY":
        warnings.warn("XEN_TODAY is now XEN_6_18", DeprecationWarning, stacklevel=2)
        return XEN_6_18
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class XenBalloon(Driver):
    """The balloon of one guest.

    mem: Memory, every page of which at the time of the call is free or in use; pages beyond what the domain was built with
    start in the balloon (they must be free). domain: hypervisor.Domain. behaviour: one of XEN_2_6_26, XEN_THREAD, XEN_3_1,
    XEN_6_18. order: 9 balloons in large pages, the thread's wish; the guest is then within one of them of its target. batch:
    extents a hypercall, None: a page of them, 1024 on 32-bit and 512 on 64-bit (frame_list); 1: one at a time. auto_online:
    added memory is onlined at once (31bc3858ea3e); if False, user space must do it. max_retry_count, max_schedule_delay: as in
    sysfs, s; None: the version's own. hotplug_unpopulated: alloc_ballooned_pages adds memory before it takes any from the
    guest (vm.xen_hotplug_unpopulated, 6.18). static_max: size that an HVM guest was built for, as xenstore has it
    (memory/static-max); None: a PV guest, or dom0.

    set_target sets the goal; the worker runs when it is due (driver.run, or work). Beyond the cap or the host's memory the
    guest stays where it got (2.6.26: at hard_limit until there is a new target; 3.1 on: BP_ECANCELED after the retries); below
    what it can give up it stays at its watermarks and tries again. pfns: int64 arrays, nr_pages: pages (delta: negative ones
    too), now: virtual seconds, kib and text: what xenstore and sysfs are given, admin: by who has CAP_SYS_ADMIN.

    HotplugError EINVAL when another online_page_callback is set; nothing has changed then.
    """

    def __init__(
        self,
        mem: Memory,
        domain: Domain,
        behaviour: Behaviour = XEN_6_18,
        order: int = 0,
        batch: int | None = None,
        auto_online: bool = True,
        max_retry_count: int | None = None,
        max_schedule_delay: int = 32,
        static_max: int | None = None,
        hotplug_unpopulated: bool = False,
    ) -> None:
        check_guest(mem, domain)
        frame_list = mem.geometry.page_size // (mem.geometry.bits // 8)
        if not 0 <= order <= mem.geometry.max_page_order:
            raise ValueError(f"order {order} is not between 0 and MAX_PAGE_ORDER = {mem.geometry.max_page_order}")
        if order and behaviour.callback and mem.rules.online_order is not None and mem.rules.online_order < order:
            raise ValueError(f"{mem.rules.name} hands pages to the callback with order {mem.rules.online_order}, not {order}")
        if batch is not None and not 1 <= batch <= frame_list:
            raise ValueError(f"a batch of {batch} extents: a page holds 1 to {frame_list} of them")
        super().__init__(mem, domain)
        self.behaviour = behaviour
        self.order = order
        self.batch = frame_list if batch is None else batch
        self._frame_list = frame_list
        self.auto_online = auto_online
        self.max_retry_count = behaviour.max_retry_count if max_retry_count is None else max_retry_count
        self.hotplug_unpopulated = hotplug_unpopulated
        self.max_schedule_delay = max_schedule_delay
        self.schedule_delay = 1
        self.retry_count = 1
        self.state = BP_DONE
        self.hard_limit: int | None = None
        """The reservation limit found so far, pages (2.6.26). None: unknown."""
        self.hotplug_pages = 0
        """Pages of memory that was added and is not onlined yet (3.1)."""
        self.balloon_hotplug = 0
        """Pages of it beyond hotplug_pages, which go to the balloon (3.1)."""
        self.driver_pages = 0
        """Pages that other drivers got besides the balloon. The host counts them; the hard limit must not."""
        self.target_unpopulated = 0
        """Pages of the balloon that other drivers have (alloc_ballooned_pages)."""
        self._held = np.empty(0, np.int64)
        self._static_max = None if static_max is None else pages_of_size(static_max, mem.geometry.page_size, "static_max")
        self._target_diff: int | None = None
        self.expansions = 0
        """How often memory was added."""
        self.gave_up = 0
        """How often the retries ended in BP_ECANCELED."""
        self._list = PageList()     # of extents: their first pfns
        self._highmem_pfn = highmem_pfn(mem.geometry)
        self._high = 0
        start, nr = self._not_backed()
        if behaviour.callback:
            mem.set_online_page_callback(self._online_pages, KPF_OFFLINE, by_array=True)
        if nr:
            try:
                mem.alloc_contig_range(start, nr)
            except HotplugError:
                if behaviour.callback:
                    mem.restore_online_page_callback(self._online_pages)
                raise
            self.mem.set_pfns_offline(np.arange(start, start + nr))
            self._put_on_list(start, nr)
        self._expanded: list[tuple[int, int]] = []          # (start_pfn, nr_pages) of each balloon_expand
        self._expanding = False
        if behaviour.callback:
            mem.notifiers.register(self._notifier, actions=MEM_ONLINE)
        self._total_pages = self.current_pages + self.balloon_pages

    def _not_backed(self):
        """(start_pfn, nr_pages) of what the guest has online and the domain was built without."""
        pfns = pages_without_frame(self.mem, self.domain)
        if pfns.size == 0:
            return 0, 0
        start, nr = int(pfns[0]), int(pfns[-1]) + 1 - int(pfns[0])
        if nr != pfns.size or (start | nr) & (1 << self.order) - 1:
            raise ValueError(
                f"pages {pfn_range(start, nr)} without a frame are not one range of whole extents of order {self.order}"
            )
        return start, nr

    def __repr__(self) -> str:
        return super().__repr__().replace(" ", f" {self.behaviour.name} ", 1)

    # -- what there is

    @property
    def balloon_low(self) -> int:
        """Lowmem pages on the list."""
        return (len(self._list) - self._high) << self.order

    @property
    def balloon_high(self) -> int:
        """Highmem pages on the list."""
        return self._high << self.order

    @property
    def balloon_pages(self) -> int:
        """Pages on the list."""
        return len(self._list) << self.order

    @property
    def total_pages(self) -> int:
        """Pages of the guest, backed or not, including those added and not onlined yet (6.18)."""
        return self._total_pages

    def balloon_list(self) -> NDArray[np.int64]:
        """Return the first pfn of each extent on the list, head first: a read-only int64 array."""
        return self._list.view()

    def counts(self) -> dict[str, int]:
        """{"balloon": pages on the list, "expansions", "gave_up"}."""
        return {"balloon": self.balloon_pages, "expansions": self.expansions, "gave_up": self.gave_up}

    # -- the target

    def set_target(self, size: int | str, now: float = 0.0) -> None:
        """As Driver.set_target. Also clears the hard limit (balloon_set_new_target)."""
        super().set_target(size, now)
        self.hard_limit = None

    def watch_target(self, kib: int, now: float = 0.0) -> None:
        """Handle a change of xenstore's memory/target to `kib` KiB (int), rounded to pages. For an HVM guest the difference
        between static-max and its size at the first change belongs to the firmware and to no target (target_diff, 6.18)."""
        if self._target_diff is None:
            self._target_diff = 0 if self._static_max is None else self._static_max - self.target_pages
        pages = max(0, (kib >> self.mem.geometry.page_shift - 10) - self._target_diff)
        self.set_target(pages << self.mem.geometry.page_shift, now)

    def store_target_kb(self, text: str, now: float = 0.0, admin: bool = True) -> int:
        """Write `text` to sysfs's target_kb. Returns the number of characters written. 2.6.26 reads the number as bytes, with
        a suffix K, M or G, despite the file's name (fixed by 618b2c8db24); later it is KiB. Text that is not a number counts
        as 0.

        HotplugError: EPERM without CAP_SYS_ADMIN; 2.6.26 EBADMSG for one character or none, EFBIG for more than 64.
        """
        if not admin:
            raise HotplugError.of(errno.EPERM, "target_kb is for CAP_SYS_ADMIN")
        number, suffix = re.findall(r"\A(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*|)([kKmMgG]?)", text)[0]
        base = 16 if number[1:2] in ("x", "X") else 8 if number[:1] == "0" else 10
        value, shift = int(number or "0", base), 10
        if self.behaviour.all_or_nothing:
            if len(text) <= 1:
                raise HotplugError.of(errno.EBADMSG, f"target_kb: {text!r} is a runt")
            if len(text) > 64:
                raise HotplugError.of(errno.EFBIG, f"target_kb: {len(text)} characters are more than 64")
            shift = {"": 0, "k": 10, "m": 20, "g": 30}[suffix.lower()]
        self.set_target(value << shift >> self.mem.geometry.page_shift << self.mem.geometry.page_shift, now)
        return len(text)

    def _credit(self):
        """Extents to grow (or, negative, shrink) by."""
        target = self.target_pages
        if self.behaviour.all_or_nothing:
            if self.hard_limit is not None:
                target = min(target, self.hard_limit)
            target = min(target, self.current_pages + self.balloon_pages)
        credit = target - self.current_pages - self.hotplug_pages
        return credit >> self.order if credit > 0 else -(-credit >> self.order)

    def _work(self):
        """balloon_process up to 3.1, balloon_thread in 6.18: batch after batch until the target is reached or something is in
        the way."""
        self.due = NEVER
        if self.behaviour.schedule:
            self._work_by_schedule()
        else:
            self._work_by_timer()

    def _work_by_timer(self):
        if self.behaviour.expands:
            wanted = self.target_pages if self.hard_limit is None else min(self.target_pages, self.hard_limit)
            missing = wanted - self.current_pages - self.balloon_pages
            if missing > 0:
                self._try_expand(-(-missing // self.mem.geometry.pages_per_section) * self.mem.geometry.pages_per_section)
        sleeps = False
        while not sleeps and (credit := self._credit()) and not self._slice_over():
            if credit > 0:
                self._increase(credit)
            else:
                sleeps = self._decrease(-credit) == BP_EAGAIN
        if self._credit():
            self.due = min(self.due, self.domain.now + (1 if sleeps else 0))

    def _try_expand(self, nr_pages):
        # the thread's driver has no error checking here: what cannot be added is not there to grow into
        with contextlib.suppress(HotplugError):
            self.balloon_expand(nr_pages)

    def _work_by_schedule(self):
        while True:
            credit, state = self._credit(), BP_DONE
            if credit > 0:
                state = self._increase(credit) if self._inflated() else self._reserve_additional_memory()
            elif credit < 0:
                state = self._shrink_within_reserves(-credit)
            self.state = state = self._update_schedule(state)
            if state != BP_DONE or not self._credit() or self._slice_over():
                break
        now = self.domain.now
        if state == BP_EAGAIN:
            self.due = min(self.due, now + self.schedule_delay)
        elif state == BP_WAIT:
            self.due = min(self.due, now + 1)
        elif state == BP_ECANCELED:
            self.due = min(self.due, now + self.behaviour.wakes_after)
        elif self._credit():
            self.due = now

    def _update_schedule(self, state):
        if state in (BP_WAIT, BP_ECANCELED):
            return state
        if state == BP_DONE:
            self.schedule_delay = self.retry_count = 1
            return state
        self.retry_count += 1
        if self.max_retry_count != RETRY_UNLIMITED and self.retry_count > self.max_retry_count:
            self.schedule_delay = self.retry_count = 1
            self.gave_up += 1
            return BP_ECANCELED
        self.schedule_delay = min(self.schedule_delay * 2, self.max_schedule_delay)
        return BP_EAGAIN

    def _inflated(self):
        return len(self._list) > 0 or self.balloon_hotplug > 0

    def _shrink_within_reserves(self, extents):
        if not self.behaviour.reserves:
            return self._decrease(extents)
        allowed = min(extents, si_mem_available(self.mem) >> self.order)
        state = self._decrease(allowed)
        short = allowed < extents and allowed << self.order < totalreserve_pages(self.mem)
        return BP_EAGAIN if state == BP_DONE and short else state

    # -- the list

    def _append(self, extents):
        """balloon_append of each: lowmem is used again first, so highmem goes to the tail."""
        if self._highmem_pfn is None:
            self._list.add_head(extents)
            return
        high = extents >= self._highmem_pfn
        nr_high = int(np.count_nonzero(high))
        self._list.add_head(extents[~high])
        self._list.add_tail(extents[high])
        self._high += nr_high

    def _retrieve(self, extents):
        """Extents seen at the head leave the list."""
        self._list.drop_head(extents.size)
        if self._highmem_pfn is not None:
            self._high -= int(np.count_nonzero(extents >= self._highmem_pfn))

    # -- growing and shrinking by one batch

    def _at_once(self, extents, call):
        """How many of these extents one step moves. Usually a batch; several where the result is the same: when no
        notifier hears of them, and even the most expensive calls end within the time slice."""
        if self.order or (self.behaviour.expands and self.mem.notifiers.heard & MEM_ONLINE):
            return min(extents, self.batch)
        nr, domain = self.batch, self.domain
        dearest = domain.cost(call, 1, nr, nr) + domain.cost("update_va_mapping", nr, nr)
        pages = min(AT_ONCE, self._time_left() * 1e9 / dearest * nr) if dearest else AT_ONCE
        return min(extents, max(1, int(pages) // self.batch) * self.batch)

    def _increase(self, extents):
        """increase_reservation: back pages of the list and free them. BP_EAGAIN when the host gives nothing."""
        if len(self._list) == 0:
            # 3.1: what is added and not onlined yet is promised, no more can be done
            nr = min(extents << self.order, self.balloon_hotplug)
            self.hotplug_pages += nr
            self.balloon_hotplug -= nr
            return BP_DONE
        nr = self._at_once(extents, "populate_physmap")
        if nr > self.batch:     # the call that fails is one of its own
            nr = max(self.batch, self.domain.available(nr) // self.batch * self.batch)
        heads = self._list.head(nr)
        if heads.size > self.batch:
            mfns = self.domain.populate_in_batches(heads.size, self.batch, self._mapped(heads))
        else:
            mfns = self.domain.populate_physmap(heads, self.order)
        if mfns.size < heads.size and self.behaviour.all_or_nothing:
            if mfns.size:
                self.domain.decrease_reservation(mfns, self.order)
            self.hard_limit = self.current_pages + (mfns.size << self.order) - self.driver_pages
            return BP_DONE
        if mfns.size == 0:
            return BP_EAGAIN
        heads = heads[: mfns.size]
        self._retrieve(heads)
        pfns, mfns = pages_of_extents(heads, self.order), pages_of_extents(mfns, self.order)
        self.domain.set_phys_to_machine(pfns, mfns)
        if heads.size <= self.batch:
            self._link_lowmem(pfns, mfns)
        if self.behaviour.expands:
            self.mem.set_pfns_reserved(pfns)      # those that were ballooned out; mark_pages_onlined takes Reserved pages
            if self.batch == 1:     # a mark is a call for each
                mark, size = self.mem.mark_pages_onlined, 1 << self.order
                for head in heads.tolist():
                    mark(head, size)
            else:
                for at in range(0, pfns.size, self.batch << self.order):
                    self.mem.mark_pfns_onlined(pfns[at : at + (self.batch << self.order)])
        else:
            self.mem.free_reserved_pfns(pfns)
        return BP_DONE

    def _decrease(self, extents):
        """decrease_reservation: allocate pages and give their frames back. BP_EAGAIN when there were not so many."""
        if self.hotplug_pages:
            nr = min(extents << self.order, self.hotplug_pages)
            self.hotplug_pages -= nr
            self.balloon_hotplug += nr
            return BP_DONE
        want = self._at_once(extents, "decrease_reservation")
        heads = alloc_highuser(self.mem, want, self.order)
        if heads.size:
            pfns = pages_of_extents(heads, self.order)
            mfns = self.domain.p2m_frames(pfns)
            self.domain.set_phys_to_machine(pfns, INVALID_P2M_ENTRY)
            self.mem.set_pfns_offline(pfns)
            self._append(heads)
            self._give_back(pfns, mfns)
        return BP_EAGAIN if heads.size < want else BP_DONE

    def _give_back(self, pfns, mfns):
        """Frames of these pages of whole extents go back, as large ones where they are, else one by one."""
        mapped = self._mapped(pfns)
        if self.order:
            self.domain.update_va_mapping(pfns[mapped], None)
            extents = mfns.reshape(-1, 1 << self.order)
            heads = extents[:, 0]
            large = (extents == heads[:, None] + np.arange(1 << self.order)).all(axis=1) & (heads & (1 << self.order) - 1 == 0)
            if large.any():
                self.domain.decrease_reservation(heads[large], self.order)
            mfns, mapped = extents[~large].ravel(), None
        self.domain.decrease_in_batches(mfns, self.batch, mapped)

    def _mapped(self, pfns):
        """Which of these pages the kernel maps, so that its page tables must follow: lowmem."""
        return np.ones(pfns.size, bool) if self._highmem_pfn is None else pfns < self._highmem_pfn

    def _link_lowmem(self, pfns, mfns):
        """Map lowmem pages to their frames."""
        low = self._mapped(pfns)
        if low.any():
            self.domain.update_va_mapping(pfns[low], mfns[low])

    # -- pages for other drivers

    def balloon_update_driver_allowance(self, delta: int) -> None:
        """Record that a driver got `delta` frames (negative: gave) outside of the balloon."""
        self.driver_pages += delta

    def alloc_ballooned_pages(self, nr_pages: int, now: float = 0.0) -> NDArray[np.int64]:
        """Take nr_pages without frames out of the balloon, for a driver that maps another domain's frames there. Returns an
        int64 array. If the balloon is too small it inflates first; the worker compensates later. 3.1 takes pages from the
        list's tail (highmem), 6.18 from its head. All or nothing.

        MemoryError if the guest cannot spare so many; ValueError before 3.1, which has no such call, and for large pages.
        """
        if not self.behaviour.callback or self.order or nr_pages < 0:
            raise ValueError(f"{nr_pages} ballooned pages of a balloon of {self.behaviour.name} and order {self.order}")
        self.target_unpopulated += nr_pages
        self.due = now
        while len(self._list) < nr_pages:
            missing = nr_pages - len(self._list)
            if self.hotplug_unpopulated and not self.behaviour.promises:
                self._reserve_additional_memory()
                if len(self._list) > nr_pages - missing:
                    continue
            spare = not self.behaviour.reserves or si_mem_available(self.mem) >= missing
            if not spare or self._decrease(missing) != BP_DONE:
                self.target_unpopulated -= nr_pages
                raise MemoryError(f"{nr_pages} ballooned pages: the guest has {len(self._list)}, and no more to spare")
        if self.behaviour.promises:
            pfns = self._list.tail(nr_pages)
            self._list.drop_tail(nr_pages)
        else:
            pfns = self._list.head(nr_pages)
            self._list.drop_head(nr_pages)
        if self._highmem_pfn is not None:
            self._high -= int(np.count_nonzero(pfns >= self._highmem_pfn))
        self._held = np.append(self._held, pfns)
        return pfns

    def free_ballooned_pages(self, pfns: NDArray[np.int64], now: float = 0.0) -> None:
        """Put pages of alloc_ballooned_pages back on the list and wake the worker. ValueError for another page."""
        pfns = array_of(pfns, np.int64)
        if not (np.isin(pfns, self._held).all() and all_different(pfns)):
            raise ValueError("free_ballooned_pages: no driver holds this page")
        self._held = np.setdiff1d(self._held, pfns, assume_unique=True)
        self.target_unpopulated -= pfns.size
        self._append(pfns)
        self.due = now

    # -- adding memory

    def balloon_expand(self, nr_pages: int) -> int:
        """Add room for nr_pages more pages without frames, as balloon_expand of the thread does. Returns the first pfn.

        It finds a free range of iomem aligned to a section, and calls add_memory and prepare_online_pages. Every page is
        Reserved, without a frame, and on the list. The rules of 6.1 and later take whole sections only.

        HotplugError: EBUSY when there is no such range, and as add_memory and prepare_online_pages; ValueError when the pages
        are not whole extents of the balloon's order. Nothing is added then.
        """
        mem = self.mem
        start = free_range(mem, nr_pages)
        self._check_extents(start, nr_pages)
        with Undo() as undo:
            add_memory(undo, mem, start, nr_pages)
            self._expanding = True
            try:
                mem.prepare_online_pages(start, nr_pages)
            finally:
                self._expanding = False
        if not self._expanded:
            mem.notifiers.register(self._guard, actions=MEM_GOING_ONLINE)
        self._expanded.append((start, nr_pages))
        mem.set_page_reserved(start, nr_pages)
        self._put_on_list(start, nr_pages)
        self._total_pages += nr_pages
        self.expansions += 1
        return start

    def _check_extents(self, start_pfn, nr_pages):
        if nr_pages & (1 << self.order) - 1 or start_pfn & (1 << self.order) - 1:
            raise ValueError(f"{pfn_range(start_pfn, nr_pages)} is not whole extents of order {self.order}")

    def _put_on_list(self, start_pfn, nr_pages):
        self._check_extents(start_pfn, nr_pages)
        self.domain.need_p2m(start_pfn + nr_pages)
        self._append(np.arange(start_pfn, start_pfn + nr_pages, 1 << self.order))

    def _reserve_additional_memory(self):
        """reserve_additional_memory: add whole sections for what the list lacks; the kernel or user space onlines them."""
        mem, unit = self.mem, self.mem.geometry.pages_per_section
        if self.behaviour.promises:
            credit = self.target_pages - self.current_pages - self.hotplug_pages
        else:
            credit = self.target_pages + self.target_unpopulated - self.total_pages
            if credit <= 0:
                return BP_WAIT      # enough is added, not onlined yet
        nr = -(-credit // unit) * unit
        try:
            start = free_range(mem, nr)
            mem.add_memory(start, nr)
        except HotplugError:
            return BP_EAGAIN if self.behaviour.promises else BP_ECANCELED
        self._total_pages += nr
        self.expansions += 1
        if self.behaviour.promises:
            self.hotplug_pages += credit
            self.balloon_hotplug = nr - credit
        if self.auto_online:
            for pfn in range(start, start + nr, unit):
                mem.online_pages(pfn, unit)
        return BP_DONE if self.behaviour.promises else BP_WAIT

    def _online_pages(self, pfns, order):
        """xen_online_page: the pages of memory that is being onlined go on the list, no total changes."""
        self._check_extents(int(pfns[0]), 1 << order)
        self.domain.need_p2m(int(pfns[-1]) + (1 << order))
        self._append((pfns[:, None] + np.arange(0, 1 << order, 1 << self.order)).ravel())
        self._keep_promise(pfns.size << order)

    def _keep_promise(self, nr):
        if self.behaviour.promises:
            promised = min(nr, self.hotplug_pages)
            self.hotplug_pages -= promised
            self.balloon_hotplug -= nr - promised

    def _notifier(self, action, notice):
        """Memory came online: the worker can go on at once."""
        self.due = 0.0
        return NOTIFY_OK

    def _guard(self, action, notice):
        """The pages of an expansion are Reserved and without a frame: user space that onlines their memory block, which sysfs
        shows offline, would hand them to the allocator. The balloon vetoes that."""
        if self._expanding:
            return NOTIFY_OK
        ours = any(start < notice.start_pfn + notice.nr_pages and notice.start_pfn < start + nr for start, nr in self._expanded)
        return NOTIFY_BAD if ours else NOTIFY_OK

    # -- the end

    def close(self) -> None:
        """Release the callback. HotplugError EBUSY while pages have no frame, since only this driver can back them: deflate the
        balloon first (the kernel's driver cannot be unloaded)."""
        out = self.balloon_pages + self._held.size
        if out or self.hotplug_pages or self.balloon_hotplug:
            raise HotplugError.of(errno.EBUSY, f"the balloon cannot be closed: {out} pages are out")
        if self.behaviour.callback:
            self.mem.restore_online_page_callback(self._online_pages)
            self.mem.notifiers.unregister(self._notifier)
        if self._expanded:
            self.mem.notifiers.unregister(self._guard)
        self.due = NEVER

    def validate(self) -> None:
        """As Driver.validate. Also checks that pages on the list have no frame and are not with the allocator, and that all
        others have a frame."""
        super().validate()
        heads = self._list.view()
        listed = np.append(pages_of_extents(heads, self.order), self._held)
        self.check_balloon(listed)
        high = 0 if self._highmem_pfn is None else int(np.count_nonzero(heads >= self._highmem_pfn))
        if high != self._high:
            raise AssertionError(f"{self._high} highmem extents are counted, {high} are on the list")
        managed = self.mem.totalram_pages
        if managed != self.current_pages:
            raise AssertionError(f"the guest manages {managed} pages, the host backs {self.current_pages}")
        if self.hotplug_pages < 0 or self.balloon_hotplug < 0:
            raise AssertionError("more pages were onlined than added")
        prepared = sum(
            int(np.count_nonzero(self.mem.page_states(start, end - start) & PG_prepared)) for start, end in self.mem.resources
        )
        if prepared != self.current_pages + self.balloon_pages + self._held.size:
            raise AssertionError(
                f"{self.current_pages} backed pages, {self.balloon_pages} in the balloon and {self._held.size} out of it, "
                f"and the guest has {prepared}"
            )
