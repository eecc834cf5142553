cimport cython
from libc.string cimport memset

from fastonline.core.aligned cimport ALIGNED, FIELD, blocks_of, count_groups, count_runs, field_of
from fastonline.core.bitmap cimport (
    bitmap_clear, bitmap_set, clear_bit, ones_below, range_mask, test_bit,
)
from fastonline.core.borders cimport find_in_blocks, next_bordered, order_in_part, take_in_block
from fastonline.core.types cimport ALL_ONES, uint8_t

__all__ = []

cdef extern from *:
    """
    static FASTONLINE_CLONES void fo_or_batch(uint64_t *, uint64_t *, const uint64_t *, uint64_t, uint64_t);
    static FASTONLINE_CLONES uint64_t fo_groups_with(const uint64_t *, uint64_t, uint64_t);
    /* the order whose bit fo_top names */
    static const uint8_t fo_order_at[59] = {
        [9] = 0, [18] = 1, [26] = 2, [33] = 3, [39] = 4, [44] = 5, [48] = 6, [51] = 7, [53] = 8, [54] = 9,
        [55] = 10, [56] = 11, [57] = 12, [58] = 13,
    };
    """
    const uint8_t ORDER_AT "fo_order_at"[59]

cdef enum:
    GROUPS = 64          # in a word of a tree
    FEW_PAGES = 4        # are allocated as single ones


cdef int buddy_order(buddy *b, pfn_t pfn) noexcept nogil:
    cdef word_t x = b.free[pfn >> 6]
    cdef bordered pages
    if has_border(&b.borders, pfn):
        pages = pages_of(b)
        return order_in_part(&pages, pfn)
    if x != ALL_ONES:
        return order_in_word(x, pfn & 63)
    return fill_word(b, pfn >> 6)      # which it is


cdef void buddy_pool_fold(buddy_pool *a) noexcept nogil:
    cdef uint64_t passed = 0    # frees that merged beyond order k
    cdef uint64_t split = 0     # blocks of order k + 1 that allocations split
    cdef int k = NR_ORDERS - 1
    while k >= 0:
        a.nr_free[k] += <int64_t>a.ended[k] - <int64_t>passed + <int64_t>split - <int64_t>a.began[k]
        a.merges[k] += passed
        passed += a.ended[k]
        split = split + a.began[k] - a.handed[k]
        a.splits[k] += split
        a.allocs[k] += a.handed[k]
        a.ended[k] = 0
        a.began[k] = 0
        a.handed[k] = 0
        k -= 1
    a.frees[0] += passed


@cython.overflowcheck(False)     # differences wrap
cdef uint64_t buddy_pages_free(const buddy_pool *a) noexcept nogil:
    cdef uint64_t pages = 0
    cdef int k
    for k in range(NR_ORDERS):
        pages += a.ended[k] + ((<uint64_t>a.nr_free[k] - a.handed[k]) << k)
    return pages


# -- the summary

@cython.overflowcheck(False)     # the sums wrap on purpose, here and where they are added
cdef uint64_t buddy_layout(buddy *b, uint64_t nr_pages, int max_order) noexcept nogil:
    cdef uint64_t nodes[MAX_LEVELS]
    cdef uint64_t nr, words = 0
    cdef int k
    b.max_order = max_order
    b.group_order = min(max_order, 10)
    b.nr_groups = nr_pages >> b.group_order
    b.pending = NO_GROUP
    b.below[0] = 0
    for k in range(NR_ORDERS):
        b.merged[k] = (<word_t>1 << FIELD[k] if k < b.group_order else 0) - b.below[k]
        if k + 1 < NR_ORDERS:
            b.below[k + 1] = b.below[k] + (<word_t>1 << FIELD[k] if k < b.group_order else 0)
    b.levels = 0
    nr = b.nr_groups
    while True:
        nr = (nr + 63) >> 6
        nodes[b.levels] = nr
        b.levels += 1
        if nr <= 1:
            break
    for k in range(b.levels - 1, -1, -1):
        b.level[k] = words
        words += max(nodes[k], <uint64_t>1) * NR_ORDERS
    return words


