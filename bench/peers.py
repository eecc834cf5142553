"""Side by side in one run: both engines, the work in NumPy alone and in plain Python, and every peer that is on this machine.

    python bench/peers.py                # W1 to W5 on one 512 MiB section
    python bench/peers.py --large        # on 16 Mi pages too
"""

import argparse
import csv
import json
import os
import platform
import statistics
import sys
from dataclasses import dataclass

import numpy as np
from c_peers import PEERS, CPeer, Missing
from contenders import CONTENDERS, SECTION, make, pages

import fastonline as fo
from fastonline.cli.common import count
from fastonline.cost.phases import calibrate, time_call
from fastonline.cost.report import number
from fastonline.hotplug.memory import ENGINES

LARGE = 1 << 24
BLOCKS = 4      # the rounds of one contender come in so many blocks
MOST = {"plain_python": 1 << 20}    # sets of Python ints take some 70 bytes a page
SLOW = {"numpy_only": 4, "plain_python": 2}


@dataclass(frozen=True)
class Workload:
    """What is asked of a contender, in which order of pages, and whether all of them are free afterwards."""

    title: str
    order: str = "ascending"
    free_after: bool = True
    c_api: bool = False


WORKLOADS = {
    "W1": Workload("the whole range goes online, in the largest blocks"),
    "W2": Workload("page by page, ascending: one array"),
    "W2 C API": Workload("page by page, ascending: a C call a page", c_api=True),
    "W3": Workload("page by page, random: one array", "random"),
    "W3 C API": Workload("page by page, random: a C call a page", "random", c_api=True),
    "W4": Workload("every page allocated at order 0, and freed"),
    "W5": Workload("the whole range goes out again", free_after=False),
}
"""The published workloads. Only the engines have a C API; a C peer runs its own loop of C calls, one a page."""


def contender(name, nr_pages):
    """A contender or peer by name; Missing says why not."""
    if nr_pages > MOST.get(name, nr_pages):
        raise Missing(f"{nr_pages} pages are too many for it")
    return CPeer(name, nr_pages) if name in PEERS else make(name, nr_pages)


def free_pages(who):
    """Pages that are free by the contender's own count."""
    return who.free_pages() if isinstance(who, CPeer) else sum(n << order for order, n in enumerate(who.nr_free()))


def alloc_and_free(who):
    pfns = who.alloc(who.nr_pages)
    who.free(pfns)
    return len(pfns)


def once(who, workload, pfns):
    """(ns, pages) of one round, put back and prepared before."""
    how = WORKLOADS[workload]
    who.reset()
    if workload in ("W4", "W5"):
        who.online_range(who.first, who.nr_pages)
    match workload:
        case "W1":
            call, args = who.online_range, (who.first, who.nr_pages)
        case "W4":
            call, args = alloc_and_free, (who,)
        case "W5":
            call, args = who.take_range, (who.first, who.nr_pages)
        case _:
            call, args = who.online_each if how.c_api else who.online_pfns, (pfns[how.order],)
    ns, done = time_call(call, args)
    if done != who.nr_pages or free_pages(who) != (who.nr_pages if how.free_after else 0):
        raise AssertionError(f"{who.name}, {workload}: {done} pages done, {free_pages(who)} free of {who.nr_pages}")
    return ns


def measure(nr_pages, names, workloads, repeat, missing):
    """A row a contender and workload, of `repeat` rounds each; {name: reason} of those that are not there goes into
    `missing`."""
    there = []
    for name in names:
        try:
            who = contender(name, nr_pages)
            there.append((who, {order: pages(who, order) for order in ("ascending", "random")}))
        except Missing as e:
            missing[f"{name}, {nr_pages} pages"] = str(e)
    rows = []
    for workload in workloads:
        taking = [(who, pfns, []) for who, pfns in there if who.name in ENGINES or not WORKLOADS[workload].c_api]
        for block in range(min(BLOCKS, repeat)):    # in turns, so that a busy stretch hits all of them
            for who, pfns, times in taking:
                once(who, workload, pfns)   # the others have been through the caches
                rounds = SLOW.get(who.name, repeat)
                times += [once(who, workload, pfns) for _ in range(block, rounds, BLOCKS)]
        for who, _, times in taking:
            rows.append({
                "contender": who.name, "workload": workload, "what": WORKLOADS[workload].title, "pages": nr_pages,
                "rounds": len(times), "ns_min": min(times), "ns_median": statistics.median(times),
                "ns_per_page_min": min(times) / nr_pages, "ns_per_page_median": statistics.median(times) / nr_pages,
                "pages_per_second": nr_pages * 1e9 / max(min(times), 1),
            })
    return rows


