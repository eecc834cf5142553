"""``fastonline show``, ``capture`` and ``sysfs``: the state of a machine, and questions about it."""

import argparse
import re
import sys
import time
from dataclasses import asdict

from fastonline.cli.common import (
    add_command,
    add_json,
    add_rules,
    add_source,
    count,
    machine_of,
    output,
    read,
    read_machine,
    write_json,
)
from fastonline.core.pageflags import decode_page_flags
from fastonline.core.runs import equal_runs
from fastonline.hotplug import questions
from fastonline.hotplug.procfs import LSMEM_STYLES
from fastonline.hotplug.summary import ZONE_COLUMNS
from fastonline.hotplug.zonelists import kernel_zonelist, movable_zonelist
from fastonline.linux.capture import Capture
from fastonline.linux.snapshot import Snapshot
from fastonline.linux.sysfs import export_sysfs
from fastonline.tables import short, table

SOURCES = "a saved machine, a capture, a /sys tree or sosreport, or a log of Mem-Info, buddyinfo, zoneinfo or page-types -l"


def add_show(commands):
    parser = add_command(
        commands, "show", "print the state of a machine, or answer a question about it",
        "Print the state of a machine, or answer a question about it. The machine is not changed.",
        (("fastonline show summary --live", "the running kernel, as root"),
         ("fastonline show lsmem /path/to/sosreport", "any source of a machine"),
         ("fastonline show pages 0x100000-0x1003ff CAPTURE", "decoded page flags"),
         ("fastonline show offlineable CAPTURE", "what can go offline")),
    )
    kinds = parser.add_subparsers(metavar="WHAT", required=True)
    for name, (helped, _) in (FIGURES | TEXTS | QUESTIONS).items():
        what = f"{name} 0x100000-0x1003ff" if name == "pages" else name
        examples = ((f"fastonline show {what} CAPTURE", ""), (f"fastonline show {what} --live", "as root"))
        one = add_command(kinds, name, helped, f"Print {helped}.", examples)
        if name == "pages":
            one.add_argument("range", type=_pfn_range, metavar="FROM-TO", help="page frames, such as 0x100000-0x1003ff")
        if name == "lsmem":
            one.add_argument("--style", default=LSMEM_STYLES[0], metavar="VERSION",
                             help=f"of util-linux: {', '.join(LSMEM_STYLES)} or later ({LSMEM_STYLES[0]})")
        add_source(one, SOURCES)
        add_rules(one)
        if name not in TEXTS:
            add_json(one)
        if name not in QUESTIONS:
            one.add_argument("--watch", type=_seconds, metavar="S", help="print it again every S seconds, until Ctrl-C")
            one.add_argument("--count", type=count, metavar="N", help="with --watch: N times")
        one.set_defaults(run=run_question if name in QUESTIONS else run_text, what=name)


def _pfn_range(text):
    """(first pfn, number of pages) of a text such as 0x100000-0x1003ff."""
    match = re.fullmatch(r"(0x[0-9a-fA-F]{1,13}|\d{1,15})(?:-(0x[0-9a-fA-F]{1,13}|\d{1,15}))?", text)
    first, last = (int(match[1], 0), int(match[2] or match[1], 0)) if match else (1, 0)
    if last < first:
        raise argparse.ArgumentTypeError(f"invalid range {text!r} (expected FROM-TO, such as 0x100000-0x1003ff)")
    return first, last - first + 1


