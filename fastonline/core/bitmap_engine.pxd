"""The fast engine: a bit plane a flag, and the buddy allocator on the plane of the free pages."""

from fastonline.core.bitmap cimport Bitmap
from fastonline.core.buddy cimport area_of_page, buddy, buddy_free_page, buddy_pool, order_in_word, present
from fastonline.core.engine cimport Engine, pfn_batch
from fastonline.core.pageflags cimport page_flags
from fastonline.core.types cimport ALL_ONES, pfn_t, uint64_t, word_t


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
    """bitmap_online_page in few instructions and without a call, for most pages: those that are waiting, do not fill a word and
    leave the trees as they are. So other pages of the group are free, or were just now. The caller counts `singles`. False:
    nothing was done."""
    cdef uint64_t w = pfn >> 6, group = pfn >> b.group_order
    cdef word_t bit = (<word_t>1) << (pfn & 63), x, before, after
    cdef buddy_pool *a
    cdef int m
    if b.borders.nr:
        return False
    if not flags.prepared[w] & flags.reserved[w] & bit:
        return False
    x = b.free[w] | bit
    if x == ALL_ONES:
        return False
    m = order_in_word(x, pfn & 63)
    before = b.counts[group]
    after = before + b.merged[m]
    if group != b.pending and present(before) != present(after):
        return False
    b.free[w] = x
    b.counts[group] = after
    flags.reserved[w] &= ~bit
    a = area_of_page(b, pfn)
    a.ended[m] += 1
    a.managed += 1
    return True


cdef inline bint bitmap_online_quickly(BitmapEngine engine, pfn_t pfn) noexcept nogil:
    """online_quickly of an engine's page."""
    if not online_quickly(&engine.buddy, &engine.flags, pfn):
        return False
    engine.singles += 1
    return True
