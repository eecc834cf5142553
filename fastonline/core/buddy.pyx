from libc.string cimport memset

from fastonline.core.types cimport ALL_ONES
from fastonline.core.bitmap cimport (
    bitmap_clear, bitmap_set, hweight64, ones_below, test_bit,
)

__all__ = []

cdef extern from *:
    """
    static FASTONLINE_CLONES void fo_count_runs(const uint64_t *, uint64_t, uint64_t, int, int64_t *);
    static FASTONLINE_CLONES uint64_t fo_or_batch(uint64_t *, uint64_t *, const uint64_t *, uint64_t, uint64_t);
    /* ones at the multiples of 2^k */
    static const uint64_t fo_aligned[7] = {
        0xFFFFFFFFFFFFFFFF, 0x5555555555555555, 0x1111111111111111, 0x0101010101010101,
        0x0001000100010001, 0x0000000100000001, 0x0000000000000001,
    };
    """
    const word_t ALIGNED "fo_aligned"[7]


cdef inline word_t runs(word_t x, int order) noexcept nogil:
    """Ones at the start of each aligned run of 2^order ones, order <= 6."""
    cdef int k
    for k in range(order):
        x &= x >> (<word_t>1 << k)
    return x & ALIGNED[order]


cdef inline word_t blocks_of(word_t x, int order, int max_order) noexcept nogil:
    """Ones at the start of each free block of exactly `order` in one word of (at most) max_order <= 6."""
    cdef word_t r = runs(x, order), up
    if order == max_order:
        return r
    up = r & (r >> (<word_t>1 << order)) & ALIGNED[order + 1]
    return r & ~(up | up << (<word_t>1 << order))


cdef int buddy_order(buddy *b, pfn_t pfn) noexcept nogil:
    cdef word_t x = b.free[pfn >> 6]
    if x != ALL_ONES:
        return order_in_word(x, pfn & 63)
    return fill_word(b, pfn >> 6)      # which it is


cdef void free_area_init(free_area *a, uint64_t number) noexcept nogil:
    memset(a, 0, sizeof(free_area))
    a.number = number
    memset(a.hint, 0xFF, sizeof(a.hint))


cdef void free_area_fold(free_area *a) noexcept nogil:
    cdef uint64_t passed = 0    # frees that merged beyond order k
    cdef int k = NR_ORDERS - 1
    while k >= 0:
        a.nr_free[k] += <int64_t>a.ended[k] - <int64_t>passed
        a.merges[k] += passed
        passed += a.ended[k]
        a.ended[k] = 0
        k -= 1
    a.frees[0] += passed


cdef void buddy_free_block(buddy *b, pfn_t pfn, int order) noexcept nogil:
    cdef free_area *a = area_of_page(b, pfn)
    cdef uint64_t w = pfn >> 6, nr_words
    cdef int k, m
    if order < 6:
        b.free[w] |= ones_below(1 << order) << (pfn & 63)
        m = fill_word(b, w) if b.free[w] == ALL_ONES else order_in_word(b.free[w], pfn & 63)
    else:
        nr_words = <uint64_t>1 << (order - 6)
        memset(&b.free[w], 0xFF, nr_words * 8)
        bitmap_set(b.full, w, nr_words)
        m = fill_word(b, w)
    for k in range(order, m):
        a.nr_free[k] -= 1
        a.merges[k] += 1
    a.nr_free[m] += 1
    a.frees[order] += 1
    lower_hint(a, m, pfn >> b.max_order)


cdef inline void count_as_singles(free_area *a, int order, int handed, uint64_t nr_blocks) noexcept nogil:
    """`nr_blocks` blocks of `order` were freed at a stroke; count them as 2^(order - handed) blocks of `handed` each, which
    merge among themselves first."""
    cdef int k
    a.frees[order] -= nr_blocks
    a.frees[handed] += nr_blocks << (order - handed)
    for k in range(handed, order):
        a.merges[k] += nr_blocks << (order - k - 1)


cdef void buddy_free_range(buddy *b, pfn_t start, uint64_t nr, int order) noexcept nogil:
    cdef free_area *a = area_of_page(b, start)
    cdef pfn_t pfn = start, end = start + nr
    cdef uint64_t nr_blocks, words
    cdef int chunk, max_order = b.max_order
    while pfn < end:
        chunk = max_order if pfn == 0 else min(ctz(pfn), max_order)
        if chunk == max_order and end - pfn >= <uint64_t>1 << max_order:
            # whole blocks of the largest order: nothing outside them merges with them
            nr_blocks = (end - pfn) >> max_order
            words = nr_blocks << (max_order - 6)
            memset(&b.free[pfn >> 6], 0xFF, words * 8)
            bitmap_set(b.full, pfn >> 6, words)
            a.nr_free[max_order] += <int64_t>nr_blocks
            a.frees[max_order] += nr_blocks
            lower_hint(a, max_order, pfn >> max_order)
            count_as_singles(a, max_order, min(order, max_order), nr_blocks)
            pfn += nr_blocks << max_order
            continue
        while end - pfn < <uint64_t>1 << chunk:
            chunk -= 1
        buddy_free_block(b, pfn, chunk)
        if chunk > order:
            count_as_singles(a, chunk, order, 1)
        pfn += <uint64_t>1 << chunk


