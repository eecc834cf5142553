import numpy as np

from fastonline.core.bitmap cimport set_bit
from fastonline.core.borders cimport part_start
from fastonline.core.numbers cimport as_number, as_uint64
from fastonline.core.sections cimport Sections
from fastonline.core.types cimport NR_ORDERS, uint64_t
from fastonline.hotplug.arguments cimport set_arguments
from fastonline.hotplug.machine cimport add_group, count_sections, make_machine, rounded_room
from fastonline.hotplug.section_states cimport note_prepared
from fastonline.hotplug.types cimport MMOP_OFFLINE, MMOP_ONLINE_MOVABLE, MOST_NODES, nr_zones
from fastonline.hotplug.watermarks cimport count_scans
from fastonline.hotplug.resources cimport Resources
from fastonline.hotplug.zone_ranges cimport count_offline

from fastonline.core.engine import COUNTERS
from fastonline.core.runs import run_starts
from fastonline.rules import INT_MAX

__all__ = []


cdef dict machine_state(Machine mem):
    """All there is but callbacks. The arrays are the machine's own: who keeps them longer than the lock copies them (owned)."""
    cdef int area, shift = mem.pages.borders.shift
    count_scans(&mem.zones.table)
    spans = mem.sections.spans()
    runs = mem.sections.runs()
    areas = [mem.pages.counters(area) for area in range(mem.pages.nr_areas)]
    return {
        "geometry": mem.geometry,
        "rules": mem.rules,
        "engine": mem.engine,
        "max_pfn": mem.max_pfn,
        "fixed_room": bool(mem.fixed_room),
        "nr_pages": mem.pages.nr_pages,
        "runs": runs,
        "planes": mem.pages.planes(spans),
        "areas": {name: np.stack([counts[name] for counts in areas]) for name in (*COUNTERS, "managed")},
        "area_of": [mem.pages.areas_owner[start >> shift : start + nr >> shift] for start, nr in spans],
        "nids": [mem.nids[first : first + nr] for first, nr in runs],
        "subsections": [mem.sections.subsections_owner[first : first + nr] for first, nr in runs],
        "online": [mem.sections.online.bits(first, nr) for first, nr in runs],
        "blocks_online": np.flatnonzero(mem.block_online.bits(0, mem.block_online.nbits)),
        "early": [mem.sections.early.bits(first, nr) for first, nr in runs],
        "zones": mem.zones.state(),
        "resources": mem.resources.tree(),
        "pages_per_block": mem.pages_per_block,
        "memmap": mem.memmap,
        "memmaps": [[section, *piece] for section, pieces in mem.memmap_of.items() for piece in pieces],
        "groups": mem.groups,
        "hotplug": [mem.auto_online, mem.auto_movable, mem.auto_movable_percent, mem.auto_movable_numa_aware, mem.policy_zone],
        "possible_nodes": mem.nr_possible_nodes,
        "counters": [mem.pages_onlined, mem.pages_offlined, mem.notifiers.calls, mem.pages.bytes_touched(),
                     mem.pages_migrated, mem.balloon_migrated, mem.high_offlined],
        "recomputed": [mem.zones.table.recomputed, mem.zones.table.scanned, mem.zonelist_builds],
    }


# -- back. Whoever wrote a state may have written anything: each value is checked for what the next steps need of it, and
# check_machine looks at what all of them make up. ValueError, TypeError, KeyError or OverflowError for values that no machine
# has.

cdef Held restore_machine(Machine mem, object state):
    """Make the bare machine `mem` from what machine_state gave. Other threads wait until the Held goes."""
    cdef Held held
    cdef int area
    page_size = state["geometry"].page_size
    set_arguments(
        mem, state["geometry"], None, state["rules"], state["engine"], as_uint64(state["max_pfn"], "max_pfn") * page_size,
        as_uint64(state["pages_per_block"], "pages_per_block") * page_size, state["memmap"],
    )
    mem.fixed_room = as_flag(state["fixed_room"])
    held = make_machine(mem, as_number(state["nr_pages"], "nr_pages", 1, rounded_room(mem, mem.max_pfn)))
    mem.zones.restore(state["zones"])
    restore_sections(mem, state)
    count_sections(mem)
    restore_pages(mem, state)
    counters = {name: as_array(state["areas"][name], np.int64, (mem.pages.nr_areas, NR_ORDERS)) for name in COUNTERS}
    counters["managed"] = as_array(state["areas"]["managed"], np.int64, (mem.pages.nr_areas,))
    for area in range(mem.pages.nr_areas):
        mem.pages.set_area_counters(area, {name: counts[area] for name, counts in counters.items()})
    mem.resources = Resources(mem.geometry.page_shift, state["resources"])
    restore_added(mem, state)
    restore_settings(mem, state)
    return held


