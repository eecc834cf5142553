cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memset

from fastonline.core.buffer cimport data_of
from fastonline.core.numbers cimport as_range, as_uint64
from fastonline.core.types cimport max_bits

import math
import mmap

import numpy as np

from fastonline.core.ram import array_of

__all__ = ["Bitmap", "zeroed"]

cdef extern from *:
    """
    static FASTONLINE_CLONES uint64_t fo_and_words(const uint64_t *, uint64_t);
    static FASTONLINE_CLONES uint64_t fo_or_words(const uint64_t *, uint64_t);
    static FASTONLINE_CLONES uint64_t fo_weigh_words(const uint64_t *, uint64_t);
    """

# From this size on an array is mapped without a reserve, so that a machine costs only what it touches even where the
# system refuses to promise more memory than it has (a plane of 2^34 pages is 2 GiB).
_MAPPED_FROM_BYTES = 1 << 22
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)     # asm-generic/mman.h; Python has the name since 3.13


def zeroed(shape, dtype="u8"):
    """A NumPy array of zeros whose untouched pages take no memory.

    Raises MemoryError when the address space cannot be had.
    """
    nbytes = math.prod(shape) if isinstance(shape, tuple) else int(shape)
    nbytes *= np.dtype(dtype).itemsize
    if nbytes < _MAPPED_FROM_BYTES:
        return np.zeros(shape, dtype)
    try:
        area = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    except (OSError, OverflowError, ValueError) as e:
        raise MemoryError(f"cannot map {nbytes} bytes for the pages of a machine: {e}") from None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            area.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass    # a kernel without huge pages: only slower
    return np.frombuffer(area, dtype=dtype).reshape(shape)


cdef uint64_t and_words "fo_and_words"(const word_t *words, uint64_t n) noexcept nogil:
    cdef uint64_t i
    cdef word_t x = ALL_ONES
    for i in range(n):
        x &= words[i]
    return x


cdef uint64_t or_words "fo_or_words"(const word_t *words, uint64_t n) noexcept nogil:
    cdef uint64_t i
    cdef word_t x = 0
    for i in range(n):
        x |= words[i]
    return x


cdef uint64_t weigh_words "fo_weigh_words"(const word_t *words, uint64_t n) noexcept nogil:
    cdef uint64_t i, total = 0
    for i in range(n):
        total += hweight64(words[i])
    return total


cdef void bitmap_set(word_t *words, uint64_t start, uint64_t nr) noexcept nogil:
    cdef uint64_t first = start >> 6, last
    if nr == 0:
        return
    last = (start + nr - 1) >> 6
    if first == last:
        words[first] |= range_mask(first, start, start + nr)
        return
    words[first] |= ones_from(start)
    memset(&words[first + 1], 0xFF, (last - first - 1) * 8)
    words[last] |= ones_below(start + nr)


cdef void bitmap_clear(word_t *words, uint64_t start, uint64_t nr) noexcept nogil:
    cdef uint64_t first = start >> 6, last
    if nr == 0:
        return
    last = (start + nr - 1) >> 6
    if first == last:
        words[first] &= ~range_mask(first, start, start + nr)
        return
    words[first] &= ~ones_from(start)
    memset(&words[first + 1], 0, (last - first - 1) * 8)
    words[last] &= ~ones_below(start + nr)


cdef bint bitmap_full(const word_t *words, uint64_t start, uint64_t nr) noexcept nogil:
    cdef uint64_t first = start >> 6, last, w, step
    cdef word_t m
    if nr == 0:
        return True
    last = (start + nr - 1) >> 6
    m = range_mask(first, start, start + nr)
    if (words[first] & m) != m:
        return False
    m = range_mask(last, start, start + nr)
    if (words[last] & m) != m:
        return False
    w = first + 1
    while w < last:
        step = min(<uint64_t>256, last - w)
        if and_words(&words[w], step) != ALL_ONES:
            return False
        w += step
    return True


cdef bint bitmap_empty(const word_t *words, uint64_t start, uint64_t nr) noexcept nogil:
    cdef uint64_t first = start >> 6, last, w, step
    if nr == 0:
        return True
    last = (start + nr - 1) >> 6
    if words[first] & range_mask(first, start, start + nr):
        return False
    if words[last] & range_mask(last, start, start + nr):
        return False
    w = first + 1
    while w < last:
        step = min(<uint64_t>256, last - w)
        if or_words(&words[w], step):
            return False
        w += step
    return True


cdef uint64_t bitmap_weight(const word_t *words, uint64_t start, uint64_t nr) noexcept nogil:
    cdef uint64_t first = start >> 6, last
    if nr == 0:
        return 0
    last = (start + nr - 1) >> 6
    if first == last:
        return hweight64(words[first] & range_mask(first, start, start + nr))
    return (hweight64(words[first] & ones_from(start)) + weigh_words(&words[first + 1], last - first - 1)
            + hweight64(words[last] & ones_below(start + nr)))


cdef uint64_t find_next_bit(const word_t *words, uint64_t end, uint64_t start) noexcept nogil:
    cdef uint64_t w = start >> 6, last
    cdef word_t x
    if start >= end:
        return end
    last = (end - 1) >> 6
    x = words[w] & ones_from(start)
    if x == 0:
        while w + 64 < last and or_words(&words[w + 1], 64) == 0:
            w += 64
    while x == 0:
        if w == last:
            return end
        w += 1
        x = words[w]
    return min(end, (w << 6) + ctz(x))


