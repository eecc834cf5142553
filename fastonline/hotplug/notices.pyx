from fastonline.hotplug.machine cimport node_present_pages
from fastonline.hotplug.memmap cimport memmap_within

from fastonline.errors import HotplugError, pfn_range
from fastonline.hotplug.notifier import MemoryNotify, notifier_to_errno

__all__ = []


cdef object make_notice(Machine mem, uint64_t start, uint64_t nr, uint64_t onlined, int nid):
    """The MemoryNotify of a range: a memmap on memory is no part of it (memory_block_online gives online_pages the rest,
    6.1)."""
    cdef uint64_t own = memmap_within(mem, start)
    return MemoryNotify(start + own, nr - own, onlined, nid)


cdef int ask_notifiers(Machine mem, object going, object cancel, object notice, str what) except -1:
    """Ask the chain; a veto or an exception is followed by the cancelling event to all, and raised."""
    mem.changing = True
    try:
        try:
            veto = notifier_to_errno(mem.notifiers.call(going, notice))
        except BaseException:
            mem.notifiers.tell(cancel, notice)
            raise
        if veto:
            mem.notifiers.tell(cancel, notice)
            raise HotplugError.of(
                veto, f"{what} of {pfn_range(notice.start_pfn, notice.nr_pages)} was vetoed by a memory notifier"
            )
    finally:
        mem.changing = False
    return 0


cdef int status_change_nid(Machine mem, uint64_t start) noexcept:
    """The node of the page when none of its memory has been online, else -1 (node_states_check_changes_online)."""
    cdef int nid = mem.nid_of[start >> mem.sections.pfn_section_shift]
    # without node states that follow, 2.6.25 looks at node_present_pages
    cdef bint has_memory = mem.zones.table.nodes[nid].has_memory if mem.nodes_lose_memory else node_present_pages(mem, nid) > 0
    return -1 if has_memory else nid
