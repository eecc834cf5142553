"""The honest engine: a descriptor a page and intrusive free lists, laid out as the kernel is.

A descriptor is 32 bytes (32-bit kernels, 2008), 56 (64-bit, 2008) or 64 (64-bit, 6.1), KERNEL.md 4.3. Links are numbers of
descriptors instead of pointers, so that a machine can grow, be copied and be saved; the list heads are descriptors too, before
the first page's.
"""

from fastonline.core.borders cimport zone_borders
from fastonline.core.buddy cimport buddy_pool
from fastonline.core.engine cimport Engine, pfn_batch
from fastonline.core.types cimport area_t, int32_t, int64_t, pfn_t, uint32_t, uint64_t

cdef enum:
    NR_HEADS = 8192              # list heads: NR_ORDERS for each of MAX_AREAS

cdef struct page32:
    uint32_t flags               # PG_* mask; PG_buddy on the first page of a free block only
    int32_t refcount             # 1: in use or not onlined; 0: free, or a tail page
    uint32_t order               # of a free block, on its first page
    uint32_t mapping
    uint32_t index
    int32_t mapcount
    uint32_t next, prev          # lru

cdef struct page56:
    uint64_t flags
    int32_t refcount
    int32_t mapcount
    uint64_t order
    uint64_t mapping
    uint64_t index
    uint64_t next, prev

cdef struct page64:
    uint64_t flags
    uint64_t next, prev
    uint64_t mapping
    uint64_t index
    uint64_t order
    int32_t mapcount
    int32_t refcount
    uint64_t memcg_data

ctypedef fused page_t:
    page32
    page56
    page64


cdef struct mem_map:             # what the kernels need of an engine
    void *heads                  # the first list head
    void *pages                  # pfn 0's descriptor
    buddy_pool *areas
    area_t *area_of
    zone_borders borders
    int max_order
    bint lifo


cdef inline buddy_pool *area_of_page(mem_map *m, pfn_t pfn) noexcept nogil:
    return &m.areas[m.area_of[pfn >> m.borders.shift]]


cdef inline bint in_area(mem_map *m, pfn_t pfn, buddy_pool *area) noexcept nogil:
    """What page_is_buddy asks besides: is the page of the same zone (page_zone_id)?"""
    return m.area_of[pfn >> m.borders.shift] == area.number


cdef class StructPageEngine(Engine):
    cdef readonly int page_bytes         # sizeof(struct page): 32, 56 or 64
    cdef readonly bint lifo              # 2.6.25: a freed block goes to the head of its list, always
    cdef object owner                    # (NR_HEADS + nr_pages, page_bytes) uint8: owns the descriptors
    cdef mem_map map

    cdef int own(self, array) except -1
    cdef void make_lists(self, int first_area, int end_area) noexcept
    cdef void init(self, pfn_t start, uint64_t nr, int flags) noexcept nogil
    cdef void change_flags(self, pfn_t start, uint64_t nr, int set_flags, int clear_flags, int refcount) noexcept nogil
    cdef void split_allocations(self, pfn_t start, uint64_t nr) noexcept nogil
    cdef uint64_t take_free(self, pfn_t start, uint64_t nr) noexcept nogil
    cdef uint64_t bytes_of_lists(self) noexcept nogil
