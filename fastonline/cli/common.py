"""Shared parts of the commands: argument types, sources of machines, output files, progress."""

import argparse
import json
import os
import shutil
import sys
import textwrap

from fastonline.figures import check_format
from fastonline.files import check_output, write_file
from fastonline.geometry import parse_size
from fastonline.linux.capture import Capture
from fastonline.linux.sources import Saved, read_source
from fastonline.rules import LINUX_6_12, PRESETS as RULES, by_name as rules_by_name


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def parse_known_args(self, args=None, namespace=None):
        """Unlike argparse's own, the command that does not know an argument says so, not the program."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def _print_message(self, message, file=None):
        """Unlike argparse's own, raise OSError when the message cannot be written: --help onto a full disk is a failure."""
        if message:
            (file or sys.stderr).write(message)


_BOLD, _RED, _YELLOW, _PLAIN = "\033[1m", "\033[31m", "\033[33m", "\033[0m"


def colored(text, stream):
    """Colour the text when the stream is a terminal: lines that end in "WORSE" red, those that begin with
    "Noisy" yellow, the first and the last line bold. NO_COLOR (https://no-color.org) or TERM=dumb: no colour."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    lines = text.rstrip("\n").split("\n")
    for i, line in enumerate(lines):
        color = _RED if line.endswith("WORSE") else _YELLOW if line.startswith("Noisy") else \
            _BOLD if i in (0, len(lines) - 1) else ""
        lines[i] = f"{color}{line}{_PLAIN}" if color else line
    return "\n".join(lines) + "\n"


def width():
    """Return the columns for a table: COLUMNS, or those of the terminal, or 80; at least 40."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def progress(steps):
    """Count the steps of a long run on a terminal, if tqdm is installed."""
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            return steps
        return tqdm(steps, leave=False, bar_format="{n_fmt}/{total_fmt} {elapsed} {bar}")
    return steps


def add_command(commands, name, summary, description, examples):
    """Add a command's parser and return it. examples: (command line, what it does) of each, for the end of --help."""
    longest = max(len(line) for line, _ in examples)
    return commands.add_parser(
        name, help=summary, description=textwrap.fill(description, 78),
        epilog="\n".join(["examples:", *(f"  {line:{longest}}  {what}".rstrip() for line, what in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


# -- arguments that several commands share

def checked(read):
    """An argparse type that shows the ValueError of `read`."""
    def argument(text):
        try:
            return read(text)
        except ValueError as e:
            raise argparse.ArgumentTypeError(str(e)) from None
    return argument


def size(text):
    """The text of a size such as 512M or 1.1G. The command knows to which unit a fraction is rounded."""
    checked(parse_size)(text)
    return text


def count(text):
    """Return a whole number of at least 1."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def output(text):
    """The path of a file to be written, checked before the work begins."""
    try:
        if text != "-":
            check_output(text)
    except OSError as e:
        raise argparse.ArgumentTypeError(f"{text}: {e.strerror}") from None
    return text


def add_plot(parser, what):
    """--plot FILE."""
    parser.add_argument(
        "--plot", type=output, metavar="FILE", help=f"draw {what} into FILE (.png, .svg, .pdf); needs matplotlib"
    )


def check_plot(path):
    """Check before the run that matplotlib is installed and knows the format."""
    if path is not None:
        check_format(path)


def add_source(parser, what):
    """FILE or --live: where a command finds a running kernel's pages."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("file", nargs="?", metavar="FILE", help=what)
    source.add_argument(
        "--live", action="store_true", help="the kernel that runs here (reads /proc/kpageflags: needs CAP_SYS_ADMIN)"
    )


def read(args):
    """Return the Source that add_source's arguments name. Print to standard error what could not be used."""
    source = Capture.live() if args.live else read_source(args.file)
    _remark(source.notes)
    return source


def add_rules(parser):
    """--rules VERSION, for machine_of."""
    parser.add_argument("--rules", type=checked(rules_by_name), metavar="VERSION",
                        help=f"kernel version whose rules the machine has ({', '.join(RULES)}; default: {LINUX_6_12.name})")


def machine_of(source, rules=None):
    """Return the Memory of a Source under `rules` (None: those of LINUX_6_12), and print its assumptions to standard error. A
    capture knows its movable pages."""
    if rules is not None and isinstance(source, Saved):
        raise ValueError(f"a saved machine keeps its rules, {source.machine().rules.name}: --rules is for other sources")
    more = {"movable": True} if isinstance(source, Capture) else {}
    mem = source.machine(rules=LINUX_6_12 if rules is None else rules, **more)
    _remark(source.assumptions)
    return mem


def read_machine(args):
    """Return the Memory that add_source's arguments name."""
    return machine_of(read(args), args.rules)


def _remark(lines):
    for line in lines:
        print(f"fastonline: {line}", file=sys.stderr)


def add_json(parser):
    """--json FILE."""
    parser.add_argument(
        "--json",
        type=output,
        metavar="FILE",
        help="write the figures as JSON to FILE, - for standard output instead of the text",
    )


def add_csv(parser, what):
    """--csv FILE."""
    parser.add_argument(
        "--csv", type=output, metavar="FILE", help=f"write {what} as CSV to FILE, - for standard output instead of the text"
    )


def write_json(path, value):
    """The value as JSON into a file, or to standard output for "-"."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path, text):
    """The text into a file, or to standard output for "-"."""
    if path == "-":
        sys.stdout.write(text)
    else:
        write_file(path, [text.encode()])
