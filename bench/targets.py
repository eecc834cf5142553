"""The engines' targets, and the drivers', beside what one run here measures; it judges nothing, so that a busy machine
fails nobody.

    python bench/targets.py              # a minute; what takes 16 Mi pages and more says "--large"
    python bench/targets.py --large      # up to 2^30 pages; some GiB of memory, some minutes
"""

import sys
import time
import timeit
from dataclasses import asdict, dataclass

import guests
import numpy as np
import paths
from contenders import SECTION, make, pages
from fastonline_engines import FastOnline
from peers import LARGE, arguments, measure, pin, surroundings, write

import fastonline as fo
from fastonline.cost.phases import time_calls, time_memset, time_range_call
from fastonline.cost.profile import summary
from fastonline.cost.report import number
from fastonline.drivers.hypervisor import Domain, Host
from fastonline.drivers.xen import XEN_THREAD, XenBalloon
from fastonline.hotplug.memory import ENGINES

GROWTH = (17, 20, 22)
GROWTH_LARGE = (24, 27, 30)


@dataclass(frozen=True)
class Figure:
    """One line of the table. `measured` is of least times, `median` of medians; None: not measured, `note` says why."""

    what: str
    most: bool          # the target is the most that is good, else the least
    target: float
    unit: str
    measured: float | None = None
    median: float | None = None
    note: str = ""

    @property
    def ratio(self):
        """How many times better than the target: at least 1 is met."""
        if self.measured is None:
            return None
        return self.target / self.measured if self.most else self.measured / self.target


def of(rows, contender, workload, key="ns_per_page_min"):
    """One figure of peers.measure's rows, or None."""
    return next((row[key] for row in rows if (row["contender"], row["workload"]) == (contender, workload)), None)


def times(what, target, unit, rows, contender, workload, scale=1):
    """A target of so many ns a page, or of so many `unit` a run where `scale` is the number of pages."""
    least, median = (of(rows, contender, workload, f"ns_per_page_{key}") for key in ("min", "median"))
    return Figure(what, True, target, unit, least * scale, median * scale)


def factor(what, most, target, rows, slow, fast, workload, missing=""):
    """A target of `slow` being so many times as slow as `fast`."""
    if of(rows, slow, workload) is None or of(rows, fast, workload) is None:
        return Figure(what, most, target, "x", note=missing or "not measured")
    keys = ("ns_per_page_min", "ns_per_page_median")
    ratios = (of(rows, slow, workload, key) / of(rows, fast, workload, key) for key in keys)
    return Figure(what, most, target, "x", *ratios)


def whole_section(repeat):
    """The Python call for one section, and its kernel part beside a memset of the bytes that it writes."""
    who = make("bitmap", SECTION)
    kernel = []
    for _ in range(repeat):
        who.reset()
        before = who.mem.stats()["bytes_touched"]
        kernel.append(time_range_call(who.mem, who.first, SECTION)[0])
        written = who.mem.stats()["bytes_touched"] - before
    room = np.zeros(written, np.uint8)
    time_memset(room)
    memset = summary([time_memset(room)[0] for _ in range(repeat)])
    kernel = summary(kernel)
    return Figure(
        "whole section, C level / memset of what it writes", True, 2, "x", kernel["min"] / memset["min"],
        kernel["median"] / memset["median"], f"{written} bytes in {number(memset['min'] / 1000)} us",
    )


def python_calls(repeat):
    """One page through the Python call, nobody listening: ns, the loop that calls it included."""
    who = make("bitmap", SECTION)
    some = pages(who, "random")[: 1 << 14].tolist()
    found = []
    for _ in range(repeat):
        who.reset()
        ns, onlined = time_calls(who.mem.mark_pages_onlined, some)
        assert onlined == len(some)
        found.append(ns / len(some))
    found = summary(found)
    return Figure("one page, Python call", True, 80, "ns", found["min"], found["median"])