cdef uint64_t find_next_zero_bit(const word_t *words, uint64_t end, uint64_t start) noexcept nogil:
    cdef uint64_t w = start >> 6, last
    cdef word_t x
    if start >= end:
        return end
    last = (end - 1) >> 6
    x = ~words[w] & ones_from(start)
    if x == 0:
        while w + 64 < last and and_words(&words[w + 1], 64) == ALL_ONES:
            w += 64
    while x == 0:
        if w == last:
            return end
        w += 1
        x = ~words[w]
    return min(end, (w << 6) + ctz(x))


@cython.final
cdef class ReadOnly:
    """The memory of an array, to be read: an array over it has no writeable one behind it."""
    cdef object array
    cdef Py_buffer memory

    def __cinit__(self, array):
        PyObject_GetBuffer(array, &self.memory, PyBUF_SIMPLE)
        self.array = array

    def __dealloc__(self):
        if self.array is not None:
            PyBuffer_Release(&self.memory)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if flags & PyBUF_WRITABLE:
            raise BufferError("the flags of a machine are read-only")
        PyBuffer_FillInfo(buffer, self, self.memory.buf, self.memory.len, 1, flags)


cdef object read_only(object array):
    return np.frombuffer(ReadOnly(array), array.dtype).reshape(array.shape)


@cython.no_gc      # no circle goes through it, and nothing may find it half taken apart
cdef class Bitmap:
    """Bits in a NumPy-owned array of uint64 words, bit i at word i/64, position i%64; all zero at first.

    nbits: int, how many. TypeError, ValueError and OverflowError for what is no number of bits, MemoryError for more than there
    is room for; the methods raise IndexError for a range that does not lie in it. The bitmaps of a machine are to be read:
    their set, clear and set_bits raise ValueError.
    """

    def __cinit__(self, nbits):
        cdef uint64_t number = as_uint64(nbits, "nbits")
        if number > max_bits():
            raise MemoryError(f"cannot allocate {number} bits")
        self.own(zeroed((number + 63) >> 6), number)

    cdef int own(self, object array, uint64_t nbits) except -1:
        """Use these words."""
        self.owner = array
        self.words = <word_t *>data_of(array)
        self.nbits = nbits
        return 0

    cdef int grow(self, uint64_t nbits, list spans) except -1:
        """Make room for `nbits`. Only the (start, nr) bit ranges in `spans` are carried over, so that nothing else is
        touched. Views of the old array keep their own memory and no longer follow."""
        return self.own(self.grown(nbits, spans), nbits)

    cdef object grown(self, uint64_t nbits, list spans):
        """The words that grow would make."""
        new = zeroed((nbits + 63) >> 6)
        for start, nr in spans:
            words = slice(start >> 6, (start + nr + 63) >> 6)
            new[words] = self.owner[words]
        return new

    cdef uint64_t ones(self) noexcept nogil:
        return bitmap_weight(self.words, 0, self.nbits)

    cdef int put_bits(self, uint64_t start, object bits) except -1:
        """Set a range from bools, one a byte."""
        cdef list values = array_of(bits, bool).tolist()
        cdef uint64_t i
        for i in range(len(values)):
            if values[i]:
                set_bit(self.words, start + i)
            else:
                clear_bit(self.words, start + i)
        return 0

    cdef uint64_t writable(self, object start, object nr, uint64_t *count) except? 0xFFFFFFFFFFFFFFFF:
        """The first bit of a range that Python may write, and how many there are."""
        cdef uint64_t first
        as_range(start, nr, self.nbits, "bits", IndexError, &first, count)
        if self.sealed:
            raise ValueError("this bitmap is part of a machine, and read-only")
        return first

    def __len__(self):
        return self.nbits

    def __getitem__(self, nr):
        cdef uint64_t bit, count
        as_range(nr, 1, self.nbits, "bits", IndexError, &bit, &count)
        return bool(test_bit(self.words, bit))

    def set(self, start, nr=1):
        """Set `nr` bits from `start` on."""
        cdef uint64_t count, first = self.writable(start, nr, &count)
        bitmap_set(self.words, first, count)

    def clear(self, start, nr=1):
        """Clear `nr` bits from `start` on."""
        cdef uint64_t count, first = self.writable(start, nr, &count)
        bitmap_clear(self.words, first, count)

    def bits(self, start, nr):
        """Return `nr` bits from `start` on, one a byte: an (nr,) uint8 array."""
        cdef uint64_t first, count
        as_range(start, nr, self.nbits, "bits", IndexError, &first, &count)
        spread = np.unpackbits(self.owner[first >> 6 : (first + count + 63) >> 6].view(np.uint8), bitorder="little")
        return spread[first & 63 : (first & 63) + count].copy()

    def set_bits(self, start, bits):
        """Set bits from `start` on from an array of truth values, one for each bit."""
        cdef uint64_t count
        values = array_of(bits, bool).ravel()
        self.put_bits(self.writable(start, len(values), &count), values)

    def weight(self, start=0, nr=None):
        """Return the number of ones among `nr` bits from `start` on (default: all)."""
        cdef uint64_t first, count
        as_range(start, 0 if nr is None else nr, self.nbits, "bits", IndexError, &first, &count)
        return bitmap_weight(self.words, first, self.nbits - first if nr is None else count)

    def view(self):
        """Return a read-only uint64 view of the words, without a copy. It keeps the memory alive."""
        return read_only(self.owner)

    @property
    def array(self):
        """The words, as view()."""
        return self.view()
