"""The fast engine: a bit plane a flag, and the buddy allocator on the plane of the free pages."""

from fastonline.core.bitmap cimport Bitmap, test_bit
from fastonline.core.buddy cimport buddy, buddy_free_page, buddy_free_quickly, buddy_pool
from fastonline.core.engine cimport Engine, pfn_batch
from fastonline.core.pageflags cimport page_flags
from fastonline.core.types cimport pfn_t, uint64_t, word_t


cdef class BitmapEngine(Engine):
    cdef buddy buddy
    cdef page_flags flags
    cdef uint64_t singles            # pages that went online one by one
    cdef readonly Bitmap free        # PG_buddy
    cdef readonly Bitmap full        # one bit per word of `free`
    cdef readonly Bitmap reserved
    cdef readonly Bitmap offline
    cdef readonly Bitmap tail
    cdef readonly Bitmap prepared
    cdef readonly Bitmap counts      # the summary: one word per group of pages
    cdef readonly list trees         # of Bitmap, one for each area

    cdef list named_planes(self)
    cdef list new_trees(self, uint64_t nr_pages, int first_area, int end_area)
    cdef void own_summary(self, Bitmap counts, list trees) noexcept
    cdef void cache_pointers(self) noexcept
    cdef int check_summary(self, pfn_t start, uint64_t nr) except -1
    cdef uint64_t apply_batch(self, pfn_t start, pfn_t end, int order, bint online) noexcept nogil
    cdef uint64_t apply_to_parts(self, pfn_t start, int order, bint online) noexcept nogil
    cdef uint64_t take_free(self, pfn_t start, uint64_t nr) noexcept nogil
    cdef void split_allocations(self, pfn_t start, uint64_t nr) noexcept nogil
    cdef void account_runs(self, pfn_t start, uint64_t nr, int sign) noexcept nogil


cdef inline word_t in_use(const page_flags *flags, const word_t *free, uint64_t w) noexcept nogil:
    return flags.prepared[w] & ~(flags.reserved[w] | free[w] | flags.offline[w])


cdef inline word_t unfreeable(const page_flags *flags, const word_t *free, uint64_t nr_pages, pfn_t pfn) noexcept nogil:
    """1 if the page is not an allocation of order 0, else 0. It has no branches."""
    cdef pfn_t after = min(pfn + 1, nr_pages - 1)
    return (((~in_use(flags, free, pfn >> 6) | flags.tail[pfn >> 6]) >> (pfn & 63)) | test_bit(flags.tail, after)) & 1


cdef inline bint bitmap_free_page(BitmapEngine engine, pfn_t pfn) noexcept nogil:
    """Engine.freeable and free_block of order 0 for a caller that knows its engine; the trees alone may need a call."""
    if unfreeable(&engine.flags, engine.buddy.free, engine.nr_pages, pfn):
        return False
    engine.touched += sizeof(word_t)
    buddy_free_page(&engine.buddy, pfn)
    return True


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


cdef inline bint online_quickly(buddy *b, page_flags *flags, pfn_t pfn) noexcept nogil:
    """bitmap_online_page of a page that is waiting and that buddy_free_quickly frees. The caller counts `singles`. False:
    nothing was done."""
    cdef uint64_t w = pfn >> 6
    cdef word_t bit = (<word_t>1) << (pfn & 63)
    cdef buddy_pool *a
    if not flags.prepared[w] & flags.reserved[w] & bit:
        return False
    a = buddy_free_quickly(b, pfn)
    if a == NULL:
        return False
    flags.reserved[w] &= ~bit
    a.managed += 1
    return True


cdef inline bint bitmap_online_quickly(BitmapEngine engine, pfn_t pfn) noexcept nogil:
    """online_quickly of an engine's page."""
    if not online_quickly(&engine.buddy, &engine.flags, pfn):
        return False
    engine.singles += 1
    return True
