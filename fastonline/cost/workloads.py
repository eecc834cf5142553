"""Workloads of a guest: the memory in use over time (the demand), the share that can move, and the order of frees."""

from __future__ import annotations

import csv
import io
import os
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastonline.cost.plain import KeyProblem, Reader, check_times, integer, number, pairs, read_table, text
from fastonline.errors import invalid_name
from fastonline.files import read_text
from fastonline.geometry import parse_size

FREE_ORDERS = ("random", "newest", "oldest")

COMMON = ("in_use", "movable", "free_order")

KINDS = {
    "ramp": (),
    "sawtooth": ("period", "low", "tick"),
    "compile": ("tick", "low", "job", "jobs"),
    "faas": ("tick", "rate", "instance", "lifetime"),
    "trace": ("trace", "points", "time", "demand", "total", "small"),
}
"""{kind: the keys that it alone takes}"""


@dataclass(frozen=True)
class Workload:
    """What works in a guest. Shares are of 1; times in virtual s, sizes in bytes.

    kind: "ramp" uses `in_use` of the target as it comes and goes. "sawtooth" climbs from `low` to `in_use` of the target in
    each `period`. "compile" holds `low` and up to `jobs` jobs at a time, of `job` bytes on average; they come and go every
    `tick` and never use more than `in_use` of the maximum. "faas" starts `rate` instances a second of `instance` bytes, which
    live `lifetime` on average, up to `in_use` of the maximum. "trace" follows `points`, (s, bytes);
    of several at one time the last holds.

    in_use: share of the target (or of the maximum) in use. movable: share of that which can move. free_order: which pages are
    freed first, "random", "newest" or "oldest".
    """

    kind: str = "ramp"
    in_use: float = 0.0
    movable: float = 0.9
    free_order: str = "random"
    tick: float = 1.0
    period: float = 60.0
    low: float = 0.1
    job: int = 128 << 20
    jobs: int = 12
    rate: float = 0.5
    instance: int = 128 << 20
    lifetime: float = 30.0
    points: tuple[tuple[float, int], ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: {invalid_name('workload', self.kind, KINDS)}")
        if self.free_order not in FREE_ORDERS:
            raise ValueError(f"free_order: {invalid_name('order', self.free_order, FREE_ORDERS)}")
        for name in ("in_use", "movable", "low"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not a share from 0 to 1")
        for name in ("tick", "period", "rate", "lifetime"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: {getattr(self, name)} is not a number above 0")
        for name in ("job", "instance", "jobs"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not above 0")
        if self.kind == "trace":
            if not self.points:
                raise ValueError("trace: the workload 'trace' needs a CSV file (trace) or points")
            try:
                check_times(time for time, _ in self.points)
            except ValueError as e:
                raise ValueError(f"points: {e}") from None

    @classmethod
    def from_dict(cls, values: Any, directory: str = "") -> Workload:
        """The workload of a dict of plain values; a trace is read from the file that `trace` names, relative to `directory`.
        TypeError and ValueError, the key first."""
        if not isinstance(values, Mapping):
            raise TypeError(f"expected a table, not {values!r}")
        kind = values.get("kind", "ramp")
        if kind not in KINDS:
            raise KeyProblem("kind", str(invalid_name("workload", kind, KINDS)))
        keys = ("kind", *COMMON, *KINDS[kind])
        for key in values:
            others = [name for name, own in KINDS.items() if key in own]
            if key not in keys and others:
                raise KeyProblem(key, f"the workload {kind!r} has no key {key!r} (only {', '.join(others)})")
        given = read_table(values, {key: _READERS[key] for key in keys})
        columns = {name: given.pop(name) for name in ("time", "demand", "total", "small") if name in given}
        if "trace" in given:
            if "points" in given:
                raise KeyProblem("trace", "give a file or points, not both")
            given["points"] = read_trace(os.path.join(directory, given.pop("trace")), **columns)
        elif columns:
            raise KeyProblem(next(iter(columns)), "names a column of a trace, but there is no trace")
        try:
            return cls(**given)
        except ValueError as e:
            raise KeyProblem(*str(e).split(": ", 1)) from None

    def as_dict(self) -> dict[str, Any]:
        """Plain values: what this kind of workload takes. A trace is there as its points."""
        keys = ("kind", *COMMON, *KINDS[self.kind])
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name in keys}
        if "points" in values:
            values["points"] = [list(point) for point in self.points]
        return values

    def demand(self, boot: int, maximum: int, steps: tuple[tuple[float, int], ...], end: float, seed: int
               ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """(times, bytes): what the workload wants from each time on, the first at 0 s; until `end`. boot, maximum, steps: of
        the scenario; seed: of what is random."""
        if self.kind == "trace":
            times = np.array([time for time, _ in self.points])
            wanted = np.array([size for _, size in self.points], np.int64)
            if times[0] > 0:
                times, wanted = np.insert(times, 0, 0.0), np.insert(wanted, 0, wanted[0])
            return times, wanted
        if self.kind == "ramp":
            targets = [(0.0, boot), *steps]
            return (np.array([time for time, _ in targets]),
                    np.array([int(self.in_use * target) for _, target in targets], np.int64))
        times = np.arange(0.0, end, self.tick)
        rng = np.random.default_rng([seed, 1])
        if self.kind == "sawtooth":
            at = [0.0, *(time for time, _ in steps)]
            sizes = np.array([boot, *(target for _, target in steps)])
            target = sizes[[bisect_right(at, time) - 1 for time in times]]
            share = self.low + (self.in_use - self.low) * (times % self.period) / self.period
            return times, (share * target).astype(np.int64)
        if self.kind == "compile":
            jobs = np.zeros(self.jobs)
            wish = np.empty(times.size)
            for i in range(times.size):
                ends = rng.random(self.jobs) < 0.25
                jobs[ends] = rng.exponential(self.job, int(ends.sum()))
                wish[i] = self.low * maximum + jobs.sum()
        else:
            starts = rng.poisson(self.rate * self.tick, times.size)
            wish = np.zeros(times.size)
            for i, nr in enumerate(starts.tolist()):
                for lives in rng.exponential(self.lifetime, nr):
                    wish[i : i + 1 + int(lives / self.tick)] += self.instance
        return times, np.minimum(wish, self.in_use * maximum).astype(np.int64)


def read_trace(path: str, time: str = "time", demand: str | None = None, total: str = "total", small: str = "small"
               ) -> tuple[tuple[float, int], ...]:
    """((s, bytes), ...) of a CSV file with a header.

    path: of the file. time, demand: names of the columns of seconds and bytes. Without a column of demand, demand is `total`
    (bytes) less 4096 times `small` (free pages of 4 KiB), as hyperalloc-bench records it. OSError when the file cannot be read,
    ValueError naming file and line when it is not a trace.
    """
    rows = csv.reader(io.StringIO(read_text(path).removeprefix("\ufeff"), newline=""))
    header = [cell.strip() for cell in next(rows, [])]
    if not header:
        raise ValueError(f"{path}: empty")
    if all(_is_number(cell) for cell in header):
        raise ValueError(f"{path}, line 1: no header, expected names of columns")
    if demand is None and "demand" in header:
        demand = "demand"
    columns = [time, demand] if demand is not None else [time, total, small]
    for name in columns:
        if name not in header:
            choose = "" if demand is not None or name == time else "; name the column of bytes with demand = \"NAME\""
            raise ValueError(f"{path}, line 1: no column {name!r} (expected one of {', '.join(header)}){choose}")
    at = [header.index(name) for name in columns]
    points: list[tuple[float, int]] = []
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        try:
            cells = [float(row[i]) for i in at]
        except (IndexError, ValueError):
            text = ",".join(row)
            raise ValueError(f"{path}, line {rows.line_num}: {text!r} has no number for {', '.join(columns)}") from None
        wanted = cells[1] if demand is not None else max(0.0, cells[1] - 4096 * cells[2])
        if not isfinite(cells[0]) or not isfinite(wanted) or cells[0] < 0 or wanted < 0:
            raise ValueError(f"{path}, line {rows.line_num}: {','.join(row)!r} is negative or not finite")
        if points and cells[0] < points[-1][0]:
            raise ValueError(f"{path}, line {rows.line_num}: the time goes back from {points[-1][0]:g} to {cells[0]:g} s")
        points.append((cells[0], int(wanted)))
    if not points:
        raise ValueError(f"{path}: no line after the header")
    return tuple(points)


def _is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True


_READERS: dict[str, Reader] = {
    "kind": text, "in_use": number, "movable": number, "free_order": text, "tick": number, "period": number, "low": number,
    "job": parse_size, "jobs": integer, "rate": number, "instance": parse_size, "lifetime": number, "trace": text,
    "points": pairs(parse_size), "time": text, "demand": text, "total": text, "small": text,
}
