"""``fastonline profile``: what onlining one section costs."""

import sys

from fastonline import geometry, rules
from fastonline.cli.common import add_json, add_plot, check_plot, count, preset, progress, size, write_json
from fastonline.cost.counters import HARDWARE
from fastonline.cost.profile import profile
from fastonline.cost.report import profile_text
from fastonline.hotplug.memory import ENGINES
from fastonline.linux.capture import Capture


def add_profile(commands):
    parser = commands.add_parser(
        "profile",
        help="what onlining one section costs",
        description="Measure what onlining one section costs: as a whole, page by page upward and in random order, in a balloon "
        "driver's batches of 512, and by online_pages; engine by engine and phase by phase. Without options: 512 MiB (four "
        "sections of X86_64, rules of Linux 6.12) behind 1 GiB of boot memory, on both engines. The case of the 2008 thread, "
        "one 512 MiB section of a 32-bit PAE guest: --geometry X86_32_PAE --rules 2.6.25",
    )
    parser.add_argument("--geometry", type=preset(geometry.PRESETS), metavar="NAME", help=f"{', '.join(geometry.PRESETS)} (X86_64)")
    parser.add_argument("--section", type=size, default="512M", metavar="SIZE", help="how much goes online; whole sections (512M)")
    parser.add_argument("--rules", type=preset(rules.PRESETS), default="6.12", metavar="VERSION",
                        help=f"the kernel that is mirrored: {', '.join(rules.PRESETS)} (6.12)")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="only this engine; may be given again (both)")
    parser.add_argument("--order", type=int, action="append", metavar="N",
                        help="largest block handed to the allocator at a time when the whole goes online; may be given again "
                        "(the rules': 0 in 2.6.25, MAX_PAGE_ORDER today)")
    parser.add_argument("--repeat", type=count, default=50, metavar="N", help="measure each workload so often (50)")
    parser.add_argument("--counters", action="store_true", help="count cycles, instructions, cache and branch misses too (perf "
                        "events), in further runs; says so where the machine has none")
    add_json(parser)
    add_plot(parser, "the figures")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--capture", metavar="FILE", help="start from a captured machine's pages, online a section behind them, "
                       "and say whether the predicted buddyinfo is the kernel's")
    start.add_argument("--live", action="store_true", help="the same from the kernel that runs here")
    parser.set_defaults(run=run_profile)


def run_profile(args):
    capture = Capture.live() if args.live else Capture.load(args.capture) if args.capture is not None else None
    if capture is not None and args.geometry is not None:
        raise ValueError("--geometry cannot be chosen for a captured machine: it has its own")
    check_plot(args.plot)
    result = profile(
        geometry=args.geometry or geometry.X86_64, section=args.section, rules=args.rules, engines=args.engine or ENGINES,
        orders=args.order, repeat=args.repeat, capture=capture, counters=HARDWARE if args.counters else None, progress=progress,
    )
    if args.json != "-":
        sys.stdout.write(profile_text(result))
    if args.json is not None:
        write_json(args.json, result)
    if args.plot is not None:
        from fastonline.cost.plots import plot_profile
        plot_profile(result, args.plot)
    compared = result["capture"] or {"zones": []}
    return 1 if any(zone["quiet"] and not zone["matches"] for zone in compared["zones"]) else 0
