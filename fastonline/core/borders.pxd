"""Zone borders inside a block of the largest order.

The kernel lets a zone begin at any page: x86-32's HighMem begins where the direct map ends, and page_is_buddy refuses a buddy
of another zone (page_zone_id, mm/page_alloc.c). Such a block has several parts, which never merge with each other when they are
in different areas. The borders of a machine are fixed; most machines have none.
"""

from fastonline.core.types cimport area_t, int64_t, pfn_t, uint64_t, word_t

cdef enum:
    MAX_BORDERS = 4              # the zones of a geometry, below Movable

cdef struct zone_borders:
    int nr
    int max_order
    int shift                    # log2 of the pages of an entry of area_of: max_order where there is no border
    pfn_t at[MAX_BORDERS]        # the first pages behind the borders, ascending


cdef inline bint has_border(const zone_borders *b, pfn_t pfn) noexcept nogil:
    """Does the block that holds pfn have a border inside?"""
    cdef int i
    for i in range(b.nr):
        if (b.at[i] ^ pfn) >> b.max_order == 0:
            return True
    return False


cdef inline pfn_t part_start(const zone_borders *b, pfn_t pfn) noexcept nogil:
    """The first page of the part of a block that holds pfn; where there is no border, the block's."""
    cdef pfn_t start = pfn >> b.max_order << b.max_order
    cdef int i
    for i in range(b.nr):
        if start < b.at[i] <= pfn:
            start = b.at[i]
    return start


cdef inline pfn_t part_end(const zone_borders *b, pfn_t pfn) noexcept nogil:
    """The end of the part of a block that holds pfn."""
    cdef pfn_t end = ((pfn >> b.max_order) + 1) << b.max_order
    cdef int i
    for i in range(b.nr):
        if pfn < b.at[i] < end:
            end = b.at[i]
    return end


cdef inline pfn_t next_bordered(const zone_borders *b, pfn_t pfn, pfn_t end) noexcept nogil:
    """The first page at or after pfn, which begins a block, of a block with a border; `end` if there is none before it."""
    cdef pfn_t start
    cdef int i
    for i in range(b.nr):
        start = b.at[i] >> b.max_order << b.max_order
        if pfn <= start < end:
            return start
    return end


# The free pages of blocks with a border inside: small enough that looking at each page is quick.

cdef struct bordered:
    const zone_borders *borders
    const area_t *area_of
    word_t *free                 # one bit per page
    word_t *full                 # one bit per word of `free`


cdef inline area_t area_at(const bordered *b, pfn_t pfn) noexcept nogil:
    return b.area_of[pfn >> b.borders.shift]


cdef int order_in_part(const bordered *b, pfn_t pfn) noexcept nogil            # of the free block that holds pfn
cdef int free_in_part(const bordered *b, pfn_t pfn, int order) noexcept nogil  # free a block; the order that it merges up to
# Take free pages of one area, inside of one block, out; blocks that reach over the ends are split.
cdef void take_in_block(const bordered *b, int64_t *nr_free, uint64_t *splits, pfn_t start, pfn_t end) noexcept nogil
# The lowest of the smallest free blocks of at least `order` that an area has there, and `found`, its order; -1: there is none.
cdef int64_t find_in_blocks(const bordered *b, area_t area, pfn_t nr_pages, int order, int *found) noexcept nogil
