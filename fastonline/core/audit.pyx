# cython: overflowcheck=False
# Bits are shifted out on purpose, and in a forged saved machine the sums may wrap.
import numpy as np

from fastonline.core.bitmap cimport bitmap_empty, bitmap_full, ctz, hweight64, msb, test_bit
from fastonline.core.borders cimport has_border, part_end, zone_borders
from fastonline.core.bitmap_engine cimport BitmapEngine
from fastonline.core.buffer cimport data_of
from fastonline.core.engine cimport Engine
from fastonline.core.pageflags cimport PG_buddy, PG_offline, PG_prepared, PG_reserved, PG_tail
from fastonline.core.structpage cimport NR_HEADS, StructPageEngine, page32, page56, page64, page_t
from fastonline.core.pageflags import decode_page_flags
from fastonline.core.types cimport ALL_ONES, NO_AREA, area_t, word_t

__all__ = ["REASONS", "audit_pages"]

cdef extern from *:
    """
    static FASTONLINE_CLONES int fo_tally_words(const uint64_t *, const uint64_t *, const uint64_t *, const uint64_t *,
                                                const uint64_t *, const uint64_t *, uint64_t, uint64_t, int, void *,
                                                uint64_t *);
    """

cdef struct page_source:         # an engine's pages
    const word_t *free
    const word_t *full
    const word_t *reserved
    const word_t *offline
    const word_t *tail
    const word_t *prepared
    void *pages                  # descriptors
    int page_bytes               # of one; 0: there are planes
    int max_order
    int nr_areas
    uint64_t nr_pages
    const area_t *area_of
    zone_borders borders

TALLY = np.dtype([("prepared", "u8"), ("managed", "u8"), ("first", "u8"), ("last", "u8"), ("nr_free", "i8", NR_ORDERS)])
SECTION = np.dtype([("prepared", "u8"), ("managed", "u8")])

REASONS = (
    "", "is in no state there is", "is a tail that follows no page of its allocation", "is prepared and in no zone",
    "makes a word of free pages that the plane of full words has otherwise", "heads a free block that cannot be",
    "is free and in no free block",
)


cdef inline void count_aligned(word_t x, uint64_t *n) noexcept nogil:
    """n[k] grows by the aligned runs of 2^k ones in x, k from 0 to 5."""
    n[0] += hweight64(x)
    x &= x >> 1 & ALL_ONES // 3
    n[1] += hweight64(x)
    x &= x >> 2 & ALL_ONES // 15
    n[2] += hweight64(x)
    x &= x >> 4 & ALL_ONES // 255
    n[3] += hweight64(x)
    x &= x >> 8 & ALL_ONES // 65535
    n[4] += hweight64(x)
    n[5] += (x & x >> 16 & 1) + (x >> 32 & x >> 48 & 1)


