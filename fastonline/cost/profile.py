"""Profile: what onlining one section costs, whole, page by page and in batches, by engine and by phase."""

import resource
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from fastonline.cost.caches import Eviction
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
from fastonline.cost.provenance import huge_bytes, provenance
from fastonline.geometry import X86_64, Geometry, as_geometry, format_size, parse_size
from fastonline.hotplug.memory import ENGINES, Memory
from fastonline.hotplug.notifier import NOTIFY_OK
from fastonline.linux.capture import Capture, matches_kernel
from fastonline.record import Record
from fastonline.rules import LINUX_6_12, Rules, as_rules

BOOT = "1G"
"""Memory below the section, when there is no capture: enough to fill the kernel zones that a hot-added section lies behind."""

BATCH = 512
"""Pages of a balloon driver's batch: a page full of 8-byte frame numbers (Xen's frame_list)."""

LISTENED = 2048
"""Pages that are marked one by one with a listener: a Python call each, so that a whole section would take long."""

SEED = 2008

C_API = "whole, C API"

WORKLOADS = (C_API, "ascending", "random", f"batches of {BATCH}", "one batch", "online_pages")
"""Beside "whole, order N": the whole without Python (Memory.online_range); page by page through the C API, upward and shuffled;
shuffled through mark_pfns_onlined, BATCH or all pages a call; both phases in one call."""

LISTENER = "with a listener"

LIFECYCLE = ("add_memory, first", "add_memory", "prepare", "offline_pages", "remove_memory")
"""The other calls in a section's life. "first": on a new machine, whose memory this process has not touched before."""

PATHS = ("whole", "ascending", "random")
"""The workloads that are measured phase by phase."""

FRESH = 5
"""New machines that "add_memory, first" is measured on, at most."""

COLD = 10
"""Repeats with caches emptied, at most: emptying them takes milliseconds."""


class Summary(Record):
    """The least of several times, their median, and the spread from the lower to the upper quartile."""

    __slots__ = ()

    min: float
    median: float
    spread: float


class Timing(Record):
    """The times of one workload on one engine, ns. The cost of reading the clock is subtracted.

    - engine, workload: names. pages: that a run handles. times: every repeat's ns.
    - ns, ns_per_page: Summary. cold: the ns with emptied caches, None without `cold`. first: ns of the unmeasured run.
    - between: None, or what differs from process to process (see cost.processes).
    - pages_per_second: from the least time. faults: least page faults of a run.
    - merges: by order, and bytes_touched: of one run.
    - counts: {event: Summary}. counted: the least share of a run for which the events were counted; None: nothing was counted.
    """

    __slots__ = ()

    engine: str
    workload: str
    pages: int
    ns: Summary
    ns_per_page: Summary
    times: list[float]
    between: dict[str, tuple[float, float]] | None
    first: float
    cold: Summary | None
    pages_per_second: float
    merges: list[int]
    bytes_touched: int
    faults: int
    counts: dict[str, Summary]
    counted: float | None


class Phases(Record):
    """The phases of one `path` on one `engine`. ns: {phase: {"min", "median"}, or None where the path has no such phase}.
    total: {"min", "median"}, to which the phases add up."""

    __slots__ = ()

    engine: str
    path: str
    ns: dict[str, dict[str, float] | None]
    total: dict[str, float]


