cimport cython
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memset

import numpy as np

from fastonline.core.bitmap cimport bitmap_weight, ctz, read_only, set_bit, test_bit
from fastonline.core.bitmap import zeroed
from fastonline.core.borders cimport MAX_BORDERS, part_end, part_start
from fastonline.core.buddy cimport buddy_pool_fold
from fastonline.core.buffer cimport data_of
from fastonline.core.lock cimport MachineLock, settle
from fastonline.core.numbers cimport as_number, as_uint64
from fastonline.core.types cimport ALL_ONES, MAX_AREAS, MAX_MAX_ORDER, MIN_MAX_ORDER, NR_ORDERS, max_bits

__all__ = ["COUNTERS", "Engine"]

cdef extern from *:
    """
    #define FASTONLINE_NO_PFN UINT64_MAX
    static FASTONLINE_CLONES void fo_read_32(const uint32_t *, uint64_t, uint64_t *, uint64_t *);
    static FASTONLINE_CLONES void fo_read_64(const uint64_t *, uint64_t, uint64_t *, uint64_t *);
    static FASTONLINE_CLONES void fo_set_bits(const uint64_t *, uint64_t, uint64_t *);
    """
    const uint64_t NO_PFN "FASTONLINE_NO_PFN"

cdef enum:
    READ_PFNS = 512              # read at a time
    FEW_PFNS = 16                # always taken one by one
    KEPT_PFNS = 65536            # room that a batch leaves behind for the next one, at most

# buddy_pool's counters that a user may see, in the order of area_counters() and of a saved machine.
COUNTERS = ("nr_free", "merges", "splits", "frees", "allocs")


