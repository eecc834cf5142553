import errno

cimport cython
from cpython.pycapsule cimport PyCapsule_GetPointer

import numpy as np
from numpy import ndarray

from fastonline.core.buddy cimport buddy_pages_free, buddy_pool_fold
from fastonline.core.buffer cimport data_of, numpy_array
from fastonline.core.lock cimport PyThreadState, settle
from fastonline.core.numbers cimport as_number, as_uint64
from fastonline.core.pageflags cimport PG_buddy, PG_prepared, PG_reserved, PG_tail
from fastonline.core.undo cimport Undo, undo_step
from fastonline.hotplug.arguments cimport as_batch, as_order, check_present, find_owned_in, gather, try_gather
from fastonline.hotplug.machine cimport populated_zone
from fastonline.hotplug.types cimport zone_number
from fastonline.hotplug.watermarks cimport refresh
from fastonline.hotplug.zonelists cimport asked_zone, fallback_nodes, next_zone

from fastonline.core.undo import Undo
from fastonline.errors import HotplugError, pfn_range

cdef extern from *:
    """
    /* PyArray_New and PyArray_Type of NumPy's table of C functions, whose places never change (numpy_api.py): half of the time
       of numpy.empty. */
    typedef PyObject *(*fo_array_new)(void *, int, Py_ssize_t *, int, Py_ssize_t *, void *, int, int, PyObject *);
    #define fo_new_array(api, nr, type) ((fo_array_new)(api)[93])((api)[2], 1, &(nr), type, NULL, NULL, 0, 0, NULL)
    """
    object new_array "fo_new_array"(void **api, Py_ssize_t nr, int type)

cdef object _multiarray = np._core if hasattr(np, "_core") else np.core       # from 2.0 on, and before
cdef void **NUMPY = <void **>PyCapsule_GetPointer(_multiarray.multiarray._ARRAY_API, NULL)
cdef int INT64 = np.dtype(np.int64).num

cdef enum:
    COSTLY_ORDER = 3             # PAGE_ALLOC_COSTLY_ORDER

__all__ = ["PageLists"]


# -- taking pages

cdef uint64_t blocks_free(Machine mem, int z, int order) noexcept nogil:
    """Blocks of an order that a zone's free blocks would give."""
    cdef uint64_t total = 0
    cdef int k
    if order == 0:
        return buddy_pages_free(&mem.pages.areas[zone_area(z)])
    buddy_pool_fold(&mem.pages.areas[zone_area(z)])
    for k in range(order, mem.pages.max_order + 1):
        total += <uint64_t>mem.pages.areas[zone_area(z)].nr_free[k] << (k - order)
    return total


cdef uint64_t alloc_blocks(Machine mem, int z, int order, uint64_t nr, int64_t *out) noexcept nogil:
    """At most `nr` blocks of one zone; how many there were."""
    cdef uint64_t i
    if nr == 1:
        out[0] = mem.pages.alloc_block(zone_area(z), order)
        return out[0] >= 0
    if order == 0:
        return mem.pages.alloc_pages(zone_area(z), nr, out)
    nr = min(nr, blocks_free(mem, z, order))
    for i in range(nr):
        out[i] = mem.pages.alloc_block(zone_area(z), order)
    return nr


cdef int64_t rmqueue(Machine mem, int order, int asked) noexcept nogil:
    """One block, from the first zone that has one, or -1."""
    cdef int z = next_zone(mem, asked, -1)
    cdef int64_t pfn
    while z >= 0:
        if mem.pages.areas[zone_area(z)].managed:
            pfn = mem.pages.alloc_block(zone_area(z), order)
            if pfn >= 0:
                return pfn
        z = next_zone(mem, asked, z)
    return -1


cdef int64_t alloc_pages(Machine mem, int order, object zone) except -1:
    """rmqueue, or MemoryError."""
    cdef int asked = asked_zone(mem, zone)
    cdef int64_t pfn
    settle(mem.lock)
    pfn = rmqueue(mem, order, asked)
    if pfn < 0 or mem.alloc_hook is not None:
        _held = mem.lock.hold()
        while try_again(mem, pfn, order):
            pfn = rmqueue(mem, order, asked)
    if pfn < 0:
        raise MemoryError(f"no free block of order {order}" + ("" if zone is None else f" in zone {zone}"))
    return pfn


