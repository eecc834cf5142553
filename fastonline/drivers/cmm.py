"""Collaborative memory management of s390, the "check with the hypervisor on the way out of the allocator" of the 2008 thread.

CMM2, guest page hinting: each page has a state that the guest sets (S stable, U unused, V volatile, P potentially volatile) and
one that the host gives it (r resident, p preserved in the host's swap, z zero: nothing there). Of the twelve pairs eight are
valid (Schwidefsky, "Guest page hinting: full s390 support", 2006; KERNEL.md 5.5):

    Sr Sp Sz    Ur Uz    Vr Vz    Pr

CMM1 (arch/s390/mm/cmm.c, 2.6.25): two pools of pages that the guest lends to z/VM, one of them for a time.
"""

from __future__ import annotations

import errno
from contextlib import suppress

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastonline.core.pageflags import PG_buddy
from fastonline.core.ram import array_of
from fastonline.core.undo import Undo
from fastonline.drivers.driver import NEVER, Driver, PageList, alloc_highuser, check_guest
from fastonline.drivers.extents import lengthen, pages_of_extents
from fastonline.drivers.host import Host
from fastonline.drivers.hypervisor import ResidentDomain
from fastonline.errors import HotplugError
from fastonline.hotplug.memory import Memory

STABLE, UNUSED, VOLATILE, POTENTIALLY_VOLATILE = range(4)
RESIDENT, PRESERVED, ZERO = range(3)

VALID_STATES = ("Sr", "Sp", "Sz", "Ur", "Uz", "Vr", "Vz", "Pr")

Flag = bool | NDArray[np.bool_]
"""One flag, or an array of them."""


def page_can_be_volatile(
    reserved: Flag = False, dirty: Flag = False, writeback: Flag = False, locked: Flag = False, anonymous: Flag = False,
    mapping: Flag = True, uptodate: Flag = True, private: Flag = False, discarded: Flag = False, lru: Flag = True,
    mapcount: ArrayLike = 0, refcount: ArrayLike = 1
) -> Flag:
    """Return whether a page may be made volatile: the guest can read it again, nothing works on it, and only the page cache and
    its mappings reference it.

    Bools or bool arrays, as in struct page: reserved, dirty, writeback, locked, anonymous (PageAnon), mapping (has one),
    uptodate, private, discarded, lru. Counts or int arrays: mapcount and refcount, _mapcount + 1 and _refcount. Returns a bool,
    or an array of the common shape.
    """
    refused = np.logical_or.reduce(np.broadcast_arrays(reserved, dirty, writeback, locked, anonymous, private, discarded))
    needed = np.logical_and.reduce(np.broadcast_arrays(mapping, uptodate, lru, np.equal(mapcount, np.subtract(refcount, 1))))
    return needed & ~refused


