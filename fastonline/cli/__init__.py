"""The command line: the only place that prints. One file per command; each adds its parser and returns the exit status.

Exit status: 0 done, 1 a check failed (a prediction differs from the kernel's values), 2 wrong use or input that cannot be read,
with one line on standard error; 141 when the reader of the output is gone. Ctrl-C ends the process by SIGINT: a
shell shows 130, and its loop ends too.
"""

import argparse
import os
import sys

from fastonline.cli.balloon import add_balloon
from fastonline.cli.common import Parser
from fastonline.cli.compare import add_compare
from fastonline.cli.profile import add_profile
from fastonline.cli.replay import add_replay
from fastonline.cli.show import add_capture, add_show, add_sysfs
from fastonline.cli.sweep import add_sweep
from fastonline.cost.provenance import provenance
from fastonline.ctrl_c import end_by_sigint, raise_keyboard_interrupt

INTERRUPTED, BROKEN_PIPE = 130, 141     # 128 + SIGINT, 128 + SIGPIPE, as a shell has it

COMMANDS = (add_profile, add_show, add_capture, add_replay, add_sysfs, add_balloon, add_compare, add_sweep)


class ShowVersion(argparse.Action):
    """--version: the version, and what a report of a fault needs beside it."""

    def __call__(self, parser, namespace, values, option_string=None):
        found = provenance()
        print(f"fastonline {found['fastonline']}")
        if found["commit"]:
            print(f"commit {found['commit']}")
        print(f"Python {found['python']}, NumPy {found['numpy']}, Cython {found['cython']}, {found['compiler']}")
        print(f"{found['cpu']}, {found['cpus']} CPUs, {found['variant']} kernels, Linux {found['kernel']}")
        parser.exit()


def make_parser():
    """The parser of the whole command line."""
    parser = Parser(prog="fastonline", description="Simulate Linux memory hotplug, and measure what each step costs.")
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="show the version and what it was built with, and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return parser


def complete(parser):
    """Answer the shell's request for completions and exit, when there is one and argcomplete is installed."""
    if "_ARGCOMPLETE" in os.environ:
        try:
            import argcomplete
        except ImportError:
            return
        argcomplete.autocomplete(parser)


def command():
    """Run one command as a program. Returns the exit status; after Ctrl-C the process ends by SIGINT."""
    raise_keyboard_interrupt()
    status = main()
    if status == INTERRUPTED:
        end_by_sigint()
    return status


def main(argv=None):
    """Run one command; returns the exit status."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:      # closed before the start
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (for the process)
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")      # whatever a file's texts hold
    try:
        try:
            parser = make_parser()
            complete(parser)
            args = parser.parse_args(argv)
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
            sys.stdout.flush()
        except OSError:
            unread(sys.stdout)
        try:
            print(f"fastonline: {describe(e)}", file=sys.stderr)
        except BrokenPipeError:
            unread(sys.stderr)
        return 2


def unread(stream):
    """Nobody reads it any more: what is still buffered goes nowhere, so that the interpreter does not complain when it
    exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def describe(error):
    """An exception in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    return text or type(error).__name__
