"""A profile as plain text."""

from typing import Any

from fastonline.cost.phases import PHASES


def profile_text(result: dict[str, Any]) -> str:
    """The tables of cost.profile.profile's result, at most 120 columns wide."""
    engines = list(dict.fromkeys(row["engine"] for row in result["rows"]))
    parts = [_header(result), _workloads(result, engines) + _memset(result), _merges(result), _phases(result, engines)]
    parts += _counts(result, engines)
    if result["capture"] is not None:
        parts.insert(1, capture_text(result["capture"]))
    return "\n".join(parts)


def capture_text(compared: dict[str, Any]) -> str:
    """A profile's "capture" (`compared`) in words: whether the machine made from it has the kernel's own free blocks, zone by
    zone, and where not."""
    lines = []
    for zone in compared["zones"]:
        verdict = "matches the kernel's" if zone["matches"] else "differs from the kernel's"
        if not zone["quiet"]:
            verdict += "; pages came and went while it was captured"
        lines.append(f"Node {zone['nid']}, zone {zone['zone']:>8}: predicted buddyinfo {verdict}\n")
    if not all(zone["matches"] for zone in compared["zones"]):
        lines.append(f"kernel:\n{compared['kernel_buddyinfo']}predicted:\n{compared['predicted_buddyinfo']}")
    return "".join(lines)


def _header(result):
    capture = result["capture"]
    there = f"{result['boot']} there at boot" if capture is None else f"behind a captured machine {capture['release']}".rstrip()
    return (
        f"onlining {result['section']} at pfn {result['start_pfn']:#x}: {result['nr_pages']} pages of {result['page_size']} bytes; "
        f"{result['geometry']}, rules of Linux {result['rules']}, {there}\n"
        f"{result['repeat']} repeats with warm caches; spread is from quartile to quartile; the {result['clock_ns']} ns of reading "
        "the clock are taken off\n"
    )


def _workloads(result, engines):
    titles = ("min", "median", "spread", "pages/s", "touched")
    both = bool(result["ratios"])
    lines = [
        f"{'ns a page':<16}" + "".join(f"  {engine:^39}" for engine in engines).rstrip(),
        f"{'':<16}" + "".join("  " + "".join(f"{title:>8}" for title in titles)[1:] for _ in engines)
        + ("   ratio" if both else "") + "   merges",
    ]
    by_workload = {}
    for row in result["rows"]:
        by_workload.setdefault(row["workload"], []).append(row)
    for workload, rows in by_workload.items():
        line = f"{workload:<16}"
        for row in rows:
            ns = row["ns_per_page"]
            cells = (*(number(ns[key]) for key in ("min", "median", "spread")), si(row["pages_per_second"]), size(row["bytes_touched"]))
            line += "  " + "".join(f"{cell:>8}" for cell in cells)[1:]
        if both:
            line += f"{number(result['ratios'][workload]):>7}x"
        lines.append(line + f"{sum(rows[0]['merges']):9}")
    return "\n".join(lines) + "\n"


def _memset(result):
    """How far the whole at C level is from a memset of the bytes that it writes."""
    cells = (
        f"{item['engine']} {number(item['ratio'])}x ({size(item['bytes'])} in {number(item['ns']['min'] / 1000)} us)"
        for item in result["memset"]
    )
    return f"C door / memset   {', '.join(cells)}\n"


def _counts(result, engines):
    """What perf events counted, if somebody asked: a table, or one line that says why there is none."""
    if result["counters"] is None:
        return []
    if result["counters"]["unavailable"] is not None:
        return [f"no counters: {result['counters']['unavailable']}\n"]
    events = result["counters"]["events"]
    width = 10 * len(events)
    lines = [
        f"{'counted a page':<16}" + "".join(f"  {engine:^{width}}" for engine in engines).rstrip(),
        f"{'median':<16}" + "".join("  " + "".join(f"{_short(event):>10}" for event in events) for _ in engines),
    ]
    for workload in dict.fromkeys(row["workload"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["workload"] == workload]
        lines.append(f"{workload:<16}" + "".join(
            "  " + "".join(f"{number(row['counts'][event]['median'] / result['nr_pages']):>10}" for event in events) for row in rows
        ))
    lines.append("this thread in user space, in runs of their own; what an empty call counts is taken off")
    share = min(row["counted"] for row in result["rows"])
    if share < 1:
        lines.append(f"the events were counted for no less than {share:.0%} of a run and are scaled up from that")
    lines += [f"no {event}: {why}" for event, why in result["counters"]["missing"].items()]
    return ["\n".join(lines) + "\n"]


def _short(event):
    """The name of an event in nine letters."""
    return {"instructions": "instr", "cache misses": "cache-mi", "branch misses": "branch-mi", "page faults": "faults"}.get(event, event)


def _merges(result):
    """Merges out of each order; they are the same for every engine, and for all workloads that free page by page."""
    lines = []
    seen = {}
    for row in result["rows"]:
        if any(row["merges"]):
            names = seen.setdefault(tuple(row["merges"]), [])
            if row["workload"] not in names:
                names.append(row["workload"])
    for merges, names in seen.items():
        lines += [
            f"merges by order  {', '.join(names)}",
            " " * 16 + "".join(f"{order:>9}" for order in range(len(merges) - 1)),
            " " * 16 + "".join(f"{n:>9}" for n in merges[:-1]),
        ]
    return "".join(line + "\n" for line in lines)


def _phases(result, engines):
    paths = list(dict.fromkeys(item["path"] for item in result["phases"]))
    ns = {(item["engine"], item["path"]): item["ns"] for item in result["phases"]}
    lines = [
        f"{'us a section':<16}" + "".join(f"  {engine:^{10 * len(paths)}}" for engine in engines).rstrip(),
        f"{'median':<16}" + "".join("  " + "".join(f"{path:>10}" for path in paths) for _ in engines),
    ]
    for phase in PHASES:
        line = f"{phase:<16}"
        for engine in engines:
            cells = (ns[engine, path][phase] for path in paths)
            line += "  " + "".join(f"{'-' if cell is None else number(cell['median'] / 1000):>10}" for cell in cells)
        lines.append(line)
    lines.append(
        "flags, buddy and accounting of ascending and random are passes of their own, one engine call a page;\n"
        "notify is what one listener adds to online_pages, and nobody is told of pages onlined one by one"
    )
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """Three digits of a value that count: 0.00695, 1.27, 24.5, 1893."""
    if value == 0:
        return "0"
    for digits, limit in ((0, 100), (1, 10), (2, 1), (3, 0.1), (4, 0.01)):
        if value >= limit:
            return f"{value:.{digits}f}"
    return f"{value:.5f}"


def si(value: float) -> str:
    """A value, a rate, with a suffix: 1.37e8 -> "137M"."""
    for factor, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{suffix}" if value < 999.5 * factor else f"{value / factor:.0f}{suffix}"
    return f"{value:.3g}"


def size(nr_bytes: int) -> str:
    """nr_bytes with a binary suffix: 33024 -> "32.2K"."""
    for shift, suffix in ((30, "G"), (20, "M"), (10, "K")):
        if nr_bytes >= 1 << shift:
            return f"{nr_bytes / (1 << shift):.1f}{suffix}"
    return str(nr_bytes)