def embedded(repeat):
    """What an embedding program asks call by call, bitmap engine: ns a call, the loop that calls it included."""
    mem = fo.Memory(fo.X86_64, boot="4G")
    zone = mem.zones["DMA32"]
    asked = {
        "alloc_pages and free_pages, Python calls": (lambda: mem.free_pages(mem.alloc_pages()), 80),
        'mem.zones["DMA32"]': (lambda: mem.zones["DMA32"], 100),
        "zone.free_pages": (lambda: zone.free_pages, 100),
        "stats()": (mem.stats, 3000),
        "buddyinfo()": (mem.buddyinfo, 3000),
    }
    lines = []
    for what, (ask, target) in asked.items():
        found = summary([timeit.timeit(ask, number=1000) * 1e6 for _ in range(repeat)])
        lines.append(Figure(what, True, target, "ns", found["min"], found["median"]))
    return lines


def around(large, repeat):
    """The paths around the headline ones: their goals, bitmap engine unless named."""
    sizes = (18, 20, 22, 24) if large else (18, 20, 22)
    lines = []

    def line(what, goal, unit, found, divide=1):
        lines.append(Figure(what, True, goal, unit, found["min"] / divide, found["median"] / divide))
    line("alloc_page and free_page, C API", 12, "ns", paths.pair("bitmap", repeat))
    pairs = {n: paths.turnover("bitmap", n, repeat) for n in sizes}
    for n, found in pairs.items():
        line(f"turnover of a full guest of 2^{n} pages, C API, a pair", 40, "ns", found)
    other = paths.turnover("struct_page", 22, repeat)
    line("  bitmap / struct_page at 2^22", 1, "x", {key: pairs[22][key] / other[key] for key in ("min", "median")})
    for order in (3, 6, 9):
        far = {n: paths.far_block(n, order, repeat) for n in ((18, 22, 26, 30) if large else (18, 22))}
        most = max(far)
        line(f"only block of order {order} at the far end of 2^{most}, C API", 100, "ns", far[most])
        grown = {key: far[most][key] / max(far[18][key], 1) for key in ("min", "median")}
        line(f"  order {order}, 2^{most} / 2^18 pages", 2, "x", grown)
    line("alloc_pages_bulk, half of the pages free, a page", 2, "ns", paths.half_free(repeat))
    by_size = {size: paths.batches(size, repeat) for size in paths.BATCHES}
    for call in by_size[1]:
        for size, goal in paths.BATCHES.items():
            line(f"{call}, {size} a call, a page", goal, "ns", by_size[size][call])
    line('alloc_pages(zone="DMA32")', 60, "ns", paths.one_zone_by_name(repeat))
    whole = {engine: paths.whole_machine(engine, "16G", min(repeat, 5)) for engine in ENGINES}
    line("validate() of 16 GiB, a page", 0.2, "ns", whole["bitmap"]["validate"])
    line("load() of 16 GiB", 5, "ms", whole["bitmap"]["load"], 1e6)
    line("copy() of 16 GiB, struct_page", 12, "ms", whole["struct_page"]["copy"], 1e6)
    line("save() of 16 GiB, struct_page", 60, "ms", whole["struct_page"]["save"], 1e6)
    made = paths.least_of(repeat, lambda: fo.Memory(fo.X86_64, boot="64M", engine="struct_page"))
    line("a machine of 64 MiB, struct_page", 0.3, "ms", made, 1e6)
    line("128 MiB offline, removed, added, online", 3, "us", paths.cycle(repeat), 1e3)
    line("a page marked with one listener, 2.6.25", 150, "ns", paths.listener(repeat))
    line("import fastonline, after NumPy", 5, "ms", paths.importing(min(repeat, 7)), 1e6)
    return lines


