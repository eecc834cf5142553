import numpy as np

from fastonline.core.borders cimport part_end, part_start
from fastonline.core.buffer cimport data_of
from fastonline.core.numbers cimport as_number
from fastonline.core.ram cimport check_ram
from fastonline.core.pageflags cimport PG_buddy, PG_offline, PG_prepared, PG_reserved
from fastonline.core.types cimport max_bits, uint8_t, uint64_t
from fastonline.hotplug.interruptible cimport INIT, ONLINE, PREPARE, walk_range
from fastonline.hotplug.machine cimport add_group, count_sections, reset_counters, room_for
from fastonline.hotplug.section_states cimport boot_blocks_online, note_prepared, note_prepared_alike
from fastonline.hotplug.types cimport zone as struct_zone, zone_area, zone_managed, zone_nid, zone_number, zone_table, zone_type
from fastonline.hotplug.watermarks cimport init_per_zone_wmark_min, pcp_update
from fastonline.hotplug.zone_ranges cimport count_offline, page_zone
from fastonline.hotplug.zonelists cimport highest_kernel_zone

from fastonline.errors import pfn_range
from fastonline.hotplug.resources import RAM

__all__ = []


# -- boot

cdef int boot_memory(Machine mem, list ranges) except -1:
    """Memory that is there and online as after a boot, in (start_pfn, nr_pages, nid, reserved) ranges: early sections, zones by
    the geometry's limits, every page free but the reserved first ones of a range, which are present and not managed."""
    cdef uint64_t start, pfn, nr, end, stop, reserved
    cdef int i, nid, shift = mem.sections.pfn_section_shift
    page_shift = mem.geometry.page_shift
    limits = [None if limit is None else limit >> page_shift for _, limit in mem.geometry.zone_limits]
    for start, nr, nid, _ in ranges:
        mem.zones.need_node(nid)
        mem.zones.table.nodes[nid].online = True
        mem.sections.sparse_add_section(start, nr, True)
        mem.nids[start >> shift : (start + nr - 1 >> shift) + 1] = nid
        mem.resources.register(start, nr, RAM, False)
    for pfn, nr in mem.sections.spans():
        walk_range(mem, INIT, pfn, nr, 0)
    for start, nr, nid, reserved in ranges:
        end = start + nr
        for i, limit in enumerate(limits):
            stop = end if limit is None else min(end, <uint64_t>limit)
            if start < stop:
                boot_zone(mem, start, stop - start, zone_number(&mem.zones.table, nid, i), min(reserved, stop - start))
                reserved -= min(reserved, stop - start)
                start = stop
    boot_blocks_online(mem)
    count_sections(mem)
    mem.policy_zone = highest_kernel_zone(mem)
    init_per_zone_wmark_min(&mem.zones.table)
    reset_counters(mem)
    return 0


cdef int boot_zone(Machine mem, uint64_t start, uint64_t nr, int z, uint64_t reserved) except -1:
    """A range of one zone that was there at boot, all of it free but its first pages."""
    check_run(mem, mem.zones.names[zone_type(&mem.zones.table, z)], start, nr, z)
    mem.pages.assign_area(start, nr, zone_area(z))
    mem.zones.grow_span(z, start, nr)
    note_boot_pages(mem, z, nr)
    mem.zones.table.nodes[zone_nid(&mem.zones.table, z)].has_memory = True
    walk_range(mem, PREPARE, start, nr, 0)
    note_prepared_alike(mem, start, nr, True)
    if reserved < nr:
        walk_range(mem, ONLINE, start + reserved, nr - reserved, mem.pages.max_order)
    return 0


# -- a page map

cdef int load_page_map(
    Machine mem, object sections, object ram, object zones, object min_free_kbytes, object user_min_free_kbytes
) except -1:
    """Bring an empty machine into the states of a page map; see Memory.from_page_map."""
    cdef zone_table *table = &mem.zones.table
    cdef uint64_t end, start, nr
    sections, zones = list(sections), list(zones)      # they are gone through more than once
    end = max([start + nr for start, nr, _, _ in sections], default=0)
    cdef int shift = mem.sections.pfn_section_shift, nid, z, i
    if end > mem.max_pfn:
        raise ValueError(f"a page map of {end:#x} pages: {mem.geometry.name} ends at pfn {mem.max_pfn:#x}")
    for kbytes in (min_free_kbytes, -1 if user_min_free_kbytes is None else user_min_free_kbytes):
        if not -1 <= kbytes <= 0x7FFFFFFF:
            raise ValueError(f"min_free_kbytes does not fit into an int: {kbytes}")
    room_for(mem, end)
    for start, nr, nid, early in sections:
        mem.zones.need_node(nid)
        table.nodes[nid].online = True
        if not nr or nr > mem.max_pfn or start > mem.max_pfn - nr:
            raise ValueError(f"invalid memory range of {nr} pages at pfn {start:#x}")
        mem.sections.sparse_add_section(start, nr, early)
        mem.nids[start >> shift : (start + nr - 1 >> shift) + 1] = nid
        if not early:
            add_group(mem, (start, nr, None))
    for start, nr in mem.sections.spans():
        check_ram(nr * mem.pages.page_bits >> 3)
        mem.pages.init_pages(start, nr)
    for first, pages, *name in ram:
        if name:
            mem.resources.load(first, pages, name[0])
        else:
            mem.resources.register(first, pages, RAM, False)
    for known in zones:
        mem.zones.need_node(known.nid)
        table.nodes[<int>known.nid].online = True      # a node without memory too
        if (known.nid, known.name) not in mem.zones:
            raise ValueError(f"node {known.nid} has no zone {known.name} under rules {mem.rules.name}")
        if not 0 <= known.start_pfn <= known.start_pfn + known.spanned_pages <= mem.max_pfn:
            raise ValueError(f"zone {known.name} spans {known.spanned_pages} pages at {known.start_pfn:#x}, past the end of "
                f"memory")
        load_zone(mem, known, mem.zones[known.nid, known.name].nr)
    for start, nr in mem.sections.spans():
        note_prepared(mem, start, nr)
    if np.any(mem.sections.online.owner & ~mem.sections.prepared.owner):
        raise ValueError("a section is online but none of its pages is in a zone's page map")
    boot_blocks_online(mem)
    count_sections(mem)
    mem.policy_zone = highest_kernel_zone(mem)
    init_per_zone_wmark_min(table)
    reset_counters(mem)
    if user_min_free_kbytes is not None:
        table.user_min_free_kbytes = user_min_free_kbytes
    elif min_free_kbytes > table.min_free_kbytes:
        # above what a kernel computes: the user's, or khugepaged's, and kept either way
        table.user_min_free_kbytes = min_free_kbytes
    table.min_free_kbytes = min_free_kbytes
    for known in zones:
        z = mem.zones[known.nid, known.name].nr
        watermarks = as_pages(known.min), as_pages(known.low), as_pages(known.high)
        table.zones[z].min, table.zones[z].low, table.zones[z].high = watermarks
        table.zones[z].boost = getattr(known, "boost", 0)
        pcp_update(table, z, zone_managed(table, z))
        for i, name in enumerate(mem.zones.names):
            table.zones[z].protection[i] = as_pages(known.protection.get(name, 0))
    return 0