cdef int tally_words "fo_tally_words"(
    const word_t *free, const word_t *full, const word_t *reserved, const word_t *offline, const word_t *tail,
    const word_t *prepared, uint64_t first, uint64_t end, int max_order, void *to, pfn_t *bad,
) noexcept nogil:
    """Add the pages of the words [first, end), whole blocks of one area, to a tally."""
    cdef page_tally *t = <page_tally *>to
    cdef uint64_t in_block = ((<uint64_t>1 << max_order) >> 6) - 1, w, stop, given = 0, there = 0
    cdef uint64_t n[6]
    cdef uint64_t m[8]
    cdef word_t f, r, o, x, p, used, wrong, before = 0, y, both, previous = 0
    cdef int k
    for k in range(6):
        n[k] = 0
    for k in range(8):
        m[k] = 0
    w = first
    while w < end:
        stop = min(end, (w | 63) + 1)
        y = 0
        while w < stop:
            f, r, o, x, p = free[w], reserved[w], offline[w], tail[w], prepared[w]
            both = f | r | o
            used = p & ~both
            wrong = ~(r | p) | (f & (r | o)) | (r & o) | ((f | o) & ~p) | (x & ~used)
            if wrong:
                bad[0] = (w << 6) + ctz(wrong)
                return PAGE_NO_STATE
            if x:
                wrong = x & ~(used << 1 | (before if w & in_block else 0))
                if wrong:
                    bad[0] = (w << 6) + ctz(wrong)
                    return PAGE_LONE_TAIL
            before = used >> 63
            if p:
                if t.prepared + there == 0:
                    t.first = (w << 6) + ctz(p)
                t.last = (w << 6) + msb(p)
                there += hweight64(p)
                given += hweight64(p & ~(r | o))
            if f == ALL_ONES:
                y |= <word_t>1 << (w & 63)
            elif f:
                count_aligned(f, n)
            w += 1
        # the same of whole words, for orders from 6 on
        k = (w - 1) & 63
        wrong = (full[(w - 1) >> 6] ^ y) & (ALL_ONES >> (63 - k)) & (ALL_ONES << (first & 63 if (w - 1) >> 6 == first >> 6
            else 0))
        if wrong:
            bad[0] = ((w - 1) >> 6 << 12) + (<pfn_t>ctz(wrong) << 6)
            return PAGE_NOT_FULL
        if y:
            if y == ALL_ONES:
                for k in range(7):
                    m[k] += 64 >> k
                if previous == ALL_ONES and (w - 1) >> 6 & 1:
                    m[7] += 1
            else:
                count_aligned(y, m)
        previous = y
    # n and m count runs of at least 2^k: blocks of exactly that order are those that are half of no larger one
    for k in range(6):
        n[k] += m[0] * (64 >> k)
    for k in range(max_order + 1):
        t.nr_free[k] += runs_of(n, m, k) - (2 * runs_of(n, m, k + 1) if k < max_order else 0)
    t.prepared += there
    t.managed += given
    return PAGE_OK


cdef int tally_part(const page_source *of, pfn_t start, pfn_t end, page_tally *t, pfn_t *bad) noexcept nogil:
    """tally_words page by page, for a part of a block with a zone border inside: free blocks do not reach over the border."""
    cdef pfn_t pfn, stop = start
    cdef bint f, r, o, x, p, used = False, before
    cdef int order
    for pfn in range(start, end):
        bad[0] = pfn
        f, r, o = test_bit(of.free, pfn), test_bit(of.reserved, pfn), test_bit(of.offline, pfn)
        x, p = test_bit(of.tail, pfn), test_bit(of.prepared, pfn)
        before, used = used, p and not (f or r or o)
        if not (r or p) or f and (r or o) or r and o or (f or o) and not p or x and not used:
            return PAGE_NO_STATE
        if x and not before:
            return PAGE_LONE_TAIL
        if (of.free[pfn >> 6] == ALL_ONES) != test_bit(of.full, pfn >> 6):
            return PAGE_NOT_FULL
        if f and pfn >= stop:
            order = 0
            while order < of.max_order and pfn & ((<pfn_t>2 << order) - 1) == 0 and pfn + (<pfn_t>2 << order) <= end \
                    and bitmap_full(of.free, pfn, <uint64_t>2 << order):
                order += 1
            t.nr_free[order] += 1
            stop = pfn + (<pfn_t>1 << order)
        if p:
            if t.prepared == 0:
                t.first = pfn
            t.last = pfn
            t.prepared += 1
            t.managed += not (r or o)
    return PAGE_OK


cdef inline int64_t runs_of(const uint64_t *words, const uint64_t *groups, int order) noexcept nogil:
    return words[order] if order < 6 else groups[order - 6]


