cimport cython
from libc.string cimport memset

import numpy as np

from fastonline.core.bitmap cimport ctz, read_only
from fastonline.core.bitmap import zeroed
from fastonline.core.buffer cimport data_of
from fastonline.core.engine cimport pfn_at
from fastonline.core.lock cimport settle
from fastonline.core.pageflags cimport PAGE_FREE, PG_buddy, PG_offline, PG_prepared, PG_reserved, PG_tail
from fastonline.core.pageflags import FLAG_NAMES
from fastonline.core.types cimport NO_AREA, NR_ORDERS, uint8_t

__all__ = ["PAGE_BYTES", "StructPageEngine"]

PAGE_BYTES = (32, 56, 64)


# -- lists

cdef inline void link_between(page_t *heads, uint64_t node, uint64_t prev, uint64_t next) noexcept nogil:
    # in this order: one store of 16 bytes to the node could not be read back as fast as two of 8
    heads[node].prev = prev
    heads[prev].next = node
    heads[node].next = next
    heads[next].prev = node


cdef void empty_lists(page_t *pages, uint64_t first, uint64_t end) noexcept nogil:
    """The list heads [first, end) point to themselves."""
    cdef uint64_t node
    for node in range(first, end):
        link_between(pages - NR_HEADS, node, node, node)


cdef inline void add_to_list(mem_map *m, page_t *pages, buddy_pool *area, pfn_t pfn, int order, bint tail) noexcept nogil:
    """Make the block free, at one end of its list (add_to_free_list, add_to_free_list_tail)."""
    cdef page_t *heads = pages - NR_HEADS
    cdef uint64_t head = area.number * NR_ORDERS + order
    pages[pfn].flags = PAGE_FREE
    pages[pfn].order = order
    if tail:
        link_between(heads, NR_HEADS + pfn, heads[head].prev, head)
    else:
        link_between(heads, NR_HEADS + pfn, head, heads[head].next)
    area.nr_free[order] += 1


cdef inline void del_from_list(page_t *pages, buddy_pool *area, pfn_t pfn, int order) noexcept nogil:
    """The block is no longer free (del_page_from_free_list)."""
    cdef page_t *heads = pages - NR_HEADS
    cdef page_t *page = &pages[pfn]
    heads[page.prev].next = page.next
    heads[page.next].prev = page.prev
    page.flags = PG_prepared
    page.order = 0
    area.nr_free[order] -= 1


cdef inline bint page_is_buddy(page_t *pages, pfn_t pfn, int order) noexcept nogil:
    # one branch, not two: which of both fails is hard to foresee
    return (pages[pfn].order ^ <uint32_t>order) | (pages[pfn].flags ^ PAGE_FREE) == 0


# -- the allocator

cdef inline void merge(mem_map *m, page_t *pages, buddy_pool *area, pfn_t pfn, int order, bint tail) noexcept nogil:
    """__free_one_page: merge while the buddy is free, then list the block; `tail` is FPI_TO_TAIL, without which 6.1's
    kernels decide by buddy_merge_likely and 2.6.25 takes the head."""
    cdef pfn_t buddy_pfn
    cdef int max_order = m.max_order
    cdef bint aligned = m.borders.nr == 0
    while order < max_order:
        buddy_pfn = pfn ^ (<pfn_t>1 << order)
        if not page_is_buddy(pages, buddy_pfn, order) or not (aligned or in_area(m, buddy_pfn, area)):
            break
        del_from_list(pages, area, buddy_pfn, order)
        area.merges[order] += 1
        pfn &= buddy_pfn
        order += 1
    if not tail and not m.lifo and order < max_order - 1:
        buddy_pfn = (pfn & ~(<pfn_t>1 << order)) ^ (<pfn_t>2 << order)
        tail = page_is_buddy(pages, buddy_pfn, order + 1) and (aligned or in_area(m, buddy_pfn, area))
    add_to_list(m, pages, area, pfn, order, tail)


cdef inline void free_one(mem_map *m, page_t *pages, pfn_t pfn, int order, bint tail) noexcept nogil:
    cdef buddy_pool *area = area_of_page(m, pfn)
    area.frees[order] += 1
    merge(m, pages, area, pfn, order, tail)