# GFP flags by name, and the highest zone type that they allow (gfp_zone)
GFP = {
    "GFP_DMA": "DMA", "GFP_DMA32": "DMA32", "GFP_KERNEL": "Normal", "GFP_USER": "Normal", "GFP_ATOMIC": "Normal",
    "GFP_HIGHUSER": "HighMem", "GFP_HIGHUSER_MOVABLE": "Movable",
}


cdef int64_t alloc_pages_node(Machine mem, int nid, str gfp, int order) except -2:
    """get_page_from_freelist: the first zone of the node's zonelist that has a block and stays above its low watermark, then
    above min; the first pfn, or -1. Nothing is reclaimed. GFP_ATOMIC may use half of min, and a quarter of the rest."""
    cdef int top, z, n, i
    cdef int64_t watermark, pfn
    name = GFP[gfp]
    top = mem.zones.names.index(name if name in mem.zones.names else "Normal")
    nodes = fallback_nodes(mem, nid)
    refresh(&mem.zones.table)
    for level in ("low", "min"):
        for n in nodes:
            for i in range(top, -1, -1):
                z = zone_number(&mem.zones.table, n, i)
                if not populated_zone(mem, n, i):
                    continue
                watermark = mem.zones.table.zones[z].low if level == "low" else mem.zones.table.zones[z].min
                watermark += mem.zones.table.zones[z].boost
                if level == "min" and gfp == "GFP_ATOMIC":
                    watermark -= watermark / 2
                    watermark -= watermark / 4
                if not zone_watermark_ok(mem, z, order, watermark + mem.zones.table.zones[z].protection[top]):
                    continue
                pfn = mem.pages.alloc_block(zone_area(z), order)
                if pfn >= 0:
                    return pfn
    return -1


cdef bint zone_watermark_ok(Machine mem, int z, int order, int64_t watermark) noexcept nogil:
    """__zone_watermark_ok: does a zone keep more than `watermark` free pages when it gives a block? Until 4.3 also half of it
    beyond the single pages, a quarter beyond pairs, and so on."""
    cdef int64_t free = <int64_t>blocks_free(mem, z, 0) - (<int64_t>1 << order) + 1
    cdef int k
    if free <= watermark:
        return False
    if mem.watermark_by_order:
        buddy_pool_fold(&mem.pages.areas[zone_area(z)])
        for k in range(order):
            free -= <int64_t>mem.pages.areas[zone_area(z)].nr_free[k] << k
            watermark >>= 1
            if free <= watermark:
                return False
    return True


cdef int64_t alloc_pages_gfp(Machine mem, int order, object gfp, object nid) except -1:
    """alloc_pages_node, or MemoryError."""
    cdef int node = as_number(nid, "nid", 0, 0x7FFFFFFF)
    cdef int64_t pfn
    if gfp not in GFP:
        raise ValueError(f"invalid gfp {gfp!r} (expected {', '.join(map(repr, GFP))})")
    settle(mem.lock)
    pfn = alloc_pages_node(mem, node, gfp, order)
    while try_again(mem, pfn, order):
        pfn = alloc_pages_node(mem, node, gfp, order)
    if pfn < 0:
        raise MemoryError(f"page allocation failure: order:{order}, mode:{gfp}")
    return pfn


cdef object alloc_pages_bulk(Machine mem, uint64_t nr, int order, object zone):
    """(nr,) int64 array of first pfns, fewer where arch_alloc_page keeps some, or MemoryError when there are not so many."""
    cdef uint64_t got = 0, there
    cdef Py_ssize_t size = nr
    cdef int asked = asked_zone(mem, zone), z
    cdef int64_t *out
    cdef PyThreadState *thread
    there = blocks_in_zones(mem, asked, order, nr)
    while nr > there and out_of_memory(mem, order):
        there = blocks_in_zones(mem, asked, order, nr)
    if nr > there:
        raise MemoryError(f"cannot allocate {nr} blocks of order {order}: {there} are free")
    pfns = new_array(NUMPY, size, INT64)
    if nr == 0:
        return pfns
    out = <int64_t *>(<numpy_array *><void *>pfns).data
    z = next_zone(mem, asked, -1)
    while got < nr:
        thread = mem.lock.let_go((nr - got) * (mem.pages.page_bits + 64))
        got += alloc_blocks(mem, z, order, nr - got, out + got)
        mem.lock.take_back(thread)
        z = next_zone(mem, asked, z)
    return pfns if mem.alloc_hook is None else give_blocks(mem, pfns, order)


