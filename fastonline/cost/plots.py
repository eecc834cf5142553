"""Pictures of what things cost; needs matplotlib."""

import os
from os import PathLike
from typing import Any

try:
    import matplotlib
except ImportError as _missing:
    raise ImportError("drawing needs matplotlib: pip install 'fastonline[plot]'") from _missing

from matplotlib.figure import Figure

from fastonline.cost.phases import PHASES
from fastonline.files import save_figure

COLORS = {"bitmap": "#1f77b4", "struct_page": "#ff7f0e"}


def check_format(path: str | PathLike[str]) -> None:
    """ValueError when the suffix of `path` names no format that matplotlib can draw."""
    suffix = os.path.splitext(path)[1].removeprefix(".").lower()
    formats = Figure().canvas.get_supported_filetypes()
    if suffix not in formats:
        raise ValueError(f"{os.fspath(path)}: {suffix!r} is no format of a picture; there are {', '.join(formats)}")


def plot_profile(result: dict[str, Any], path: str | PathLike[str]) -> None:
    """Draw cost.profile.profile's result into the file `path`, whose suffix says how (.png, .svg, .pdf).

    Left: ns a page by workload, the least as a bar and a line up to the median, on a logarithmic scale; right: the phases.
    ValueError for a suffix that matplotlib does not know.
    """
    with matplotlib.rc_context({"svg.hashsalt": "fastonline"}):
        figure = Figure(figsize=(12, 4.5), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1))
        _workloads(left, result)
        _phases(right, result)
        figure.suptitle(f"onlining {result['section']}: {result['nr_pages']} pages, {result['geometry']}, Linux {result['rules']}")
        save_figure(figure, path)


def _workloads(axes, result):
    names = list(dict.fromkeys(row["workload"] for row in result["rows"]))
    engines = list(dict.fromkeys(row["engine"] for row in result["rows"]))
    width = 0.8 / len(engines)
    for i, engine in enumerate(engines):
        rows = {row["workload"]: row["ns_per_page"] for row in result["rows"] if row["engine"] == engine}
        at = [n + (i - (len(engines) - 1) / 2) * width for n in range(len(names))]
        least = [rows[name]["min"] for name in names]
        above = [rows[name]["median"] - rows[name]["min"] for name in names]
        axes.bar(at, least, width, yerr=([0] * len(names), above), color=COLORS[engine], label=engine)
    axes.set_xticks(range(len(names)), names, rotation=20)
    axes.set_yscale("log")
    axes.set_ylabel("ns a page (least; line: to the median)")
    axes.legend()


def _phases(axes, result):
    runs = [{phase: 0 if ns is None else ns["median"] for phase, ns in item["ns"].items()} for item in result["phases"]]
    bottom = [0.0] * len(runs)
    for phase in PHASES:
        share = [100 * run[phase] / max(sum(run.values()), 1) for run in runs]
        axes.bar(range(len(runs)), share, bottom=bottom, label=phase)
        bottom = [a + b for a, b in zip(bottom, share, strict=True)]
    axes.set_xticks(range(len(runs)), [f"{item['engine']}\n{item['path']}" for item in result["phases"]], fontsize=7)
    axes.set_ylabel("share of the phases, %")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
