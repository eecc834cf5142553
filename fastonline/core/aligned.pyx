from libc.string cimport memset

from fastonline.core.bitmap cimport hweight64
from fastonline.core.types cimport ALL_ONES, NR_ORDERS

__all__ = []

cdef extern from *:
    """
    static FASTONLINE_CLONES void fo_count_runs(const uint64_t *, uint64_t, uint64_t, int, int, int64_t *, uint64_t *);
    """


cdef void count "fo_count_runs"(const word_t *words, uint64_t first, uint64_t end, int group_order, int max_order, int64_t *F,
                                word_t *counts) noexcept nogil:
    cdef uint64_t group, w, base, step = <uint64_t>1 << (group_order - 6), full_words, count
    cdef uint64_t f[11]
    cdef word_t x, y, whole = 0
    cdef int k
    memset(F, 0, NR_ORDERS * sizeof(int64_t))
    for group in range(first, end):
        memset(f, 0, sizeof(f))
        base = group << (group_order - 6)
        full_words = 0
        y = 0
        for w in range(step):
            x = words[base + w]
            if x == ALL_ONES:
                full_words += 1
                y |= <word_t>1 << w
            elif x:
                f[0] += hweight64(x)
                x &= (x >> 1) & ALIGNED[1]
                f[1] += hweight64(x)
                x &= (x >> 2) & ALIGNED[2]
                f[2] += hweight64(x)
                x &= (x >> 4) & ALIGNED[3]
                f[3] += hweight64(x)
                x &= (x >> 8) & ALIGNED[4]
                f[4] += hweight64(x)
                x &= (x >> 16) & ALIGNED[5]
                f[5] += hweight64(x)
        if full_words:
            for k in range(6):
                f[k] += full_words << (6 - k)
            for k in range(6, group_order + 1):
                # orders from 6 on are runs of full words
                f[k] = hweight64(y)
                y &= (y >> (<word_t>1 << (k - 6))) & ALIGNED[k - 5]
        for k in range(group_order + 1):
            F[k] += f[k]
        if counts != NULL:
            count = 0
            for k in range(group_order):
                count += (f[k] - 2 * f[k + 1]) << FIELD[k]
            counts[group - first] = count
        if max_order > group_order:
            # and those above a group are runs of full groups
            whole |= f[group_order] << (group & 7)
            if group & 7 == 7:
                for k in range(group_order + 1, max_order + 1):
                    F[k] += hweight64(runs(whole, k - group_order))
                whole = 0
    return


cdef void count_runs(const word_t *words, uint64_t first, uint64_t end, int group_order, int max_order, int64_t *F,
                     word_t *counts) noexcept nogil:
    count(words, first, end, group_order, max_order, F, counts)
