"""The counts behind validate(): one walk over every page of a machine, without the engine's own sums."""

from fastonline.core.types cimport NR_ORDERS, int64_t, pfn_t, uint64_t

cdef enum:                       # what can be wrong with a page
    PAGE_OK = 0
    PAGE_NO_STATE = 1            # its flags are none of the states of engine.pxd
    PAGE_LONE_TAIL = 2           # PG_tail, and the page before it is not of the same allocation
    PAGE_NO_ZONE = 3             # PG_prepared, and its block is in no area
    PAGE_NOT_FULL = 4            # the plane of full words disagrees with that of free pages
    PAGE_BAD_BLOCK = 5           # struct_page: heads a free block that is unaligned, too long, not all free, or could merge
    PAGE_NO_BLOCK = 6            # struct_page: free, and in no free block
    LIST_BROKEN = 7              # struct_page: a list does not lead to its blocks and back

cdef struct page_tally:          # of one area
    uint64_t prepared            # pages with PG_prepared,
    uint64_t managed             # of them free or in use
    pfn_t first, last            # the first and the last of the prepared ones
    int64_t nr_free[NR_ORDERS]   # free blocks of each order

cdef struct section_tally:
    uint64_t prepared
    uint64_t managed