cdef inline int64_t rmqueue(mem_map *m, page_t *pages, buddy_pool *area, int order) noexcept nogil:
    """__rmqueue_smallest and expand: the head of the smallest list that fits; upper halves go to the heads of theirs."""
    cdef page_t *heads = pages - NR_HEADS
    cdef pfn_t pfn
    cdef int k = order, i
    while area.nr_free[k] == 0:
        k += 1
        if k > m.max_order:
            return -1
    pfn = <uint64_t>heads[area.number * NR_ORDERS + k].next - NR_HEADS
    del_from_list(pages, area, pfn, k)
    while k > order:
        area.splits[k] += 1
        k -= 1
        add_to_list(m, pages, area, pfn + (<pfn_t>1 << k), k, False)
    area.allocs[order] += 1
    pages[pfn].refcount = 1
    for i in range(1, 1 << order):
        pages[pfn + i].flags |= PG_tail
    return pfn


cdef void split_at(mem_map *m, page_t *pages, pfn_t pfn) noexcept nogil:
    """Split the free block that reaches over `pfn`, if there is one, until a block begins there."""
    cdef buddy_pool *a
    cdef pfn_t head = pfn
    cdef int k = 0
    if pfn & ((<pfn_t>1 << m.max_order) - 1) == 0:
        return           # which holds for the end of memory, where there is no area to look up
    a = area_of_page(m, pfn)
    while not page_is_buddy(pages, head, k):
        k += 1
        if k > m.max_order:
            return
        head = pfn & ~((<pfn_t>1 << k) - 1)
    if head == pfn:
        return
    del_from_list(pages, a, head, k)
    while True:
        a.splits[k] += 1
        k -= 1
        if pfn >= head + (<pfn_t>1 << k):
            add_to_list(m, pages, a, head, k, False)
            head += <pfn_t>1 << k
            if pfn == head:
                add_to_list(m, pages, a, head, k, False)
                return
        else:
            add_to_list(m, pages, a, head + (<pfn_t>1 << k), k, False)


cdef uint64_t take_blocks(mem_map *m, page_t *pages, pfn_t start, uint64_t nr) noexcept nogil:
    """Take every free page of the range off its list."""
    cdef pfn_t pfn = start
    cdef uint64_t taken = 0
    cdef buddy_pool *area
    cdef int order
    split_at(m, pages, start)
    split_at(m, pages, start + nr)
    while pfn < start + nr:
        if pages[pfn].flags & PG_buddy:
            order = pages[pfn].order
            area = area_of_page(m, pfn)
            del_from_list(pages, area, pfn, order)
            area.managed -= <int64_t>1 << order
            taken += <uint64_t>1 << order
            pfn += <pfn_t>1 << order
        else:
            pfn += 1
    return taken


# -- descriptors

cdef void init_descriptors(page_t *pages, pfn_t start, uint64_t nr, int flags) noexcept nogil:
    """memmap_init_zone, memmap_init_range: zeroed, flags set, count 1, mapcount -1, an empty lru."""
    cdef pfn_t pfn
    for pfn in range(start, start + nr):
        memset(&pages[pfn], 0, sizeof(page_t))
        pages[pfn].flags = flags
        pages[pfn].refcount = 1
        pages[pfn].mapcount = -1
        pages[pfn].next = NR_HEADS + pfn
        pages[pfn].prev = NR_HEADS + pfn


cdef void mark_descriptors(page_t *pages, pfn_t start, uint64_t nr, int set_flags, int clear_flags,
                           int refcount) noexcept nogil:
    cdef pfn_t pfn
    for pfn in range(start, start + nr):
        pages[pfn].flags = (pages[pfn].flags & ~clear_flags) | set_flags
        pages[pfn].refcount = refcount


cdef inline int state_of(page_t *pages, pfn_t pfn) noexcept nogil:
    cdef int flags = pages[pfn].flags & ~PG_buddy
    return flags | PG_buddy if flags == PG_prepared and pages[pfn].refcount == 0 else flags


cdef void states_of(page_t *pages, pfn_t start, uint64_t nr, uint8_t *out) noexcept nogil:
    cdef uint64_t i = 0, run
    while i < nr:
        if pages[start + i].flags == PAGE_FREE:
            run = min(nr - i, <uint64_t>1 << pages[start + i].order)      # its first page describes the whole block
            memset(out + i, PAGE_FREE, run)
            i += run
        else:
            out[i] = state_of(pages, start + i)
            i += 1


