cimport cython
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

import numpy as np

from fastonline.core.bitmap cimport bitmap_weight, clear_bit, set_bit, test_bit
from fastonline.core.bitmap import zeroed
from fastonline.core.buddy cimport free_area_fold, free_area_init
from fastonline.core.types cimport NR_ORDERS, int64_t, word_t

# free_area's counters that a user may see, in the order of area_counters() and of a saved machine.
COUNTERS = ("nr_free", "merges", "splits", "frees", "allocs")


cdef class Engine:
    def __cinit__(self, uint64_t nr_pages, int max_order, int nr_areas, *args):
        self.max_order = max_order
        self.areas = NULL
        self.area_array = np.empty(0, np.uint16)
        self._grow_areas_of(nr_pages)
        self.add_areas(nr_areas)

    def __dealloc__(self):
        free(self.areas)

    def _grow_areas_of(self, uint64_t nr_pages):
        cdef area_t[::1] view
        array = zeroed(nr_pages >> self.max_order, np.uint16)     # NO_AREA everywhere
        array[: self.area_array.size] = self.area_array
        view = array
        self.area_array = array
        self.area_of = &view[0] if view.shape[0] else NULL
        self.nr_blocks = view.shape[0]
        self.nr_pages = nr_pages

    cdef int grow(self, uint64_t nr_pages, list spans) except -1:
        """Make room for `nr_pages`, carrying over the (start, nr) page ranges in `spans`."""
        if self.batch is not None:
            self.batch.grow(nr_pages, [])
            self.batch_words = self.batch.words
        self._grow_areas_of(nr_pages)
        return 0

    cdef int add_areas(self, int nr_areas) except -1:
        cdef free_area *areas = <free_area *>realloc(self.areas, nr_areas * sizeof(free_area))
        cdef int i
        if areas == NULL:
            raise MemoryError(f"no memory for {nr_areas} free areas")
        self.areas = areas
        for i in range(self.nr_areas, nr_areas):
            free_area_init(&areas[i])
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

    cdef int need_batch(self) except -1:
        if self.batch is None:
            self.batch = Bitmap(self.nr_pages)
            self.batch_words = self.batch.words
        return 0

    cdef int gather(self, pfn_batch *batch, uint64_t *bad) noexcept nogil:
        cdef word_t *words = self.batch_words
        cdef uint64_t i
        cdef int why
        if batch.pfns64 != NULL:
            why = gather_pfns(batch.pfns64, batch, words, self.nr_pages, bad)
        else:
            why = gather_pfns(batch.pfns32, batch, words, self.nr_pages, bad)
        if why == BATCH_OK and bitmap_weight(words, batch.first, batch.end - batch.first) != batch.nr:
            # some stand there twice: the first to do so is found by a second, slower walk
            self.ungather(batch)
            why = BATCH_TWICE
            for i in range(batch.nr):
                if test_bit(words, pfn_at(batch, i)):
                    bad[0] = i
                    break
                set_bit(words, pfn_at(batch, i))
        if why != BATCH_OK:
            for i in range(bad[0]):
                clear_bit(words, pfn_at(batch, i))
        return why

    cdef void ungather(self, const pfn_batch *batch) noexcept nogil:
        cdef uint64_t first = batch.first >> 6, end = (batch.end + 63) >> 6, i
        if batch.nr < (end - first) >> 3:
            for i in range(batch.nr):
                self.batch_words[pfn_at(batch, i) >> 6] = 0
        else:
            memset(&self.batch_words[first], 0, (end - first) * sizeof(word_t))

    # The rest is each engine's own; the bodies here are never run.
    cdef int state(self, pfn_t pfn) noexcept nogil: return 0
    cdef void states(self, pfn_t start, uint64_t nr, uint8_t *out) noexcept nogil: pass
    cdef uint64_t weigh(self, int flag, pfn_t start, uint64_t nr) noexcept nogil: return 0
    cdef int64_t find_used(self, pfn_t start, uint64_t nr) noexcept nogil: return -1
    cdef void init_pages(self, pfn_t start, uint64_t nr) noexcept nogil: pass
    cdef void forget_pages(self, pfn_t start, uint64_t nr) noexcept nogil: pass
    cdef void prepare_pages(self, pfn_t start, uint64_t nr) noexcept nogil: pass
    cdef void unprepare_pages(self, pfn_t start, uint64_t nr) noexcept nogil: pass
    cdef bint all_waiting(self, pfn_t start, uint64_t nr) noexcept nogil: return False
    cdef uint64_t online_range(self, pfn_t start, uint64_t nr, int order) noexcept nogil: return 0
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

    @cython.overflowcheck(False)    # adding a negative number wraps
    cdef void account(self, pfn_t start, int64_t nr) noexcept nogil:
        self.areas[self.area_of[start >> self.max_order]].managed += nr

    def bytes_touched(self):
        """Bytes of page state written since the engine was made."""
        return self.touched

    def set_touched(self, uint64_t nr_bytes):
        """Go on counting from so many bytes."""
        self.touched = nr_bytes

    def area_counters(self, int area):
        """Exact counts of one free area: dict of COUNTERS -> (NR_ORDERS,) int64, and "managed" -> int."""
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

    def set_area_counters(self, int area, dict counts):
        """The inverse of area_counters; search hints start over."""
        cdef free_area *a = &self.areas[area]
        cdef int k
        free_area_init(a)
        for k in range(NR_ORDERS):
            a.nr_free[k] = counts["nr_free"][k]
            a.merges[k] = counts["merges"][k]
            a.splits[k] = counts["splits"][k]
            a.frees[k] = counts["frees"][k]
            a.allocs[k] = counts["allocs"][k]
            a.hint[k] = 0
        a.managed = counts["managed"]


ctypedef fused width_t:
    uint32_t
    uint64_t


cdef int gather_pfns(const width_t *pfns, pfn_batch *batch, word_t *words, uint64_t limit, uint64_t *bad) noexcept nogil:
    cdef uint64_t i = 0, j, nr = batch.nr, pfn, differs
    cdef pfn_t low = limit, high = 0
    while i < nr:
        pfn = pfns[i]
        if pfn >= limit:
            bad[0] = i
            return BATCH_OUT_OF_RANGE
        if pfn < low:
            low = pfn
        if pfn > high:
            high = pfn
        if pfn & 63 == 0 and i + 64 <= nr and pfns[i + 63] == pfn + 63 and words[pfn >> 6] == 0:
            # most likely a whole word in ascending order
            differs = 0
            for j in range(64):
                differs |= pfns[i + j] ^ (pfn + j)
            if differs == 0:
                words[pfn >> 6] = <word_t>-1
                high = max(high, pfn + 63)
                i += 64
                continue
        words[pfn >> 6] |= (<word_t>1) << (pfn & 63)
        i += 1
    batch.first = low
    batch.end = high + 1
    return BATCH_OK
