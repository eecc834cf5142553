"""``fastonline balloon``: one driver through a series of targets."""

from fastonline.cli.common import add_json, add_plot, check_plot, progress, write_json
from fastonline.drivers import series


def add_balloon(commands):
    parser = commands.add_parser(
        "balloon",
        help="run one driver through a series of targets",
        description="Run one driver of a guest through a series of targets, on a host with a finite pool of frames, and print "
        "target against actual size, the host's pages, its calls and the time.",
    )
    series.add_arguments(parser)
    add_json(parser)
    add_plot(parser, "target and actual size")
    parser.set_defaults(run=run_balloon)


def run_balloon(args):
    check_plot(args.plot)
    result = series.from_arguments(args, progress)
    if args.json != "-":
        print(result)
    if args.json is not None:
        write_json(args.json, result.as_dict())
    if args.plot is not None:
        result.plot(args.plot)
    return 0
