"""``fastonline compare``: strategies side by side on one scenario."""

import sys

from fastonline.cli.common import add_command, add_csv, add_json, add_plot, check_plot, progress, width, write_json, write_text
from fastonline.cost.compare import compare
from fastonline.cost.published import published, published_text
from fastonline.cost.scenario import PRESETS, scenario
from fastonline.cost.strategies import STRATEGIES


def add_compare(commands):
    parser = add_command(
        commands, "compare", "how should a guest grow? strategies side by side",
        "Run the strategies of the 2008 thread, and later ones, on one scenario, and print a row for each: how far the guest "
        "grew, what it held above its target, notifications, calls to the host, swapped pages and modelled times. Times are "
        "virtual: they follow from published costs. fastonline/COMPARE.md explains the presets.",
        (("fastonline compare thread-dry", "on a host that runs dry"),
         ("fastonline compare thread --strategies split,whole", "two of them"),
         ("fastonline compare my.toml --plot my.svg", "a scenario of your own"),
         ("fastonline compare --published", "is the model right?")),
    )
    parser.add_argument("scenario", nargs="?", metavar="PRESET|FILE.toml", help=f"{', '.join(PRESETS)}, or a TOML file")
    add_strategies(parser)
    add_json(parser)
    add_csv(parser, "every row")
    add_plot(parser, "held, target and free over time, and overshoot against shortfall")
    parser.add_argument("--published", action="store_true",
                        help="print published figures beside the model's predictions; exit status 1 when one is missed")
    parser.add_argument("--times", action="store_true", help="print the wall time of each simulation on standard error")
    parser.set_defaults(run=run_compare)


def add_strategies(parser):
    """--strategies a,b."""
    parser.add_argument("--strategies", type=names, metavar="A,B", help=f"only these ({', '.join(STRATEGIES)})")


def names(text):
    """A list of names separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def read_scenario(args):
    """The Scenario that an argument names."""
    if args.scenario is None:
        raise ValueError(f"no scenario given (expected {', '.join(PRESETS)}, or a TOML file)")
    return scenario(args.scenario)


def run_compare(args):
    if args.published:
        return run_published(args)
    given = read_scenario(args)
    check_plot(args.plot)
    if args.strategies == []:
        raise ValueError("--strategies: no name")
    result = compare(given, args.strategies, progress)
    if args.csv is not None:
        write_text(args.csv, result.csv())
    if args.plot is not None:
        result.plot(args.plot)
    if args.json is not None:
        write_json(args.json, result.as_dict())
    if "-" not in (args.json, args.csv):
        print(result.text(width()))
    if args.times:
        for row in result.rows:
            print(f"{row.strategy:15} {row.simulation_s:8.3f} s", file=sys.stderr)
    return 0


def run_published(args):
    """Print published figures beside predictions. A miss with a known reason does not count as a failure."""
    for name in ("scenario", "strategies", "csv", "plot"):
        if getattr(args, name) is not None:
            raise ValueError(f"--published takes no {name if name == 'scenario' else '--' + name}")
    figures = published()
    if args.json is not None:
        write_json(args.json, [figure.as_dict() for figure in figures])
    if args.json != "-":
        print(published_text(figures, width()))
    return int(any(not figure.met and not figure.missed for figure in figures))
