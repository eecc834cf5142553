from fastonline.core.bitmap cimport bitmap_clear, bitmap_full, bitmap_set, find_next_bit, set_bit
from fastonline.core.types cimport ALL_ONES

__all__ = []


cdef int order_in_part(const bordered *b, pfn_t pfn) noexcept nogil:
    cdef pfn_t start = part_start(b.borders, pfn), end = part_end(b.borders, pfn), mask = (<pfn_t>1 << b.borders.max_order) - 1
    cdef pfn_t first
    cdef int order = 0
    # two parts of one area are one
    while start & mask and area_at(b, start - 1) == area_at(b, pfn):
        start = part_start(b.borders, start - 1)
    while end & mask and area_at(b, end) == area_at(b, pfn):
        end = part_end(b.borders, end)
    while order < b.borders.max_order:
        first = pfn >> (order + 1) << (order + 1)
        if first < start or first + (<pfn_t>2 << order) > end or not bitmap_full(b.free, first, <uint64_t>2 << order):
            break
        order += 1
    return order


cdef int free_in_part(const bordered *b, pfn_t pfn, int order) noexcept nogil:
    cdef uint64_t w
    bitmap_set(b.free, pfn, <uint64_t>1 << order)
    for w in range(pfn >> 6, ((pfn + (<pfn_t>1 << order) - 1) >> 6) + 1):
        if b.free[w] == ALL_ONES:
            set_bit(b.full, w)
    return order_in_part(b, pfn)


cdef void take_node(int64_t *nr_free, uint64_t *splits, pfn_t first, int order, pfn_t start, pfn_t end) noexcept nogil:
    """A free block leaves the lists, and what of it lies outside of [start, end) comes back in the largest blocks."""
    cdef pfn_t middle
    nr_free[order] -= 1
    if start <= first and first + (<pfn_t>1 << order) <= end:
        return
    splits[order] += 1
    nr_free[order - 1] += 2
    middle = first + (<pfn_t>1 << (order - 1))
    if start < middle:
        take_node(nr_free, splits, first, order - 1, start, end)
    if end > middle:
        take_node(nr_free, splits, middle, order - 1, start, end)


cdef void take_in_block(const bordered *b, int64_t *nr_free, uint64_t *splits, pfn_t start, pfn_t end) noexcept nogil:
    cdef pfn_t pfn = start
    cdef int order
    while pfn < end:
        order = order_in_part(b, pfn)
        take_node(nr_free, splits, pfn >> order << order, order, start, end)
        pfn = ((pfn >> order) + 1) << order
    bitmap_clear(b.free, start, end - start)
    bitmap_clear(b.full, start >> 6, ((end - 1) >> 6) - (start >> 6) + 1)


cdef int64_t find_in_blocks(const bordered *b, area_t area, pfn_t nr_pages, int order, int *found) noexcept nogil:
    cdef int64_t best = -1
    cdef pfn_t pfn, end, next
    cdef int i, k
    for i in range(b.borders.nr):
        pfn = b.borders.at[i] >> b.borders.max_order << b.borders.max_order
        end = pfn + (<pfn_t>1 << b.borders.max_order)
        if pfn >= nr_pages or i and b.borders.at[i - 1] >= pfn:
            continue      # past the memory there is room for, or the block of the border before
        while pfn < end:
            next = part_end(b.borders, pfn)
            if area_at(b, pfn) == area:
                next = find_next_bit(b.free, next, pfn)
            if next != pfn:
                pfn = next
                continue
            k = order_in_part(b, pfn)
            if k >= order and (best < 0 or k < found[0]):
                best, found[0] = <int64_t>pfn, k
            pfn += <pfn_t>1 << k
    return best
