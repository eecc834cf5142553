"""The hypervisor: the domains that use the frames of a Host.

There are two views of a guest's memory, those of the 2008 thread. A `Domain` is Xen's view: it has a reservation, gets and
returns frames by hypercall, and keeps the table from its page frames (pfn) to machine frames (mfn). A `ResidentDomain` is
KVM's: its memory is virtual, a page gets a frame when it is touched, and a memory cgroup limits how many it has.
"""

from __future__ import annotations

import errno

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastonline.core.ram import array_of
from fastonline.drivers.account import Account
from fastonline.drivers.extents import (
    MOST_PFNS,
    all_different,
    as_numbers,
    as_pfns,
    as_slice,
    ascending_as_slice,
    ascending_pfns,
    check_order,
    lengthen,
    pages_of_extents,
    parts_of_extents,
)
from fastonline.drivers.host import Host
from fastonline.errors import HotplugError, expect, is_number
from fastonline.geometry import pages_of_size

__all__ = ["INVALID_P2M_ENTRY", "Domain", "Host", "ResidentDomain"]

INVALID_P2M_ENTRY = 2**64 - 1
"""~0UL: there is no machine frame behind this page frame."""


class Domain(Account):
    """A guest in Xen's view: a reservation of frames with a cap, and the guest's table from pages to frames.

    host: Host. boot: size of the memory that the domain builder populates, from pfn 0 on. max_memory: the host's cap on the
    reservation, None: no cap. name: for messages. pfns, mfns: int64 arrays of pages and of their frames. nr_pages: pages.

    Hypercalls may succeed in part, as in Xen: they return how much was done. Their cost (call_ns of the Host) is added to `ns`
    and advances the guest's clock `now`.
    """

    host: Host

    def __init__(self, host: Host, boot: int | str = 0, max_memory: int | str | None = None, name: str | None = None) -> None:
        expect(host, Host, "the host of a domain")
        if hasattr(self, "domid"):
            raise TypeError(f"{self!r} is made once")
        pages = pages_of_size(boot, host.page_size, "boot memory")
        cap = None if max_memory is None else pages_of_size(max_memory, host.page_size, "max_memory")
        if cap is not None and pages > cap:
            raise ValueError(f"boot memory {boot!r} is more than the domain may have, {max_memory!r}")
        super().__init__()
        self.host = host
        self._max_pages = cap
        self.refused = {"cap": 0, "host": 0}
        """{reason: frames not given}"""
        self._p2m = np.zeros(pages, host.frame_type)     # mfn + 1, 0: no frame
        if pages > host.free_frames:
            what = f"a domain of {pages} pages cannot be built: the host has {host.free_frames} frames left"
            raise HotplugError.of(errno.ENOMEM, what)
        self.domid = host._enter(self)
        self.name = f"domain {self.domid}" if name is None else name
        if pages:
            self._p2m[:] = host.take(pages, self.domid) + 1
            self._grow(pages)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} tot_pages={self.tot_pages} max_pages={self.max_pages}>"

    @property
    def max_pages(self) -> int | None:
        """The cap of the reservation, pages. None: no cap (XEN_DOMCTL_max_mem)."""
        return self._max_pages

    # -- the table

    @property
    def p2m(self) -> NDArray[np.uint64]:
        """The mfn of each pfn, or INVALID_P2M_ENTRY: a read-only uint64 array. Pfns past its end have none."""
        table = self.p2m_frames(slice(None)).view(np.uint64)
        table.flags.writeable = False
        return table

    def backed(self, pfns: ArrayLike) -> NDArray[np.bool_]:
        """Return a bool array: whether each of these pages has a frame."""
        if isinstance(pfns, range) and pfns.step == 1 and 0 <= pfns.start < pfns.stop <= self._p2m.size:
            return self._p2m[pfns.start : pfns.stop] != 0
        pfns = array_of(pfns)
        at = as_slice(pfns, self._p2m.size)
        if isinstance(at, slice):
            return self._p2m[at] != 0
        if pfns.size and pfns.min() >= 0 and pfns.max() < self._p2m.size:
            return self._p2m[pfns] != 0
        there = (pfns >= 0) & (pfns < self._p2m.size)
        there[there] = self._p2m[pfns[there]] != 0
        return there

    def backed_pfns(self) -> NDArray[np.int64]:
        """Return the pages with a frame: an int64 array, ascending."""
        return np.flatnonzero(self._p2m)

    def p2m_frames(self, pfns: NDArray[np.int64] | slice) -> NDArray[np.int64]:
        """Return the frames of pages that have one: an int64 array (pfn_to_mfn)."""
        at = pfns if isinstance(pfns, slice) else as_slice(pfns, self._p2m.size)
        return np.subtract(self._p2m[at], 1, dtype=np.int64)

    def need_p2m(self, end_pfn: int) -> None:
        """Make the table reach up to end_pfn."""
        if end_pfn > self._p2m.size:
            self._p2m = lengthen(self._p2m, max(end_pfn, self._p2m.size + self._p2m.size // 4), self.host.nr_frames)

    def set_phys_to_machine(self, pfns: NDArray[np.int64] | int, mfns: NDArray[np.int64] | int) -> None:
        """Set the frames of a page or an array of pages in the guest's table; mfns may be INVALID_P2M_ENTRY for all. ValueError
        for a negative pfn, and for a frame that the host does not have."""
        self._check_xen()
        if isinstance(mfns, int) and mfns == INVALID_P2M_ENTRY:
            mfns = -1
        if np.min(pfns, initial=0) < 0 or np.min(mfns, initial=0) < -1 or np.max(mfns, initial=0) >= self.host.nr_frames:
            raise ValueError(f"{self.name}: a page below 0, or a frame that the host does not have")
        at = pfns if isinstance(pfns, int) else as_slice(pfns, self._p2m.size)
        if isinstance(at, slice):
            np.add(mfns, 1, out=self._p2m[at], casting="unsafe")
            return
        entries = np.add(mfns, 1, dtype=self._p2m.dtype, casting="unsafe")
        try:
            self._p2m[at] = entries
        except IndexError:
            self.need_p2m(int(np.max(pfns)) + 1)
            self._p2m[pfns] = entries

    # -- hypercalls

    def _check_xen(self):
        """HotplugError ENOSYS for a guest that makes no hypercalls of Xen."""

    def room(self, nr_pages: int) -> int:
        """Return how many of nr_pages the cap allows."""
        return nr_pages if self._max_pages is None else max(0, min(nr_pages, self._max_pages - self._tot_pages))

    def available(self, nr_pages: int) -> int:
        """Return how many of nr_pages the cap allows and the host has frames for."""
        return min(self.room(nr_pages), self.host.free_frames)

    def populate_physmap(self, pfns: NDArray[np.int64] | int, order: int = 0) -> NDArray[np.int64]:
        """Get frames for the extents of 2^order pages that begin at `pfns`, an int64 array or one int
        (XENMEM_populate_physmap).

        Returns the (got,) int64 array of first mfns for pfns[:got]; got is smaller when the cap is reached or the host has no
        more frames. The guest enters them into its table itself.
        """
        self._check_xen()
        pfns = as_pfns(pfns)
        check_order(order)
        want = pfns.size
        allowed = self.room(want << order) >> order
        mfns = self.host.take(allowed, self.domid, order)
        if mfns.size < want:
            self.refused["cap"] += (want - allowed) << order
            self.refused["host"] += (allowed - mfns.size) << order
        self._grow(mfns.size << order)
        self.count("populate_physmap", 1, mfns.size << order)
        return mfns

    def decrease_reservation(self, mfns: NDArray[np.int64] | int, order: int = 0) -> int:
        """Return the extents of 2^order frames that begin at `mfns` (int64 array or int) to the host.

        Returns how many were returned: the call stops at the first that the domain does not own as a whole. Mirrors
        XENMEM_decrease_reservation.
        """
        self._check_xen()
        mfns = as_numbers(mfns, "mfns")
        if not is_number(order) or not 0 <= order < 64 or mfns.size << order > self.host.nr_frames:
            raise ValueError(f"{mfns.size} extents of order {order!r:.80} are more than the host has")
        frames = pages_of_extents(mfns, order)
        owned = self.host.owns(frames, self.domid)
        if not all_different(frames):
            owned &= np.isin(np.arange(frames.size), np.unique(frames, return_index=True)[1])
        got = mfns.size if owned.all() else int(owned.argmin()) >> order
        self.host.take_back(frames[: got << order])
        self._tot_pages -= got << order
        self.count("decrease_reservation", 1, got << order, got << order)
        return got

    def populate_in_batches(self, nr_pages: int, batch: int, mapped: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Get frames for nr_pages pages by calls of populate_physmap for `batch` pages each and one for the rest. After each
        call the guest maps those of its pages that are `mapped`, a (nr_pages,) bool array (update_va_mapping; None: none).
        Returns an (nr_pages,) int64 array. HotplugError ENOMEM, and no change, when fewer are available."""
        self._check_xen()
        mapped = self._check_batches(nr_pages, batch, mapped)
        if self.available(nr_pages) < nr_pages:
            raise HotplugError.of(errno.ENOMEM, f"{self.name} cannot get {nr_pages} frames")
        mfns = self.host.take(nr_pages, self.domid)
        self._count_calls("populate_physmap", nr_pages, batch, mapped)
        return mfns

    def decrease_in_batches(self, mfns: NDArray[np.int64], batch: int, mapped: NDArray[np.bool_] | None = None) -> None:
        """Return frames by calls of decrease_reservation for `batch` of them each and one for the rest. Before each call the
        guest unmaps those of its pages that are `mapped`, as populate_in_batches. HotplugError EINVAL, and no change, for a
        frame that the domain does not own or that is given twice."""
        self._check_xen()
        mfns = as_numbers(mfns, "mfns")
        mapped = self._check_batches(mfns.size, batch, mapped)
        if not (self.host.owns(mfns, self.domid).all() and all_different(mfns)):
            raise HotplugError.of(errno.EINVAL, f"{self.name} cannot return a frame that is not its own, or twice")
        self.host.take_back(mfns)
        self._count_calls("decrease_reservation", mfns.size, batch, mapped)

    def _check_batches(self, nr_pages, batch, mapped):
        """mapped as an array. ValueError or TypeError unless there can be batches, and each page is mapped or not."""
        if not is_number(nr_pages) or not is_number(batch) or nr_pages < 0 or not 0 < batch < MOST_PFNS:
            raise ValueError(f"expected a number of pages and at least 1 in a batch, got {nr_pages!r:.80} and {batch!r:.80}")
        if mapped is None:
            return None
        mapped = array_of(mapped)
        if mapped.dtype != np.bool_ or mapped.shape != (nr_pages,):
            raise TypeError(f"mapped must be a bool array of {nr_pages} pages")
        return mapped

    def update_va_mapping(self, pfns: NDArray[np.int64] | int, mfns: NDArray[np.int64] | int | None) -> None:
        """Map each page's kernel address to a frame, one call per page (HYPERVISOR_update_va_mapping). mfns None: unmap.

        HotplugError EINVAL for frames that the domain does not own.
        """
        self._check_xen()
        pfns = as_pfns(pfns)
        if mfns is not None and not np.all(self.host.owns(as_numbers(mfns, "mfns"), self.domid)):
            raise HotplugError.of(errno.EINVAL, f"{self.name} cannot map a frame that is not its own")
        self.count("update_va_mapping", pfns.size, pfns.size)

    # -- hosts that keep the table themselves

    def back(self, pfns: NDArray[np.int64]) -> int:
        """Give frames to pages without one, and enter them into the table. Returns how many of pfns, from the first on, got
        one; nothing is reclaimed for the others. ValueError, and no change, for a page that has a frame or is given twice."""
        pfns = self._as_pages(pfns, backed=False)
        got = self.available(pfns.size)
        if got < pfns.size:
            allowed = self.room(pfns.size)
            self.refused["cap"] += pfns.size - allowed
            self.refused["host"] += allowed - got
        for part in parts_of_extents(pfns[:got], 0):
            self._enter(part, as_slice(part, self._p2m.size))
        self.count("populate_physmap", 1, got)
        return got

    def _enter(self, pfns, at):
        """Pages without a frame get one; there are as many. at: the pages as as_slice has them."""
        self._p2m[at] = self.host.take(pfns.size, self.domid) + 1
        self._grow(pfns.size)

    def unback(self, pfns: NDArray[np.int64]) -> None:
        """Return the frames of pages to the host. ValueError, and no change, for a page without a frame, or given twice."""
        pfns = self._as_pages(pfns, backed=True)
        for part in parts_of_extents(pfns, 0):
            at = as_slice(part, self._p2m.size)
            self.host.take_back(self.p2m_frames(at))
            self._p2m[at] = 0
        self._tot_pages -= pfns.size
        self.count("decrease_reservation", 1, pfns.size, pfns.size)

    def _as_pages(self, pfns, backed):
        """An int64 array of different pages, all of which have a frame, or none; the table reaches up to them."""
        pfns = as_pfns(pfns)
        if not all_different(pfns):
            raise ValueError(f"{self.name}: a page is given twice")
        for part in parts_of_extents(pfns, 0):
            wrong = part[self.backed(part) != backed]
            if wrong.size:
                raise ValueError(f"{self.name}: page {int(wrong[0]):#x} has {'no' if backed else 'a'} frame")
        if pfns.size:
            self.need_p2m(int(pfns.max()) + 1)
        return pfns

    def destroy(self) -> None:
        """Destroy the domain and return its frames to the host. ValueError when that was done before."""
        if self.host.domains.get(self.domid) is not self:
            raise ValueError(f"{self.name} is destroyed already")
        self.host.take_back(self.p2m_frames(self.backed_pfns()))
        self._p2m[:] = 0
        self._tot_pages = 0
        del self.host.domains[self.domid]

    def validate(self) -> None:
        """Raise AssertionError when the domain exceeds its cap. (Host.validate checks frames against the table.)"""
        if self._max_pages is not None and self._tot_pages > self._max_pages:
            raise AssertionError(f"{self.name} has {self.tot_pages} pages, it may have {self.max_pages}")
        if self._tot_pages > self._peak_pages:
            raise AssertionError(f"{self.name} has {self.tot_pages} pages, its peak is {self.peak_pages}")


class ResidentDomain(Domain):
    """A guest in KVM's view: its memory is virtual. A page gets a frame when it is touched, and loses it when the guest
    discards the page or the host swaps it out. The guest is not involved.

    host: Host. limit: the most that may be resident (a memory cgroup), None: no limit. At the limit, or when the host has no
    free frame, the host reclaims pages of this guest, longest resident first. name: for messages. pfns: int64 arrays. What
    only a guest of Xen can do, its hypercalls and set_phys_to_machine, gives HotplugError ENOSYS.
    """

    def __init__(self, host: Host, limit: int | str | None = None, name: str | None = None) -> None:
        super().__init__(host, max_memory=limit, name=name)
        self._swapped = np.zeros(0, bool)
        # pages in the order they became resident: entry i of the queue is page p as long as _place[p] == i
        self._queue = np.empty(0, np.int32)
        self._place = np.empty(0, np.int32)
        self._oldest = self._newest = 0
        self.swapped_out = self.swapped_in = 0
        """Pages swapped out, and in, so far."""

    def need_p2m(self, end_pfn: int) -> None:
        """Make the tables reach up to end_pfn."""
        if end_pfn > self._p2m.size:
            super().need_p2m(end_pfn)
            if end_pfn > 1 << 31:
                self._queue = self._queue.astype(np.int64)
            self._swapped = lengthen(self._swapped, self._p2m.size, self.host.nr_frames)
            self._place = lengthen(self._place, self._p2m.size, self.host.nr_frames)

    def swapped(self, pfns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return a bool array: whether each of these pages is in the host's swap."""
        pfns = array_of(pfns)
        there = (pfns >= 0) & (pfns < self._swapped.size)
        there[there] = self._swapped[pfns[there]]
        return there

    def touch(self, pfns: NDArray[np.int64]) -> int:
        """Access pages. Each page without a frame faults and gets one. Returns the number of faults.

        HotplugError ENOMEM when the host has no free frame and the guest no page to reclaim, or its limit is 0. The pages
        before are resident then. ValueError for a negative pfn.
        """
        pfns = ascending_pfns(pfns)
        if pfns.size == 0:
            return 0
        self.need_p2m(int(pfns[-1]) + 1)
        faults = 0
        for part in parts_of_extents(pfns, 0):
            backed = self._p2m[ascending_as_slice(part)] != 0
            faults += self._fault(part[~backed] if backed.any() else part)
        return faults

    def arch_alloc_page(self, pfns: NDArray[np.int64], order: int = 0) -> None:
        """Touch the blocks of 2^order pages that begin at `pfns`. As the arch_alloc_page of a Memory it backs every allocation,
        which fails if there is no frame; errors as `touch`."""
        self.touch(pages_of_extents(pfns, order))

    def _fault(self, missing):
        """Each of these pages, in ascending order, gets a frame, those of other pages where there are no others; how many."""
        at = 0
        while at < missing.size:
            part = missing[at:]
            short = part.size - self.available(part.size)
            if short:
                self.reclaim(short)
                part = part[: self.available(part.size)]
                if part.size == 0:
                    raise HotplugError.of(errno.ENOMEM, f"{self.name} cannot touch page {int(missing[at]):#x}: no frame for it")
            self._enter(part, ascending_as_slice(part))
            self.count("touch", part.size, part.size)
            at += part.size
        return at

    def _enter(self, pfns, at):
        super()._enter(pfns, at)
        if self._newest + pfns.size > self._queue.size:
            self._make_room(pfns.size)
        self._queue[self._newest : self._newest + pfns.size] = pfns
        self._place[at] = np.arange(self._newest, self._newest + pfns.size, dtype=np.int32)
        self._newest += pfns.size
        if self.swapped_out:
            self.swapped_in += int(np.count_nonzero(self._swapped[at]))
            self._swapped[at] = False

    def _live(self, start, end):
        """The pages of entries of the queue that are still resident."""
        pfns = self._queue[start:end]
        return pfns[self._place[pfns] == np.arange(start, end, dtype=np.int32)]

    def _make_room(self, nr):
        live = self._live(self._oldest, self._newest)
        self._queue = np.empty(max(live.size + nr + (live.size + nr) // 4, self.host.nr_frames), self._queue.dtype)
        self._queue[: live.size] = live
        self._place[live] = np.arange(live.size, dtype=np.int32)
        self._oldest, self._newest = 0, live.size

    def _check_xen(self):
        raise HotplugError.of(errno.ENOSYS, f"{self.name} is a guest of KVM: its host keeps the table of its frames")

    def unback(self, pfns: NDArray[np.int64]) -> None:
        """Take pages away from the guest; their frames return to the host."""
        self.discard(pfns)

    def discard(self, pfns: NDArray[np.int64], calls: int = 1, order: int = 0) -> int:
        """Discard the contents of pages (madvise DONTNEED, a balloon's message, free page reporting). Their frames return to
        the host; they are zero when touched again. pfns: the first pages of blocks of 2^order pages. calls: how many calls the
        guest makes. Returns how many frames."""
        pfns = as_pfns(pfns)
        check_order(order)
        if not is_number(calls) or calls < 0:
            raise ValueError(f"invalid number of calls {calls!r:.80}")
        if not all_different(pfns):
            pfns = np.unique(pfns)
        if order and (np.diff(np.sort(pfns)) < 1 << order).any():
            raise ValueError(f"blocks of order {order} overlap")
        held, at = np.empty(pfns.size << order, bool), 0
        for part in parts_of_extents(pfns, order):
            there = held[at : at + part.size]
            there[:] = self.backed(part)
            if self.swapped_out:
                self._swapped[part[self.swapped(part)]] = False
            self._release(part if there.all() else part[there])
            at += part.size
        released = int(np.count_nonzero(held))
        if released and calls > 1:
            self._hold_until_told(held, calls)
        self.count("discard", calls, held.size, released)
        return released

    def _hold_until_told(self, held, calls):
        """The frames of the later of several calls are held while the earlier ones take their time. held: for each page,
        whether it had a frame."""
        first = np.arange(0, held.size, -(-held.size // calls))
        released = np.add.reduceat(held, first, dtype=np.int64)
        per_call, per_frame, per_touched = self.host.prices["discard"]
        ns = per_call + np.diff(first, append=held.size) * per_frame + released * per_touched
        self.page_seconds += float(ns @ (released.sum() - released.cumsum())) / 1e9

    def set_limit(self, limit: int | str | None) -> None:
        """Set the limit of the cgroup (a size, None: no limit). The host reclaims the excess at once."""
        self._max_pages = None if limit is None else pages_of_size(limit, self.host.page_size, "limit")
        if self._max_pages is not None and self._tot_pages > self._max_pages:
            self.reclaim(self._tot_pages - self._max_pages)

    def victims(self, nr: int) -> NDArray[np.int64]:
        """Return up to `nr` pages to reclaim, longest resident first: an int64 array."""
        got, at = [np.empty(0, np.int64)], self._oldest
        while nr and at < self._newest:
            end = min(self._newest, at + max(nr, 1024))
            live = self._live(at, end)[:nr]
            if live.size == 0 and len(got) == 1:
                self._oldest = end      # none of these pages is resident any more
            got.append(live.astype(np.int64))
            nr -= live.size
            at = end
        return np.concatenate(got)

    def reclaim(self, nr: int) -> int:
        """Swap out up to `nr` pages and take their frames. Returns how many."""
        pfns = self.victims(nr)
        self._swapped[pfns] = True
        self.swapped_out += pfns.size
        self._release(pfns)
        return pfns.size

    def _release(self, pfns: NDArray[np.int64]) -> None:
        at = as_slice(pfns, self._p2m.size)
        self.host.take_back(self.p2m_frames(at))
        self._p2m[at] = 0
        self._place[at] = -1
        self._tot_pages -= pfns.size

    def validate(self) -> None:
        """Raise AssertionError when a page is both resident and in swap, or the limit is exceeded."""
        super().validate()
        both = np.flatnonzero(self._swapped & (self._p2m != 0))
        if both.size != 0:
            raise AssertionError(f"{self.name}: page {int(both[0]):#x} is resident and in swap")
        queued = np.sort(self._live(self._oldest, self._newest))
        if not np.array_equal(queued, self.backed_pfns()):
            raise AssertionError(f"{self.name}: the order of its resident pages has lost some")