cdef uint64_t blocks_in_zones(Machine mem, int asked, int order, uint64_t enough) noexcept nogil:
    """Blocks that the zones asked for have together; those beyond `enough` need not be counted."""
    cdef uint64_t there = 0
    cdef int z = next_zone(mem, asked, -1)
    while z >= 0 and there < enough:
        there += blocks_free(mem, z, order)
        z = next_zone(mem, asked, z)
    return there


cdef int64_t alloc_bulk(Machine mem, int z, int order, uint64_t nr, int64_t *out) noexcept nogil:
    """nr blocks of one zone, their first pfns to `out`: nr, or -ENOMEM / -EINVAL."""
    if not is_zone(mem, z) or not 0 <= order <= mem.pages.max_order:
        return -EINVAL
    return alloc_blocks(mem, z, order, nr, out) if nr <= blocks_free(mem, z, order) else -ENOMEM


cdef int alloc_contig_range(Machine mem, uint64_t start, uint64_t nr) except -1:
    """Exactly this range, as single pages in use; EBUSY naming the first page that is not free."""
    cdef uint64_t pfn
    pfns = None if mem.alloc_hook is None else np.arange(start, start + nr)
    if mem.pages.weigh(PG_buddy, start, nr) != nr:
        for pfn in range(start, start + nr):
            if not mem.pages.state(pfn) & PG_buddy:
                raise HotplugError.of(errno.EBUSY, f"alloc_contig_range of {pfn_range(start, nr)}: page {pfn:#x} is not free")
    mem.pages.claim_range(start, nr)
    if pfns is not None:
        given = give_blocks(mem, pfns, 0)
        if <uint64_t>given.size < nr:
            free_blocks(mem, given, 0)
            raise HotplugError.of(errno.EBUSY, f"alloc_contig_range of {pfn_range(start, nr)}: arch_alloc_page keeps some")
    return 0


# -- callbacks

cdef bint try_again(Machine mem, int64_t pfn, int order) except -1:
    """Should the allocation try another block? Yes when arch_alloc_page keeps this one, or when there was none (-1) and the
    OOM notifiers have freed pages."""
    if pfn < 0:
        return out_of_memory(mem, order)
    if mem.alloc_hook is None:
        return False
    try:
        block = np.array([pfn])
    except MemoryError:
        free_block(mem, pfn, order)
        raise
    return give_blocks(mem, block, order).size == 0


cdef object give_blocks(Machine mem, object pfns, int order):
    """Call arch_alloc_page for blocks that were just taken; returns an int64 array of those that it did not keep. When it
    raises, the blocks are freed first."""
    try:
        _held = mem.lock.hold_uninterrupted()     # setdiff1d is Python code
        kept = mem.lock.call_back(mem.alloc_hook, (pfns.copy(), order))
        return pfns if kept is None else np.setdiff1d(pfns, kept, assume_unique=True)
    except BaseException:
        free_blocks(mem, pfns, order)
        raise


cdef int free_blocks(Machine mem, object pfns, int order) except -1:
    """Blocks go back to the allocator, as far as they are still in use; no hook is called."""
    for pfn in pfns.tolist():
        free_block(mem, pfn, order)
    return 0


cdef bint out_of_memory(Machine mem, int order) except -1:
    """Call the OOM notifiers (blocking_notifier_call_chain of oom_notify_list): are there more free pages now? They are not
    called for a block above PAGE_ALLOC_COSTLY_ORDER (__alloc_pages_may_oom)."""
    cdef uint64_t before
    if not mem.oom_notifiers or mem.in_oom or order > COSTLY_ORDER:
        return False
    before = blocks_in_zones(mem, -1, 0, -1)
    mem.in_oom = True
    try:
        for notifier in list(mem.oom_notifiers):
            mem.lock.call_back(notifier, ())
    finally:
        mem.in_oom = False
    return blocks_in_zones(mem, -1, 0, -1) > before


# -- giving them back

cdef int64_t find_unfreeable(Machine mem, pfn_batch *batch) noexcept nogil:
    """The first page of a batch that is not an allocation of order 0, or that has an owner; -1: all can be freed."""
    cdef int64_t bad = mem.pages.find_unfreeable(batch)
    return find_owned_in(mem, batch) if bad < 0 else bad


