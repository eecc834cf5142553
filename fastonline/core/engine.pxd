"""The contract of a page engine: it keeps the state of every page and the free blocks of every area.

Two engines keep this one contract, `BitmapEngine` (bitmap_engine.pyx) and `StructPageEngine` (structpage.pyx). Callers check
ranges; nothing here fails for its arguments. A page is in one of these states:

    absent      no flag: no section there
    added       PG_reserved                    memmap there, nothing online
    waiting     PG_reserved | PG_prepared      prepared, not (or no longer) with the allocator
    free        PG_buddy | PG_prepared
    in use      PG_prepared, and PG_tail on all but the first page of an allocation of several
    offline     PG_offline | PG_prepared       given back to the host by a driver
"""

cimport cython

from fastonline.core.bitmap cimport Bitmap
from fastonline.core.borders cimport zone_borders
from fastonline.core.buddy cimport buddy_pool
from fastonline.core.lock cimport MachineLock
from fastonline.core.types cimport area_t, int64_t, pfn_t, uint8_t, uint32_t, uint64_t, word_t

cdef extern from *:
    enum: RELAXED "__ATOMIC_RELAXED"
    uint64_t fetch_add "__atomic_fetch_add"(uint64_t *, uint64_t, int) noexcept nogil

cdef enum:
    BATCH_OK = 0
    BATCH_OUT_OF_RANGE = 1
    BATCH_TWICE = 2
    BATCH_CHANGED = 3            # by another thread, while it was read
    BATCH_NO_MEMORY = 4
    SPARSE = 128                 # fewer pages than one in so many that they span are taken one by one

cdef struct pfn_batch:           # an array of pfns in one of two widths
    const uint32_t *pfns32
    const uint64_t *pfns64
    uint64_t nr
    pfn_t first, end             # the range they span; set by gather
    bint one_by_one              # its pages are taken in their order, from a copy; asked for by the caller, or set by gather

cdef inline pfn_t pfn_at(const pfn_batch *batch, uint64_t i) noexcept nogil:
    return batch.pfns64[i] if batch.pfns64 != NULL else batch.pfns32[i]

cdef inline uint64_t run_at(const pfn_batch *batch, uint64_t i) noexcept nogil:
    """Pages from the i-th on that follow one upon the other."""
    cdef uint64_t j = i + 1
    while j < batch.nr and pfn_at(batch, j) == pfn_at(batch, j - 1) + 1:
        j += 1
    return j - i


