"""Plots of a profile; they need matplotlib."""

from os import PathLike
from typing import Any

from fastonline.cost.phases import PHASES
from fastonline.cost.profile import Profile
from fastonline.cost.provenance import one_line
from fastonline.cost.report import duration, number
from fastonline.figures import COLORS, drawing

_PHASE_COLORS = ("#999999", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#000000")


def plot_profile(result: Profile, path: str | PathLike[str]) -> None:
    """Draw a Profile, `result`, into the file `path`, whose suffix names the format (.png, .svg, .pdf).

    Left: ns a page by workload, the median as a dot and a line to the least, on a logarithmic axis. Right: the phases' shares
    of their total. ValueError for a suffix that matplotlib does not know.
    """
    with drawing(path, 10, 6.5, one_line(result["provenance"])) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _workloads(left, result)
        _phases(right, result)
        repeats = f"{result['repeat']} repeat{'s' if result['repeat'] > 1 else ''}"
        figure.suptitle(f"Onlining {result['section']} of {result['geometry']} under the rules of Linux {result['rules']}: "
                        f"{result['nr_pages']} pages, {repeats}")


def _workloads(axes, result):
    measured = result["rows"] + result["calls"]
    names = list(dict.fromkeys(row["workload"] for row in measured))
    engines = list(dict.fromkeys(row["engine"] for row in measured))
    for i, engine in enumerate(engines):
        rows = {row["workload"]: row for row in measured if row["engine"] == engine}
        at = [n + 0.42 * (i - (len(engines) - 1) / 2) for n in range(len(names))]
        medians = [max(rows[name]["ns_per_page"]["median"], 1e-4) for name in names]
        least = [max(rows[name]["ns_per_page"]["min"], 1e-4) for name in names]
        axes.hlines(at, least, medians, color=COLORS[engine], linewidth=1)
        axes.plot(medians, at, "o", color=COLORS[engine], markersize=4, label=f"{engine}, warm")
        cold = {name: rows[name]["cold"]["median"] / rows[name]["pages"] for name in names if rows[name]["cold"]}
        if cold:
            axes.plot(list(cold.values()), [y for y, name in zip(at, names, strict=True) if name in cold], "o",
                      color=COLORS[engine], markersize=4, fillstyle="none", label=f"{engine}, cold")
        for y, name, median, end in zip(at, names, medians, least, strict=True):
            # the values on the outside of the two dots, so that neither dot lies on one
            if name not in cold:
                _value(axes, median, y, median, "left")
            elif cold[name] >= median:
                _value(axes, end, y, median, "right")
                _value(axes, cold[name], y, cold[name], "left")
            else:
                _value(axes, min(end, cold[name]), y, cold[name], "right")
                _value(axes, median, y, median, "left")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.grid(axis="x", color="0.9")
    axes.set_xlabel("ns a page (dot: median, line: to the least)")
    axes.legend(fontsize=7, loc="best")


def _value(axes, x, y, value, side):
    """Write a value beside the point x, y: "left" is where the text begins, "right" where it ends."""
    axes.annotate(number(value), (x, y), xytext=(5 if side == "left" else -5, 0), textcoords="offset points", va="center",
                  ha=side, fontsize=7)


def _phases(axes, result):
    left = [0.0] * len(result["phases"])
    labels = [f"{item['path']}\n{item['engine']}\n{duration(item['total']['min'])}" for item in result["phases"]]
    for phase, color in zip(PHASES, _PHASE_COLORS, strict=True):
        share = [
            100 * (item["ns"][phase] or {"min": 0})["min"] / max(item["total"]["min"], 1) for item in result["phases"]
        ]
        axes.barh(range(len(share)), share, left=left, label=phase, color=color)
        for y, (x, width) in enumerate(zip(left, share, strict=True)):
            if width >= 8:
                axes.text(x + width / 2, y, f"{width:.0f}", ha="center", va="center", fontsize=6,
                          color="white" if phase == "notify" else "black")
        left = [a + b for a, b in zip(left, share, strict=True)]
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the total, %, least times")
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3, frameon=False)


def plot_scale(result: dict[str, Any], path: str | PathLike[str]) -> None:
    """Draw cost.scale.scale's result into the file `path`: ns a page over the number of pages, both axes logarithmic."""
    with drawing(path, 8, 4.5, one_line(result["provenance"])) as figure:
        axes = figure.subplots()
        for engine in dict.fromkeys(row["engine"] for row in result["rows"]):
            rows = [row for row in result["rows"] if row["engine"] == engine and "online" in row]
            pages = [row["pages"] for row in rows]
            for what, style, label in (("random", "o-", "a page at random"), ("online", "s--", "online_pages")):
                axes.plot(pages, [max(row[what]["min"], 1e-4) for row in rows], style, color=COLORS[engine], markersize=4,
                          label=f"{engine}, {label}")
            for what in ("random", "online"):
                for row, side in ((rows[0], "right"), (rows[-1], "left")) if rows else ():
                    _value(axes, row["pages"], row[what]["min"], row[what]["min"], side)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.grid(color="0.9")
        axes.set_xlabel("pages of the machine")
        axes.set_ylabel("ns a page, least")
        axes.set_title("Onlining, by size of the machine (X86_64, rules of Linux 6.12)")
        axes.margins(x=0.1)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
