"""A profile as plain text, at most 80 columns wide."""

from collections.abc import Sequence
from typing import Any

from fastonline.cost.phases import PHASES
from fastonline.cost.profile import C_API, LIFECYCLE, LISTENER, Profile
from fastonline.tables import wrapped

_MEANING = {
    C_API: "the same from C, without Python",
    "ascending": "page by page from C, upward",
    "random": "page by page from C, shuffled",
    "one batch": "mark_pfns_onlined, all pages in one array",
    "online_pages": "both phases in one call: the whole section",
    LISTENER: "mark_pages_onlined page by page, one notifier",
    LIFECYCLE[0]: "on a new machine: first touch of its memory",
    "add_memory": "again, where memory was before",
    "prepare": "prepare_online_pages",
    "offline_pages": "with nothing to migrate",
    "remove_memory": "of an offline section",
}

KERNEL_SHARES = (
    "A real kernel's shares of online_pages (128 MiB block; traced, so ratios):\n"
    "  6.12: initialise descriptors 30 %, free blocks 33 %, undo isolation 21 %,\n"
    "        watermarks 10 %, notifiers 3 %, rest 3 %\n"
    "  6.1:  33 %, 19 %, 15 %, 13 %, 17 %, 3 %\n"
)
"""Measured by function_graph tracing of online_movable on Debian 6.12.115 and 6.1.192 under QEMU (fastonline/KERNEL.md
7.12)."""

_WIDE = 3.0
"""A median this many times the least time causes a warning."""


def profile_text(result: Profile, brief: bool = False, more: Sequence[str] = ()) -> str:
    """Return the tables of cost.profile.profile's result, its last line the figure to quote. brief: only the five rows that
    most people want. more: further tables, before the last line."""
    engines = list(dict.fromkeys(row["engine"] for row in result["rows"]))
    if brief:
        parts = [_workloads(result, engines, _BRIEF)]
    else:
        parts = [_header(result), _workloads(result, engines), _between(result, engines), _memset(result)]
        parts += [_written(result, engines), _merges(result), _phases(result, engines), KERNEL_SHARES]
        parts += _counts(result, engines)
        if result["capture"] is not None:
            parts.insert(1, capture_text(result["capture"]))
    parts += [*more, _warnings(result, brief) + quote(result) + "\n"]
    return "\n".join(part for part in parts if part)


def geometries_text(results: list[Profile]) -> str:
    """Return one table for `results`, profiles of several geometries: what the same size costs in sections of different
    sizes."""
    lines = [f"{'geometry':<14}{'engine':<13}{'pages':>7}{'sections':>9}{'top order':>10}{'whole, us':>11}{'page, ns':>10}"]
    for result in results:
        rows = {(row["engine"], row["workload"]): row for row in result["rows"]}
        for engine in dict.fromkeys(row["engine"] for row in result["rows"]):
            whole, page = rows[engine, "online_pages"], rows[engine, "random"]
            lines.append(
                f"{result['geometry']:<14}{engine:<13}{result['nr_pages']:>7}{result['nr_sections']:>9}"
                f"{len(page['merges']) - 1:>10}{number(whole['ns']['median'] / 1000):>11}"
                f"{number(page['ns_per_page']['median']):>10}"
            )
    lines.append(f"{results[0]['section']}, medians: whole is online_pages, page is one page at random from C;\n"
                 f"rules of Linux {results[0]['rules']}, {results[0]['provenance']['cpu']}")
    return "\n".join(lines) + "\n"


_BRIEF = ("online_pages", "ascending", "random", "offline_pages", LIFECYCLE[0])


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


def quote(result: Profile) -> str:
    """Return the figure of a profile (`result`) to quote, in one sentence on one line: the medians of online_pages."""
    said, cold = [], ""
    for row in result["rows"]:
        if row["workload"] == "online_pages":
            cold = f" ({duration(row['cold']['median'])} cold)" if row["cold"] else ""
            said.append(f"{duration(row['ns']['median'])} on {row['engine']}{cold}")
    warm = "" if cold else " warm"
    return f"online_pages of {result['section']} takes {', '.join(said)}{warm}."


def duration(ns: float) -> str:
    """Return a time of `ns` nanoseconds in the unit that suits it: 1893 -> "1.89 us"."""
    for factor, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "us")):
        if ns >= factor:
            return f"{number(ns / factor)} {unit}"
    return f"{number(ns)} ns"


