"""``fastonline sweep``: a grid of runs, and its summary."""

import os
import sys
from contextlib import contextmanager

from fastonline.cli.common import add_command, add_json, add_plot, check_plot, count, output, width, write_json
from fastonline.cli.compare import add_strategies, read_scenario
from fastonline.cost.pool import Pool, dask_executor, keep_memory
from fastonline.cost.scenario import PRESETS
from fastonline.cost.sweep import SUMMARY, grid, summary, sweep
from fastonline.tables import fitted, wrapped


def add_sweep(commands):
    parser = add_command(
        commands, "sweep", "a grid of runs of compare, on processes or a Dask cluster",
        "Run every combination of --set, --strategies and --seeds, and append a row for each to FILE as a line of JSON. The "
        "same command continues an interrupted sweep. With --summary: print mean and 95 % interval over the seeds.",
        (("fastonline sweep thread-dry --set host=2G,4G --seeds 5 --out runs.jsonl", ""),
         ("fastonline sweep thread --set workload.in_use=0.5,0.9 --out a.jsonl", ""),
         ("fastonline sweep --summary runs.jsonl --plot map.png", "")),
    )
    parser.add_argument("scenario", nargs="?", metavar="PRESET|FILE.toml", help=f"{', '.join(PRESETS)}, or a TOML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=A,B",
                        help="values of a key of the scenario, such as host=2G,4G or workload.in_use=0.5,0.9; again for more")
    add_strategies(parser)
    parser.add_argument("--seeds", type=count, default=1, metavar="N", help="run each with N seeds (default: 1)")
    parser.add_argument("--jobs", type=count, metavar="N", help="number of processes (default: 1, this one)")
    parser.add_argument("--dask", metavar="ADDRESS",
                        help="run on the Dask cluster with the scheduler at ADDRESS; needs distributed")
    parser.add_argument("--out", type=output, metavar="FILE", help="append the rows to FILE")
    parser.add_argument("--yes", action="store_true", help="allow a grid of more than 10 million points")
    parser.add_argument("--summary", metavar="FILE", help="print a summary of the sweep in FILE")
    add_json(parser)
    add_plot(parser, "a heat map (with --summary)")
    parser.set_defaults(run=run_sweep)


def run_sweep(args):
    if args.summary is not None:
        if args.scenario is not None or args.set or args.out is not None:
            raise ValueError("--summary takes no scenario, --set or --out")
        return print_summary(args)
    given = read_scenario(args)
    for name in ("plot", "json"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} goes with --summary")
    if args.out is None:
        raise ValueError("no --out FILE given: a sweep appends its rows to a file")
    if args.jobs is not None and args.dask is not None:
        raise ValueError("--jobs and --dask exclude each other")
    points = grid(given, parse_sets(args.set), args.strategies, args.seeds, args.yes)
    with executor(args) as (where, workers):
        made = sweep(points, where, args.out, workers, show if sys.stderr.isatty() else None)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(f"{args.out}: {made} runs, {len(points)} rows")
    return 0


def parse_sets(texts):
    """{key: [value, ...]} of texts such as "host=2G,4G"."""
    sets = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key.strip() or not all(part.strip() for part in values.split(",")):
            raise ValueError(f"--set {text}: expected KEY=VALUE,VALUE...")
        if key.strip() in sets:
            raise ValueError(f"--set {key.strip()} is given twice")
        sets[key.strip()] = [parse_value(part.strip()) for part in values.split(",")]
    return sets


def parse_value(text):
    """A number, true, false, or text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text, text)


@contextmanager
def executor(args):
    """(executor, workers) that the arguments ask for."""
    if args.dask is not None:
        with dask_executor(args.dask) as cluster:
            yield cluster
    elif args.jobs is None or args.jobs == 1:
        keep_memory(True)
        yield None, 1
    else:
        pool = Pool(args.jobs, keep=True)
        try:
            yield pool, args.jobs
        except BaseException:
            pool.kill()
            raise
        pool.close()


def show(done, points):
    """Progress on a terminal."""
    print(f"\r{done} of {points}", end="", file=sys.stderr, flush=True)


def print_summary(args):
    """Print a table: mean, half the 95 % interval and n of each column, by key; --json and --plot."""
    check_plot(args.plot)
    lines = summary(args.summary)
    if args.plot is not None:
        from fastonline.cost.sweep_plots import plot_sweep
        plot_sweep(os.fspath(args.summary), args.plot)
    if args.json is not None:
        write_json(args.json, [line.as_dict() for line in lines])
    if args.json != "-":
        print_table(lines)
    return 0


def print_table(lines):
    """Print what `summary` returned."""
    room = width()
    rows = [("", "n", *(column.replace("_bytes", " MiB").replace("_byte_seconds", " MiB.s") for column in SUMMARY))]
    for line in lines:
        if line["reason"] is None:
            cells = [cell(column, line[column]) if column in line else "-" for column in SUMMARY]
            first, *more = wrapped(line["key"].replace(",", ", "), room // 2 - 4)
            rows += [(first, str(line["n"]), *cells), *((part, *[""] * (1 + len(SUMMARY))) for part in more)]
    text = fitted(rows, "<" + ">" * (1 + len(SUMMARY)), room) if len(rows) > 1 else []
    for line in lines:
        if line["reason"] is not None:
            text += wrapped(f"{line['key'].replace(',', ', ')} was not run: {line['reason']}", room)
        if line["errors"]:
            text += wrapped(f"{line['key'].replace(',', ', ')}: {line['errors']} failed", room)
    text += wrapped("mean ± half the 95 % interval over n seeds; without ±: all equal", room)
    print("\n".join(text))


def cell(column, value):
    """Text of an Estimate."""
    unit = 2**20 if "byte" in column else 1
    return f"{value.mean / unit:.6g}" if value.equal else f"{value.mean / unit:.6g} ±{value.interval / unit:.3g}"
