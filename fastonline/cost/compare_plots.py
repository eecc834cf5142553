"""Plots of compare and sweep; they need matplotlib."""

from __future__ import annotations

import textwrap
from os import PathLike
from typing import TYPE_CHECKING

from fastonline.cost.sweep import summary
from fastonline.figures import LINE_COLORS, drawing

if TYPE_CHECKING:
    from fastonline.cost.compare import Comparison

MIB = 2**20
# a wide target stays visible behind what coincides with it
_LINES = (
    ("target_bytes", "target", {"color": LINE_COLORS["target"], "linewidth": 4, "alpha": 0.6}),
    ("held_bytes", "held", {"color": LINE_COLORS["actual"], "linewidth": 1.3}),
    ("free_bytes", "free in the guest", {"color": LINE_COLORS["usable"], "linewidth": 1.3, "linestyle": ":"}),
)


def plot_comparison(result: Comparison, path: str | PathLike[str]) -> None:
    """Draw a Comparison, `result`, into the file `path`: target, held and free over time, a panel for each strategy, and
    overshoot against shortfall, a dot for each. ValueError for a suffix that matplotlib does not know, and when no strategy was
    run."""
    rows = [row for row in result.rows if row.reason is None]
    if not rows:
        raise ValueError("no strategy was run, there is nothing to draw")
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    with drawing(path, max(8, 3.6 * columns), 2.6 * lines + 4) as figure:
        above, below = figure.subfigures(2, 1, height_ratios=(2.6 * lines, 4))
        panels = above.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, row in zip(panels, rows, strict=False):
            for column, label, style in _LINES:
                axes.step([sample["time"] for sample in row.samples], [sample[column] / MIB for sample in row.samples],
                          where="pre", label=label, **style)
            axes.set_title(row.strategy, fontsize=9)
            axes.set_ylim(bottom=0)
        for axes in panels[len(rows):]:
            axes.set_visible(False)
        above.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8, frameon=False)
        above.supxlabel("time, s (virtual)", fontsize=9)
        above.supylabel("MiB", fontsize=9)
        _overshoot_and_shortfall(below.subplots(), rows, result.scenario)


def _overshoot_and_shortfall(axes, rows, scenario):
    """A dot for each strategy; strategies on one point share a dot and a label."""
    points = {}
    for row in rows:
        point = row.values["overshoot_bytes"] / MIB, row.values["shortfall_byte_seconds"] / MIB
        points.setdefault(point, []).append(row.strategy)
    middle = max(x for x, _ in points) / 2
    for (x, y), names in points.items():
        left = x <= middle
        axes.plot(x, y, "o", color=LINE_COLORS["actual"])
        text = "\n".join(textwrap.wrap(", ".join(names), 60, break_on_hyphens=False))
        axes.annotate(text, (x, y), xytext=(7 if left else -7, 0), textcoords="offset points", fontsize=8, va="center",
                      ha="left" if left else "right")
    axes.margins(0.1, 0.2)
    axes.grid(color="0.9")
    axes.set(xlabel="overshoot: memory held above the target, MiB", ylabel="shortfall, MiB.s",
             title=f"{scenario.name} ({scenario.geometry}, rules of Linux {scenario.rules}): overshoot and shortfall")


def plot_sweep(rows: str | PathLike[str], path: str | PathLike[str], column: str = "shortfall_byte_seconds") -> None:
    """Draw a heat map of a `column` over two swept axes of the sweep in the file `rows` into the file `path`. The axes are the
    first two keys with more than one value. When the strategy comes after them, each strategy has a map of its own; what else
    was swept is averaged. ValueError when there are not two keys."""
    points = [
        (dict(part.partition("=")[::2] for part in line["key"].split(",")), line[column].mean)
        for line in summary(rows, (column,)) if column in line
    ]
    swept = [name for name in (points[0][0] if points else ()) if len({point[name] for point, _ in points}) > 1]
    if len(swept) < 2:
        raise ValueError("a heat map needs two keys with more than one value")
    axes_names, averaged = swept[:2], [*swept[2:], "seeds"]
    panels = [""]
    if "strategy" in averaged:
        averaged.remove("strategy")
        panels = [*dict.fromkeys(point["strategy"] for point, _ in points)]
    across, down = ([*dict.fromkeys(point[name] for point, _ in points)] for name in axes_names)
    unit = MIB if "byte" in column else 1
    maps = []
    for strategy in panels:
        cells: dict[tuple[str, str], list[float]] = {}
        for point, mean in points:
            if strategy in ("", point["strategy"]):
                cells.setdefault((point[axes_names[1]], point[axes_names[0]]), []).append(mean / unit)
        maps.append([[sum(cells[y, x]) / len(cells[y, x]) if (y, x) in cells else float("nan") for x in across] for y in down])
    values = [value for cells in maps for line in cells for value in line if value == value]
    low, high = min(0, *values), max(values)
    name = column.replace("_byte_seconds", ", MiB.s").replace("_bytes", ", MiB").replace("_", " ")
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    size = max(6, columns * (0.9 * len(across) + 1) + 2), lines * (0.6 * len(down) + 1) + 1.5
    with drawing(path, *size) as figure:
        figure.suptitle(f"Mean {name}, over {' and '.join(averaged)}")
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, strategy, cells in zip(grid, panels, maps, strict=False):
            image = axes.imshow(cells, aspect="auto", cmap="Blues", vmin=low, vmax=high if high > low else low + 1)
            for y, line in enumerate(cells):
                for x, value in enumerate(line):
                    text = f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
                    color = "white" if value > (low + high) / 2 else "black"
                    axes.text(x, y, text, ha="center", va="center", fontsize=8, color=color)
            axes.set_xticks(range(len(across)), across, rotation=20 if max(map(len, across)) * len(across) > 50 else 0)
            axes.set_yticks(range(len(down)), down)
            axes.set_title(strategy, fontsize=9)
        for axes in grid[len(panels):]:
            axes.set_visible(False)
        figure.supxlabel(axes_names[0], fontsize=9)
        figure.supylabel(axes_names[1], fontsize=9)
        figure.colorbar(image, ax=list(grid), label=name)