cdef void climb(buddy *b, word_t *tree, uint64_t at, int order, bint there) noexcept nogil:
    """Word `at` of a tree's lowest level is no longer zero, or zero now: set or clear its bits above."""
    cdef word_t *word
    cdef word_t bit, before
    cdef int level
    for level in range(1, b.levels):
        word = &tree[b.level[level] + (at >> 6) * NR_ORDERS + order]
        bit = <word_t>1 << (at & 63)
        before = word[0]
        word[0] = before | bit if there else before & ~bit
        if (before == 0) == (word[0] == 0):
            return
        at >>= 6
    tree[ROOTS] ^= <word_t>1 << TOP[order]


cdef inline void hang(buddy *b, word_t *tree, uint64_t group, int order, bint there) noexcept nogil:
    """Set or clear a group's bit of a tree."""
    cdef word_t *word = &tree[b.level[0] + (group >> 6) * NR_ORDERS + order]
    cdef word_t bit = <word_t>1 << (group & 63), before = word[0], after = before | bit if there else before & ~bit
    if after != before:
        word[0] = after
        if before == 0 or after == 0:
            climb(b, tree, group >> 6, order, there)


cdef inline bint group_is_full(buddy *b, uint64_t group) noexcept nogil:
    cdef uint64_t w = group << (b.group_order - 6)
    cdef word_t whole = ones_below(<uint64_t>1 << (b.group_order - 6))
    return (b.full[w >> 6] >> (w & 63)) & whole == whole


cdef inline word_t *tree_of_group(buddy *b, uint64_t group) noexcept nogil:
    return area_of_page(b, group << b.group_order).tree


cdef void hang_full(buddy *b, uint64_t group) noexcept nogil:
    """The orders from the group's own on, for the block of the largest order that the group is in."""
    cdef int top = b.max_order - b.group_order, k
    cdef word_t *tree = tree_of_group(b, group)
    cdef uint64_t first = group >> top << top, i
    cdef word_t full = 0, blocks
    for i in range(<uint64_t>1 << top):
        full |= <word_t>group_is_full(b, first + i) << i
    for k in range(top + 1):
        blocks = blocks_of(full, k, top)
        for i in range(<uint64_t>1 << top):
            hang(b, tree, first + i, b.group_order + k, (blocks >> i) & 1)


cdef void rehang(buddy *b, uint64_t group, word_t hung) noexcept nogil:
    """The trees agree with the counts `hung` of a group: make them agree with those of now."""
    cdef word_t now = b.counts[group], there = present(now), changed = present(hung) ^ there
    cdef word_t *tree = tree_of_group(b, group)
    cdef int bit
    while changed:
        bit = ctz(changed)
        changed &= changed - 1
        hang(b, tree, group, ORDER_AT[bit], (there >> bit) & 1)
    if hung == 0 or now == 0:
        # it was empty or full, or is so now
        if b.max_order > b.group_order:
            hang_full(b, group)
        else:
            hang(b, tree, group, b.max_order, group_is_full(b, group))


cdef void hang_range(buddy *b, word_t *tree, uint64_t first, uint64_t end, bint there) noexcept nogil:
    """Blocks of the largest order, groups [first, end), are all free, or all taken."""
    cdef word_t aligned = ALIGNED[b.max_order - b.group_order], before, mask
    cdef word_t *word
    cdef uint64_t w
    for w in range(first >> 6, ((end - 1) >> 6) + 1):
        word = &tree[b.level[0] + w * NR_ORDERS + b.max_order]
        before = word[0]
        mask = range_mask(w, first, end) & aligned
        word[0] = before | mask if there else before & ~mask
        if (before == 0) != (word[0] == 0):
            climb(b, tree, w, b.max_order, there)


cdef void buddy_hang_pending(buddy *b) noexcept nogil:
    cdef uint64_t group = b.pending
    cdef word_t now
    if group == NO_GROUP:
        return
    now = b.counts[group]
    if now == 0 and group_is_full(b, group):
        now = WHOLE
    b.pending = NO_GROUP
    if now != b.hung:
        rehang(b, group, b.hung & ~WHOLE)


cdef void buddy_defer(buddy *b, uint64_t group, word_t hung) noexcept nogil:
    buddy_hang_pending(b)
    b.pending = group
    b.hung = hung


cdef void recount_group(buddy *b, uint64_t group) noexcept nogil:
    cdef word_t before = b.counts[group]
    count_groups(b.free, group, group + 1, b.group_order, &b.counts[group])
    rehang(b, group, before)


