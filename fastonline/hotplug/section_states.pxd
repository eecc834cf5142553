"""The states of sections and memory blocks, and how they change when pages are prepared, go online or go offline.

A section is *prepared* when some of its pages are, *fully prepared* when all are, *online* when one has gone online.

A memory block has one state, online or offline, however many sections it has (mem->state, drivers/base/memory.c; KERNEL.md
1.5). Only the functions of this file change it:

- At boot a block with an online section is online (add_boot_memory_block).
- online_pages over a whole block makes it online. Unless the rules say blocks_unaware, so does every page of it that goes
  online, by a mark, an array or the C API, and online_pages over a part of it.
- A block goes offline when its last online section does.
"""

from fastonline.core.bitmap cimport find_next_zero_bit, set_bit
from fastonline.core.engine cimport pfn_batch
from fastonline.core.types cimport int64_t, uint64_t
from fastonline.hotplug.machine cimport Machine


cdef inline int64_t outside_prepared(Machine mem, uint64_t start, uint64_t nr) noexcept nogil:
    """The first section of the range with no prepared page in it, or -1."""
    cdef uint64_t shift = mem.sections.pfn_section_shift, end = ((start + nr - 1) >> shift) + 1
    cdef uint64_t section = find_next_zero_bit(mem.sections.prepared.words, end, start >> shift)
    return section if section < end else -1


cdef inline bint all_waiting_sections(Machine mem, uint64_t start, uint64_t nr) noexcept nogil:
    """Is all of the range waiting, because its sections are fully prepared and none has had a page online?"""
    return mem.sections.none_in(mem.sections.online, start, nr) and mem.sections.all_in(mem.sections.fully_prepared, start, nr)


cdef inline void section_went_online(Machine mem, uint64_t section) noexcept nogil:
    """The first page of a section has gone online: its node has memory, its block is online unless blocks_unaware."""
    set_bit(mem.sections.online.words, section)
    if not mem.blocks_unaware:
        set_bit(mem.block_online.words, section >> mem.block_shift)
    mem.zones.table.nodes[mem.nid_of[section]].has_memory = True


cdef int64_t batch_outside_prepared(Machine mem, const pfn_batch *batch) noexcept nogil
cdef void note_prepared(Machine mem, uint64_t start, uint64_t nr) noexcept nogil
cdef void note_prepared_alike(Machine mem, uint64_t start, uint64_t nr, bint prepared) noexcept nogil
cdef void count_onlined(Machine mem, uint64_t start, uint64_t nr, uint64_t onlined) noexcept nogil
cdef uint64_t online_batch(Machine mem, const pfn_batch *batch) noexcept nogil
cdef void section_went_offline(Machine mem, uint64_t section) noexcept nogil
cdef void sections_went_offline(Machine mem, uint64_t start, uint64_t nr) noexcept nogil
cdef void range_went_online(Machine mem, uint64_t start, uint64_t nr) noexcept nogil
cdef void boot_blocks_online(Machine mem) noexcept nogil
cdef bint block_is_online(Machine mem, uint64_t block) noexcept nogil
cdef int64_t first_section(Machine mem, uint64_t block) noexcept nogil
