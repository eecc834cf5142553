cimport cython
from libc.stdlib cimport free, realloc
from libc.string cimport memset

import numpy as np

from fastonline.core.bitmap cimport bitmap_weight, read_only, set_bit, test_bit
from fastonline.core.bitmap import zeroed
from fastonline.core.buddy cimport free_area_fold
from fastonline.core.lock cimport MachineLock, settle
from fastonline.core.numbers cimport as_number, as_uint64
from fastonline.core.types cimport ALL_ONES, MAX_AREAS, MAX_MAX_ORDER, MIN_MAX_ORDER, NR_ORDERS, max_bits

__all__ = ["COUNTERS", "Engine"]

cdef extern from *:
    """
    static FASTONLINE_CLONES int fo_set_bits_32(const uint32_t *, uint64_t, uint64_t *, uint64_t, uint64_t *);
    static FASTONLINE_CLONES int fo_set_bits_64(const uint64_t *, uint64_t, uint64_t *, uint64_t, uint64_t *);
    """
    void __builtin_prefetch(const void *, int) nogil

# A batch over a plane larger than the caches is gathered with a prefetch so many pfns ahead.
cdef enum:
    FAR = 16777216
    AHEAD = 24

# free_area's counters that a user may see, in the order of area_counters() and of a saved machine.
COUNTERS = ("nr_free", "merges", "splits", "frees", "allocs")


