"""Aligned runs of ones in a plane of free pages: the buddy allocator's free blocks."""

from fastonline.core.types cimport int64_t, uint8_t, uint64_t, word_t

cdef extern from *:
    """
    /* ones at the multiples of 2^k */
    static const uint64_t fo_aligned[7] = {
        0xFFFFFFFFFFFFFFFF, 0x5555555555555555, 0x1111111111111111, 0x0101010101010101,
        0x0001000100010001, 0x0000000100000001, 0x0000000000000001,
    };
    /* where the field of each order begins in a group's counts (core/buddy.pxd) */
    static const uint8_t fo_field[11] = {0, 10, 19, 27, 34, 40, 45, 49, 52, 54, 55};
    """
    const word_t ALIGNED "fo_aligned"[7]
    const uint8_t FIELD "fo_field"[11]


cdef inline word_t field_of(int order) noexcept nogil:
    """The bits of an order's field in a group's counts."""
    return (<word_t>1 << FIELD[order + 1]) - (<word_t>1 << FIELD[order])


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


# The counts of each group in [first, end), of 2^group_order pages: how many free blocks of each order below it has, in a field.
cdef void count_groups(const word_t *words, uint64_t first, uint64_t end, int group_order, word_t *counts) noexcept nogil
# F[k]: the full aligned blocks of order k in groups [first, end), which are whole blocks of max_order and have these counts.
cdef void count_runs(const word_t *words, const word_t *counts, uint64_t first, uint64_t end, int group_order, int max_order,
                     int64_t *F) noexcept nogil
