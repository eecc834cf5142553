"""Pictures of what things cost; needs matplotlib."""

try:
    import matplotlib
except ImportError as e:
    raise ImportError("drawing needs matplotlib: pip install 'fastonline[plot]'") from e

from matplotlib.figure import Figure

from fastonline.cost.phases import PHASES

COLORS = {"bitmap": "#1f77b4", "struct_page": "#ff7f0e"}


def plot_profile(result, path):
    """Draw cost.profile.profile's result into a file, whose suffix says how (.png, .svg, .pdf).

    Left: ns a page by workload, the least as a bar and a line up to the median, on a logarithmic scale; right: the phases.
    ValueError for a suffix that matplotlib does not know.
    """
    with matplotlib.rc_context({"svg.hashsalt": "fastonline"}):
        figure = Figure(figsize=(12, 4.5), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _workloads(left, result)
        _phases(right, result)
        figure.suptitle(f"onlining {result['section']}: {result['nr_pages']} pages, {result['geometry']}, Linux {result['rules']}")
        figure.savefig(path)


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
    paths = [f"{item['engine']}\n{item['path']}" for item in result["phases"]]
    bottom = [0.0] * len(paths)
    for phase in PHASES:
        cells = [item["ns"][phase] for item in result["phases"]]
        share = [0 if cell is None else cell["median"] for cell in cells]
        totals = [sum(cell["median"] for cell in item["ns"].values() if cell is not None) for item in result["phases"]]
        share = [100 * part / max(total, 1) for part, total in zip(share, totals, strict=True)]
        axes.bar(range(len(paths)), share, bottom=bottom, label=phase)
        bottom = [a + b for a, b in zip(bottom, share, strict=True)]
    axes.set_xticks(range(len(paths)), paths, fontsize=8)
    axes.set_ylabel("share of the phases, %")
    axes.legend()
