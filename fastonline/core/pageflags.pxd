"""The flags of each page: one bit per page and flag."""

from fastonline.core.bitmap cimport Bitmap, clear_bit, set_bit, test_bit
from fastonline.core.types cimport pfn_t, uint64_t, word_t

# The flags of one page as a mask, the same in both engines. Python code finds all of these names in the module.
cpdef enum:
    PG_reserved = 1          # not the allocator's: added, not onlined
    PG_buddy = 2             # inside a free block (on every page of it, as /proc/kpageflags has it)
    PG_offline = 4           # handed back to the host: online, in use by nobody
    PG_tail = 8              # in use, not the first page of its allocation
    PG_prepared = 16         # inside a range that prepare_online_pages has been over
    # the states of a prepared page
    PAGE_IN_USE = PG_prepared
    PAGE_FREE = PG_prepared | PG_buddy
    PAGE_WAITING = PG_prepared | PG_reserved
    PAGE_OFFLINE = PG_prepared | PG_offline

cdef struct page_flags:
    word_t *reserved
    word_t *offline
    word_t *tail
    word_t *prepared


cdef inline bint PageReserved(page_flags *p, pfn_t pfn) noexcept nogil:
    return test_bit(p.reserved, pfn)

cdef inline bint PageOffline(page_flags *p, pfn_t pfn) noexcept nogil:
    return test_bit(p.offline, pfn)

cdef inline bint PageTail(page_flags *p, pfn_t pfn) noexcept nogil:
    return test_bit(p.tail, pfn)

cdef inline bint PagePrepared(page_flags *p, pfn_t pfn) noexcept nogil:
    return test_bit(p.prepared, pfn)
