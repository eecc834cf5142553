"""The fast engine: a bit plane a flag, and the buddy allocator on the plane of the free pages."""

from fastonline.core.bitmap cimport Bitmap
from fastonline.core.buddy cimport buddy, buddy_free_page
from fastonline.core.engine cimport Engine, pfn_batch
from fastonline.core.pageflags cimport page_flags
from fastonline.core.types cimport ALL_ONES, pfn_t, uint64_t, word_t


cdef class BitmapEngine(Engine):
    cdef buddy buddy
    cdef page_flags flags
    cdef uint64_t singles            # pages that went online one by one
    cdef readonly Bitmap free        # PG_buddy
    cdef readonly Bitmap full        # one bit a word of `free`
    cdef readonly Bitmap reserved
    cdef readonly Bitmap offline
    cdef readonly Bitmap tail
    cdef readonly Bitmap prepared

    cdef list named_planes(self)
    cdef void cache_pointers(self) noexcept nogil
    cdef uint64_t apply_batch(self, pfn_t start, pfn_t end, int order, bint online) noexcept nogil
    cdef uint64_t take_free(self, pfn_t start, uint64_t nr) noexcept nogil
    cdef void split_allocations(self, pfn_t start, uint64_t nr) noexcept nogil
    cdef void account_runs(self, pfn_t start, uint64_t nr, int sign) noexcept nogil
    cdef bint sparse(self, const pfn_batch *batch) noexcept nogil


cdef inline int bitmap_online_page(BitmapEngine engine, pfn_t pfn) noexcept nogil:
    """Engine.online_page for a caller that knows its engine: inlined, one page costs no call."""
    cdef uint64_t w = pfn >> 6
    cdef word_t bit = (<word_t>1) << (pfn & 63)
    if not engine.flags.prepared[w] & bit:
        return -1
    if not engine.flags.reserved[w] & bit:
        return 0
    engine.flags.reserved[w] &= ~bit
    buddy_free_page(&engine.buddy, pfn).managed += 1
    engine.singles += 1
    return 1


cdef inline bint bitmap_online_quickly(BitmapEngine engine, pfn_t pfn) noexcept nogil:
    """bitmap_online_page in few instructions and without a call, for most pages: those that are waiting and do not fill a word.
    False: it is none of them, and nothing was done."""
    cdef uint64_t w = pfn >> 6
    cdef word_t bit = (<word_t>1) << (pfn & 63)
    if not engine.flags.prepared[w] & engine.flags.reserved[w] & bit or engine.buddy.free[w] | bit == ALL_ONES:
        return False
    buddy_free_page(&engine.buddy, pfn).managed += 1
    engine.flags.reserved[w] &= ~bit
    engine.singles += 1
    return True
