"""The pageblocks of a zone that hold kernel pages (mm/page_alloc.c of 6.1.192 and 6.12: steal_suitable_fallback).

The engine counts all their pages as in use. Here it is noted which of them are free.
"""

import numpy as np


def count_free_blocks(free, max_order):
    """Return the number of free blocks of each order. free: a bool for each page of whole blocks of the largest order."""
    full, counts = free, []
    for _ in range(max_order + 1):
        counts.append(int(np.count_nonzero(full)))
        full = full[0::2] & full[1::2]
    return [counts[k] - 2 * counts[k + 1] for k in range(max_order)] + [counts[max_order]]


class Pageblocks:
    """The Unmovable and Reclaimable pageblocks of one zone. Sizes are pages, pfns int64 arrays."""

    __slots__ = ("_free", "_reclaimable", "_full")

    def __init__(self):
        self._free = {}              # first pfn of a pageblock -> bool array, True where a page is free
        self._reclaimable = set()    # first pfns of the Reclaimable ones
        self._full = set()           # first pfns of those that are known to have no free page

    def copy(self):
        """Return a copy. The arrays are the same: who changes one notes its inverse."""
        other = Pageblocks()
        other._free, other._reclaimable, other._full = dict(self._free), set(self._reclaimable), set(self._full)
        return other

    def nr_free(self):
        """Return the number of free pages."""
        return sum(int(np.count_nonzero(free)) for base, free in self._free.items() if base not in self._full)

    def free_blocks(self, counts):
        """Add the free blocks of each order to `counts`, a list by order."""
        for free in self._free.values():
            for k, count in enumerate(count_free_blocks(free, len(free).bit_length() - 1)):
                counts[k] += count

    def free_pfns(self):
        """Return all free pages."""
        return np.concatenate([np.empty(0, np.int64), *(base + np.flatnonzero(free) for base, free in self._free.items())])

    def _base_of(self, pfn):
        return next((base for base, free in self._free.items() if base <= pfn < base + len(free)), None)

    def __contains__(self, pfn):
        return self._base_of(pfn) is not None

    def is_reclaimable(self, pfn):
        """Return whether the page is in a Reclaimable pageblock."""
        return self._base_of(pfn) in self._reclaimable

    def free_of(self, pfns):
        """Return those of `pfns` that are free here."""
        bases = np.sort(np.fromiter(self._free, np.int64, len(self._free)))
        near = np.unique(np.searchsorted(bases, pfns, "right") - 1)
        found = [np.empty(0, np.int64)]
        for base in bases[near[near >= 0]].tolist():
            free = self._free[base]
            inside = pfns[(pfns >= base) & (pfns < base + len(free))]
            found.append(inside[free[inside - base]])
        return np.concatenate(found)

    def add(self, start_pfn, nr_pages, unit, reclaimable):
        """Make free pages pageblocks of `unit` pages each."""
        for base in range(start_pfn, start_pfn + nr_pages, unit):
            self._free[base] = np.ones(unit, bool)
            if reclaimable:
                self._reclaimable.add(base)

    def take(self, order, reclaimable, undo):
        """Allocate a block of an order from the pageblocks of a kind. Return its first pfn, or None. undo: the Undo of the
        change."""
        for base, free in self._free.items():
            if base not in self._full and len(free) >> order and (base in self._reclaimable) == reclaimable:
                fits = np.flatnonzero(free.reshape(-1, 1 << order).all(axis=1))
                if len(fits):
                    first = int(fits[0]) << order
                    self._set(base, slice(first, first + (1 << order)), False, undo)
                    return base + first
        return None

    def take_page(self, pfn, undo):
        """Allocate one free page."""
        base = self._base_of(pfn)
        self._set(base, slice(pfn - base, pfn - base + 1), False, undo)

    def give(self, pfns, undo):
        """Free those of `pfns` that are in these pageblocks. Return a bool for each: was it?"""
        inside = np.zeros(len(pfns), bool)
        for base, free in self._free.items():
            own = (pfns >= base) & (pfns < base + len(free))
            if own.any():
                self._set(base, pfns[own] - base, True, undo)
                inside |= own
        return inside

    def _set(self, base, pages, value, undo):
        """Set pages of a pageblock, an index or a slice, free or in use."""
        free = self._free[base]
        undo.add(self._full.discard, base)
        undo.add(free.__setitem__, pages, np.array(free[pages]))
        free[pages] = value
        if free.any():
            self._full.discard(base)
        else:
            self._full.add(base)

    def remove_free(self, start_pfn, nr_pages):
        """Forget the pageblocks of a range all of whose pages are free. Return [(start_pfn, nr_pages)] of them."""
        gone = [(base, len(free)) for base, free in self._free.items()
                if start_pfn <= base < start_pfn + nr_pages and free.all()]
        for base, _ in gone:
            del self._free[base]
            self._reclaimable.discard(base)
        return gone
