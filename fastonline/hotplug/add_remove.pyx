import errno

from fastonline.core.lock cimport PyThreadState
from fastonline.core.sections cimport pages_per_section
from fastonline.core.types cimport NO_AREA
from fastonline.core.undo cimport Undo, undo_step
from fastonline.hotplug.arguments cimport check_present, check_range
from fastonline.hotplug.interruptible cimport INIT, walk_range
from fastonline.hotplug.machine cimport add_group, flush_events, queue_event, room_for
from fastonline.hotplug.memmap cimport alloc_memmap, check_memmap, free_memmap
from fastonline.hotplug.types cimport MAX_NUMNODES
from fastonline.hotplug.watermarks cimport refresh
from fastonline.hotplug.zonelists cimport build_all_zonelists

from fastonline.errors import HotplugError, pfn_range
from fastonline.hotplug.blocks import MMOP_OFFLINE, Blocks

__all__ = []


cdef int add_memory(Machine mem, uint64_t start, uint64_t nr, uint64_t nid, object name, bint merge, int threads,
                    object group) except -1:
    """add_memory_resource: sections and their memmap, a resource, a node, uevents; then the new blocks go online where
    auto_online_blocks says so."""
    cdef uint64_t unit = pages_per_section(mem.sections), first, end, count
    cdef bint new_node
    check_addable(mem, start, nr, nid)
    first = start // unit
    end = (start + nr + unit - 1) // unit
    refresh(&mem.zones.table)     # what marks have asked for comes before a new node's zones are there
    room_for(mem, end * unit)
    # a section that an earlier, narrower range brought is there already (2.6.25 swallows its EEXIST)
    runs = mem.sections.missing_runs(first, end - first)
    add_sections(mem, start, nr, nid, runs, name, merge, threads, group)
    new_node = not mem.zones.table.nodes[nid].online
    try:
        if new_node and mem.rules.zonelists_follow:
            build_all_zonelists(mem, [nid])
    finally:
        mem.zones.table.nodes[nid].online = True
    auto_online = mem.auto_online
    blocks = []
    if mem.listeners or auto_online != MMOP_OFFLINE:
        blocks = [block for first, count in runs for block in
                  range(first * unit // mem.pages_per_block, ((first + count) * unit - 1) // mem.pages_per_block + 1)]
    for block in blocks:
        queue_event(mem, "uevent", f"add@memory{block}")
    if new_node:
        queue_event(mem, "uevent", f"add@node{nid}")
    try:
        flush_events(mem)
    finally:
        if auto_online != MMOP_OFFLINE:
            Blocks(mem).auto_online(blocks, auto_online)
    return 0


cdef int check_addable(Machine mem, uint64_t start, uint64_t nr, uint64_t nid) except -1:
    check_range(mem, start, nr, "add_memory")
    if nid >= MAX_NUMNODES:
        raise ValueError(f"invalid nid {nid} (expected 0 to {MAX_NUMNODES - 1})")
    taken = mem.resources.conflict(start, nr)
    if taken:
        raise HotplugError.of(
            errno.EEXIST, f"add_memory of {pfn_range(start, nr)}: it overlaps {pfn_range(taken[0], taken[1] - taken[0])}"
        )
    if mem.aligned and (start % mem.pages_per_block or nr % mem.pages_per_block):
        near = " or ".join([pfn_range(first, end - first) for first, end in nearest_ranges(mem, start, nr)])
        raise HotplugError.of(
            errno.EINVAL, f"add_memory of {pfn_range(start, nr)}: not whole memory blocks of {mem.pages_per_block:#x} pages"
            + (f", as {near} would be" if near else "")
        )
    return 0


cdef list nearest_ranges(Machine mem, uint64_t start, uint64_t nr):
    """The whole memory blocks, (first pfn, end), that lie in a range, and those that it meets, where they can be added."""
    cdef uint64_t size = mem.pages_per_block, end = start + nr
    inner = ((start + size - 1) // size * size, end // size * size)
    outer = (start // size * size, (end + size - 1) // size * size)
    return [(first, last) for first, last in (inner, outer)
            if first < last <= mem.max_pfn and not mem.resources.conflict(first, last - first)]


cdef int add_sections(Machine mem, uint64_t start, uint64_t nr, uint64_t nid, list runs, object name, bint merge,
                      int threads, object group) except -1:
    """arch_add_memory: the missing sections of the range, `runs` of (first, how many), with their memmap, and the resource; or
    nothing."""
    cdef uint64_t unit = pages_per_section(mem.sections), first, count, section
    cdef Undo undo = Undo.__new__(Undo)
    added = (start, nr, group)
    try:
        for run in runs:
            first, count = run
            walk_range(mem, INIT, first * unit, count * unit, 0, threads)
            undo.note(<undo_step>forget_sections, mem, run)
        if mem.memmap is not None:
            alloc_memmap(mem, start, nr, runs, nid, merge)
        mem.zones.need_node(nid)
        undo.note(<undo_step>release_resource, mem, added)
        mem.resources.register(start, nr, name, merge)
        add_group(mem, added)
    except BaseException:      # no room for the memmap, or a signal
        undo.roll_back()
        raise
    for first, count in runs:
        mem.sections.sparse_add_section(first * unit, count * unit, False)
        for section in range(first, first + count):
            mem.nid_of[section] = nid
        mem.zones.table.nodes[nid].nr_sections += count
    return 0


cdef int forget_sections(Machine mem, tuple run) except -1:
    """The pages of sections and their memmap, if they have one, are gone. run: (first section, how many)."""
    cdef uint64_t unit = pages_per_section(mem.sections), first, count
    first, count = run
    mem.pages.forget_pages(first * unit, count * unit)
    return free_memmap(mem, first, count)


cdef int release_resource(Machine mem, tuple added) except -1:
    """The resource of an added range, (start_pfn, nr_pages, group), is gone, if it was there."""
    cdef uint64_t start = added[0], nr = added[1]
    if mem.resources.conflict(start, nr):
        mem.resources.cut(mem.resources.cuts(start, nr))
    return 0


cdef int remove_memory(Machine mem, uint64_t start, uint64_t nr) except -1:
    """try_remove_memory: memmap, sections and resource go, uevents are sent, and a node without memory is gone too."""
    cdef uint64_t unit = pages_per_section(mem.sections)
    cdef uint64_t section
    cdef PyThreadState *thread
    cdef int node, gone = 0      # the node that has lost its last section
    check_present(mem, start, nr, "remove_memory")
    if start % mem.pages_per_block or nr % mem.pages_per_block:
        raise HotplugError.of(
            errno.EINVAL, f"remove_memory of {pfn_range(start, nr)}: not whole memory blocks of {mem.pages_per_block:#x} pages"
        )
    if not mem.sections.none_in(mem.sections.prepared, start, nr):
        raise HotplugError.of(errno.EBUSY, f"remove_memory of {pfn_range(start, nr)}: offline it first")
    check_memmap(mem, start // unit, nr // unit)
    # what may fail for want of memory comes first
    sections = list(range(start // unit, (start + nr) // unit))
    cuts = mem.resources.cuts(start, nr)
    free_memmap(mem, start // unit, nr // unit)
    mem.resources.cut(cuts)
    for number in sections:
        mem.groups_at.pop(number, None)
    for section in range(start // unit, (start + nr) // unit):
        mem.zones.table.nodes[mem.nid_of[section]].nr_sections -= 1
    thread = mem.lock.let_go(nr * mem.pages.page_bits)
    mem.pages.forget_pages(start, nr)
    mem.lock.take_back(thread)
    mem.pages.assign_area(start, nr, NO_AREA)
    mem.sections.sparse_remove_section(start // unit, nr // unit)
    # events are delivered when the machine is consistent again
    for node in range(1, mem.zones.table.nr_nodes):
        if mem.zones.table.nodes[node].online and mem.zones.table.nodes[node].nr_sections == 0:
            mem.zones.table.nodes[node].online = False
            gone = node
    if mem.listeners:
        for block in range(start // mem.pages_per_block, (start + nr) // mem.pages_per_block):
            queue_event(mem, "uevent", f"remove@memory{block}")
    if gone:
        queue_event(mem, "uevent", f"remove@node{gone}")
    flush_events(mem)
    return 0