cdef void recount_groups(buddy *b, pfn_t start, pfn_t end) noexcept nogil:
    cdef uint64_t group
    for group in range(start >> b.group_order, (end + (<pfn_t>1 << b.group_order) - 1) >> b.group_order):
        if not has_border(&b.borders, group << b.group_order):
            recount_group(b, group)


cdef void buddy_summarize(buddy *b, pfn_t start, uint64_t nr) noexcept nogil:
    recount_groups(b, start, start + nr)


cdef uint64_t buddy_wrong_group(buddy *b, pfn_t start, uint64_t nr) noexcept nogil:
    cdef word_t counts, there, full, blocks
    cdef word_t *tree
    cdef uint64_t group, first, i, low, high, above
    cdef int top = b.max_order - b.group_order, k, level, area
    buddy_hang_pending(b)
    for group in range(start >> b.group_order, (start + nr) >> b.group_order):
        if has_border(&b.borders, group << b.group_order):
            if b.counts[group]:
                return group
            continue
        first = group >> top << top
        count_groups(b.free, group, group + 1, b.group_order, &counts)
        there = present(counts)
        full = 0
        for i in range(<uint64_t>1 << top):
            full |= <word_t>group_is_full(b, first + i) << i
        tree = tree_of_group(b, group) + b.level[0] + (group >> 6) * NR_ORDERS
        blocks = 0
        for k in range(b.group_order):
            blocks |= ((tree[k] >> (group & 63)) & 1) << TOP[k]
        if counts != b.counts[group] or blocks != there:
            return group
        for k in range(top + 1):
            if (tree[b.group_order + k] >> (group & 63)) & 1 != (blocks_of(full, k, top) >> (group - first)) & 1:
                return group
    for area in range(b.nr_areas):
        tree = b.areas[area].tree
        low = start >> b.group_order >> 6
        high = ((start + nr - 1) >> b.group_order >> 6) + 1
        for level in range(b.levels - 1):
            for i in range(low * NR_ORDERS, high * NR_ORDERS):
                above = b.level[level + 1] + (i / NR_ORDERS >> 6) * NR_ORDERS + i % NR_ORDERS
                if i % NR_ORDERS != ROOTS and (tree[above] >> (i / NR_ORDERS & 63)) & 1 != (tree[b.level[level] + i] != 0):
                    return start >> b.group_order
            low >>= 6
            high = ((high - 1) >> 6) + 1
        for k in range(b.max_order + 1):
            if (tree[ROOTS] >> TOP[k]) & 1 != (tree[k] != 0):
                return start >> b.group_order
    return NO_GROUP


# -- frees

@cython.overflowcheck(False)
cdef void buddy_free_block(buddy *b, pfn_t pfn, int order) noexcept nogil:
    cdef buddy_pool *a = area_of_page(b, pfn)
    cdef uint64_t w = pfn >> 6, nr_words, group = pfn >> b.group_order
    cdef int k, m
    cdef bint in_parts = has_border(&b.borders, pfn)
    cdef bordered pages
    if in_parts:
        pages = pages_of(b)
        m = free_in_part(&pages, pfn, order)
    elif order < 6:
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
    if in_parts:
        return
    if order < b.group_order:
        count_blocks(b, group, b.merged[m] + b.below[order], 0)
    else:
        buddy_hang_pending(b)     # it may be in the same block
        hang_full(b, group)


cdef inline void count_as_singles(buddy_pool *a, int order, int handed, uint64_t nr_blocks) noexcept nogil:
    """`nr_blocks` blocks of `order` were freed at a stroke; count them as 2^(order - handed) blocks of `handed` each, which
    merge among themselves first."""
    cdef int k
    a.frees[order] -= nr_blocks
    a.frees[handed] += nr_blocks << (order - handed)
    for k in range(handed, order):
        a.merges[k] += nr_blocks << (order - k - 1)


