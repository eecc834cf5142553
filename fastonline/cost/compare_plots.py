"""Plots of compare and sweep; they need matplotlib."""

from __future__ import annotations

import textwrap
from os import PathLike
from typing import TYPE_CHECKING, Any

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
    first two keys with more than one value, the strategy among them; the rest is averaged. ValueError when there are not
    two."""
    lines = [line for line in summary(rows, (column,)) if column in line]
    points = [dict(part.partition("=")[::2] for part in line["key"].split(",")) for line in lines]
    swept = [name for name in (points[0] if points else ()) if len({point[name] for point in points}) > 1]
    axes_names, averaged = swept[:2], [*swept[2:], "seeds"]
    if len(axes_names) < 2:
        raise ValueError("a heat map needs two keys with more than one value")
    across, down = ([*dict.fromkeys(point[name] for point in points)] for name in axes_names)
    cells: list[list[Any]] = []
    for y in down:
        cells.append([])
        for x in across:
            found = [line[column][0] for line, point in zip(lines, points, strict=True)
                     if point[axes_names[0]] == x and point[axes_names[1]] == y]
            cells[-1].append(sum(found) / len(found) if found else float("nan"))
    unit = MIB if "byte" in column else 1
    values = [[value / unit for value in line] for line in cells]
    name = column.replace("_byte_seconds", ", MiB.s").replace("_bytes", ", MiB").replace("_", " ")
    with drawing(path, max(6, 1.2 * len(across) + 4), 0.6 * len(down) + 3) as figure:
        axes = figure.subplots()
        image = axes.imshow(values, aspect="auto", cmap="Blues")
        middle = (image.norm.vmin + image.norm.vmax) / 2
        for y, line in enumerate(values):
            for x, value in enumerate(line):
                color = "white" if value > middle else "black"
                axes.text(x, y, f"{value:.4g}", ha="center", va="center", fontsize=8, color=color)
        axes.set_xticks(range(len(across)), across, rotation=20 if max(map(len, across)) * len(across) > 50 else 0)
        axes.set_yticks(range(len(down)), down)
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1], title=f"Mean {name}, over {' and '.join(averaged)}")
        figure.colorbar(image, label=name)
