"""``fastonline balloon``: one driver through a series of targets."""

import os
import re

from fastonline.cli.common import add_command, add_json, add_plot, check_plot, checked, progress, width, write_json
from fastonline.drivers.series import DRIVERS, parse_targets, run_series
from fastonline.drivers.table import read_targets
from fastonline.drivers.xen import BEHAVIOURS
from fastonline.geometry import S390X, X86_32_PAE, X86_64, by_name as geometry_by_name
from fastonline.hotplug.memory import ENGINES, MEMMAPS
from fastonline.rules import LINUX_2_6_25, LINUX_6_12, by_name as rules_by_name


def add_balloon(commands):
    parser = add_command(
        commands, "balloon", "run one driver through a series of targets",
        "Run the memory driver of a guest through a series of targets, on a host with a finite pool of frames. Print target "
        "and actual size, free memory of the host, calls to the host and times.",
        (("fastonline balloon xen 512M,1.5G,700M", "three targets, one a minute"),
         ("fastonline balloon virtio-mem 2G --block-size 4M", "blocks of 4 MiB"),
         ("fastonline balloon dimm 2G --udev-delay 0.5", "memory goes online later"),
         ("fastonline balloon virtio sizes.csv --plot a.svg", "targets from a file")),
    )
    add_arguments(parser)
    add_json(parser)
    add_plot(parser, "target and actual size")
    parser.set_defaults(run=run_balloon)


def add_arguments(parser):
    """Add what from_arguments reads."""
    # -1G is a wrong size, not an option
    parser._negative_number_matcher = re.compile(r"-\.?\d")
    parser.add_argument("driver", choices=tuple(DRIVERS))
    parser.add_argument("targets", metavar="TARGETS",
                        help="sizes such as 1G,1.5G,768M, one a minute, or a CSV file with columns of time and size")
    parser.add_argument("--column", metavar="NAME",
                        help="column of the sizes in the CSV file (default: target, size, or the only one)")
    parser.add_argument("--time-column", metavar="NAME", help="column of the times (default: time, timestamp, or the first)")
    parser.add_argument("--behaviour", metavar="NAME",
                        help=f"xen: {', '.join(BEHAVIOURS)} (default: 6.18); cmm: cmm1, cmm2 (default: cmm1)")
    parser.add_argument("--order", type=int, metavar="N", help="xen: balloon in blocks of 2^N pages (default: 0)")
    parser.add_argument("--batch", type=int, metavar="N", help="xen: blocks in one hypercall (default: a page of longs)")
    parser.add_argument("--reporting", action="store_true", default=None, help="virtio: report free blocks to the host")
    parser.add_argument("--block-size", metavar="SIZE", help="virtio-mem: block size of the device (default: a pageblock)")
    parser.add_argument("--geometry", type=checked(geometry_by_name), metavar="NAME",
                        help="of the guest (default: X86_64; xen thread and 2.6.26: X86_32_PAE; cmm: S390X)")
    parser.add_argument("--rules", type=checked(rules_by_name), metavar="VERSION",
                        help="kernel version of the guest (default: 6.12; xen thread and 2.6.26: 2.6.25)")
    parser.add_argument("--engine", choices=ENGINES, default="bitmap", help="(default: bitmap)")
    parser.add_argument("--boot", metavar="SIZE", default="1G", help="boot memory of the guest (default: 1G)")
    parser.add_argument("--host", metavar="SIZE", default="4G", help="memory of the host (default: 4G)")
    parser.add_argument("--memmap", choices=MEMMAPS,
                        help="where page descriptors of added memory lie (default: they take no memory)")
    parser.add_argument("--memory-block-size", metavar="SIZE", help="size of a memory block of the guest (default: a section)")
    parser.add_argument("--max-memory", metavar="SIZE", help="the host's limit for the guest (default: none)")
    parser.add_argument("--scattered", action="store_true", help="the host gives frames in random order")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of that order (default: 0)")
    parser.add_argument("--call-ns", type=float, default=0, metavar="NS", help="cost of each call to the host, ns (default: 0)")
    parser.add_argument("--udev-delay", type=float, metavar="S",
                        help="seconds until user space onlines added memory (default: the kernel onlines it immediately)")


def run_balloon(args):
    check_plot(args.plot)
    result = from_arguments(args, progress)
    if args.plot is not None:
        result.plot(args.plot)
    if args.json is not None:
        write_json(args.json, result.as_dict())
    if args.json != "-":
        print(result.text(width()))
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
