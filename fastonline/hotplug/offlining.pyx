import errno

from fastonline.core.lock cimport PyThreadState
from fastonline.core.numbers cimport as_uint64
from fastonline.core.pageflags cimport PG_offline, PG_prepared, PG_reserved
from fastonline.core.types cimport int64_t
from fastonline.core.undo cimport Undo, undo_step
from fastonline.hotplug.arguments cimport check_present
from fastonline.hotplug.chain_calls cimport MEM_CANCEL_OFFLINE, MEM_FINISH_OFFLINE, MEM_GOING_OFFLINE, MEM_OFFLINE, NO_NODE
from fastonline.hotplug.machine cimport deliver_events, flush_events, node_present_pages
from fastonline.hotplug.notices cimport (
    block_notice, lost_nid_normal, make_notice, memory_notify, memory_notify_cancel, memory_notify_going,
)
from fastonline.hotplug.page_alloc cimport PageLists, lists_of
from fastonline.hotplug.section_states cimport block_is_online, note_prepared_alike, sections_went_offline
from fastonline.hotplug.sysctl cimport recompute_watermarks
from fastonline.hotplug.types cimport zone_nid, zone_present, zone_type
from fastonline.hotplug.watermarks cimport refresh
from fastonline.hotplug.zone_ranges cimport adjust_present_page_count, count_offline, page_zone, remove_pfn_range_from_zone
from fastonline.hotplug.zonelists cimport build_all_zonelists, listed_nodes

from fastonline.errors import HotplugError, pfn_range
from fastonline.hotplug.migrate import first_unmovable, migrate_range, put_back

__all__ = ["check_unused", "memory_block_offline"]


cdef int offline_pages(Machine mem, uint64_t start, uint64_t nr) except -1:
    """Migrate pages in use, take all pages from the allocator, then update zone, node and watermarks, and notify."""
    cdef int z
    before, mem.going_offline = mem.going_offline, (start, nr)
    try:
        z = check_offlinable(mem, start, nr)
        notice = isolate_range(mem, start, nr, z)
        adjust_present_page_count(mem, start, -<int64_t>nr, z)
        note_prepared_alike(mem, start, nr, False)
        sections_went_offline(mem, start, nr)
        leave_zone(mem, start, nr, z)
        try:
            flush_events(mem)
        finally:
            memory_notify(mem, MEM_OFFLINE, notice)
    finally:
        mem.going_offline = before
    return 0


