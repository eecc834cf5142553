"""Pictures of compare and sweep; needs matplotlib."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

from fastonline.cost.plots import STYLE
from fastonline.cost.sweep import summary
from fastonline.files import save_figure

if TYPE_CHECKING:
    from fastonline.cost.compare import Comparison

MIB = 2**20
_LINES = (("target_bytes", "target", "--"), ("held_bytes", "held", "-"), ("free_bytes", "free", ":"))


def plot_comparison(result: Comparison, path: str | PathLike[str]) -> None:
    """Draw a Comparison, `result`, into the file `path`: target, held and free over time, a panel for each strategy, and
    overshoot against shortfall, a dot for each. ValueError for a suffix that matplotlib does not know, and when no strategy was
    run."""
    rows = [row for row in result.rows if row.reason is None]
    if not rows:
        raise ValueError("no strategy was run, there is nothing to draw")
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * columns, 2.6 * lines + 4), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=(2.6 * lines, 4))
        above, below = parts
        panels = above.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, row in zip(panels, rows, strict=False):
            for column, label, style in _LINES:
                axes.step([sample["time"] for sample in row.samples], [sample[column] / MIB for sample in row.samples], style,
                          where="pre", label=label)
            axes.set_title(row.strategy, fontsize=9)
        for axes in panels[len(rows):]:
            axes.set_visible(False)
        panels[0].legend(fontsize=7)
        above.supxlabel("time, s", fontsize=9)
        above.supylabel("MiB", fontsize=9)
        axes = below.subplots()
        for row in rows:
            x, y = row.values["overshoot_bytes"] / MIB, row.values["shortfall_byte_seconds"] / MIB
            axes.plot(x, y, "o")
            axes.annotate(row.strategy, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
        axes.set(xlabel="overshoot, MiB", ylabel="shortfall, MiB.s", title=result.scenario.name)
        save_figure(figure, path)


def plot_sweep(rows: str | PathLike[str], path: str | PathLike[str], column: str = "shortfall_byte_seconds") -> None:
    """Draw a heat map of a `column` over two swept axes of the sweep in the file `rows` into the file `path`. The axes are the
    first two keys with more than one value, the strategy among them; the rest is averaged. ValueError when there are not
    two."""
    lines = [line for line in summary(rows, (column,)) if column in line]
    points = [dict(part.partition("=")[::2] for part in line["key"].split(",")) for line in lines]
    axes_names = [name for name in (points[0] if points else ()) if len({point[name] for point in points}) > 1][:2]
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
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.2 * len(across) + 4, 0.6 * len(down) + 3), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow([[value / unit for value in line] for line in cells], aspect="auto")
        axes.set_xticks(range(len(across)), across, rotation=20)
        axes.set_yticks(range(len(down)), down)
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1], title=column)
        figure.colorbar(image)
        save_figure(figure, path)
