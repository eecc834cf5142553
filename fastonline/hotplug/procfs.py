"""The kernel's own texts of a machine (mm/vmstat.c, mm/page_alloc.c) and util-linux's lsmem."""

MIGRATE_TYPES = ("Unmovable", "Movable", "Reclaimable", "HighAtomic", "Isolate")


def _populated(mem):
    return [zone for zone in mem.zones.values() if zone.populated]


def buddyinfo(mem):
    """/proc/buddyinfo: the free blocks of each order of every populated zone."""
    return "".join(
        f"Node {zone.nid}, zone {zone.name:>8} " + "".join(f"{n:6} " for n in zone.nr_free) + "\n" for zone in _populated(mem)
    )


def zoneinfo(mem):
    """/proc/zoneinfo of every zone; per-node and per-CPU statistics are left out."""
    lines = []
    for zone in mem.zones.values():
        lines += [
            f"Node {zone.nid}, zone {zone.name:>8}",
            f"  pages free     {zone.free_pages}",
            f"        min      {zone.min}",
            f"        low      {zone.low}",
            f"        high     {zone.high}",
            f"        spanned  {zone.spanned_pages}",
            f"        present  {zone.present_pages}",
            f"        managed  {zone.managed_pages}",
            f"        protection: ({', '.join(map(str, zone.protection))})",
        ]
        if zone.populated:
            lines += [f"  start_pfn:           {zone.start_pfn}"]
    return "".join(line + "\n" for line in lines)


def pagetypeinfo(mem):
    """/proc/pagetypeinfo: free blocks by migrate type, and pageblocks by type; every page here is Movable."""
    geometry = mem.geometry
    header = "".join(f"{order:6} " for order in range(geometry.max_page_order + 1))
    lines = [
        f"Page block order: {geometry.pageblock_order}",
        f"Pages per block:  {1 << geometry.pageblock_order}",
        "",
        f"{'Free pages count per migrate type at order':<43} {header}",
    ]
    for zone in _populated(mem):
        for kind in MIGRATE_TYPES:
            counts = zone.nr_free if kind == "Movable" else (0,) * len(zone.nr_free)
            lines.append(
                f"Node {zone.nid:4}, zone {zone.name:>8}, type {kind:>12} " + "".join(f"{n:6} " for n in counts)
            )
    lines += ["", "Number of blocks type " + "".join(f"{kind:>12} " for kind in MIGRATE_TYPES)]
    for zone in _populated(mem):
        blocks = zone.spanned_pages >> geometry.pageblock_order
        lines.append(
            f"Node {zone.nid}, zone {zone.name:>8} "
            + "".join(f"{blocks if kind == 'Movable' else 0:12} " for kind in MIGRATE_TYPES)
        )
    return "".join(line + "\n" for line in lines)


def _human(size):
    """util-linux's size_to_human_string with one suffix letter and at most one decimal."""
    for shift, letter in ((60, "E"), (50, "P"), (40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if size >= 1 << shift:
            tenths = (size * 10 + (1 << shift - 1)) >> shift
            return f"{tenths // 10}{letter}" if tenths % 10 == 0 else f"{tenths // 10}.{tenths % 10}{letter}"
    return f"{size}B"


def lsmem(mem):
    """What ``lsmem`` of util-linux prints: ranges of blocks alike in state and node."""
    size = mem.pages_per_block * mem.geometry.page_size
    rows, online, offline = [], 0, 0
    for nr, block in mem.blocks.items():
        state = block.state
        online, offline = online + size * (state == "online"), offline + size * (state != "online")
        if rows and rows[-1][1] == nr - 1 and rows[-1][2] == state:
            rows[-1][1] = nr
        else:
            rows.append([nr, nr, state])
    table = [("RANGE", "SIZE", "STATE", "REMOVABLE", "BLOCK")]
    for first, last, state in rows:
        table.append((
            f"0x{first * size:016x}-0x{(last + 1) * size - 1:016x}",
            _human((last - first + 1) * size),
            "on->off" if state == "going-offline" else state,
            "yes" if state == "online" else "",     # lsmem 2.38 says it of online blocks only
            f"{first}-{last}" if last > first else f"{first}",
        ))
    widths = [max(len(row[i]) for row in table) for i in range(5)]
    if max((len(row[1]) for row in table[1:]), default=0) == 4:
        widths[1] = 5      # libsmartcols widens SIZE to its hint where a cell is as wide as its header
    right = (False, True, True, True, True)
    text = "".join(
        " ".join(cell.rjust(width) if r else cell.ljust(width) for cell, width, r in zip(row, widths, right)) + "\n"
        for row in table
    )
    totals = [("Memory block size:", _human(size)), ("Total online memory:", _human(online)),
              ("Total offline memory:", _human(offline))]
    return text + "\n" + "".join(f"{name:<23} {value:>5}\n" for name, value in totals)
