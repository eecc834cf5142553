"""The host of guests: a finite pool of machine frames.

A frame has the size of the guests' pages. Everything is deterministic: the order of the pool depends only on the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastonline.drivers.account import Price, check_prices
from fastonline.drivers.extents import all_different, as_numbers, as_slice, pages_of_extents
from fastonline.errors import is_number
from fastonline.geometry import format_size, pages_of_size

__all__ = ["FREE", "Host"]

FREE = -1


class Host:
    """A machine with a finite pool of frames.

    memory: its size (bytes, or text such as "4G"). page_size: bytes of a frame. scattered: hand frames out in an order drawn
    from `seed`, as a host that has been up for long does; else ascending. Frames that come back are the first to be used again.
    call_ns: what the calls of its domains cost, as check_prices takes it; a Domain adds it up in `ns`. mfns: frames, int64
    arrays; domid: number of a domain.

    The host's tables take memory only for frames that have been lent.
    """

    REFILL = 4096      # fresh frames that enter the pool at a time

    def __init__(
        self, memory: int | str, page_size: int = 4096, scattered: bool = False, seed: int = 0,
        call_ns: float | Mapping[str, Price] = 0
    ) -> None:
        self.page_size = page_size
        self.nr_frames = pages_of_size(memory, page_size, "host memory")
        if not self.nr_frames:
            raise ValueError("a host needs at least one frame")
        if seed < 0:
            raise ValueError(f"the seed must not be negative, got {seed}")
        self.prices = check_prices(call_ns)
        self._owner = np.zeros(self.nr_frames, np.uint16)      # domid + 1, 0: free; zeroed pages cost nothing until written
        self.frame_type = np.dtype(np.int32 if self.nr_frames < 1 << 31 else np.int64)
        """dtype of the tables that hold mfns."""
        self._pool = np.empty(self.nr_frames, self.frame_type)       # a stack of free frames, the next one last
        self._in_pool = 0
        self._nr_free = self.nr_frames
        # frames never lent follow the pool: f(fresh), f(fresh + 1)..., f being a bijection of [0, 2^bits)
        self._fresh = 0
        self._bits = (self.nr_frames - 1).bit_length()
        self._rounds = np.random.default_rng(seed).integers(0, 2**63, (4, 2), np.uint64) | np.uint64(1) if scattered else ()
        # from the first large extent on: frames lent of each extent, by order; no extent below the lowest is free; and which
        # frames have left the pool and f
        self._lent: dict[int, NDArray[np.int16]] = {}
        self._lowest: dict[int, int] = {}
        self._popped = np.empty(0, bool)
        self.domains: dict[int, Any] = {}
        """{domid: Domain}"""
        self._next_domid = 0

    def __repr__(self) -> str:
        return f"<Host {format_size(self.nr_frames * self.page_size)} free={self._nr_free} domains={len(self.domains)}>"

    @property
    def free_frames(self) -> int:
        """The number of free frames."""
        return self._nr_free

    @property
    def owner(self) -> NDArray[np.int32]:
        """The domid of each frame, FREE = -1: a new (nr_frames,) int32 array."""
        return np.subtract(self._owner, 1, dtype=np.int32)

    def owns(self, mfns: NDArray[np.int64], domid: int) -> NDArray[np.bool_]:
        """Return a bool array: whether the domain has each of these frames."""
        mfns = as_numbers(mfns, "mfns")
        at = as_slice(mfns, self.nr_frames)
        if isinstance(at, slice):
            return self._owner[at] == domid + 1
        there = (mfns >= 0) & (mfns < self.nr_frames)
        if there.all():
            return self._owner[mfns] == domid + 1
        there[there] = self._owner[mfns[there]] == domid + 1
        return there

    def free_list(self) -> NDArray[np.int64]:
        """Return the free frames, the next one first: a (free_frames,) int64 array."""
        frames = np.concatenate([self._pool[: self._in_pool][::-1], self._fresh_frames(self._fresh, 1 << self._bits)])
        return frames[self._owner[frames] == 0]

    def _enter(self, domain):
        """Register a new Domain and return its domid."""
        if domain in self.domains.values():
            raise ValueError(f"{domain!r} is there already")
        domid = self._next_domid
        self._next_domid += 1
        if self._next_domid > np.iinfo(self._owner.dtype).max:
            self._owner = self._owner.astype(np.int32)
        self.domains[domid] = domain
        return domid

    def _fresh_frames(self, start, end):
        """f(start) ... f(end - 1), those of them that are frames."""
        if not len(self._rounds):
            return np.arange(start, min(end, self.nr_frames))
        numbers, mask, half = np.arange(start, end, dtype=np.uint64), np.uint64((1 << self._bits) - 1), max(1, self._bits // 2)
        for factor, term in self._rounds:
            numbers = numbers * factor + term & mask
            numbers ^= numbers >> np.uint64(half)
        return numbers[numbers < self.nr_frames].astype(np.int64)

    def _pop(self, nr):
        """Up to `nr` frames off the pool, in order; when it is empty, fresh ones enter it first."""
        while not self._in_pool:
            end = min(self._fresh + max(nr, self.REFILL), 1 << self._bits)
            fresh = self._fresh_frames(self._fresh, end)
            self._fresh = end
            if 0 < fresh.size <= nr:
                return fresh
            self._push(fresh[::-1])
        got = min(nr, self._in_pool)
        mfns = self._pool[self._in_pool - got : self._in_pool][::-1].astype(np.int64)
        self._in_pool -= got
        return mfns

    def _push(self, mfns):
        end = self._in_pool + mfns.size
        self._pool[self._in_pool : end] = mfns
        self._in_pool = end

    def _frames(self, nr):
        nr = min(nr, self._nr_free)
        got = [np.empty(0, np.int64)]
        while nr:
            mfns = self._pop(nr)
            if self._lent:      # some may have gone with a large extent
                self._popped[mfns] = True
                mfns = mfns[self._owner[mfns] == 0]
            got.append(mfns)
            nr -= mfns.size
        return np.concatenate(got) if len(got) > 2 else got[-1]

    def _extents(self, nr, order):
        if order not in self._lent:
            owned = np.flatnonzero(self._owner) if self._nr_free < self.nr_frames else np.empty(0, np.int64)
            if not self._lent:
                self._popped = np.zeros(self.nr_frames, bool)
                self._popped[owned] = True
            self._lent[order] = np.zeros(self.nr_frames >> order, np.int16)
            self._lowest[order] = 0
            self._count_lent(owned, 1, order)
        lent, at, got = self._lent[order], self._lowest[order], [np.empty(0, np.int64)]
        while nr and at < lent.size:
            part = np.flatnonzero(lent[at : at + max(2 * nr, 1024)] == 0)[:nr] + at
            got.append(part)
            nr -= part.size
            at = int(part[-1]) + 1 if nr == 0 else at + max(2 * (nr + part.size), 1024)
        self._lowest[order] = min(at, lent.size)
        return np.concatenate(got) << order

    def _count_lent(self, frames, change, *orders):
        for order in orders or self._lent:
            if frames.size:
                extents = frames >> order
                first = int(extents.min())
                counts = np.bincount(extents - first)[: self._lent[order].size - first]  # the host's end may be no whole extent
                self._lent[order][first : first + counts.size] += (change * counts).astype(np.int16)
                if change < 0:
                    self._lowest[order] = min(self._lowest[order], first)

    def take(self, nr: int, domid: int, order: int = 0) -> NDArray[np.int64]:
        """Give a domain up to `nr` aligned extents of 2^order frames. Returns a (got,) int64 array of their first mfns.

        Large extents are the lowest free ones.
        """
        if not is_number(nr) or not is_number(order) or nr < 0 or not 0 <= order < 64:
            raise ValueError(f"expected a number of extents and an order, got {nr!r:.80} and {order!r:.80}")
        if domid not in self.domains:
            raise ValueError(f"invalid domid {domid!r:.80}: the host has no such domain")
        mfns = self._extents(nr, order) if order else self._frames(nr)
        frames = pages_of_extents(mfns, order)
        self._owner[as_slice(frames, self.nr_frames)] = domid + 1
        self._nr_free -= frames.size
        self._count_lent(frames, 1)
        return mfns

    def give(self, mfns: NDArray[np.int64]) -> None:
        """Return frames to the pool. ValueError, and no change, for a frame that is free, that the host does not have, or that
        is given twice."""
        mfns = as_numbers(mfns, "mfns")
        if mfns.size and (mfns.max() >= self.nr_frames or not self._owner[mfns].all() or not all_different(mfns)):
            raise ValueError("a frame is free, is not the host's, or is given twice")
        self.take_back(mfns)

    def take_back(self, mfns: NDArray[np.int64]) -> None:
        """`give` for frames that the caller has checked."""
        self._owner[as_slice(mfns, self.nr_frames)] = 0
        self._nr_free += mfns.size
        if self._lent:
            self._count_lent(mfns, -1)
            popped = self._popped[mfns]
            self._popped[mfns] = False
            mfns = mfns[popped]
        self._push(mfns)

    def validate(self) -> None:
        """Check that each frame is free, or has one domain and one page. AssertionError names the first fault."""
        free = self.free_list()
        if not all_different(free):
            raise AssertionError("a frame is in the pool twice")
        nr_free = self.nr_frames - int(np.count_nonzero(self._owner))
        if not nr_free == self._nr_free == free.size:
            raise AssertionError(f"{nr_free} frames have no owner, {self._nr_free} are counted, {free.size} are in the pool")
        for order, lent in self._lent.items():
            owned = self._owner[: lent.size << order].reshape(-1, 1 << order)
            if not np.array_equal(lent, np.count_nonzero(owned, axis=1)):
                raise AssertionError(f"frames lent of extents of order {order} are miscounted")
        for domid, domain in self.domains.items():
            backed = domain.p2m_frames(domain.backed_pfns())
            nr_owned = int(np.count_nonzero(self._owner == domid + 1))
            if domain.tot_pages != nr_owned:
                raise AssertionError(f"{domain.name} counts {domain.tot_pages} frames, the host says it has {nr_owned}")
            if backed.size != nr_owned:
                raise AssertionError(f"{domain.name} has {nr_owned} frames and {backed.size} pages with one")
            if not all_different(backed):
                raise AssertionError(f"{domain.name} has two pages with the same frame")
            if not np.all(self._owner[backed] == domid + 1):
                raise AssertionError(f"{domain.name} has a page with a frame that is not its own")
            domain.validate()
        total = self._nr_free + sum(domain.tot_pages for domain in self.domains.values())
        if total != self.nr_frames:
            raise AssertionError(f"{total} frames are accounted for, the host has {self.nr_frames}")
