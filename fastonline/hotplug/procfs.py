"""The texts of /proc (mm/vmstat.c, mm/page_alloc.c) and of util-linux's lsmem."""

import re

LSMEM_STYLES = ("2.38", "2.41", "2.42")
"""The versions of util-linux that changed the output of lsmem. Each stands for all up to the next."""


def _populated(mem):
    return [zone for zone in mem.zones.values() if zone.populated]


def buddyinfo(mem):
    """Return the text of /proc/buddyinfo: the free blocks of each order of every populated zone."""
    row = "Node %d, zone %8s " + "%6d " * mem.zones.nr_orders + "\n"
    return "".join([row % (zone.nid, zone.name, *zone.nr_free) for zone in _populated(mem)])


def zoneinfo(mem):
    """Return the text of /proc/zoneinfo, without per-node and per-CPU statistics."""
    lines = []
    width = 9 if {"scanned", "scanned (a: i:)"} & set(mem.rules.zoneinfo_lines) else 11      # up to 4.7
    for zone in mem.zones.values() if mem.rules.zoneinfo_empty else _populated(mem):
        boost = zone.watermark_boost      # which every watermark includes (wmark_pages, 5.0)
        values = {
            "boost": boost, "min": zone.min + boost, "low": zone.low + boost, "high": zone.high + boost,
            "promo": 2 * zone.high - zone.low + boost,
            "scanned": 0, "scanned (a: i:)": "0 (a: 0 i: 0)", "spanned": zone.spanned_pages,
            "present": zone.present_pages, "managed": zone.managed_pages, "cma": 0,
        }
        lines += [
            f"Node {zone.nid}, zone {zone.name:>8}",
            f"  pages free     {zone.free_pages}",
            *("   node_scanned  0" if name == "node_scanned" else f"        {name.split()[0]:<8} {values[name]}"
              for name in mem.rules.zoneinfo_lines),
            f"        protection: ({', '.join(map(str, zone.protection))})",
        ]
        if zone.populated:
            lines += [f"  start_pfn:{' ' * width}{zone.start_pfn}"]
    return "".join(line + "\n" for line in lines)


def pagetypeinfo(mem):
    """Return the text of /proc/pagetypeinfo: free blocks and pageblocks by migrate type. Every page is Movable."""
    geometry, types = mem.geometry, mem.rules.migrate_types
    header = "".join(f"{order:6} " for order in range(geometry.max_page_order + 1))
    lines = [
        f"Page block order: {geometry.pageblock_order}",
        f"Pages per block:  {1 << geometry.pageblock_order}",
        "",
        f"{'Free pages count per migrate type at order':<43} {header}",
    ]
    for zone in _populated(mem):
        for kind in types:
            counts = zone.nr_free if kind == "Movable" else (0,) * len(zone.nr_free)
            lines.append(
                f"Node {zone.nid:4}, zone {zone.name:>8}, type {kind:>12} " + "".join(f"{n:6} " for n in counts)
            )
    lines += ["", "Number of blocks type " + "".join(f"{kind:>12} " for kind in types)]
    for zone in _populated(mem):
        blocks = _pageblocks(mem, zone)
        lines.append(
            f"Node {zone.nid}, zone {zone.name:>8} "
            + "".join(f"{blocks if kind == 'Movable' else 0:12} " for kind in types)
        )
    return "".join(line + "\n" for line in lines)


