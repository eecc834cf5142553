import numpy as np

from fastonline.core.bitmap cimport Bitmap
from fastonline.hotplug.machine cimport add_group, count_sections, make_machine, rounded_room
from fastonline.hotplug.section_states cimport note_prepared

from fastonline.hotplug.resources import Resources

__all__ = []


cdef dict machine_state(Machine mem):
    """All there is but callbacks. The arrays are the machine's own: who keeps them longer than the lock copies them (owned)."""
    cdef int area, shift = mem.pages.max_order
    spans = mem.sections.spans()
    runs = mem.sections.runs()
    return {
        "geometry": mem.geometry,
        "rules": mem.rules,
        "engine": mem.engine,
        "max_pfn": mem.max_pfn,
        "fixed_room": bool(mem.fixed_room),
        "nr_pages": mem.pages.nr_pages,
        "runs": runs,
        "planes": mem.pages.planes(spans),
        "areas": [mem.pages.counters(area) for area in range(mem.pages.nr_areas)],
        "area_of": [mem.pages.areas_owner[start >> shift : start + nr >> shift] for start, nr in spans],
        "nids": [mem.nids[first : first + nr] for first, nr in runs],
        "subsections": [mem.sections.subsections_owner[first : first + nr] for first, nr in runs],
        "online": [mem.sections.online.bits(first, nr) for first, nr in runs],
        "block_online": [mem.sections.block_online.bits(first, nr) for first, nr in runs],
        "early": [mem.sections.early.bits(first, nr) for first, nr in runs],
        "zones": mem.zones.state(),
        "resources": mem.resources.tree(),
        "pages_per_block": mem.pages_per_block,
        "memmap": mem.memmap,
        "memmaps": [[section, *piece] for section, pieces in mem.memmap_of.items() for piece in pieces],
        "groups": mem.groups,
        "hotplug": [mem.auto_online, mem.auto_movable, mem.auto_movable_ratio, mem.auto_movable_numa_aware, mem.policy_zone],
        "possible_nodes": mem.possible_nodes,
        "counters": [mem.pages_onlined, mem.pages_offlined, mem.notifiers.calls, mem.pages.bytes_touched(),
                     mem.pages_migrated, mem.balloon_migrated, mem.high_offlined],
    }


cdef Held restore_machine(Machine mem, object state):
    """Make the bare machine `mem` from what machine_state gave. ValueError for values that no machine has. Other threads wait
    until the Held goes."""
    cdef int area, shift
    mem.geometry = state["geometry"]
    mem.rules = state["rules"]
    mem.engine = state["engine"]
    mem.max_pfn = state["max_pfn"]
    mem.fixed_room = state["fixed_room"]
    mem.pages_per_block = state["pages_per_block"]
    mem.memmap = state["memmap"]
    if mem.engine not in ("bitmap", "struct_page") or not 0 < mem.max_pfn <= mem.geometry.max_pfn \
            or not 0 < state["nr_pages"] <= rounded_room(mem, mem.max_pfn) \
            or mem.pages_per_block <= 0 or mem.pages_per_block % mem.geometry.pages_per_section:
        raise ValueError("the engine, the size or the blocks of the machine are none")
    held = make_machine(mem, state["nr_pages"])
    for section, pfn, nr in state["memmaps"]:
        mem.memmap_of.setdefault(section, []).append((pfn, nr))
    for start, nr, group in state["groups"]:
        add_group(mem, start, nr, group and tuple(group))
    mem.auto_online, mem.auto_movable, mem.auto_movable_ratio, mem.auto_movable_numa_aware, mem.policy_zone = state["hotplug"]
    mem.possible_nodes = state["possible_nodes"]
    mem.zones.__setstate__(state["zones"])
    restore_sections(mem, state)
    if any(len(nids) and not 0 <= nids.min() <= nids.max() < mem.zones.table.nr_nodes for nids in state["nids"]):
        raise ValueError("there are sections of a node that there is not")
    count_sections(mem)
    spans = mem.sections.spans()
    mem.pages.set_planes(spans, state["planes"])
    for start, nr in spans:
        note_prepared(mem, start, nr)
    shift = mem.pages.max_order
    for (start, nr), areas in zip(spans, state["area_of"], strict=True):
        mem.pages.areas_owner[start >> shift : start + nr >> shift] = areas
    if np.any(mem.pages.areas_owner >= mem.pages.nr_areas):
        raise ValueError("there are pages of a zone that there is not")
    mem.pages.summarize(spans)
    for area, counts in enumerate(state["areas"]):
        mem.pages.set_area_counters(area, counts)
    mem.resources = Resources(mem.geometry.page_shift, state["resources"])
    mem.pages_onlined, mem.pages_offlined, mem.notifiers.calls, touched, mem.pages_migrated, \
        mem.balloon_migrated, mem.high_offlined = state["counters"]
    mem.pages.set_touched(touched)
    return held


cdef int restore_sections(Machine mem, object state) except -1:
    cdef int shift = mem.sections.pfn_section_shift
    for (first, nr), nids, subsections, online, block_online, early in zip(
        state["runs"], state["nids"], state["subsections"], state["online"], state["block_online"], state["early"],
        strict=True,
    ):
        if not 0 <= first < first + nr <= mem.sections.nr_sections:
            raise ValueError(f"there is no room for sections {first} to {first + nr}")
        mem.sections.sparse_add_section(first << shift, nr << shift, False)
        mem.nids[first : first + nr] = nids
        mem.sections.subsections_owner[first : first + nr] = subsections
        for plane, bits in ((mem.sections.online, online), (mem.sections.block_online, block_online), (mem.sections.early, early)):
            if len(bits) != nr:
                raise ValueError(f"{len(bits)} bits of {nr} sections")
            (<Bitmap>plane).put_bits(first, bits)
    return 0


cdef object owned(object value):
    """The state with copies of its arrays, which may go on living when the machine does not stand still any more."""
    if isinstance(value, dict):
        return {key: owned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [owned(item) for item in value]
    return value.copy() if isinstance(value, np.ndarray) else value
