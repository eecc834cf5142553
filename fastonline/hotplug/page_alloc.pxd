"""The allocator's calls: blocks of pages taken from a zone and given back (mm/page_alloc.c)."""

from libc.errno cimport EINVAL, ENOMEM

from fastonline.core.bitmap_engine cimport bitmap_free_page
from fastonline.core.engine cimport pfn_batch
from fastonline.core.types cimport int64_t, uint64_t
from fastonline.hotplug.machine cimport Machine, has_owner, is_zone
from fastonline.hotplug.types cimport zone_area


cdef inline int64_t alloc_block(Machine mem, int zone_nr, int order) noexcept nogil:
    """The first pfn of a block of one zone; -ENOMEM: there is none, -EINVAL: no such zone or order."""
    cdef int64_t pfn
    if not is_zone(mem, zone_nr) or not 0 <= order <= mem.pages.max_order:
        return -EINVAL
    pfn = mem.pages.alloc_block(zone_area(zone_nr), order)
    return pfn if pfn >= 0 else -ENOMEM


cdef inline bint can_free(Machine mem, uint64_t pfn, int order) noexcept nogil:
    """Is that one allocation of this order, without an owner?"""
    return pfn < mem.pages.nr_pages and 0 <= order <= mem.pages.max_order and not pfn & ((<uint64_t>1 << order) - 1) \
        and mem.pages.freeable(pfn, order) and not has_owner(mem, pfn)


cdef inline int free_block(Machine mem, uint64_t pfn, int order) noexcept nogil:
    """Free one allocation; -EINVAL: that is not one allocation of this order."""
    if order == 0 and mem.planes is not None and mem.owned is None:      # the most usual: without a virtual call
        return 0 if pfn < mem.planes.nr_pages and bitmap_free_page(mem.planes, pfn) else -EINVAL
    if not can_free(mem, pfn, order):
        return -EINVAL
    mem.pages.free_block(pfn, order)
    return 0


cdef uint64_t blocks_free(Machine mem, int z, int order) noexcept nogil
cdef uint64_t alloc_blocks(Machine mem, int z, int order, uint64_t nr, int64_t *out) noexcept nogil

cdef int64_t rmqueue(Machine mem, int order, int asked) noexcept nogil
cdef uint64_t blocks_in_zones(Machine mem, int asked, int order, uint64_t enough) noexcept nogil
cdef bint try_again(Machine mem, int64_t pfn, int order) except -1
cdef object give_blocks(Machine mem, object pfns, int order)
cdef int free_blocks(Machine mem, object pfns, int order) except -1
cdef bint out_of_memory(Machine mem, int order) except -1
cdef int64_t alloc_pages(Machine mem, int order, object zone) except -1
cdef int64_t alloc_pages_node(Machine mem, int nid, str gfp, int order) except -2
cdef bint zone_watermark_ok(Machine mem, int z, int order, int64_t watermark) noexcept nogil
cdef int64_t alloc_pages_gfp(Machine mem, int order, object gfp, object nid) except -1
cdef object alloc_pages_bulk(Machine mem, uint64_t nr, int order, object zone)
cdef int alloc_contig_range(Machine mem, uint64_t start, uint64_t nr) except -1
cdef int64_t alloc_bulk(Machine mem, int z, int order, uint64_t nr, int64_t *out) noexcept nogil
cdef int64_t free_batch(Machine mem, const uint64_t *pfns, uint64_t nr) noexcept nogil
cdef int free_pages(Machine mem, uint64_t start, int order) except -1
cdef int gather_freeable(Machine mem, object array, pfn_batch *batch) except -1
cdef int free_pfns(Machine mem, object array, pfn_batch *batch) except -1
cdef int undo_isolate(Machine mem, uint64_t start, uint64_t nr) except -1


cdef class PageLists:
    cdef readonly Machine mem
    cpdef object alloc(self, nr, zonelist)
    cpdef object free(self, pfns)
    cpdef object give_back(self, pfns, int64_t nr)
    cpdef object alloc_kernel(self, order, int nid=*)
    cpdef object free_kernel(self, pfn, order=*)
    cpdef bint is_kernel(self, uint64_t pfn, int order) except -1
    cpdef object at_tail(self, uint64_t start_pfn, uint64_t nr_pages)
    cpdef object drain(self, int z)
    cpdef object release(self, uint64_t start_pfn, uint64_t nr_pages)
    cpdef object disable(self, int z)
    cpdef object enable(self, int z)
    cpdef object shrink_slabs(self)


cdef inline PageLists lists_of(Machine mem):
    """The PerCpuPages of a machine, or PageLists where it has none."""
    return PageLists.__new__(PageLists, mem) if mem.per_cpu_pages is None else <PageLists>mem.per_cpu_pages
