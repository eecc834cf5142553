import errno
from collections.abc import Mapping
from itertools import islice

from fastonline.core.lock cimport settle
from fastonline.core.numbers cimport as_number, as_uint64
from fastonline.core.types cimport int64_t, uint64_t
from fastonline.hotplug.machine cimport flush_events, queue_event
from fastonline.hotplug.types cimport MAX_NUMNODES, zone_managed
from fastonline.hotplug.watermarks cimport (
    calculate_min_free_kbytes, init_per_zone_wmark_min, pcp_update, refresh_zone_stat_thresholds,
    set_recommended_min_free_kbytes, setup_per_zone_lowmem_reserve, setup_per_zone_wmarks,
)

from fastonline.errors import HotplugError
from fastonline.rules import INT_MAX, SYSCTLS

__all__ = ["read_lowmem_reserve_ratio"]


cdef int recompute_watermarks(Machine mem) except -1:
    """init_per_zone_wmark_min, and what it says when the user's min_free_kbytes is kept, or khugepaged raises it."""
    cdef int64_t refused = init_per_zone_wmark_min(&mem.zones.table)
    mem.zones.table.stale = False
    if refused >= 0:
        queue_event(mem, "kmsg", f"min_free_kbytes is not updated to {refused} because user defined value "
                    f"{mem.zones.table.user_min_free_kbytes} is preferred")
    log_raised(mem)
    return 0


cdef int log_raised(Machine mem) except -1:
    """The kernel says so only when the user has ever written min_free_kbytes."""
    if mem.zones.table.raised_from >= 0 and mem.zones.table.user_min_free_kbytes >= 0:
        queue_event(mem, "kmsg", f"khugepaged: raising min_free_kbytes from {mem.zones.table.raised_from} to "
                    f"{mem.zones.table.min_free_kbytes} to help transparent hugepage allocations")
    return 0


cdef int set_transparent_hugepage(Machine mem, object word, bint possible=True) except -1:
    """enabled_store of mm/huge_memory.c: khugepaged starts or stops (start_stop_khugepaged), and min_free_kbytes is computed
    anew. Where boot has switched it off for good it is not possible, and only the word is checked."""
    if word != "never" and not mem.rules.has_thp:
        raise ValueError(f"transparent_hugepage {word!r}: Linux {mem.rules.name} has no transparent huge pages")
    mem.zones.set_transparent_hugepage(word)
    if not possible:
        mem.zones.set_transparent_hugepage("never")
        return 0
    if mem.zones.table.khugepaged:
        set_recommended_min_free_kbytes(&mem.zones.table)
        log_raised(mem)
    else:
        calculate_min_free_kbytes(&mem.zones.table)
        setup_per_zone_wmarks(&mem.zones.table)
    return flush_events(mem)


cdef int64_t as_int(object number, str name) except -1:
    cdef uint64_t value = as_uint64(number, name)
    if value > <uint64_t>INT_MAX:
        raise OverflowError(f"{name} does not fit into an int: {number}")
    return value


cdef int set_min_free_kbytes(Machine mem, object kbytes) except -1:
    """min_free_kbytes_sysctl_handler."""
    cdef int64_t value = as_int(kbytes, "min_free_kbytes")
    mem.zones.table.min_free_kbytes = value
    mem.zones.table.user_min_free_kbytes = value
    setup_per_zone_wmarks(&mem.zones.table)
    mem.zones.table.stale = False
    return 0


cdef tuple lowmem_reserve_ratio(Machine mem):
    cdef int i
    return tuple([mem.zones.table.ratio[i] for i in range(mem.zones.table.nr_types)])


def read_lowmem_reserve_ratio(Machine mem not None):
    """Read the sysctl, whose handler recomputes the protection of every zone; the ratios."""
    settle(mem.lock)
    setup_per_zone_lowmem_reserve(&mem.zones.table)
    return lowmem_reserve_ratio(mem)


cdef int set_lowmem_reserve_ratio(Machine mem, object ratios) except -1:
    """lowmem_reserve_ratio_sysctl_handler."""
    # one more than there may be: the iterable may be endless
    values = [as_uint64(ratio, "a lowmem_reserve_ratio") for ratio in islice(ratios, mem.zones.table.nr_types + 1)]
    if len(values) > mem.zones.table.nr_types:
        raise HotplugError.of(errno.EINVAL, f"lowmem_reserve_ratio has {mem.zones.table.nr_types} values, more were given")
    for i, ratio in enumerate(values):
        mem.zones.table.ratio[<int>i] = ratio
    setup_per_zone_lowmem_reserve(&mem.zones.table)
    return 0


cdef int set_watermark_scale_factor(Machine mem, object factor) except -1:
    """watermark_scale_factor_sysctl_handler."""
    cdef uint64_t value = as_uint64(factor, "watermark_scale_factor")
    least, most = SYSCTLS["watermark_scale_factor"]
    if not mem.rules.watermark_scale_factor:
        raise HotplugError.of(errno.EINVAL, f"Linux {mem.rules.name} has no watermark_scale_factor")
    if not least <= value <= most:
        raise HotplugError.of(errno.EINVAL, f"invalid watermark_scale_factor {value} (expected {least} to {most})")
    mem.zones.table.scale_factor = value
    setup_per_zone_wmarks(&mem.zones.table)
    return 0


cdef dict nr_cpus_of(Machine mem):
    """{node: its CPUs} of the nodes that have some."""
    cdef int nid
    return {nid: mem.zones.table.nodes[nid].nr_cpus for nid in range(mem.zones.table.nr_nodes)
        if mem.zones.table.nodes[nid].nr_cpus}


cdef int set_nr_cpus(Machine mem, object cpus) except -1:
    """CPUs come and go: vmstat_cpu_online computes the stat thresholds, zone_pcp_update the zones' per-CPU lists."""
    cdef int z, nid
    numbers = dict(cpus) if isinstance(cpus, Mapping) else {0: cpus}
    numbers = {as_number(node, "a node", 0, MAX_NUMNODES - 1): as_int(nr, "nr_cpus") for node, nr in numbers.items()}
    if not 0 < sum(numbers.values()) <= INT_MAX:
        raise ValueError("nr_cpus must be at least 1")
    mem.zones.need_node(max(numbers))
    for nid in range(mem.zones.table.nr_nodes):
        mem.zones.table.nodes[nid].nr_cpus = numbers.get(nid, 0)
    mem.zones.table.nr_cpus = sum(numbers.values())
    refresh_zone_stat_thresholds(&mem.zones.table)
    for zone in mem.zones.values():
        z = zone.nr
        pcp_update(&mem.zones.table, z, zone_managed(&mem.zones.table, z))
    return 0