cdef void count_runs "fo_count_runs"(const word_t *words, uint64_t first, uint64_t end, int max_order,
                                     int64_t *F) noexcept nogil:
    cdef uint64_t w, f0 = 0, f1 = 0, f2 = 0, f3 = 0, f4 = 0, f5 = 0, full_words = 0
    cdef word_t x, y = 0, before = 0
    cdef int k
    memset(F, 0, NR_ORDERS * sizeof(int64_t))
    for w in range(first, end):
        x = words[w]
        if x == ALL_ONES:
            full_words += 1
            y |= (<word_t>1) << (w & 63)
        elif x:
            f0 += hweight64(x)
            x &= (x >> 1) & ALIGNED[1]
            f1 += hweight64(x)
            x &= (x >> 2) & ALIGNED[2]
            f2 += hweight64(x)
            x &= (x >> 4) & ALIGNED[3]
            f3 += hweight64(x)
            x &= (x >> 8) & ALIGNED[4]
            f4 += hweight64(x)
            x &= (x >> 16) & ALIGNED[5]
            f5 += hweight64(x)
        if w & 63 == 63 or w + 1 == end:
            # 64 words done: the orders above 6 are runs of full words
            if max_order == 13 and (w >> 6) & 1 and (y & before) == ALL_ONES:
                F[13] += 1
            before = y
            for k in range(6, min(max_order, 12) + 1):
                F[k] += hweight64(y)
                if k < 12:
                    y &= y >> (<word_t>1 << (k - 6))
                    y &= ALIGNED[k - 5]
            y = 0
    F[0] += f0 + (full_words << 6)
    F[1] += f1 + (full_words << 5)
    F[2] += f2 + (full_words << 4)
    F[3] += f3 + (full_words << 3)
    F[4] += f4 + (full_words << 2)
    F[5] += f5 + (full_words << 1)


cdef uint64_t or_batch "fo_or_batch"(word_t *free, word_t *full, const word_t *batch, uint64_t first,
                                     uint64_t end) noexcept nogil:
    cdef uint64_t w
    cdef word_t x
    for w in range(first, end):
        x = free[w] | batch[w]
        free[w] = x
        full[w >> 6] |= <word_t>(x == ALL_ONES) << (w & 63)
    return 0


cdef uint64_t buddy_free_words(buddy *b, const word_t *batch, uint64_t first, uint64_t end, int order) noexcept nogil:
    cdef free_area *a = area_of_page(b, first << 6)
    cdef int64_t before[NR_ORDERS]
    cdef int64_t after[NR_ORDERS]
    cdef int64_t handed[NR_ORDERS]
    cdef int64_t grown[NR_ORDERS + 1]
    cdef uint64_t block = first >> (b.max_order - 6)
    cdef int k
    order = min(order, b.max_order)
    count_runs(b.free, first, end, b.max_order, before)
    or_batch(b.free, b.full, batch, first, end)
    count_runs(b.free, first, end, b.max_order, after)
    if order > 0:
        count_runs(batch, first, end, b.max_order, handed)
    grown[b.max_order + 1] = 0
    for k in range(b.max_order + 1):
        grown[k] = after[k] - before[k]
    for k in range(b.max_order + 1):
        a.nr_free[k] += grown[k] - 2 * grown[k + 1]
        a.merges[k] += grown[k + 1]
        lower_hint(a, k, block)
    if order == 0:
        a.frees[0] += grown[0]
        return grown[0]
    # blocks inside the handed-over ones were never merged
    for k in range(order):
        a.merges[k] -= handed[k + 1]
        a.frees[k] += handed[k] - 2 * handed[k + 1]
    a.frees[order] += handed[order]
    return grown[0]


