"""Plots of a comparison; they need matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from os import PathLike

from fastonline.cost.run import Row
from fastonline.cost.scenario import Scenario
from fastonline.figures import LINE_COLORS, drawing

MIB = 2**20
# a wide target stays visible behind what coincides with it
_LINES = (
    ("target_bytes", "target", {"color": LINE_COLORS["target"], "linewidth": 4, "alpha": 0.6}),
    ("held_bytes", "held", {"color": LINE_COLORS["actual"], "linewidth": 1.3}),
    ("free_bytes", "free in the guest", {"color": LINE_COLORS["usable"], "linewidth": 1.3, "linestyle": ":"}),
)


def plot_comparison(rows: Sequence[Row], scenario: Scenario, path: str | PathLike[str]) -> None:
    """Draw the rows of a comparison on a `scenario` into the file `path`: target, held and free over time, a panel for each
    strategy, and overshoot against shortfall, a dot for each. ValueError for a suffix that matplotlib does not know, and when
    no strategy was run."""
    rows = [row for row in rows if row.reason is None]
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
        _overshoot_and_shortfall(below.subplots(), rows, scenario)


def _overshoot_and_shortfall(axes, rows, scenario):
    """A dot for each strategy; strategies on one point share a dot and a label."""
    points = {}
    for row in rows:
        point = row.values["overshoot_bytes"] / MIB, row.values["shortfall_byte_seconds"] / MIB
        points.setdefault(point, []).append(row.strategy)
    right, top = (max(values) or 1.0 for values in zip(*points, strict=True))
    for (x, y), names in points.items():
        left = x <= right / 2
        axes.plot(x, y, "o", color=LINE_COLORS["actual"], clip_on=False)
        text = "\n".join(textwrap.wrap(", ".join(names), 60, break_on_hyphens=False))
        axes.annotate(text, (x, y), xytext=(7 if left else -7, 0), textcoords="offset points", fontsize=8, va="center",
                      ha="left" if left else "right")
    axes.set(xlim=(0, 1.1 * right), ylim=(0, 1.2 * top))
    axes.grid(color="0.9")
    axes.set(xlabel="overshoot: memory held above the target, MiB", ylabel="shortfall, MiB.s",
             title=f"{scenario.name} ({scenario.geometry}, rules of Linux {scenario.rules}): overshoot and shortfall")
