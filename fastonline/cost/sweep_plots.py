"""Plots of a sweep; they need matplotlib."""

from os import PathLike

from fastonline.cost.sweep import summary
from fastonline.figures import drawing

MIB = 2**20


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
        for axes, strategy, drawn in zip(grid, panels, maps, strict=False):
            image = axes.imshow(drawn, aspect="auto", cmap="Blues", vmin=low, vmax=high if high > low else low + 1)
            for y, line in enumerate(drawn):
                for x, value in enumerate(line):
                    shown = f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
                    color = "white" if value > (low + high) / 2 else "black"
                    axes.text(x, y, shown, ha="center", va="center", fontsize=8, color=color)
            axes.set_xticks(range(len(across)), across, rotation=20 if max(map(len, across)) * len(across) > 50 else 0)
            axes.set_yticks(range(len(down)), down)
            axes.set_title(strategy, fontsize=9)
        for axes in grid[len(panels):]:
            axes.set_visible(False)
        figure.supxlabel(axes_names[0], fontsize=9)
        figure.supylabel(axes_names[1], fontsize=9)
        figure.colorbar(image, ax=list(grid), label=name)