cdef int64_t find_block(buddy *b, area_t area, int order) noexcept nogil:
    """Lowest free block of exactly `order` in the area, which has one; the hint is moved up to it."""
    cdef free_area *a = &b.areas[area]
    cdef uint64_t block = a.hint[order], words = <uint64_t>1 << (b.max_order - 6), w, f
    cdef word_t x, found, group
    cdef int top = b.max_order - 6
    while block < b.nr_blocks:
        if b.area_of[block] == area:
            if order < 6:
                for w in range(block * words, (block + 1) * words):
                    x = b.free[w]
                    if x and x != ALL_ONES:
                        found = blocks_of(x, order, 6)
                        if found:
                            a.hint[order] = block
                            return (w << 6) + ctz(found)
            elif top <= 6:
                w = block * words
                group = (b.full[w >> 6] >> (w & 63)) & ones_below(words)
                found = blocks_of(group, order - 6, top)
                if found:
                    a.hint[order] = block
                    return (w + ctz(found)) << 6
            else:
                f = block * 2    # max_order 13: a block is two words of `full`
                if b.full[f] == ALL_ONES and b.full[f + 1] == ALL_ONES:
                    if order == 13:
                        a.hint[order] = block
                        return block << 13
                else:
                    for w in range(f, f + 2):
                        found = blocks_of(b.full[w], order - 6, 6) if order < 13 else 0
                        if found:
                            a.hint[order] = block
                            return ((w << 6) + ctz(found)) << 6
        block += 1
    return -1


cdef inline void clear_free(buddy *b, pfn_t start, uint64_t nr) noexcept nogil:
    bitmap_clear(b.free, start, nr)
    bitmap_clear(b.full, start >> 6, ((start + nr - 1) >> 6) - (start >> 6) + 1)


cdef int64_t buddy_alloc_block(buddy *b, area_t area, int order) noexcept nogil:
    cdef free_area *a = &b.areas[area]
    cdef int64_t pfn
    cdef int k = order, j
    free_area_fold(a)
    while a.nr_free[k] == 0:
        k += 1
        if k > b.max_order:
            return -1
    pfn = find_block(b, area, k)
    clear_free(b, pfn, <uint64_t>1 << order)
    a.nr_free[k] -= 1
    for j in range(order, k):
        a.splits[j + 1] += 1
        a.nr_free[j] += 1
        lower_hint(a, j, pfn >> b.max_order)
    a.allocs[order] += 1
    return pfn


cdef uint64_t buddy_alloc_pages(buddy *b, area_t area, uint64_t nr, int64_t *out) noexcept nogil:
    cdef free_area *a = &b.areas[area]
    cdef uint64_t got = 0, take, i
    cdef int64_t pfn
    cdef int k, j
    free_area_fold(a)
    for k in range(b.max_order + 1):
        while a.nr_free[k] and got < nr:
            pfn = find_block(b, area, k)
            take = min(<uint64_t>1 << k, nr - got)
            clear_free(b, pfn, take)
            for i in range(take):
                out[got + i] = pfn + <int64_t>i
            got += take
            a.nr_free[k] -= 1
            for j in range(1, k + 1):
                # every node with a page handed out was split; what is left of the block is its canonical tail
                a.splits[j] += (take + (<uint64_t>1 << j) - 1) >> j
            for j in range(k):
                if (((<uint64_t>1 << k) - take) >> j) & 1:
                    a.nr_free[j] += 1
                    lower_hint(a, j, pfn >> b.max_order)
    a.allocs[0] += got
    return got


cdef void split_at(buddy *b, pfn_t pfn, pfn_t done) noexcept nogil:
    """Split the free block that reaches over `pfn`, if there is one, until a block begins there; the nodes that reach over
    `done` have been split before."""
    cdef free_area *a = area_of_page(b, pfn)
    cdef int k
    if pfn & ((<uint64_t>1 << b.max_order) - 1) == 0 or not test_bit(b.free, pfn):
        return
    k = buddy_order(b, pfn)
    while pfn >> k == done >> k and done & ((<uint64_t>1 << k) - 1):
        k -= 1
    while pfn & ((<uint64_t>1 << k) - 1):
        a.splits[k] += 1
        a.nr_free[k] -= 1
        a.nr_free[k - 1] += 2
        k -= 1
        lower_hint(a, k, pfn >> b.max_order)


cdef void buddy_take_range(buddy *b, pfn_t start, uint64_t nr) noexcept nogil:
    cdef free_area *a = area_of_page(b, start)
    cdef pfn_t end = start + nr
    cdef uint64_t here, above = 0
    cdef int k = b.max_order
    split_at(b, start, 0)
    if end & ((<uint64_t>1 << b.max_order) - 1):    # else the next block may be another area's
        split_at(b, end, start)
    while k >= 0:
        here = (end >> k)
        here -= min(here, (start + (<uint64_t>1 << k) - 1) >> k)     # aligned blocks of order k inside the range
        a.nr_free[k] -= <int64_t>here - 2 * <int64_t>above
        above = here
        k -= 1
    clear_free(b, start, nr)
