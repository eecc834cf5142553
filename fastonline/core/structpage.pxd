"""The struct_page engine: one descriptor per page and intrusive free lists, laid out as in the kernel.

A descriptor has 32 bytes (32-bit kernels of 2008), 56 (64-bit, 2008) or 64 (64-bit, 6.1), KERNEL.md 4.3. Links are numbers of
descriptors, not pointers, so that a machine can grow, be copied and be saved. The list heads are descriptors too. They come
before the descriptor of the first page.
"""

from fastonline.core.borders cimport zone_borders
from fastonline.core.buddy cimport buddy_pool
from fastonline.core.engine cimport Engine, pfn_batch
from fastonline.core.types cimport area_t, int32_t, int64_t, pfn_t, uint8_t, uint32_t, uint64_t

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
    void *pages                  # pfn 0's descriptor
    buddy_pool *areas
    area_t *area_of
    zone_borders borders
    int max_order
    bint lifo


ctypedef void (*empty_lists_t)(void *pages, uint64_t first, uint64_t end) noexcept nogil
ctypedef void (*list_blocks_t)(void *pages, uint64_t nr_heads, uint64_t *out) noexcept nogil
ctypedef void (*set_states_t)(void *pages, pfn_t start, const uint8_t *states, uint64_t nr) noexcept nogil
ctypedef bint (*set_lists_t)(void *pages, pfn_t end, const int64_t *lengths, uint64_t nr, const uint64_t *blocks) noexcept nogil
ctypedef int (*state_t)(void *pages, pfn_t pfn) noexcept nogil
ctypedef void (*states_t)(void *pages, pfn_t start, uint64_t nr, uint8_t *out) noexcept nogil
ctypedef int64_t (*find_used_t)(void *pages, pfn_t start, pfn_t end) noexcept nogil
ctypedef uint64_t (*first_not_waiting_t)(void *pages, pfn_t start, pfn_t end) noexcept nogil
ctypedef void (*init_t)(void *pages, pfn_t start, uint64_t nr, int flags) noexcept nogil
ctypedef void (*change_t)(void *pages, pfn_t start, uint64_t nr, int set_flags, int clear_flags, int refcount) noexcept nogil
ctypedef void (*free_range_t)(mem_map *m, void *pages, pfn_t start, uint64_t nr, int order) noexcept nogil
ctypedef uint64_t (*take_free_t)(mem_map *m, void *pages, pfn_t start, uint64_t nr) noexcept nogil
ctypedef int (*online_page_t)(mem_map *m, void *pages, pfn_t pfn) noexcept nogil
ctypedef uint64_t (*batch_t)(mem_map *m, void *pages, const pfn_batch *batch) noexcept nogil
ctypedef int64_t (*find_unfreeable_t)(void *pages, const pfn_batch *batch, uint64_t nr_pages) noexcept nogil
ctypedef int64_t (*alloc_block_t)(mem_map *m, void *pages, buddy_pool *area, int order) noexcept nogil
ctypedef uint64_t (*alloc_pages_t)(mem_map *m, void *pages, buddy_pool *area, uint64_t nr, int64_t *out) noexcept nogil
ctypedef void (*free_block_t)(mem_map *m, void *pages, pfn_t pfn, int order, bint tail) noexcept nogil

cdef struct page_ops:            # the functions for one size of descriptor
    empty_lists_t empty_lists
    list_blocks_t list_blocks
    set_states_t set_states
    set_lists_t set_lists
    state_t state
    states_t states
    find_used_t find_used
    first_not_waiting_t first_not_waiting
    init_t init
    change_t change
    free_range_t free_range
    take_free_t take_free
    online_page_t online_page
    batch_t online_batch
    batch_t free_batch
    find_unfreeable_t find_unfreeable
    alloc_block_t alloc_block
    alloc_pages_t alloc_pages
    free_block_t free_block


cdef inline buddy_pool *area_of_page(mem_map *m, pfn_t pfn) noexcept nogil:
    return &m.areas[m.area_of[pfn >> m.borders.shift]]


cdef inline bint in_area(mem_map *m, pfn_t pfn, buddy_pool *area) noexcept nogil:
    """Is the page in the same zone? page_is_buddy requires it (page_zone_id)."""
    return m.area_of[pfn >> m.borders.shift] == area.number


cdef class StructPageEngine(Engine):
    cdef readonly int page_bytes         # sizeof(struct page): 32, 56 or 64
    cdef readonly bint lifo              # 2.6.25: a freed block goes to the head of its list, always
    cdef object owner                    # (NR_HEADS + nr_pages, page_bytes) uint8: owns the descriptors
    cdef mem_map map
    cdef const page_ops *ops

    cdef int own(self, array) except -1
    cdef void make_lists(self, int first_area, int end_area) noexcept
    cdef void init(self, pfn_t start, uint64_t nr, int flags) noexcept nogil
    cdef void change_flags(self, pfn_t start, uint64_t nr, int set_flags, int clear_flags, int refcount) noexcept nogil
    cdef void split_allocations(self, pfn_t start, uint64_t nr) noexcept nogil
    cdef uint64_t take_free(self, pfn_t start, uint64_t nr) noexcept nogil
    cdef uint64_t bytes_of_lists(self) noexcept nogil