def _seconds(text):
    """A time of at least 0.1 s."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds < 1e6:
        raise argparse.ArgumentTypeError(f"invalid time {text!r} (expected seconds, at least 0.1)")
    return seconds


def run_text(args):
    done = 0
    while True:
        text = _text(args)
        if args.watch is not None and sys.stdout.isatty():
            text = "\x1b[H\x1b[2J" + text
        elif done and text:
            text = "\n" + text
        sys.stdout.write(text)
        done += 1
        if args.watch is None or done == args.count:
            return 0
        sys.stdout.flush()
        time.sleep(args.watch)


def _text(args):
    source = read(args)
    if isinstance(source, Snapshot) and args.what == "buddyinfo":
        return source.buddyinfo()
    if args.what == "lsmem" and (isinstance(source, Snapshot) or isinstance(source, Capture) and source.blocks):
        return source.lsmem(args.style)
    if args.what in TEXTS:
        return TEXTS[args.what][1](machine_of(source, args.rules), args)
    figures, text = FIGURES[args.what][1](machine_of(source, args.rules), args)
    if args.json is not None:
        write_json(args.json, figures)
    return "" if args.json == "-" else text


def run_question(args):
    source = read(args)
    answer, lines = QUESTIONS[args.what][1](machine_of(source, args.rules), source)
    if args.json != "-":
        print("\n".join(lines))
    if args.json is not None:
        write_json(args.json, [asdict(one) for one in answer] if isinstance(answer, list) else asdict(answer))
    return 0


# -- the state of a machine

def _summary(mem, args):
    """Memory blocks, zones and free blocks by order."""
    figures = {
        "geometry": mem.geometry.name, "rules": mem.rules.name, "page_size": mem.geometry.page_size,
        "min_free_kbytes": mem.min_free_kbytes, "pages_per_block": mem.pages_per_block,
        "blocks": [{"nr": block.nr, "state": block.state} for block in mem.blocks.values()],
        "zones": [
            {"nid": zone.nid, "name": zone.name, **{name: getattr(zone, name) for name in ZONE_COLUMNS},
             "nr_free": list(zone.nr_free)}
            for zone in mem.zones if zone.populated
        ],
    }
    return figures, mem.summary()


def _pages(mem, args):
    """Runs of pages alike in flags and zone, a line each."""
    (start, nr), step, rows = args.range, 1 << 18, []
    if start + nr > mem.max_pfn:
        raise ValueError(f"page {start + nr - 1:#x} is past the end of memory, {mem.max_pfn:#x}")
    for at in range(start, start + nr, step):
        states = mem.page_states(at, min(step, start + nr - at))
        for first, pages in equal_runs(states):
            zone = mem.zone_of(at + first)
            name = f"{zone.nid}/{zone.name}" if zone else "-"
            flags = decode_page_flags(int(states[first]))
            if rows and rows[-1][1] == at + first and rows[-1][2:] == (flags, name):
                rows[-1] = (rows[-1][0], at + first + pages, flags, name)
            else:
                rows.append((at + first, at + first + pages, flags, name))
    figures = [
        {"start_pfn": first, "nr_pages": end - first, "zone": None if name == "-" else name, "flags": flags}
        for first, end, flags, name in rows
    ]
    lines = table(
        [("pages", "number", "zone", "flags")]
        + [(f"{first:#x}-{end - 1:#x}", str(end - first), name, flags) for first, end, flags, name in rows], "<><<",
    )
    return figures, "\n".join(lines) + "\n"


def _zonelists(mem, args):
    """The order in which each node's allocations try the zones."""
    names, figures, lines = mem.zones.names, [], []
    for nid in mem.nodes:
        for what, zonelist in (("kernel", kernel_zonelist(mem, nid)), ("movable", movable_zonelist(mem, nid))):
            order = [f"{nr // len(names)}/{names[nr % len(names)]}" for nr in zonelist]
            figures.append({"nid": nid, "allocations": what, "zones": order})
            lines.append(f"node {nid} {what:<7} {' '.join(order) or '-'}\n")
    return figures, "".join(lines)


TEXTS = {
    "buddyinfo": ("/proc/buddyinfo", lambda mem, args: mem.buddyinfo()),
    "zoneinfo": ("/proc/zoneinfo", lambda mem, args: mem.zoneinfo()),
    "pagetypeinfo": ("/proc/pagetypeinfo", lambda mem, args: mem.pagetypeinfo()),
    "iomem": ("/proc/iomem", lambda mem, args: mem.resources.text()),
    "lsmem": ("util-linux's lsmem", lambda mem, args: mem.lsmem(args.style)),
}
"""Texts in a format of the kernel or of util-linux."""

FIGURES = {
    "summary": ("memory blocks, zones with bars, and free blocks by order", _summary),
    "zonelists": ("the zones that allocations try, in their order", _zonelists),
    "pages": ("page flags of a range of page frames", _pages),
}
"""What has a format of our own: (figures for JSON, text)."""


