"""The buddy allocator on one bit per page.

The blocks of a fully merged buddy allocator are determined by which pages are free: the free blocks of order k are the
aligned runs of 2^k ones that are part of no larger one. So a free is one OR, and the nearest zeros on both sides of the bit
show up to which order it merges. With F[k] the number of aligned runs of 2^k free pages, nr_free[k] = F[k] - 2 F[k+1]. Frees
merge order k into k+1 exactly as often as F[k+1] grows, whatever the order of the frees.

Memory is divided into areas. Free blocks of different areas never merge. Every block of 2^max_order pages belongs to one area,
or to none.

An allocation takes the lowest block of the smallest order that fits. A summary of the free blocks finds it:

- A group is 2^group_order pages: a block of the largest order, or of order 10 where the largest is larger. `counts` has one
  word per group: the number of its free blocks of each order below group_order. The field of an order has room for the most
  blocks that there can be: ten bits for the 512 blocks of order 0, down to one bit for order 9. A free that merges up to order
  m is one addition to the word: 1 more at m, 1 less at every order below. `full` shows the blocks of group_order and above.
- Each area has one tree of bitmaps per order, 64-ary. A bit of the lowest level: the group has free blocks of exactly this
  order (from group_order on: such a block begins there). A bit of a higher level: the word below it is not zero. Above the
  roots, one word has a bit for each order.
- The trees change when a group gets its first block of an order, or loses its last. One group, `pending`, has counts that the
  trees do not show yet. This saves most changes: pages freed one after the other mostly lie in one group, a free often merges
  what an allocation has just split, and in a full guest the next allocation often gets the page freed last. An allocation
  reads the counts of this group besides the trees.

So an allocation reads one word per level and the words of one group, whatever the size of the machine.

A block with a zone border inside (core/borders.pxd) is not in the summary: its counts are zero, and it is in no tree. Its free
blocks are found by reading its pages.
"""

cimport cython

from fastonline.core.bitmap cimport ctz, msb
from fastonline.core.borders cimport bordered, free_in_part, has_border, zone_borders
from fastonline.core.types cimport ALL_ONES, NR_ORDERS, area_t, int64_t, pfn_t, uint8_t, uint64_t, word_t

cdef enum:
    MAX_LEVELS = 6               # of a tree: 2^36 groups
    ROOTS = 15                   # the word of the root node, where no order is, that shows which roots are not zero

cdef extern from *:
    """
    /* The fields of a group's counts: order k in 10 - k bits. Their highest bits, and all the others. */
    #define FASTONLINE_COUNT_TOPS 0x0069108204040200ULL
    #define FASTONLINE_COUNT_LOWS (0x007FFFFFFFFFFFFFULL & ~FASTONLINE_COUNT_TOPS)
    #define FASTONLINE_NO_GROUP UINT64_MAX
    /* stands for the counts, which are zero, of a group that is free as a whole */
    #define FASTONLINE_WHOLE (1ULL << 63)
    /* the highest bit of the field of each order in a group's counts; then the bits of the larger orders */
    static const uint8_t fo_top[14] __attribute__((unused)) = {9, 18, 26, 33, 39, 44, 48, 51, 53, 54, 55, 56, 57, 58};
    """
    const word_t COUNT_TOPS "FASTONLINE_COUNT_TOPS"
    const word_t COUNT_LOWS "FASTONLINE_COUNT_LOWS"
    const uint64_t NO_GROUP "FASTONLINE_NO_GROUP"
    const word_t WHOLE "FASTONLINE_WHOLE"
    const uint8_t TOP "fo_top"[14]

cdef struct buddy_pool:
    uint64_t ended[NR_ORDERS]    # single-page frees by the order they merged up to; these three are folded into the rest
    uint64_t began[NR_ORDERS]    # allocations by the order of the block that was split
    uint64_t handed[NR_ORDERS]   # and by the order that was asked for
    int64_t nr_free[NR_ORDERS]   # free blocks of each order
    uint64_t merges[NR_ORDERS]   # merges[k]: two blocks of order k became one of k + 1
    uint64_t splits[NR_ORDERS]   # splits[k]: one block of order k became two of k - 1
    uint64_t frees[NR_ORDERS]    # blocks handed to the allocator
    uint64_t allocs[NR_ORDERS]   # blocks handed out
    int64_t managed              # pages given to the allocator, free or in use
    uint64_t number              # its index in the engine's areas
    word_t *tree                 # the nodes of its trees, NR_ORDERS words each, the root first

