import errno

import numpy as np

from fastonline.core.numbers cimport as_uint64
from fastonline.core.sections cimport pages_per_section
from fastonline.core.undo cimport Undo, undo_step
from fastonline.hotplug.arguments cimport as_pfn_array
from fastonline.hotplug.page_alloc cimport PageLists, can_free, lists_of

from fastonline.core.undo import Undo
from fastonline.errors import HotplugError, pfn_range

__all__ = ["replace_memmap"]


# -- making and freeing

cdef int alloc_memmap(Machine mem, uint64_t start, uint64_t nr, list runs, int nid, bint driver) except -1:
    """Page descriptors of an added range, whose new sections are in `runs`: its own first pages, or pages of the kernel
    (sparse_add_section, mhp_supports_memmap_on_memory, memory_block_memmap_on_memory_pages), as for all that drivers add.
    ENOMEM when there is no room; nothing is kept then."""
    cdef uint64_t unit = pages_per_section(mem.sections), at
    cdef uint64_t size = mem.rules.struct_page_bytes[mem.geometry.bits == 64]
    cdef uint64_t pages = (unit * size + mem.geometry.page_size - 1) // mem.geometry.page_size
    cdef uint64_t in_block = (mem.pages_per_block * size + mem.geometry.page_size - 1) // mem.geometry.page_size
    if mem.memmap == "on_memory" and not driver and (nr == mem.pages_per_block or mem.rules.memmap_per_block) \
            and in_block % (1 << mem.pageblock_order) == 0 and in_block < mem.pages_per_block:
        for at in range(start, start + nr, mem.pages_per_block):
            mem.memmap_of[at // unit] = [(at, in_block)]
        return 0
    # where a section's is more than the largest block there is, several of those (vmemmap_populate on s390)
    order = min((pages - 1).bit_length(), mem.pages.max_order)
    lists = lists_of(mem)
    taken = {section: [] for first, count in runs for section in range(first, first + count)}
    try:
        with Undo() as undo:
            (<Undo>undo).note(<undo_step>free_pieces, lists, taken)
            for pieces in taken.values():
                for _ in range((pages + (1 << order) - 1) >> order):
                    populate_piece(lists, pieces, order, nid)
    except MemoryError:
        raise HotplugError.of(errno.ENOMEM, f"add_memory of {pfn_range(start, nr)}: no room for its memmap") from None
    mem.memmap_of.update(taken)
    return 0


cdef int free_pieces(PageLists lists, dict taken) except -1:
    """Free the memmaps of new sections, as far as they are there. taken: {section: [(first pfn, pages)]}."""
    for pieces in taken.values():
        for pfn, count in pieces:
            lists.free_kernel(pfn, count.bit_length() - 1)
    return 0


cdef int populate_piece(PageLists lists, list pieces, int order, int nid) except -1:
    """Append a block of an order to `pieces`, or where no zone has one to give, as many single pages and the page table that
    maps them (vmemmap_populate_hugepages, vmemmap_populate_basepages)."""
    try:
        pieces.append((lists.alloc_kernel(order, nid), 1 << order))
        return 0
    except MemoryError:
        if order == 0:
            raise
    for _ in range((1 << order) + 1):
        pieces.append((lists.alloc_kernel(0, nid), 1))
    return 0


cdef int check_memmap(Machine mem, uint64_t first, uint64_t nr) except -1:
    """Raise EBUSY when a memmap of the `nr` sections is no longer in use, or another's too, so that free_memmap could not free
    it."""
    cdef uint64_t unit = pages_per_section(mem.sections), end = first + nr, pfn
    lists, seen = lists_of(mem), set()
    for section in range(first, end) if mem.memmap is not None else ():
        for pfn, count in mem.memmap_of.get(section, ()):
            if not first * unit <= pfn < end * unit and (pfn in seen or not lists.is_kernel(pfn, count.bit_length() - 1)):
                raise HotplugError.of(errno.EBUSY, f"the memmap of section {section} at {pfn:#x} is no longer in use")
            seen.add(pfn)
    return 0


cdef int free_memmap(Machine mem, uint64_t first, uint64_t nr) except -1:
    """The inverse of alloc_memmap, for `nr` sections from number `first` on."""
    cdef uint64_t unit = pages_per_section(mem.sections), end = first + nr
    lists = lists_of(mem)
    for section in range(first, end):
        for pfn, count in mem.memmap_of.pop(section, ()):
            if not first * unit <= pfn < end * unit:
                lists.free_kernel(pfn, count.bit_length() - 1)
    return 0


def replace_memmap(Machine mem not None, section_nr, piece, pfn):
    """Piece number `piece` of a section's page descriptors is at `pfn` now, in as many pages: for a replay that has moved
    them. ValueError unless that is one allocation of as many."""
    nr = mem.memmap_of[section_nr][piece][1]
    if not can_free(mem, as_uint64(pfn, "pfn"), nr.bit_length() - 1):
        raise ValueError(f"page {pfn:#x} is not the first of an allocation of {nr} pages")
    mem.memmap_of[section_nr][piece] = (pfn, nr)


# -- what of a range holds its own descriptors: it never goes online

cdef uint64_t memmap_within(Machine mem, uint64_t start) except? 0xFFFFFFFFFFFFFFFF:
    """Pages from here on that hold the page descriptors of their own memory block."""
    cdef uint64_t first, pages
    if mem.memmap is None:
        return 0
    first, pages = mem.memmap_of.get(start >> mem.sections.pfn_section_shift, ((0, 0),))[0]
    return pages if first == start else 0


cdef list without_memmaps(Machine mem, uint64_t start, uint64_t nr):
    """The runs (start_pfn, nr_pages) of the range that lie between the memmaps of its blocks."""
    cdef uint64_t at = start, end = start + nr, size = mem.pages_per_block, first, own
    cdef list runs = []
    for first in range(start // size * size, end, size):
        own = memmap_within(mem, first)
        if own:
            if at < first:
                runs.append((at, first - at))
            at = max(at, first + own)
    if at < end:
        runs.append((at, end - at))
    return runs


cdef object without_memmap_pages(Machine mem, object array):
    """The pfns of an array that are no memmap of their own block."""
    array = array.astype(np.int64)
    starts = array // mem.pages_per_block * mem.pages_per_block
    blocks, which = np.unique(starts, return_inverse=True)
    own = np.array([memmap_within(mem, block) if block >= 0 else 0 for block in blocks.tolist()], np.int64)
    return as_pfn_array(array[array - starts >= own[which]])