def memory_block_offline(Machine mem not None, start_pfn, nr_pages):
    """offline_pages of a memory block. Since 6.9 MEM_FINISH_OFFLINE follows."""
    cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
    _held = mem.mem_hotplug_begin("offline_pages")
    check_present(mem, start, nr, "offline_pages")
    notice = block_notice(mem, start, nr)
    before, mem.going_offline = mem.going_offline, (start, nr)
    try:
        try:
            offline_pages(mem, start, nr)
        finally:
            if mem.rules.block_notices and not block_is_online(mem, start // mem.pages_per_block):
                memory_notify(mem, MEM_FINISH_OFFLINE, notice)
    finally:
        mem.going_offline = before


cdef int check_offlinable(Machine mem, uint64_t start, uint64_t nr) except -1:
    """Return the number of the only zone of an online range."""
    cdef uint64_t block = <uint64_t>1 << mem.pageblock_order
    check_present(mem, start, nr, "offline_pages")
    if start & (block - 1) or (start + nr) % (<uint64_t>1 << mem.sections.pfn_section_shift if mem.aligned else block):
        raise HotplugError.of(errno.EINVAL, f"offline_pages of {pfn_range(start, nr)}: the start must be pageblock-aligned, "
            f"the end {'section' if mem.aligned else 'pageblock'}-aligned")
    if not mem.sections.all_in(mem.sections.fully_prepared, start, nr) and mem.pages.weigh(PG_prepared, start, nr) != nr:
        raise HotplugError.of(errno.EINVAL, f"offline_pages of {pfn_range(start, nr)}: part of it is not online")
    if mem.pages.area_run(start, start + nr) != nr:
        raise HotplugError.of(errno.EINVAL, f"offline_pages of {pfn_range(start, nr)}: it spans several zones")
    return page_zone(mem, start)


cdef object isolate_range(Machine mem, uint64_t start, uint64_t nr, int z):
    """Call the notifiers, migrate pages in use, and isolate every page of the range. Return the MemoryNotify, or None when
    nobody hears of it. If a page stays in use, nothing is isolated and MEM_CANCEL_OFFLINE is sent."""
    cdef int64_t used
    cdef PyThreadState *thread
    cdef bint moved = False, alone, heard = mem.notifiers.heard & (MEM_GOING_OFFLINE | MEM_OFFLINE | MEM_CANCEL_OFFLINE)
    cdef Undo undo = Undo.__new__(Undo)
    notice = None
    lists = lists_of(mem)
    # other threads may allocate between the check and here, when Python runs or the GIL is released
    alone = not heard and type(lists) is PageLists
    try:
        undo.note(<undo_step>zone_pcp_enable, lists, z)
        lists.disable(z)
        lists.release(start, nr)
        refuse_used(mem, start, nr)
        if heard:
            nid = zone_nid(&mem.zones.table, z)
            notice = make_notice(mem, start, nr, 0, nid if nr >= node_present_pages(mem, nid) else NO_NODE,
                                 lost_nid_normal(mem, z, nr))
        undo.note(<undo_step>memory_notify_cancel, mem, None if notice is None else (MEM_CANCEL_OFFLINE, notice))
        memory_notify_going(mem, MEM_GOING_OFFLINE, notice, "offline_pages")
        lists.shrink_slabs()
        if notice is not None:
            refuse_used(mem, start, nr)    # a notifier may have allocated
        if mem.owners:
            alone = False
            empty = move_pages(mem, start, nr)
            undo.note(<undo_step>put_pages_back, mem, empty)
            moved = len(empty) > 0
        lists.enable(z)
        thread = mem.lock.let_go(nr * mem.pages.page_bits)
        used = -1 if moved or thread == NULL and alone else mem.pages.find_used(start, nr)
        if used < 0:
            take_range(mem, start, nr, z, moved)
        mem.lock.take_back(thread)
        if used >= 0:
            raise HotplugError.of(errno.EBUSY, f"{pfn_range(start, nr)}: page {used:#x} is in use")
    except BaseException:      # also for an exception of a notifier or an owner
        undo.roll_back()
        raise
    return notice


cdef int zone_pcp_enable(PageLists lists, object z) except -1:
    lists.enable(z)
    return 0


cdef int put_pages_back(Machine mem, object pfns) except -1:
    put_back(mem, pfns)
    return 0


cdef object move_pages(Machine mem, uint64_t start, uint64_t nr):
    """migrate_range. Callbacks of owners may not call hot-plug functions: the hot-plug lock is held."""
    cdef bint changing = mem.changing
    mem.changing = True
    try:
        return migrate_range(mem, start, nr)
    finally:
        mem.changing = changing


cdef void take_range(Machine mem, uint64_t start, uint64_t nr, int z, bint moved) noexcept nogil:
    """Take every page of an isolated range from the allocator (__offline_isolated_pages)."""
    cdef uint64_t offlined = 0
    refresh(&mem.zones.table)     # 2.6.25 keeps the watermarks of the last mark
    count_offline(mem, start, nr, -1)
    if moved:
        offlined = nr - mem.pages.weigh(PG_reserved, start, nr) - mem.pages.weigh(PG_offline, start, nr)
        mem.pages.reserve_range(start, nr)
    offlined += mem.pages.take_range(start, nr)
    mem.pages_offlined += offlined
    if mem.zones.table.is_highmem[zone_type(&mem.zones.table, z)] and not mem.totalhigh_shrinks:
        mem.high_offlined += offlined


cdef int leave_zone(Machine mem, uint64_t start, uint64_t nr, int z) except -1:
    """Update zone and node after a range went offline, and log it."""
    cdef int nid = zone_nid(&mem.zones.table, z)
    if mem.rules.watermarks_at_offline:
        recompute_watermarks(mem)
    if mem.rules.skips_memoryless:
        node_states_clear_node(mem, nid)
    if mem.rules.zonelists_follow and zone_present(&mem.zones.table, z) == 0:
        build_all_zonelists(mem, listed_nodes(mem))
    node_states_clear_node(mem, nid)
    if mem.shrink_spans:
        remove_pfn_range_from_zone(mem, start, nr, z)
    return 0


cdef void node_states_clear_node(Machine mem, int nid) noexcept nogil:
    """Remove a node without memory from N_MEMORY and stop its kernel threads (kswapd_stop, kcompactd_stop)."""
    if mem.nodes_lose_memory and node_present_pages(mem, nid) == 0:
        mem.zones.table.nodes[nid].has_memory = False


cdef int refuse_used(Machine mem, uint64_t start, uint64_t nr, bint report=True) except -1:
    """Raise EBUSY naming the first page in use that cannot be moved (has_unmovable_pages). report: log it
    (REPORT_FAILURE)."""
    cdef int64_t used
    cdef PyThreadState *thread = mem.lock.let_go(nr * mem.pages.page_bits)
    used = mem.pages.find_used(start, nr)
    mem.lock.take_back(thread)
    if used < 0:
        return 0
    if mem.owners:
        unmovable = first_unmovable(mem, start, nr)
        if unmovable is None:
            return 0
        used = unmovable
    if mem.listeners and report:
        deliver_events(mem, [("kmsg", f"page: refcount:1 mapcount:0 pfn:{used:#x}"),
                             ("kmsg", "page dumped because: unmovable page")])
    raise HotplugError.of(errno.EBUSY, f"{pfn_range(start, nr)}: page {used:#x} is in use")


def check_unused(Machine mem not None, start_pfn, nr_pages):
    """Raise EBUSY naming the first page in use of a range that cannot be moved, EINVAL without a section. Nothing is logged,
    as for alloc_contig_range."""
    cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
    _held = mem.lock.hold()
    check_present(mem, start, nr, "check_unused")
    refuse_used(mem, start, nr, False)
