from fastonline.core.bitmap cimport bitmap_clear, bitmap_set, clear_bit, find_next_bit, set_bit, test_bit
from fastonline.core.lock cimport settle
from fastonline.core.numbers cimport as_uint64
from fastonline.core.pageflags cimport PG_prepared, PG_reserved
from fastonline.core.sections cimport present_section_nr
from fastonline.core.types cimport word_t

__all__ = ["block_nid", "block_online", "block_present", "section_nid"]


# -- prepared

cdef int64_t batch_outside_prepared(Machine mem, const pfn_batch *batch) noexcept nogil:
    """The lowest pfn of a gathered batch in a section with no prepared page, or -1."""
    cdef int64_t pfn = -1
    if mem.sections.all_in(mem.sections.fully_prepared, batch.first, batch.end - batch.first):
        return -1
    while True:
        pfn = mem.pages.find_unprepared(batch, pfn + 1)
        if pfn < 0 or outside_prepared(mem, pfn, 1) >= 0:
            return pfn
        pfn |= (<int64_t>1 << mem.sections.pfn_section_shift) - 1


cdef void note_prepared(Machine mem, uint64_t start, uint64_t nr) noexcept nogil:
    """Pages of the range were prepared, or are no longer: look which of its sections are so now, in full or in part."""
    cdef uint64_t shift = mem.sections.pfn_section_shift, section, pages = <uint64_t>1 << shift, weight
    for section in range(start >> shift, ((start + nr - 1) >> shift) + 1):
        weight = mem.pages.weigh(PG_prepared, section << shift, pages)
        if weight:
            set_bit(mem.sections.prepared.words, section)
        else:
            clear_bit(mem.sections.prepared.words, section)
        if weight == pages:
            set_bit(mem.sections.fully_prepared.words, section)
        else:
            clear_bit(mem.sections.fully_prepared.words, section)


cdef void note_prepared_alike(Machine mem, uint64_t start, uint64_t nr, bint prepared) noexcept nogil:
    """note_prepared for a range all of whose pages are alike: only the sections at its ends need be looked at."""
    cdef uint64_t shift = mem.sections.pfn_section_shift, end = (start + nr) >> shift
    cdef uint64_t first = (start + (<uint64_t>1 << shift) - 1) >> shift
    if first < end:
        if prepared:
            bitmap_set(mem.sections.prepared.words, first, end - first)
            bitmap_set(mem.sections.fully_prepared.words, first, end - first)
        else:
            bitmap_clear(mem.sections.prepared.words, first, end - first)
            bitmap_clear(mem.sections.fully_prepared.words, first, end - first)
    if first << shift != start:
        note_prepared(mem, start, 1)
    if end << shift != start + nr:
        note_prepared(mem, start + nr - 1, 1)


# -- online

cdef void sections_went_online(Machine mem, uint64_t start, uint64_t nr) noexcept nogil:
    """online_mem_sections for what a mark has just been over: a section with a page online is online."""
    cdef uint64_t shift = mem.sections.pfn_section_shift, pfn = start, end = start + nr, section
    while pfn < end:
        section = pfn >> shift
        if not test_bit(mem.sections.online.words, section):
            while pfn < end and pfn >> shift == section and \
                    mem.pages.state(pfn) & (PG_prepared | PG_reserved) != PG_prepared:
                pfn += 1
            if pfn < end and pfn >> shift == section:
                section_went_online(mem, section)
        pfn = (section + 1) << shift


cdef void count_onlined(Machine mem, uint64_t start, uint64_t nr, uint64_t onlined) noexcept nogil:
    """Update sections and counters after pages of a range went online, and the watermarks where every mark recomputes them."""
    if onlined:
        sections_went_online(mem, start, nr)
        mem.pages_onlined += onlined
    mem.zones.table.stale |= mem.watermarks_at_mark


cdef uint64_t online_batch(Machine mem, const pfn_batch *batch) noexcept nogil:
    """Put the waiting pages of a gathered batch online, and update all that counts them."""
    cdef uint64_t shift = mem.sections.pfn_section_shift, onlined, section, i
    cdef const word_t *online = mem.sections.online.words
    cdef const uint64_t *pfns = batch.pfns64
    cdef bint all_online = mem.sections.all_in(mem.sections.online, batch.first, batch.end - batch.first)
    if not all_online and not batch.one_by_one:
        # now, since the bits do not outlive the next call: what is prepared in a section that is not online is waiting
        for section in range(batch.first >> shift, ((batch.end - 1) >> shift) + 1):
            if not test_bit(mem.sections.online.words, section) and mem.pages.meets_prepared(section << shift,
                    <uint64_t>1 << shift):
                section_went_online(mem, section)
    onlined = mem.pages.online_batch(batch)
    mem.pages_onlined += onlined
    mem.zones.table.stale |= mem.watermarks_at_mark
    if onlined and not all_online and batch.one_by_one:
        # In a batch that is a range, one page of each section is enough. Otherwise every page has to be looked at.
        for section in range(batch.first >> shift, min((batch.end - 1) >> shift, (batch.first >> shift) + batch.nr) + 1):
            sections_went_online(mem, max(section << shift, batch.first), 1)
        all_online = mem.sections.all_in(mem.sections.online, batch.first, batch.end - batch.first)
        for i in range(0 if all_online else batch.nr):
            if not test_bit(online, pfns[i] >> shift):
                sections_went_online(mem, pfns[i], 1)
    return onlined


