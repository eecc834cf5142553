"""The two phases of onlining, and both at once: prepare a range, mark its pages (online_pages, mm/memory_hotplug.c)."""

from fastonline.core.engine cimport pfn_batch
from fastonline.core.types cimport int64_t, uint64_t
from fastonline.hotplug.chain_calls cimport MEM_ONLINE, NO_NODE
from fastonline.hotplug.machine cimport Machine
from fastonline.hotplug.notices cimport memory_notify, notice_of_mark, status_change_nid
from fastonline.hotplug.zone_ranges cimport enters_empty_zone

cdef int prepare_online_pages(Machine mem, uint64_t start, uint64_t nr, int online_type) except -1
cdef int64_t mark_pages_onlined(Machine mem, uint64_t start, uint64_t nr, int order) except -1
cdef int64_t mark_pfns_onlined(Machine mem, object array, pfn_batch *batch) except -1
cdef int64_t online_pages(Machine mem, uint64_t start, uint64_t nr, int online_type) except -1
cdef int64_t generic_online_page(Machine mem, uint64_t start, int order) except -1
cdef int online_page(Machine mem, uint64_t pfn) noexcept nogil
cdef int64_t online_pfns(Machine mem, const uint64_t *pfns, uint64_t nr) noexcept nogil
cdef int64_t online_range(Machine mem, uint64_t start, uint64_t nr, int order) noexcept nogil


cdef inline bint changes_no_node(Machine mem, uint64_t pfn) noexcept:
    """Does a mark of this page populate no zone, and give no node that listeners hear of its first memory?"""
    if pfn >= mem.pages.nr_pages or enters_empty_zone(mem, pfn):
        return False
    return not mem.notifiers.heard & MEM_ONLINE or status_change_nid(mem, pfn) < 0


cdef inline int notify_page(Machine mem, uint64_t pfn, int64_t done) except -1:
    """notify_mark for one page that changes no node; done: it went online."""
    mem.zones.table.recomputed += mem.watermarks_at_mark
    if done == 0:
        return 0
    if mem.notifiers.heard & MEM_ONLINE:
        return memory_notify(mem, MEM_ONLINE, notice_of_mark(pfn, 1, 1, NO_NODE))
    mem.notifiers.calls += 1
    return 0
