"""Which zone a range of pages goes to, and what changes in a zone when a range joins it or leaves it."""

from fastonline.core.types cimport NO_AREA, int64_t, uint64_t
from fastonline.hotplug.machine cimport Machine
from fastonline.hotplug.types cimport zone_area, zone_present


cdef inline int page_zone(Machine mem, uint64_t pfn) noexcept nogil:
    """The number of the zone that a page is in, or -1."""
    return mem.pages.area_of[pfn >> mem.pages.borders.shift] - 1 if pfn < mem.pages.nr_pages else -1


cdef inline bint enters_empty_zone(Machine mem, uint64_t pfn) noexcept nogil:
    """Will the page's zone be populated by its first page that is marked? (populated_zone in 2.6.25's online_pages.)"""
    cdef int z = page_zone(mem, pfn)
    return mem.zones.table.present_is_managed and z >= 0 and zone_present(&mem.zones.table, z) == 0


cdef int zone_for_pfn_range(Machine mem, uint64_t start, uint64_t nr, int nid, int online_type) except -1
cdef void move_pfn_range_to_zone(Machine mem, uint64_t start, uint64_t nr, int z) noexcept nogil
cdef void remove_pfn_range_from_zone(Machine mem, uint64_t start, uint64_t nr, int z) noexcept nogil
cdef void adjust_present_page_count(Machine mem, uint64_t start, int64_t nr, int z) noexcept nogil
cdef void count_offline(Machine mem, uint64_t start, uint64_t nr, int sign) noexcept nogil
