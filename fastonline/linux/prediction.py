"""The state of a guest in the schema of a recording, made from its Memory alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastonline.core.pageflags import KPF_BUDDY, KPF_NOPAGE, KPF_OFFLINE, KPF_RESERVED
from fastonline.linux.guest import Guest
from fastonline.linux.sysfs import node_states

KINDS = ("NOPAGE", "BUDDY", "OFFLINE", "RESERVED", "NONE")
"""What a page is: not there, free, given back to the host, not the allocator's, in use."""


def predict(guest: Guest) -> dict[str, Any]:
    """The state of a machine in the schema of a recording."""
    mem = guest.mem
    zones = {}
    for zone in mem.zones.values():
        zones[f"{zone.nid}/{zone.name}"] = {
            "start_pfn": zone.start_pfn, "spanned": zone.spanned_pages, "present": zone.present_pages,
            "managed": zone.managed_pages, "free": mem.pcp.free_pages(zone.nr), "min": zone.min, "low": zone.low, "high": zone.high,
            "protection": list(zone.protection), "nr_free": mem.pcp.nr_free(zone.nr), "pcp_count": mem.pcp.count(zone.nr),
            "pcp_batch": zone.pcp_batch, "pcp_high": zone.pcp_high,
        }
        if zone.populated:
            zones[f"{zone.nid}/{zone.name}"]["stat_threshold"] = zone.stat_threshold
        if mem.rules.movable_has_min:      # 6.12
            zones[f"{zone.nid}/{zone.name}"] |= {"pcp_high_min": zone.pcp_high, "pcp_high_max": zone.pcp_high_max}
    return {
        "min_free_kbytes": mem.min_free_kbytes,
        "mem_total_kb": mem.totalram_pages * mem.geometry.page_size // 1024,
        "lowmem_reserve_ratio": list(mem.lowmem_reserve_ratio),
        "auto_online_blocks": mem.auto_online_blocks,
        "nodes": node_states(mem),
        "zones": zones,
        "blocks": {str(nr): {"state": b.state, "valid_zones": b.valid_zones, "node": b.node} for nr, b in mem.blocks.items()},
        "iomem": [f"{'  ' * depth}{r.start:#x}-{r.end - 1:#x} {r.name}" for depth, r in mem.resources.walk()],
    }


def vmstat(guest: Guest) -> dict[str, int]:
    """The counters of /proc/vmstat that a Memory keeps."""
    stats = guest.mem.stats()
    return {
        "pgmigrate_success": stats["pages_migrated"], "balloon_migrate": stats["balloon_migrated"],
        "balloon_inflate": guest.inflated, "balloon_deflate": guest.deflated,
    }


def page_kinds(guest: Guest, start_pfn: int, nr_pages: int) -> NDArray[np.int64]:
    """(nr_pages,) int: which of KINDS each page is, as far as a Memory can tell."""
    there = max(0, min(nr_pages, guest.mem.max_pfn - start_pfn))
    flags = np.full(nr_pages, np.uint64(KPF_NOPAGE))
    flags[:there] = guest.mem.kpageflags(start_pfn, there) if there else 0
    kinds = np.full(nr_pages, KINDS.index("NONE"))
    for bit, kind in ((KPF_BUDDY, "BUDDY"), (KPF_RESERVED, "RESERVED"), (KPF_OFFLINE, "OFFLINE"), (KPF_NOPAGE, "NOPAGE")):
        kinds[flags & np.uint64(bit) != 0] = KINDS.index(kind)
    for device in guest.virtio_mem.devices.values():
        for block in device.plugged:      # what never was plugged waits, as PageOffline pages do
            at = slice(max(0, block * guest.mem.pages_per_block - start_pfn),
                       max(0, (block + 1) * guest.mem.pages_per_block - start_pfn))
            kinds[at][kinds[at] == KINDS.index("RESERVED")] = KINDS.index("OFFLINE")
    return kinds