cdef str why_not_freeable(Machine mem, uint64_t pfn):
    cdef uint64_t end = pfn + 1
    cdef int flags = mem.pages.state(pfn) if pfn < mem.pages.nr_pages else 0
    if not flags:
        return "no page is there"
    if flags & ~PG_tail != PG_prepared:
        return f"it is {'free' if flags & PG_buddy else 'Reserved' if flags & PG_reserved else 'offline'}"
    if flags & PG_tail:
        return "it lies inside an allocation"
    if has_owner(mem, pfn):
        return "MovablePages own it"
    while end < mem.pages.nr_pages and mem.pages.state(end) & PG_tail:
        end += 1
    return f"it was allocated with order {int(end - pfn).bit_length() - 1}"


cdef int free_pages(Machine mem, uint64_t start, int order) except -1:
    """One allocation, or ValueError saying what the page is instead."""
    hook = mem.free_hook      # another thread may take it away
    if hook is not None and can_free(mem, start, order):
        _held = mem.lock.hold()
        mem.lock.call_back(hook, (np.array([start], np.int64), order))
    if free_block(mem, start, order) == 0:
        return 0
    if start & ((<uint64_t>1 << order) - 1):
        raise ValueError(f"page {start:#x} is not aligned to a block of order {order}")
    raise ValueError(f"page {start:#x} is not the first of an allocation of order {order}: {why_not_freeable(mem, start)}")


cdef int gather_freeable(Machine mem, object array, pfn_batch *batch) except -1:
    """Gather single pages in use without an owner, at least one. ValueError naming a page that is something else, past the end
    of memory or given twice; nothing is gathered then."""
    cdef int64_t bad
    cdef PyThreadState *thread
    try:
        gather(mem, batch, array)
    except HotplugError as e:
        raise ValueError(e.strerror) from None
    thread = mem.lock.let_go(batch.nr * (mem.pages.page_bits + 64))
    bad = find_unfreeable(mem, batch)
    mem.lock.take_back(thread)
    if bad >= 0:
        mem.pages.ungather(batch)
        raise ValueError(f"page {bad:#x} is not an allocation of order 0: {why_not_freeable(mem, bad)}")
    return 0


cdef int free_pfns(Machine mem, object array, pfn_batch *batch) except -1:
    """Single pages, all or none."""
    cdef PyThreadState *thread
    hook = mem.free_hook
    if batch.nr == 0:
        return 0
    if hook is not None:
        array = as_batch(array.copy(), batch)      # the hook may change the caller's
        gather_freeable(mem, array, batch)
        mem.pages.ungather(batch)
        mem.lock.call_back(hook, (array.astype(np.int64), 0))
        as_batch(array, batch)      # the hook may have freed pages, or made a batch of its own where this one's copy was
    gather_freeable(mem, array, batch)
    thread = mem.lock.let_go(batch.nr * (mem.pages.page_bits + 64))
    mem.pages.free_batch(batch)
    mem.lock.take_back(thread)
    return 0


cdef int64_t free_batch(Machine mem, const uint64_t *pfns, uint64_t nr) noexcept nogil:
    """Single pages in any order: nr, or -EINVAL when one is not an allocation of order 0, or is given twice."""
    cdef pfn_batch batch
    cdef int gathered = try_gather(mem, pfns, nr, &batch)
    if gathered <= 0:
        return gathered
    if find_unfreeable(mem, &batch) >= 0:
        mem.pages.ungather(&batch)
        return -EINVAL
    mem.pages.free_batch(&batch)
    return nr


cdef int undo_isolate(Machine mem, uint64_t start, uint64_t nr) except -1:
    """Free single pages in use; their free blocks come to the end of the free lists, lowest address first. HotplugError
    EINVAL where no section is; ValueError naming a page that is not an allocation of order 0. Nothing changes then."""
    cdef uint64_t pfn, run
    check_present(mem, start, nr, "undo_isolate_page_range")
    for pfn in range(start, start + nr):
        if not mem.pages.freeable(pfn, 0) or has_owner(mem, pfn):
            raise ValueError(f"page {pfn:#x} is not an allocation of order 0: {why_not_freeable(mem, pfn)}")
    while nr:
        run = mem.pages.area_run(start, start + nr)
        mem.pages.clear_reserved(start, run)      # as waiting pages go online, but these are managed already
        mem.pages.free_range(start, run, mem.pages.max_order)
        start += run
        nr -= run
    return 0


