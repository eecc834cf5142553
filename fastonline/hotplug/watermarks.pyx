from libc.math cimport sqrt
from libc.stdint cimport INT64_MAX

from fastonline.core.numbers cimport as_number
from fastonline.hotplug.types cimport (
    nr_zones, zone as struct_zone, zone_managed, zone_nid, zone_number, zone_present, zone_type,
)

__all__ = ["zone_batchsize"]


cdef uint64_t int_sqrt(uint64_t x) noexcept nogil:
    """Floor of the square root (lib/math/int_sqrt.c)."""
    cdef uint64_t r = <uint64_t>sqrt(<double>x)
    while r * r > x:
        r -= 1
    while (r + 1) * (r + 1) <= x:
        r += 1
    return r


cdef inline int64_t pages_of(zone_table *t, int z) noexcept nogil:
    """The pages of a zone that count for its watermarks: present_pages in 2.6.25, managed_pages since 3.9."""
    return zone_present(t, z) if t.by_present else zone_managed(t, z)


cdef uint64_t nr_free_buffer_pages(zone_table *t) noexcept nogil:
    """nr_free_zone_pages(gfp_zone(GFP_USER)): pages beyond the high watermark, with its boost (high_wmark_pages), of the kernel
    zones but highmem."""
    cdef uint64_t total = 0
    cdef int nid, i, z
    for nid in range(t.nr_nodes):
        for i in range(t.normal + 1):
            z = zone_number(t, nid, i)
            if pages_of(t, z) > t.zones[z].high + t.zones[z].boost:
                total += pages_of(t, z) - t.zones[z].high - t.zones[z].boost
    return total


cdef int64_t calculate_min_free_kbytes(zone_table *t) noexcept nogil:
    """calculate_min_free_kbytes (6.1; init_per_zone_pages_min in 2.6.25): isqrt(lowmem_kbytes * 16), clamped, unless the
    value the user wrote is larger: then what it would have become, else -1. The high watermarks it subtracts are those of
    before, hence the hysteresis."""
    cdef int64_t new = int_sqrt(nr_free_buffer_pages(t) * t.page_kb * 16)
    if new <= t.user_min_free_kbytes:
        return new
    t.min_free_kbytes = max(<int64_t>128, min(new, t.min_free_max))
    return -1


cdef int64_t batchsize(int64_t pages, int64_t cap) noexcept nogil:
    """zone_batchsize(): pages moved between a per-CPU list and the zone at a time; 0 is used as 1 (6.1; 2.6.25 alike)."""
    cdef int64_t batch = max(<int64_t>1, min(pages / 1024, cap) / 4), power = 1
    batch += batch / 2
    while 2 * power <= batch:
        power *= 2
    return power - 1


cdef void pcp_update(zone_table *t, int z, int64_t pages) noexcept nogil:
    """zone_set_pageset_high_and_batch (6.1): high is the low watermark shared among the node's own CPUs, or all of
    them where it has none (zone_highsize), before 5.14 six batches. A zone
    that has just got memory has the lists of boot, batch 1 and high 0, and they stay where nothing is different from before. In
    2.6.25 (setup_pageset) the lists of every zone stay as boot made them."""
    cdef struct_zone *zone = &t.zones[z]
    cdef int64_t batch, high, high_max, cpus = t.nodes[zone_nid(t, z)].nr_cpus
    if not t.pcp_follows:
        pages = zone.present_early
    if not cpus:
        cpus = t.nr_cpus
    batch = max(<int64_t>1, batchsize(pages, t.batch_cap))
    high_max = max(pages / 8 / cpus, batch << 2)      # MIN_PERCPU_PAGELIST_HIGH_FRACTION
    high = max(zone.low / cpus, batch << 2) if t.pcp_high_from_low else 6 * batchsize(pages, t.batch_cap)
    if zone_present(t, z) == 0:
        zone.pcp_batch = 0
        zone.pcp_high = 0
    elif zone.pcp_batch == 0:
        zone.pcp_batch = 1
    if batch != zone.pageset_batch or high != zone.pageset_high or t.pcp_auto_tunes and high_max != zone.pcp_high_max \
            or not t.pcp_follows:
        zone.pcp_high_max = high_max
        zone.pageset_batch = batch
        zone.pageset_high = high
        if zone_present(t, z):
            zone.pcp_batch = batch
            zone.pcp_high = high


cdef void refresh_zone_stat_thresholds(zone_table *t) noexcept nogil:
    """calculate_normal_threshold (mm/vmstat.c, 6.1): 2 fls(CPUs) (1 + fls(managed / 128 MiB)), at most 125."""
    cdef int z
    cdef int64_t units, threshold
    for z in range(nr_zones(t)):
        units = zone_managed(t, z) * t.page_kb >> 17
        threshold = 2 * fls(t.nr_cpus) * (1 + fls(units))
        t.zones[z].stat_threshold = min(<int64_t>125, threshold) if zone_present(t, z) else 0


cdef int fls(uint64_t x) noexcept nogil:
    """The number of the highest bit that is set, from 1; 0 for none."""
    cdef int bits = 0
    while x:
        x >>= 1
        bits += 1
    return bits


cdef void setup_per_zone_wmarks(zone_table *t) noexcept nogil:
    """setup_per_zone_wmarks (6.1), setup_per_zone_pages_min (2.6.25): compute the watermarks, and count that."""
    t.recomputed += 1
    compute_wmarks(t)


