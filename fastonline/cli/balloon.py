"""``fastonline balloon``: one driver through a series of targets."""

import os
import re

from fastonline.cli.common import add_json, add_plot, check_plot, checked, progress, width, write_json
from fastonline.drivers.series import DRIVERS, parse_targets, run_series
from fastonline.drivers.table import read_targets
from fastonline.drivers.xen import BEHAVIOURS
from fastonline.geometry import S390X, X86_32_PAE, X86_64, by_name as geometry_by_name
from fastonline.hotplug.memory import ENGINES, MEMMAPS
from fastonline.rules import LINUX_2_6_25, LINUX_6_12, by_name as rules_by_name


def add_balloon(commands):
    parser = commands.add_parser(
        "balloon",
        help="run one driver through a series of targets",
        description="Run one driver of a guest through a series of targets, on a host with a finite pool of frames, and print "
        "target against actual size, the host's pages, its calls and the time.",
    )
    add_arguments(parser)
    add_json(parser)
    add_plot(parser, "target and actual size")
    parser.set_defaults(run=run_balloon)


def add_arguments(parser):
    """Add what from_arguments reads."""
    # -1G is a wrong size, no option
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    parser.add_argument("driver", choices=tuple(DRIVERS))
    parser.add_argument("targets", metavar="TARGETS",
                        help="sizes such as 1G,1.5G,768M, one a minute, or a CSV file with columns of time and size")
    parser.add_argument("--column", metavar="NAME", help="of the CSV file's sizes (target, size, or the only one)")
    parser.add_argument("--time-column", metavar="NAME", help="of its times (time, timestamp, or the first one)")
    parser.add_argument("--behaviour", metavar="NAME", help=f"xen: {', '.join(BEHAVIOURS)} (6.18); cmm: cmm1, cmm2 (cmm1)")
    parser.add_argument("--order", type=int, metavar="N", help="xen: balloon in blocks of 2^N pages (0)")
    parser.add_argument("--batch", type=int, metavar="N", help="xen: blocks a hypercall (a page of longs)")
    parser.add_argument("--reporting", action="store_true", default=None, help="virtio: the host is told of free blocks")
    parser.add_argument("--block-size", metavar="SIZE", help="virtio-mem: of the device's blocks (a pageblock)")
    parser.add_argument("--geometry", type=checked(geometry_by_name), metavar="NAME",
                        help="the guest's (xen thread, 2.6.26: X86_32_PAE; cmm: S390X; else X86_64)")
    parser.add_argument("--rules", type=checked(rules_by_name), metavar="VERSION",
                        help="the guest's kernel (xen thread, 2.6.26: 2.6.25; else 6.12)")
    parser.add_argument("--engine", choices=ENGINES, default="bitmap")
    parser.add_argument("--boot", metavar="SIZE", default="1G", help="what the guest boots with (1G)")
    parser.add_argument("--host", metavar="SIZE", default="4G", help="the host's memory (4G)")
    parser.add_argument("--memmap", choices=MEMMAPS, help="who pays for the descriptors of added memory (nobody)")
    parser.add_argument("--memory-block-size", metavar="SIZE", help="of the guest's memory blocks (a section)")
    parser.add_argument("--max-memory", metavar="SIZE", help="what the host allows the guest (no limit)")
    parser.add_argument("--scattered", action="store_true", help="the host hands its frames out in random order")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of that order (0)")
    parser.add_argument("--call-ns", type=float, default=0, metavar="NS", help="what each call to the host costs (0)")
    parser.add_argument("--udev-delay", type=float, metavar="S",
                        help="seconds until user space onlines added memory (default: the kernel onlines it at once)")


def run_balloon(args):
    check_plot(args.plot)
    result = from_arguments(args, progress)
    if args.json != "-":
        print(result.text(width()))
    if args.json is not None:
        write_json(args.json, result.as_dict())
    if args.plot is not None:
        result.plot(args.plot)
    return 0


def from_arguments(args, progress=None):
    """The Series that the arguments ask for."""
    old = args.driver == "xen" and args.behaviour in ("thread", "2.6.26")
    geometry = args.geometry or (X86_32_PAE if old else S390X if args.driver == "cmm" else X86_64)
    options = ("behaviour", "order", "batch", "reporting", "block_size")
    given = {name: value for name in options if (value := getattr(args, name)) is not None}
    is_file = args.targets.endswith(".csv") or os.path.exists(args.targets)
    targets = read_targets(args.targets, args.column, args.time_column) if is_file else parse_targets(args.targets)
    return run_series(
        args.driver, targets, geometry, args.rules or (LINUX_2_6_25 if old else LINUX_6_12), args.boot, args.host,
        engine=args.engine, max_memory=args.max_memory, scattered=args.scattered, seed=args.seed, call_ns=args.call_ns,
        udev_delay=args.udev_delay, memmap=args.memmap, memory_block_size=args.memory_block_size, progress=progress, **given,
    )