@cython.no_gc      # no circle goes through it, and nothing may find it half taken apart
cdef class Engine:
    """The state of every page of a machine and the free blocks of its areas; BitmapEngine and StructPageEngine are the two.

    nr_pages: int, pages there is room for, whole blocks of the largest order; max_order: that order, 6 to 13; nr_areas: free
    areas, the first of which is not used. TypeError, ValueError and OverflowError for what is none of that, MemoryError for more
    than there is room for.
    """

    def __cinit__(self, nr_pages, max_order, nr_areas, *args):
        cdef uint64_t pages = as_number(nr_pages, "nr_pages", 0, max_bits())
        self.max_order = as_number(max_order, "max_order", MIN_MAX_ORDER, MAX_MAX_ORDER)
        if pages & ((<uint64_t>1 << self.max_order) - 1):
            raise ValueError(f"nr_pages {nr_pages} is not a multiple of 2^{max_order}")
        self.lock = MachineLock()
        self.page_bits = 4
        self.areas = NULL
        self.areas_owner = np.empty(0, np.uint16)
        self.own_areas(self.grown_areas(pages), pages)
        self.add_areas(as_number(nr_areas, "nr_areas", 1, MAX_AREAS))
        self.batch = Bitmap(pages)
        self.batch_words = self.batch.words

    def __dealloc__(self):
        free(self.areas)

    cdef object grown_areas(self, uint64_t nr_pages):
        """The area_array that grow would make."""
        array = zeroed(nr_pages >> self.max_order, np.uint16)     # NO_AREA everywhere
        array[: self.areas_owner.size] = self.areas_owner
        return array

    cdef int own_areas(self, object array, uint64_t nr_pages) except -1:
        cdef area_t[::1] view = array
        self.areas_owner = array
        self.area_of = &view[0] if view.shape[0] else NULL
        self.nr_blocks = view.shape[0]
        self.nr_pages = nr_pages
        return 0

    cdef int grow(self, uint64_t nr_pages, list spans) except -1:
        """Make room for `nr_pages`, carrying over the (start, nr) page ranges in `spans`. A MemoryError changes nothing."""
        areas, batch = self.grown_areas(nr_pages), self.batch.grown(nr_pages, [])
        self.own_areas(areas, nr_pages)
        self.batch.own(batch, nr_pages)
        self.batch_words = self.batch.words
        return 0

    cdef int add_areas(self, int nr_areas) except -1:
        cdef free_area *areas = <free_area *>realloc(self.areas, nr_areas * sizeof(free_area))
        cdef int i
        if areas == NULL:
            raise MemoryError(f"no memory for {nr_areas} free areas")
        self.areas = areas
        for i in range(self.nr_areas, nr_areas):
            memset(&areas[i], 0, sizeof(free_area))
            areas[i].number = i
        self.nr_areas = nr_areas
        return 0

    cdef void assign_area(self, pfn_t start, uint64_t nr, area_t area) noexcept nogil:
        cdef uint64_t i
        for i in range(start >> self.max_order, (start + nr + (<uint64_t>1 << self.max_order) - 1) >> self.max_order):
            self.area_of[i] = area

    cdef uint64_t area_run(self, pfn_t start, pfn_t end) noexcept nogil:
        cdef uint64_t block = start >> self.max_order, last = (end - 1) >> self.max_order
        cdef area_t area = self.area_of[block]
        while block < last and self.area_of[block + 1] == area:
            block += 1
        return min(end, (block + 1) << self.max_order) - start

    cdef int gather(self, pfn_batch *batch, uint64_t *bad) noexcept nogil:
        cdef word_t *words = self.batch_words
        cdef uint64_t[2] span
        cdef int why
        if batch.pfns64 != NULL:
            why = set_bits_64(batch.pfns64, batch.nr, words, self.nr_pages, span)
        else:
            why = set_bits_32(batch.pfns32, batch.nr, words, self.nr_pages, span)
        batch.first = span[0]
        batch.end = span[1]
        if why == BATCH_OUT_OF_RANGE:
            bad[0] = 0
            while pfn_at(batch, bad[0]) < self.nr_pages:
                bad[0] += 1
        elif bitmap_weight(words, batch.first, batch.end - batch.first) != batch.nr:
            # some stand there twice: the first to do so is found by a second, slower walk
            self.ungather(batch)
            why = BATCH_TWICE
            bad[0] = 0
            while not test_bit(words, pfn_at(batch, bad[0])):
                set_bit(words, pfn_at(batch, bad[0]))
                bad[0] += 1
            self.ungather(batch)
        return why

    cdef void ungather(self, const pfn_batch *batch) noexcept nogil:
        cdef uint64_t first = batch.first >> 6, end = (batch.end + 63) >> 6, i
        if batch.nr < (end - first) >> 3:
            for i in range(batch.nr):
                self.batch_words[pfn_at(batch, i) >> 6] = 0
        else:
            memset(&self.batch_words[first], 0, (end - first) * sizeof(word_t))

    # The rest is each engine's own; the bodies here are never run.
    cdef dict planes(self, list spans): return {}
    cdef int set_planes(self, list spans, dict planes) except -1: return 0
    cdef int summarize(self, list spans) except -1: return 0
    cdef int state(self, pfn_t pfn) noexcept nogil: return 0
    cdef void states(self, pfn_t start, uint64_t nr, uint8_t *out) noexcept nogil: pass
    cdef uint64_t weigh(self, int flag, pfn_t start, uint64_t nr) noexcept nogil: return 0
    cdef int64_t find_used(self, pfn_t start, uint64_t nr) noexcept nogil: return -1
    cdef void init_pages(self, pfn_t start, uint64_t nr) noexcept nogil: pass
    cdef void forget_pages(self, pfn_t start, uint64_t nr) noexcept nogil: pass
    cdef void prepare_pages(self, pfn_t start, uint64_t nr) noexcept nogil: pass
    cdef void unprepare_pages(self, pfn_t start, uint64_t nr) noexcept nogil: pass
    cdef bint all_waiting(self, pfn_t start, uint64_t nr) noexcept nogil: return False
    cdef uint64_t online_range(self, pfn_t start, uint64_t nr, int order, bint known) noexcept nogil: return 0
    cdef uint64_t take_range(self, pfn_t start, uint64_t nr) noexcept nogil: return 0
    cdef uint64_t reserve_range(self, pfn_t start, uint64_t nr) noexcept nogil: return 0
    cdef void claim_range(self, pfn_t start, uint64_t nr) noexcept nogil: pass
    cdef void set_offline(self, pfn_t start, uint64_t nr) noexcept nogil: pass
    cdef void clear_offline(self, pfn_t start, uint64_t nr) noexcept nogil: pass
    cdef void clear_reserved(self, pfn_t start, uint64_t nr) noexcept nogil: pass
    cdef void free_range(self, pfn_t start, uint64_t nr, int order) noexcept nogil: pass
    cdef int online_page(self, pfn_t pfn) noexcept nogil: return 0
    cdef int64_t find_unprepared(self, const pfn_batch *batch, pfn_t start) noexcept nogil: return -1
    cdef int64_t find_unfreeable(self, const pfn_batch *batch) noexcept nogil: return -1
    cdef uint64_t online_batch(self, const pfn_batch *batch) noexcept nogil: return 0
    cdef void free_batch(self, const pfn_batch *batch) noexcept nogil: pass
    cdef int64_t alloc_block(self, area_t area, int order) noexcept nogil: return -1
    cdef uint64_t alloc_pages(self, area_t area, uint64_t nr, int64_t *out) noexcept nogil: return 0
    cdef bint freeable(self, pfn_t pfn, int order) noexcept nogil: return False
    cdef void free_block(self, pfn_t pfn, int order) noexcept nogil: pass

    cdef void account(self, pfn_t start, int64_t nr) noexcept nogil:
        self.areas[self.area_of[start >> self.max_order]].managed += nr

    @property
    def area_array(self):
        """The area of each block of 2^max_order pages, 0 for none: read-only uint16 view."""
        return read_only(self.areas_owner)

    def bytes_touched(self):
        """Bytes of page state written since the engine was made."""
        return self.touched

    def set_touched(self, nr_bytes):
        """Go on counting from so many bytes."""
        self.touched = as_uint64(nr_bytes, "nr_bytes")

    def area_counters(self, area):
        """Exact counts of one free area: dict of COUNTERS -> (NR_ORDERS,) int64, and "managed" -> int."""
        cdef int number = as_number(area, "area", 0, self.nr_areas - 1)
        settle(self.lock)
        return self.counters(number)

    cdef dict counters(self, int area):
        cdef free_area *a = &self.areas[area]
        cdef int k
        free_area_fold(a)
        counts = {name: np.empty(NR_ORDERS, np.int64) for name in COUNTERS}
        for k in range(NR_ORDERS):
            counts["nr_free"][k] = a.nr_free[k]
            counts["merges"][k] = a.merges[k]
            counts["splits"][k] = a.splits[k]
            counts["frees"][k] = a.frees[k]
            counts["allocs"][k] = a.allocs[k]
        counts["managed"] = a.managed
        return counts

    def set_area_counters(self, area, dict counts not None):
        """The inverse of area_counters."""
        cdef int k, number = as_number(area, "area", 0, self.nr_areas - 1)
        cdef free_area made
        free_area_fold(&self.areas[number])
        made = self.areas[number]
        for k in range(NR_ORDERS):
            made.nr_free[k] = counts["nr_free"][k]
            made.merges[k] = counts["merges"][k]
            made.splits[k] = counts["splits"][k]
            made.frees[k] = counts["frees"][k]
            made.allocs[k] = counts["allocs"][k]
        made.managed = counts["managed"]
        self.areas[number] = made


