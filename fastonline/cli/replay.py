"""``fastonline replay``: predictions held against recordings of real kernels."""

import json

from fastonline.hotplug.memory import ENGINES
from fastonline.linux.recording import replay_files
from fastonline.linux.sources import names_trace
from fastonline.linux.trace import replay_trace


def add_replay(commands):
    parser = commands.add_parser(
        "replay",
        help="replay recordings of real kernels and print where the prediction and the kernel differ",
        description="Replay recordings of real kernels, a line a step. Exit status 1 when a prediction differs from what the "
        "kernel did. A FILE may also be a trace of mm_page_alloc and mm_page_free, as ftrace and perf script print it: it is "
        "replayed against the allocator.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument(
        "--engine", choices=ENGINES, default="struct_page",
        help="(struct_page, whose free lists are the kernel's: bitmap finds other free pages after long use)",
    )
    parser.add_argument("--json", action="store_true", help="a JSON object a step instead of text")
    parser.set_defaults(run=run_replay)


def run_replay(args):
    total, recordings = 0, [path for path in args.files if not names_trace(path)]
    for line, differences in replay_files(recordings, args.engine, args.json) if recordings else ():
        print(line)
        total += differences
    for path in args.files:
        if path not in recordings:
            replayed = replay_trace(path, engine=args.engine)
            print(json.dumps(replayed.as_dict()) if args.json else str(replayed), end="\n" if args.json else "")
    return 1 if total else 0