cdef int tally_descriptors(page_t *pages, pfn_t start, pfn_t end, int max_order, page_tally *t, pfn_t *bad) noexcept nogil:
    """Add the pages of [start, end), whole blocks or the part of a block, of one area, to a tally."""
    cdef uint64_t in_block = ((<uint64_t>1 << max_order)) - 1
    cdef pfn_t pfn = start, stop = start      # of the free block that reaches over pfn
    cdef uint64_t flags
    cdef bint used = False, before
    while pfn < end:
        bad[0] = pfn
        flags = pages[pfn].flags
        before = used and pfn & in_block
        used = False
        if flags & PG_buddy:
            if pfn < stop or flags != (PG_buddy | PG_prepared) or pages[pfn].refcount or pages[pfn].order > <uint64_t>max_order:
                return PAGE_BAD_BLOCK
            stop = pfn + (<pfn_t>1 << pages[pfn].order)
            if pfn & (stop - pfn - 1) or stop > end:
                return PAGE_BAD_BLOCK
            if pages[pfn].order < <uint64_t>max_order and start <= pfn ^ (stop - pfn) < end \
                    and pages[pfn ^ (stop - pfn)].flags & PG_buddy and pages[pfn ^ (stop - pfn)].order == pages[pfn].order:
                return PAGE_BAD_BLOCK
            t.nr_free[pages[pfn].order] += 1
            t.managed += 1
        elif flags == PG_prepared and pages[pfn].refcount == 0:
            if pfn >= stop:
                return PAGE_NO_BLOCK
            t.managed += 1
        elif pfn < stop:
            return PAGE_BAD_BLOCK
        elif flags == PG_prepared:
            used = True
            t.managed += 1
        elif flags == (PG_prepared | PG_tail):
            if not before:
                return PAGE_LONE_TAIL
            used = True
            t.managed += 1
        elif flags == PG_reserved:
            pfn += 1
            continue
        elif flags != (PG_prepared | PG_reserved) and flags != (PG_prepared | PG_offline):
            return PAGE_NO_STATE
        if t.prepared == 0:
            t.first = pfn
        t.last = pfn
        t.prepared += 1
        pfn += 1
    return PAGE_OK


cdef int walk_list(page_t *heads, const page_source *of, int area, int order, int64_t blocks, pfn_t *bad) noexcept nogil:
    """Is the list a ring of exactly so many blocks of its own area and order, linked both ways?"""
    cdef uint64_t head = <uint64_t>area * NR_ORDERS + order, node = head, next
    cdef int64_t nr = 0
    cdef page_t *page
    while True:
        next = heads[node].next
        if next == head:
            break
        bad[0] = next - NR_HEADS
        if next < NR_HEADS or bad[0] >= of.nr_pages or nr == blocks:
            return LIST_BROKEN
        page = &heads[next]
        if page.prev != node or page.order != <uint64_t>order or not page.flags & PG_buddy \
                or of.area_of[bad[0] >> of.borders.shift] != area:
            return LIST_BROKEN
        node = next
        nr += 1
    return PAGE_OK if nr == blocks and heads[head].prev == node else LIST_BROKEN


cdef int walk_lists(const page_source *of, const page_tally *areas, int *area, int *order, pfn_t *bad) noexcept nogil:
    cdef int a, k, why = PAGE_OK
    for a in range(1, of.nr_areas):
        for k in range(of.max_order + 1):
            if of.page_bytes == 32:
                why = walk_list(<page32 *>of.pages - NR_HEADS, of, a, k, areas[a].nr_free[k], bad)
            elif of.page_bytes == 56:
                why = walk_list(<page56 *>of.pages - NR_HEADS, of, a, k, areas[a].nr_free[k], bad)
            else:
                why = walk_list(<page64 *>of.pages - NR_HEADS, of, a, k, areas[a].nr_free[k], bad)
            if why != PAGE_OK:
                area[0], order[0] = a, k
                return why
    return why


cdef int tally_run(const page_source *of, pfn_t start, pfn_t end, page_tally *t, pfn_t *bad) noexcept nogil:
    """Add the pages of [start, end), whole blocks of one area or a part of a block with a zone border, to a tally: PAGE_OK, or
    what is wrong with the page `bad`."""
    if of.page_bytes == 32:
        return tally_descriptors(<page32 *>of.pages, start, end, of.max_order, t, bad)
    if of.page_bytes == 56:
        return tally_descriptors(<page56 *>of.pages, start, end, of.max_order, t, bad)
    if of.page_bytes == 64:
        return tally_descriptors(<page64 *>of.pages, start, end, of.max_order, t, bad)
    if has_border(&of.borders, start):
        return tally_part(of, start, end, t, bad)
    return tally_words(of.free, of.full, of.reserved, of.offline, of.tail, of.prepared, start >> 6, end >> 6, of.max_order, t,
        bad)