cdef void buddy_free_range(buddy *b, pfn_t start, uint64_t nr, int order) noexcept nogil:
    cdef buddy_pool *a = area_of_page(b, start)
    cdef pfn_t pfn = start, end = start + nr
    cdef uint64_t nr_blocks, words
    cdef int chunk, max_order = b.max_order
    while pfn < end:
        chunk = max_order if pfn == 0 else min(ctz(pfn), max_order)
        if chunk == max_order and end - pfn >= <uint64_t>1 << max_order and not has_border(&b.borders, pfn):
            # whole blocks of the largest order: nothing outside them merges with them
            nr_blocks = (next_bordered(&b.borders, pfn, end) - pfn) >> max_order
            words = nr_blocks << (max_order - 6)
            memset(&b.free[pfn >> 6], 0xFF, words * 8)
            bitmap_set(b.full, pfn >> 6, words)
            a.nr_free[max_order] += <int64_t>nr_blocks
            a.frees[max_order] += nr_blocks
            hang_range(b, a.tree, pfn >> b.group_order, (pfn >> b.group_order) + (nr_blocks << (max_order - b.group_order)),
                True)
            count_as_singles(a, max_order, min(order, max_order), nr_blocks)
            pfn += nr_blocks << max_order
            continue
        while end - pfn < <uint64_t>1 << chunk:
            chunk -= 1
        buddy_free_block(b, pfn, chunk)
        if chunk > order:
            count_as_singles(a, chunk, order, 1)
        pfn += <uint64_t>1 << chunk


cdef void or_batch "fo_or_batch"(word_t *free, word_t *full, const word_t *batch, uint64_t first,
                                 uint64_t end) noexcept nogil:
    cdef uint64_t start = first, stop, w
    cdef word_t x, filled
    while start < end:
        stop = min(end, (start | 63) + 1)
        filled = 0
        for w in range(start, stop):
            x = free[w] | batch[w]
            free[w] = x
            filled |= <word_t>(x == ALL_ONES) << (w & 63)
        full[start >> 6] |= filled
        start = stop


cdef uint64_t groups_with "fo_groups_with"(const word_t *counts, uint64_t nr, word_t field) noexcept nogil:
    """Ones for the groups, 64 at most, that have a block counted in this field."""
    cdef word_t found = 0
    cdef uint64_t i
    for i in range(nr):
        found |= <word_t>(counts[i] & field != 0) << i
    return found


@cython.overflowcheck(False)
cdef void hang_groups(buddy *b, word_t *tree, uint64_t first, uint64_t end) noexcept nogil:
    """Make the trees agree with the counts of groups [first, end) of one word, for the orders below the groups' own."""
    cdef word_t mask = range_mask(first >> 6, first, end), before
    cdef word_t *words = &tree[b.level[0] + (first >> 6) * NR_ORDERS]
    cdef int k
    for k in range(b.group_order):
        before = words[k]
        words[k] = before & ~mask | groups_with(&b.counts[first], end - first, field_of(k)) << (first & 63)
        if (before == 0) != (words[k] == 0):
            climb(b, tree, first >> 6, k, before == 0)


cdef uint64_t buddy_free_words(buddy *b, const word_t *batch, uint64_t first, uint64_t end, int order) noexcept nogil:
    cdef buddy_pool *a = area_of_page(b, first << 6)
    cdef int64_t before[NR_ORDERS]
    cdef int64_t after[NR_ORDERS]
    cdef int64_t handed[NR_ORDERS]
    cdef int64_t grown[NR_ORDERS + 1]
    cdef word_t counts[GROUPS]
    cdef uint64_t total = 0, group, stop, i
    cdef int shift = b.group_order - 6, top = b.max_order - b.group_order, k
    order = min(order, b.max_order)
    buddy_hang_pending(b)
    grown[b.max_order + 1] = 0
    group = first >> shift
    while group < end >> shift:
        stop = min(end >> shift, (group | (GROUPS - 1)) + 1)
        count_runs(b.free, &b.counts[group], group, stop, b.group_order, b.max_order, before)
        or_batch(b.free, b.full, batch, group << shift, stop << shift)
        count_groups(b.free, group, stop, b.group_order, &b.counts[group])
        count_runs(b.free, &b.counts[group], group, stop, b.group_order, b.max_order, after)
        hang_groups(b, a.tree, group, stop)
        if after[b.group_order] != before[b.group_order]:
            for i in range(group >> top, ((stop - 1) >> top) + 1):
                hang_full(b, i << top)
        for k in range(b.max_order + 1):
            grown[k] = after[k] - before[k]
        for k in range(b.max_order + 1):
            a.nr_free[k] += grown[k] - 2 * grown[k + 1]
            a.merges[k] += grown[k + 1]
        total += grown[0]
        if order == 0:
            a.frees[0] += grown[0]
        else:
            # blocks inside the handed-over ones were never merged
            count_groups(batch, group, stop, b.group_order, counts)
            count_runs(batch, counts, group, stop, b.group_order, b.max_order, handed)
            for k in range(order):
                a.merges[k] -= handed[k + 1]
                a.frees[k] += handed[k] - 2 * handed[k + 1]
            a.frees[order] += handed[order]
        group = stop
    return total


