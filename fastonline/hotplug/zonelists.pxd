"""The order in which nodes and zones are asked for pages, and what is said when that order is built anew."""

from fastonline.hotplug.machine cimport Machine

cdef list fallback_nodes(Machine mem, int nid)
cdef list kernel_zones(Machine mem, int nid)
cdef int asked_zone(Machine mem, object zone) except -2
cdef int next_zone(Machine mem, int asked, int z) noexcept nogil
cdef int highest_kernel_zone(Machine mem) noexcept nogil
cdef list listed_nodes(Machine mem)
cdef int build_all_zonelists(Machine mem, list nids) except -1
