"""Comparison of strategies on one scenario. Each runs alone, on a host of its own."""

from __future__ import annotations

import csv
import gc
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from fastonline.cost.run import Row, Run
from fastonline.cost.scenario import Scenario
from fastonline.cost.strategies import STRATEGIES
from fastonline.errors import invalid_name
from fastonline.tables import fitted, html_table, wrapped

Progress = Callable[[Sequence[str]], Iterable[str]]


_COLUMNS = ("strategy", "grown", "over", "peak", "held", "host min", "short", "dead", "notified", "calls", "host s", "guest s",
            "usable s")
_LEGEND = (
    "grown, over (overshoot), peak, host min (least free on the host): MiB; held, short (shortfall): MiB.s; dead: free pages "
    "swapped out; usable s: longest time to a target; ~: rests on assumed prices"
)
_FAULTS = ("shortfall_byte_seconds", "overshoot_bytes", "swapped_dead_pages")


@dataclass(repr=False)
class Comparison:
    """The rows of several strategies on one scenario: `text`, `as_dict`, `csv`, `plot`; a table in notebooks."""

    scenario: Scenario
    rows: list[Row]

    def __repr__(self) -> str:
        return f"<Comparison {self.scenario.name} strategies={[row.strategy for row in self.rows]}>"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: {"scenario": ..., "rows": [...]}."""
        return {"scenario": self.scenario.as_dict(), "rows": [row.as_dict() for row in self.rows]}

    def __str__(self) -> str:
        return self.text()

    def _cells(self):
        """The table: rows of text, the first the names of the columns. Strategies that were not run have no row."""
        made = [_COLUMNS]
        for row in self.rows:
            if row.reason is None:
                v = row.values
                mark = "~" if v["assumed"] else ""
                made.append((
                    row.strategy, format_mib(v["grown_bytes"]), format_mib(v["overshoot_bytes"]), format_mib(v["peak_bytes"]),
                    f"{v['held_byte_seconds'] / 2**20:.0f}", format_mib(v["host_min_free_bytes"]),
                    f"{v['shortfall_byte_seconds'] / 2**20:.0f}", str(v["swapped_dead_pages"]), str(v["notifications"]),
                    str(sum(v["calls"].values())), f"{mark}{v['host_s']:.3f}", f"{mark}{v['guest_s']:.3f}",
                    "-" if v["usable_s"] is None else f"{v['usable_s']:.3f}",
                ))
        return made

    def text(self, width: int | None = None) -> str:
        """Return the table, one row a strategy, then which strategies were not run and why, the legend, and a line of
        conclusion. Columns that do not fit in `width` go into a second table below."""
        cells = self._cells()
        lines = [*fitted(cells, "<" + ">" * (len(_COLUMNS) - 1), width), ""] if len(cells) > 1 else []
        skipped: dict[str, list[str]] = {}
        for row in self.rows:
            if row.reason is not None:
                skipped.setdefault(row.reason, []).append(row.strategy)
        for reason, names in skipped.items():
            lines += wrapped(f"Not run: {', '.join(names)}: {reason}.", width)
        return "\n".join([*lines, *wrapped(_LEGEND, width), *wrapped(self.conclusion, width)])

    @property
    def conclusion(self) -> str:
        """One sentence: which strategies met every demand and never held more than the target, and which of them held least."""
        good = [row for row in self.rows if row.reason is None and not any(row.values[column] for column in _FAULTS)]
        if not good:
            return "No strategy is without shortfall, overshoot and swapped free pages."
        held = min(row.values["held_byte_seconds"] for row in good)
        least = [row.strategy for row in good if row.values["held_byte_seconds"] == held]
        names = ", ".join(row.strategy for row in good)
        best = f"; {' and '.join(least)} hold{'s' * (len(least) == 1)} the least memory over time" if len(good) > 1 else ""
        return f"Without shortfall, overshoot and swapped free pages: {names}{best}."

    def _repr_html_(self) -> str:
        return html_table(self._cells())

    def csv(self) -> str:
        """Return CSV with a line for each strategy, without samples and steps. Nested columns are named name.key."""
        flat = [_flat(row.as_dict(samples=False)) for row in self.rows]
        columns = list(dict.fromkeys(name for row in flat for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        return text.getvalue()

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw held, target and free over time and overshoot against shortfall into the file `path`. ImportError without
        matplotlib, ValueError for a suffix that it does not know."""
        from fastonline.cost.compare_plots import plot_comparison
        plot_comparison(self.rows, self.scenario, path)


def _flat(row):
    flat = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{key}": part for key, part in value.items()})
        else:
            flat[name] = " ".join(value) if isinstance(value, list) else value
    return flat


def format_mib(size: int) -> str:
    """Return a `size` in MiB as text, without a fraction of zero."""
    return f"{size / 2**20:.1f}".removesuffix(".0")


def run_one(scenario: Scenario, strategy: str, check: bool = False) -> Row:
    """The Row of one strategy, by name, on a scenario; check: validate the driver after each step. ValueError for an unknown
    strategy."""
    if strategy not in STRATEGIES:
        raise invalid_name("strategy", strategy, STRATEGIES)
    chosen = STRATEGIES[strategy]
    reason = chosen.forbidden(scenario)
    if reason is not None:
        return Row(strategy, reason)
    row = Run(scenario, chosen, check).row()
    gc.collect(1)       # a machine and its drivers refer to each other; their tables would pile up, run by run
    return row


def compare(scenario: Scenario, strategies: Sequence[str] | None = None, progress: Progress | None = None) -> Comparison:
    """Run strategies (names, None: all) on a scenario, one after the other. progress: wraps the list of names, as tqdm does.
    Before any runs: ValueError for a strategy that is unknown or given twice, TypeError for a name where a Scenario or a list
    is meant."""
    if not isinstance(scenario, Scenario):
        raise TypeError(f"scenario must be a Scenario, not {scenario!r} (cost.scenario.scenario reads a preset or a file)")
    if isinstance(strategies, str):
        raise TypeError(f"strategies must be a list of names, not {strategies!r}")
    names = list(STRATEGIES if strategies is None else strategies)
    for name in names:
        if name not in STRATEGIES:
            raise invalid_name("strategy", name, STRATEGIES)
        if names.count(name) > 1:
            raise ValueError(f"strategy {name!r} is given twice")
    return Comparison(scenario, [run_one(scenario, name) for name in (names if progress is None else progress(names))])