cdef int restore_sections(Machine mem, object state) except -1:
    cdef uint64_t first, nr, end = 0
    cdef Sections sections = mem.sections
    for (first, nr), nids, subsections, online, early in zip(
        state["runs"], state["nids"], state["subsections"], state["online"], state["early"], strict=True,
    ):
        if not end <= first < first + nr <= sections.nr_sections or end and first == end:
            raise ValueError(f"{nr} sections from {first}, past {end}")
        end = first + nr
        sections.sparse_add_section(first << sections.pfn_section_shift, nr << sections.pfn_section_shift, False)
        if not 0 <= as_array(nids, np.int16, (nr,)).min() <= nids.max() < mem.zones.table.nr_nodes:
            raise ValueError(f"sections of node {nids.min()} or {nids.max()}, there are {mem.zones.table.nr_nodes} nodes")
        mem.nids[first:end] = nids
        sections.subsections_owner[first:end] = as_array(subsections, np.uint64, (nr,))
        sections.online.put_bits(first, as_array(online, np.uint8, (nr,)))
        sections.early.put_bits(first, as_array(early, np.uint8, (nr,)))
    blocks = state["blocks_online"]
    for block in as_array(blocks, np.int64, (len(blocks),)).tolist():
        set_bit(mem.block_online.words, as_number(block, "a memory block", 0, mem.block_online.nbits - 1))
    return 0


cdef int restore_pages(Machine mem, object state) except -1:
    cdef int shift = mem.pages.borders.shift, z
    spans = mem.sections.spans()
    mem.pages.set_planes(spans, state["planes"])
    for start, nr in spans:
        note_prepared(mem, start, nr)
    for (start, nr), areas in zip(spans, state["area_of"], strict=True):
        areas = as_array(areas, np.uint16, (nr >> shift,))
        if areas.max() >= mem.pages.nr_areas:
            raise ValueError(f"pages of area {areas.max()}, there are {mem.pages.nr_areas}")
        for at in run_starts(areas)[1:].tolist():
            if (pfn := start + (at << shift)) != part_start(&mem.pages.borders, pfn):
                raise ValueError(f"two zones meet at pfn {pfn:#x}, inside a block")
        mem.pages.areas_owner[start >> shift : start + nr >> shift] = areas
    mem.pages.summarize(spans)
    if mem.zones.table.present_is_managed:
        for z in range(nr_zones(&mem.zones.table)):
            mem.zones.table.zones[z].present_pages = 0
        for start, nr in spans:
            count_offline(mem, start, nr, 1)
    return 0


cdef int restore_added(Machine mem, object state) except -1:
    """Restore the ranges of add_memory, and the pages with their descriptors."""
    for section, pfn, nr in state["memmaps"]:
        piece = as_number(pfn, "a pfn", 0, mem.max_pfn), as_number(nr, "a memmap's pages", 1, mem.max_pfn)
        mem.memmap_of.setdefault(as_number(section, "a section", 0, mem.sections.nr_sections), []).append(piece)
    for start, nr, group in state["groups"]:
        if group is not None:
            name, unit = group
            group = name, as_number(unit, "the unit of a group", 1, mem.max_pfn)
        start, nr = as_number(start, "a pfn", 0, mem.max_pfn), as_number(nr, "the pages of a range", 1, mem.max_pfn)
        add_group(mem, (start, nr, group))
    return 0


cdef int restore_settings(Machine mem, object state) except -1:
    auto_online, auto_movable, ratio, numa_aware, policy_zone = state["hotplug"]
    mem.nr_possible_nodes = as_number(state["possible_nodes"], "possible_nodes", 0, MOST_NODES)
    mem.auto_online = as_number(auto_online, "auto_online", MMOP_OFFLINE, MMOP_ONLINE_MOVABLE)
    mem.auto_movable = as_flag(auto_movable)
    mem.auto_movable_percent = as_number(ratio, "auto_movable_ratio", 0, INT_MAX)
    mem.auto_movable_numa_aware = as_flag(numa_aware)
    mem.policy_zone = as_number(policy_zone, "the policy zone", 0, mem.movable_type - 1)
    mem.pages_onlined, mem.pages_offlined, calls, touched, mem.pages_migrated, mem.balloon_migrated, mem.high_offlined = [
        as_number(count, "a counter", 0, 1 << 62) for count in state["counters"]
    ]
    mem.zones.table.recomputed, mem.zones.table.scanned, mem.zonelist_builds = [
        as_number(count, "a counter", 0, 1 << 62) for count in state.get("recomputed", (0, 0, 0))
    ]
    mem.zones.table.counted = mem.zones.table.recomputed
    mem.notifiers.calls = calls
    mem.pages.set_touched(touched)
    return 0


cdef object as_array(object array, object dtype, tuple shape):
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        raise ValueError(f"an array of {np.dtype(dtype)} {shape} is missing")
    return array


cdef bint as_flag(object value) except -1:
    if not isinstance(value, bool):
        raise TypeError(f"a flag must be True or False, not {value!r:.80}")
    return value


cdef object owned(object value):
    """The state with copies of its arrays, which may go on living when the machine does not stand still any more."""
    if isinstance(value, dict):
        return {key: owned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [owned(item) for item in value]
    return value.copy() if isinstance(value, np.ndarray) else value
