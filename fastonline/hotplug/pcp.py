"""Per-CPU page lists, watermark checks and pageblocks of unmovable pages, in front of the buddy allocator (mm/page_alloc.c of
6.1.192 and 6.12: rmqueue_pcplist, free_unref_page_commit, free_pcppages_bulk, __rmqueue_fallback).

There is one CPU. The engine counts pages on a per-CPU list, and free pages of Unmovable pageblocks, as in use. `free_pages`
here is the kernel's count.
"""

import errno
from functools import wraps

import numpy as np

from fastonline.core.ram import array_of
from fastonline.core.runs import equal_runs, runs
from fastonline.core.undo import Undo
from fastonline.errors import HotplugError, as_int
from fastonline.hotplug.free_order import FreeOrder
from fastonline.hotplug.interruptible import uninterrupted
from fastonline.hotplug.page_alloc import PageLists
from fastonline.hotplug.pcp_zone import MOVABLE, RECLAIMABLE, UNMOVABLE, ZoneLists
from fastonline.hotplug.zonelists import kernel_zonelist


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
            undo.add(self._restore_listed)
            try:
                return method(self, *args, **kwargs)
            finally:
                self._undo = None
                self._kept.clear()
    return call


class PerCpuPages(PageLists):
    """The per-CPU lists of a machine. After ``mem.pcp = PerCpuPages(mem)`` its movable pages and memmaps go through them.

    Pages that are freed must be in use and without an owner. ValueError for a page that is free, Reserved, offline or on a
    list, that MovablePages own, or that is given twice; TypeError for what is not an integer."""

    def __init__(self, mem):
        self._tunes_itself = mem.rules.pcp_auto_tunes
        self.empty_slabs = []
        """(pfn, order) of empty slabs, which the caches keep until they shrink."""
        self._zones = {}
        self._listed = np.zeros(0, bool)      # by pfn: the page is on a list
        self._undo = None        # of the change that is being made
        self._kept = set()       # zones whose lists it has kept a copy of
        self._free_order = FreeOrder(mem) if mem.engine == "bitmap" else None

    def _zone(self, z):
        """The lists of zone number z. A change keeps a copy of them first."""
        pcp = self._zones.get(z)
        if pcp is None:
            pcp = ZoneLists(self.mem.geometry.pageblock_order, self._tunes_itself)
            self._zones[self.mem.zones.numbered(z).nr] = pcp
        if self._undo is not None and z not in self._kept:
            self._undo.add(self._zones.__setitem__, z, pcp.copy())
            self._kept.add(z)
        return pcp

    def _set_listed(self, pfns, order, listed):
        """Record that blocks of an order are on a list, or no longer. pfns: a list of their first pfns."""
        size = 1 << order
        if pfns and (missing := max(pfns) + size - len(self._listed)) > 0:
            self._listed = np.concatenate((self._listed, np.zeros(missing + len(self._listed), bool)))
        if not order:
            self._listed[pfns] = listed
        for pfn in pfns if order else ():
            self._listed[pfn : pfn + size] = listed

    def _restore_listed(self):
        """Undo every _set_listed of a change, when the lists are as they were."""
        self._listed[:] = False
        for pcp in self._zones.values():
            for i, pages in enumerate(pcp.lists):
                for pfn in pages:
                    self._listed[pfn : pfn + (1 << pcp.order_of(i))] = True

    def _check_used(self, pfns):
        """ValueError naming a page of an int64 array that cannot be freed."""
        self.mem.check_pfns(pfns)
        known = pfns[pfns < len(self._listed)]
        if len(bad := known[self._listed[known]]):
            raise ValueError(f"page {int(bad[0]):#x} is on a per-CPU list")
        for pcp in self._zones.values():
            if len(bad := pcp.pageblocks.free_of(pfns)):
                raise ValueError(f"page {int(bad[0]):#x} is free")

    def _check_block(self, pfn, order):
        """_check_used for a block. Returns its first pfn as an int."""
        pfn = as_int(pfn, "pfn")
        if not 0 <= pfn < self.mem.max_pfn or pfn % (1 << order):
            raise ValueError(f"page {pfn:#x} is past the end of memory, or not aligned to a block of order {order}")
        self._check_used(np.arange(pfn, pfn + (1 << order)))
        return pfn

    # -- what there is to see

    @uninterrupted
    def count(self, z):
        """Return the number of pages on the lists of zone number z."""
        return self._zone(z).count()

    @uninterrupted
    def free_pages(self, z):
        """Return NR_FREE_PAGES of zone number z."""
        return self.mem.zones.numbered(z).free_pages + self._zone(z).pageblocks.nr_free()

    @uninterrupted
    def nr_free(self, z):
        """Return the free blocks of each order of zone number z."""
        counts = list(self.mem.zones.numbered(z).nr_free)
        self._zone(z).pageblocks.free_blocks(counts)
        return counts

    @uninterrupted
    def is_free(self, pfn):
        """Return whether the page is free in the buddy allocator and not on a list."""
        zone = self.mem.zone_of(pfn)
        return "PG_buddy" in self.mem.page_flags(pfn) or (
            zone is not None and len(self._zone(zone.nr).pageblocks.free_of(np.array([pfn]))) > 0)

    @changing
    def take_page(self, pfn):
        """Take a free page out of use for good (take_page_off_buddy)."""
        if "PG_buddy" in self.mem.page_flags(pfn):
            self._take_range(pfn, 1)
        elif self.is_free(pfn):
            self._zone(self.mem.zone_of(pfn).nr).pageblocks.take_page(pfn, self._undo)
        else:
            raise ValueError(f"page {pfn:#x} is not free")

    @uninterrupted
    def away(self, start_pfn, nr_pages):
        """Return the pages of a range that the engine counts as in use and the kernel does not: (on lists, free in pageblocks
        of kernel pages), two int64 arrays."""
        free = np.concatenate([np.empty(0, np.int64), *(pcp.pageblocks.free_pfns() for pcp in self._zones.values())])
        return (start_pfn + np.flatnonzero(self._listed[start_pfn : start_pfn + nr_pages]),
                free[(free >= start_pfn) & (free < start_pfn + nr_pages)])

    @changing
    def evict(self, start_pfn, nr_pages, pages):
        """Free these kernel pages of a range, and make its pageblocks ordinary again."""
        self._drain(self.mem.zone_of(start_pfn).nr)
        self._check_used(pages)
        self._undo.add(setattr, self, "empty_slabs", self.empty_slabs)
        self.empty_slabs = [(pfn, order) for pfn, order in self.empty_slabs if pfn not in pages]
        for pcp in self._zones.values():
            pages = pages[~pcp.pageblocks.give(pages, self._undo)]
        self._release(start_pfn, nr_pages)
        self._free(pages)

    # -- movable pages

    @changing
    def alloc(self, nr, zonelist):
        """Allocate up to `nr` movable pages from these zones and return an int64 array. Each zone gives pages down to its low
        watermark plus lowmem_reserve, then each down to min (get_page_from_freelist)."""
        if (nr := as_int(nr, "nr")) < 0:
            raise ValueError(f"nr is negative: {nr}")
        top = self._highest(zonelist)
        got, left = [], nr
        for name in ("low", "min"):
            for z in zonelist:
                zone = self.mem.zones.numbered(z)
                pfns = self._take(z, zone, left, self._watermark(zone, name, top))
                got += pfns
                left -= len(pfns)
                if not left:
                    return np.array(got, np.int64)
        return np.array(got, np.int64)

    def _watermark(self, zone, name, top):
        """The free pages that a zone keeps from a request that zone type `top` could serve: the watermark `name`, "low" or
        "min", with its boost, and lowmem_reserve."""
        return getattr(zone, name) + max(self._zone(zone.nr).boost, zone.watermark_boost) + zone.protection[top]

    def _highest(self, zonelist):
        """The highest zone type that a request for movable pages from these zones may use: GFP_HIGHUSER_MOVABLE's, or that of
        the highest of them where Movable is not among them."""
        names = self.mem.zones.names
        if zonelist and "Movable" not in {self.mem.zones.numbered(z).name for z in zonelist}:
            return max(z % self.mem.zones.nr_types for z in zonelist)
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
                batch = pcp.nr_alloc(zone)
                # as many batches as can be taken before the watermark is looked at with another answer
                many = 1
                if batch > zone.stat_threshold and not self._tunes_itself:
                    many = max(1, min(-(-(nr - len(got)) // batch), -(-(free - pcp.diff - watermark) // batch), buddy // batch))
                size = min(many * batch, buddy)
                fresh = self._from_buddy(zone, size)
                free -= size
                buddy -= size
                pcp.add_free(zone, -size)
                if many > 1:
                    last = (many - 1) * batch
                    got += fresh[:last].tolist()
                    fresh = fresh[last:]
                pages += fresh[::-1].tolist()
                self._set_listed(pages, 0, True)
                # the page that the batch was fetched for
                use = 1
            else:
                use = min(nr - len(got), len(pages))
            got += pages[len(pages) - use :][::-1]
            self._set_listed(pages[len(pages) - use :], 0, False)
            del pages[len(pages) - use :]
            pcp.allocated(use)
        return got

    def _from_buddy(self, zone, size):
        """`size` free single pages of a zone, in the kernel's order."""
        if self._free_order is not None:
            return self._free_order.take(zone, size, self._take_range)
        taken = [None]
        self._undo.add(self._give_back, taken)
        taken[0] = self.mem.alloc_pages_bulk(size, 0, zone)
        return taken[0]

    def _give_back(self, taken):
        """Undo _from_buddy, which may have failed."""
        if taken[0] is not None:
            self.mem.free_pfns(taken[0])

    def _block_from_buddy(self, zone, order):
        """The first pfn of a free block of at least that order, as single pages, so that any part can be given back."""
        if self._free_order is not None:
            base = self._free_order.first_block(zone, order)
        else:
            base = self.mem.alloc_pages(order, zone)
            self.mem.free_pages(base, order)
        self._take_range(base, 1 << order)
        return base

    def _take_range(self, start_pfn, nr_pages):
        """Allocate these free pages."""
        self._undo.add(self._give_range_back, start_pfn, nr_pages)
        self.mem.alloc_contig_range(start_pfn, nr_pages)

    def _give_range_back(self, start_pfn, nr_pages):
        """Undo _take_range, which may have failed."""
        if "PG_buddy" not in self.mem.page_flags(start_pfn):
            self.mem.free_pfns(np.arange(start_pfn, start_pfn + nr_pages))

    @changing
    def alloc_huge(self, zonelist):
        """Allocate a pageblock of movable pages from these zones and return its first pfn, or None when that needs reclaim
        (GFP_TRANSHUGE_LIGHT, do_huge_pmd_anonymous_page)."""
        order, top = self.mem.geometry.pageblock_order, self._highest(zonelist)
        for name in ("low", "min"):
            for z in zonelist:
                zone, pcp = self.mem.zones.numbered(z), self._zone(z)
                free = self.free_pages(z) - pcp.diff - (1 << order) + 1
                if free <= self._watermark(zone, name, top) or not any(zone.nr_free[order:]):
                    continue
                pages = pcp.lists[pcp.pindex(order, MOVABLE)]
                pcp.allocated(1)
                if not pages:
                    for _ in range(min(pcp.nr_alloc(zone, order), self._blocks(zone, order))):
                        pages.insert(0, self._block_from_buddy(zone, order))
                        pcp.add_free(zone, -(1 << order))
                    self._set_listed(pages, order, True)
                pfn = pages.pop()
                self._set_listed([pfn], order, False)
                return pfn
        return None

    @staticmethod
    def _blocks(zone, order):
        """Free blocks of an order that a zone's free blocks can be split into."""
        return sum(nr << k - order for k, nr in enumerate(zone.nr_free) if k >= order)

    @changing
    def free_huge(self, pfn):
        """Free a pageblock of alloc_huge."""
        order = self.mem.geometry.pageblock_order
        pfn = self._check_block(pfn, order)
        zone = self.mem.zone_of(pfn)
        pcp = self._zone(zone.nr)
        pindex = pcp.pindex(order, MOVABLE)
        if pcp.disabled:
            self._to_buddy(zone.nr, pcp, zone, [pfn], order)
            return
        self._put(zone.nr, pcp, zone, pindex, pfn)

    def _put(self, z, pcp, zone, pindex, pfn):
        """Put a block onto a list."""
        pcp.lists[pindex].append(pfn)
        self._set_listed([pfn], pcp.order_of(pindex), True)
        self._commit(z, pcp, zone, pindex, 1)

    @changing
    def free(self, pfns):
        """Free movable pages, in this order."""
        pfns = np.array(array_of(pfns))
        if not pfns.size:
            return
        self._check_used(pfns)
        pfns = pfns.astype(np.int64)
        zones = self._zone_numbers(pfns)
        for first, nr in equal_runs(zones):
            self._give(int(zones[first]), pfns[first : first + nr].tolist())

    def _zone_numbers(self, pfns):
        # pages of one zone: blocks of the largest order, or of the alignment of the zones that meet inside one
        shift = min([self.mem.geometry.max_page_order, *((pfn & -pfn).bit_length() - 1
                     for pfn in self.mem.geometry.zone_borders)])
        blocks, of_page = np.unique(pfns >> shift, return_inverse=True)
        return np.array([self.mem.zone_of(int(block) << shift).nr for block in blocks])[of_page]

    def _give(self, z, pages):
        pcp = self._zone(z)
        zone = self.mem.zones.numbered(z)
        if pcp.disabled:
            pcp.high = 0
            if self._tunes_itself:
                pcp.alloc_factor >>= min(len(pages), 8)
            self._free(np.array(pages, np.int64))
            return
        at = 0
        while at < len(pages):
            # free_unref_page_commit looks after every page; nothing happens below pcp_high
            high = pcp.clamp_high(zone) if self._tunes_itself and not pcp.below_high else zone.pcp_high
            take = min(len(pages) - at, max(1, high - pcp.count()))
            pcp.lists[MOVABLE] += pages[at : at + take]
            self._set_listed(pages[at : at + take], 0, True)
            at += take
            self._commit(z, pcp, zone, MOVABLE, take)

    def _commit(self, z, pcp, zone, pindex, nr):
        """free_unref_page_commit: `nr` blocks have come to a list; when the lists hold too much, the oldest are freed."""
        if too_many := pcp.nr_free(zone, pindex, nr):
            self._free_bulk(z, pcp, zone, too_many, pindex)
            pcp.below_high = pcp.below_high and self.free_pages(z) - pcp.diff <= zone.high

    def _free_bulk(self, z, pcp, zone, nr, pindex=0):
        """free_pcppages_bulk."""
        for order, pfns in pcp.oldest(nr, pindex):
            self._set_listed(pfns, order, False)
            self._to_buddy(z, pcp, zone, pfns, order)

    def _free(self, pfns):
        """Free an int64 array of pages to the buddy allocator."""
        if self._free_order is not None:
            self._free_order.freed(pfns, self._undo)
        self._undo.add(self._take_again, pfns)
        self.mem.free_pfns(pfns)

    def _take_again(self, pfns):
        """Undo _free, which may have failed."""
        if len(pfns) and "PG_buddy" in self.mem.page_flags(int(pfns[0])):
            for first, nr in runs(np.sort(pfns)):
                self.mem.alloc_contig_range(first, nr)

    def _to_buddy(self, z, pcp, zone, pages, order):
        if not pages:
            return
        if order:
            pages = np.concatenate([np.arange(pfn, pfn + (1 << order)) for pfn in pages])
        pages = np.asarray(pages, np.int64)
        inside = pcp.pageblocks.give(pages, self._undo)
        if not inside.all():
            self._free(pages[~inside])
        if order:
            pcp.add_free(zone, len(pages))
            return
        for _ in range(len(pages)):
            pcp.add_free(zone, 1)

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
        normal = self.mem.zones.names.index("Normal")
        zonelist = kernel_zonelist(self.mem, nid)
        for name in ("low", "min", "min after kswapd"):
            for z in zonelist:
                zone = self.mem.zones.numbered(z)
                if name == "min after kswapd":
                    self._zone(z).boost = 0
                if self.free_pages(z) - (1 << order) + 1 <= self._watermark(zone, name[:3], normal):
                    continue
                pfn = self._rmqueue(z, zone, order, kind)
                if pfn is not None:
                    return pfn
        return None

    def _as_order(self, order):
        order = as_int(order, "order")
        if not 0 <= order <= self.mem.geometry.max_page_order:
            raise ValueError(f"invalid order {order} (expected 0 to {self.mem.geometry.max_page_order})")
        return order

    def _rmqueue(self, z, zone, order, kind):
        pcp = self._zone(z)
        pindex = pcp.pindex(order, kind)
        if pindex is None:
            pfn = self._from_pageblocks(z, zone, order, kind)
            if pfn is not None:
                pcp.add_free(zone, -(1 << order))
            return pfn
        pages = pcp.lists[pindex]
        pcp.allocated(1)
        if not pages:
            for _ in range(pcp.nr_alloc(zone, order)):
                pfn = self._from_pageblocks(z, zone, order, kind)
                if pfn is None:
                    break
                pages.insert(0, pfn)
                pcp.add_free(zone, -(1 << order))
            self._set_listed(pages, order, True)
        if not pages:
            return None
        pfn = pages.pop()
        self._set_listed([pfn], order, False)
        return pfn

    def _from_pageblocks(self, z, zone, order, kind):
        """A free block of the pageblocks of a kind; when there is none, the largest free block of the zone becomes such
        pageblocks as a whole (steal_suitable_fallback)."""
        pcp = self._zone(z)
        pfn = pcp.pageblocks.take(order, kind == RECLAIMABLE, self._undo)
        if pfn is not None:
            return pfn
        largest = max((k for k, n in enumerate(zone.nr_free) if n), default=-1)
        if largest < order:
            return None
        self._boost(pcp, zone)
        base, size = self._block_from_buddy(zone, largest), 1 << largest
        unit = min(size, 1 << max(order, self.mem.geometry.pageblock_order))
        pcp.pageblocks.add(base, size, unit, kind == RECLAIMABLE)
        return pcp.pageblocks.take(order, kind == RECLAIMABLE, self._undo)

    def _boost(self, pcp, zone):
        """boost_watermark: mixing pageblocks raises the watermarks until kswapd has run."""
        pages = 1 << self.mem.geometry.pageblock_order
        if 4 * pages <= zone.managed_pages:
            pcp.boost = min(pcp.boost + pages, max(pages, zone.high * 3 // 2))

    @changing
    def background_work(self):
        """Let time pass: kswapd removes the boost of watermarks, vmstat_update brings counters up to date, and single pages
        are allocated and freed in kernel zones, which resets batch sizes to one."""
        for z in list(self._zones):
            pcp = self._zone(z)
            pcp.boost = pcp.diff = 0
            if self.mem.zones.numbered(z).name != "Movable":
                pcp.free_factor = pcp.free_count = pcp.alloc_factor = 0

    @changing
    def free_kernel(self, pfn, order=0):
        """Free a block of alloc_kernel."""
        self._free_kernel(pfn, self._as_order(order))

    def _free_kernel(self, pfn, order):
        pfn = self._check_block(pfn, order)
        zone = self.mem.zone_of(pfn)
        z, pcp = zone.nr, self._zone(zone.nr)
        pindex = pcp.pindex(order, RECLAIMABLE if pcp.pageblocks.is_reclaimable(pfn) else UNMOVABLE)
        if pindex is None or pcp.disabled:
            self._to_buddy(z, pcp, zone, [pfn], order)
            return
        self._put(z, pcp, zone, pindex, pfn)

    @changing
    def put(self, zone, pfns, high):
        """Put single pages in use onto the list of unmovable pages of their zone, after those that are there, as in a recorded
        machine. high: its pcp->high."""
        pfns, high = np.array(array_of(pfns)), as_int(high, "high")
        if high < 0:
            raise ValueError(f"high is negative: {high}")
        if pfns.size:
            self._check_used(pfns)
            if (other := self._zone_numbers(pfns.astype(np.int64)) != zone.nr).any():
                raise ValueError(f"page {int(pfns[other.argmax()]):#x} is not in zone {zone.name}")
        pcp = self._zone(zone.nr)
        pcp.lists[UNMOVABLE] += pfns.tolist()
        self._set_listed(pfns.tolist(), 0, True)
        pcp.high = high

    @uninterrupted
    def is_kernel(self, pfn, order):
        """Return whether free_kernel could free that block."""
        try:
            self._check_block(pfn, self._as_order(order))
        except ValueError:
            return False
        return True

    def give_back(self, pfns, nr):
        """Free the first `nr` pages of an int64 array."""
        self.free(pfns[:nr])

    # -- offlining

    @changing
    def disable(self, z):
        """Empty the lists of a zone and keep them empty (zone_pcp_disable)."""
        pcp = self._zone(z)
        zone = self.mem.zones.numbered(z)
        self._drain(z)
        pcp.disabled = zone.populated

    @changing
    def drain(self, z):
        """Free every page on the lists of zone number z (drain_pages_zone)."""
        self._drain(z)

    def _drain(self, z):
        if z in self._zones:
            self._free_bulk(z, self._zone(z), self.mem.zones.numbered(z), self._zone(z).count())

    @changing
    def shrink_slabs(self):
        """Free the empty slabs of the kernel's caches (slab_mem_going_offline_callback)."""
        for pfn, order in self.empty_slabs:
            self._free_kernel(pfn, order)
        self.empty_slabs.clear()

    @uninterrupted
    def at_tail(self, start_pfn, nr_pages):
        """Record pages that went to the tail of the free lists (online_pages, generic_online_page, undo_isolate_page_range)."""
        if self._free_order is not None:
            self._free_order.at_tail(start_pfn, nr_pages)

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
            for start, size in self._zone(nr).pageblocks.remove_free(start_pfn, nr_pages):
                self._free(np.arange(start, start + size))
