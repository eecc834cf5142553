"""The order of a kernel's free lists, for the engine that has no lists.

A freed block goes to the head of its list, an onlined block to the tail (__free_one_page and __free_pages_core,
mm/page_alloc.c, 6.1). So the order follows from a time stamp for each block of the largest order. Fragments with equal order
and stamp are sorted by address; the kernel may differ here.
"""

import numpy as np

from fastonline.core.runs import runs
from fastonline.hotplug.zone_ranges import largest_blocks

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
# ones at the multiples of 2^order
_ALIGNED = np.array([0xFFFFFFFFFFFFFFFF, 0x5555555555555555, 0x1111111111111111, 0x0101010101010101, 0x0001000100010001,
                     0x0000000100000001, 0x0000000000000001], np.uint64)
_AHEAD = 16       # a search finds so many times the pages that are asked for


def _parts_of_blocks(free, shift):
    """Yield, for each order below `shift`, the order and the first pages of the free blocks of exactly that order, counted from
    the first word on. free: (blocks, words) uint64, the free pages of blocks of 2^shift pages, none of them free as a whole."""
    words = free.ravel()
    for order in range(6):
        size = np.uint64(1 << order)
        larger = words & (words >> size) & _ALIGNED[order + 1]
        exact = words & ~(larger | larger << size)
        at = np.flatnonzero(exact)
        i, bit = np.nonzero(np.unpackbits(exact[at].view(np.uint8).reshape(-1, 8), axis=1, bitorder="little"))
        yield order, (at[i] << 6) + bit
        words = larger
    full = words.astype(bool).reshape(free.shape)
    for order in range(6, shift):
        larger = full[:, 0::2] & full[:, 1::2]
        yield order, np.flatnonzero(full & ~np.repeat(larger, 2, axis=1)) << order
        full = larger


class FreeOrder:
    """The free blocks of a Memory on the bitmap engine, in the order of __rmqueue_smallest."""

    def __init__(self, mem):
        self._mem = mem
        self._shift = mem.geometry.max_page_order
        self._stamps = np.zeros(0, np.int64)      # of each largest block: below 0 freed, the last one lowest; above 0 onlined
        self._clock = 0
        self._ahead = []                          # (first pfn, end) of free blocks that come next, the first one last,
        self._ahead_since = None                  # if that is still the state of all

    def at_tail(self, start_pfn, nr_pages):
        """Record that these pages go to the tail of their lists."""
        blocks = np.arange(start_pfn >> self._shift, (start_pfn + nr_pages - 1 >> self._shift) + 1)
        self._make_room(blocks)
        self._stamps[blocks] = self._clock + 1
        self._clock += 1

    def freed(self, pfns, undo):
        """Record that these pages are freed in this order, each to the head of its list. undo: the Undo of the change."""
        blocks, last = np.unique(pfns[::-1] >> self._shift, return_index=True)
        self._make_room(blocks)
        stamps = -self._clock - 1 - np.arange(len(blocks))
        blocks = blocks[np.argsort(-last)]
        undo.add(self._stamps.__setitem__, blocks, self._stamps[blocks])
        self._stamps[blocks] = stamps
        self._clock += len(blocks)

    def _make_room(self, blocks):
        if len(blocks) and (more := int(blocks[-1]) + 1 - len(self._stamps)) > 0:
            self._stamps = np.concatenate((self._stamps, np.zeros(more, np.int64)))

    def _sorted(self, orders, pfns):
        """Sort free blocks: smallest order first, then the order of their list."""
        stamps = np.zeros(len(pfns), np.int64)
        known = pfns >> self._shift < len(self._stamps)
        stamps[known] = self._stamps[pfns[known] >> self._shift]
        by = np.lexsort((pfns, stamps, orders))
        return orders[by], pfns[by]

    def find(self, zone, pages=None):
        """Return (orders, first pfns) of the free blocks of a zone in list order, two int64 arrays. pages: only blocks of the
        smallest orders that have so many pages together; None: all blocks."""
        blocks, words = largest_blocks(self._mem, zone.nr), 1 << self._shift >> 6
        plane = self._mem.flags["PG_buddy"]
        free = plane[: (blocks[-1] + 1) * words if len(blocks) else 0].reshape(-1, words)[blocks]
        if self._mem.geometry.zone_borders:
            self._keep_zone(free, blocks, zone)
        all_free = (free == _ALL).all(axis=1)
        parts = np.flatnonzero(~all_free & free.any(axis=1))
        first_word = (blocks[parts, None] * words + np.arange(words)).ravel()
        orders, pfns, left = [], [], np.inf if pages is None else pages
        for order, found in _parts_of_blocks(free[parts], self._shift):
            orders.append(np.full(len(found), order))
            pfns.append((first_word[found >> 6] << 6) + (found & 63))
            left -= len(found) << order
            if left <= 0:
                break
        else:
            orders.append(np.full(np.count_nonzero(all_free), self._shift))
            pfns.append(blocks[all_free] << self._shift)
        return self._sorted(np.concatenate(orders), np.concatenate(pfns))

    def _keep_zone(self, free, blocks, zone):
        """Clear the pages of other zones in blocks that several zones share."""
        for block in {pfn >> self._shift for pfn in self._mem.geometry.zone_borders} & set(blocks.tolist()):
            first, row = block << self._shift, np.searchsorted(blocks, block)
            there = [(found := self._mem.zone_of(pfn)) is not None and found.nr == zone.nr
                     for pfn in range(first, first + (1 << self._shift))]
            free[row] &= np.packbits(np.array(there), bitorder="little").view(np.uint64)

    def take(self, zone, size, allocate):
        """Allocate up to `size` single pages in list order, a range by `allocate(start_pfn, nr_pages)`, and return their pfns.
        The rest of a split block comes next, so that one search serves several calls until something else changes a page or a
        list."""
        if self._ahead_since != self._now(zone):
            self._ahead = []
        self._ahead_since = None
        got, left = [], size
        while left and (self._ahead or self._search(zone, left)):
            chosen = []
            while left and self._ahead:
                pfn, end = self._ahead.pop()
                if end - pfn > left:
                    self._ahead.append((pfn + left, end))
                    end = pfn + left
                chosen.append(np.arange(pfn, end))
                left -= end - pfn
            got += chosen
            for first, nr in runs(np.concatenate(chosen)):
                allocate(first, nr)
        self._ahead_since = self._now(zone)
        return np.concatenate([np.empty(0, np.int64), *got])

    def _search(self, zone, size):
        """Find the free blocks that come next, more pages than `size` if there are. Return whether there are any."""
        orders, pfns = self.find(zone, _AHEAD * size)
        self._ahead = list(zip(pfns.tolist(), (pfns + (1 << orders)).tolist(), strict=True))[::-1]
        return bool(self._ahead)

    def _now(self, zone):
        return zone.nr, self._clock, self._mem.stats()["bytes_touched"]

    def first_block(self, zone, order):
        """Return the first pfn of the first free block of at least 2^order pages. There must be one."""
        orders, pfns = self.find(zone)
        return int(pfns[np.searchsorted(orders, order)])
