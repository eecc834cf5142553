cimport cython

from fastonline.core.bitmap cimport hweight64
from fastonline.core.types cimport ALL_ONES

__all__ = []

cdef extern from *:
    """
    static FASTONLINE_CLONES void fo_count_each(const uint64_t *, uint64_t, uint64_t, int, uint64_t *);
    static FASTONLINE_CLONES void fo_add_fields(const uint64_t *, uint64_t, int64_t *);
    /* the lower half of each field of 4, 8 and 16 bits */
    #define FASTONLINE_HALF_4 0x3333333333333333ULL
    #define FASTONLINE_HALF_8 0x0F0F0F0F0F0F0F0FULL
    #define FASTONLINE_HALF_16 0x00FF00FF00FF00FFULL
    /* what a run of 2^k pages adds to a group's counts: a block of order k in place of two of the order below */
    #define FASTONLINE_OF_RUN(field, below) ((1ULL << (field)) - (2ULL << (below)))
    static const uint64_t fo_of_run[11] = {
        1, FASTONLINE_OF_RUN(10, 0), FASTONLINE_OF_RUN(19, 10), FASTONLINE_OF_RUN(27, 19), FASTONLINE_OF_RUN(34, 27),
        FASTONLINE_OF_RUN(40, 34), FASTONLINE_OF_RUN(45, 40), FASTONLINE_OF_RUN(49, 45), FASTONLINE_OF_RUN(52, 49),
        FASTONLINE_OF_RUN(54, 52), FASTONLINE_OF_RUN(55, 54),
    };
    """
    const word_t OF_RUN "fo_of_run"[11]
    const word_t HALF_4 "FASTONLINE_HALF_4"
    const word_t HALF_8 "FASTONLINE_HALF_8"
    const word_t HALF_16 "FASTONLINE_HALF_16"


@cython.overflowcheck(False)     # the product wraps; its top 16 bits are the sum
cdef inline uint64_t sum_of_bytes(word_t x) noexcept nogil:
    return ((x & HALF_16) + ((x >> 8) & HALF_16)) * ALIGNED[4] >> 48


@cython.overflowcheck(False)     # the sums wrap on purpose
cdef inline word_t count_group(const word_t *words, uint64_t nr, int group_order) noexcept nogil:
    """The counts of a group of at most 16 words. The loop is plain arithmetic on whole words, so that the compiler can
    vectorize it: the runs of each order are summed in bytes, or in wider fields where they are further apart."""
    cdef word_t f0 = 0, f1 = 0, f2 = 0, f3 = 0, f4 = 0, f5 = 0, x, two, count, full = 0
    cdef uint64_t w, full_words = 0
    cdef int k
    for w in range(nr):
        x = words[w]
        full_words += x == ALL_ONES
        two = x - ((x >> 1) & ALIGNED[1])
        two = (two & HALF_4) + ((two >> 2) & HALF_4)
        f0 += (two + (two >> 4)) & HALF_8
        x &= (x >> 1) & ALIGNED[1]
        two = (x + (x >> 2)) & HALF_4
        f1 += (two + (two >> 4)) & HALF_8
        x &= (x >> 2) & ALIGNED[2]
        f2 += (x + (x >> 4)) & HALF_8
        x &= (x >> 4) & ALIGNED[3]
        f3 += x
        x &= (x >> 8) & ALIGNED[4]
        f4 += x
        x &= (x >> 16) & ALIGNED[5]
        f5 += x
    count = (
        sum_of_bytes(f0) + sum_of_bytes(f1) * OF_RUN[1] + sum_of_bytes(f2) * OF_RUN[2] + sum_of_bytes(f3) * OF_RUN[3]
        + sum_of_bytes(f4) * OF_RUN[4] + sum_of_bytes(f5) * OF_RUN[5] + full_words * OF_RUN[6]
    )
    if full_words:
        # larger runs are of full words
        for w in range(nr):
            full |= <word_t>(words[w] == ALL_ONES) << w
        for k in range(7, group_order + 1):
            full &= (full >> (<word_t>1 << (k - 7))) & ALIGNED[k - 6]
            count += hweight64(full) * OF_RUN[k]
    return count & ((<word_t>1 << FIELD[group_order]) - 1)


cdef void count_each "fo_count_each"(const word_t *words, uint64_t first, uint64_t end, int group_order,
                                       word_t *counts) noexcept nogil:
    cdef uint64_t group
    for group in range(first, end):
        if group_order == 10:
            counts[group - first] = count_group(&words[group << 4], 16, 10)
        else:
            counts[group - first] = count_group(&words[group << (group_order - 6)], 1 << (group_order - 6), group_order)


cdef void count_groups(const word_t *words, uint64_t first, uint64_t end, int group_order, word_t *counts) noexcept nogil:
    count_each(words, first, end, group_order, counts)


cdef void add_fields "fo_add_fields"(const word_t *counts, uint64_t nr, int64_t *blocks) noexcept nogil:
    """Add up each field of some counts."""
    cdef uint64_t i
    cdef int64_t sum
    cdef int k
    for k in range(10):
        sum = 0
        for i in range(nr):
            sum += (counts[i] & field_of(k)) >> FIELD[k]
        blocks[k] = sum


cdef void count_runs(const word_t *words, const word_t *counts, uint64_t first, uint64_t end, int group_order, int max_order,
                     int64_t *F) noexcept nogil:
    cdef uint64_t group
    cdef word_t whole = 0
    cdef int k
    add_fields(counts, end - first, F)
    for k in range(group_order, max_order + 1):
        F[k] = 0
    for group in range(first, end):
        # without a block below the group's order it is all free, or not at all
        whole |= <word_t>(counts[group - first] == 0 and words[group << (group_order - 6)] != 0) << (group & 63)
        if group & 63 == 63 or group + 1 == end:
            for k in range(group_order, max_order + 1):
                F[k] += hweight64(runs(whole, k - group_order))
            whole = 0
    for k in range(group_order - 1, -1, -1):
        F[k] += 2 * F[k + 1]
