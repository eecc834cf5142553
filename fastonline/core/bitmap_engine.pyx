cimport cython
from libc.string cimport memset

from fastonline.core.bitmap cimport (
    bitmap_clear, bitmap_empty, bitmap_full, bitmap_set, bitmap_weight, clear_bit, ctz, find_next_bit, find_next_zero_bit,
    hweight64, ones_from, range_mask, set_bit, test_bit,
)
from fastonline.core.borders cimport has_border, next_bordered
from fastonline.core.buddy cimport (
    NO_GROUP, area_of_page, buddy, buddy_alloc_block, buddy_alloc_pages, buddy_free_block, buddy_free_page, buddy_free_range,
    buddy_free_words, buddy_hang_pending, buddy_layout, buddy_summarize, buddy_take_page, buddy_take_range, buddy_wrong_group,
)
from fastonline.core.engine cimport pfn_at, pfn_batch, run_at
from fastonline.core.pageflags cimport (
    PG_buddy, PG_offline, PG_prepared, PG_reserved, PG_tail, PagePrepared, PageTail, page_flags,
)
from fastonline.core.types cimport ALL_ONES, area_t, int64_t, uint8_t, word_t

__all__ = ["BitmapEngine", "PLANES"]

cdef extern from *:
    """
    static FASTONLINE_CLONES uint64_t fo_words_used(const void *, const uint64_t *, uint64_t, uint64_t);
    static FASTONLINE_CLONES uint64_t fo_online_each(void *, void *, const uint64_t *, uint64_t);
    static FASTONLINE_CLONES uint64_t fo_free_each(void *, const uint64_t *, uint64_t);
    static FASTONLINE_CLONES uint64_t fo_reserve_each(void *, const void *, uint64_t, const uint64_t *, uint64_t);
    static FASTONLINE_CLONES uint64_t fo_any_unfreeable_of(const void *, const uint64_t *, uint64_t, const uint64_t *,
        uint64_t);
    static FASTONLINE_CLONES void fo_keep_waiting(uint64_t *, const uint64_t *, const uint64_t *, uint64_t, uint64_t);
    static FASTONLINE_CLONES void fo_andnot_words(uint64_t *, const uint64_t *, uint64_t, uint64_t);
    static FASTONLINE_CLONES uint64_t fo_any_unfreeable(const void *, const uint64_t *, const uint64_t *, uint64_t, uint64_t);
    """

PLANES = ("free", "reserved", "offline", "tail", "prepared")


cdef word_t words_used "fo_words_used"(const void *planes, const word_t *free, uint64_t first, uint64_t end) noexcept nogil:
    """The OR of the pages in use of words [first, end): 0 if no page is in use."""
    cdef page_flags flags = (<const page_flags *>planes)[0]
    cdef word_t used = 0
    cdef uint64_t w
    for w in range(first, end):
        used |= in_use(&flags, free, w)
    return used


@cython.overflowcheck(False)    # bits are shifted out on purpose
cdef uint64_t any_unfreeable "fo_any_unfreeable"(const void *planes, const word_t *free, const word_t *batch, uint64_t first,
                                                 uint64_t nr) noexcept nogil:
    """Engine.find_unfreeable for words that have a successor: is there one?"""
    cdef page_flags flags = (<const page_flags *>planes)[0]
    cdef word_t wrong = 0
    cdef uint64_t w
    for w in range(first, first + nr):
        wrong |= batch[w] & (~in_use(&flags, free, w) | flags.tail[w] | flags.tail[w] >> 1 | flags.tail[w + 1] << 63)
    return wrong


cdef uint64_t online_each "fo_online_each"(void *b, void *flags, const uint64_t *pfns, uint64_t nr) noexcept nogil:
    """Put single pages online until one needs the slow path; return how many went online."""
    cdef uint64_t i = 0
    while i < nr and online_quickly(<buddy *>b, <page_flags *>flags, pfns[i]):
        i += 1
    return i


cdef uint64_t free_each "fo_free_each"(void *b, const uint64_t *pfns, uint64_t nr) noexcept nogil:
    """Free single pages until one needs the slow path; return how many were freed."""
    cdef uint64_t i = 0
    while i < nr and buddy_free_quickly(<buddy *>b, pfns[i]) != NULL:
        i += 1
    return i


