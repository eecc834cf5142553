cimport cython

import numpy as np

from fastonline.core.borders cimport part_end, part_start
from fastonline.core.pageflags cimport PG_offline, PG_prepared
from fastonline.core.numbers cimport as_uint64
from fastonline.core.sections cimport early_section_nr
from fastonline.hotplug.section_states cimport block_is_online, first_section
from fastonline.hotplug.types cimport (
    MMOP_ONLINE, MMOP_ONLINE_KERNEL, MMOP_ONLINE_MOVABLE, zone as struct_zone, zone_number, zone_type,
)

from fastonline.hotplug.policy import auto_movable_can_online_movable

__all__ = ["largest_blocks", "valid_zones"]


cdef inline bint zone_intersects(const struct_zone *zone, uint64_t start, uint64_t nr) noexcept nogil:
    return zone.spanned_pages and start < zone.start_pfn + zone.spanned_pages and zone.start_pfn < start + nr


cdef int zone_for_pfn_range(Machine mem, uint64_t start, uint64_t nr, int nid, int online_type) except -1:
    """The number of the zone that a range would go to (6.1).

    online_kernel and online_movable name the kernel zones or Movable. Plain `online` asks the policy: contig-zones takes the
    first kernel zone whose span meets the range, else Movable when its span does, else the geometry's hotplug_zone
    (default_zone_for_pfn); auto-movable weighs (hotplug/policy.py). In 2.6.25 pages keep the zone that they were given, which
    for added memory is the geometry's hotplug_zone.
    """
    cdef int base = zone_number(&mem.zones.table, nid, 0), i, kernel = -1, movable = mem.movable_type
    cdef struct_zone *zones = &mem.zones.table.zones[base]
    cdef bint kernel_meets, movable_meets
    if not mem.zone_at_online:
        i = page_zone(mem, start)
        return i if i >= 0 else base + mem.hotplug_type
    if online_type == MMOP_ONLINE_MOVABLE or online_type == MMOP_ONLINE and mem.auto_movable \
            and auto_movable_can_online_movable(mem, start, nr, nid, mem.auto_movable_percent):
        return base + movable
    for i in range(mem.zones.table.normal + 1):
        if start < zones[i].start_pfn + zones[i].spanned_pages and zones[i].start_pfn < start + nr:
            kernel = i
            break
    kernel_meets = kernel >= 0
    if not kernel_meets:
        kernel = mem.hotplug_type
        kernel_meets = zone_intersects(&zones[kernel], start, nr)
    movable_meets = zone_intersects(&zones[movable], start, nr)
    if online_type == MMOP_ONLINE and not mem.auto_movable and movable_meets and not kernel_meets:
        return base + movable
    return base + kernel


cdef void move_pfn_range_to_zone(Machine mem, uint64_t start, uint64_t nr, int z) noexcept nogil:
    """The range joins a zone: the span grows. Blocks that are in a zone already stay in it, as pages do in 2.6.25, and it is
    that zone's span that reaches over them."""
    cdef uint64_t pfn = start, end = start + nr, stop
    cdef int there
    while pfn < end:
        stop = pfn + mem.pages.area_run(pfn, end)
        there = page_zone(mem, pfn)
        if there < 0:
            mem.pages.assign_area(pfn, stop - pfn, zone_area(z))
        elif there != z:
            mem.zones.grow_span(there, pfn, stop - pfn)
        pfn = stop
    mem.zones.grow_span(z, start, nr)


cdef void remove_pfn_range_from_zone(Machine mem, uint64_t start, uint64_t nr, int z) noexcept nogil:
    """The range leaves its zone: blocks with nothing else prepared in them are in no zone any more, the span shrinks."""
    cdef uint64_t first = part_start(&mem.pages.borders, start), end = part_end(&mem.pages.borders, start + nr - 1)
    if first < start and mem.pages.weigh(PG_prepared, first, start - first):
        first = part_end(&mem.pages.borders, first)
    if end > start + nr and first < end and mem.pages.weigh(PG_prepared, start + nr, end - start - nr):
        end = part_start(&mem.pages.borders, start + nr)
    if first < end:
        mem.pages.assign_area(first, end - first, NO_AREA)
    mem.zones.shrink_span(z, start, nr)


@cython.overflowcheck(False)     # nr may be negative
cdef void adjust_present_page_count(Machine mem, uint64_t start, int64_t nr, int z) noexcept nogil:
    """nr pages from start on are present in a zone, or no longer when nr is negative. Where a page is present once it went
    online, the engine counts."""
    cdef struct_zone *zone = &mem.zones.table.zones[z]
    if mem.zones.table.present_is_managed:
        return
    zone.present_pages += nr
    if early_section_nr(mem.sections, start >> mem.sections.pfn_section_shift):
        zone.present_early += nr


@cython.overflowcheck(False)     # the sum may shrink
cdef void count_offline(Machine mem, uint64_t start, uint64_t nr, int sign) noexcept nogil:
    """The PG_offline pages of a range have just become so (sign 1), or are about to be something else (-1). In 2.6.25 they stay
    present: a balloon changes totalram_pages and leaves zone->present_pages alone."""
    cdef uint64_t run
    cdef struct_zone *zone
    cdef int z
    while nr and mem.zones.table.present_is_managed:
        run = 1 if nr == 1 else mem.pages.area_run(start, start + nr)
        z = page_zone(mem, start)
        if z >= 0:
            zone = &mem.zones.table.zones[z]
            zone.present_pages += sign * <int64_t>mem.pages.weigh(PG_offline, start, run)
        start += run
        nr -= run


def valid_zones(Machine mem not None, block_nr):
    """Return the text of the valid_zones file of memory block number block_nr: the zone of an online block, or "none" if it has
    several; for an offline block its possible zones, default first (valid_zones_show). ValueError if there is no such block."""
    cdef uint64_t unit = mem.pages_per_block, number = as_uint64(block_nr, "block_nr"), start
    cdef int shift = mem.pages.borders.shift, nid
    cdef int64_t section = first_section(mem, number)
    names = mem.zones.names
    _held = mem.lock.hold()
    if section < 0:
        raise ValueError(f"memory{number} is not present")
    start = number * unit
    if block_is_online(mem, number):
        areas = np.unique(mem.pages.areas_owner[start >> shift : start + unit >> shift])
        areas = areas[areas != NO_AREA]
        return names[zone_type(&mem.zones.table, int(areas[0]) - 1)] if len(areas) == 1 else "none"
    nid = mem.nid_of[section]
    words = []
    for online_type in (MMOP_ONLINE, MMOP_ONLINE_KERNEL, MMOP_ONLINE_MOVABLE):
        name = names[zone_type(&mem.zones.table, zone_for_pfn_range(mem, start, unit, nid, online_type))]
        if name not in words:
            words.append(name)
    return " ".join(words)


def largest_blocks(Machine mem not None, z):
    """Return the numbers of the blocks of 2^max_page_order pages that zone number z has pages of, an int64 array, ascending."""
    z = mem.zones.zone_nr(z)
    parts = np.flatnonzero(mem.pages.areas_owner == zone_area(z)).astype(np.int64)
    return parts if mem.pages.borders.nr == 0 else np.unique(parts >> (mem.pages.max_order - mem.pages.borders.shift))
