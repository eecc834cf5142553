"""The auto-movable policy: whether plain `online` puts a range into ZONE_MOVABLE (mm/memory_hotplug.c, 5.15)."""

from fastonline.hotplug.section_states import section_nid

ONLINE_POLICIES = ("contig-zones", "auto-movable")


def auto_movable_can_online_movable(mem, start_pfn, nr_pages, nid, ratio):
    """Return whether the range goes to Movable (auto_movable_zone_for_pfn).

    ratio: auto_movable_ratio. The range goes there while Movable, together with the rest of the range's DIMM (or unit of a
    dynamic memory group), stays below `ratio` percent of the kernel memory of boot, in all and (numa_aware) on the node. It
    does not once a part of that DIMM or unit is in a kernel zone. The kernel memory of a dynamic group counts as boot memory
    for that group alone."""
    start, size, own = next(
        ((first, nr, group) for first, nr, group in mem.groups if first <= start_pfn < first + nr), (start_pfn, nr_pages, None)
    )
    if own is not None:
        size = own[1]
        start = start_pfn // size * size
    kernel_here, movable_here = _online(mem, start, size)
    if kernel_here:
        return False
    zones = list(mem.zones.values())
    for node in (None, nid) if mem.auto_movable_numa_aware else (None,):
        counted = [zone for zone in zones if node is None or zone.nid == node]
        movable = sum(zone.present_pages for zone in counted if zone.name == "Movable") + size - movable_here
        kernel = sum(zone.present_early_pages for zone in counted if zone.name != "Movable")
        for group, (its_kernel, its_movable) in _dynamic_groups(mem, node).items():
            if group == own:
                kernel += its_kernel
            elif ratio:      # what its Movable memory needs of boot's is not there for others
                kernel -= max(0, its_movable * 100 // ratio - its_kernel)
                movable -= its_movable
        if movable > ratio * kernel // 100:
            return False
    return True


def _online(mem, start, nr_pages):
    """Return the online pages of a range: (in kernel zones, in Movable)."""
    zones = [mem.zones.of_page(pfn) for pfn in range(start, start + nr_pages, mem.pages_per_block)]
    movable = sum(zone is not None and zone.name == "Movable" for zone in zones)
    return (sum(zone is not None for zone in zones) - movable) * mem.pages_per_block, movable * mem.pages_per_block


def _dynamic_groups(mem, nid):
    """Return {dynamic memory group: (pages online in kernel zones, in Movable)} of a node; None: of all nodes."""
    groups = {}
    for start, nr, group in mem.groups:
        if group is not None and nid in (None, section_nid(mem, start // mem.geometry.pages_per_section)):
            kernel, movable = groups.get(group, (0, 0))
            more_kernel, more_movable = _online(mem, start, nr)
            groups[group] = kernel + more_kernel, movable + more_movable
    return groups