class HintedDomain(ResidentDomain):
    """A guest whose pages have states. The host reclaims unused and volatile pages first, without swapping them out.

    host, limit, name: as ResidentDomain. Pages are stable until set otherwise. pfns: one-dimensional int64 arrays without
    repetition. Every change counts as one ESSA instruction a page. Under a Cmm2 only its guest's allocator takes pages out of
    the unused state, as it gives them out; for anyone else that is a ValueError.
    """

    def __init__(self, host: Host, limit: int | str | None = None, name: str | None = None) -> None:
        super().__init__(host, limit, name)
        self._usage = np.zeros(0, np.uint8)
        self._dirty = np.zeros(0, bool)
        self._hinted = False      # by a Cmm2
        self.discarded = 0
        """Volatile pages that the host discarded so far."""
        self.dropped = 0
        """Unused pages whose frames the host took so far."""

    def need_p2m(self, end_pfn: int) -> None:
        """Make the tables reach up to end_pfn."""
        if end_pfn > self._p2m.size:
            super().need_p2m(end_pfn)
            self._usage = lengthen(self._usage, self._p2m.size, self.host.nr_frames)
            self._dirty = lengthen(self._dirty, self._p2m.size, self.host.nr_frames)

    def _pfns(self, pfns):
        pfns = array_of(pfns, np.int64)
        if pfns.size:
            if pfns.min() < 0:
                raise ValueError(f"invalid page {int(pfns.min())}")
            self.need_p2m(int(pfns.max()) + 1)
        return pfns

    def states(self, pfns: NDArray[np.int64]) -> list[str]:
        """Return the state of each page, a list of "Sr", "Uz"... (ESSA 0, get)."""
        pfns = self._pfns(pfns)
        return ["SUVP"[usage] + "rpz"[content] for usage, content in zip(self._usage[pfns], self.content(pfns), strict=True)]

    def content(self, pfns: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return a uint8 array: RESIDENT, PRESERVED or ZERO for each page."""
        return np.where(self.backed(pfns), RESIDENT, np.where(self.swapped(pfns), PRESERVED, ZERO)).astype(np.uint8)

    def are(self, pfns: NDArray[np.int64], usage: int) -> bool:
        """Return whether all pages have this `usage`: STABLE, UNUSED, VOLATILE or POTENTIALLY_VOLATILE."""
        return bool(np.all(self._usage[self._pfns(pfns)] == usage))

    # -- the guest sets states

    def _essa(self, pfns):
        pfns = self._pfns(pfns)
        self.count("essa", pfns.size, pfns.size)
        return pfns

    def _essa_used(self, pfns):
        """_essa for pages that are not to be unused any more."""
        pfns = self._pfns(pfns)
        if self._hinted and (unused := pfns[self._usage[pfns] == UNUSED]).size:
            raise ValueError(f"page {int(unused[0]):#x} is unused: it is free, or in the balloon")
        return self._essa(pfns)

    def _give_out(self, pfns: NDArray[np.int64]) -> None:
        """Make pages stable that leave the guest's allocator: set_stable, for Cmm2."""
        self._usage[self._essa(pfns)] = STABLE

    def set_stable(self, pfns: NDArray[np.int64]) -> None:
        """Make pages stable: X r -> Sr, X z -> Sz. The contents of a discarded page (Vz) are lost; set_stable_if_present
        reports that."""
        self._usage[self._essa_used(pfns)] = STABLE

    def set_unused(self, pfns: NDArray[np.int64]) -> None:
        """Make pages unused: X r -> Ur, X z and Sp -> Uz. Their contents are not needed."""
        pfns = self._essa(pfns)
        self._usage[pfns] = UNUSED
        self._swapped[pfns] = False

    def set_volatile(self, pfns: NDArray[np.int64]) -> None:
        """Make pages volatile: X r -> Vr, X z and Sp -> Vz. The host may discard them at any time."""
        pfns = self._essa_used(pfns)
        self._usage[pfns] = VOLATILE
        self._swapped[pfns] = False

    def set_potentially_volatile(self, pfns: NDArray[np.int64]) -> None:
        """Make pages potentially volatile: X r -> Pr, X z -> Vz. The host may discard them while they are clean. A preserved
        page stays Sp if dirty; if clean it is discarded (Vz)."""
        pfns = self._essa_used(pfns)
        content = self.content(pfns)
        stays = (content == PRESERVED) & self._dirty[pfns]
        self._usage[pfns[content == RESIDENT]] = POTENTIALLY_VOLATILE
        gone = pfns[(content != RESIDENT) & ~stays]
        self._usage[gone] = VOLATILE
        self._swapped[gone] = False

    def set_stable_if_present(self, pfns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Make pages stable unless they were discarded: Vr, Pr -> Sr. Returns a bool array, False for discarded pages, which
        stay Vz. Pages that are not volatile become stable."""
        pfns = self._essa_used(pfns)
        present = (self._usage[pfns] != VOLATILE) | self.backed(pfns)
        self._usage[pfns[present]] = STABLE
        return present

    # -- accesses

    def touch(  # type: ignore[override]     # what it returns is what the guest must know; the count is in `calls`
        self, pfns: NDArray[np.int64], write: bool = False
    ) -> NDArray[np.int64]:
        """The guest reads pages (with `write`: writes them): Sp, Sz -> Sr; Vr and Pr stay. Returns the int64 array of the pages
        whose access gave a discard fault (Vz): they were not accessed.

        HotplugError EFAULT naming an unused page, the addressing exception, before any page is accessed; ENOMEM as
        ResidentDomain.touch.
        """
        pfns = self._pfns(pfns)
        unused = pfns[self._usage[pfns] == UNUSED]
        if unused.size:
            raise HotplugError.of(
                errno.EFAULT, f"{self.name} touches page {int(unused[0]):#x}, which is unused: addressing exception"
            )
        discarded = (self._usage[pfns] == VOLATILE) & ~self.backed(pfns)
        there = pfns[~discarded]
        super().touch(there)
        self._dirty[there] |= write
        return pfns[discarded]

    def clean(self, pfns: NDArray[np.int64]) -> None:
        """Mark pages clean: the guest has written them back."""
        self._dirty[self._pfns(pfns)] = False

    # -- the host takes frames

    def victims(self, nr: int) -> NDArray[np.int64]:
        """Return `nr` pages to reclaim: unused pages, then volatile and clean potentially volatile ones, then pages to swap
        out; among equals the longest resident first."""
        resident = super().victims(self.tot_pages)
        unused, discardable = self._usage[resident] == UNUSED, self._discardable(resident)
        return np.concatenate([resident[unused], resident[discardable], resident[~(unused | discardable)]])[:nr]

    def _discardable(self, pfns):
        usage = self._usage[pfns]
        return (usage == VOLATILE) | ((usage == POTENTIALLY_VOLATILE) & ~self._dirty[pfns])

    def reclaim(self, nr: int) -> int:
        """Take up to `nr` frames: Ur -> Uz; Vr -> Vz; clean Pr -> Vz; Sr and dirty Pr -> Sp. Returns how many."""
        pfns = self.victims(nr)
        unused, discarded = pfns[self._usage[pfns] == UNUSED], pfns[self._discardable(pfns)]
        kept = pfns[(self._usage[pfns] != UNUSED) & ~self._discardable(pfns)]
        self._usage[discarded] = VOLATILE
        self._usage[kept] = STABLE
        self._swapped[kept] = True
        self.dropped += unused.size
        self.discarded += discarded.size
        self.swapped_out += kept.size
        self._dirty[unused] = self._dirty[discarded] = False
        self._release(pfns)
        return pfns.size

    def validate(self) -> None:
        """As ResidentDomain.validate, and: every page is in a valid state."""
        super().validate()
        swapped = self._swapped & (self._usage != STABLE)
        if swapped.any():
            raise AssertionError(f"{self.name}: page {int(np.flatnonzero(swapped)[0]):#x} is preserved and not stable")
        gone = (self._usage == POTENTIALLY_VOLATILE) & (self._p2m == 0)
        if gone.any():
            raise AssertionError(
                f"{self.name}: page {int(np.flatnonzero(gone)[0]):#x} is potentially volatile and not resident"
            )


class Cmm2(Driver):
    """Guest page hinting in the guest: the "light" part that went into the kernel (arch_free_page, arch_alloc_page, 2.6.26),
    the page cache's volatile pages, and the thread's own idea for a page that the host cannot back.

    domain: HintedDomain. mem: Memory, whose arch_alloc_page and arch_free_page it sets: pages that are free are unused, others
    stable. A block of several pages that the host cannot back is HotplugError ENOMEM. nr: pages. The target is the limit of
    what may be resident, which the host enforces at once.
    """

    domain: HintedDomain

    def __init__(self, mem: Memory, domain: HintedDomain) -> None:
        check_guest(mem, domain, HintedDomain)
        super().__init__(mem, domain)
        self._list = PageList()      # pages without backing that the allocator gave out
        self._cached = PageList()
        for start, end in mem.resources:
            domain.set_unused(np.flatnonzero(mem.page_states(start, end - start) & PG_buddy) + start)
        mem.arch_alloc_page, mem.arch_free_page = self._stable, self._unused
        domain._hinted = True

    def counts(self) -> dict[str, int]:
        """{"balloon", "discarded", "dropped", "swapped_out": pages}."""
        domain = self.domain
        return {"balloon": len(self._list), "discarded": domain.discarded, "dropped": domain.dropped,
                "swapped_out": domain.swapped_out}

    def _stable(self, pfns, order):
        """arch_alloc_page: pages on their way out of the allocator are made stable, and touched. Those that the host has no
        frame for are "tossed over to the balloon driver" (Dave Hansen): PG_offline and on its list."""
        pfns = pages_of_extents(pfns, order)
        with Undo() as undo:
            undo.add(self.domain.set_unused, pfns)
            self.domain._give_out(pfns)
            try:
                self.domain.touch(pfns, write=True)
                return None
            except HotplugError:
                if order:
                    raise
            pfns = pfns[~(self.domain.backed(pfns) | self.domain.swapped(pfns))]
            self.domain.set_unused(pfns)
            self.mem.set_pfns_offline(pfns)
            self._list.add_tail(pfns)
            return pfns

    def _unused(self, pfns, order):
        """arch_free_page: the contents of free pages are not needed."""
        self.domain.set_unused(pages_of_extents(pfns, order))

    def obstacle(self) -> str:
        """As Driver.obstacle. Raising the limit adds no memory."""
        if self.target_pages > self.current_pages == self.mem.totalram_pages:
            return "hinting cannot grow the guest past its boot memory"
        return super().obstacle()

    def cache_pages(self, nr: int) -> NDArray[np.int64]:
        """Read `nr` pages of files into the page cache, clean and volatile. Returns their pfns."""
        pfns = self.mem.alloc_pages_bulk(nr)
        self.domain.clean(pfns)
        self.domain.set_volatile(pfns)
        self._cached.add_tail(pfns)
        return pfns

    def use_cache(self) -> int:
        """Access every page of the page cache; pages with a discard fault are freed. Returns how many."""
        pfns = self._cached.head(len(self._cached))
        gone = self.domain.touch(pfns)
        self._cached.drop_head(pfns.size)
        self._cached.add_tail(np.setdiff1d(pfns, gone, assume_unique=True))
        if gone.size:
            self.mem.free_pfns(gone)
        return gone.size

    def _work(self):
        """The host sets the limit; pages in the balloon that it could back now are the allocator's again."""
        self.due = NEVER
        self.domain.set_limit(self.target_pages * self.mem.geometry.page_size)
        room = min(self.domain.room(len(self._list)), self.domain.host.free_frames)
        pfns = self._list.head(room)
        self._list.drop_head(pfns.size)
        self.mem.free_reserved_pfns(pfns)

    def validate(self) -> None:
        """As Driver.validate, and: free pages and those of the balloon are unused."""
        super().validate()
        for start, end in self.mem.resources:
            free = np.flatnonzero(self.mem.page_states(start, end - start) & PG_buddy) + start
            if not self.domain.are(free, UNUSED):
                raise AssertionError("a free page is not unused")
        if not self.domain.are(self._list.view(), UNUSED):
            raise AssertionError("a page in the balloon is not unused")


class Cmm1(Driver):
    """The first CMM: pages that the guest allocates and releases to z/VM (diagnose 0x10), in a static and a timed pool.

    mem: Memory. domain: ResidentDomain. The target is the guest's size less the static pool (cmm_pages). When an allocation
    fails the pool stays as it is: the target becomes what there is. timed_pages go back timeout_pages every timeout_seconds.
    nr_pages: pages, now: virtual seconds.
    """

    domain: ResidentDomain
    PER_ARRAY_WORDS = 2      # of a page of addresses that are no addresses: its link and its count

    def __init__(self, mem: Memory, domain: ResidentDomain, timeout_pages: int = 0, timeout_seconds: float = 0.0) -> None:
        check_guest(mem, domain, ResidentDomain)
        self._static, self._timed = PageList(), PageList()
        self._size = mem.totalram_pages
        super().__init__(mem, domain)
        if timeout_pages < 0 or timeout_seconds < 0:
            raise ValueError(f"cmm_timeout is pages and seconds, not {timeout_pages} {timeout_seconds}")
        self.timed_target = 0
        self.timeout_pages = timeout_pages
        self.timeout_seconds = timeout_seconds
        self._timeout = NEVER
        mem.register_oom_notifier(self.oom_notify)

    @property
    def current_pages(self) -> int:
        """Pages of the guest that are in no pool."""
        return self._size - len(self._static) - len(self._timed)

    def obstacle(self) -> str:
        """As Driver.obstacle: set_target is taken back to what the pools allow, so what is left is more than the guest has."""
        if self.target_pages > self.current_pages and not self.pages:
            return "the pools are empty, and cannot grow the guest past its boot memory"
        return super().obstacle()

    @property
    def pages(self) -> int:
        """Pages in the static pool (cmm_pages)."""
        return len(self._static)

    @property
    def timed_pages(self) -> int:
        """Pages in the timed pool (cmm_timed_pages)."""
        return len(self._timed)

    def counts(self) -> dict[str, int]:
        """{"balloon": pages in both pools, "arrays": pages of addresses}."""
        return {"balloon": self.pages + self.timed_pages, "arrays": self.arrays}

    @property
    def arrays(self) -> int:
        """Pages of addresses that the pools take (cmm_page_array: a page of 8-byte words, two of them its own)."""
        per_array = self.mem.geometry.page_size // 8 - self.PER_ARRAY_WORDS
        return -(-self.pages // per_array) + -(-self.timed_pages // per_array)

    def set_timed_target(self, nr_pages: int, now: float = 0.0) -> None:
        """Add nr_pages to the target of the timed pool (cmm_timed_pages)."""
        self.timed_target += nr_pages
        self.due = now

    def _work(self):
        """The cmm thread: the pools go to their targets; when its time is up the timed one shrinks."""
        if self.domain.now >= self._timeout:
            self.timed_target = max(0, self.timed_target - self.timeout_pages)
            self._timeout = NEVER
        reached = self._move(self._static, max(0, self._size - self.target_pages))
        self.target_pages = max(self.target_pages, self._size - reached)
        self.timed_target = self._move(self._timed, self.timed_target)
        if self.timed_target and self.timeout_pages and self.timeout_seconds and self._timeout == NEVER:
            self._timeout = self.domain.now + self.timeout_seconds
        self.due = self._timeout

    def _move(self, pool, target):
        """Allocate or free pages until the pool has its target: how many it has."""
        missing = target - len(pool)
        if missing > 0:
            pfns = alloc_highuser(self.mem, missing)
            try:
                self.domain.discard(pfns, calls=pfns.size)
            except BaseException:
                self.mem.free_pfns(pfns)
                raise
            pool.add_head(pfns)
        elif missing < 0:
            self._free(pool, -missing)
        return len(pool)

    def _free(self, pool, nr):
        pfns = pool.head(nr)
        pool.drop_head(pfns.size)
        self.mem.free_pfns(pfns)
        return pfns.size

    def oom_notify(self, nr: int = 256) -> int:
        """Give up to `nr` pages back on OOM, timed pool first. The pools stay smaller. Returns how many."""
        freed = self._free(self._timed, nr)
        self.timed_target = len(self._timed)
        freed += self._free(self._static, nr - freed)
        self.target_pages = self._size - len(self._static)
        return freed

    def close(self) -> None:
        """Give every page back to the guest (cmm_exit)."""
        with suppress(ValueError):      # closed before
            self.mem.unregister_oom_notifier(self.oom_notify)
        self._free(self._static, len(self._static))
        self._free(self._timed, len(self._timed))
        self.target_pages = self._size
        self.due = self._timeout = NEVER

    def validate(self) -> None:
        """As Driver.validate, and: the pools' pages are there once, without a frame."""
        super().validate()
        self.check_balloon(np.concatenate([self._static.view(), self._timed.view()]))