cdef uint64_t reserve_each "fo_reserve_each"(void *b, const void *planes, uint64_t nr_pages, const uint64_t *pfns,
                                             uint64_t nr) noexcept nogil:
    """Reserve single pages in use. Stop at a page that is not one, or at two consecutive pages. Return how many were
    reserved."""
    cdef page_flags flags = (<const page_flags *>planes)[0]
    cdef const word_t *free = (<buddy *>b).free
    cdef pfn_t pfn, after = pfns[0]
    cdef uint64_t i
    for i in range(nr):
        pfn = after
        after = pfns[i + 1] if i + 1 < nr else 0
        if after == pfn + 1 or unfreeable(&flags, free, nr_pages, pfn):
            return i
        set_bit(flags.reserved, pfn)
        area_of_page(<buddy *>b, pfn).managed -= 1
    return nr


cdef uint64_t any_unfreeable_of "fo_any_unfreeable_of"(const void *planes, const word_t *free, uint64_t nr_pages,
                                                       const uint64_t *pfns, uint64_t nr) noexcept nogil:
    """Engine.find_unfreeable for an array of pfns: is there one?"""
    cdef page_flags flags = (<const page_flags *>planes)[0]
    cdef uint64_t wrong = 0, i
    for i in range(nr):
        wrong |= unfreeable(&flags, free, nr_pages, pfns[i])
    return wrong


cdef void keep_waiting "fo_keep_waiting"(word_t *words, const word_t *reserved, const word_t *prepared, uint64_t first,
                                         uint64_t end) noexcept nogil:
    """Clear the bits of pages that are not waiting."""
    cdef uint64_t w
    for w in range(first, end):
        words[w] &= reserved[w] & prepared[w]


cdef void andnot_words "fo_andnot_words"(word_t *words, const word_t *bits, uint64_t first, uint64_t end) noexcept nogil:
    cdef uint64_t w
    for w in range(first, end):
        words[w] &= ~bits[w]


cdef inline bint all_alike(word_t x) noexcept nogil:
    return x == 0 or x == ALL_ONES


cdef Bitmap new_counts(uint64_t nr_pages, int max_order):
    cdef buddy layout
    buddy_layout(&layout, nr_pages, max_order)
    return Bitmap(layout.nr_groups << 6)


cdef inline bint of_several(BitmapEngine engine, pfn_t pfn) noexcept nogil:
    """Is the page part of an allocation of several?"""
    return PageTail(&engine.flags, pfn) or pfn + 1 < engine.nr_pages and PageTail(&engine.flags, pfn + 1)


