"""``fastonline compare``: strategies side by side on one scenario."""

import sys

from fastonline.cli.common import add_json, add_plot, check_plot, output, progress, width, write_json
from fastonline.cost.compare import compare
from fastonline.cost.scenario import PRESETS, scenario
from fastonline.cost.strategies import STRATEGIES
from fastonline.files import write_file


def add_compare(commands):
    parser = commands.add_parser(
        "compare",
        help="how should a guest grow? strategies side by side",
        description="Run the strategies of the 2008 thread, and later ones, on one scenario, and print a line for each: how "
        "far the guest grew, what it held above its target, what was notified, called and swapped, and the modelled time. "
        "Times are virtual: they come from published costs.",
    )
    parser.add_argument("scenario", metavar="PRESET|FILE.toml", help=f"{', '.join(PRESETS)}, or a TOML file")
    add_strategies(parser)
    add_json(parser)
    parser.add_argument("--csv", type=output, metavar="FILE", help="write the columns of every row as CSV")
    add_plot(parser, "held, target and free over time, and overshoot against shortfall")
    parser.add_argument("--times", action="store_true", help="print on standard error what each simulation took")
    parser.set_defaults(run=run_compare)


def add_strategies(parser):
    """--strategies a,b."""
    parser.add_argument("--strategies", type=names, metavar="A,B", help=f"only these ({', '.join(STRATEGIES)})")


def names(text):
    """A list of names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def run_compare(args):
    given = scenario(args.scenario)
    check_plot(args.plot)
    if args.strategies == []:
        raise ValueError("--strategies: no name")
    result = compare(given, args.strategies, progress)
    if args.json != "-":
        print(result.text(width()))
    if args.json is not None:
        write_json(args.json, result.as_dict())
    if args.csv is not None:
        write_file(args.csv, [result.csv().encode()])
    if args.plot is not None:
        result.plot(args.plot)
    if args.times:
        for row in result.rows:
            print(f"{row.strategy:15} {row.simulation_s:8.3f} s", file=sys.stderr)
    return 0