def growing(large, repeat):
    """How fast guests grow and shrink, and the host's part in it."""
    lines = []

    def line(what, goal, unit, found, divide=1):
        lines.append(Figure(what, True, goal, unit, found["min"] / divide, found["median"] / divide))
    line("one run of `thread`, split", 15, "ms", guests.one_run(repeat), 1e6)
    line("XEN_3_1, a section of 2.6.25 page by page", 10, "ms", guests.xen_section(repeat), 1e6)
    line("free page reporting, nothing new, 4 GiB", 50, "us", guests.reporting(repeat), 1e3)
    host = guests.host(repeat)
    line("Host.take(order=9), 64 GiB host", 50, "us", host["2 MiB"], 1e3)
    line('Host("64G")', 5, "ms", host["made"], 1e6)
    size = 19 if large else 1
    line(f"ResidentDomain.touch, {size} GiB, a page", 30, "ns", guests.touch(repeat, size))
    if large:
        for name, (seconds, mib) in guests.big_guests(2).items():
            lines += [Figure(f"64 GiB guest, 8 steps up and down, {name}", True, 1, "s", seconds),
                      Figure(f"  memory, {name}", True, 300, "MiB", mib)]
        runs = {workers: guests.swept(10000, workers) for workers in (1, 2)}
        for workers, found in runs.items():
            line(f"10,000 runs of `thread`, split, {workers} processes", 120, "s", found, 1e9 / 10000)
        what = "  Dask with 2 workers / 2 processes"
        try:
            lines.append(Figure(what, True, 1.3, "x", guests.swept(10000, 2, guests.dask)["min"] / runs[2]["min"]))
        except ImportError:
            lines.append(Figure(what, True, 1.3, "x", note="distributed is not installed"))
    return lines


def xen_section(repeat, batch, what):
    """One section that the thread's Xen balloon populates from a host whose frames are scattered: ms."""
    found = []
    for _ in range(repeat):
        mem = fo.Memory(fo.X86_32_PAE, boot="1G", rules=fo.LINUX_2_6_25, max_memory="2G")
        balloon = XenBalloon(mem, Domain(Host("2G", scattered=True), "1G"), XEN_THREAD, batch=batch)
        balloon.balloon_expand(SECTION)
        balloon.set_target("1.5G")
        start = time.perf_counter()
        balloon.work(0.0)
        found.append((time.perf_counter() - start) * 1e3)
        assert mem.totalram_pages == 3 * SECTION
    found = summary(found)
    return Figure(f"whole section, Xen driver, {what}", True, 5, "ms", found["min"], found["median"])