# -- movable pages and memmaps

@cython.freelist(4)      # so that freeing in the course of an undo needs no memory
cdef class PageLists:
    """PageLists(mem)
--

Where movable pages and memmaps come from and go to. This class keeps no lists: all pages come from the buddy allocator and go
    back to it at once. hotplug.pcp.PerCpuPages keeps lists in front of it. mem: their Memory."""

    def __cinit__(self, Machine mem not None):
        self.mem = mem

    cpdef object alloc(self, nr, zonelist):
        """Allocate up to `nr` movable pages from the zones of these numbers, as for a process. Returns an int64 array."""
        cdef uint64_t want = as_uint64(nr, "nr"), got = 0
        _held = self.mem.lock.hold()
        pfns = np.empty(want, np.int64)
        with Undo() as undo:      # another thread may take a zone's last pages
            for z in zonelist:
                zone = self.mem.zones.numbered(z)
                fresh = alloc_pages_bulk(self.mem, min(want - got, <uint64_t>zone.free_pages), 0, zone)
                (<Undo>undo).note(<undo_step>free_again, self, fresh)
                pfns[got : got + len(fresh)] = fresh
                got += len(fresh)
                if got == want:
                    break
            return pfns[:got]

    cpdef object free(self, pfns):
        """Free movable pages, in this order. pfns and errors: as Memory.free_pfns."""
        cdef pfn_batch batch
        array = as_batch(pfns, &batch)
        _held = self.mem.lock.hold()
        free_pfns(self.mem, array, &batch)

    cpdef object give_back(self, pfns, int64_t nr):
        """Undo an allocation: free the first `nr` of `pfns`, an int64 array. No memory is needed, and no callback is called."""
        cdef const int64_t *numbers
        cdef int64_t i
        if type(pfns) is not ndarray or pfns.dtype != np.int64 or not pfns.flags.c_contiguous or nr > pfns.size:
            raise TypeError(f"pfns must be an int64 array of at least {nr} pages")
        numbers = <const int64_t *>data_of(pfns)
        for i in range(nr):
            free_block(self.mem, numbers[i], 0)

    cpdef object alloc_kernel(self, order, int nid=0):
        """Allocate 2^order unmovable pages (GFP_KERNEL) from the node's kernel zones, highest first, then from the other
        nodes', each down to its min watermark and what it keeps for others. Returns the first pfn; MemoryError if no block
        fits."""
        cdef int64_t pfn = alloc_pages_node(self.mem, nid, "GFP_KERNEL", as_order(order, self.mem.pages.max_order))
        if pfn < 0:
            raise MemoryError(f"no free block of order {order} in a kernel zone above its watermarks")
        return pfn

    cpdef object free_kernel(self, pfn, order=0):
        """Free a block of alloc_kernel. ValueError naming the page when it is none."""
        free_pages(self.mem, as_uint64(pfn, "pfn"), as_order(order, self.mem.pages.max_order))

    cpdef bint is_kernel(self, uint64_t pfn, int order) except -1:
        """Return whether free_kernel could free that block."""
        return can_free(self.mem, pfn, order)

    cpdef object at_tail(self, uint64_t start_pfn, uint64_t nr_pages):
        """Record that pages go to the tail of the free lists (online_pages, generic_online_page, undo_isolate_page_range)."""

    cpdef object drain(self, int z):
        """Free every page on the lists of zone number z (drain_pages_zone)."""

    cpdef object release(self, uint64_t start_pfn, uint64_t nr_pages):
        """Make pageblocks of a range without unmovable pages ordinary again."""

    cpdef object disable(self, int z):
        """Empty the lists of a zone and keep them empty (zone_pcp_disable)."""

    cpdef object enable(self, int z):
        """Let pages stay on the lists of a zone again (zone_pcp_enable)."""

    cpdef object shrink_slabs(self):
        """Free the empty slabs of the kernel's caches (slab_mem_going_offline_callback)."""


cdef int free_again(PageLists lists, object pfns) except -1:
    """Undo PageLists.alloc (an undo_step)."""
    lists.free(pfns)
    return 0