cdef int64_t first_used(page_t *pages, pfn_t start, pfn_t end) noexcept nogil:
    """The first page in use, or -1."""
    while start < end:
        if state_of(pages, start) & ~PG_tail == PG_prepared:
            return start
        start += <pfn_t>1 << pages[start].order if pages[start].flags == PAGE_FREE else 1
    return -1


cdef inline bint waiting(page_t *page) noexcept nogil:
    return page.flags == (PG_reserved | PG_prepared)


cdef uint64_t first_not_waiting(page_t *pages, pfn_t start, pfn_t end) noexcept nogil:
    while start < end and waiting(&pages[start]):
        start += 1
    return start


# -- descriptors from states and lists, and back

cdef void list_blocks(page_t *pages, uint64_t nr_heads, uint64_t *out) noexcept nogil:
    """The first pfns of all free blocks, list by list, each from its head on."""
    cdef page_t *heads = pages - NR_HEADS
    cdef uint64_t head, node
    for head in range(nr_heads):
        node = heads[head].next
        while node != head:
            out[0] = node - NR_HEADS
            out += 1
            node = heads[node].next


cdef void set_states(page_t *pages, pfn_t start, const uint8_t *states, uint64_t nr) noexcept nogil:
    """Write zeroed descriptors of pages in these states. Free blocks are not on their lists yet."""
    cdef page_t *page
    cdef bint free
    cdef uint64_t i
    for i in range(nr):
        page = &pages[start + i]
        free = states[i] == (PG_buddy | PG_prepared)
        page.flags = PG_prepared if free else states[i]
        page.refcount = not free and not states[i] & PG_tail
        page.mapcount = -1
        page.next = page.prev = NR_HEADS + start + i


cdef bint set_lists(page_t *pages, pfn_t end, const int64_t *lengths, uint64_t nr, const uint64_t *blocks) noexcept nogil:
    """Fill empty lists with what list_blocks gave. 0: a block is no free page, or is there twice."""
    cdef page_t *heads = pages - NR_HEADS
    cdef uint64_t head
    cdef int64_t i
    for head in range(nr):
        for i in range(lengths[head]):
            if blocks[i] >= end or pages[blocks[i]].flags != PG_prepared or pages[blocks[i]].refcount:
                return False
            pages[blocks[i]].flags |= PG_buddy
            pages[blocks[i]].order = head % NR_ORDERS
            link_between(heads, NR_HEADS + blocks[i], heads[head].prev, head)
        blocks += lengths[head]
    return True


# -- ranges and batches

cdef void free_blocks(mem_map *m, page_t *pages, pfn_t start, uint64_t nr, int order) noexcept nogil:
    """online_pages_range: aligned chunks of at most `order`, to the tail but in 2.6.25."""
    cdef pfn_t pfn = start, end = start + nr
    cdef int chunk
    order = min(order, m.max_order)
    while pfn < end:
        chunk = order if pfn == 0 else min(ctz(pfn), order)
        while end - pfn < <uint64_t>1 << chunk:
            chunk -= 1
        free_one(m, pages, pfn, chunk, not m.lifo)
        pfn += <pfn_t>1 << chunk


cdef inline int online_one(mem_map *m, page_t *pages, pfn_t pfn) noexcept nogil:
    cdef page_t *page = &pages[pfn]
    if not waiting(page):
        return 0 if page.flags & PG_prepared else -1
    page.flags = PG_prepared
    page.refcount = 0
    free_one(m, pages, pfn, 0, not m.lifo)
    area_of_page(m, pfn).managed += 1
    return 1


cdef inline uint64_t free_each(mem_map *m, page_t *pages, const pfn_batch *batch, bint online) noexcept nogil:
    """Free the pages of a batch in order. online: only those that wait to go online. Return how many were freed."""
    cdef const uint64_t *pfns = batch.pfns64     # a copy, since the order matters
    cdef mem_map map = m[0]                      # what is local stays in registers
    cdef buddy_pool *area = &map.areas[NO_AREA]
    cdef uint64_t i, freed = 0, before = 0
    cdef page_t *page
    for i in range(batch.nr + 1):
        if i == batch.nr or map.area_of[pfns[i] >> map.borders.shift] != area.number:
            # the pages of one area are counted together
            area.frees[0] += freed - before
            if online:
                area.managed += freed - before
            before = freed
            if i == batch.nr:
                break
            area = area_of_page(&map, pfns[i])
        page = &pages[pfns[i]]
        if online:
            if not waiting(page):
                continue
            page.flags = PG_prepared
        page.refcount = 0
        merge(&map, pages, area, pfns[i], 0, online and not map.lifo)
        freed += 1
    return freed