@cython.no_gc      # no circle goes through it, and nothing may find it half taken apart
cdef class Engine:
    """The state of every page of a machine and the free blocks of its areas; BitmapEngine and StructPageEngine are the two.

    nr_pages: int, pages there is room for, whole blocks of the largest order; max_order: that order, 6 to 13; nr_areas: free
    areas, the first of which is not used; borders: pfns inside a block at which a zone may end (core/borders.pxd), at most 4.
    TypeError, ValueError and OverflowError for invalid pfns, MemoryError when memory runs out.
    """

    def __cinit__(self, nr_pages, max_order, nr_areas, *args, borders=()):
        cdef uint64_t pages = as_number(nr_pages, "nr_pages", 0, max_bits())
        self.max_order = as_number(max_order, "max_order", MIN_MAX_ORDER, MAX_MAX_ORDER)
        if pages & ((<uint64_t>1 << self.max_order) - 1):
            raise ValueError(f"nr_pages {nr_pages} is not a multiple of 2^{max_order}")
        self.set_borders(borders)
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
        free(self.own_pfns)

    cdef int set_borders(self, borders) except -1:
        cdef pfn_t pfn, mask = (<pfn_t>1 << self.max_order) - 1
        self.borders.max_order = self.borders.shift = self.max_order
        for pfn in sorted(borders):
            if pfn & mask == 0 or self.borders.nr == MAX_BORDERS:
                raise ValueError(f"a border at pfn {pfn:#x} is the {self.borders.nr + 1}th, or does not lie inside a block")
            self.borders.at[self.borders.nr] = pfn
            self.borders.nr += 1
            self.borders.shift = min(self.borders.shift, ctz(pfn))
        return 0

    cdef object grown_areas(self, uint64_t nr_pages):
        """The area_array that grow would make."""
        array = zeroed(nr_pages >> self.borders.shift, np.uint16)     # NO_AREA everywhere
        array[: self.areas_owner.size] = self.areas_owner
        return array

    cdef int own_areas(self, object array, uint64_t nr_pages) except -1:
        self.areas_owner = array
        self.area_of = <area_t *>data_of(array)
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
        cdef buddy_pool *areas = <buddy_pool *>realloc(self.areas, nr_areas * sizeof(buddy_pool))
        cdef int i
        if areas == NULL:
            raise MemoryError(f"cannot allocate {nr_areas} buddy pools")
        self.areas = areas
        for i in range(self.nr_areas, nr_areas):
            memset(&areas[i], 0, sizeof(buddy_pool))
            areas[i].number = i
        self.nr_areas = nr_areas
        return 0

    cdef void assign_area(self, pfn_t start, uint64_t nr, area_t area) noexcept nogil:
        cdef pfn_t first = part_start(&self.borders, start), end = part_end(&self.borders, start + nr - 1)
        cdef uint64_t i
        for i in range(first >> self.borders.shift, end >> self.borders.shift):
            self.area_of[i] = area

    cdef uint64_t area_run(self, pfn_t start, pfn_t end) noexcept nogil:
        cdef pfn_t stop = part_end(&self.borders, start)
        cdef uint64_t first = start >> self.borders.shift, last = (end - 1) >> self.borders.shift
        cdef area_t area = self.area_of[first]
        # every number is the next one's equal: most ranges lie in one area
        if memcmp(&self.area_of[first], &self.area_of[first + 1], (last - first) * sizeof(area_t)) == 0:
            return end - start
        while stop < end and self.area_of[stop >> self.borders.shift] == area:
            stop = part_end(&self.borders, stop) if self.borders.nr else stop + (<pfn_t>1 << self.borders.shift)
        return min(end, stop) - start

    cdef int gather(self, pfn_batch *batch, uint64_t *bad) noexcept nogil:
        cdef uint64_t[2] span
        cdef word_t *words = self.batch_words
        cdef bint inside, copied
        batch.one_by_one |= self.in_order
        copied = batch.one_by_one or batch.nr < self.nr_pages / SPARSE + FEW_PFNS
        if copied and not self.copy_batch(batch, span):
            return BATCH_NO_MEMORY
        inside = span[1] < self.nr_pages if copied else set_batch(batch, words, self.nr_pages, span)
        if not inside and (copied or span[0] == NO_PFN):
            return self.first_outside(batch, bad)
        batch.first = span[0]
        batch.end = span[1] + 1
        if copied:
            if batch.nr < (batch.end - batch.first) / SPARSE + FEW_PFNS:
                batch.one_by_one = True
                if not any_repeated(batch.pfns64, batch.nr, words):
                    return BATCH_OK
                bad[0] = first_repeated(batch, words)
                return BATCH_TWICE
            set_bits(batch.pfns64, batch.nr, words)
        if inside and bitmap_weight(words, batch.first, batch.end - batch.first) == batch.nr:
            if batch.one_by_one:
                clear_words(words, batch)
            return BATCH_OK
        clear_words(words, batch)
        if not inside:
            return self.first_outside(batch, bad)
        # some are repeated: the first to be so is found by a second, slower walk
        bad[0] = first_repeated(batch, words)
        return BATCH_TWICE if bad[0] < batch.nr else BATCH_CHANGED

    cdef int first_outside(self, const pfn_batch *batch, uint64_t *bad) noexcept nogil:
        bad[0] = 0
        while bad[0] < batch.nr and pfn_at(batch, bad[0]) < self.nr_pages:
            bad[0] += 1
        return BATCH_OUT_OF_RANGE if bad[0] < batch.nr else BATCH_CHANGED

    cdef bint copy_batch(self, pfn_batch *batch, uint64_t *span) noexcept nogil:
        """Copy the pfns, which another thread may change at any time, and note their span."""
        cdef uint64_t *pfns = self.own_pfns
        if batch.nr > self.own_room or self.own_room > KEPT_PFNS and batch.nr <= KEPT_PFNS:
            pfns = <uint64_t *>realloc(pfns, max(batch.nr, <uint64_t>64) * sizeof(uint64_t))
            if pfns == NULL:
                return False
            self.own_pfns = pfns
            self.own_room = max(batch.nr, <uint64_t>64)
        span[0] = NO_PFN
        span[1] = 0
        read_batch(batch, 0, batch.nr, pfns, span)
        batch.pfns32 = NULL
        batch.pfns64 = pfns
        return True

    cdef void ungather(self, const pfn_batch *batch) noexcept nogil:
        if not batch.one_by_one:
            clear_words(self.batch_words, batch)

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
    cdef bint meets_prepared(self, pfn_t start, uint64_t nr) noexcept nogil: return False
    cdef int64_t find_unprepared(self, const pfn_batch *batch, pfn_t start) noexcept nogil: return -1
    cdef int64_t find_unfreeable(self, const pfn_batch *batch) noexcept nogil: return -1
    cdef uint64_t online_batch(self, const pfn_batch *batch) noexcept nogil: return 0
    cdef void free_batch(self, const pfn_batch *batch) noexcept nogil: pass
    cdef int64_t alloc_block(self, area_t area, int order) noexcept nogil: return -1
    cdef uint64_t alloc_pages(self, area_t area, uint64_t nr, int64_t *out) noexcept nogil: return 0
    cdef bint freeable(self, pfn_t pfn, int order) noexcept nogil: return False
    cdef void free_block(self, pfn_t pfn, int order) noexcept nogil: pass

    cdef uint64_t reserve_batch(self, const pfn_batch *batch) noexcept nogil:
        cdef uint64_t i = 0, run, reserved = 0
        while i < batch.nr:
            run = run_at(batch, i)
            reserved += self.reserve_range(pfn_at(batch, i), run)
            i += run
        return reserved

    cdef void account(self, pfn_t start, int64_t nr) noexcept nogil:
        self.areas[self.area_of[start >> self.borders.shift]].managed += nr

    @property
    def area_array(self):
        """The area of each block of 2^max_order pages, or of each part of one where zones meet inside blocks, 0 for none:
        read-only uint16 view."""
        return read_only(self.areas_owner)

    def bytes_touched(self):
        """Bytes of page state written since the engine was made."""
        return self.touched

    def set_touched(self, nr_bytes):
        """Set the count of bytes."""
        self.touched = as_uint64(nr_bytes, "nr_bytes")

    def area_counters(self, area):
        """Return the exact counts of one free area: {name of COUNTERS: (NR_ORDERS,) int64 array, "managed": int}."""
        cdef int number = as_number(area, "area", 0, self.nr_areas - 1)
        settle(self.lock)
        return self.counters(number)

    cdef dict counters(self, int area):
        cdef buddy_pool *a = &self.areas[area]
        cdef int k
        buddy_pool_fold(a)
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
        """Set the counts that area_counters returns."""
        cdef int k, number = as_number(area, "area", 0, self.nr_areas - 1)
        cdef buddy_pool made
        buddy_pool_fold(&self.areas[number])
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


