"""The other side of the guest: a host with a finite pool of machine frames, and the domains that it lends them to.

Two views of a guest's memory, the two of the 2008 thread. A `Domain` is Xen's: it has a reservation, asks for frames and gives
frames back by hypercall, and keeps the table from its page frames (pfn) to the machine's (mfn). A `ResidentDomain` is KVM's:
its memory is virtual, a page takes a frame when it is touched, and a memory cgroup limits how many it has at a time.

Frames are counted in the pages of the guest. Everything is deterministic: the order of the pool depends on the seed alone.
"""

from __future__ import annotations

import errno

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastonline.errors import HotplugError
from fastonline.geometry import format_size, parse_size

INVALID_P2M_ENTRY = 2**64 - 1
"""~0UL: there is no machine frame behind this page frame."""

FREE = -1


def pages_of_size(size: int | str, page_size: int, what: str) -> int:
    """Pages of `page_size` bytes in a size; TypeError or ValueError for what is none, or no whole number of pages."""
    nr_bytes = parse_size(size)
    if nr_bytes % page_size:
        raise ValueError(f"{what} {size!r} is not a whole number of pages of {page_size} bytes")
    return nr_bytes // page_size


def pages_of_extents(extents: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    """(nr << order,) int64: every page of the extents of 2^order pages that begin at `extents`, in their order."""
    if order == 0:
        return extents
    return (extents[:, None] + np.arange(1 << order)).ravel()


def all_different(numbers: NDArray[np.int64]) -> bool:
    """Is none of `numbers` (an int array) there twice?"""
    ordered = np.sort(numbers)
    return not np.any(ordered[1:] == ordered[:-1])


class Host:
    """A machine with a finite pool of frames.

    memory: its size (bytes, or text such as "4G"). page_size: bytes of a frame. scattered: hand frames out in an order drawn
    from `seed`, as a host that has been up for long does; else ascending. Frames that come back are the first to be used again.
    call_ns: what a hypercall costs, a number for all of them or a dict by name ("populate_physmap", "decrease_reservation",
    "update_va_mapping", ...); a Domain sums it up in `ns`. mfns: frames, int64 arrays; domid: a domain's number.
    """

    def __init__(
        self, memory: int | str, page_size: int = 4096, scattered: bool = False, seed: int = 0,
        call_ns: float | dict[str, float] = 0
    ) -> None:
        self.page_size = page_size
        self.nr_frames = pages_of_size(memory, page_size, "host memory")
        if not self.nr_frames:
            raise ValueError("a host has at least one frame")
        if isinstance(call_ns, dict):
            self.call_ns = dict(call_ns)
        else:
            self.call_ns = dict.fromkeys(CALLS, call_ns)
        for name, ns in self.call_ns.items():
            if name not in CALLS:
                raise ValueError(f"{name!r} is no call of a hypervisor; there are {', '.join(CALLS)}")
            if not 0 <= ns < float("inf"):
                raise ValueError(f"a call cannot cost {ns} ns")
        self.owner = np.full(self.nr_frames, FREE, np.int32)
        """(nr_frames,) int32: the domid that has each frame, FREE = -1."""
        if seed < 0:
            raise ValueError(f"a seed is a number from 0 on, not {seed}")
        order = np.random.default_rng(seed).permutation(self.nr_frames) if scattered else np.arange(self.nr_frames)
        self._pool = order[::-1].copy()       # a stack: the next frame is the last one
        self._nr_free = self.nr_frames
        self.domains: dict[int, Domain] = {}
        """{domid: Domain}"""
        self._next_domid = 0

    def __repr__(self) -> str:
        return f"<Host {format_size(self.nr_frames * self.page_size)} free={self._nr_free} domains={len(self.domains)}>"

    @property
    def free_frames(self) -> int:
        """Frames that no domain has."""
        return self._nr_free

    def free_list(self) -> NDArray[np.int64]:
        """(free_frames,) int64: the free frames, the next to be handed out first."""
        return self._pool[: self._nr_free][::-1].copy()

    def enter(self, domain: Domain) -> int:
        """A new domain: its domid."""
        domid = self._next_domid
        self._next_domid += 1
        self.domains[domid] = domain
        return domid

    def take(self, nr: int, domid: int, order: int = 0) -> NDArray[np.int64]:
        """Give a domain up to `nr` extents of 2^order frames, aligned to their size: (got,) int64 array of their first mfns."""
        if order == 0:
            got = min(nr, self._nr_free)
            mfns = self._pool[self._nr_free - got : self._nr_free][::-1].copy()
            self._nr_free -= got
            self.owner[mfns] = domid
            return mfns
        whole = self.nr_frames >> order
        free = (self.owner[: whole << order] == FREE).reshape(whole, 1 << order).all(axis=1)
        mfns = np.flatnonzero(free)[:nr] << order
        if mfns.size:
            self.owner[pages_of_extents(mfns, order)] = domid
            pool = self._pool[: self._nr_free]
            left = pool[self.owner[pool] == FREE]
            self._nr_free = left.size
            self._pool[: left.size] = left
        return mfns

    def give(self, mfns: NDArray[np.int64]) -> None:
        """Frames come back to the pool."""
        self.owner[mfns] = FREE
        self._pool[self._nr_free : self._nr_free + mfns.size] = mfns
        self._nr_free += mfns.size

    def validate(self) -> None:
        """Each frame is owned once: free, or of one domain and behind one of its pages. AssertionError with what is wrong."""
        pool = self._pool[: self._nr_free]
        assert all_different(pool), "a frame is in the pool twice"
        assert np.all(self.owner[pool] == FREE), "a frame in the pool has an owner"
        nr_free = int(np.count_nonzero(self.owner == FREE))
        assert nr_free == self._nr_free, f"{nr_free} frames have no owner, {self._nr_free} are in the pool"
        for domid, domain in self.domains.items():
            backed = domain.p2m_frames(domain.backed_pfns())
            owned = int(np.count_nonzero(self.owner == domid))
            assert domain.tot_pages == owned, f"{domain.name} counts {domain.tot_pages} frames, the host says it has {owned}"
            assert backed.size == owned, f"{domain.name} has {owned} frames and {backed.size} pages with one"
            assert all_different(backed), f"{domain.name} has two pages with the same frame"
            assert np.all(self.owner[backed] == domid), f"{domain.name} has a page with a frame that is not its own"
            domain.validate()
        total = self._nr_free + sum(domain.tot_pages for domain in self.domains.values())
        assert total == self.nr_frames, f"{total} frames are accounted for, the host has {self.nr_frames}"


CALLS = ("populate_physmap", "decrease_reservation", "update_va_mapping", "touch", "discard", "essa", "host_message")
"""What a Domain counts; "touch" is a fault that the host serves, "discard" madvise or a balloon's message, "host_message" a
round trip over a bus."""


class Domain:
    """A guest as Xen has it: a reservation of frames up to a cap, and the guest's own table of which frame is behind which
    page.

    host: Host. boot: size of the memory that the domain builder populates, from pfn 0 on. max_memory: the host-set cap on the
    reservation, None: none. name: for messages. pfns, mfns: int64 arrays of pages and of their frames; nr_pages: pages.

    Hypercalls give partial success the way Xen does: they return how far they came, and what was done stays done. `calls`
    counts them by name, `ns` adds up their cost, `refused` counts the frames not given, by reason ("cap" or "host").
    """

    def __init__(self, host: Host, boot: int | str = 0, max_memory: int | str | None = None, name: str | None = None) -> None:
        pages = pages_of_size(boot, host.page_size, "boot memory")
        cap = None if max_memory is None else pages_of_size(max_memory, host.page_size, "max_memory")
        if cap is not None and pages > cap:
            raise ValueError(f"boot memory {boot!r} is more than the domain may have, {max_memory!r}")
        self.host = host
        self.max_pages = cap
        """Pages that the reservation may have at most, None: as many as there are (XEN_DOMCTL_max_mem)."""
        self.tot_pages = 0
        """The current reservation."""
        self.calls = dict.fromkeys(CALLS, 0)
        self.ns: float = 0
        self.refused = {"cap": 0, "host": 0}
        self._p2m = np.full(pages, -1, np.int64)     # the same bits as uint64
        if pages > host.free_frames:
            raise HotplugError.of(
                errno.ENOMEM, f"a domain of {pages} pages cannot be built: the host has {host.free_frames} frames left"
            )
        self.domid = host.enter(self)
        self.name = f"domain {self.domid}" if name is None else name
        if pages:
            self._p2m[:] = host.take(pages, self.domid)
            self.tot_pages = pages

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} tot_pages={self.tot_pages} max_pages={self.max_pages}>"

    # -- the table

    @property
    def p2m(self) -> NDArray[np.uint64]:
        """Read-only uint64 array: the mfn behind each pfn, INVALID_P2M_ENTRY where there is none (or past its end)."""
        view = self._p2m.view(np.uint64)
        view.flags.writeable = False
        return view

    def backed(self, pfns: ArrayLike) -> NDArray[np.bool_]:
        """Bool array: which of these pages have a frame."""
        pfns = np.asarray(pfns)
        there = pfns < self._p2m.size
        if there.all():
            return self._p2m[pfns] >= 0
        there[there] = self._p2m[pfns[there]] >= 0
        return there

    def backed_pfns(self) -> NDArray[np.int64]:
        """int64 array: the pages that have a frame, ascending."""
        return np.flatnonzero(self._p2m >= 0)

    def p2m_frames(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 array: the frames behind pages that have one (pfn_to_mfn)."""
        return self._p2m[pfns]

    def need_p2m(self, end_pfn: int) -> None:
        """Make the table reach up to end_pfn."""
        if end_pfn > self._p2m.size:
            table = np.full(max(end_pfn, 2 * self._p2m.size), -1, np.int64)
            table[: self._p2m.size] = self._p2m
            self._p2m = table

    def set_phys_to_machine(self, pfns: NDArray[np.int64], mfns: NDArray[np.int64] | int) -> None:
        """The guest writes its table: arrays of pages and of the frames behind them, or INVALID_P2M_ENTRY for all of them."""
        if isinstance(mfns, int):
            mfns = -1 if mfns == INVALID_P2M_ENTRY else mfns
        try:
            self._p2m[pfns] = mfns
        except IndexError:
            self.need_p2m(int(pfns.max()) + 1)
            self._p2m[pfns] = mfns

    # -- hypercalls

    def count(self, name: str, nr: int = 1) -> None:
        """Count `nr` calls and their cost."""
        self.calls[name] += nr
        self.ns += nr * self.host.call_ns.get(name, 0)

    def room(self, nr_pages: int) -> int:
        """Of so many pages, those that the cap allows."""
        return nr_pages if self.max_pages is None else max(0, min(nr_pages, self.max_pages - self.tot_pages))

    def populate_physmap(self, pfns: NDArray[np.int64], order: int = 0) -> NDArray[np.int64]:
        """XENMEM_populate_physmap: frames for the extents of 2^order pages that begin at `pfns` (int64 array).

        Returns the (got,) int64 array of their first mfns, for pfns[:got]: shorter than pfns when the cap is reached or the
        host has no more. The guest enters them into its table itself.
        """
        self.count("populate_physmap")
        want = pfns.size
        allowed = self.room(want << order) >> order
        mfns = self.host.take(allowed, self.domid, order)
        if mfns.size < want:
            self.refused["cap"] += (want - allowed) << order
            self.refused["host"] += (allowed - mfns.size) << order
        self.tot_pages += mfns.size << order
        return mfns

    def decrease_reservation(self, mfns: NDArray[np.int64], order: int = 0) -> int:
        """XENMEM_decrease_reservation: give the extents of 2^order frames that begin at `mfns` (int64 array) back to the host.

        Returns how many were: it stops at the first that is not wholly the domain's own.
        """
        self.count("decrease_reservation")
        frames = pages_of_extents(mfns, order)
        there = (frames >= 0) & (frames < self.host.nr_frames)
        own = np.zeros(frames.size, bool)
        own[there] = self.host.owner[frames[there]] == self.domid
        bad = np.flatnonzero(~own)
        got = mfns.size if bad.size == 0 else int(bad[0]) >> order
        self.host.give(frames[: got << order])
        self.tot_pages -= got << order
        return got

    def update_va_mapping(self, pfns: NDArray[np.int64], mfns: NDArray[np.int64] | None) -> None:
        """HYPERVISOR_update_va_mapping of each page's kernel address, one call a page; mfns None: unmap.

        Xen maps a domain's own frames only: HotplugError EINVAL.
        """
        if mfns is not None and not np.all(self.host.owner[mfns] == self.domid):
            raise HotplugError.of(errno.EINVAL, f"{self.name} cannot map a frame that is not its own")
        self.count("update_va_mapping", pfns.size)

    # -- hosts that keep the table themselves

    def back(self, pfns: NDArray[np.int64]) -> int:
        """Frames for pages without one, entered into the table: how many of pfns, from the first on, got one."""
        mfns = self.populate_physmap(pfns)
        self.set_phys_to_machine(pfns[: mfns.size], mfns)
        return mfns.size

    def unback(self, pfns: NDArray[np.int64]) -> None:
        """The frames behind pages that have one go back to the host."""
        mfns = self._p2m[pfns]
        self._p2m[pfns] = -1
        self.decrease_reservation(mfns)

    def destroy(self) -> None:
        """The domain is gone, its frames are the host's again."""
        self.host.give(self._p2m[self.backed_pfns()])
        self._p2m[:] = -1
        self.tot_pages = 0
        del self.host.domains[self.domid]

    def validate(self) -> None:
        """AssertionError when the domain has more than it may have. (Host.validate checks frames against the table.)"""
        assert self.max_pages is None or self.tot_pages <= self.max_pages, (
            f"{self.name} has {self.tot_pages} pages, it may have {self.max_pages}"
        )


class ResidentDomain(Domain):
    """A guest as KVM has it: its memory is virtual; a page takes a frame when it is touched and loses it when the guest
    discards it, or when the host must reclaim, which swaps it out. The guest is not asked and need not tell.

    host: Host. limit: size that may be resident at a time (the memory cgroup of the thread), None: no limit. The host reclaims
    from the guest itself, longest resident first, when the limit or the host's memory is reached. name: for messages. pfns:
    int64 arrays.
    """

    def __init__(self, host: Host, limit: int | str | None = None, name: str | None = None) -> None:
        super().__init__(host, max_memory=limit, name=name)
        self._swapped = np.zeros(0, bool)
        self._since = np.zeros(0, np.int64)      # when each resident page became so
        self._clock = 0
        self.swapped_out = 0
        """Pages written to the host's swap, ever."""
        self.swapped_in = 0
        """Pages read back, ever."""

    def need_p2m(self, end_pfn: int) -> None:
        """Make the tables reach up to end_pfn."""
        super().need_p2m(end_pfn)
        more = self._p2m.size - self._swapped.size
        if more > 0:
            self._swapped = np.append(self._swapped, np.zeros(more, bool))
            self._since = np.append(self._since, np.zeros(more, np.int64))

    def swapped(self, pfns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Bool array: which of these pages are in the host's swap."""
        pfns = np.asarray(pfns)
        there = pfns < self._swapped.size
        there[there] = self._swapped[pfns[there]]
        return there

    def touch(self, pfns: NDArray[np.int64]) -> int:
        """The guest reads or writes pages: each without a frame gets one, by a fault. Returns how many faults that took.

        HotplugError ENOMEM when the host has no frame left and the guest has none to reclaim, or its limit is nothing; pages
        before that one are resident.
        """
        pfns = np.asarray(pfns, np.int64)
        if pfns.size == 0:
            return 0
        self.need_p2m(int(pfns.max()) + 1)
        missing = np.unique(pfns[self._p2m[pfns] < 0])
        faults, at = missing.size, 0
        self.count("touch", faults)
        while at < faults:
            part = missing[at:]
            short = part.size - min(self.room(part.size), self.host.free_frames)
            if short:
                self.reclaim(short)
                part = part[: min(self.room(part.size), self.host.free_frames)]
                if part.size == 0:
                    raise HotplugError.of(errno.ENOMEM, f"{self.name} cannot touch page {int(missing[at]):#x}: no frame for it")
            mfns = self.host.take(part.size, self.domid)
            self._p2m[part] = mfns
            self.tot_pages += part.size
            self._since[part] = self._clock + np.arange(part.size)
            self._clock += part.size
            self.swapped_in += int(np.count_nonzero(self._swapped[part]))
            self._swapped[part] = False
            at += part.size
        return faults

    def discard(self, pfns: NDArray[np.int64], calls: int = 1) -> int:
        """The guest does not need what is in these pages (madvise DONTNEED, a balloon's message, free page reporting): their
        frames are the host's, they are zero when touched again. calls: how many the guest makes of it. Returns how many
        frames."""
        pfns = np.asarray(pfns, np.int64)
        self.count("discard", calls)
        pfns = pfns[pfns < self._p2m.size]
        self._swapped[pfns] = False
        pfns = pfns[self._p2m[pfns] >= 0]
        self._release(pfns)
        return pfns.size

    def set_limit(self, limit: int | str | None) -> None:
        """Set the cgroup's limit (size, None: none); the host reclaims what is above it at once."""
        self.max_pages = None if limit is None else pages_of_size(limit, self.host.page_size, "limit")
        if self.max_pages is not None and self.tot_pages > self.max_pages:
            self.reclaim(self.tot_pages - self.max_pages)

    def victims(self, nr: int) -> NDArray[np.int64]:
        """int64 array: up to `nr` pages to take frames from, longest resident first."""
        resident = self.backed_pfns()
        if nr < resident.size:
            resident = resident[np.argpartition(self._since[resident], nr)[:nr]]
        return resident[np.argsort(self._since[resident], kind="stable")]

    def reclaim(self, nr: int) -> int:
        """The host takes up to `nr` frames back, writing the pages to swap. Returns how many."""
        pfns = self.victims(nr)
        self._swapped[pfns] = True
        self.swapped_out += pfns.size
        self._release(pfns)
        return pfns.size

    def _release(self, pfns: NDArray[np.int64]) -> None:
        self.host.give(self._p2m[pfns])
        self._p2m[pfns] = -1
        self.tot_pages -= pfns.size

    def validate(self) -> None:
        """AssertionError when a page is both resident and in swap, or more is resident than may be."""
        super().validate()
        both = np.flatnonzero(self._swapped & (self._p2m >= 0))
        assert both.size == 0, f"{self.name}: page {int(both[0]):#x} is resident and in swap"
