"""What onlining one section costs: whole, page by page, in a driver's batches; engine by engine, phase by phase."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from fastonline.cost.counters import Counters
from fastonline.cost.phases import (
    PHASES,
    calibrate,
    time_ascending,
    time_call,
    time_calls,
    time_in_order,
    time_memset,
    time_pages,
    time_range,
    time_range_call,
)
from fastonline.geometry import X86_64, Geometry, format_size, parse_size
from fastonline.hotplug.memory import ENGINES, Memory
from fastonline.linux.capture import Capture, matches_kernel
from fastonline.rules import LINUX_6_12, Rules

BOOT = "1G"
"""Memory below the section, when there is no capture: enough to fill the kernel zones that a hot-added section lies behind."""

BATCH = 512
"""Pages of a balloon driver's batch: a page full of 8-byte frame numbers (Xen's frame_list)."""

SEED = 2008

C_DOOR = "whole, C door"

WORKLOADS = (C_DOOR, "ascending", "random", f"batches of {BATCH}", "one batch", "online_pages")
"""Beside "whole, order N": the whole without Python (Memory.online_range); page by page through the C door, upward and shuffled;
shuffled through mark_pfns_onlined, BATCH or all pages a call; both phases in one call."""

PATHS = ("whole", "ascending", "random")
"""What is measured phase by phase."""


def profile(
    geometry: Geometry = X86_64, section: int | str = "512M", rules: Rules = LINUX_6_12, engines: Sequence[str] = ENGINES,
    orders: Iterable[int] | None = None, repeat: int = 50, capture: Capture | None = None,
    counters: dict[str, tuple[int, int]] | None = None,
    progress: Callable[[list[tuple[str, str, str]]], Iterable[tuple[str, str, str]]] = iter
) -> dict[str, Any]:
    """Measure what onlining one section costs; a plain dict that json.dumps takes.

    section: size of the range that is onlined, whole sections of the geometry. orders: largest blocks handed to the allocator,
    one "whole" for each; None: what the rules say. capture: a linux.capture.Capture to start from, whose geometry then counts;
    else BOOT memory is there. counters: the events to count in runs of their own after the timed ones, cost.counters.HARDWARE or
    another dict of its kind; None: nothing is counted. progress: called with the list of steps, gives them back one by one
    (tqdm.tqdm does).

    Every step is repeated `repeat` times on the same machine, put back by offline_pages outside of the timed part; caches are
    warm. All times are ns with the cost of reading the clock taken off. Keys:

    - "geometry", "rules", "boot", "page_size", "section" (text), "start_pfn", "nr_pages", "repeat", "clock_ns", and "capture": None, or
      a dict "release", "kernel_buddyinfo", "predicted_buddyinfo", "zones": for each "nid", "zone", "quiet", "matches";
    - "rows": for each engine and workload "engine", "workload", "ns" and "ns_per_page" (see summary), "pages_per_second" (from
      the least time), "merges" by order and "bytes_touched" of one run, "counts": {event: summary} and "counted", the least share
      of a run that the events were being counted for (None when nothing is);
    - "memset": for each engine "engine", "bytes", those that C_DOOR writes, "ns" (summary) of a memset of so many, and "ratio",
      the least time of C_DOOR over that of the memset;
    - "counters": None when nobody asked, or a dict "events", "missing": {event: why there is none} and "unavailable": None, or
      why nothing could be counted;
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
    if size // geometry.page_size > geometry.max_pfn:
        raise ValueError(f"a section of {format_size(size)} is too large for {geometry.name}: memory ends at pfn {geometry.max_pfn:#x}")
    result: dict[str, Any] = {
        "geometry": geometry.name,
        "rules": rules.name,
        "boot": None if capture is not None else BOOT,
        "page_size": geometry.page_size,
        "section": format_size(size),
        "nr_pages": size // geometry.page_size,
        "repeat": repeat,
        "clock_ns": calibrate(),
        "capture": None,
        "counters": None,
        "rows": [],
        "memset": [],
        "phases": [],
    }
    counting = None
    if counters is not None:
        counting, result["counters"] = _open(counters)
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
            result["rows"].append({"engine": engine, "workload": name, **bench.row(name, repeat, counting)})
            if name == C_DOOR:
                row = result["rows"][-1]
                result["memset"].append({"engine": engine, **memset(row["bytes_touched"], row["ns"]["min"], repeat)})
        else:
            result["phases"].append({"engine": engine, "path": name, "ns": bench.phases(name, orders[0], repeat)})
    if counting is not None:
        counting.close()
    result["ratios"] = ratios(result["rows"])
    return result


