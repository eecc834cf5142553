"""The command line: the only place that prints.

Exit status: 0 done, 1 a check failed (a prediction that is not what the kernel said), 2 wrong use or input that cannot be read,
with one line on standard error; 130 after Ctrl-C, 141 when nobody reads the output any more.
"""

import argparse
import errno
import json
import os
import sys

from fastonline import __version__, geometry, rules
from fastonline.cost.counters import HARDWARE
from fastonline.cost.profile import profile
from fastonline.cost.report import profile_text
from fastonline.drivers import series
from fastonline.hotplug import savefile
from fastonline.hotplug.memory import ENGINES, load
from fastonline.linux.capture import Capture
from fastonline.linux.recording import replay_files
from fastonline.linux.sysfs import export_sysfs

INTERRUPTED, BROKEN_PIPE = 130, 141     # 128 + SIGINT, 128 + SIGPIPE, as a shell has it


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaint is one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def progress(steps):
    """The steps of a long run, counted on a terminal when tqdm is installed."""
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            return steps
        return tqdm(steps, leave=False, bar_format="{n_fmt}/{total_fmt} {elapsed} {bar}")
    return steps


# -- arguments that several commands share

def preset(table):
    """An argparse type that looks a name up in a table of presets."""
    def look_up(name):
        try:
            return table[name]
        except KeyError:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(table)}") from None
    return look_up


