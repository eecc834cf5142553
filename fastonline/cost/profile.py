"""What onlining one section costs: whole, page by page, in a driver's batches; engine by engine, phase by phase."""

import statistics

import numpy as np

from fastonline.cost.phases import (
    PHASES, calibrate, time_ascending, time_call, time_calls, time_in_order, time_pages, time_range,
)
from fastonline.geometry import X86_64, format_size, parse_size
from fastonline.hotplug.memory import ENGINES, Memory
from fastonline.linux.capture import matches_kernel
from fastonline.rules import LINUX_6_12

BOOT = "1G"
"""Memory below the section, when there is no capture: enough to fill the kernel zones that a hot-added section lies behind."""

BATCH = 512
"""Pages of a balloon driver's batch: a page full of 8-byte frame numbers (Xen's frame_list)."""

SEED = 2008

WORKLOADS = ("ascending", "random", f"batches of {BATCH}", "one batch", "online_pages")
"""Beside "whole, order N": page by page through the C door, upward and shuffled; shuffled through mark_pfns_onlined, BATCH or all
pages a call; both phases in one call."""

PATHS = ("whole", "ascending", "random")
"""What is measured phase by phase."""


def profile(geometry=X86_64, section="512M", rules=LINUX_6_12, engines=ENGINES, orders=None, repeat=50, capture=None, progress=iter):
    """Measure what onlining one section costs; a plain dict that json.dumps takes.

    section: size of the range that is onlined, whole sections of the geometry. orders: largest blocks handed to the allocator,
    one "whole" for each; None: what the rules say. capture: a linux.capture.Capture to start from, whose geometry then counts;
    else BOOT memory is there. progress: called with the list of steps, gives them back one by one (tqdm.tqdm does).

    Every step is repeated `repeat` times on the same machine, put back by offline_pages outside of the timed part; caches are
    warm. All times are ns with the cost of reading the clock taken off. Keys:

    - "geometry", "rules", "boot", "page_size", "section" (text), "start_pfn", "nr_pages", "repeat", "clock_ns", and "capture": None, or
      a dict "release", "kernel_buddyinfo", "predicted_buddyinfo", "zones": for each "nid", "zone", "quiet", "matches";
    - "rows": for each engine and workload "engine", "workload", "ns" and "ns_per_page" (see summary), "pages_per_second" (from
      the least time), "merges" by order and "bytes_touched" of one run;
    - "phases": for each engine and path "engine", "path", "ns": {phase: summary, or None where the path has no such phase};
    - "ratios": {workload: struct_page over bitmap, least times}, empty unless both engines ran.
    """
    if repeat < 1:
        raise ValueError(f"repeat is at least 1, not {repeat}")
    engines = list(dict.fromkeys(engines))
    unknown = [engine for engine in engines if engine not in ENGINES]
    if unknown:
        raise ValueError(f"engine {unknown[0]!r} is none of {', '.join(ENGINES)}")
    if capture is not None:
        geometry = capture.geometry
    if orders is None:
        orders = [geometry.max_page_order if rules.online_order is None else rules.online_order]
    orders = list(dict.fromkeys(orders))
    for order in orders:
        if not 0 <= order <= geometry.max_page_order:
            raise ValueError(f"order {order} is not between 0 and {geometry.name}'s MAX_PAGE_ORDER = {geometry.max_page_order}")
    size = parse_size(section)
    if size == 0 or size % geometry.section_size:
        raise ValueError(
            f"a section of {format_size(size)} is not whole sections of {geometry.name}, of {format_size(geometry.section_size)} each"
        )
    result = {
        "geometry": geometry.name,
        "rules": rules.name,
        "boot": None if capture is not None else BOOT,
        "page_size": geometry.page_size,
        "section": format_size(size),
        "nr_pages": size // geometry.page_size,
        "repeat": repeat,
        "clock_ns": calibrate(),
        "capture": None,
        "rows": [],
        "phases": [],
    }
    workloads = [f"whole, order {order}" for order in orders] + list(WORKLOADS)
    steps = [(engine, what, name) for engine in engines for what, names in (("row", workloads), ("phases", PATHS)) for name in names]
    bench = None
    for engine, what, name in progress(steps):
        if bench is None or bench.engine != engine:
            bench = None    # one machine at a time: a captured one may be large
            bench = _Bench(geometry, size, rules, engine, capture)
            result["start_pfn"] = bench.start
            result["capture"] = bench.compared
        if what == "row":
            result["rows"].append({"engine": engine, "workload": name, **bench.row(name, repeat)})
        else:
            result["phases"].append({"engine": engine, "path": name, "ns": bench.phases(name, orders[0], repeat)})
    result["ratios"] = ratios(result["rows"])
    return result


