import errno

from fastonline.core.lock cimport settle
from fastonline.core.numbers cimport as_uint64
from fastonline.core.types cimport int64_t, uint64_t
from fastonline.hotplug.machine cimport queue_event
from fastonline.hotplug.types cimport zone_managed
from fastonline.hotplug.watermarks cimport (
    init_per_zone_wmark_min, pcp_update, setup_per_zone_lowmem_reserve, setup_per_zone_wmarks,
)

from fastonline.errors import HotplugError
from fastonline.rules import INT_MAX

__all__ = ["read_lowmem_reserve_ratio"]


cdef int recompute_watermarks(Machine mem) except -1:
    """init_per_zone_wmark_min, and what it says when the user's min_free_kbytes is kept."""
    cdef int64_t refused = init_per_zone_wmark_min(&mem.zones.table)
    if refused >= 0:
        queue_event(mem, "kmsg", f"min_free_kbytes is not updated to {refused} because user defined value "
                    f"{mem.zones.table.user_min_free_kbytes} is preferred")
    return 0


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


cpdef tuple read_lowmem_reserve_ratio(Machine mem):
    """Read the sysctl, whose handler recomputes the protection of every zone; the ratios."""
    settle(mem.lock)
    setup_per_zone_lowmem_reserve(&mem.zones.table)
    return lowmem_reserve_ratio(mem)


cdef int set_lowmem_reserve_ratio(Machine mem, object ratios) except -1:
    """lowmem_reserve_ratio_sysctl_handler."""
    values = [as_uint64(ratio, "a lowmem_reserve_ratio") for ratio in ratios]
    if len(values) > mem.zones.table.nr_types:
        raise HotplugError.of(errno.EINVAL, f"lowmem_reserve_ratio has {mem.zones.table.nr_types} values, not {len(values)}")
    for i, ratio in enumerate(values):
        mem.zones.table.ratio[<int>i] = ratio
    setup_per_zone_lowmem_reserve(&mem.zones.table)
    return 0


cdef int set_watermark_scale_factor(Machine mem, object factor) except -1:
    """watermark_scale_factor_sysctl_handler."""
    cdef uint64_t value = as_uint64(factor, "watermark_scale_factor")
    if not 1 <= value <= 3000 or not mem.rules.watermark_scale_factor:
        raise HotplugError.of(errno.EINVAL, f"watermark_scale_factor {value} is not between 1 and 3000, or not known")
    mem.zones.table.scale_factor = value
    setup_per_zone_wmarks(&mem.zones.table)
    return 0


cdef int set_nr_cpus(Machine mem, object nr) except -1:
    cdef int z
    cdef int64_t value = as_int(nr, "nr_cpus")
    if value == 0:
        raise ValueError("a machine has at least one CPU")
    mem.zones.table.nr_cpus = value
    for zone in mem.zones.values():
        z = zone.nr
        pcp_update(&mem.zones.table, z, zone_managed(&mem.zones.table, z))
    return 0