ctypedef fused width_t:
    uint32_t
    uint64_t


@cython.overflowcheck(False)
cdef inline bint ascends(const width_t *pfns) noexcept nogil:
    """Do 64 consecutive pfns stand there, in ascending order?"""
    cdef width_t differs = 0, first = pfns[0], j
    if pfns[63] != first + 63:
        return False
    for j in range(64):
        differs |= pfns[j] ^ (first + j)
    return differs == 0


cdef inline int set_bits(const width_t *pfns, uint64_t nr, word_t *words, uint64_t limit, uint64_t *span) noexcept nogil:
    """Set the bit of every pfn and note the range they span, [span[0], span[1]); nothing is done when one is at or past the limit.

    A pass of its own finds the bounds: it runs at the speed of the memory, and leaves to the other, which is random, nothing
    but the bits. 64 pfns that fill a word in ascending order are one store.
    """
    cdef uint64_t i, step
    cdef width_t low = pfns[0], high = pfns[0], pfn
    for i in range(nr):
        pfn = pfns[i]
        low = pfn if pfn < low else low
        high = pfn if pfn > high else high
    if high >= limit:
        return BATCH_OUT_OF_RANGE
    span[0] = low
    span[1] = <uint64_t>high + 1
    i = 0
    while i < nr:
        pfn = pfns[i]
        if pfn & 63 == 0 and nr - i >= 64 and ascends(pfns + i):
            words[pfn >> 6] = ALL_ONES
            i += 64
            continue
        step = min(nr - i, 64 - <uint64_t>(pfn & 63)) + i
        if high - low < FAR:
            while i < step:
                words[pfns[i] >> 6] |= (<word_t>1) << (pfns[i] & 63)
                i += 1
        else:
            while i < step:
                __builtin_prefetch(&words[pfns[i + AHEAD if i + AHEAD < nr else i] >> 6], 1)
                words[pfns[i] >> 6] |= (<word_t>1) << (pfns[i] & 63)
                i += 1
    return BATCH_OK


cdef int set_bits_32 "fo_set_bits_32"(const uint32_t *pfns, uint64_t nr, word_t *words, uint64_t limit,
                                       uint64_t *span) noexcept nogil:
    return set_bits(pfns, nr, words, limit, span)


cdef int set_bits_64 "fo_set_bits_64"(const uint64_t *pfns, uint64_t nr, word_t *words, uint64_t limit,
                                       uint64_t *span) noexcept nogil:
    return set_bits(pfns, nr, words, limit, span)
