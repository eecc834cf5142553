"""The order in which nodes and zones are asked for pages, and the log lines when it is built anew (build_all_zonelists)."""

from fastonline.hotplug.machine cimport Machine
from fastonline.hotplug.types cimport zone_nid, zone_number, zone_type

cdef list fallback_nodes(Machine mem, int nid)
cdef list kernel_zones(Machine mem, int nid)
cdef int highest_kernel_zone(Machine mem) noexcept nogil
cdef list listed_nodes(Machine mem)
cdef int build_all_zonelists(Machine mem, list nids) except -1
# The number of the zone that a caller asks for (a name, a (nid, name) or a Zone), or ValueError
cdef int named_zone(Machine mem, object zone) except -1


cdef inline int asked_zone(Machine mem, object zone) except -2:
    """named_zone, or -1 for None, any zone."""
    return -1 if zone is None else named_zone(mem, zone)


cdef inline int next_zone(Machine mem, int asked, int z) noexcept nogil:
    """The zone to try after `z` (-1: the first): the one asked for, or where any will do all of them, from the highest type
    down, node by node; -1: there is no other."""
    cdef int nid
    if asked >= 0:
        return asked if z < 0 else -1
    if z >= 0 and zone_type(&mem.zones.table, z):
        return z - 1
    for nid in range(0 if z < 0 else zone_nid(&mem.zones.table, z) + 1, mem.zones.table.nr_nodes):
        if mem.zones.table.nodes[nid].online:
            return zone_number(&mem.zones.table, nid, mem.zones.table.nr_types - 1)
    return -1
