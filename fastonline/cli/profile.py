"""``fastonline profile``: what onlining one section costs."""

import argparse
import csv
import io
import sys
from functools import partial

from fastonline import geometry, rules
from fastonline.cli.common import (
    add_command,
    add_csv,
    add_json,
    add_plot,
    check_plot,
    checked,
    colored,
    count,
    progress,
    size,
    write_json,
    write_text,
)
from fastonline.cost.against import against, against_text, load_profile
from fastonline.cost.counters import HARDWARE
from fastonline.cost.processes import profile_processes
from fastonline.cost.profile import profile
from fastonline.cost.report import geometries_text, profile_text
from fastonline.cost.scale import memmap_text, scale, scale_text, touch_memmap
from fastonline.hotplug.memory import ENGINES
from fastonline.linux.capture import Capture

EXAMPLES = (
    ("fastonline profile", "512 MiB, Linux 6.12"),
    ("fastonline profile --brief", "the five main rows"),
    ("fastonline profile --cold", "also with emptied caches"),
    ("fastonline profile --geometry X86_32_PAE,ARM64_64K", "one table for both"),
    ("fastonline profile --json old.json", "keep it, and later:"),
    ("fastonline profile --against old.json", "exit status 1 when slower"),
)


def add_profile(commands):
    parser = add_command(
        commands, "profile", "what onlining one section costs",
        "Measure what onlining one section costs: as a whole, page by page, in batches as a balloon driver has, and the other "
        "calls in a section's life, by engine and by phase. Quote the row online_pages: that is what a kernel engineer calls "
        "onlining.", EXAMPLES,
    )
    parser.add_argument("--geometry", type=geometries, metavar="NAME[,NAME...]",
                        help=f"{', '.join(geometry.PRESETS)} (default: X86_64); several give one table")
    parser.add_argument(
        "--section", type=size, default="512M", metavar="SIZE", help="size to online, whole sections (default: 512M)"
    )
    parser.add_argument("--rules", type=checked(rules.by_name), default="6.12", metavar="VERSION",
                        help=f"kernel version: {', '.join(rules.PRESETS)} (default: 6.12)")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="only this engine; may be repeated (default: both)")
    parser.add_argument("--order", type=int, action="append", metavar="N",
                        help="largest block freed at once when the whole section goes online; may be repeated (default: 0 "
                        "under 2.6.25, MAX_PAGE_ORDER later)")
    parser.add_argument("--repeat", type=count, default=50, metavar="N", help="repetitions of each workload (default: 50)")
    parser.add_argument("--processes", type=count, default=1, metavar="N",
                        help="measure in N new processes, and show how they differ (default: 1, this one)")
    parser.add_argument(
        "--cold", action="store_true", help="also measure with emptied caches, as for a section that is onlined rarely"
    )
    parser.add_argument("--memmap", action="store_true", help="also measure the first touch of the page descriptors")
    parser.add_argument(
        "--scale", action="store_true", help="measure machines of 2^17 to 2^34 pages instead, as far as memory allows"
    )
    parser.add_argument("--brief", action="store_true", help="print only the five rows that most people want")
    parser.add_argument("--counters", action="store_true",
                        help="also count cycles, instructions, cache and branch misses (perf events), in further runs")
    parser.add_argument(
        "--against",
        metavar="FILE",
        help="compare with an older profile that --json wrote; exit status 1 when a "
        "workload became slower by more than --tolerance",
    )
    parser.add_argument(
        "--tolerance", type=share, default=0.1, metavar="SHARE", help="for --against (default: 0.1, that is 10 %%)"
    )
    add_json(parser)
    add_csv(parser, "the rows")
    add_plot(parser, "the figures")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--capture", metavar="FILE", help="start from a captured machine, online a section after its memory, "
                       "and say whether the predicted buddyinfo matches the kernel's")
    start.add_argument("--live", action="store_true", help="the same, from the running kernel")
    parser.set_defaults(run=run_profile)


def geometries(text):
    """One or more names of geometries, separated by commas."""
    return [checked(geometry.by_name)(name) for name in text.split(",")]


def share(text):
    """A share such as 0.1, at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"invalid share {text!r} (expected a number of at least 0, such as 0.1)")
    return value


def run_profile(args):
    if (args.capture is not None or args.live) and args.geometry is not None:
        raise ValueError("--geometry cannot be chosen for a captured machine: it has its own")
    old = None if args.against is None else load_profile(args.against)
    check_plot(args.plot)
    if args.scale:
        return _run_scale(args)
    several = args.geometry or [geometry.X86_64]
    if len(several) > 1:
        return _run_geometries(args, several)
    capture = Capture.live() if args.live else Capture.load(args.capture) if args.capture is not None else None
    result = _profile(args, several[0], capture)
    if args.memmap:
        result["memmap"] = touch_memmap(result["nr_pages"])
    compared = [] if old is None else against(result, old, args.tolerance)
    if "-" not in (args.json, args.csv):
        more = [memmap_text(result["memmap"])] if args.memmap else []
        more += [against_text(compared, args.tolerance)] if old is not None else []
        sys.stdout.write(colored(profile_text(result, args.brief, more), sys.stdout))
    if old is not None:
        result["against"] = compared
    if args.plot is not None:
        from fastonline.cost.plots import plot_profile
        plot_profile(result, args.plot)
    _write(args, result, result["rows"] + result["calls"])
    zones = (result["capture"] or {"zones": []})["zones"]
    return 1 if any(zone["quiet"] and not zone["matches"] for zone in zones) or any(row["worse"] for row in compared) else 0


def _profile(args, of, capture=None):
    measure = profile if args.processes == 1 else partial(profile_processes, args.processes)
    return measure(
        geometry=of,
        section=args.section,
        rules=args.rules,
        engines=args.engine or ENGINES,
        orders=args.order,
        repeat=args.repeat,
        capture=capture,
        counters=HARDWARE if args.counters else None,
        cold=args.cold,
        progress=progress,
    )


def _run_geometries(args, several):
    for name in ("plot", "against"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} takes one geometry")
    results = [_profile(args, of) for of in several]
    if "-" not in (args.json, args.csv):
        sys.stdout.write(geometries_text(results))
    _write(
        args,
        results,
        [{"geometry": result["geometry"], **row} for result in results for row in result["rows"] + result["calls"]],
    )
    return 0


def _run_scale(args):
    result = scale(args.engine or ENGINES, repeat=min(args.repeat, 3), progress=progress)
    if "-" not in (args.json, args.csv):
        sys.stdout.write(scale_text(result))
    if args.plot is not None:
        from fastonline.cost.plots import plot_scale
        plot_scale(result, args.plot)
    _write(args, result, result["rows"])
    return 0


def _write(args, result, rows):
    """--json and --csv."""
    if args.json is not None:
        write_json(args.json, result)
    if args.csv is not None:
        text = io.StringIO()
        flat = [_flat(row) for row in rows]
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in flat for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        write_text(args.csv, text.getvalue())


def _flat(row):
    """A row without lists, its dicts as columns such as ns_min."""
    flat = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat.update({f"{key}_{name}": item for name, item in value.items() if not isinstance(item, (dict, list))})
        elif not isinstance(value, list):
            flat[key] = value
    return flat