cdef inline void read(const width_t *pfns, uint64_t nr, uint64_t *out, uint64_t *span) noexcept nogil:
    """Copy some pfns, and widen the span, first and last, to hold them."""
    cdef uint64_t i, pfn, low = span[0], high = span[1]
    for i in range(nr):
        pfn = pfns[i]
        out[i] = pfn
        low = pfn if pfn < low else low
        high = pfn if pfn > high else high
    span[0] = low
    span[1] = high


cdef void read_32 "fo_read_32"(const uint32_t *pfns, uint64_t nr, uint64_t *out, uint64_t *span) noexcept nogil:
    read(pfns, nr, out, span)


cdef void read_64 "fo_read_64"(const uint64_t *pfns, uint64_t nr, uint64_t *out, uint64_t *span) noexcept nogil:
    read(pfns, nr, out, span)


cdef void read_batch(const pfn_batch *batch, uint64_t at, uint64_t nr, uint64_t *out, uint64_t *span) noexcept nogil:
    if batch.pfns64 != NULL:
        read_64(batch.pfns64 + at, nr, out, span)
    else:
        read_32(batch.pfns32 + at, nr, out, span)


@cython.overflowcheck(False)
cdef inline bint ascends(const uint64_t *pfns) noexcept nogil:
    """Do 64 consecutive pfns stand there, in ascending order?"""
    cdef uint64_t differs = 0, first = pfns[0], j
    if pfns[63] != first + 63:
        return False
    for j in range(64):
        differs |= pfns[j] ^ (first + j)
    return differs == 0


cdef void set_bits "fo_set_bits"(const uint64_t *pfns, uint64_t nr, word_t *words) noexcept nogil:
    """Set the bit of every pfn. 64 pfns that fill a word in ascending order are one store."""
    cdef uint64_t i = 0, step, pfn
    while i < nr:
        pfn = pfns[i]
        if pfn & 63 == 0 and nr - i >= 64 and ascends(pfns + i):
            words[pfn >> 6] = ALL_ONES
            i += 64
            continue
        step = min(nr - i, 64 - (pfn & 63)) + i
        while i < step:
            words[pfns[i] >> 6] |= (<word_t>1) << (pfns[i] & 63)
            i += 1


cdef bint set_batch(const pfn_batch *batch, word_t *words, uint64_t limit, uint64_t *span) noexcept nogil:
    """Set the bit of every pfn and note the span, first and last; False: one is at or past the limit, and those of the span are
    set.

    Another thread may change the array at any time, so that each pfn is read once: some go to the nearest cache, where their
    bounds are found, at the speed of the memory; then their bits, at random.
    """
    cdef uint64_t near[READ_PFNS]
    cdef uint64_t done = 0, some
    cdef uint64_t[2] wider
    wider[0] = span[0] = NO_PFN
    wider[1] = span[1] = 0
    while done < batch.nr:
        some = min(batch.nr - done, <uint64_t>READ_PFNS)
        read_batch(batch, done, some, near, wider)
        if wider[1] >= limit:
            return False
        span[0] = wider[0]
        span[1] = wider[1]
        set_bits(near, some, words)
        done += some
    return True


cdef bint any_repeated(const uint64_t *pfns, uint64_t nr, word_t *words) noexcept nogil:
    """Is a pfn of a copied batch repeated? The words are zero before and after."""
    cdef uint64_t i
    cdef word_t repeated = 0, before, bit
    for i in range(nr):
        before = words[pfns[i] >> 6]
        bit = <word_t>1 << (pfns[i] & 63)
        repeated |= before & bit
        words[pfns[i] >> 6] = before | bit
    for i in range(nr):
        words[pfns[i] >> 6] = 0
    return repeated != 0


cdef uint64_t first_repeated(const pfn_batch *batch, word_t *words) noexcept nogil:
    """Index of the first pfn that repeats an earlier one of the batch, or the batch's length if none does: the array may have
    changed meanwhile. The words are zero before and after."""
    cdef uint64_t i, found = batch.nr
    cdef pfn_t pfn
    for i in range(batch.nr):
        pfn = pfn_at(batch, i)
        if pfn < batch.first or pfn >= batch.end:
            continue
        if test_bit(words, pfn):
            found = i
            break
        set_bit(words, pfn)
    clear_words(words, batch)
    return found


cdef void clear_words(word_t *words, const pfn_batch *batch) noexcept nogil:
    memset(&words[batch.first >> 6], 0, (((batch.end - 1) >> 6) + 1 - (batch.first >> 6)) * sizeof(word_t))
