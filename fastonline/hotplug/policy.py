"""The auto-movable policy: may plain `online` put a range into ZONE_MOVABLE? (mm/memory_hotplug.c, 5.15)"""

ONLINE_POLICIES = ("contig-zones", "auto-movable")


def auto_movable_can_online_movable(mem, start_pfn, nr_pages, nid):
    """auto_movable_zone_for_pfn: yes when all of Movable, with the whole DIMM that the range belongs to, stays below
    auto_movable_ratio percent of the kernel memory that was there at boot, everywhere and (numa_aware) on the node; no once
    some of that DIMM is in a kernel zone."""
    group_start, group_pages = next(
        ((start, nr) for start, nr in mem.groups if start <= start_pfn < start + nr), (start_pfn, nr_pages)
    )
    movable_here = 0
    for block in range(group_start // mem.pages_per_block, (group_start + group_pages) // mem.pages_per_block):
        zone = mem.zone_of(block * mem.pages_per_block)
        if zone is not None and zone.name != "Movable":
            return False
        movable_here += mem.pages_per_block * (zone is not None)
    wanted = group_pages - movable_here
    zones = list(mem.zones.values())
    for node in (None, nid) if mem.auto_movable_numa_aware else (None,):
        counted = [zone for zone in zones if node is None or zone.nid == node]
        movable = sum(zone.present_pages for zone in counted if zone.name == "Movable")
        kernel = sum(zone.present_early_pages for zone in counted if zone.name != "Movable")
        if movable + wanted > mem.auto_movable_ratio * kernel // 100:
            return False
    return True
