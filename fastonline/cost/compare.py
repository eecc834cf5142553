"""Strategies side by side on one scenario: `compare` runs each of them alone, on a host of its own, and makes a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from fastonline.cost.run import Row, Run
from fastonline.cost.scenario import Scenario
from fastonline.cost.strategies import STRATEGIES
from fastonline.errors import invalid_name

Progress = Callable[[Sequence[str]], Iterable[str]]


@dataclass(repr=False)
class Comparison:
    """The rows of several strategies on one scenario: ``str``, `as_dict`, `csv`, `plot`."""

    scenario: Scenario
    rows: list[Row]

    def __repr__(self) -> str:
        return f"<Comparison {self.scenario.name} strategies={[row.strategy for row in self.rows]}>"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: {"scenario": ..., "rows": [...]}."""
        return {"scenario": self.scenario.as_dict(), "rows": [row.as_dict() for row in self.rows]}

    def __str__(self) -> str:
        lines = [f"{'strategy':15} {'grown':>8} {'over':>8} {'peak':>8} {'held':>10} {'host min':>9} {'short':>10} {'dead':>8} "
                 f"{'notified':>9} {'calls':>8} {'host s':>9} {'guest s':>9} {'usable s':>9}"]
        for row in self.rows:
            if row.reason is not None:
                lines.append(f"{row.strategy:15} {row.reason}")
                continue
            v = row.values
            mark = "~" if v["assumed"] else ""
            usable = "-" if v["usable_s"] is None else f"{v['usable_s']:.3f}"
            lines.append(
                f"{row.strategy:15} {format_mib(v['grown_bytes']):>8} {format_mib(v['overshoot_bytes']):>8} "
                f"{format_mib(v['peak_bytes']):>8} {v['held_byte_seconds'] / 2**20:10.0f} "
                f"{format_mib(v['host_min_free_bytes']):>9} {v['shortfall_byte_seconds'] / 2**20:10.0f} "
                f"{v['swapped_dead_pages']:8} {v['notifications']:9} {sum(v['calls'].values()):8} "
                f"{mark + format(v['host_s'], '.3f'):>9} {mark + format(v['guest_s'], '.3f'):>9} {usable:>9}"
            )
        lines.append("grown, over(shoot), peak, host min(imum free): MiB; held, short(fall): MiB.s; dead: free pages swapped "
                     "out; ~: rests on assumed prices")
        return "\n".join(lines)

    def csv(self) -> str:
        """One line for each strategy: the columns of its row but samples and steps; those with names in them as name.column."""
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
        plot_comparison(self, path)


def _flat(row):
    flat = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{key}": part for key, part in value.items()})
        else:
            flat[name] = " ".join(value) if isinstance(value, list) else value
    return flat


def format_mib(size: int) -> str:
    """A `size` in MiB, without a fraction where there is none."""
    return f"{size / 2**20:.1f}".removesuffix(".0")


def run_one(scenario: Scenario, strategy: str, check: bool = False) -> Row:
    """The Row of one strategy, by name, on a scenario; check: validate the driver after each step. ValueError for an unknown
    strategy."""
    if strategy not in STRATEGIES:
        raise invalid_name("strategy", strategy, STRATEGIES)
    chosen = STRATEGIES[strategy]
    reason = chosen.forbidden(scenario)
    return Row(strategy, reason) if reason is not None else Run(scenario, chosen, check).row()


def compare(scenario: Scenario, strategies: Sequence[str] | None = None, progress: Progress | None = None) -> Comparison:
    """Run strategies (names, None: all) on a scenario, one after the other. progress: wraps the list of names, as tqdm does.
    ValueError for an unknown strategy, before any runs."""
    names = list(STRATEGIES if strategies is None else strategies)
    for name in names:
        if name not in STRATEGIES:
            raise invalid_name("strategy", name, STRATEGIES)
    return Comparison(scenario, [run_one(scenario, name) for name in (names if progress is None else progress(names))])
