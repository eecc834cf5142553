"""The two phases of onlining, and both at once: prepare a range, mark its pages (online_pages, mm/memory_hotplug.c)."""

from fastonline.core.engine cimport pfn_batch
from fastonline.core.types cimport int64_t, uint64_t
from fastonline.hotplug.machine cimport Machine

cdef int prepare_online_pages(Machine mem, uint64_t start, uint64_t nr, int online_type) except -1
cdef int64_t mark_pages_onlined(Machine mem, uint64_t start, uint64_t nr, int order) except -1
cdef int64_t mark_pfns_onlined(Machine mem, object array, pfn_batch *batch) except -1
cdef int64_t online_pages(Machine mem, uint64_t start, uint64_t nr, int online_type) except -1
cdef int64_t generic_online_page(Machine mem, uint64_t start, int order) except -1
cdef int online_page(Machine mem, uint64_t pfn) noexcept nogil
cdef int64_t online_pfns(Machine mem, const uint64_t *pfns, uint64_t nr) noexcept nogil
cdef int64_t online_range(Machine mem, uint64_t start, uint64_t nr, int order) noexcept nogil


cdef inline void count_mark(Machine mem, int64_t done) noexcept:
    """One page was marked, and nobody listens; done: it went online."""
    mem.zones.table.recomputed += mem.watermarks_at_mark
    mem.notifiers.calls += done > 0