cdef void count_scans(zone_table *t) noexcept nogil:
    """Count the pageblocks that recomputations have walked since the last time that this was called; every zone has spanned
    as many pages all the while."""
    cdef uint64_t blocks = 0
    cdef int z
    if t.counted != t.recomputed and t.scans_pageblocks:
        for z in range(nr_zones(t)):
            blocks += (t.zones[z].spanned_pages + t.pageblock_pages - 1) / t.pageblock_pages
        t.scanned += (t.recomputed - t.counted) * blocks
    t.counted = t.recomputed


cdef void compute_wmarks(zone_table *t) noexcept nogil:
    """__setup_per_zone_wmarks (6.1, 6.12)."""
    cdef int64_t pages_min = t.min_free_kbytes / t.page_kb, lowmem = 0, pages, share, delta
    cdef int z, i
    cdef struct_zone *zone
    for z in range(nr_zones(t)):
        i = zone_type(t, z)
        if not t.is_highmem[i] and not (t.movable_has_min and t.is_movable[i]):
            lowmem += pages_of(t, z)
    if lowmem == 0:
        return
    for z in range(nr_zones(t)):
        if not t.nodes[zone_nid(t, z)].online:      # for_each_zone
            continue
        i = zone_type(t, z)
        zone = &t.zones[z]
        pages = pages_of(t, z)
        share = <uint64_t>pages_min * <uint64_t>pages / <uint64_t>lowmem      # u64, which may wrap as the kernel's does
        if t.is_highmem[i] or (t.movable_has_min and t.is_movable[i]):
            zone.min = max(<int64_t>32, min(pages / 1024, <int64_t>128))
        else:
            zone.min = share
        if t.scale_factor:
            delta = max(share >> 2, pages / 10000 * t.scale_factor + pages % 10000 * t.scale_factor / 10000)
            zone.low = zone.min + delta
            zone.high = zone.low + delta
        else:
            zone.low = zone.min + (share >> 2)
            zone.high = zone.min + (share >> 1)
        pcp_update(t, z, pages)


cdef void setup_per_zone_lowmem_reserve(zone_table *t) noexcept nogil:
    """setup_per_zone_lowmem_reserve: what each zone keeps from requests that a higher one could have served."""
    cdef int nid, i, j, base
    cdef int64_t above
    for nid in range(t.nr_nodes):
        if not t.nodes[nid].online:      # for_each_online_pgdat
            continue
        base = zone_number(t, nid, 0)
        for i in range(t.nr_types):
            above = 0
            for j in range(t.nr_types):
                if j > i:
                    above += pages_of(t, base + j)
                if t.ratio[i] == 0 or (pages_of(t, base + i) == 0 and not t.empty_zones_reserve):
                    t.zones[base + i].protection[j] = 0
                else:
                    t.zones[base + i].protection[j] = above / t.ratio[i]


cdef void set_recommended_min_free_kbytes(zone_table *t) noexcept nogil:
    """set_recommended_min_free_kbytes (mm/khugepaged.c, 6.1): two pageblocks, and one for each pair of MIGRATE_PCPTYPES (3),
    for every populated zone up to GFP_USER's, but at most a twentieth of the free pages beyond the high watermarks.
    t.raised_from: min_free_kbytes before, -1 where it is enough."""
    cdef int64_t populated = 0, recommended
    cdef int z
    for z in range(nr_zones(t)):
        if zone_type(t, z) <= t.normal and zone_present(t, z):
            populated += 1
    recommended = min(t.pageblock_pages * populated * (2 + 3 * 3), <int64_t>(nr_free_buffer_pages(t) / 20)) * t.page_kb
    t.raised_from = -1
    if recommended > t.min_free_kbytes:
        t.raised_from = t.min_free_kbytes
        t.min_free_kbytes = recommended
    setup_per_zone_wmarks(t)


cdef int64_t init_per_zone_wmark_min(zone_table *t) noexcept nogil:
    """All of them; what min_free_kbytes was not updated to because the user's value is preferred, or -1. Then khugepaged raises
    it (khugepaged_min_free_kbytes_update, mm/khugepaged.c of 6.1)."""
    cdef int64_t refused = calculate_min_free_kbytes(t)
    setup_per_zone_wmarks(t)
    refresh_zone_stat_thresholds(t)
    setup_per_zone_lowmem_reserve(t)
    t.raised_from = -1
    if t.khugepaged:
        set_recommended_min_free_kbytes(t)
    return refused


cdef void refresh(zone_table *t) noexcept nogil:
    """2.6.25 recomputes at every mark, from present_pages alone: once for many marks, when a value is read or something else
    is about to change present_pages, comes to the same. The marks have been counted."""
    if t.stale:
        compute_wmarks(t)
        t.stale = False


def zone_batchsize(pages, page_size, batch_cap_bytes):
    """zone_batchsize() of a zone of so many pages: its growth stops at batch_cap_bytes."""
    cdef uint64_t cap = as_number(batch_cap_bytes, "batch_cap_bytes", 0, INT64_MAX) // as_number(page_size, "page_size", 1,
        INT64_MAX)
    return batchsize(as_number(pages, "pages", 0, INT64_MAX), cap)
