"""What the commands share: argument types, where a machine is read from, where figures are written to, progress."""

import argparse
import json
import os
import sys

from fastonline import geometry
from fastonline.files import check_output, write_file
from fastonline.hotplug import savefile
from fastonline.hotplug.memory import load
from fastonline.linux.capture import Capture


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
    try:
        if text != "-":
            check_output(text)
    except OSError as e:
        raise argparse.ArgumentTypeError(f"{text}: {e.strerror}") from None
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
        write_file(path, [text.encode()])