# -- questions about it

def _offlineable(mem, source):
    answers = questions.offlineable(mem)
    rows, runs = [("blocks", "can", "page", "why not")], []
    for answer in answers:
        what = (answer.can, None if answer.can else answer.pfn, answer.reason)
        if runs and runs[-1][1] == answer.block - 1 and runs[-1][2] == what:
            runs[-1][1] = answer.block
        else:
            runs.append([answer.block, answer.block, what])
    for first, last, (can, pfn, why) in runs:
        reason = why
        if isinstance(source, Capture) and reason and pfn is not None:
            reason += f" ({source.page_flags(pfn)})"
        blocks = f"{first}-{last}" if last > first else f"{first}"
        reason = reason if len(reason) <= 56 else f"{reason[:53]}..."
        rows.append((blocks, "yes" if can else "no", "" if pfn is None else f"{pfn:#x}", reason))
    able = sum(answer.can for answer in answers)
    return answers, [*table(rows, ">><<"), f"{able} of {len(answers)} memory blocks can go offline, each by itself"]


def _growable(mem, source):
    growth = questions.growable(mem)
    block = growth.block // mem.geometry.page_size
    lines = [
        f"page descriptors of a block of {short(growth.block)}: {short(growth.memmap)}; room for them: {short(growth.room)}",
        f"at once                        {short(growth.at_once):>8}",
        f"step by step, online_kernel    {short(growth.online_kernel):>8}",
        f"step by step, online_movable   {short(growth.online_movable):>8}",
        "accepted ranges" + (" (a capture knows of no devices that may be there):" if isinstance(source, Capture) else ":"),
    ]
    page = mem.geometry.page_size
    for start, nr in growth.ranges:
        lines.append(f"  {start * page:#018x}-{(start + nr) * page - 1:#018x} {short(nr * page):>8} {nr // block:>9} blocks")
    return growth, lines


def _shrinkable(mem, source):
    found = questions.shrinkable(mem)
    rows = [("way", "unit", "units", "size then")]
    rows += [(one.way, short(one.unit), str(one.units), short(one.size)) for one in found]
    return found, table(rows, "<>>>")


def _hugepages(mem, source):
    found = questions.huge_pages(mem)
    rows = [("size", "now", "after migration")]
    return found, table(rows + [(short(one.size), str(one.now), str(one.migrated)) for one in found], ">>>")


def _accounting(mem, source):
    found, page = questions.accounting(mem), mem.geometry.page_size
    rows = [("", "pages", "size", "")]
    for name, pages, why in found.rows():
        rows.append((name, str(pages), ("-" if pages < 0 else "") + short(abs(pages) * page), why))
    return found, table(rows, "<>><")


QUESTIONS = {
    "offlineable": ("which memory blocks can go offline, and what is in the way of the others", _offlineable),
    "growable": ("how much memory can be hot-added, and where", _growable),
    "shrinkable": ("how small the guest can get, with blocks, virtio-mem and a balloon", _shrinkable),
    "hugepages": ("how many 2 MiB and 1 GiB pages there are, now and after migration", _hugepages),
    "accounting": ("the figures of host and guest, and why they differ", _accounting),
}


# -- capture and sysfs

def add_capture(commands):
    parser = add_command(
        commands, "capture", "save the running kernel's page map and zones",
        "Save the page map and the zones of the running kernel to FILE. It reads /proc/kpageflags and needs CAP_SYS_ADMIN.",
        (("sudo fastonline capture here", ""), ("fastonline profile --capture here", "online a section after its memory")),
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
    parser = add_command(
        commands, "sysfs", "write the /sys tree of a machine for lsmem --sysroot",
        "Write the /sys tree of a machine below DIR, as util-linux reads it.",
        (("fastonline sysfs tree CAPTURE", ""), ("lsmem --sysroot tree", "of util-linux")),
    )
    parser.add_argument("directory", metavar="DIR")
    add_source(parser, SOURCES)
    add_rules(parser)
    parser.set_defaults(run=run_sysfs)


def run_sysfs(args):
    export_sysfs(read_machine(args), args.directory)
    return 0
