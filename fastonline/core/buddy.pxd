"""The buddy allocator on one bit a page.

The blocks of a fully merged buddy allocator are determined by which pages are free: the free blocks of order k are the
aligned runs of 2^k ones that are part of no larger one. So a free is one OR, and how far it merges is read off the zeros
nearest to the bit. With F[k] the number of aligned runs of 2^k free pages, nr_free[k] = F[k] - 2 F[k+1], and freeing merges
k into k+1 exactly as often as F[k+1] grows, whatever the order of the frees.

Memory is parted into free areas, pools of blocks that never merge with each other; every block of 2^max_order pages belongs
to one of them (or to none).
"""

from fastonline.core.bitmap cimport ctz, msb
from fastonline.core.types cimport ALL_ONES, NR_ORDERS, area_t, int64_t, pfn_t, uint64_t, word_t

cdef struct free_area:
    uint64_t ended[NR_ORDERS]    # single-page frees by the order they merged up to; folded into the rest by free_area_fold
    uint64_t hint[NR_ORDERS]     # no free block of exactly this order lies below this block of 2^max_order pages
    int64_t nr_free[NR_ORDERS]   # free blocks of each order
    uint64_t merges[NR_ORDERS]   # merges[k]: two blocks of order k became one of k + 1
    uint64_t splits[NR_ORDERS]   # splits[k]: one block of order k became two of k - 1
    uint64_t frees[NR_ORDERS]    # blocks handed to the allocator
    uint64_t allocs[NR_ORDERS]   # blocks handed out
    int64_t managed              # pages given to the allocator, free or in use
    uint64_t number              # its index in the engine's areas

cdef struct buddy:
    word_t *free                 # one bit a page: free
    word_t *full                 # one bit a word of `free`: all 64 pages are free
    area_t *area_of              # the free area of each block of 2^max_order pages
    free_area *areas
    uint64_t nr_blocks           # entries of area_of
    int max_order


cdef inline int order_in_word(word_t x, unsigned int bit) noexcept nogil:
    """Order of the aligned run of ones around `bit`, which is one, in x, which is not all ones.

    A zero z ends the run at the order where z and the bit part: msb(z ^ bit). The zeros nearest on either side decide.
    """
    cdef word_t zeros = ~x
    cdef word_t below = zeros & (((<word_t>1) << bit) - 1)
    cdef word_t above = zeros ^ below
    cdef unsigned int lo = (msb(below) ^ bit) if below else 64
    cdef unsigned int hi = (ctz(above) ^ bit) if above else 64
    return msb(lo if lo < hi else hi)


cdef inline free_area *area_of_page(buddy *b, pfn_t pfn) noexcept nogil:
    return &b.areas[b.area_of[pfn >> b.max_order]]


cdef inline void lower_hint(free_area *a, int order, uint64_t block) noexcept nogil:
    if block < a.hint[order]:
        a.hint[order] = block


cdef inline int fill_word(buddy *b, uint64_t w) noexcept nogil:
    """Word w of `free` has become all ones: the order of the block that it lies in."""
    cdef word_t y = b.full[w >> 6] | (<word_t>1) << (w & 63)
    cdef int order
    b.full[w >> 6] = y
    if y != ALL_ONES:
        order = 6 + order_in_word(y, w & 63)
    else:
        order = 13 if b.full[(w >> 6) ^ 1] == ALL_ONES else 12
    return order if order < b.max_order else b.max_order


cdef inline free_area *buddy_free_page(buddy *b, pfn_t pfn) noexcept nogil:
    """Free one page that is not free (__free_one_page, order 0); returns its area."""
    cdef uint64_t w = pfn >> 6
    cdef unsigned int bit = pfn & 63
    cdef uint64_t block = pfn >> b.max_order
    cdef free_area *a = &b.areas[b.area_of[block]]
    cdef word_t x = b.free[w] | (<word_t>1) << bit
    cdef int m
    b.free[w] = x
    if x != ALL_ONES:
        m = order_in_word(x, bit)
    else:
        m = fill_word(b, w)
    a.ended[m] += 1
    if block < a.hint[m]:
        a.hint[m] = block
    return a


cdef int buddy_order(buddy *b, pfn_t pfn) noexcept nogil               # order of the free block that holds the free page pfn
cdef void free_area_init(free_area *a, uint64_t number) noexcept nogil
cdef void free_area_fold(free_area *a) noexcept nogil                  # bring the counts up to date with `ended`
cdef void buddy_free_block(buddy *b, pfn_t pfn, int order) noexcept nogil
# Free a range of one area, none of it free, handed over in aligned blocks of at most `order`.
cdef void buddy_free_range(buddy *b, pfn_t start, uint64_t nr, int order) noexcept nogil
# Free the pages whose bits stand in `batch`, words [first, end), whole blocks of one area, none of them free, as aligned blocks
# of at most `order`; the batch is left as it was. Returns the number of pages.
cdef uint64_t buddy_free_words(buddy *b, const word_t *batch, uint64_t first, uint64_t end, int order) noexcept nogil
# Smallest block that fits, lowest address first; -1 when there is none.
cdef int64_t buddy_alloc_block(buddy *b, area_t area, int order) noexcept nogil
# What `nr` calls of buddy_alloc_block(order 0) would hand out, in their order; returns how many there were.
cdef uint64_t buddy_alloc_pages(buddy *b, area_t area, uint64_t nr, int64_t *out) noexcept nogil
# Take a range of one area, all of it free, out of the allocator; blocks that reach over its ends are split.
cdef void buddy_take_range(buddy *b, pfn_t start, uint64_t nr) noexcept nogil