cdef struct buddy:
    word_t *free                 # one bit per page: free
    word_t *full                 # one bit per word of `free`: all 64 pages are free
    area_t *area_of              # the free area of each 2^borders.shift pages, blocks of the largest order or their parts
    zone_borders borders
    buddy_pool *areas
    int nr_areas
    word_t *counts               # free blocks in each group
    uint64_t nr_groups
    uint64_t pending             # the group whose counts the trees may not show yet, or NO_GROUP
    word_t hung                  # the counts of `pending` that the trees show, or WHOLE
    uint64_t searched            # words of trees and groups that allocations have looked at
    uint64_t level[MAX_LEVELS]   # where each level of a tree begins, the lowest first
    int levels
    int max_order
    int group_order
    word_t merged[NR_ORDERS]     # what a page's free that ends at each order adds to its group's counts
    word_t below[NR_ORDERS]      # one block of each order below this one


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


cdef inline buddy_pool *area_of_page(buddy *b, pfn_t pfn) noexcept nogil:
    return &b.areas[b.area_of[pfn >> b.borders.shift]]


@cython.overflowcheck(False)     # no field overflows; the sums wrap on purpose
cdef inline word_t present(word_t counts) noexcept nogil:
    """The highest bit of each field that is not zero. A field of w bits counts to 2^(w-1) at most: none overflows."""
    return (counts + COUNT_LOWS) & COUNT_TOPS


@cython.overflowcheck(False)
cdef inline void count_blocks(buddy *b, uint64_t group, word_t change, word_t none) noexcept nogil:
    """Change a group's counts; the trees follow at the latest when another group's change. none: what counts of zero meant
    before the change, 0 (nothing free) or WHOLE."""
    cdef word_t before = b.counts[group], after = before + change
    b.counts[group] = after
    if group != b.pending and present(before) != present(after):
        buddy_defer(b, group, before if before else none)


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


cdef inline bordered pages_of(buddy *b) noexcept nogil:
    return bordered(&b.borders, b.area_of, b.free, b.full)


cdef inline buddy_pool *buddy_free_page(buddy *b, pfn_t pfn) noexcept nogil:
    """Free one page that is not free (__free_one_page, order 0); returns its area."""
    cdef uint64_t w = pfn >> 6
    cdef unsigned int bit = pfn & 63
    cdef buddy_pool *a = area_of_page(b, pfn)
    cdef word_t x = b.free[w] | (<word_t>1) << bit
    cdef bordered pages
    cdef int m
    if b.borders.nr and has_border(&b.borders, pfn):
        pages = pages_of(b)
        a.ended[free_in_part(&pages, pfn, 0)] += 1
        return a
    b.free[w] = x
    if x != ALL_ONES:
        m = order_in_word(x, bit)
    else:
        m = fill_word(b, w)
    a.ended[m] += 1
    count_blocks(b, pfn >> b.group_order, b.merged[m], 0)
    return a


@cython.overflowcheck(False)     # a group's counts wrap on purpose
cdef inline buddy_pool *buddy_free_quickly(buddy *b, pfn_t pfn) noexcept nogil:
    """buddy_free_page in few instructions and without a call, for most pages: those that do not fill a word and leave the trees
    as they are. So other pages of the group are free, or were just now. NULL: nothing was done."""
    cdef uint64_t w = pfn >> 6, group = pfn >> b.group_order
    cdef word_t x = b.free[w] | (<word_t>1) << (pfn & 63), before, after
    cdef buddy_pool *a
    cdef int m
    if b.borders.nr or x == ALL_ONES:
        return NULL
    m = order_in_word(x, pfn & 63)
    before = b.counts[group]
    after = before + b.merged[m]
    if group != b.pending and present(before) != present(after):
        return NULL
    b.free[w] = x
    b.counts[group] = after
    a = area_of_page(b, pfn)
    a.ended[m] += 1
    return a


cdef int buddy_order(buddy *b, pfn_t pfn) noexcept nogil               # order of the free block that holds the free page pfn
# bring the counts up to date with the three of single pages
cdef void buddy_pool_fold(buddy_pool *a) noexcept nogil
cdef uint64_t buddy_pages_free(const buddy_pool *a) noexcept nogil     # free pages, without that
cdef uint64_t buddy_layout(buddy *b, uint64_t nr_pages, int max_order) noexcept nogil    # words of one area's trees
cdef void buddy_defer(buddy *b, uint64_t group, word_t hung) noexcept nogil    # this group is pending now
cdef void buddy_hang_pending(buddy *b) noexcept nogil                        # none is
# Counts and trees of a range of whole blocks from `free` and `full`, where both are still zero.
cdef void buddy_summarize(buddy *b, pfn_t start, uint64_t nr) noexcept nogil
# The first group of a range of whole blocks that counts or trees are wrong for, or NO_GROUP.
cdef uint64_t buddy_wrong_group(buddy *b, pfn_t start, uint64_t nr) noexcept nogil
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
# Take one free page out of the allocator, as buddy_take_range.
cdef void buddy_take_page(buddy *b, pfn_t pfn) noexcept nogil
# Take a range of one area, all of it free, out of the allocator; blocks that reach over its ends are split.
cdef void buddy_take_range(buddy *b, pfn_t start, uint64_t nr) noexcept nogil
