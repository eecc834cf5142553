"""``fastonline show``, ``capture`` and ``sysfs``: the state of a machine, as the kernel's own files give it."""

import sys

from fastonline.cli.common import add_source, machine_of, output, read, read_machine
from fastonline.linux.capture import Capture
from fastonline.linux.snapshot import Snapshot
from fastonline.linux.sysfs import export_sysfs

SOURCES = "a saved machine, a capture, a /sys tree or sosreport, or a log of Mem-Info, buddyinfo, zoneinfo or page-types -l"


def add_show(commands):
    parser = commands.add_parser(
        "show",
        help="the kernel's own texts of a machine",
        description="Print buddyinfo, zoneinfo, pagetypeinfo or lsmem of a saved machine, of a capture, or of the running kernel, "
        "as its page map gives them.",
    )
    parser.add_argument("what", choices=("buddyinfo", "zoneinfo", "pagetypeinfo", "lsmem"))
    add_source(parser, SOURCES)
    parser.set_defaults(run=run_show)


def run_show(args):
    source = read(args)
    told = isinstance(source, Snapshot) and args.what in ("buddyinfo", "lsmem")
    sys.stdout.write(getattr(source if told else machine_of(source), args.what)())
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
    for note in capture.assumptions:
        print(f"{args.file}: {note}", file=sys.stderr)
    return 0


def add_sysfs(commands):
    parser = commands.add_parser(
        "sysfs",
        help="write the /sys tree of a machine that lsmem --sysroot reads",
        description="Write below DIR the /sys tree of a saved machine, of a capture or of the running kernel's page map, as "
        "util-linux reads it: lsmem --sysroot DIR.",
    )
    parser.add_argument("directory", metavar="DIR")
    add_source(parser, SOURCES)
    parser.set_defaults(run=run_sysfs)


def run_sysfs(args):
    export_sysfs(read_machine(args), args.directory)
    return 0