class Profile(Record):
    """What `profile` measured: attributes, keys, and a dictionary that json.dumps takes.

    - geometry, rules: names. boot: memory below the section, None behind a captured machine. page_size: bytes. section: text.
      start_pfn, nr_pages, nr_sections, repeat: numbers. clock_ns: what reading the clock costs.
    - provenance: cost.provenance.provenance.
    - capture: None, or {"release", "kernel_buddyinfo", "predicted_buddyinfo", "zones": a list of {"nid", "zone", "quiet",
      "matches"}}.
    - counters: None unless requested, or {"events", "missing": {event: why there is none}, "unavailable": None, or why nothing
      could be counted}.
    - rows: the workloads that online the section. calls: LISTENER and LIFECYCLE, the other calls in a section's life.
    - memset: for each engine {"engine", "bytes", "ns", "ratio"}: a memset of as many bytes as C_API writes, and the least time
      of C_API over that of the memset.
    - phases: for each engine and path. ratios: {workload: struct_page over bitmap, least times}, empty unless both engines ran.
    - huge_bytes: for each process its memory on huge pages afterwards, bytes; None where the kernel does not say.
    """

    __slots__ = ()

    geometry: str
    rules: str
    boot: str | None
    page_size: int
    section: str
    nr_pages: int
    nr_sections: int
    repeat: int
    clock_ns: float
    provenance: dict[str, Any]
    capture: dict[str, Any] | None
    counters: dict[str, Any] | None
    rows: list[Timing]
    calls: list[Timing]
    memset: list[dict[str, Any]]
    phases: list[Phases]
    start_pfn: int
    huge_bytes: list[int | None]
    ratios: dict[str, float]

    def __repr__(self) -> str:
        return f"<Profile {self.geometry} rules={self.rules} section={self.section} rows={len(self.rows)} repeat={self.repeat}>"


def profile(
    geometry: Geometry | str = X86_64, section: int | str = "512M", rules: Rules | str = LINUX_6_12,
    engines: Sequence[str] = ENGINES, orders: Iterable[int] | None = None, repeat: int = 50, capture: Capture | None = None,
    counters: dict[str, tuple[int, int]] | None = None, cold: bool = False,
    progress: Callable[[list[tuple[str, str, str]]], Iterable[tuple[str, str, str]]] = iter
) -> Profile:
    """Measure what onlining one section costs; return a Profile.

    geometry, rules: of the machine, or their names. engines: a list of names. section: size of the range that is onlined,
    whole sections. orders: largest blocks handed to the allocator, one "whole" for each; None: what the rules say. capture: a
    linux.capture.Capture to start from, with its own geometry; None: BOOT memory is there. counters: the events to count in
    runs of their own after the timed ones, cost.counters.HARDWARE or another dict of its kind; None: nothing is counted. cold:
    measure each workload again with caches emptied before each run. progress: called with the list of steps, gives them back
    one by one (tqdm.tqdm does).

    Every step runs once unmeasured, then `repeat` times on the same machine. offline_pages puts it back outside of the timed
    part, so caches are warm. ValueError for an unknown engine, an order or a section that the geometry does not have, and a
    `repeat` below 1; TypeError for one name instead of a list.
    """
    if repeat < 1:
        raise ValueError(f"repeat must be at least 1, not {repeat}")
    geometry, rules = as_geometry(geometry), as_rules(rules)
    if isinstance(engines, str):
        raise TypeError(f"engines must be a list of names, not {engines!r}")
    engines = list(dict.fromkeys(engines))
    unknown = [engine for engine in engines if engine not in ENGINES]
    if unknown:
        raise ValueError(f"invalid engine {unknown[0]!r} (expected {' or '.join(map(repr, ENGINES))})")
    if capture is not None:
        geometry = capture.geometry
    if orders is None:
        orders = [geometry.max_page_order if rules.online_order is None else rules.online_order]
    orders = list(dict.fromkeys(orders))
    for order in orders:
        if not 0 <= order <= geometry.max_page_order:
            raise ValueError(f"order {order} is not between 0 and {geometry.name}'s MAX_PAGE_ORDER = {geometry.max_page_order}")
    nr_pages = _section_pages(geometry, section)
    result = Profile({
        "geometry": geometry.name,
        "rules": rules.name,
        "boot": None if capture is not None else BOOT,
        "page_size": geometry.page_size,
        "section": format_size(nr_pages * geometry.page_size),
        "nr_pages": nr_pages,
        "nr_sections": nr_pages // geometry.pages_per_section,
        "repeat": repeat,
        "clock_ns": calibrate(),
        "provenance": provenance(seed=SEED),
        "capture": None,
        "counters": None,
        "rows": [],
        "calls": [],
        "memset": [],
        "phases": [],
    })
    counting = None
    if counters is not None:
        counting, result["counters"] = _open(counters)
    workloads = [f"whole, order {order}" for order in orders] + [*WORKLOADS, LISTENER, *LIFECYCLE]
    if capture is not None:
        workloads.remove(LIFECYCLE[0])  # a new machine for each run would be a new captured one
    steps = [
        (engine, what, name) for engine in engines for what, names in (("row", workloads), ("phases", PATHS)) for name in names
    ]
    bench = None
    for engine, what, name in progress(steps):
        if bench is None or bench.engine != engine:
            bench = None    # one machine at a time: a captured one may be large
            bench = Bench(geometry, nr_pages, rules, engine, capture)
            result["start_pfn"] = bench.start
            result["capture"] = bench.compared
        if what == "row":
            row = Timing({"engine": engine, "workload": name, **bench._row(name, repeat, counting, cold)})
            result["calls" if name in (LISTENER, *LIFECYCLE) else "rows"].append(row)
            if name == C_API:
                result["memset"].append({"engine": engine, **memset(row["bytes_touched"], row["ns"]["min"], repeat)})
        else:
            result["phases"].append(Phases({"engine": engine, "path": name, **bench._phases(name, orders[0], repeat)}))
    if counting is not None:
        counting.close()
    result["huge_bytes"] = [huge_bytes()]
    result["ratios"] = ratios(result["rows"] + result["calls"])
    return result


