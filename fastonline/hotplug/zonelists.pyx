from fastonline.core.lock cimport settle
from fastonline.core.numbers cimport as_number
from fastonline.core.types cimport int64_t
from fastonline.hotplug.machine cimport populated_zone, queue_event
from fastonline.hotplug.types cimport nr_zones, zone_managed, zone_number, zone_present, zone_type
from fastonline.hotplug.watermarks cimport refresh
from fastonline.hotplug.zones cimport Zone

__all__ = ["kernel_zonelist", "movable_zonelist", "node_order"]


cdef int as_nid(object nid) except -1:
    return as_number(nid, "nid", 0, 0x7FFFFFFF)


def node_order(Machine mem not None, nid):
    """Return the fallback order of node `nid`: itself, then the other nodes with memory.

    Under Rules.skips_memoryless the node itself is listed only if it has memory. All distances are equal and the CPUs are on
    node 0, so that higher numbers come first, then lower ones, then node 0 (find_next_best_node, mm/page_alloc.c).
    """
    settle(mem.lock)
    return fallback_nodes(mem, as_nid(nid))


def kernel_zonelist(Machine mem not None, nid):
    """Return the numbers of the zones for GFP_KERNEL on node `nid`, in zonelist order."""
    settle(mem.lock)
    return kernel_zones(mem, as_nid(nid))


def movable_zonelist(Machine mem not None, nid, nodes=None, highest=None):
    """Return the numbers of the zones for GFP_HIGHUSER_MOVABLE on node `nid`, in zonelist order. nodes: only these, None: all.
    highest: the highest zone type, None: Movable."""
    cdef int node = as_nid(nid), n, i
    top = mem.zones.names.index("Movable" if highest is None else highest)
    settle(mem.lock)
    return [zone_number(&mem.zones.table, n, i) for n in fallback_nodes(mem, node) if nodes is None or n in nodes
            for i in range(top, -1, -1) if populated_zone(mem, n, i)]


cdef list fallback_nodes(Machine mem, int nid):
    others = [n for n in mem.zones.online_nodes() if n != nid and mem.zones.has_memory(n)]
    own = [] if mem.rules.skips_memoryless and not mem.zones.has_memory(nid) else [nid]
    higher, lower, first = [n for n in others if n > nid], [n for n in others if 0 < n < nid], [n for n in others if n == 0]
    return own + higher + lower + first


cdef list kernel_zones(Machine mem, int nid):
    return [zone_number(&mem.zones.table, n, i) for n in fallback_nodes(mem, nid) for i in range(mem.zones.table.normal, -1, -1)
            if populated_zone(mem, n, i)]


cdef int named_zone(Machine mem, object zone) except -1:
    cdef Zone known
    cdef int z
    if isinstance(zone, Zone):
        known = zone
        if known.zones is mem.zones and mem.zones.table.nodes[known.nid].online:
            return known.nr
        zone = (known.nid, known.name)
    z = mem.zones.find(zone)
    if z < 0:
        raise ValueError(mem.zones.unknown(zone))
    return z


cdef int highest_kernel_zone(Machine mem) noexcept nogil:
    """The number of the highest zone type below Movable that is populated; 0 when none is."""
    cdef int z, highest = 0
    for z in range(nr_zones(&mem.zones.table)):
        if zone_type(&mem.zones.table, z) < mem.movable_type and zone_present(&mem.zones.table, z):
            highest = max(highest, zone_type(&mem.zones.table, z))
    return highest


cdef list listed_nodes(Machine mem):
    """The nodes that get zonelists: since 5.18 all that there may ever be, whose pgdat boot makes, before those that are
    there."""
    there = mem.zones.online_nodes()
    if not mem.nr_possible_nodes or not mem.rules.lists_possible_nodes:
        return there
    return list(range(max(mem.nr_possible_nodes, max(there) + 1)))


cdef int build_all_zonelists(Machine mem, list nids) except -1:
    """For these nodes: which is the policy zone, and what the log says.

    2.6.25 has set the watermarks anew by then (online_pages calls setup_per_zone_pages_min first), later kernels have not.
    """
    cdef int z
    cdef int64_t total = 0
    cdef int kinds = mem.rules.nr_migrate_types
    mem.policy_zone = max(mem.policy_zone, highest_kernel_zone(mem))
    mem.zonelist_builds += 1
    if not mem.listeners:
        return 0
    refresh(&mem.zones.table)
    for nid in nids:
        queue_event(mem, "kmsg", f"Fallback order for Node {nid}: {' '.join(map(str, fallback_nodes(mem, nid)))}")
    for z in range(nr_zones(&mem.zones.table)):
        total += max(<int64_t>0, <int64_t>zone_managed(&mem.zones.table, z) - mem.zones.table.zones[z].high
                     - mem.zones.table.zones[z].boost)
    grouping = "off" if total < (kinds << mem.pageblock_order) else "on"
    nodes = len(mem.zones.online_nodes())
    queue_event(mem, "kmsg", f"Built {nodes} zonelists, mobility grouping {grouping}.  Total pages: {total}")
    queue_event(mem, "kmsg", f"Policy zone: {mem.zones.names[mem.policy_zone]}")
    return 0
