"""Comparison of two profiles: ratios with confidence intervals, so that noise does not count as a change."""

import json
import math
from typing import Any

import numpy as np

from fastonline.files import Path, read_text
from fastonline.record import Record

_RESAMPLES = 2000
_MOST_NS = 1e18      # 30 years
_SAME = ("geometry", "rules", "section", "nr_pages", "boot")


class Ratio(Record):
    """One workload of two profiles. ratio: new median over old. low, high: its 95 % interval, from resampled medians. worse:
    whether the whole interval is above 1 + tolerance."""

    __slots__ = ()

    engine: str
    workload: str
    ratio: float
    low: float
    high: float
    worse: bool


def load_profile(path: Path) -> dict[str, Any]:
    """Read a profile that `fastonline profile --json` wrote to the file `path`.

    ValueError naming the file when it is not one; OSError as `files.open_regular`.
    """
    try:
        old = json.loads(read_text(path))
        for row in old["rows"] + old["calls"]:
            times = np.asarray(row["times"], float)
            if times.ndim != 1 or times.size == 0 or not ((times >= 0) & (times < _MOST_NS)).all():
                raise ValueError
            if not isinstance(row["engine"], str) or not isinstance(row["workload"], str):
                raise TypeError
        if not all(key in old for key in _SAME):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(
            f"{path}: not a profile with every repeat's time (fastonline profile --json FILE writes one)"
        ) from None
    return old


def against(new: dict[str, Any], old: dict[str, Any], tolerance: float = 0.1, seed: int = 1) -> list[Ratio]:
    """Compare two profiles of the same section, `new` and `old`; return a row for each engine and workload that both have.

    tolerance: how much longer a workload may take, 0.1 for 10 %. seed: of the bootstrap. ValueError when the profiles are of
    different sections, or have no workload in common.
    """
    for name in _SAME:
        if new[name] != old[name]:
            raise ValueError(f"the older profile has {name} {old[name]!r:.80}, this one {new[name]!r}: they cannot be compared")
    random = np.random.default_rng(seed)
    before = {(row["engine"], row["workload"]): row["times"] for row in old["rows"] + old["calls"]}
    rows = []
    for row in new["rows"] + new["calls"]:
        key = row["engine"], row["workload"]
        if key not in before:
            continue
        ratios = _medians(row["times"], random) / np.maximum(_medians(before[key], random), 1)
        low, high = np.quantile(ratios, (0.025, 0.975))
        ratio = float(np.median(row["times"])) / max(float(np.median(before[key])), 1)
        rows.append(Ratio(
            engine=key[0], workload=key[1], ratio=ratio, low=float(low), high=float(high), worse=bool(low > 1 + tolerance)
        ))
    if not rows:
        raise ValueError("the two profiles have no workload in common")
    return rows


def _medians(times, random):
    """Medians of _RESAMPLES resamples of `times`, drawn directly: the middle one of n uniform numbers has a beta distribution,
    and so has the distance to the next one, as a share of what is left."""
    values = np.sort(np.asarray(times, float))
    n, half = values.size, (values.size - 1) // 2
    lower = random.beta(half + 1, n - half, _RESAMPLES)
    upper = lower + (1 - lower) * random.beta(1, n - half - 1, _RESAMPLES) if n % 2 == 0 else lower
    return (_at(values, lower) + _at(values, upper)) / 2


def _at(values, shares):
    return values[np.minimum((shares * values.size).astype(int), values.size - 1)]


def against_text(rows: list[Ratio], tolerance: float) -> str:
    """Return the `rows` of `against` as a table that names the `tolerance` they were made with."""
    lines = [f"{'new over old':<34}{'ratio':>8}  95 % interval"]
    for row in rows:
        mark = "  WORSE" if row["worse"] else ""
        lines.append(
            f"{row['engine']:<12}{row['workload']:<22}{row['ratio']:>8.3f}  {row['low']:.3f} to {row['high']:.3f}{mark}"
        )
    worse = sum(row["worse"] for row in rows)
    geometric = math.exp(sum(math.log(max(row["ratio"], 1e-9)) for row in rows) / len(rows))
    lines.append(f"geometric mean {geometric:.3f}; {worse} of {len(rows)} worse by more than {tolerance:.0%}")
    return "\n".join(lines) + "\n"