def size(text):
    """A size such as 512M, in bytes."""
    try:
        return geometry.parse_size(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def count(text):
    """A whole number of at least 1."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def output(text):
    """A file to be written: what stands in the way is said before the work is done, not after."""
    directory = os.path.dirname(text) or "."
    code = errno.EISDIR if os.path.isdir(text) else 0 if os.path.isdir(directory) else errno.ENOENT
    if code:
        raise argparse.ArgumentTypeError(f"{text}: {os.strerror(code)}")
    return text


def add_plot(parser, what):
    """--plot FILE."""
    parser.add_argument("--plot", type=output, metavar="FILE", help=f"draw {what} into FILE (.png, .svg, .pdf); needs matplotlib")


def check_plot(path):
    """Complain now, not after the run, when matplotlib is missing or has no format of that name."""
    if path is not None:
        from fastonline.cost.plots import check_format
        check_format(path)


def add_source(parser, what):
    """FILE or --live: where a command finds a running kernel's pages."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("file", nargs="?", metavar="FILE", help=what)
    source.add_argument("--live", action="store_true", help="the kernel that runs here (reads /proc/kpageflags: needs CAP_SYS_ADMIN)")


def read_machine(args):
    """The Memory that add_source's arguments mean."""
    if args.live:
        return Capture.live().machine()
    if os.path.isdir(args.file):
        return Capture.load(args.file).machine()
    kind = savefile.kind_of(args.file)
    if kind is None:
        raise ValueError(f"{args.file}: neither a saved machine nor a capture")
    return load(args.file) if kind == "machine" else Capture.load(args.file).machine()


def add_json(parser):
    """--json FILE."""
    parser.add_argument("--json", type=output, metavar="FILE", help="write the figures as JSON to FILE, - for standard output instead of the text")


def write_json(path, value):
    """The value as JSON into a file, or to standard output for "-"."""
    text = json.dumps(value, indent=1) + "\n"
    if path == "-":
        sys.stdout.write(text)
    else:
        with open(path, "w") as file:
            file.write(text)


# -- the commands: each adds its parser; its function gets the arguments and returns the exit status

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


def add_show(commands):
    parser = commands.add_parser(
        "show",
        help="the kernel's own texts of a machine",
        description="Print buddyinfo, zoneinfo, pagetypeinfo or lsmem of a saved machine, of a capture, or of the running kernel, "
        "as its page map gives them.",
    )
    parser.add_argument("what", choices=("buddyinfo", "zoneinfo", "pagetypeinfo", "lsmem"))
    add_source(parser, "a machine that Memory.save wrote, or a capture")
    parser.set_defaults(run=run_show)


def run_show(args):
    sys.stdout.write(getattr(read_machine(args), args.what)())
    return 0


def add_capture(commands):
    parser = commands.add_parser(
        "capture",
        help="save the running kernel's page map and zones",
        description="Save the page map and the zones of the kernel that runs here to FILE. Reads /proc/kpageflags: needs "
        "CAP_SYS_ADMIN.",
    )
    parser.add_argument("file", type=output, metavar="FILE")
    parser.set_defaults(run=run_capture)


def run_capture(args):
    capture = Capture.live()
    capture.save(args.file)
    busy = [f"node {nid} zone {name}" for (nid, name), quiet in capture.quiet.items() if not quiet]
    if busy:
        print(f"{args.file}: page map and buddyinfo may differ in {', '.join(busy)}: pages came and went meanwhile", file=sys.stderr)
    return 0


def add_replay(commands):
    parser = commands.add_parser(
        "replay",
        help="replay recordings of real kernels and print where the prediction and the kernel differ",
        description="Replay recordings of real kernels, a line a step. Exit status 1 when a prediction differs from what the "
        "kernel did.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument(
        "--engine", choices=ENGINES, default="struct_page",
        help="(struct_page, whose free lists are the kernel's: bitmap finds other free pages after long use)",
    )
    parser.add_argument("--json", action="store_true", help="a JSON object a step instead of text")
    parser.set_defaults(run=run_replay)


def run_replay(args):
    total = 0
    for line, differences in replay_files(args.files, args.engine, args.json):
        print(line)
        total += differences
    return 1 if total else 0


def add_sysfs(commands):
    parser = commands.add_parser(
        "sysfs",
        help="write the /sys tree of a machine that lsmem --sysroot reads",
        description="Write below DIR the /sys tree of a saved machine, of a capture or of the running kernel's page map, as "
        "util-linux reads it: lsmem --sysroot DIR.",
    )
    parser.add_argument("directory", metavar="DIR")
    add_source(parser, "a machine that Memory.save wrote, or a capture")
    parser.set_defaults(run=run_sysfs)


def run_sysfs(args):
    export_sysfs(read_machine(args), args.directory)
    return 0


def add_balloon(commands):
    parser = commands.add_parser(
        "balloon",
        help="run one driver through a series of targets",
        description="Run one driver of a guest through a series of targets, on a host with a finite pool of frames, and print "
        "target against actual size, the host's pages, its calls and the time.",
    )
    series.add_arguments(parser)
    add_json(parser)
    add_plot(parser, "target and actual size")
    parser.set_defaults(run=run_balloon)


def run_balloon(args):
    check_plot(args.plot)
    result = series.from_arguments(args, progress)
    if args.json != "-":
        print(result)
    if args.json is not None:
        write_json(args.json, result.as_dict())
    if args.plot is not None:
        result.plot(args.plot)
    return 0


COMMANDS = (add_profile, add_show, add_capture, add_replay, add_sysfs, add_balloon)


def make_parser():
    """The parser of the whole command line."""
    parser = Parser(prog="fastonline", description="Memory onlining the way Linux does it, and what it costs.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return parser


def main(argv=None):
    """Run one command; returns the exit status."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:      # closed before the start
            setattr(sys, name, open(os.devnull, "w"))
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")      # whatever a file's texts hold
    try:
        try:
            args = make_parser().parse_args(argv)
            return args.run(args)
        finally:
            sys.stdout.flush()      # a broken pipe shows here, not when the interpreter exits
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        unread(sys.stdout)
        return BROKEN_PIPE
    except (ImportError, MemoryError, OSError, OverflowError, ValueError) as e:
        try:
            print(f"fastonline: {describe(e)}", file=sys.stderr)
        except BrokenPipeError:
            unread(sys.stderr)
        return 2


def unread(stream):
    """Nobody reads it any more: what is still buffered goes nowhere, so that the interpreter does not complain when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def describe(error):
    """An exception in one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    return text or type(error).__name__