# -- allocations

cdef inline uint64_t find_group(buddy *b, word_t *tree, int order) noexcept nogil:
    """The lowest group with a free block of exactly `order`; there is one."""
    cdef uint64_t at = 0
    cdef int level
    for level in range(b.levels - 1, -1, -1):
        at = at << 6 | <uint64_t>ctz(tree[b.level[level] + at * NR_ORDERS + order])
    b.searched += b.levels
    return at


cdef inline word_t words_in_use(const word_t *words, int nr) noexcept nogil:
    """A bit for each word that is not zero. A branch would often be mispredicted, and a vector load would wait for the word
    stored just before."""
    cdef word_t found = 0
    cdef int i
    for i in range(nr - 1, -1, -1):
        found = found + found + (words[i] != 0)
    return found


cdef inline int64_t find_block(buddy *b, uint64_t group, int order) noexcept nogil:
    """The first page of the lowest free block of exactly `order` in a group that has one."""
    cdef uint64_t w = group << (b.group_order - 6)
    cdef int nr_words = 1 << (b.group_order - 6), i
    cdef word_t some, found
    if order >= b.group_order:
        return group << b.group_order
    if order >= 6:
        b.searched += 1
        some = (b.full[w >> 6] >> (w & 63)) & ones_below(nr_words)
        return (w + ctz(blocks_of(some, order - 6, b.group_order - 6))) << 6
    b.searched += nr_words
    some = words_in_use(&b.free[w], 16) if nr_words == 16 else words_in_use(&b.free[w], nr_words)
    while True:
        i = ctz(some)
        found = blocks_of(b.free[w + i], order, 6)
        if found:
            return ((w + i) << 6) + ctz(found)
        some &= some - 1


cdef inline void clear_free(buddy *b, pfn_t start, uint64_t nr) noexcept nogil:
    bitmap_clear(b.free, start, nr)
    bitmap_clear(b.full, start >> 6, ((start + nr - 1) >> 6) - (start >> 6) + 1)


cdef inline word_t unhung(buddy *b, area_t area) noexcept nogil:
    """The orders that `pending` has blocks of and the area's trees do not know of, as present() has them. Where it has lost
    an order, the trees are brought up to date and there is none."""
    cdef word_t before, now
    if b.pending == NO_GROUP or b.area_of[b.pending << b.group_order >> b.borders.shift] != area:
        return 0
    before = present(b.hung)
    now = present(b.counts[b.pending])
    if before & ~now:
        buddy_hang_pending(b)
        return 0
    return before ^ now


cdef int64_t alloc_beside_border(buddy *b, area_t area, int order) noexcept nogil:
    """buddy_alloc_block, where the block that it hands out lies in a block with a border; else -1."""
    cdef buddy_pool *a = &b.areas[area]
    cdef int found = b.max_order + 1, k = order
    cdef bordered pages = pages_of(b)
    cdef int64_t pfn = find_in_blocks(&pages, area, b.nr_groups << b.group_order, order, &found)
    if pfn < 0:
        return -1
    buddy_hang_pending(b)
    while k <= found and k <= b.max_order and a.tree[k] == 0:
        k += 1
    if k < found or k == found and find_block(b, find_group(b, a.tree, k), k) < pfn:
        return -1
    clear_free(b, pfn, <uint64_t>1 << order)
    a.began[found] += 1
    a.handed[order] += 1
    return pfn


