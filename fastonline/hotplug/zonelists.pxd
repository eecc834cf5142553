"""The order in which nodes and zones are asked for pages, and what is said when that order is built anew."""

from fastonline.hotplug.machine cimport Machine

cpdef list node_order(Machine mem, int nid)
cpdef list kernel_zonelist(Machine mem, int nid)
cpdef list movable_zonelist(Machine mem, int nid, object nodes=*, object highest=*)
cdef int asked_zone(Machine mem, object zone) except -2
cdef int next_zone(Machine mem, int asked, int z) noexcept nogil
cdef int highest_kernel_zone(Machine mem) noexcept nogil
cdef list listed_nodes(Machine mem)
cdef int build_all_zonelists(Machine mem, list nids) except -1