@cython.no_gc      # no circle goes through it, and nothing may find it half taken apart
cdef class BitmapEngine(Engine):
    def __cinit__(self, nr_pages, max_order, nr_areas, *args, borders=()):
        self.free = Bitmap(self.nr_pages)
        self.full = Bitmap((self.nr_pages + 63) >> 6)
        self.reserved = Bitmap(self.nr_pages)
        self.offline = Bitmap(self.nr_pages)
        self.tail = Bitmap(self.nr_pages)
        self.prepared = Bitmap(self.nr_pages)
        self.own_summary(new_counts(self.nr_pages, self.max_order), self.new_trees(self.nr_pages, 0, self.nr_areas))

    cdef void cache_pointers(self) noexcept:
        cdef int area
        self.flags.reserved = self.reserved.words
        self.flags.offline = self.offline.words
        self.flags.tail = self.tail.words
        self.flags.prepared = self.prepared.words
        self.buddy.free = self.free.words
        self.buddy.full = self.full.words
        self.buddy.area_of = self.area_of
        self.buddy.borders = self.borders
        self.buddy.counts = self.counts.words
        self.buddy.areas = self.areas
        self.buddy.nr_areas = self.nr_areas
        for area in range(self.nr_areas):
            self.areas[area].tree = (<Bitmap>self.trees[area]).words

    cdef int grow(self, uint64_t nr_pages, list spans) except -1:
        cdef Bitmap plane
        # all room is made before any of it is used: a MemoryError changes nothing
        planes = (self.free, self.reserved, self.offline, self.tail, self.prepared)
        arrays = [plane.grown(nr_pages, spans) for plane in planes]
        counts = new_counts(nr_pages, self.max_order)
        trees = self.new_trees(nr_pages, 0, self.nr_areas)
        full = self.full.grown((nr_pages + 63) >> 6, [(start >> 6, (nr + 63) >> 6) for start, nr in spans])
        Engine.grow(self, nr_pages, spans)
        for plane, array in zip(planes, arrays):
            (<Bitmap>plane).own(array, nr_pages)
        self.full.own(full, (nr_pages + 63) >> 6)
        self.own_summary(counts, trees)
        self.summarize(spans)
        return 0

    cdef int add_areas(self, int nr_areas) except -1:
        if self.trees is None:      # the base class makes the first ones before there is a plane
            return Engine.add_areas(self, nr_areas)
        trees = self.trees + self.new_trees(self.nr_pages, self.nr_areas, nr_areas)
        Engine.add_areas(self, nr_areas)
        self.trees = trees
        self.cache_pointers()
        return 0

    cdef list new_trees(self, uint64_t nr_pages, int first_area, int end_area):
        """Empty trees of the areas [first_area, end_area) for so many pages."""
        cdef buddy layout
        cdef uint64_t words = buddy_layout(&layout, nr_pages, self.max_order)
        return [Bitmap(words << 6) for _ in range(first_area, end_area)]

    cdef void own_summary(self, Bitmap counts, list trees) noexcept:
        """From now on this is the summary of the pages there is room for."""
        buddy_layout(&self.buddy, self.nr_pages, self.max_order)
        self.counts = counts
        self.trees = trees
        self.cache_pointers()

    cdef int summarize(self, list spans) except -1:
        cdef uint64_t start, nr
        for start, nr in spans:
            buddy_summarize(&self.buddy, start, nr)
        return 0

    @property
    def searched(self):
        """Words of the summary and of the planes that allocations have looked at."""
        return self.buddy.searched

    cdef dict planes(self, list spans):
        """The words of every plane in the page ranges, whole words; `full` follows from them."""
        return {
            name: [(<Bitmap>plane).owner[start >> 6 : (start + nr) >> 6] for start, nr in spans]
            for name, plane in self.named_planes()
        }

    cdef int set_planes(self, list spans, dict planes) except -1:
        cdef uint64_t first, pages, w
        for name, plane in self.named_planes():
            for (start, nr), words in zip(spans, planes[name], strict=True):
                (<Bitmap>plane).owner[start >> 6 : (start + nr) >> 6] = words
        for first, pages in spans:
            for w in range(first >> 6, (first + pages) >> 6):
                if self.buddy.free[w] == ALL_ONES:
                    set_bit(self.buddy.full, w)
                else:
                    clear_bit(self.buddy.full, w)
        return 0

    cdef list named_planes(self):
        return list(zip(PLANES, (self.free, self.reserved, self.offline, self.tail, self.prepared)))

    def bytes_touched(self):
        """Bytes of page state written since the engine was made."""
        return self.touched + self.singles * 2 * sizeof(word_t)

    def set_touched(self, nr_bytes):
        """Go on counting from so many bytes."""
        Engine.set_touched(self, nr_bytes)
        self.singles = 0

    cdef int check_summary(self, pfn_t start, uint64_t nr) except -1:
        """AssertionError when the summary of the free blocks is not what the planes make up in a range of whole blocks."""
        cdef uint64_t group = buddy_wrong_group(&self.buddy, start, nr)
        if group != NO_GROUP:
            raise AssertionError(f"the summary of the free blocks is wrong at page {group << self.buddy.group_order:#x}")
        return 0

    def view(self, str flag not None):
        """Read-only uint64 view of one flag's plane."""
        return {
            "PG_reserved": self.reserved, "PG_buddy": self.free, "PG_offline": self.offline, "PG_tail": self.tail,
            "PG_prepared": self.prepared,
        }[flag].view()

    # -- state

    cdef int state(self, pfn_t pfn) noexcept nogil:
        return (
            test_bit(self.flags.reserved, pfn) * PG_reserved | test_bit(self.buddy.free, pfn) * PG_buddy
            | test_bit(self.flags.offline, pfn) * PG_offline | test_bit(self.flags.tail, pfn) * PG_tail
            | test_bit(self.flags.prepared, pfn) * PG_prepared
        )

    cdef void states(self, pfn_t start, uint64_t nr, uint8_t *out) noexcept nogil:
        cdef uint64_t i = 0, w, stop
        while i < nr:
            w = (start + i) >> 6
            stop = min(nr, ((w + 1) << 6) - start)
            if all_alike(self.flags.reserved[w]) and all_alike(self.buddy.free[w]) and all_alike(self.flags.offline[w]) \
                    and all_alike(self.flags.tail[w]) and all_alike(self.flags.prepared[w]):
                memset(out + i, self.state(start + i), stop - i)
                i = stop
            while i < stop:
                out[i] = self.state(start + i)
                i += 1

    cdef uint64_t weigh(self, int flag, pfn_t start, uint64_t nr) noexcept nogil:
        cdef word_t *words
        if flag == PG_reserved:
            words = self.flags.reserved
        elif flag == PG_buddy:
            words = self.buddy.free
        elif flag == PG_offline:
            words = self.flags.offline
        elif flag == PG_tail:
            words = self.flags.tail
        else:
            words = self.flags.prepared
        return bitmap_weight(words, start, nr)

    cdef int64_t find_used(self, pfn_t start, uint64_t nr) noexcept nogil:
        cdef pfn_t end = start + nr
        cdef uint64_t first = start >> 6, stop = ((end - 1) >> 6) + 1, w
        cdef word_t used
        if not words_used(&self.flags, self.buddy.free, first, stop):
            return -1
        for w in range(first, stop):
            used = in_use(&self.flags, self.buddy.free, w) & range_mask(w, start, end)
            if used:
                return (w << 6) + ctz(used)
        return -1

    # -- ranges

    cdef void init_pages(self, pfn_t start, uint64_t nr) noexcept nogil:
        self.count_touched(nr >> 3)
        bitmap_set(self.flags.reserved, start, nr)

    cdef void forget_pages(self, pfn_t start, uint64_t nr) noexcept nogil:
        self.touched += nr >> 3
        bitmap_clear(self.flags.reserved, start, nr)

    cdef void prepare_pages(self, pfn_t start, uint64_t nr) noexcept nogil:
        self.touched += nr >> 3
        bitmap_set(self.flags.prepared, start, nr)

    cdef void unprepare_pages(self, pfn_t start, uint64_t nr) noexcept nogil:
        self.touched += nr >> 3
        bitmap_clear(self.flags.prepared, start, nr)

    cdef bint all_waiting(self, pfn_t start, uint64_t nr) noexcept nogil:
        return bitmap_full(self.flags.prepared, start, nr) and bitmap_full(self.flags.reserved, start, nr)

    cdef void clear_reserved(self, pfn_t start, uint64_t nr) noexcept nogil:
        self.touched += nr >> 3
        bitmap_clear(self.flags.reserved, start, nr)

    cdef void free_range(self, pfn_t start, uint64_t nr, int order) noexcept nogil:
        self.touched += (nr >> 3) + (nr >> 9)
        buddy_free_range(&self.buddy, start, nr, order)

    cdef uint64_t online_range(self, pfn_t start, uint64_t nr, int order, bint known) noexcept nogil:
        cdef pfn_t pfn = start, end = start + nr
        cdef uint64_t w, run
        if not known and not self.all_waiting(start, nr):
            # what is waiting becomes a batch
            for w in range(start >> 6, ((end - 1) >> 6) + 1):
                self.batch_words[w] = self.flags.reserved[w] & self.flags.prepared[w] & range_mask(w, start, end)
            return self.apply_batch(start, end, order, True)
        while pfn < end:
            run = self.area_run(pfn, end)
            self.clear_reserved(pfn, run)
            self.free_range(pfn, run, order)
            self.account(pfn, run)
            pfn += run
        return nr

    cdef uint64_t apply_batch(self, pfn_t start, pfn_t end, int order, bint online) noexcept nogil:
        """Free the pages whose bits are set in the batch, none of them free and all in [start, end), and empty the batch."""
        cdef word_t *words = self.batch_words
        cdef uint64_t mask = (<uint64_t>1 << self.max_order) - 1, done, total = 0, run, first, last
        cdef pfn_t pfn = start & ~mask
        end = (end + mask) & ~mask
        while pfn < end:
            if has_border(&self.borders, pfn):
                run = mask + 1
            else:
                run = min(self.area_run(pfn, end), next_bordered(&self.borders, pfn, end) - pfn)
            first = pfn >> 6
            last = (pfn + run) >> 6
            if not bitmap_empty(words, pfn, run):
                if has_border(&self.borders, pfn):
                    total += self.apply_to_parts(pfn, order, online)
                    pfn += run
                    continue
                done = buddy_free_words(&self.buddy, words, first, last, order)
                if online:
                    andnot_words(self.flags.reserved, words, first, last)
                    self.account(pfn, done)
                memset(&words[first], 0, (last - first) * sizeof(word_t))
                self.touched += (last - first) * sizeof(word_t) * (2 if online else 1)
                total += done
            pfn += run
        return total

    cdef uint64_t apply_to_parts(self, pfn_t start, int order, bint online) noexcept nogil:
        """apply_batch for one block with a zone border inside."""
        cdef pfn_t pfn = start, end = start + (<pfn_t>1 << self.max_order), stop
        cdef uint64_t total = 0, run
        while True:
            pfn = find_next_bit(self.batch_words, end, pfn)
            if pfn >= end:
                break
            stop = find_next_zero_bit(self.batch_words, end, pfn)
            while pfn < stop:
                run = self.area_run(pfn, stop)
                buddy_free_range(&self.buddy, pfn, run, order)
                if online:
                    bitmap_clear(self.flags.reserved, pfn, run)
                    self.account(pfn, run)
                total += run
                pfn += run
        bitmap_clear(self.batch_words, start, end - start)
        self.touched += (end - start) >> (2 if online else 3)
        return total

    cdef uint64_t take_range(self, pfn_t start, uint64_t nr) noexcept nogil:
        cdef uint64_t taken = self.take_free(start, nr)
        self.touched += nr >> 1
        bitmap_set(self.flags.reserved, start, nr)
        bitmap_clear(self.flags.prepared, start, nr)
        bitmap_clear(self.flags.offline, start, nr)
        return taken

    cdef uint64_t take_free(self, pfn_t start, uint64_t nr) noexcept nogil:
        """Take the free pages of the range out of the allocator, and out of what is managed."""
        cdef pfn_t pfn = find_next_bit(self.buddy.free, start + nr, start), end
        cdef uint64_t taken = 0, run
        buddy_hang_pending(&self.buddy)       # the range may leave its area, with no page of it free
        while pfn < start + nr:
            end = find_next_zero_bit(self.buddy.free, start + nr, pfn)
            while pfn < end:
                run = self.area_run(pfn, end)
                buddy_take_range(&self.buddy, pfn, run)
                self.account(pfn, -<int64_t>run)
                taken += run
                pfn += run
            pfn = find_next_bit(self.buddy.free, start + nr, end)
        return taken

    cdef void split_allocations(self, pfn_t start, uint64_t nr) noexcept nogil:
        """Every allocation that meets the range becomes single pages (split_page)."""
        cdef pfn_t end = start + nr
        while start > 0 and PageTail(&self.flags, start):
            start -= 1
        while end < self.nr_pages and PageTail(&self.flags, end):
            end += 1
        bitmap_clear(self.flags.tail, start, end - start)

    cdef uint64_t reserve_range(self, pfn_t start, uint64_t nr) noexcept nogil:
        cdef uint64_t reserved = 0, w
        cdef pfn_t end = start + nr
        cdef word_t used, gone
        self.split_allocations(start, nr)
        for w in range(start >> 6, ((end - 1) >> 6) + 1):
            gone = self.flags.prepared[w] & ~(self.flags.reserved[w] | self.buddy.free[w]) & range_mask(w, start, end)
            if gone:
                used = gone & ~self.flags.offline[w]
                if has_border(&self.borders, w << 6):
                    while used:
                        self.account((w << 6) + ctz(used), -1)
                        used &= used - 1
                else:
                    self.account(w << 6, -hweight64(used))     # the pages of one word are of one area
                self.flags.offline[w] &= ~gone
                reserved += hweight64(gone)
        reserved += self.take_free(start, nr)
        self.touched += nr >> 2
        bitmap_set(self.flags.reserved, start, nr)
        return reserved

    cdef uint64_t reserve_batch(self, const pfn_batch *batch) noexcept nogil:
        cdef uint64_t i = 0, run, w, reserved = 0
        cdef pfn_t pfn
        cdef word_t bit, gone
        while i < batch.nr:
            run = reserve_each(&self.buddy, &self.flags, self.nr_pages, batch.pfns64 + i, batch.nr - i)
            self.touched += run * sizeof(word_t)
            reserved += run
            i += run
            if i == batch.nr:
                break
            pfn = pfn_at(batch, i)
            run = run_at(batch, i)
            i += run
            if run > 1 or of_several(self, pfn):
                reserved += self.reserve_range(pfn, run)
                continue
            # reserve_range of a single page that is no part of an allocation of several
            w = pfn >> 6
            bit = <word_t>1 << (pfn & 63)
            gone = bit & self.flags.prepared[w] & ~self.flags.reserved[w]
            if gone:
                if self.buddy.free[w] & bit:
                    buddy_take_page(&self.buddy, pfn)
                if not self.flags.offline[w] & bit:
                    area_of_page(&self.buddy, pfn).managed -= 1
                self.flags.offline[w] &= ~bit
                reserved += 1
            self.flags.reserved[w] |= bit
            self.touched += sizeof(word_t)
        return reserved

    cdef void claim_range(self, pfn_t start, uint64_t nr) noexcept nogil:
        cdef pfn_t pfn = start
        cdef uint64_t run
        while pfn < start + nr:
            run = self.area_run(pfn, start + nr)
            buddy_take_range(&self.buddy, pfn, run)
            self.touched += run >> 3
            area_of_page(&self.buddy, pfn).allocs[0] += run
            pfn += run

    cdef void set_offline(self, pfn_t start, uint64_t nr) noexcept nogil:
        if nr == 1 and not of_several(self, start):
            set_bit(self.flags.offline, start)
            area_of_page(&self.buddy, start).managed -= 1
            return
        self.touched += nr >> 3
        self.split_allocations(start, nr)
        bitmap_set(self.flags.offline, start, nr)
        self.account_runs(start, nr, -1)

    cdef void clear_offline(self, pfn_t start, uint64_t nr) noexcept nogil:
        self.touched += nr >> 3
        bitmap_clear(self.flags.offline, start, nr)
        self.account_runs(start, nr, 1)

    cdef void account_runs(self, pfn_t start, uint64_t nr, int sign) noexcept nogil:
        cdef pfn_t pfn = start
        cdef uint64_t run
        while pfn < start + nr:
            run = self.area_run(pfn, start + nr)
            self.account(pfn, sign * <int64_t>run)
            pfn += run

    # -- single pages

    cdef int online_page(self, pfn_t pfn) noexcept nogil:
        return bitmap_online_page(self, pfn)

    # -- batches

    cdef int64_t find_unprepared(self, const pfn_batch *batch, pfn_t start) noexcept nogil:
        cdef uint64_t w, first = max(start, batch.first), i
        cdef word_t x
        if batch.one_by_one:
            first = batch.end
            for i in range(batch.nr):
                if start <= pfn_at(batch, i) < first and not PagePrepared(&self.flags, pfn_at(batch, i)):
                    first = pfn_at(batch, i)
            return <int64_t>first if first < batch.end else -1
        for w in range(first >> 6, (batch.end + 63) >> 6):
            x = self.batch_words[w] & ~self.flags.prepared[w]
            if w == first >> 6:
                x &= ones_from(first)
            if x:
                return (w << 6) + ctz(x)
        return -1

    cdef bint meets_prepared(self, pfn_t start, uint64_t nr) noexcept nogil:
        cdef uint64_t w
        for w in range(start >> 6, (start + nr) >> 6):
            if self.batch_words[w] & self.flags.prepared[w]:
                return True
        return False

    @cython.overflowcheck(False)    # bits are shifted out on purpose
    cdef int64_t find_unfreeable(self, const pfn_batch *batch) noexcept nogil:
        cdef uint64_t w, i, end, quick
        cdef word_t x, next_is_tail
        cdef pfn_t first = batch.end
        if batch.one_by_one:
            if not any_unfreeable_of(&self.flags, self.buddy.free, self.nr_pages, batch.pfns64, batch.nr):
                return -1
            for i in range(batch.nr):
                if unfreeable(&self.flags, self.buddy.free, self.nr_pages, batch.pfns64[i]):
                    first = min(first, batch.pfns64[i])
            return first
        w, end = batch.first >> 6, (batch.end + 63) >> 6
        quick = end - (end << 6 == self.nr_pages) - w      # the plane's last word has no successor
        if not any_unfreeable(&self.flags, self.buddy.free, self.batch_words, w, quick):
            w += quick
        for w in range(w, end):
            # a page whose successor is a tail heads an allocation of several
            next_is_tail = self.flags.tail[w] >> 1
            if (w + 1) << 6 < self.nr_pages:
                next_is_tail |= self.flags.tail[w + 1] << 63
            x = self.batch_words[w] & (~in_use(&self.flags, self.buddy.free, w) | self.flags.tail[w] | next_is_tail)
            if x:
                return (w << 6) + ctz(x)
        return -1

    cdef uint64_t online_batch(self, const pfn_batch *batch) noexcept nogil:
        cdef uint64_t i = 0, quick, onlined = 0
        if not batch.one_by_one:
            keep_waiting(self.batch_words, self.flags.reserved, self.flags.prepared, batch.first >> 6, (batch.end + 63) >> 6)
            return self.apply_batch(batch.first, batch.end, 0, True)
        while i < batch.nr:
            quick = online_each(&self.buddy, &self.flags, batch.pfns64 + i, batch.nr - i)
            self.singles += quick
            onlined += quick
            i += quick
            if i < batch.nr:
                onlined += bitmap_online_page(self, batch.pfns64[i]) == 1
                i += 1
        return onlined

    cdef void free_batch(self, const pfn_batch *batch) noexcept nogil:
        cdef uint64_t i = 0
        if batch.one_by_one:
            while i < batch.nr:
                i += free_each(&self.buddy, batch.pfns64 + i, batch.nr - i)
                if i < batch.nr:
                    buddy_free_page(&self.buddy, batch.pfns64[i])
                    i += 1
            self.touched += batch.nr * sizeof(word_t)
        else:
            self.apply_batch(batch.first, batch.end, 0, False)

    # -- the allocator

    cdef int64_t alloc_block(self, area_t area, int order) noexcept nogil:
        cdef int64_t pfn = buddy_alloc_block(&self.buddy, area, order)
        if pfn < 0:
            return pfn
        self.touched += sizeof(word_t)
        if order > 0:
            bitmap_set(self.flags.tail, pfn + 1, (<uint64_t>1 << order) - 1)
        return pfn

    cdef uint64_t alloc_pages(self, area_t area, uint64_t nr, int64_t *out) noexcept nogil:
        self.touched += nr >> 3
        return buddy_alloc_pages(&self.buddy, area, nr, out)

    cdef bint freeable(self, pfn_t pfn, int order) noexcept nogil:
        cdef uint64_t nr = <uint64_t>1 << order
        return (
            (in_use(&self.flags, self.buddy.free, pfn >> 6) >> (pfn & 63)) & 1
            and not PageTail(&self.flags, pfn)
            and bitmap_full(self.flags.tail, pfn + 1, nr - 1)
            and (pfn + nr == self.nr_pages or not PageTail(&self.flags, pfn + nr))
        )

    cdef void free_block(self, pfn_t pfn, int order) noexcept nogil:
        self.touched += sizeof(word_t)
        if order == 0:
            buddy_free_page(&self.buddy, pfn)
        else:
            bitmap_clear(self.flags.tail, pfn + 1, (<uint64_t>1 << order) - 1)
            buddy_free_block(&self.buddy, pfn, order)