def _warnings(result, brief):
    noisy = [
        f"{row['engine']} {row['workload']}" for row in result["rows"] + result["calls"]
        if row["pages"] and row["ns"]["median"] > _WIDE * max(row["ns"]["min"], 1) and row["workload"] != LIFECYCLE[0]
        and (not brief or row["workload"] in _BRIEF)
    ]
    if not noisy:
        return ""
    more = f" and {len(noisy) - 3} more" if len(noisy) > 3 else ""
    text = f"Noisy: the median is more than {_WIDE:.0f} times the least in {', '.join(noisy[:3])}{more}"
    return "\n".join(wrapped(text, 80)) + "\n"


def _header(result):
    capture = result["capture"]
    there = (
        f"{result['boot']} of boot memory" if capture is None else f"behind a captured machine {capture['release']}".rstrip()
    )
    origin = result["provenance"]
    huge = f", huge pages {origin['huge_pages']}" if origin["huge_pages"] else ""
    repeats = f"{result['repeat']} repeat{'s' if result['repeat'] > 1 else ''}"
    if len(result["huge_bytes"]) > 1:
        repeats += f" in each of {len(result['huge_bytes'])} processes"
    return (
        f"onlining {result['section']} at pfn {result['start_pfn']:#x}: {result['nr_pages']} pages of "
        f"{result['page_size']} bytes;\n"
        f"{result['geometry']}, rules of Linux {result['rules']}, {there}\n"
        f"{origin['cpu']}, Linux {origin['kernel']}, {origin['variant']} kernels{huge}\n"
        f"{repeats}, caches warm, after one that does not count;\n"
        f"timer overhead ({result['clock_ns']} ns) subtracted; spread: lower to upper quartile\n"
        "These are this program's times on the kernel's data layout (struct_page) and\n"
        "on bit planes (bitmap), not a kernel's.\n"
    )


def _workloads(result, engines, only=None):
    cold = any(row["cold"] for row in result["rows"] + result["calls"])
    titles = ("min", "median", "cold") if cold else ("min", "median", "spread")
    both = bool(result["ratios"])
    lines = [
        f"{'ns a page':<19}" + "".join(f"  {engine:^23}" for engine in engines).rstrip(),
        f"{'':<19}"
        + "".join("  " + "".join(f"{title:>8}" for title in titles)[1:] for _ in engines)
        + ("   ratio" if both else ""),
    ]
    by_workload = _by_workload(result)
    for workload, rows in by_workload.items():
        if only is not None and workload not in only:
            continue
        line = f"{workload:<19}"
        for row in rows:
            ns = row["ns_per_page"]
            last = (row["cold"]["median"] / row["pages"] if row["cold"] else None) if cold else ns["spread"]
            cells = (number(ns["min"]), number(ns["median"]), "-" if last is None else number(last))
            line += "  " + "".join(f"{cell:>8}" for cell in cells)[1:]
        if both:
            line += f"{number(result['ratios'][workload]):>7}x"
        lines.append(line)
    if only is None:
        named = [(name, _meaning(name, result)) for name in by_workload]
        lines += ["", *(f"  {name:<17} {meaning}" for name, meaning in named)]
    return "\n".join(lines) + "\n"


def _meaning(workload, result):
    if workload.startswith("whole, order 0"):
        return "struct_page walks every page, the bitmap engine none"
    if workload.startswith("whole, order"):
        return f"mark_pages_onlined in blocks of order {workload.rsplit(' ', 1)[1]}"
    if workload.startswith("batches"):
        return "mark_pfns_onlined, shuffled arrays as a balloon has"
    return _MEANING[workload]


def _between(result, engines):
    """The interval from process to process, and how much of each lay on huge pages."""
    processes = len(result["huge_bytes"])
    if processes < 2:
        return ""
    lines = []
    for i, engine in enumerate(engines):
        lines += [f"{f'{processes} processes':<19}  {engine}, ns a page from one process to another",
                  f"{'':<19}" + "".join(f"{title:>12}" for title in ("least from", "to", "median from", "to"))]
        for workload, rows in _by_workload(result).items():
            ends = (number(ns) for name in ("min", "median") for ns in rows[i]["between"][name])
            lines.append(f"{workload:<19}" + "".join(f"{end:>12}" for end in ends))
    if None not in result["huge_bytes"]:
        low, high = min(result["huge_bytes"]), max(result["huge_bytes"])
        lines.append(f"{low >> 20} to {high >> 20} MiB of a process were on huge pages. Small pages lie where the\n"
                     "kernel finds them; caches go by physical address, and processes differ then.")
    return "\n".join(lines) + "\n"


