"""The state of a guest in the schema of a recording, made from its Memory alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastonline.core.pageflags import KPF_NOPAGE
from fastonline.linux.guest import Guest
from fastonline.linux.sysfs import node_states

KPF = {
    "DIRTY": 4, "BUDDY": 10, "MMAP": 11, "ANON": 12, "COMPOUND_HEAD": 15, "COMPOUND_TAIL": 16, "UNEVICTABLE": 18, "NOPAGE": 20,
    "THP": 22, "OFFLINE": 23, "RESERVED": 32, "MLOCKED": 33, "OWNER_PRIVATE": 37,
}
"""Bits of /proc/kpageflags that are predicted (include/uapi/linux/kernel-page-flags.h, include/linux/kernel-page-flags.h)."""
_ANON = np.uint64(1 << KPF["MMAP"] | 1 << KPF["ANON"])
_NOT_IN_USE = np.uint64(sum(1 << KPF[name] for name in ("BUDDY", "NOPAGE", "OFFLINE", "RESERVED", "OWNER_PRIVATE")))


def predict(guest: Guest) -> dict[str, Any]:
    """Return the state of a machine in the schema of a recording."""
    mem = guest.mem
    zones = {}
    for zone in mem.zones.values():
        zones[f"{zone.nid}/{zone.name}"] = {
            "start_pfn": zone.start_pfn, "spanned": zone.spanned_pages, "present": zone.present_pages,
            "managed": zone.managed_pages, "free": mem.pcp.free_pages(zone.nr), "min": zone.min, "low": zone.low,
            "high": zone.high,
            "protection": list(zone.protection), "nr_free": mem.pcp.nr_free(zone.nr), "pcp_count": mem.pcp.count(zone.nr),
            "pcp_batch": zone.pcp_batch, "pcp_high": zone.pcp_high, "pageblocks": _pageblocks(mem, zone),
        }
        if zone.populated:
            zones[f"{zone.nid}/{zone.name}"]["stat_threshold"] = zone.stat_threshold
        if mem.rules.pcp_auto_tunes:
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


def _pageblocks(mem, zone):
    """Count the pageblocks whose first page is online and in the zone (pagetypeinfo_showblockcount_print)."""
    size, unit, nr = 1 << mem.geometry.pageblock_order, mem.geometry.pages_per_section, 0
    start, end = zone.start_pfn, zone.start_pfn + zone.spanned_pages
    for section in range(start // unit, -(-end // unit)):
        if mem.sections.online_section_nr(section):
            for pfn in range(max(start // size * size, section * unit), min(end, (section + 1) * unit), size):
                nr += mem.zone_of(max(pfn, start)) == zone
    return nr


def vmstat(guest: Guest) -> dict[str, int]:
    """The counters of /proc/vmstat that a Memory keeps."""
    stats = guest.mem.stats()
    return {
        "pgmigrate_success": stats["pages_migrated"], "balloon_migrate": stats["balloon_migrated"],
        "balloon_inflate": guest.inflated, "balloon_deflate": guest.deflated,
    }


def known_flags(flags: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The flags of pages as far as they are predicted: a page that the kernel uses, as a slab or a page table or on a per-CPU
    list, has none."""
    flags = flags & np.uint64(sum(1 << bit for bit in KPF.values()))
    return np.where((flags & _NOT_IN_USE != 0) | (flags & _ANON == _ANON), flags, 0)


def flag_names(flags: int) -> str:
    """The names of the flags of a page, in the order of their bits, joined by |."""
    return "|".join(name for name, bit in KPF.items() if flags >> bit & 1) or "NONE"


def page_flags(guest: Guest, start_pfn: int, nr_pages: int) -> NDArray[np.uint64]:
    """(nr_pages,) uint64: what /proc/kpageflags shows of these pages, in known_flags."""
    there = max(0, min(nr_pages, guest.mem.max_pfn - start_pfn))
    flags = np.full(nr_pages, np.uint64(KPF_NOPAGE))
    flags[:there] = guest.mem.kpageflags(start_pfn, there) if there else 0
    flags = known_flags(flags)
    for region in guest.programs():
        pfns, more = region.flags()
        if pfns.size and (pfns.min() < start_pfn or pfns.max() >= start_pfn + nr_pages):
            inside = (pfns >= start_pfn) & (pfns < start_pfn + nr_pages)
            pfns, more = pfns[inside], more[inside]
        flags[pfns - start_pfn] = more | _ANON
    return flags