def resident():
    """Bytes of memory that this process really has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def growth(exponents, repeat):
    """Whole ranges of 2^n pages: [(pages, least and median ns a page, those of a memset of what it writes, memory a page)]."""
    found = []
    for n in exponents:
        before = resident()
        who = FastOnline("bitmap", 1 << n)
        rounds = []
        for _ in range(repeat):
            who.reset()
            written = -who.mem.stats()["bytes_touched"]
            ns, onlined = time_range_call(who.mem, who.first, 1 << n)
            assert onlined == 1 << n
            rounds.append(ns / (1 << n))
            written += who.mem.stats()["bytes_touched"]
        memory = resident() - before
        room = np.zeros(written, np.uint8)
        time_memset(room)
        memset = summary([time_memset(room)[0] / (1 << n) for _ in range(repeat)])
        found.append((1 << n, summary(rounds), memset, memory / (1 << n)))
        del who, room
    return found


def untouched():
    """Bytes of memory of a machine with room for 2^34 pages and one section online."""
    before = resident()
    mem = fo.Memory(fo.X86_64, max_memory="64T")
    mem.add_memory(0, 1 << 15)
    mem.online_pages(0, 1 << 15)
    return resident() - before


def figures(large, repeat):
    """([Figure], growth) of one run."""
    missing = {}
    workloads = ["W1", "W2", "W2 C API", "W3", "W3 C API", "W4"]
    small = measure(SECTION, ["bitmap", "struct_page", "linux64", "llfree_c"], workloads, repeat, missing)
    lines = [
        times("whole 512 MiB section, Python call", 1500, "ns", small, "bitmap", "W1", SECTION),
        whole_section(repeat),
        factor("whole 512 MiB section, struct_page / bitmap", False, 200, small, "struct_page", "bitmap", "W1"),
        times("random batch of 131072 pages, a page", 1, "ns", small, "bitmap", "W3"),
    ]
    rest = {
        "bitmap": Figure("random batch of 16 Mi pages, a page", True, 2, "ns", note="--large"),
        "struct_page": Figure("random batch of 16 Mi pages, struct_page / bitmap", False, 30, "x", note="--large"),
        "llfree_c": Figure("random batch of 16 Mi pages, LLFree / bitmap", False, 10, "x", note="--large"),
    }
    if large:
        rows = measure(LARGE, list(rest), ["W3"], min(repeat, 4), missing)
        rest = {
            "bitmap": times(rest["bitmap"].what, 2, "ns", rows, "bitmap", "W3"),
            **{
                name: factor(rest[name].what, False, rest[name].target, rows, name, "bitmap", "W3",
                             missing.get(f"{name}, {LARGE} pages", ""))
                for name in ("struct_page", "llfree_c")
            },
        }
    grown = growth(GROWTH + (GROWTH_LARGE if large else ()), min(repeat, 5))
    flat = [ns["min"] for _, ns, _, _ in grown]
    lines += [
        *rest.values(),
        times("one page, C API, ascending", 5, "ns", small, "bitmap", "W2 C API"),
        times("one page, C API, random", 3.5, "ns", small, "bitmap", "W3 C API"),
        python_calls(repeat),
        *embedded(repeat),
        *around(large, min(repeat, 7)),
        *growing(large, min(repeat, 7)),
        xen_section(repeat, 1, "page by page"),
        xen_section(repeat, None, "1024 a hypercall"),
        times("allocate and free every page in bulk, a page", 1, "ns", small, "bitmap", "W4"),
        Figure(f"growth to {grown[-1][0]} pages: most ns a page / least", True, 2, "x", max(flat) / min(flat), None,
               "flat is read as twice; see below how memset grows"),
        Figure(f"memory a page at {grown[-1][0]} pages", True, 0.6, "bytes", grown[-1][3]),
        Figure("64 TiB of room, 128 MiB online: memory", True, 64, "MiB", untouched() / (1 << 20), None,
               "nothing is read as 64 MiB"),
        *(
            factor(f"struct_page / kernel-shaped C, {workload}", True, 1.1, small, "struct_page", "linux64", workload,
                   missing.get(f"linux64, {SECTION} pages", ""))
            for workload in ("W1", "W2", "W3", "W4")
        ),
    ]
    return lines, grown


def table(lines, grown):
    """Target, least and median figure, how many times better than the target: 1 and more is met."""
    out = [f"{'target':<58}{'':>9}{'min':>9}{'median':>9}  {'':<6}{'ratio':>8}"]
    for line in lines:
        target = f"{'<=' if line.most else '>='} {number(line.target)}"
        cells = ("-" if value is None else number(value) for value in (line.measured, line.median))
        better = "-" if line.ratio is None else f"{number(line.ratio)}x"
        measured = "".join(f"{cell:>9}" for cell in cells)
        out.append(f"{line.what:<58}{target:>9}{measured}  {line.unit:<6}{better:>8}  {line.note}".rstrip())
    titles = f"{'ns a page':>10}{'median':>10}{'memset':>10}{'memory, bytes a page':>24}"
    out += ["", f"{'bitmap, a whole range at C level':<34}{titles}"]
    for nr_pages, ns, memset, memory in grown:
        cells = (ns["min"], ns["median"], memset["min"])
        there = number(memory) if memory > 0 else "-"       # a small machine may live in what a former one left
        out.append(f"  {nr_pages:<32}" + "".join(f"{number(cell):>10}" for cell in cells) + f"{there:>24}")
    return "\n".join(out) + "\n"


def main(argv=None):
    args = arguments("the engines' targets beside what one run here measures.").parse_args(argv)
    common = surroundings(pin(args.cpu))
    lines, grown = figures(args.large, args.repeat)
    sys.stdout.write(table(lines, grown))
    if args.write is not None:
        write(args.write, [common | asdict(line) | {"ratio": line.ratio} for line in lines], {})


if __name__ == "__main__":
    main()
