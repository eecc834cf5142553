"""Words of bits: the arithmetic that every plane and every section map is made of."""

cimport cython

from fastonline.core.types cimport ALL_ONES, int64_t, uint64_t, word_t

cdef extern from *:
    int __builtin_ctzll(unsigned long long) nogil
    int __builtin_clzll(unsigned long long) nogil
    int __builtin_popcountll(unsigned long long) nogil


cdef class Bitmap:
    """`nbits` bits in a NumPy-owned array of uint64 words, bit i at word i/64, position i%64."""
    cdef word_t *words           # cached from `owner`; changes when the bitmap grows
    cdef readonly uint64_t nbits
    """Number of bits."""
    cdef bint sealed             # part of a machine: Python may look, and not write
    cdef object owner            # (ceil(nbits/64),) uint64

    cdef uint64_t writable(self, object start, object nr, uint64_t *count) except? 0xFFFFFFFFFFFFFFFF
    cdef uint64_t ones(self) noexcept nogil      # how many
    cdef int put_bits(self, uint64_t start, object bits) except -1
    cdef int own(self, object array, uint64_t nbits) except -1
    cdef object grown(self, uint64_t nbits, list spans)
    cdef int grow(self, uint64_t nbits, list spans) except -1

# A read-only view of a C-contiguous array; it cannot be made writeable, and keeps the memory alive.
cdef object read_only(object array)


cdef inline int ctz(word_t x) noexcept nogil:            # position of the lowest one; x != 0
    return __builtin_ctzll(x)

cdef inline int msb(word_t x) noexcept nogil:            # position of the highest one; x != 0
    return 63 - __builtin_clzll(x)

cdef inline int hweight64(word_t x) noexcept nogil:      # number of ones
    return __builtin_popcountll(x)


@cython.overflowcheck(False)
cdef inline word_t ones_from(uint64_t bit) noexcept nogil:      # ones at bit..63 of a word
    return ALL_ONES << (bit & 63)


@cython.overflowcheck(False)
cdef inline word_t ones_below(uint64_t end) noexcept nogil:     # ones at 0..end-1, end in 1..64 (taken modulo 64, 0 = 64)
    return ALL_ONES >> ((64 - end) & 63)

cdef inline bint test_bit(const word_t *words, uint64_t nr) noexcept nogil:
    return (words[nr >> 6] >> (nr & 63)) & 1

cdef inline void set_bit(word_t *words, uint64_t nr) noexcept nogil:
    words[nr >> 6] |= <word_t>1 << (nr & 63)

cdef inline void clear_bit(word_t *words, uint64_t nr) noexcept nogil:
    words[nr >> 6] &= ~(<word_t>1 << (nr & 63))

cdef inline word_t range_mask(uint64_t word, uint64_t start, uint64_t end) noexcept nogil:
    """The bits of word number `word` that lie in [start, end); the word must meet the range."""
    cdef word_t m = ALL_ONES
    if word == start >> 6:
        m = ones_from(start)
    if word == (end - 1) >> 6:
        m &= ones_below(end)
    return m


cdef void bitmap_set(word_t *words, uint64_t start, uint64_t nr) noexcept nogil
cdef void bitmap_clear(word_t *words, uint64_t start, uint64_t nr) noexcept nogil
cdef bint bitmap_full(const word_t *words, uint64_t start, uint64_t nr) noexcept nogil    # all ones in the range?
cdef bint bitmap_empty(const word_t *words, uint64_t start, uint64_t nr) noexcept nogil   # no one in the range?
cdef uint64_t bitmap_weight(const word_t *words, uint64_t start, uint64_t nr) noexcept nogil
# First one / zero at or after `start`, or `end` when there is none before it.
cdef uint64_t find_next_bit(const word_t *words, uint64_t end, uint64_t start) noexcept nogil
cdef uint64_t find_next_zero_bit(const word_t *words, uint64_t end, uint64_t start) noexcept nogil
