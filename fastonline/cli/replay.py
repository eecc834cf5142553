"""``fastonline replay``: predictions held against recordings of real kernels."""

from fastonline.hotplug.memory import ENGINES
from fastonline.linux.recording import replay_files


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