cdef int tally_section(const page_source *of, pfn_t start, pfn_t end, page_tally *areas, section_tally *section,
                       pfn_t *bad) noexcept nogil:
    cdef page_tally *t
    cdef pfn_t pfn = start, stop, block = (<pfn_t>1 << of.max_order) - 1
    cdef area_t area
    cdef bint bordered
    cdef uint64_t prepared, managed
    cdef int why
    while pfn < end:
        area = of.area_of[pfn >> of.borders.shift]
        bordered = has_border(&of.borders, pfn)
        stop = part_end(&of.borders, pfn)
        while stop < end and of.area_of[stop >> of.borders.shift] == area \
                and (stop & block != 0 if bordered else has_border(&of.borders, stop) == 0):
            stop = part_end(&of.borders, stop)
        t = &areas[area]
        prepared, managed = t.prepared, t.managed
        why = tally_run(of, pfn, stop, t, bad)
        if why == PAGE_OK and area == NO_AREA and t.prepared:
            why, bad[0] = PAGE_NO_ZONE, t.first
        if why != PAGE_OK:
            return why
        section.prepared += t.prepared - prepared
        section.managed += t.managed - managed
        pfn = stop
    return PAGE_OK


def audit_pages(Engine engine not None, list spans not None, int section_shift):
    """Look at every page of the (start_pfn, nr_pages) `spans`, which are whole sections of 2^section_shift pages.

    Returns two structured arrays: of the free areas, "prepared" (pages), "managed" (of them, free or in use), "first" and
    "last" (prepared pfn) and "nr_free" (free blocks of each order, NR_ORDERS of them); and of the sections, in their order,
    "prepared" and "managed". AssertionError with the first page whose state cannot be, or the first free list that does not
    hold the free blocks that the pages make up.
    """
    cdef page_source of
    cdef page_tally *areas
    cdef section_tally *sections
    cdef BitmapEngine planes
    cdef StructPageEngine map
    cdef pfn_t start, end, bad = 0
    cdef uint64_t nr = 0, per_section = <uint64_t>1 << section_shift
    cdef int why = PAGE_OK, area = 0, order = 0
    of_areas = np.zeros(engine.nr_areas, TALLY)
    of_sections = np.zeros(sum([count >> section_shift for _, count in spans]), SECTION)
    areas, sections = <page_tally *>data_of(of_areas), <section_tally *>data_of(of_sections)
    of.area_of, of.max_order, of.page_bytes, of.borders = engine.area_of, engine.max_order, 0, engine.borders
    of.nr_areas, of.nr_pages = engine.nr_areas, engine.nr_pages
    if isinstance(engine, StructPageEngine):
        map = engine
        of.pages, of.page_bytes = map.map.pages, map.page_bytes
    else:
        planes = engine
        of.free, of.full, of.reserved = planes.buddy.free, planes.buddy.full, planes.flags.reserved
        of.offline, of.tail, of.prepared = planes.flags.offline, planes.flags.tail, planes.flags.prepared
    for start, count in spans:
        end = start + <uint64_t>count
        if not bitmap_empty(engine.batch_words, start, end - start):
            raise AssertionError(f"pages {start:#x}-{end - 1:#x} are left over from a batch")
        with nogil:
            while start < end and why == PAGE_OK:
                why = tally_section(&of, start, start + per_section, areas, &sections[nr], &bad)
                start += per_section
                nr += 1
        if why != PAGE_OK:
            raise AssertionError(f"page {bad:#x} {REASONS[why]}: {decode_page_flags(engine.state(bad))}")
    if not of.page_bytes:
        for start, count in spans:
            planes.check_summary(start, count)
    else:
        with nogil:
            why = walk_lists(&of, areas, &area, &order, &bad)
        if why != PAGE_OK:
            raise AssertionError(
                f"the list of area {area} and order {order} is not a ring of {areas[area].nr_free[order]} blocks, see page "
                f"{bad:#x}"
            )
    return of_areas, of_sections
