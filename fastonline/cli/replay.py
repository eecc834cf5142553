"""``fastonline replay``: predictions held against recordings of real kernels."""

import json
from collections import Counter

from fastonline.cli.common import add_command, width
from fastonline.hotplug.memory import ENGINES
from fastonline.linux.compare import NOT_COMPARED, concern
from fastonline.linux.recording import Recording
from fastonline.linux.sources import names_trace
from fastonline.linux.trace import replay_trace
from fastonline.tables import wrapped


def add_replay(commands):
    parser = add_command(
        commands, "replay", "replay recordings of real kernels and print where the prediction and the kernel differ",
        "Replay recordings of real kernels: print a line for each step, then a table and what is not compared. Exit status 1 "
        "when a prediction differs from what the kernel did. A FILE may also be a trace of mm_page_alloc and mm_page_free, as "
        "ftrace and perf script print it: it is replayed against the allocator.",
        (("fastonline replay -q tests/data/recordings/S1*.json", "only the table"),
         ("fastonline replay --json S1.json", "JSON, one line per step"),
         ("fastonline replay trace.txt", "a trace of allocations")),
    )
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument(
        "--engine", choices=ENGINES, default="struct_page",
        help="(default: struct_page, which has the kernel's free lists; bitmap allocates other pages after long use)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON object for each step instead of text")
    form.add_argument("-q", "--quiet", action="store_true", help="print only the table")
    parser.set_defaults(run=run_replay)


def run_replay(args):
    total, rows, engine = 0, [], args.engine
    loaded = [(path, None if names_trace(path) else Recording.load(path)) for path in args.files]
    for recording in [recording for _, recording in loaded if recording is not None]:
        row = {"recording": recording.name, "steps": 0, "values": 0, "differences": 0, "concern": Counter(), "unreplayed": 0}
        for step in recording.replay(engine):
            if args.json:
                print(as_json(recording.name, step))
            elif not args.quiet:
                print(f"{recording.name} step {step.index} {step.op}: {verdict(step)}")
            row["steps"] += 1
            row["values"] += step.compared
            row["differences"] += len(step.differences)
            row["concern"].update(concern(what) for what, _, _ in step.differences)
            row["unreplayed"] += not step.replayed
        rows.append(row)
        total += row["differences"]
    if rows and not args.json:
        for line in table(rows):
            print(line)
        if not args.quiet:
            print("\nNot compared:")
            for text in NOT_COMPARED:
                print(f"- {text}")
    for path, recording in loaded:
        if recording is None:
            replayed = replay_trace(path, engine=engine)
            print(json.dumps(replayed.as_dict()) if args.json else str(replayed), end="\n" if args.json else "")
    return 1 if total else 0


def verdict(step):
    """The outcome of a step, in one line."""
    text = "; ".join(f"{what}: predicted {ours}, recorded {real}" for what, ours, real in step.differences) or "ok"
    for what, ours, real in step.remarks:
        text += f"; remark: {what}: predicted {_plain(ours)}, recorded {_plain(real)}"
    return text + ("" if step.replayed else f" (not replayed: {step.reason})")


def _plain(value):
    """{"free", "pcp_count"} in words, anything else as it is."""
    return f"{value['free']} free and {value['pcp_count']} on per-CPU lists" if isinstance(value, dict) else value


def as_json(name, step):
    """A step as one line of JSON."""
    return json.dumps({
        "recording": name, "step": step.index, "op": step.op, "errno": step.errno, "uevents": step.uevents, "kmsg": step.kmsg,
        "replayed": step.replayed, "reason": step.reason, "compared": step.compared, "differences": step.differences,
        "remarks": step.remarks, "predicted": step.predicted,
    })


def table(rows):
    """The lines of the table of all recordings."""
    lines = [f"{'recording':<28} {'steps':>5} {'values':>7} {'differences':>11}  what they concern"]
    sums = {key: sum(row[key] for row in rows) for key in ("steps", "values", "differences", "unreplayed")}
    for row in [*rows, {"recording": f"all {len(rows)}", "concern": {}} | sums]:
        notes = [f"{name} {nr}" for name, nr in sorted(row["concern"].items(), key=lambda item: -item[1])]
        if row["unreplayed"]:
            notes.append(f"{row['unreplayed']} steps not replayed" if row["unreplayed"] > 1 else "1 step not replayed")
        numbers = f"{row['recording']:<28} {row['steps']:>5} {row['values']:>7} {row['differences']:>11}"
        lines += wrapped(f"{numbers}  {', '.join(notes)}".rstrip(), width(), 56)
    return lines
