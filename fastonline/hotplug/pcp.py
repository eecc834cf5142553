"""Per-CPU page lists, watermark checks and pageblocks of unmovable pages, in front of the buddy allocator (mm/page_alloc.c of
6.1.192 and 6.12: rmqueue_pcplist, free_unref_page_commit, free_pcppages_bulk, __rmqueue_fallback).

There is one CPU. The engine counts pages on a per-CPU list, and free pages of Unmovable pageblocks, as in use. `free_pages`
here is the kernel's count.
"""

import errno
from functools import wraps

import numpy as np

from fastonline.core.runs import equal_runs, runs
from fastonline.core.undo import Undo
from fastonline.errors import HotplugError, is_number
from fastonline.hotplug.free_order import FreeOrder
from fastonline.hotplug.interruptible import uninterrupted
from fastonline.hotplug.zonelists import kernel_zonelist

UNMOVABLE, MOVABLE, RECLAIMABLE = range(3)
"""Kinds of pages that have per-CPU lists of their own (MIGRATE_PCPTYPES, 6.1)."""
COSTLY = 3
"""PAGE_ALLOC_COSTLY_ORDER: blocks up to this order are kept on per-CPU lists, and those of a pageblock."""
SCALE_MAX = 5
"""CONFIG_PCP_BATCH_SCALE_MAX: batches grow to 2^5 of them (52166607ecc9 in 6.7, and as a stable patch in 6.1)."""
_HUGE, _HUGE_MOVABLE = 3 * (COSTLY + 1), 3 * (COSTLY + 1) + 1
"""The index of the pageblock lists (NR_PCP_THP). Until 6.10 all kinds share the first."""


def count_free_blocks(free, max_order):
    """Return the number of free blocks of each order. free: a bool for each page of whole blocks of the largest order."""
    full, runs = free, []
    for _ in range(max_order + 1):
        runs.append(int(np.count_nonzero(full)))
        full = full[0::2] & full[1::2]
    return [runs[k] - 2 * runs[k + 1] for k in range(max_order)] + [runs[max_order]]


def changing(method):
    """Decorate a method of PerCpuPages that changes lists. When it raises, nothing has changed, but the buddy allocator's work
    stays counted. Other threads' calls, signal handlers and forks wait until it returns. A callback of the allocator cannot
    call another such method (EBUSY)."""
    @uninterrupted
    @wraps(method)
    def call(self, *args, **kwargs):
        if self._undo is not None:
            raise HotplugError.of(errno.EBUSY, f"{method.__name__}: the per-CPU lists are being changed")
        with Undo() as undo:
            self._undo = undo
            try:
                return method(self, *args, **kwargs)
            finally:
                self._undo = None
                self._kept.clear()
    return call


class _Zone:
    """The lists of one zone. A list has its head, where pages are taken, at the end."""

    __slots__ = (
        "lists", "free_factor", "free_count", "alloc_factor", "freed_high_order", "high", "below_high", "boost", "diff",
        "disabled", "pool", "reclaimable",
    )

    def __init__(self):
        self.lists = [[] for _ in range(_HUGE_MOVABLE + 1)]      # order_to_pindex: 3 order + kind
        self.free_factor = 0     # until 6.6: batches freed double as long as nothing is allocated
        self.free_count = 0      # since 6.7: pages freed in a row
        self.alloc_factor = 0    # since 6.7: batches allocated double as long as nothing is freed
        self.freed_high_order = False
        self.high = 0            # since 6.7 it follows what is allocated and freed
        self.below_high = False  # ZONE_BELOW_HIGH
        self.boost = 0           # of the watermarks that requests are checked against
        self.diff = 0            # vm_stat_diff of NR_FREE_PAGES: what the counter does not show yet
        self.disabled = False
        self.reclaimable = set() # those of the pool that are Reclaimable
        self.pool = {}           # first pfn of a pageblock made Unmovable or Reclaimable -> bool array, True where free

    def copy(self):
        """Return a copy. The arrays of the pool are the same."""
        other = _Zone.__new__(_Zone)
        for name in _Zone.__slots__:
            setattr(other, name, getattr(self, name))
        other.lists = [list(pages) for pages in self.lists]
        other.pool, other.reclaimable = dict(self.pool), set(self.reclaimable)
        return other