cdef uint64_t as_pages(object value) except? 0xFFFFFFFFFFFFFFFF:
    return as_number(value, "a watermark or reserve", 0, max_bits())


cdef int load_zone(Machine mem, object known, int z) except -1:
    """Bring the added pages of a zone into the states of its page map."""
    cdef const uint64_t *starts
    cdef const uint64_t *lengths
    cdef const uint8_t *states
    cdef Py_ssize_t i, nr
    cdef int max_order = mem.pages.max_order
    first_pfns, nr_pages, masks = checked_runs(known)
    nr = len(first_pfns)
    if nr == 0:
        return 0
    starts, lengths = <const uint64_t *>data_of(first_pfns), <const uint64_t *>data_of(nr_pages)
    states = <const uint8_t *>data_of(masks)
    for i in range(nr):
        check_run(mem, known.name, starts[i], lengths[i], z)
        mem.pages.assign_area(starts[i], lengths[i], zone_area(z))
        mem.pages.prepare_pages(starts[i], lengths[i])
        if states[i] & (PG_reserved | PG_buddy) == 0:
            mem.pages.online_range(starts[i], lengths[i], max_order, True)
            mem.pages.claim_range(starts[i], lengths[i])
            if states[i] & PG_offline:
                mem.pages.set_offline(starts[i], lengths[i])
                count_offline(mem, starts[i], lengths[i], 1)
    # last, so that the free lists are in the order of these alone
    for i in range(nr):
        if states[i] & PG_buddy:
            mem.pages.online_range(starts[i], lengths[i], max_order, True)
    mem.zones.grow_span(z, known.start_pfn, known.spanned_pages)
    note_boot_pages(mem, z, np.sum(nr_pages))
    mem.zones.table.nodes[zone_nid(&mem.zones.table, z)].has_memory = True
    return 0


cdef void note_boot_pages(Machine mem, int z, uint64_t nr) noexcept nogil:
    """`nr` pages of a zone were there at boot. Where a page is present once it went online, the engine counts."""
    cdef struct_zone *zone = &mem.zones.table.zones[z]
    zone.present_early += nr
    if not mem.zones.table.present_is_managed:
        zone.present_pages += nr


cdef tuple checked_runs(object known):
    """The arrays of a zone's runs: first pfns, lengths and states. ValueError when they are not in order, or in states that
    there are not."""
    starts, lengths, states = [np.ascontiguousarray(column) for column in known.runs]
    if (starts.dtype, lengths.dtype, states.dtype) != (np.uint64, np.uint64, np.uint8) \
            or not starts.shape == lengths.shape == states.shape == (len(starts),):
        raise ValueError(f"the page map of zone {known.name} must be three arrays of uint64, uint64 and uint8")
    if len(starts) == 0:
        return starts, lengths, states
    ends, last = starts + lengths, len(starts) - 1
    if np.any(ends <= starts) or np.any(ends[:last] > starts[1:]) \
            or not known.start_pfn <= starts[0] or not ends[last] <= known.start_pfn + known.spanned_pages:
        raise ValueError(f"the page map of zone {known.name} is not in order, or leaves the zone's span")
    if not np.isin(states, [PG_prepared | flag for flag in (PG_reserved, PG_buddy, 0, PG_offline)]).all():
        raise ValueError(f"the page map of zone {known.name} has pages that are neither waiting, free, in use nor offline")
    return starts, lengths, states


cdef int check_run(Machine mem, object name, uint64_t start, uint64_t nr, int z) except -1:
    """The pages of a run have sections, and are in no other zone."""
    cdef uint64_t pfn = start, stop
    if mem.sections.missing(start, nr) != <uint64_t>-1 or mem.pages.weigh(PG_prepared, start, nr):
        raise ValueError(f"{pfn_range(start, nr)} of zone {name} has no section, or is in two zones")
    while pfn < start + nr:
        stop = part_end(&mem.pages.borders, pfn)
        if page_zone(mem, pfn) >= 0 and page_zone(mem, pfn) != z:
            pfn = part_start(&mem.pages.borders, pfn)
            raise ValueError(f"{pfn_range(pfn, stop - pfn)} is in two zones, one of them {name}")
        pfn = stop
    return 0