cdef class Engine:
    cdef readonly uint64_t nr_pages      # pages there is room for; whole blocks of the largest order
    cdef readonly int max_order
    cdef readonly int nr_areas
    cdef buddy_pool *areas
    cdef area_t *area_of                 # area of each 2^borders.shift pages, NO_AREA = none
    cdef zone_borders borders            # zone borders inside a block of the largest order
    cdef readonly uint64_t touched       # bytes of page state written since the engine was made
    cdef bint shared                     # several threads work on it, each on pages of its own
    cdef object areas_owner              # owns area_of: (nr_pages >> borders.shift,) uint16
    cdef Bitmap batch                    # one bit per page, all zero outside batch calls
    cdef word_t *batch_words
    cdef uint64_t *own_pfns              # the copy of a batch
    cdef uint64_t own_room
    cdef bint in_order                   # the free lists depend on the order of frees
    cdef MachineLock lock                # of the machine that the engine is part of
    cdef uint64_t page_bits              # bits of state that a step over a range touches for each page

    @cython.overflowcheck(False)     # an engine may store a difference, which wraps
    cdef inline void count_touched(self, uint64_t nr_bytes) noexcept nogil:
        if self.shared:
            fetch_add(&self.touched, nr_bytes, RELAXED)
        else:
            self.touched += nr_bytes

    # room
    cdef int set_borders(self, borders) except -1
    cdef int grow(self, uint64_t nr_pages, list spans) except -1
    cdef object grown_areas(self, uint64_t nr_pages)
    cdef int own_areas(self, object array, uint64_t nr_pages) except -1
    cdef dict counters(self, int area)                                       # as area_counters, of an area that is there
    cdef int add_areas(self, int nr_areas) except -1
    cdef void assign_area(self, pfn_t start, uint64_t nr, area_t area) noexcept nogil
    cdef uint64_t area_run(self, pfn_t start, pfn_t end) noexcept nogil      # pages from start on in one area
    # planes: the state of the page ranges (start, nr) for a saved machine, {name: list of arrays, or one array}. The arrays
    # may be the engine's own. set_planes is the inverse.
    cdef dict planes(self, list spans)
    cdef int set_planes(self, list spans, dict planes) except -1
    cdef int summarize(self, list spans) except -1    # compute the rest of the state from planes and areas
    # batches: gather sets the bits of a batch, or copies its pfns where they are taken one by one. If it fails, `bad` is the
    # index of the wrong pfn, and nothing has changed.
    cdef int gather(self, pfn_batch *batch, uint64_t *bad) noexcept nogil
    cdef void ungather(self, const pfn_batch *batch) noexcept nogil
    cdef bint copy_batch(self, pfn_batch *batch, uint64_t *span) noexcept nogil
    cdef int first_outside(self, const pfn_batch *batch, uint64_t *bad) noexcept nogil
    # is a page of the range gathered and prepared?
    cdef bint meets_prepared(self, pfn_t start, uint64_t nr) noexcept nogil

    # state
    cdef int state(self, pfn_t pfn) noexcept nogil                           # mask of PG_*
    cdef void states(self, pfn_t start, uint64_t nr, uint8_t *out) noexcept nogil
    cdef uint64_t weigh(self, int flag, pfn_t start, uint64_t nr) noexcept nogil   # pages with one PG_* set
    cdef int64_t find_used(self, pfn_t start, uint64_t nr) noexcept nogil    # first page in use, -1: none
    # transitions of ranges
    cdef void init_pages(self, pfn_t start, uint64_t nr) noexcept nogil      # absent -> added (memmap_init)
    cdef void forget_pages(self, pfn_t start, uint64_t nr) noexcept nogil    # added -> absent
    cdef void prepare_pages(self, pfn_t start, uint64_t nr) noexcept nogil   # added -> waiting
    cdef void unprepare_pages(self, pfn_t start, uint64_t nr) noexcept nogil  # waiting -> added
    cdef bint all_waiting(self, pfn_t start, uint64_t nr) noexcept nogil
    # waiting -> free: how many; known: the caller has checked that all of the range is waiting
    cdef uint64_t online_range(self, pfn_t start, uint64_t nr, int order, bint known) noexcept nogil
    cdef uint64_t take_range(self, pfn_t start, uint64_t nr) noexcept nogil  # all but in use -> added: how many were free
    cdef uint64_t reserve_range(self, pfn_t start, uint64_t nr) noexcept nogil     # free, in use, offline -> waiting: how many
    cdef uint64_t reserve_batch(self, const pfn_batch *batch) noexcept nogil       # run by run, in the order of the array
    cdef void claim_range(self, pfn_t start, uint64_t nr) noexcept nogil     # free -> in use, as single pages
    cdef void set_offline(self, pfn_t start, uint64_t nr) noexcept nogil     # in use -> offline
    cdef void clear_offline(self, pfn_t start, uint64_t nr) noexcept nogil   # offline -> in use
    # online_range of waiting pages of one area is these three, one after the other
    cdef void clear_reserved(self, pfn_t start, uint64_t nr) noexcept nogil
    cdef void free_range(self, pfn_t start, uint64_t nr, int order) noexcept nogil
    cdef void account(self, pfn_t start, int64_t nr) noexcept nogil    # nr pages given to the allocator, or taken away
    # transitions of single pages
    cdef int online_page(self, pfn_t pfn) noexcept nogil                     # waiting -> free: 1; -1 unprepared, else 0
    # transitions of gathered batches, in the order of the array where order matters
    cdef int64_t find_unprepared(self, const pfn_batch *batch, pfn_t start) noexcept nogil   # lowest at or after start, -1
    cdef int64_t find_unfreeable(self, const pfn_batch *batch) noexcept nogil                # one that is no single page in use
    cdef uint64_t online_batch(self, const pfn_batch *batch) noexcept nogil
    cdef void free_batch(self, const pfn_batch *batch) noexcept nogil
    # the allocator
    cdef int64_t alloc_block(self, area_t area, int order) noexcept nogil    # -1: none that fits
    cdef uint64_t alloc_pages(self, area_t area, uint64_t nr, int64_t *out) noexcept nogil
    cdef bint freeable(self, pfn_t pfn, int order) noexcept nogil            # is this one allocation of that order?
    cdef void free_block(self, pfn_t pfn, int order) noexcept nogil