cdef uint64_t online_pfns(mem_map *m, page_t *pages, const pfn_batch *batch) noexcept nogil:
    return free_each(m, pages, batch, True)


cdef uint64_t free_pfns(mem_map *m, page_t *pages, const pfn_batch *batch) noexcept nogil:
    return free_each(m, pages, batch, False)


cdef inline bint is_single(page_t *pages, pfn_t pfn, uint64_t nr_pages) noexcept nogil:
    """In use, and all of its allocation?"""
    return state_of(pages, pfn) == PG_prepared and (pfn + 1 == nr_pages or not pages[pfn + 1].flags & PG_tail)


cdef int64_t lowest_not_single(page_t *pages, const pfn_batch *batch, uint64_t nr_pages) noexcept nogil:
    cdef pfn_t lowest = nr_pages
    cdef uint64_t i
    for i in range(batch.nr):
        if not is_single(pages, pfn_at(batch, i), nr_pages):
            lowest = min(lowest, pfn_at(batch, i))
    return lowest if lowest < nr_pages else -1


cdef uint64_t rmqueue_bulk(mem_map *m, page_t *pages, buddy_pool *area, uint64_t nr, int64_t *out) noexcept nogil:
    cdef uint64_t got = 0
    while got < nr:
        out[got] = rmqueue(m, pages, area, 0)
        if out[got] < 0:
            break
        got += 1
    return got


cdef page_ops ops_of(page_t *_) noexcept:
    """The functions for one size of descriptor."""
    return page_ops(
        <empty_lists_t>empty_lists[page_t], <list_blocks_t>list_blocks[page_t], <set_states_t>set_states[page_t],
        <set_lists_t>set_lists[page_t], <state_t>state_of[page_t], <states_t>states_of[page_t], <find_used_t>first_used[page_t],
        <first_not_waiting_t>first_not_waiting[page_t], <init_t>init_descriptors[page_t], <change_t>mark_descriptors[page_t],
        <free_range_t>free_blocks[page_t], <take_free_t>take_blocks[page_t], <online_page_t>online_one[page_t],
        <batch_t>online_pfns[page_t], <batch_t>free_pfns[page_t], <find_unfreeable_t>lowest_not_single[page_t],
        <alloc_block_t>rmqueue[page_t], <alloc_pages_t>rmqueue_bulk[page_t], <free_block_t>free_one[page_t],
    )


cdef page_ops[3] OPS = [ops_of(<page32 *>NULL), ops_of(<page56 *>NULL), ops_of(<page64 *>NULL)]


cdef object checked(object array, object dtype, uint64_t nr):
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != (nr,):
        raise ValueError(f"an array of {np.dtype(dtype)} ({nr},) is missing")
    return np.ascontiguousarray(array)