def surroundings(cpu):
    """What every row of one run has in common."""
    return {
        "fastonline": fo.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if cpu is None else 1,
        "cpu": cpu,
        "clock_ns": calibrate(),
        "load": os.getloadavg()[0],
        "seed": 2008,
    }


def pin(cpu):
    """Stay on one processor: `cpu`, or the last that this process may use; -1: stay free. The processor, or None."""
    if cpu == -1:
        return None
    cpu = max(os.sched_getaffinity(0)) if cpu is None else cpu
    os.sched_setaffinity(0, {cpu})
    return cpu


def table(rows, missing):
    """Least and median ns a page, and how many times as long as the bitmap engine each took, in least times."""
    lines = []
    for nr_pages in dict.fromkeys(row["pages"] for row in rows):
        titles = f"{'min':>10}{'median':>10}{'/ bitmap':>10}{'/ struct_page':>15}{'rounds':>8}"
        lines += [f"{nr_pages} pages, ns a page", f"{'':<14}{titles}"]
        for workload in dict.fromkeys(row["workload"] for row in rows):
            some = [row for row in rows if (row["pages"], row["workload"]) == (nr_pages, workload)]
            least = {row["contender"]: row["ns_per_page_min"] for row in some}
            lines.append(f"{workload}: {WORKLOADS[workload].title}")
            for row in some:
                least_ns, median_ns = row["ns_per_page_min"], row["ns_per_page_median"]
                fast, slow = (f"{number(least_ns / least[engine])}x" if least.get(engine) else "-" for engine in ENGINES)
                lines.append(
                    f"  {row['contender']:<12}{number(least_ns):>10}{number(median_ns):>10}{fast:>10}{slow:>15}"
                    f"{row['rounds']:>8}"
                )
        lines.append("")
    return "\n".join([*lines, *(f"not there: {name}: {why}" for name, why in missing.items())]).rstrip() + "\n"


def write(path, rows, missing):
    """The rows, each with all of its parameters, as .json or .csv."""
    with open(path, "w", newline="") as file:
        if path.endswith(".csv"):
            out = csv.DictWriter(file, rows[0])
            out.writeheader()
            out.writerows(rows)
        else:
            json.dump({"rows": rows, "missing": missing}, file, indent=1)


def sections(text):
    """An argparse type: pages that are whole sections of X86_64."""
    if count(text) % fo.X86_64.pages_per_section:
        raise argparse.ArgumentTypeError(f"{text} pages are not whole sections, of {fo.X86_64.pages_per_section} each")
    return int(text)


def arguments(description):
    """The options that every program here has."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--large", action="store_true", help="the large sizes too: some GiB of memory, some minutes")
    parser.add_argument("--repeat", type=count, default=20, metavar="N", help="rounds of each workload (20)")
    parser.add_argument("--cpu", type=int, metavar="N", help="stay on this processor, -1: on none (the last one)")
    parser.add_argument("--write", metavar="FILE", help="the figures as FILE.csv or FILE.json")
    return parser


def main(argv=None):
    parser = arguments("W1 to W5 of both engines, NumPy alone, plain Python and the peers on this machine, side by side.")
    names = [*CONTENDERS, *PEERS]
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"only these: {', '.join(names)}")
    parser.add_argument(
        "--workload", action="append", choices=WORKLOADS, metavar="W", help=f"only these: {', '.join(WORKLOADS)}"
    )
    parser.add_argument("--pages", type=sections, action="append", metavar="N", help=f"sizes, multiples of 32768 ({SECTION})")
    args = parser.parse_args(argv)
    common = surroundings(pin(args.cpu))
    rows, missing = [], {}
    for nr_pages in [*(args.pages or [SECTION]), *([LARGE] if args.large else [])]:
        repeat = args.repeat if nr_pages < LARGE else min(args.repeat, 3)
        rows += [
            common | row for row in measure(nr_pages, args.only or names, args.workload or list(WORKLOADS), repeat, missing)
        ]
    sys.stdout.write(table(rows, missing))
    if args.write is not None:
        write(args.write, rows, missing)


if __name__ == "__main__":
    main()