def _pageblocks(mem, zone):
    """pagetypeinfo_showblockcount_print: steps of a pageblock from the zone's first page on; those that land on a page of an
    online section that is not another zone's count; without pagetypeinfo_online, of any section (pfn_valid)."""
    step, unit = 1 << mem.geometry.pageblock_order, mem.geometry.pages_per_section
    end = zone.start_pfn + zone.spanned_pages
    others = [
        (other.start_pfn, other.start_pfn + other.spanned_pages)
        for other in mem.zones.values() if other.spanned_pages and (other.nid, other.name) != (zone.nid, zone.name)
    ]
    count = 0
    for first, nr in mem.sections.runs():
        for section in range(max(first, zone.start_pfn // unit), min(first + nr, -(-end // unit))):
            if mem.rules.pagetypeinfo_online and not mem.sections.online_section_nr(section):
                continue
            at = zone.start_pfn + -(-max(0, section * unit - zone.start_pfn) // step) * step
            pfns = range(at, min(end, (section + 1) * unit), step)
            if any(start < (section + 1) * unit and section * unit < stop for start, stop in others):
                count += sum(1 for pfn in pfns if _is_of(mem, pfn, zone))
            else:
                count += len(pfns)
    return count


def _is_of(mem, pfn, zone):
    """Is the page the zone's, or a hole amid it?"""
    found = mem.zone_of(pfn)
    return found is None or (found.nid, found.name) == (zone.nid, zone.name)


def _human(size):
    """util-linux's size_to_human_string with one suffix letter and at most one decimal."""
    for shift, letter in ((60, "E"), (50, "P"), (40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if size >= 1 << shift:
            # three decimals, cut, then rounded to one
            tenths = ((size % (1 << shift)) * 1000 // (1 << shift) + 50) // 100
            whole = (size >> shift) + tenths // 10
            return f"{whole}.{tenths % 10}{letter}" if tenths % 10 else f"{whole}{letter}"
    return f"{size}B"


def lsmem(mem, style="2.38"):
    """Return lsmem_text of a machine's blocks."""
    blocks = [(nr, block.state, block.removable) for nr, block in mem.blocks.items()]
    return lsmem_text(blocks, mem.pages_per_block * mem.geometry.page_size, style, memmap_on_memory(mem))


def memmap_on_memory(mem):
    """Return the text of /sys/module/memory_hotplug/parameters/memmap_on_memory, or None before 5.13."""
    return ("Y" if mem.memmap == "on_memory" else "N") if mem.rules.memmap_on_memory else None


def lsmem_text(blocks, block_size, style="2.38", memmap_on_memory=None):
    """Return what ``lsmem`` of util-linux prints: ranges of blocks of equal state and removability.

    blocks: (number, state, removable) of each memory block, ascending. block_size: bytes. style: a version of util-linux, from
    2.38 on: 2.41 has wider labels (68c9f5578), 2.42 a line on memmap_on_memory (52491bde5), and SIZE no wider than its cells
    (libsmartcols, bbe44e51a). memmap_on_memory: the text of that parameter of memory_hotplug, None where there is none.
    ValueError for another style.
    """
    version = re.match(r"(\d+)\.(\d+)", str(style))
    if version is None or (number := tuple(map(int, version.groups()))) < (2, 38):
        raise ValueError(f"unknown lsmem style {style!r} (expected a version of util-linux from 2.38 on, such as '2.41')")
    rows, online, offline = [], 0, 0
    for nr, state, removable in blocks:
        online, offline = online + block_size * (state == "online"), offline + block_size * (state != "online")
        if rows and rows[-1][1:] == [nr - 1, state, removable]:
            rows[-1][1] = nr
        else:
            rows.append([nr, nr, state, removable])
    table = [("RANGE", "SIZE", "STATE", "REMOVABLE", "BLOCK")]
    for first, last, state, removable in rows:
        table.append((
            f"0x{first * block_size:016x}-0x{(last + 1) * block_size - 1:016x}",
            _human((last - first + 1) * block_size),
            {"going-offline": "on->off"}.get(state, state if state in ("online", "offline") else "?"),
            ("yes" if removable else "no") if state == "online" else "",
            f"{first}-{last}" if last > first else f"{first}",
        ))
    widths = [max(len(row[i]) for row in table) for i in range(5)]
    if number < (2, 42) and max((len(row[1]) for row in table[1:]), default=0) == 4:
        widths[1] = 5      # libsmartcols widens SIZE to its hint where a cell is as wide as its header
    right = (False, True, True, True, True)
    text = "".join(
        " ".join(cell.rjust(width) if r else cell.ljust(width) for cell, width, r in zip(row, widths, right, strict=True))
        + "\n" for row in table
    )
    totals = [("Memory block size:", _human(block_size)), ("Total online memory:", _human(online)),
              ("Total offline memory:", _human(offline))]
    mode = next((word for start, word in (("Y", "yes"), ("N", "no"), ("force", "force"))
                 if (memmap_on_memory or "").startswith(start)), None)
    if number >= (2, 42) and mode is not None:
        totals.append(("Memmap on memory parameter:", mode))
    label = 32 if number >= (2, 41) else 23
    return text + "\n" + "".join(f"{name:<{label}} {value:>5}\n" for name, value in totals)