def _by_workload(result):
    """{workload: its row for each engine}."""
    by_workload = {}
    for row in result["rows"] + result["calls"]:
        by_workload.setdefault(row["workload"], []).append(row)
    return by_workload


def _memset(result):
    """The ratio of the whole range at C level to a memset of the bytes that it writes."""
    cells = (
        f"{item['engine']} {number(item['ratio'])}x ({size(item['bytes'])} in {duration(item['ns']['min'])})"
        for item in result["memset"] if item["ns"]["min"]
    )
    text = "\n  ".join(cells)
    return f"{C_API} over a memset of as many bytes:\n  {text}\n" if text else ""


def _written(result, engines):
    """Pages a second, bytes of state written, page faults."""
    lines = [
        f"{'':<19}" + "".join(f"  {engine:^28}" for engine in engines).rstrip(),
        f"{'':<19}" + "".join(f"  {'pages/s':>8}{'written':>11}{'faults':>9}" for _ in engines),
    ]
    for workload, rows in _by_workload(result).items():
        lines.append(f"{workload:<19}" + "".join(
            f"  {si(row['pages_per_second']):>8}{size(row['bytes_touched']):>11}{row['faults']:>9}" for row in rows
        ))
    return "\n".join(lines) + "\n"


def _counts(result, engines):
    """The table of perf events, if they were asked for, or one line that says why there is none."""
    if result["counters"] is None:
        return []
    if result["counters"]["unavailable"] is not None:
        return [f"no counters: {result['counters']['unavailable']}\n"]
    events = result["counters"]["events"]
    lines = []
    for engine in engines:
        lines += [f"{'counted a page':<19}  {engine}", f"{'median':<19}" + "".join(f"{_short(event):>11}" for event in events)]
        for row in result["rows"]:
            if row["engine"] == engine:
                cells = (f"{number(row['counts'][event]['median'] / row['pages']):>11}" for event in events)
                lines.append(f"{row['workload']:<19}" + "".join(cells))
    lines.append("this thread in user space, in further runs; an empty call's counts subtracted")
    share = min(row["counted"] for row in result["rows"])
    if share < 1:
        lines.append(f"the events were counted for no less than {share:.0%} of a run and are scaled up from that")
    lines += [f"no {event}: {why}" for event, why in result["counters"]["missing"].items()]
    return ["\n".join(lines) + "\n"]


def _short(event):
    """The name of an event in nine letters."""
    return {"instructions": "instr", "cache misses": "cache-mi", "branch misses": "branch-mi", "page faults": "faults"}.get(
        event, event
    )


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
        lines.append(f"merges by order ({', '.join(names)}):")
        for first in range(0, len(merges) - 1, 10):
            row = list(enumerate(merges[:-1]))[first : first + 10]
            lines += ["".join(f"{order:>8}" for order, _ in row), "".join(f"{n:>8}" for _, n in row)]
    return "".join(line + "\n" for line in lines)


def _phases(result, engines):
    paths = list(dict.fromkeys(item["path"] for item in result["phases"]))
    items = {(item["engine"], item["path"]): item for item in result["phases"]}
    lines = [
        f"{'us a section':<12}" + "".join(f"  {engine:^{10 * len(paths)}}" for engine in engines).rstrip(),
        f"{'least':<12}" + "".join("  " + "".join(f"{path:>10}" for path in paths) for _ in engines),
    ]
    for phase in (*PHASES, "total"):
        line = f"{phase:<12}"
        for engine in engines:
            cells = (
                item["total"] if phase == "total" else item["ns"][phase] for item in (items[engine, path] for path in paths)
            )
            line += "  " + "".join(f"{'-' if cell is None else number(cell['min'] / 1000):>10}" for cell in cells)
        lines.append(line)
    lines.append(
        "Each phase is what the real path costs with it over without it; they add up.\n"
        "Least times: a difference of medians is mostly noise on a busy machine.\n"
        "watermarks: one recomputation; 2.6.25 makes one at every mark, here it is\n"
        "delayed until the values are read. notify: one listener of online_pages."
    )
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """Return a value with three significant digits: 0.00695, 1.27, 24.5, 1893."""
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
    """nr_bytes in binary units: 33024 -> "32.2 KiB"."""
    for shift, suffix in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if nr_bytes >= 1 << shift:
            return f"{nr_bytes / (1 << shift):.1f} {suffix}"
    return f"{nr_bytes} B"