class PerCpuPages:
    """The per-CPU lists of a machine. After ``mem.pcp = PerCpuPages(mem)`` its movable pages and memmaps go through them."""

    def __init__(self, mem):
        self._mem = mem
        self._tunes_itself = mem.rules.pcp_auto_tunes
        self.empty_slabs = []
        """(pfn, order) of empty slabs, which the caches keep until they shrink."""
        self._zones = {}
        self._undo = None        # of the change that is being made
        self._kept = set()       # zones whose lists it has kept a copy of
        self._free_order = FreeOrder(mem) if mem.engine == "bitmap" else None

    def belongs_to(self, mem):
        """Does it hold pages of `mem`?"""
        return mem is self._mem

    def _zone(self, z):
        """The lists of zone number z. A change keeps a copy of them first."""
        pcp = self._zones.get(z)
        if pcp is None:
            pcp = self._zones[z] = _Zone()
        if self._undo is not None and z not in self._kept:
            self._undo.add(self._zones.__setitem__, z, pcp.copy())
            self._kept.add(z)
        return pcp

    def _set_free(self, free, pages, value):
        """Set pages of a pageblock of the pool, an index or a slice, free or in use."""
        self._undo.add(free.__setitem__, pages, np.array(free[pages]))
        free[pages] = value

    def _order_of(self, pindex):
        return self._mem.geometry.pageblock_order if pindex >= _HUGE else pindex // 3

    # -- what there is to see

    @uninterrupted
    def count(self, z):
        """Return the number of pages on the lists of zone number z."""
        pcp = self._zones.get(z)
        return 0 if pcp is None else sum(len(pages) << self._order_of(i) for i, pages in enumerate(pcp.lists) if pages)

    @uninterrupted
    def free_pages(self, z):
        """Return NR_FREE_PAGES of zone number z."""
        pcp = self._zones.get(z)
        pool = 0 if pcp is None else sum(int(free.sum()) for free in pcp.pool.values())
        return self._mem.zones.numbered(z).free_pages + pool

    @uninterrupted
    def nr_free(self, z):
        """Return the free blocks of each order of zone number z."""
        counts = list(self._mem.zones.numbered(z).nr_free)
        pcp = self._zones.get(z)
        for free in () if pcp is None else pcp.pool.values():
            order = len(free).bit_length() - 1
            for k, count in enumerate(count_free_blocks(free, order)):
                counts[k] += count
        return counts

    @uninterrupted
    def is_free(self, pfn):
        """Return whether the page is free in the buddy allocator and not on a list."""
        base = self._pool_of(pfn)
        return "PG_buddy" in self._mem.page_flags(pfn) if base is None else bool(self._zone_of(pfn).pool[base][pfn - base])

    @uninterrupted
    def take_page(self, pfn):
        """Take a free page out of use for good (take_page_off_buddy)."""
        base, pcp = self._pool_of(pfn), self._zone_of(pfn)
        if base is None:
            self._mem.alloc_contig_range(pfn, 1)
        else:
            pcp.pool[base][pfn - base] = False

    def _zone_of(self, pfn):
        zone = self._mem.zone_of(pfn)
        return _Zone() if zone is None else self._zone(zone.nr)

    def _pool_of(self, pfn):
        """The first pfn of the pageblock of the pool that the page is in, or None."""
        return next((base for base, free in self._zone_of(pfn).pool.items() if base <= pfn < base + len(free)), None)

    @uninterrupted
    def away(self, start_pfn, nr_pages):
        """Return the pages of a range that the engine counts as in use and the kernel does not: (on lists, free in the pool),
        two int64 arrays."""
        lists, free = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for pcp in self._zones.values():
            for i, pages in enumerate(pcp.lists):
                lists += [np.arange(pfn, pfn + (1 << self._order_of(i))) for pfn in pages]
            free += [base + np.flatnonzero(there) for base, there in pcp.pool.items()]
        return [pfns[(pfns >= start_pfn) & (pfns < start_pfn + nr_pages)]
                for pfns in (np.concatenate(lists), np.concatenate(free))]

    @changing
    def evict(self, start_pfn, nr_pages, pages):
        """Free these kernel pages of a range, and make its pageblocks ordinary again."""
        self._drain(self._mem.zone_of(start_pfn).nr)
        self._undo.add(setattr, self, "empty_slabs", self.empty_slabs)
        self.empty_slabs = [(pfn, order) for pfn, order in self.empty_slabs if pfn not in pages]
        for pcp in self._zones.values():
            for base in [base for base in pcp.pool if start_pfn <= base < start_pfn + nr_pages]:
                end = base + len(pcp.pool[base])
                self._set_free(pcp.pool[base], pages[(pages >= base) & (pages < end)] - base, True)
                pages = pages[(pages < base) | (pages >= end)]
        self._release(start_pfn, nr_pages)
        self._free(pages)

    # -- the counter that watermarks are checked against

    def _count(self, pcp, zone, delta):
        """__mod_zone_page_state: NR_FREE_PAGES changed by delta; small changes show later."""
        pcp.diff += delta
        if abs(pcp.diff) > zone.stat_threshold:
            pcp.diff = 0

    # -- movable pages

    @changing
    def alloc(self, nr, zonelist):
        """Allocate up to `nr` movable pages from these zones and return an int64 array. Each zone gives pages down to its low
        watermark plus lowmem_reserve, then each down to min (get_page_from_freelist)."""
        top = self._highest(zonelist)
        got, left = [], nr
        for name in ("low", "min"):
            for z in zonelist:
                zone = self._mem.zones.numbered(z)
                pfns = self._take(z, zone, left, self._watermark(zone, name, top))
                got += pfns
                left -= len(pfns)
                if not left:
                    return np.array(got, np.int64)
        return np.array(got, np.int64)

    def _watermark(self, zone, name, top):
        """How many free pages a zone keeps from a request that zone type `top` could serve: the watermark `name`, "low" or
        "min", with its boost, and lowmem_reserve."""
        return getattr(zone, name) + max(self._zone(zone.nr).boost, zone.watermark_boost) + zone.protection[top]

    def _highest(self, zonelist):
        """The highest zone type that a request for movable pages from these zones may use: GFP_HIGHUSER_MOVABLE's, or that of
        the highest of them where Movable is not among them."""
        names = self._mem.zones.names
        if zonelist and "Movable" not in {self._mem.zones.numbered(z).name for z in zonelist}:
            return max(z % self._mem.zones.nr_types for z in zonelist)
        return names.index("Movable")

    def _take(self, z, zone, nr, watermark):
        """Up to `nr` pages from one zone, as long as its free pages are more than `watermark`."""
        pcp = self._zone(z)
        pages = pcp.lists[MOVABLE]
        got = []
        free = self.free_pages(z)
        buddy = zone.free_pages
        while len(got) < nr and free - pcp.diff > watermark:
            if not pages:
                if not buddy:
                    # whole pageblocks of the unmovable ones are taken back (steal_suitable_fallback)
                    self._release(zone.start_pfn, zone.spanned_pages, z)
                    buddy = zone.free_pages
                    if not buddy:
                        break
                pcp.below_high = pcp.below_high or free - pcp.diff <= zone.high
                batch = self._nr_pcp_alloc(pcp, zone)
                # as many batches as can be taken before the watermark is looked at with another answer
                many = 1
                if batch > zone.stat_threshold and not self._tunes_itself:
                    many = max(1, min(-(-(nr - len(got)) // batch), -(-(free - pcp.diff - watermark) // batch), buddy // batch))
                size = min(many * batch, buddy)
                fresh = self._from_buddy(zone, size)
                free -= size
                buddy -= size
                self._count(pcp, zone, -size)
                if many > 1:
                    last = (many - 1) * batch
                    got += fresh[:last].tolist()
                    fresh = fresh[last:]
                pages += fresh[::-1].tolist()
                # the page that the batch was fetched for
                use = 1
            else:
                use = min(nr - len(got), len(pages))
            got += pages[len(pages) - use :][::-1]
            del pages[len(pages) - use :]
            self._allocated(pcp, use)
        return got

    @staticmethod
    def _allocated(pcp, nr):
        """So many pages were taken from a list, one by one."""
        pcp.free_factor >>= min(nr, 8)
        pcp.free_count >>= min(nr, 16)

    def _nr_pcp_alloc(self, pcp, zone, order=0):
        """nr_pcp_alloc: how many blocks a list that is empty gets: a batch of pages; since 6.7, of single pages twice as many
        each time, as long as pcp->high allows."""
        if pcp.disabled:
            pcp.high = 0
        if pcp.disabled or zone.pcp_high < zone.pcp_batch:
            return 1
        batch = zone.pcp_batch
        if self._tunes_itself:
            if not order:
                batch <<= pcp.alloc_factor
            high = self._clamp_high(pcp, zone)
            if zone.pcp_high != zone.pcp_high_max and not pcp.below_high:
                high = pcp.high = min(high + batch, zone.pcp_high_max)
            if not order:
                most = max(high - self.count(zone.nr) - zone.pcp_batch, zone.pcp_batch)
                if batch <= most and pcp.alloc_factor < SCALE_MAX:
                    pcp.alloc_factor += 1
                batch = min(batch, most)
        return max(batch >> order, 2) if batch > 1 else batch

    @staticmethod
    def _clamp_high(pcp, zone):
        pcp.high = max(zone.pcp_high, min(pcp.high, zone.pcp_high_max))
        return pcp.high

    def _from_buddy(self, zone, size):
        """`size` free single pages of a zone, in the kernel's order."""
        if self._free_order is not None:
            return self._free_order.take(zone, size, self._take_range)
        taken = [None]
        self._undo.add(self._give_back, taken)
        taken[0] = self._mem.alloc_pages_bulk(size, 0, zone)
        return taken[0]

    def _give_back(self, taken):
        """Undo _from_buddy, which may have failed."""
        if taken[0] is not None:
            self._mem.free_pfns(taken[0])

    def _block_from_buddy(self, zone, order):
        """The first pfn of a free block of at least that order, as single pages, so that any part can be given back."""
        if self._free_order is not None:
            base = self._free_order.first_block(zone, order)
        else:
            base = self._mem.alloc_pages(order, zone)
            self._mem.free_pages(base, order)
        self._take_range(base, 1 << order)
        return base

    def _take_range(self, start_pfn, nr_pages):
        """Allocate these free pages."""
        self._undo.add(self._give_range_back, start_pfn, nr_pages)
        self._mem.alloc_contig_range(start_pfn, nr_pages)

    def _give_range_back(self, start_pfn, nr_pages):
        """Undo _take_range, which may have failed."""
        if "PG_buddy" not in self._mem.page_flags(start_pfn):
            self._mem.free_pfns(np.arange(start_pfn, start_pfn + nr_pages))

    @changing
    def alloc_huge(self, zonelist):
        """Allocate a pageblock of movable pages from these zones and return its first pfn, or None when that needs reclaim
        (GFP_TRANSHUGE_LIGHT, do_huge_pmd_anonymous_page)."""
        order, top = self._mem.geometry.pageblock_order, self._highest(zonelist)
        for name in ("low", "min"):
            for z in zonelist:
                zone, pcp = self._mem.zones.numbered(z), self._zone(z)
                free = self.free_pages(z) - pcp.diff - (1 << order) + 1
                if free <= self._watermark(zone, name, top) or not any(zone.nr_free[order:]):
                    continue
                pages = pcp.lists[self._pindex(order, MOVABLE)]
                self._allocated(pcp, 1)
                if not pages:
                    for _ in range(min(self._nr_pcp_alloc(pcp, zone, order), self._blocks(zone, order))):
                        pages.insert(0, self._block_from_buddy(zone, order))
                        self._count(pcp, zone, -(1 << order))
                return pages.pop()
        return None

    @staticmethod
    def _blocks(zone, order):
        """Free blocks of an order that a zone's free blocks can be split into."""
        return sum(nr << k - order for k, nr in enumerate(zone.nr_free) if k >= order)

    @changing
    def free_huge(self, pfn):
        """Free a pageblock of alloc_huge."""
        order, zone = self._mem.geometry.pageblock_order, self._mem.zone_of(pfn)
        pcp, pindex = self._zone(zone.nr), self._pindex(order, MOVABLE)
        if pcp.disabled:
            self._to_buddy(zone.nr, pcp, zone, [pfn], order)
            return
        pcp.lists[pindex].append(pfn)
        self._commit(zone.nr, pcp, zone, pindex)

    @changing
    def free(self, pfns):
        """Free movable pages, in this order."""
        pfns = np.asarray(pfns, np.int64)
        zones = self._zone_numbers(pfns)
        for first, nr in equal_runs(zones):
            self._give(int(zones[first]), pfns[first : first + nr].tolist())

    def _zone_numbers(self, pfns):
        # pages of one zone: blocks of the largest order, or of the alignment of the zones that meet inside one
        shift = min([self._mem.geometry.max_page_order, *((pfn & -pfn).bit_length() - 1
                     for pfn in self._mem.geometry.zone_borders)])
        blocks, of_page = np.unique(pfns >> shift, return_inverse=True)
        return np.array([self._mem.zone_of(int(block) << shift).nr for block in blocks])[of_page]

    def _give(self, z, pages):
        pcp = self._zone(z)
        zone = self._mem.zones.numbered(z)
        if pcp.disabled:
            pcp.high = 0
            if self._tunes_itself:
                pcp.alloc_factor >>= min(len(pages), 8)
            self._free(np.array(pages, np.int64))
            return
        at = 0
        while at < len(pages):
            # free_unref_page_commit looks after every page; nothing happens below pcp_high
            high = self._clamp_high(pcp, zone) if self._tunes_itself and not pcp.below_high else zone.pcp_high
            take = min(len(pages) - at, max(1, high - self.count(z)))
            pcp.lists[MOVABLE] += pages[at : at + take]
            at += take
            self._commit(z, pcp, zone, MOVABLE, take)

    def _commit(self, z, pcp, zone, pindex, nr=1):
        """free_unref_page_commit: so many blocks have come to a list; when the lists hold too much, the oldest are free."""
        order, batch = self._order_of(pindex), zone.pcp_batch
        count = self.count(z)
        if not self._tunes_itself:
            empty = pcp.free_factor and 0 < order <= COSTLY
            high = 0 if empty else zone.pcp_high
            if count >= high:
                self._free_bulk(z, pcp, zone, count if empty else self._nr_pcp_free(pcp, zone), pindex)
            return
        pcp.alloc_factor >>= min(nr, 8)
        empty = 0 < order <= COSTLY and pcp.free_count >= batch and pcp.freed_high_order
        pcp.freed_high_order = 0 < order <= COSTLY
        if pcp.free_count < batch << SCALE_MAX:
            pcp.free_count = min(pcp.free_count + (nr << order), (batch << SCALE_MAX) + (1 << order) - 1)
        high = self._nr_pcp_high(pcp, zone, count, empty)
        if count >= high:
            if empty:
                nr = min(count, batch << SCALE_MAX)
            elif high < batch:
                nr = 1
            else:
                nr = max(batch, min(pcp.free_count, high - batch))
            self._free_bulk(z, pcp, zone, nr, pindex)
            pcp.below_high = pcp.below_high and self.free_pages(z) - pcp.diff <= zone.high

    def _nr_pcp_high(self, pcp, zone, count, empty):
        """nr_pcp_high (6.12): the lists shrink in a zone that has little free, and hold what is freed in a row."""
        high, batch = self._clamp_high(pcp, zone), zone.pcp_batch
        if empty:
            pcp.high = max(high - (batch << SCALE_MAX), zone.pcp_high)
            return 0
        if zone.pcp_high == zone.pcp_high_max:
            return high
        if pcp.below_high:
            pcp.high = max(high - max(pcp.free_count, batch), zone.pcp_high)
            return max(count, zone.pcp_high)
        if count >= high:
            pcp.high = max(high, min(pcp.free_count + batch, zone.pcp_high_max))
        return high

    def _nr_pcp_free(self, pcp, zone):
        """nr_pcp_free (6.1): doubled each time that pages are freed without one being allocated."""
        if zone.pcp_high < zone.pcp_batch:
            return 1
        most = zone.pcp_high - zone.pcp_batch
        batch = zone.pcp_batch << pcp.free_factor
        if batch < most and pcp.free_factor < SCALE_MAX:
            pcp.free_factor += 1
        return max(zone.pcp_batch, min(batch, most))

    def _free_bulk(self, z, pcp, zone, nr, pindex=0):
        """free_pcppages_bulk: the oldest of the list just used, then of those behind it, and around."""
        for i in (*range(pindex, len(pcp.lists)), *range(pindex)):
            pages, order = pcp.lists[i], self._order_of(i)
            take = min(len(pages), -(-nr >> order))
            if take > 0:
                oldest, pages[:take] = pages[:take], []
                nr -= take << order
                self._to_buddy(z, pcp, zone, oldest, order)

    def _free(self, pfns):
        """Free an int64 array of pages to the buddy allocator."""
        if self._free_order is not None:
            self._free_order.freed(pfns, self._undo)
        self._undo.add(self._take_again, pfns)
        self._mem.free_pfns(pfns)

    def _take_again(self, pfns):
        """Undo _free, which may have failed."""
        if len(pfns) and "PG_buddy" in self._mem.page_flags(int(pfns[0])):
            for first, nr in runs(np.sort(pfns)):
                self._mem.alloc_contig_range(first, nr)

    def _to_buddy(self, z, pcp, zone, pages, order):
        if not pages:
            return
        if order:
            pages = np.concatenate([np.arange(pfn, pfn + (1 << order)) for pfn in pages])
        pages = np.asarray(pages, np.int64)
        pooled = np.zeros(len(pages), bool)
        for base, free in pcp.pool.items():
            own = (pages >= base) & (pages < base + len(free))
            self._set_free(free, pages[own] - base, True)
            pooled |= own
        if not pooled.all():
            self._free(pages[~pooled])
        if order:
            self._count(pcp, zone, len(pages))
            return
        for _ in range(len(pages)):
            self._count(pcp, zone, 1)

    # -- unmovable pages

    @uninterrupted
    def alloc_kernel(self, order, nid=0, kind=UNMOVABLE):
        """Allocate 2^order pages of a kind, Unmovable or Reclaimable, from the node's kernel zones, highest first, and return
        the first pfn. If no zone has a block above min, kswapd removes the boost of the watermarks and they are tried again.
        MemoryError if no block fits."""
        pfn = self._alloc_kernel(self._as_order(order), nid, kind)
        if pfn is None:
            raise MemoryError(f"no free block of order {order} in a kernel zone")
        return pfn

    @changing
    def _alloc_kernel(self, order, nid, kind):
        normal = self._mem.zones.names.index("Normal")
        zonelist = kernel_zonelist(self._mem, nid)
        for name in ("low", "min", "min after kswapd"):
            for z in zonelist:
                zone = self._mem.zones.numbered(z)
                if name == "min after kswapd":
                    self._zone(z).boost = 0
                if self.free_pages(z) - (1 << order) + 1 <= self._watermark(zone, name[:3], normal):
                    continue
                pfn = self._rmqueue(z, zone, order, kind)
                if pfn is not None:
                    return pfn
        return None

    def _as_order(self, order):
        if not is_number(order) or not 0 <= order <= self._mem.geometry.max_page_order:
            raise ValueError(f"order must be 0 to {self._mem.geometry.max_page_order}, not {order!r:.80}")
        return int(order)

    def _pindex(self, order, kind):
        """order_to_pindex; None for an order that is not kept on lists (pcp_allowed_order)."""
        if order <= COSTLY:
            return 3 * order + kind
        if order != self._mem.geometry.pageblock_order:
            return None
        return _HUGE_MOVABLE if kind == MOVABLE and self._tunes_itself else _HUGE

    def _rmqueue(self, z, zone, order, kind):
        pcp, pindex = self._zone(z), self._pindex(order, kind)
        if pindex is None:
            pfn = self._from_pool(z, zone, order, kind)
            if pfn is not None:
                self._count(pcp, zone, -(1 << order))
            return pfn
        pages = pcp.lists[pindex]
        self._allocated(pcp, 1)
        if not pages:
            for _ in range(self._nr_pcp_alloc(pcp, zone, order)):
                pfn = self._from_pool(z, zone, order, kind)
                if pfn is None:
                    break
                pages.insert(0, pfn)
                self._count(pcp, zone, -(1 << order))
        return pages.pop() if pages else None

    def _from_pool(self, z, zone, order, kind):
        """A free block of the pageblocks of a kind; when there is none, the largest free block of the zone becomes that as a
        whole (steal_suitable_fallback)."""
        pool, reclaimable = self._zone(z).pool, self._zone(z).reclaimable
        for base, free in pool.items():
            if len(free) >> order and (base in reclaimable) == (kind == RECLAIMABLE):
                fits = np.flatnonzero(free.reshape(-1, 1 << order).all(axis=1))
                if len(fits):
                    first = int(fits[0]) << order
                    self._set_free(free, slice(first, first + (1 << order)), False)
                    return base + first
        largest = max((k for k, n in enumerate(zone.nr_free) if n), default=-1)
        if largest < order:
            return None
        size = 1 << largest
        self._boost(self._zone(z), zone)
        base = self._block_from_buddy(zone, largest)
        step = min(size, 1 << max(order, self._mem.geometry.pageblock_order))
        for at in range(base, base + size, step):
            pool[at] = np.ones(step, bool)
            if kind == RECLAIMABLE:
                reclaimable.add(at)
        pool[base][: 1 << order] = False
        return base

    def _boost(self, pcp, zone):
        """boost_watermark: mixing pageblocks raises the watermarks until kswapd has run."""
        pages = 1 << self._mem.geometry.pageblock_order
        if 4 * pages <= zone.managed_pages:
            pcp.boost = min(pcp.boost + pages, max(pages, zone.high * 3 // 2))

    @changing
    def background_work(self):
        """Let time pass: kswapd removes the boost of watermarks, vmstat_update brings counters up to date, and single pages
        are allocated and freed in kernel zones, which resets batch sizes to one."""
        for z in list(self._zones):
            pcp = self._zone(z)
            pcp.boost = pcp.diff = 0
            if self._mem.zones.numbered(z).name != "Movable":
                pcp.free_factor = pcp.free_count = pcp.alloc_factor = 0

    @changing
    def free_kernel(self, pfn, order=0):
        """Free a block of alloc_kernel."""
        self._free_kernel(pfn, self._as_order(order))

    def _free_kernel(self, pfn, order):
        zone = self._mem.zone_of(pfn)
        z, pcp = zone.nr, self._zone(zone.nr)
        reclaimable = any(base in pcp.reclaimable and base <= pfn < base + len(free) for base, free in pcp.pool.items())
        pindex = self._pindex(order, RECLAIMABLE if reclaimable else UNMOVABLE)
        if pindex is None or pcp.disabled:
            self._to_buddy(z, pcp, zone, [pfn], order)
            return
        pcp.lists[pindex].append(pfn)
        self._commit(z, pcp, zone, pindex)

    @uninterrupted
    def put(self, zone, pfns, high):
        """Put pages in use onto the lists of a zone, as in a recorded machine. high: its pcp->high."""
        self._zone(zone.nr).lists[UNMOVABLE] = list(pfns)
        self._zone(zone.nr).high = high

    # -- offlining

    @changing
    def disable(self, z):
        """Empty the lists of a zone and keep them empty (zone_pcp_disable)."""
        pcp = self._zone(z)
        zone = self._mem.zones.numbered(z)
        self._drain(z)
        pcp.disabled = zone.populated

    @changing
    def drain(self, z):
        """Free every page on the lists of zone number z (drain_pages_zone)."""
        self._drain(z)

    def _drain(self, z):
        if z in self._zones:
            self._free_bulk(z, self._zone(z), self._mem.zones.numbered(z), self.count(z))

    @changing
    def shrink_slabs(self):
        """Free the empty slabs of the kernel's caches (slab_mem_going_offline_callback)."""
        for pfn, order in self.empty_slabs:
            self._free_kernel(pfn, order)
        self.empty_slabs.clear()

    @uninterrupted
    def at_tail(self, pfns):
        """Record pages that went to the tail of the free lists (online_pages, generic_online_page, undo_isolate_page_range)."""
        if self._free_order is not None:
            self._free_order.at_tail(pfns)

    @uninterrupted
    def enable(self, z):
        """Let pages stay on the lists of a zone again (zone_pcp_enable)."""
        self._zone(z).disabled = False

    @changing
    def release(self, start_pfn, nr_pages, z=None):
        """Make pageblocks of a range (of zone number z) without unmovable pages ordinary again."""
        self._release(start_pfn, nr_pages, z)

    def _release(self, start_pfn, nr_pages, z=None):
        for nr in list(self._zones) if z is None else [z]:
            pcp = self._zone(nr)
            for base in [b for b, free in pcp.pool.items() if start_pfn <= b < start_pfn + nr_pages and free.all()]:
                self._free(np.arange(base, base + len(pcp.pool.pop(base))))
                pcp.reclaimable.discard(base)
