"""A machine at a glance, as text and as HTML for notebooks."""

from fastonline.core.runs import range_list
from fastonline.tables import bar, html_table, short, table

ZONE_COLUMNS = ("start_pfn", "spanned_pages", "present_pages", "managed_pages", "free_pages")
"""Attributes of a Zone that a table shows."""


def summary(mem):
    """Return a summary of the machine `mem` as text within 80 columns: memory blocks, zones with bars, free blocks by order."""
    page = mem.geometry.page_size
    states = [(block.nr, block.state) for block in mem.blocks.values()]
    offline = [nr for nr, state in states if state != "online"]
    block = short(mem.pages_per_block * page)
    lines = [
        f"{mem.geometry.name}, rules of Linux {mem.rules.name}, pages of {short(page)}, min_free_kbytes {mem.min_free_kbytes}",
        f"{len(states)} memory blocks of {block}: {len(states) - len(offline)} online, {len(offline)} offline"
        + (f" ({range_list(offline)})"[:40] if offline else ""),
        "",
    ]
    zones = [zone for zone in mem.zones.values() if zone.populated]
    rows = [("zone", "start pfn", "present", "managed", "free", "#used .free -not managed")]
    for zone in zones:
        sizes = [short(pages * page) for pages in (zone.present_pages, zone.managed_pages, zone.free_pages)]
        used, away = zone.managed_pages - zone.free_pages, zone.present_pages - zone.managed_pages
        parts = (("#", used), (".", zone.free_pages), ("-", away))
        rows.append((f"{zone.nid}/{zone.name}", f"{zone.start_pfn:#x}", *sizes, bar(parts, 25)))
    lines += [*table(rows, "<>>>><"), ""]
    for at in range(0, len(zones), 6):
        part = zones[at : at + 6]
        rows = [("order", "block", *(f"{zone.nid}/{zone.name}" for zone in part))]
        for order, counts in enumerate(zip(*(zone.nr_free for zone in part), strict=True)):
            rows.append((str(order), short(page << order), *map(str, counts)))
        lines += table(rows, ">" * len(rows[0]))
    return "\n".join(lines) + "\n"


def zones_html(zones):
    """Return the populated ones of `zones` as an HTML table, sizes in pages."""
    rows = [(f"{zone.nid}/{zone.name}", *(getattr(zone, name) for name in ZONE_COLUMNS)) for zone in zones if zone.populated]
    return html_table([("zone", *ZONE_COLUMNS), *rows])


def machine_html(mem):
    """Return the machine `mem` as HTML: its repr, and its zones."""
    from html import escape

    return f"<p>{escape(repr(mem))}</p>{zones_html(mem.zones)}"
