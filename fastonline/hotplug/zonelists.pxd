"""The order in which nodes and zones are asked for pages, and what is said when that order is built anew."""

from fastonline.hotplug.machine cimport Machine

cpdef list node_order(Machine mem, int nid)
cpdef list kernel_zonelist(Machine mem, int nid)
cpdef list movable_zonelist(Machine mem, int nid, object nodes=*, object highest=*)
cdef list any_zonelist(Machine mem, object zone)
cdef int highest_kernel_zone(Machine mem) noexcept nogil
cdef list listed_nodes(Machine mem)
cdef int build_all_zonelists(Machine mem, list nids) except -1