cdef void section_went_offline(Machine mem, uint64_t section) noexcept nogil:
    """No page of a section is online any more; its block goes offline when it was the last one."""
    cdef uint64_t block = section >> mem.block_shift
    clear_bit(mem.sections.online.words, section)
    if not any_online(mem, block):
        clear_bit(mem.block_online.words, block)


cdef void sections_went_offline(Machine mem, uint64_t start, uint64_t nr) noexcept nogil:
    """offline_mem_sections: the sections of the range with no prepared page left are offline."""
    cdef uint64_t shift = mem.sections.pfn_section_shift, section
    for section in range(start >> shift, ((start + nr - 1) >> shift) + 1):
        if not test_bit(mem.sections.prepared.words, section):
            section_went_offline(mem, section)


# -- memory blocks

cdef void range_went_online(Machine mem, uint64_t start, uint64_t nr) noexcept nogil:
    """online_pages has been over a range: its whole sections are online, and its whole blocks, also where a callback has kept
    every page back (online_mem_sections, memory_block_change_state)."""
    cdef uint64_t shift = mem.sections.pfn_section_shift, first = (start + (<uint64_t>1 << shift) - 1) >> shift
    cdef uint64_t end = (start + nr) >> shift, section, block
    for section in range(first, end):
        if test_bit(mem.sections.prepared.words, section):
            set_bit(mem.sections.online.words, section)
    for block in range(first >> mem.block_shift, ((end - 1) >> mem.block_shift) + 1 if first < end else 0):
        if any_online(mem, block) and not (mem.blocks_unaware
                and (block << mem.block_shift < first or (block + 1) << mem.block_shift > end)):
            set_bit(mem.block_online.words, block)


cdef void boot_blocks_online(Machine mem) noexcept nogil:
    """Every block with an online section is online (add_boot_memory_block)."""
    cdef uint64_t section = find_next_bit(mem.sections.online.words, mem.sections.nr_sections, 0)
    while section < mem.sections.nr_sections:
        set_bit(mem.block_online.words, section >> mem.block_shift)
        section = find_next_bit(mem.sections.online.words, mem.sections.nr_sections, section + 1)


cdef bint any_online(Machine mem, uint64_t block) noexcept nogil:
    """Is a section of the block online?"""
    cdef uint64_t end = min((block + 1) << mem.block_shift, mem.sections.nr_sections)
    return find_next_bit(mem.sections.online.words, end, block << mem.block_shift) < end


cdef bint block_is_online(Machine mem, uint64_t block) noexcept nogil:
    """mem->state of a block that may not be there."""
    return block < mem.block_online.nbits and test_bit(mem.block_online.words, block)


cdef int64_t first_section(Machine mem, uint64_t block) noexcept nogil:
    """The first present section of a block, -1 when it has none: the block is not there."""
    cdef uint64_t first, end
    if block >= mem.block_online.nbits:
        return -1
    first = block << mem.block_shift
    end = min(first + (<uint64_t>1 << mem.block_shift), mem.sections.nr_sections)
    first = find_next_bit(mem.sections.present.words, end, first)
    return first if first < end else -1


def block_present(Machine mem not None, block_nr):
    """Return whether memory block number block_nr (any int) has a present section (add_boot_memory_block)."""
    settle(mem.lock)
    return 0 <= block_nr < mem.block_online.nbits and first_section(mem, block_nr) >= 0


def block_online(Machine mem not None, block_nr):
    """Return whether memory block number block_nr is online (mem->state). False if it is not present."""
    cdef uint64_t block = as_uint64(block_nr, "block_nr")
    settle(mem.lock)
    return block_is_online(mem, block)


def block_nid(Machine mem not None, block_nr):
    """Return the node of memory block number block_nr. ValueError if it is not present."""
    cdef uint64_t block = as_uint64(block_nr, "block_nr")
    cdef int64_t section
    settle(mem.lock)
    section = first_section(mem, block)
    if section < 0:
        raise ValueError(f"memory{block} is not present")
    return mem.nid_of[section]


# -- nodes

def section_nid(Machine mem not None, section_nr):
    """Return the node of section number section_nr (pfn_to_nid). ValueError if it is not present."""
    cdef uint64_t section = as_uint64(section_nr, "section_nr")
    settle(mem.lock)
    if not present_section_nr(mem.sections, section):
        raise ValueError(f"section {section} is not present")
    return mem.nid_of[section]