def summary(times):
    """{"min", "median", "spread"} of a list of times; spread is from the lower to the upper quartile."""
    low, _, high = statistics.quantiles(times, method="inclusive") if len(times) > 1 else (times[0],) * 3
    return {"min": min(times), "median": statistics.median(times), "spread": high - low}


def ratios(rows):
    """{workload: least time of struct_page over that of bitmap} of the workloads that both engines ran."""
    least = {(row["engine"], row["workload"]): row["ns"]["min"] for row in rows}
    return {
        workload: least["struct_page", workload] / max(ns, 1)
        for (engine, workload), ns in least.items()
        if engine == "bitmap" and ("struct_page", workload) in least
    }


def _compare(mem, capture):
    """What a machine made from a capture predicts, beside what the kernel said."""
    return {
        "release": capture.release,
        "kernel_buddyinfo": capture.buddyinfo,
        "predicted_buddyinfo": mem.buddyinfo(),
        "zones": [
            {"nid": nid, "zone": name, "quiet": capture.quiet[nid, name], "matches": bool(matches)}
            for (nid, name), matches in matches_kernel(mem, capture).items()
        ],
    }


class _Bench:
    """One machine with one added section, onlined and put back again and again."""

    def __init__(self, geometry, size, rules, engine, capture):
        self.engine = engine
        self.compared = None
        if capture is None:
            self.mem = Memory(geometry, boot=BOOT, rules=rules, engine=engine)
            self.start = parse_size(BOOT) // geometry.page_size
        else:
            self.mem = capture.machine(engine=engine, rules=rules)
            self.start = capture.hotplug_pfn
            self.compared = _compare(self.mem, capture)
        self.nr = size // geometry.page_size
        self.mem.add_memory(self.start, self.nr)
        self.upward = np.arange(self.start, self.start + self.nr, dtype=np.uint64)
        self.shuffled = np.random.default_rng(SEED).permutation(self.upward)
        self.batches = [self.shuffled[i : i + BATCH] for i in range(0, self.nr, BATCH)]

    def row(self, workload, repeat):
        """One workload's times and counts."""
        times = []
        for _ in range(repeat):
            if workload != "online_pages":
                self.mem.prepare_online_pages(self.start, self.nr)
            before = self.mem.stats()
            ns, onlined = self.run(workload)
            after = self.mem.stats()
            if onlined != self.nr:
                raise AssertionError(f"{workload}: {onlined} of {self.nr} pages went online")
            self.mem.offline_pages(self.start, self.nr)
            times.append(ns)
        return {
            "ns": summary(times),
            "ns_per_page": summary([ns / self.nr for ns in times]),
            "pages_per_second": self.nr * 1e9 / max(min(times), 1),
            "merges": [b - a for a, b in zip(before["merges"], after["merges"], strict=True)],
            "bytes_touched": after["bytes_touched"] - before["bytes_touched"],
        }

    def run(self, workload):
        """(ns, pages that went online) of one run."""
        mem, start, nr = self.mem, self.start, self.nr
        match workload.split(", order "):
            case ["whole", order]:
                return time_call(mem.mark_pages_onlined, (start, nr, int(order)))
            case ["ascending"]:
                return time_ascending(mem, start, nr)
            case ["random"]:
                return time_in_order(mem, self.shuffled)
            case ["one batch"]:
                return time_call(mem.mark_pfns_onlined, (self.shuffled,))
            case ["online_pages"]:
                return time_call(mem.online_pages, (start, nr))
        return time_calls(mem.mark_pfns_onlined, self.batches)

    def phases(self, path, order, repeat):
        """{phase: summary} of one path."""
        runs = []
        for _ in range(repeat):
            if path == "whole":
                runs.append(time_range(self.mem, self.start, self.nr, order))
            else:
                pfns = self.upward if path == "ascending" else self.shuffled
                runs.append(time_pages(self.mem, self.start, self.nr, pfns))
            self.mem.offline_pages(self.start, self.nr)
        return {phase: None if runs[0][phase] is None else summary([run[phase] for run in runs]) for phase in PHASES}