def _section_pages(geometry, section):
    size = parse_size(section, geometry.section_size)
    if size == 0:
        raise ValueError(f"invalid section {section!r} (expected at least {format_size(geometry.section_size)})")
    if size // geometry.page_size > geometry.max_pfn:
        raise ValueError(
            f"a section of {format_size(size)} is too large for {geometry.name}: memory ends at pfn {geometry.max_pfn:#x}"
        )
    return size // geometry.page_size


def _open(events):
    """The events' Counters, None where the machine has none, and what a profile says of it."""
    try:
        counters = Counters(events)
    except OSError as e:
        return None, {"events": [], "missing": {}, "unavailable": e.strerror}
    counters.calibrate(time_call, (len, ((),)))     # the stopwatch too is taken off
    return counters, {"events": counters.events, "missing": counters.missing, "unavailable": None}


def summary(times: Sequence[float]) -> Summary:
    """Return the Summary of a list of `times`."""
    low, _, high = statistics.quantiles(times, method="inclusive") if len(times) > 1 else (times[0],) * 3
    return Summary(min=min(times), median=statistics.median(times), spread=high - low)


def parts(steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """{"ns": {phase: {"min", "median"} or None}, "total": {"min", "median"}} of runs of phases.time_range or time_pages.

    steps: the dicts that phases.time_range or time_pages gave, one a run. Each run timed the flags alone, the flags and the
    buddy allocator, and the real path with all of it. So a phase is what a step adds to the one before, and the phases add up
    to the total. A step that a noisy machine made longer than the whole counts as the whole.
    """
    ns: dict[str, Any] = {phase: {} for phase in PHASES}
    total = {}
    for name, of in (("min", min), ("median", statistics.median)):
        least: dict[str, Any] = {
            step: None if steps[0][step] is None else of([run[step] for run in steps]) for step in steps[0]
        }
        marked = least["total"]
        flags = min(least["flags"], marked)
        engine = min(max(least["engine"], flags), marked)
        values = {
            "prepare": least["prepare"], "flags": flags, "buddy": engine - flags, "accounting": marked - engine,
            "watermarks": least["watermarks"], "notify": least["notify"],
        }
        total[name] = sum(value for value in values.values() if value is not None)
        for phase, value in values.items():
            if value is None:
                ns[phase] = None
            else:
                ns[phase][name] = value
    return {"ns": ns, "total": total}


def memset(nr_bytes: int, least: float, repeat: int) -> dict[str, Any]:
    """The cost of writing nr_bytes alone, measured `repeat` times, and how many times as long `least` ns are."""
    room = np.zeros(nr_bytes, np.uint8)
    time_memset(room)
    ns = summary([time_memset(room)[0] for _ in range(repeat)])
    return {"bytes": nr_bytes, "ns": ns, "ratio": least / max(ns["min"], 1)}


def ratios(rows: Iterable[Timing]) -> dict[str, float]:
    """{workload: least time of struct_page over that of bitmap} of the workloads that both engines ran; rows: a
    profile's."""
    least = {(row["engine"], row["workload"]): row["ns"]["min"] for row in rows}
    return {
        workload: least["struct_page", workload] / max(ns, 1)
        for (engine, workload), ns in least.items()
        if engine == "bitmap" and ("struct_page", workload) in least
    }


def _compare(mem, capture):
    """The prediction of a machine that was made from a capture, beside the kernel's figures."""
    return {
        "release": capture.release,
        "kernel_buddyinfo": capture.buddyinfo,
        "predicted_buddyinfo": mem.buddyinfo(),
        "zones": [
            {"nid": nid, "zone": name, "quiet": capture.quiet[nid, name], "matches": bool(matches)}
            for (nid, name), matches in matches_kernel(mem, capture).items()
        ],
    }


def _listen(action, notice):
    return NOTIFY_OK


class Bench:
    """One machine with one added section, onlined and put back again and again. `profile` and bench/ measure on it, so that a
    workload's name has one meaning.

    geometry, rules, engine: of the machine. nr_pages: of the section. capture: a linux.capture.Capture to start from, or None:
    then BOOT memory is there.
    """

    def __init__(self, geometry: Geometry, nr_pages: int, rules: Rules, engine: str, capture: Capture | None = None) -> None:
        self.engine = engine
        self.compared = None
        self.new_machine: Callable[[], Memory] | None = None
        if capture is None:
            self.new_machine = lambda: Memory(geometry, boot=BOOT, rules=rules, engine=engine)
            self.mem = self.new_machine()
            self.start = parse_size(BOOT) // geometry.page_size
        else:
            self.mem = capture.machine(engine=engine, rules=rules)
            self.start = capture.hotplug_pfn
            self.compared = _compare(self.mem, capture)
        self.nr = nr_pages
        self.mem.add_memory(self.start, self.nr)
        self.upward = np.arange(self.start, self.start + self.nr, dtype=np.uint64)
        self.shuffled = np.random.default_rng(SEED).permutation(self.upward)
        self.batches = [self.shuffled[i : i + BATCH] for i in range(0, self.nr, BATCH)]
        self.listened = [int(pfn) for pfn in self.shuffled[:LISTENED]]
        self.eviction = Eviction()

    def _row(self, workload, repeat, counters, cold):
        """One workload's times and counts."""
        pages = self.pages(workload)
        repeat = min(repeat, FRESH) if workload == LIFECYCLE[0] else repeat
        warm = [self._run(workload, None, False) for _ in range(1 + repeat)]
        times = [run["ns"] for run in warm[1:]]
        counted = [self._run(workload, counters, False) for _ in range(repeat if counters is not None else 0)]
        cooled = [self._run(workload, None, True)["ns"] for _ in range(min(repeat, COLD) if cold else 0)]
        last = warm[-1]
        return {
            "pages": pages,
            "ns": summary(times),
            "ns_per_page": summary([ns / pages for ns in times]),
            "times": times,
            "between": None,
            "first": warm[0]["ns"],
            "cold": summary(cooled) if cooled else None,
            "pages_per_second": pages * 1e9 / max(min(times), 1),
            "merges": last["merges"],
            "bytes_touched": last["bytes"],
            "faults": min(run["faults"] for run in warm[1:]),
            "counts": {
                event: summary([run["count"][event] for run in counted]) for event in (counted[0]["count"] if counted else ())
            },
            "counted": min((run["share"] for run in counted), default=None),
        }

    def _run(self, workload, counters, cold):
        """One run: its ns, and what it counted."""
        mem = self.make_ready(workload)
        timer, args = self.timer(mem, workload)
        before, faults = mem.stats(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        if cold:
            self.eviction.evict()
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        count = share = None
        if counters is None:
            ns, done = timer(*args)
        else:
            (ns, done), count, share = counters.count(timer, args)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        after = mem.stats()
        if done is not None and done != self.pages(workload):
            raise AssertionError(f"{workload}: {done} of {self.pages(workload)} pages went online")
        self.put_back(workload)
        return {
            "ns": ns,
            "faults": faults,
            "count": count,
            "share": share,
            "bytes": after["bytes_touched"] - before["bytes_touched"],
            "merges": [b - a for a, b in zip(before["merges"], after["merges"], strict=True)],
        }

    def pages(self, workload: str) -> int:
        """Return how many pages a run of the `workload` handles."""
        return len(self.listened) if workload == LISTENER else self.nr

    def make_ready(self, workload: str) -> Memory:
        """Bring the machine to where the `workload` begins, and return it; a new one for a first touch."""
        if workload == LIFECYCLE[0]:
            if self.new_machine is None:
                raise ValueError(f"{workload}: a captured machine is not made anew")
            return self.new_machine()
        if workload == "add_memory":
            self.mem.remove_memory(self.start, self.nr)
        elif workload == "offline_pages":
            self.mem.online_pages(self.start, self.nr)
        elif workload not in ("online_pages", "prepare", "remove_memory"):
            self.mem.prepare_online_pages(self.start, self.nr)
        if workload == LISTENER:
            self.mem.notifiers.register(_listen)
        return self.mem

    def put_back(self, workload: str) -> None:
        """After a run of the `workload`: the section is added and offline again."""
        if workload == LISTENER:
            self.mem.notifiers.unregister(_listen)
        if workload == "remove_memory":
            self.mem.add_memory(self.start, self.nr)
        elif workload not in (*LIFECYCLE[:2], "offline_pages"):
            self.mem.offline_pages(self.start, self.nr)

    def timer(self, mem: Memory, workload: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return the stopwatch of one run of the `workload` on `mem`, which gives (ns, pages that went online or None), and its
        arguments."""
        start, nr = self.start, self.nr
        match workload.split(", order "):
            case ["whole", order]:
                return time_call, (mem.mark_pages_onlined, (start, nr, int(order)))
            case ["whole, C API"]:
                return time_range_call, (mem, start, nr)
            case ["ascending"]:
                return time_ascending, (mem, start, nr)
            case ["random"]:
                return time_in_order, (mem, self.shuffled)
            case ["one batch"]:
                return time_call, (mem.mark_pfns_onlined, (self.shuffled,))
            case ["online_pages"]:
                return time_call, (mem.online_pages, (start, nr))
            case ["add_memory, first"] | ["add_memory"]:
                return time_call, (mem.add_memory, (start, nr))
            case ["prepare"]:
                return time_call, (mem.prepare_online_pages, (start, nr))
            case ["offline_pages"]:
                return time_call, (mem.offline_pages, (start, nr))
            case ["remove_memory"]:
                return time_call, (mem.remove_memory, (start, nr))
            case ["with a listener"]:
                return time_calls, (mem.mark_pages_onlined, self.listened)
        return time_calls, (mem.mark_pfns_onlined, self.batches)

    def _phases(self, path, order, repeat):
        """One path's phases."""
        runs = []
        for _ in range(repeat):
            if path == "whole":
                runs.append(time_range(self.mem, self.start, self.nr, order))
            else:
                pfns = self.upward if path == "ascending" else self.shuffled
                runs.append(time_pages(self.mem, self.start, self.nr, pfns))
            self.mem.offline_pages(self.start, self.nr)
        return parts(runs)