@cython.overflowcheck(False)
cdef int64_t buddy_alloc_block(buddy *b, area_t area, int order) noexcept nogil:
    cdef buddy_pool *a = &b.areas[area]
    cdef word_t *tree = a.tree
    cdef word_t more, there
    cdef int64_t pfn
    cdef uint64_t group
    cdef int k
    if b.borders.nr:
        pfn = alloc_beside_border(b, area, order)
        if pfn >= 0:
            return pfn
    more = unhung(b, area)
    there = (tree[ROOTS] | more) & (ALL_ONES << TOP[order])
    k = ORDER_AT[ctz(there)] if there else b.group_order
    if k >= b.group_order:
        buddy_hang_pending(b)
        there = tree[ROOTS] & (ALL_ONES << TOP[order])
        if there == 0:
            return -1
        k = ORDER_AT[ctz(there)]
    group = find_group(b, tree, k) if tree[k] else NO_GROUP
    if (more >> TOP[k]) & 1:
        group = min(group, b.pending)
    pfn = find_block(b, group, k)
    if order < 6:
        b.free[pfn >> 6] &= ~(ones_below(<uint64_t>1 << order) << (pfn & 63))
        clear_bit(b.full, <pfn_t>pfn >> 6)
    else:
        clear_free(b, pfn, <uint64_t>1 << order)
    if order < b.group_order:
        if group != b.pending:
            buddy_defer(b, group, b.counts[group] if b.counts[group] else WHOLE)
        b.counts[group] = b.counts[group] - b.merged[k] - b.below[order]
    else:
        hang_full(b, group)
    a.began[k] += 1
    a.handed[order] += 1
    return pfn


cdef void take_pages(buddy *b, buddy_pool *a, pfn_t pfn, int order, uint64_t nr) noexcept nogil:
    """Take the first pages of a free block, all of them or some, one by one; the rest of it stays, in the largest blocks."""
    cdef uint64_t rest = (<uint64_t>1 << order) - nr, group = (pfn + nr) >> b.group_order
    cdef int k
    clear_free(b, pfn, nr)
    a.nr_free[order] -= 1
    for k in range(order):
        a.nr_free[k] += <int64_t>((rest >> k) & 1)
        a.splits[k + 1] += (nr + (<uint64_t>2 << k) - 1) >> (k + 1)     # every block with a page handed out was split
    if order < b.group_order:
        group = pfn >> b.group_order
    if group << b.group_order < pfn + (<uint64_t>1 << order):
        recount_group(b, group)
    if order >= b.group_order:
        hang_full(b, pfn >> b.group_order)


@cython.overflowcheck(False)
cdef uint64_t take_from_group(buddy *b, buddy_pool *a, uint64_t group, int order, uint64_t nr, int64_t *out) noexcept nogil:
    """Take the free blocks of exactly `order` < 6 in a group, as single pages, while `nr` more are wanted; how many pages."""
    cdef uint64_t w = group << (b.group_order - 6), end = (group + 1) << (b.group_order - 6), blocks = 0, got = 0, i
    cdef uint64_t size = <uint64_t>1 << order
    cdef word_t x, found, hung = b.counts[group]
    cdef int64_t pfn
    cdef int k
    while w < end and got + size <= nr:
        x = b.free[w]
        found = blocks_of(x, order, 6) if x and x != ALL_ONES else 0
        while found and got + size <= nr:
            pfn = (w << 6) + ctz(found)
            for i in range(size):
                out[got + i] = pfn + <int64_t>i
            got += size
            x &= ~(ones_below(size) << (pfn & 63))
            found &= found - 1
        b.free[w] = x
        w += 1
    blocks = got >> order
    b.counts[group] = hung - blocks * (b.merged[order] + b.below[order])
    rehang(b, group, hung)
    a.nr_free[order] -= <int64_t>blocks
    for k in range(1, order + 1):
        a.splits[k] += blocks << (order - k)
    return got


cdef uint64_t take_whole_blocks(buddy *b, buddy_pool *a, pfn_t pfn, uint64_t nr) noexcept nogil:
    """Take as many whole blocks of the largest order from `pfn` on, which begins one, as lie side by side in a word of the tree
    and in `nr` pages; how many pages."""
    cdef uint64_t group = pfn >> b.group_order, blocks = 1
    cdef word_t after = ~a.tree[b.level[0] + (group >> 6) * NR_ORDERS + b.max_order] >> (group & 63)
    cdef int k
    if b.max_order == b.group_order:
        blocks = min(nr >> b.max_order, <uint64_t>ctz(after) if after else 64 - (group & 63))
    clear_free(b, pfn, blocks << b.max_order)
    hang_range(b, a.tree, group, group + (blocks << (b.max_order - b.group_order)), False)
    a.nr_free[b.max_order] -= <int64_t>blocks
    for k in range(b.max_order):
        a.splits[k + 1] += blocks << (b.max_order - k - 1)
    return blocks << b.max_order