def _open(events):
    """The events' Counters, None where the machine has none, and what a profile says of it."""
    try:
        counters = Counters(events)
    except OSError as e:
        return None, {"events": [], "missing": {}, "unavailable": e.strerror}
    counters.calibrate(time_call, (len, ((),)))     # the stopwatch too is taken off
    return counters, {"events": counters.events, "missing": counters.missing, "unavailable": None}


def summary(times: Sequence[float]) -> dict[str, float]:
    """{"min", "median", "spread"} of a list of times; spread is from the lower to the upper quartile."""
    low, _, high = statistics.quantiles(times, method="inclusive") if len(times) > 1 else (times[0],) * 3
    return {"min": min(times), "median": statistics.median(times), "spread": high - low}


def memset(nr_bytes: int, least: float, repeat: int) -> dict[str, Any]:
    """What writing nr_bytes costs by itself, measured `repeat` times, and how many times as long `least` ns are."""
    room = np.zeros(nr_bytes, np.uint8)
    time_memset(room)
    ns = summary([time_memset(room)[0] for _ in range(repeat)])
    return {"bytes": nr_bytes, "ns": ns, "ratio": least / max(ns["min"], 1)}


def ratios(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """{workload: least time of struct_page over that of bitmap} of the workloads that both engines ran; rows: a
    profile's."""
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

    def row(self, workload, repeat, counters):
        """One workload's times and counts."""
        timer, args = self.timer(workload)
        times, counts, shares = [], [], []
        for run in range(repeat if counters is None else 2 * repeat):
            if workload != "online_pages":
                self.mem.prepare_online_pages(self.start, self.nr)
            before = self.mem.stats()
            if run < repeat:
                ns, onlined = timer(*args)
                times.append(ns)
            else:
                (_, onlined), count, share = counters.count(timer, args)
                counts.append(count)
                shares.append(share)
            after = self.mem.stats()
            if onlined != self.nr:
                raise AssertionError(f"{workload}: {onlined} of {self.nr} pages went online")
            self.mem.offline_pages(self.start, self.nr)
        return {
            "ns": summary(times),
            "ns_per_page": summary([ns / self.nr for ns in times]),
            "pages_per_second": self.nr * 1e9 / max(min(times), 1),
            "merges": [b - a for a, b in zip(before["merges"], after["merges"], strict=True)],
            "bytes_touched": after["bytes_touched"] - before["bytes_touched"],
            "counts": {event: summary([count[event] for count in counts]) for event in (counts[0] if counts else ())},
            "counted": min(shares, default=None),
        }

    def timer(self, workload):
        """The stopwatch of one run, which gives (ns, pages that went online), and its arguments."""
        mem, start, nr = self.mem, self.start, self.nr
        match workload.split(", order "):
            case ["whole", order]:
                return time_call, (mem.mark_pages_onlined, (start, nr, int(order)))
            case ["whole, C door"]:
                return time_range_call, (mem, start, nr)
            case ["ascending"]:
                return time_ascending, (mem, start, nr)
            case ["random"]:
                return time_in_order, (mem, self.shuffled)
            case ["one batch"]:
                return time_call, (mem.mark_pfns_onlined, (self.shuffled,))
            case ["online_pages"]:
                return time_call, (mem.online_pages, (start, nr))
        return time_calls, (mem.mark_pfns_onlined, self.batches)

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