@cython.no_gc      # no circle goes through it, and nothing may find it half taken apart
cdef class StructPageEngine(Engine):
    def __cinit__(self, nr_pages, max_order, nr_areas, page_bytes=64, lifo=False, borders=()):
        if page_bytes not in PAGE_BYTES:
            raise ValueError(f"page_bytes must be 32, 56 or 64, not {page_bytes}")
        self.ops = &OPS[PAGE_BYTES.index(page_bytes)]
        self.page_bytes = PAGE_BYTES[PAGE_BYTES.index(page_bytes)]
        self.page_bits = 8 * self.page_bytes
        self.lifo = lifo
        self.in_order = True
        self.own(zeroed((NR_HEADS + self.nr_pages, self.page_bytes), np.uint8))
        self.make_lists(0, self.nr_areas)

    cdef int own(self, array) except -1:
        self.owner = array
        self.map.pages = <uint8_t *>data_of(array) + <uint64_t>NR_HEADS * self.page_bytes
        self.map.areas = self.areas
        self.map.area_of = self.area_of
        self.map.borders = self.borders
        self.map.max_order = self.max_order
        self.map.lifo = self.lifo
        return 0

    cdef void make_lists(self, int first_area, int end_area) noexcept:
        """Empty lists for the areas of [first_area, end_area): each head points to itself."""
        self.ops.empty_lists(self.map.pages, <uint64_t>first_area * NR_ORDERS, <uint64_t>end_area * NR_ORDERS)

    cdef int grow(self, uint64_t nr_pages, list spans) except -1:
        old = self.owner
        new = zeroed((NR_HEADS + nr_pages, self.page_bytes), np.uint8)
        new[:NR_HEADS] = old[:NR_HEADS]
        for start, nr in spans:
            new[NR_HEADS + start : NR_HEADS + start + nr] = old[NR_HEADS + start : NR_HEADS + start + nr]
        Engine.grow(self, nr_pages, spans)
        self.own(new)
        return 0

    cdef int add_areas(self, int nr_areas) except -1:
        cdef int before = self.nr_areas
        Engine.add_areas(self, nr_areas)
        self.map.areas = self.areas
        if self.owner is not None:
            self.make_lists(before, nr_areas)
        return 0

    cdef dict planes(self, list spans):
        """The states of the pages, and the free blocks in the order of their lists: the descriptors follow from them."""
        cdef uint64_t start, nr, nr_heads = <uint64_t>self.nr_areas * NR_ORDERS
        cdef uint8_t *states
        cdef uint64_t *to
        lengths = np.array([self.areas[head // NR_ORDERS].nr_free[head % NR_ORDERS] for head in range(nr_heads)], np.int64)
        blocks, pages = np.empty(lengths.sum(), np.uint64), []
        to = <uint64_t *>data_of(blocks)
        for start, nr in spans:
            pages.append(np.empty(nr, np.uint8))
            states = <uint8_t *>data_of(pages[len(pages) - 1])
            with nogil:
                self.states(start, nr, states)
        self.ops.list_blocks(self.map.pages, nr_heads, to)
        return {"states": pages, "lengths": lengths, "blocks": blocks}

    cdef int set_planes(self, list spans, dict planes) except -1:
        cdef uint64_t start, nr, nr_heads = <uint64_t>self.nr_areas * NR_ORDERS
        cdef const uint8_t *states
        cdef const int64_t *lengths
        cdef const uint64_t *blocks
        for (start, nr), array in zip(spans, planes["states"], strict=True):
            array = checked(array, np.uint8, nr)
            states = <const uint8_t *>data_of(array)
            with nogil:
                self.ops.set_states(self.map.pages, start, states, nr)
        array = checked(planes["lengths"], np.int64, nr_heads)
        listed = checked(planes["blocks"], np.uint64, len(planes["blocks"]))
        if not 0 <= array.min() <= array.max() <= len(listed) or array.sum() != len(listed):
            raise ValueError(f"the free lists do not have {len(listed)} blocks")
        lengths, blocks = <const int64_t *>data_of(array), <const uint64_t *>data_of(listed)
        if not self.ops.set_lists(self.map.pages, self.nr_pages, lengths, nr_heads, blocks):
            raise ValueError("a page on a free list is not free, or is listed twice")
        return 0

    @property
    def array(self):
        """The descriptors, those of the list heads first: read-only (NR_HEADS + nr_pages, page_bytes) uint8 view."""
        return read_only(self.owner)

    def view(self, str flag):
        """One flag of every page as it stands now: read-only uint64 words, a copy (the descriptors have no planes)."""
        settle(self.lock)
        states = np.empty(self.nr_pages, np.uint8)
        self.states(0, self.nr_pages, <uint8_t *>data_of(states))
        return read_only(np.packbits(states >> FLAG_NAMES.index(flag) & 1, bitorder="little").view(np.uint64))

    @cython.overflowcheck(False)     # in a forged saved machine the sum may wrap
    cdef uint64_t bytes_of_lists(self) noexcept nogil:
        """Bytes of descriptors and list heads written when blocks came and went."""
        # every block put on a list or taken off one writes its first descriptor and a link of each neighbour
        cdef uint64_t moves = 0
        cdef int area, k
        for area in range(1, self.nr_areas):
            for k in range(self.max_order + 1):
                moves += self.areas[area].frees[k] + self.areas[area].merges[k]
                moves += self.areas[area].allocs[k] + self.areas[area].splits[k]
        return moves * (self.page_bytes + 2 * (4 if self.page_bytes == 32 else 8))

    @cython.overflowcheck(False)
    def bytes_touched(self):
        """Bytes of descriptors and list heads written since the engine was made."""
        return self.touched + self.bytes_of_lists()

    @cython.overflowcheck(False)
    def set_touched(self, nr_bytes):
        """Go on counting from so many bytes."""
        Engine.set_touched(self, nr_bytes)
        self.touched -= self.bytes_of_lists()

    # -- state

    cdef int state(self, pfn_t pfn) noexcept nogil:
        return self.ops.state(self.map.pages, pfn)

    cdef void states(self, pfn_t start, uint64_t nr, uint8_t *out) noexcept nogil:
        self.ops.states(self.map.pages, start, nr, out)

    cdef uint64_t weigh(self, int flag, pfn_t start, uint64_t nr) noexcept nogil:
        cdef uint8_t states[1024]
        cdef uint64_t total = 0, at, some, i
        for at in range(0, nr, 1024):
            some = min(nr - at, <uint64_t>1024)
            self.states(start + at, some, states)
            for i in range(some):
                total += (states[i] & flag) != 0
        return total

    cdef int64_t find_used(self, pfn_t start, uint64_t nr) noexcept nogil:
        return self.ops.find_used(self.map.pages, start, start + nr)

    cdef bint all_waiting(self, pfn_t start, uint64_t nr) noexcept nogil:
        return self.ops.first_not_waiting(self.map.pages, start, start + nr) == start + nr

    # -- ranges

    cdef void change_flags(self, pfn_t start, uint64_t nr, int set_flags, int clear_flags, int refcount) noexcept nogil:
        self.count_touched(nr * self.page_bytes)
        self.ops.change(self.map.pages, start, nr, set_flags, clear_flags, refcount)

    cdef void init(self, pfn_t start, uint64_t nr, int flags) noexcept nogil:
        self.count_touched(nr * self.page_bytes)
        self.ops.init(self.map.pages, start, nr, flags)

    cdef void init_pages(self, pfn_t start, uint64_t nr) noexcept nogil:
        self.init(start, nr, PG_reserved)

    cdef void forget_pages(self, pfn_t start, uint64_t nr) noexcept nogil:
        self.change_flags(start, nr, 0, PG_reserved, 0)

    cdef void prepare_pages(self, pfn_t start, uint64_t nr) noexcept nogil:
        if self.lifo:
            self.change_flags(start, nr, PG_prepared, 0, 1)
        else:
            # 6.1 initialises the memmap here and not when memory is added (move_pfn_range_to_zone, 4.13)
            self.init(start, nr, PG_reserved | PG_prepared)

    cdef void unprepare_pages(self, pfn_t start, uint64_t nr) noexcept nogil:
        self.change_flags(start, nr, 0, PG_prepared, 1)

    cdef void clear_reserved(self, pfn_t start, uint64_t nr) noexcept nogil:
        self.change_flags(start, nr, 0, PG_reserved, 0)

    cdef void free_range(self, pfn_t start, uint64_t nr, int order) noexcept nogil:
        self.ops.free_range(&self.map, self.map.pages, start, nr, order)

    cdef uint64_t online_range(self, pfn_t start, uint64_t nr, int order, bint known) noexcept nogil:
        cdef pfn_t pfn = start, end = start + nr, stop
        cdef uint64_t onlined = 0, run, chunk
        while pfn < end:
            stop = end if known else self.ops.first_not_waiting(self.map.pages, pfn, end)
            run = stop - pfn
            while run:
                chunk = self.area_run(pfn, stop)
                self.clear_reserved(pfn, chunk)
                self.free_range(pfn, chunk, order)
                self.account(pfn, chunk)
                onlined += chunk
                run -= chunk
                pfn += chunk
            pfn = stop + 1
        return onlined

    cdef uint64_t take_free(self, pfn_t start, uint64_t nr) noexcept nogil:
        return self.ops.take_free(&self.map, self.map.pages, start, nr)

    cdef uint64_t take_range(self, pfn_t start, uint64_t nr) noexcept nogil:
        cdef uint64_t taken = self.take_free(start, nr)
        self.change_flags(start, nr, PG_reserved, PG_prepared | PG_offline, 1)
        return taken

    cdef void split_allocations(self, pfn_t start, uint64_t nr) noexcept nogil:
        cdef pfn_t pfn = start
        while pfn > 0 and self.state(pfn) & PG_tail:
            pfn -= 1
        while pfn < start + nr or (pfn < self.nr_pages and self.state(pfn) & PG_tail):
            if self.state(pfn) & PG_tail:
                self.change_flags(pfn, 1, 0, PG_tail, 1)
            pfn += 1

    cdef uint64_t reserve_range(self, pfn_t start, uint64_t nr) noexcept nogil:
        cdef uint64_t reserved
        cdef pfn_t pfn
        cdef int state
        self.split_allocations(start, nr)
        reserved = self.take_free(start, nr)
        # what was free has left what is managed; what was in use or offline is told from it by count and flag
        for pfn in range(start, start + nr):
            state = self.state(pfn)
            if state & (PG_reserved | PG_buddy) == 0 and state & PG_prepared:
                reserved += 1
                if not state & PG_offline:
                    self.account(pfn, -1)
        for pfn in range(start, start + nr):
            if self.state(pfn):
                self.change_flags(pfn, 1, PG_reserved, PG_offline, 1)
        return reserved

    cdef void claim_range(self, pfn_t start, uint64_t nr) noexcept nogil:
        cdef pfn_t pfn
        self.take_free(start, nr)
        for pfn in range(start, start + nr):
            self.areas[self.area_of[pfn >> self.borders.shift]].allocs[0] += 1
            self.account(pfn, 1)
        self.change_flags(start, nr, 0, 0, 1)

    cdef void set_offline(self, pfn_t start, uint64_t nr) noexcept nogil:
        cdef pfn_t pfn
        self.split_allocations(start, nr)
        self.change_flags(start, nr, PG_offline, 0, 1)
        for pfn in range(start, start + nr):
            self.account(pfn, -1)

    cdef void clear_offline(self, pfn_t start, uint64_t nr) noexcept nogil:
        cdef pfn_t pfn
        self.change_flags(start, nr, 0, PG_offline, 1)
        for pfn in range(start, start + nr):
            self.account(pfn, 1)

    # -- single pages

    cdef int online_page(self, pfn_t pfn) noexcept nogil:
        return self.ops.online_page(&self.map, self.map.pages, pfn)

    # -- batches

    cdef int64_t find_unprepared(self, const pfn_batch *batch, pfn_t start) noexcept nogil:
        cdef int64_t lowest = -1
        cdef uint64_t i
        cdef pfn_t pfn
        for i in range(batch.nr):
            pfn = pfn_at(batch, i)
            if pfn >= start and (lowest < 0 or pfn < <pfn_t>lowest) and not self.state(pfn) & PG_prepared:
                lowest = pfn
        return lowest

    cdef int64_t find_unfreeable(self, const pfn_batch *batch) noexcept nogil:
        return self.ops.find_unfreeable(self.map.pages, batch, self.nr_pages)

    cdef uint64_t online_batch(self, const pfn_batch *batch) noexcept nogil:
        return self.ops.online_batch(&self.map, self.map.pages, batch)

    cdef void free_batch(self, const pfn_batch *batch) noexcept nogil:
        self.ops.free_batch(&self.map, self.map.pages, batch)

    # -- the allocator

    cdef int64_t alloc_block(self, area_t area, int order) noexcept nogil:
        return self.ops.alloc_block(&self.map, self.map.pages, &self.areas[area], order)

    cdef uint64_t alloc_pages(self, area_t area, uint64_t nr, int64_t *out) noexcept nogil:
        return self.ops.alloc_pages(&self.map, self.map.pages, &self.areas[area], nr, out)

    cdef bint freeable(self, pfn_t pfn, int order) noexcept nogil:
        cdef uint64_t nr = <uint64_t>1 << order, i
        if self.state(pfn) != PG_prepared:
            return False
        for i in range(1, nr):
            if not self.state(pfn + i) & PG_tail:
                return False
        return pfn + nr == self.nr_pages or not self.state(pfn + nr) & PG_tail

    cdef void free_block(self, pfn_t pfn, int order) noexcept nogil:
        cdef uint64_t nr = <uint64_t>1 << order
        self.change_flags(pfn, 1, 0, 0, 0)
        if nr > 1:
            self.change_flags(pfn + 1, nr - 1, 0, PG_tail, 0)
        self.ops.free_block(&self.map, self.map.pages, pfn, order, False)