cdef uint64_t buddy_alloc_pages(buddy *b, area_t area, uint64_t nr, int64_t *out) noexcept nogil:
    cdef buddy_pool *a = &b.areas[area]
    cdef uint64_t got = 0, take, i
    cdef int64_t pfn
    cdef int k = 0
    if b.borders.nr or nr <= FEW_PAGES:
        while got < nr:
            out[got] = buddy_alloc_block(b, area, 0)
            if out[got] < 0:
                break
            got += 1
        return got
    buddy_hang_pending(b)
    while got < nr:
        while a.tree[k] == 0:
            k += 1
            if k > b.max_order:
                break
        if k > b.max_order:
            break
        if k < 6 and nr - got >= <uint64_t>1 << k:
            got += take_from_group(b, a, find_group(b, a.tree, k), k, nr - got, out + got)
            continue
        pfn = find_block(b, find_group(b, a.tree, k), k)
        take = min(<uint64_t>1 << k, nr - got)
        if k == b.max_order and take == <uint64_t>1 << k:
            take = take_whole_blocks(b, a, pfn, nr - got)
        else:
            take_pages(b, a, pfn, k, take)
        for i in range(take):
            out[got + i] = pfn + <int64_t>i
        got += take
    a.allocs[0] += got
    return got


cdef void split_at(buddy *b, pfn_t pfn, pfn_t done) noexcept nogil:
    """Split the free block that reaches over `pfn`, if there is one, until a block begins there; the nodes that reach over
    `done` have been split before."""
    cdef buddy_pool *a = area_of_page(b, pfn)
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


@cython.overflowcheck(False)     # a group's counts wrap on purpose
cdef void buddy_take_page(buddy *b, pfn_t pfn) noexcept nogil:
    cdef buddy_pool *a = area_of_page(b, pfn)
    cdef int order = buddy_order(b, pfn), k
    clear_bit(b.free, pfn)
    clear_bit(b.full, pfn >> 6)
    a.nr_free[order] -= 1
    for k in range(order):
        a.nr_free[k] += 1
        a.splits[k + 1] += 1
    if not has_border(&b.borders, pfn):
        count_blocks(b, pfn >> b.group_order, 0 - b.merged[order], WHOLE)


cdef void buddy_take_range(buddy *b, pfn_t start, uint64_t nr) noexcept nogil:
    cdef buddy_pool *a = area_of_page(b, start)
    cdef bordered pages = pages_of(b)
    cdef pfn_t pfn = start, end = start + nr, stop, mask = (<pfn_t>1 << b.max_order) - 1
    while pfn < end:
        stop = min(end, (pfn | mask) + 1)
        if has_border(&b.borders, pfn):
            take_in_block(&pages, a.nr_free, a.splits, pfn, stop)
        else:
            stop = end if stop == end else next_bordered(&b.borders, stop, end)
            take_from_groups(b, pfn, stop - pfn)
        pfn = stop


cdef void take_from_groups(buddy *b, pfn_t start, uint64_t nr) noexcept nogil:
    """buddy_take_range of blocks without a border."""
    cdef buddy_pool *a = area_of_page(b, start)
    cdef pfn_t end = start + nr, block = <pfn_t>1 << b.max_order
    cdef pfn_t first = (start + block - 1) & ~(block - 1), last = end & ~(block - 1)
    cdef uint64_t here, above = 0
    cdef int k = b.max_order
    buddy_hang_pending(b)
    split_at(b, start, 0)
    if end & (block - 1):      # else the next block may be another area's
        split_at(b, end, start)
    while k >= 0:
        here = (end >> k)
        here -= min(here, (start + (<uint64_t>1 << k) - 1) >> k)     # aligned blocks of order k inside the range
        a.nr_free[k] -= <int64_t>here - 2 * <int64_t>above
        above = here
        k -= 1
    clear_free(b, start, nr)
    if first < last:
        # the counts of whole blocks are zero before and after
        hang_range(b, a.tree, first >> b.group_order, last >> b.group_order, False)
        recount_groups(b, start, first)
        recount_groups(b, last, end)
    else:
        recount_groups(b, start, end)
