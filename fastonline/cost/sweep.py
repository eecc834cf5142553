"""Grids of runs on any executor: this process, a pool of processes, a Dask cluster. Rows go to a file of JSON lines.

A task is a scenario as a dict, a strategy and a key; machines never leave the process that makes them. Rows do not depend on
the executor or on the order. The same sweep goes on where it was interrupted.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from math import prod, sqrt
from typing import Any, NamedTuple, Protocol

import fastonline
from fastonline.cost.compare import run_one
from fastonline.cost.scenario import Scenario, changed
from fastonline.cost.strategies import STRATEGIES
from fastonline.errors import invalid_name
from fastonline.files import open_regular
from fastonline.record import Record

MOST_POINTS = 10**7
"""The most points that a grid may have without `many`."""

CHUNK_S = 1.0
"""s of work that a chunk of tasks should have."""

ROWS = 2
"""Incremented when the same scenario gives other results than before. It is part of a grid's name."""

RETRIES = 2
"""Times that a run is tried again after its worker died."""

_ROW = b'{"key": '      # how each row begins (_head)
_MAX_LINE = 1 << 26      # bytes: no row is as long
_MOST = 1e100            # no number of a row is as large, and the squares of smaller ones can be added up

Task = tuple[int, str, str, dict[str, Any], dict[str, Any]]
"""(index, key, strategy, scenario as dict, what was set)"""


class Executor(Protocol):
    """What runs chunks: anything whose submit returns a concurrent.futures.Future."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Call fn(*args) somewhere."""


@dataclass(frozen=True)
class Grid:
    """All combinations of values, strategies and seeds on one scenario.

    scenario: the Scenario they start from. sets: ((dotted key, (value, ...)), ...). strategies: names. seeds: how many, from
    the scenario's own on.
    """

    scenario: Scenario
    sets: tuple[tuple[str, tuple[Any, ...]], ...]
    strategies: tuple[str, ...]
    seeds: int

    def __len__(self) -> int:
        return prod(len(values) for _, values in self.sets) * len(self.strategies) * self.seeds

    @property
    def name(self) -> str:
        """The name of the grid: the scenario's, and a digest of everything that is in it, and of ROWS."""
        whole = json.dumps([ROWS, self.scenario.as_dict(), self.sets, self.strategies, self.seeds], sort_keys=True)
        return f"{self.scenario.name}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"

    def tasks(self, skip: Callable[[int], bool] = lambda index: False) -> Iterator[Task]:
        """Every point of the grid but those for whose index `skip` is true, in order."""
        index = 0
        for values in product(*(values for _, values in self.sets)):
            given = {key: value for (key, _), value in zip(self.sets, values, strict=True)}
            base = None
            for seed in range(self.scenario.seed, self.scenario.seed + self.seeds):
                for strategy in self.strategies:
                    if not skip(index):
                        if base is None:
                            base = changed(self.scenario, given).as_dict()
                        key = ",".join([*(f"{key}={_text(value)}" for key, value in given.items()), f"strategy={strategy}",
                                        f"seed={seed}"])
                        yield index, key, strategy, {**base, "seed": seed}, given
                    index += 1


def grid(scenario: Scenario, sets: Mapping[str, Sequence[Any]] | None = None, strategies: Sequence[str] | None = None,
         seeds: int = 1, many: bool = False) -> Grid:
    """The Grid of a scenario.

    sets: {dotted key: values}, such as {"host": ["2G", "4G"], "workload.in_use": [0.5, 0.9]}. strategies: names, None: all.
    seeds: how many, at least 1. many: allow more than MOST_POINTS points. ValueError for unknown names, for values that a
    scenario refuses or that change nothing, and for a grid without a point.
    """
    names = tuple(STRATEGIES if strategies is None else strategies)
    for name in names:
        if name not in STRATEGIES:
            raise invalid_name("strategy", name, STRATEGIES)
    if len(set(names)) < len(names):
        raise ValueError(f"strategy {next(name for name in names if names.count(name) > 1)!r} is given twice")
    given = tuple((key, tuple(values)) for key, values in (sets or {}).items())
    made = Grid(scenario, given, names, seeds)
    if len(made) <= 0:
        raise ValueError("a grid of 0 points: every --set needs a value, and strategies and seeds at least one")
    if len(made) > MOST_POINTS and not many:
        raise ValueError(f"a grid of {len(made)} points: more than {MOST_POINTS} need --yes")
    for key, values in given:
        if key == "seed":
            raise ValueError("seed: give the number of --seeds")
        _check_effect(scenario, key, values)
    return made


def _check_effect(scenario, key, values):
    """Every value must make a scenario, and another one than the rest."""
    seen = []
    for value in values:
        made = changed(scenario, {key: value}).as_dict()
        if len(values) == 1 and made == scenario.as_dict():
            raise ValueError(f"--set {key}={_text(value)} has no effect: the scenario has this value already")
        if made in seen:
            raise ValueError(f"--set {key}: the value {_text(value)} has no effect, an earlier one is the same")
        seen.append(made)


def _text(value):
    return value if isinstance(value, str) else json.dumps(value)


# -- what a worker does

def run_chunk(tasks: Sequence[Task], version: str) -> tuple[list[dict[str, Any]], float]:
    """(rows, s) of `tasks`, in their order. A run that raises becomes a row with its error. RuntimeError when the caller's
    fastonline has another version than this one."""
    if version != fastonline.__version__:
        raise VersionError(f"a worker has fastonline {fastonline.__version__}, not {version}")
    began = time.perf_counter()
    rows = []
    for index, key, strategy, scenario, given in tasks:
        head = _head(index, key, strategy, scenario["seed"], given)
        try:
            rows.append({**head, **run_one(Scenario.from_dict(scenario), strategy).as_dict(samples=False)})
        except Exception as e:
            rows.append({**head, "error": f"{type(e).__name__}: {e}"})
    return rows, time.perf_counter() - began


def _head(index, key, strategy, seed, given):
    return {"key": key, "index": index, "strategy": strategy, "seed": seed, "set": given}


class VersionError(RuntimeError):
    """A worker has another version of fastonline."""


# -- the file of rows

class Rows:
    """The file that a sweep's rows are appended to. path: of the file, made if it is not there. grid: Grid. `done` says which
    points it has.

    A torn last line is cut off. ValueError for rows of another grid or version, and for a file of another kind; OSError when it
    cannot be read or written.
    """

    def __init__(self, path: str, grid: Grid) -> None:
        self.path = path
        self._name = grid.name
        self._done = bytearray(-(-len(grid) // 8))
        self.nr_done = 0
        mode = os.stat(path).st_mode if os.path.exists(path) else None
        if mode is not None and stat.S_ISREG(mode):
            self._read(len(grid))
        elif mode is not None and not stat.S_ISCHR(mode):
            raise OSError(errno.EINVAL, "neither a regular file nor a character device", path)
        self._file = open(path, "ab", buffering=0)      # noqa: SIM115

    def _read(self, points):
        end = 0
        for nr, length, row in _rows(self.path):
            if row.get("version") != fastonline.__version__:
                raise ValueError(
                    f"{self.path}, line {nr}: written by fastonline {row.get('version')}, this is {fastonline.__version__}")
            if row.get("grid") != self._name or not 0 <= row["index"] < points:
                raise ValueError(f"{self.path}, line {nr}: a row of another grid ({row.get('grid')}, this is {self._name})")
            end += length
            self._count_done(row["index"])
        os.truncate(self.path, end)

    def _count_done(self, index):
        if not self.done(index):
            self._done[index >> 3] |= 1 << (index & 7)
            self.nr_done += 1

    def done(self, index: int) -> bool:
        """Is the row of the point `index` there?"""
        return bool(self._done[index >> 3] >> (index & 7) & 1)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row, and flush it. OSError naming the file when it cannot be written."""
        line = json.dumps({**row, "grid": self._name, "version": fastonline.__version__}).encode() + b"\n"
        try:
            while line:
                line = line[self._file.write(line):]
        except OSError as e:
            raise OSError(e.errno, e.strerror, self.path) from None
        self._count_done(row["index"])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


# -- the sweep

class _Here:
    """An executor in this process: a submitted call runs at once."""

    def submit(self, fn, /, *args):
        future = Future()
        try:
            future.set_result(fn(*args))
        except Exception as e:
            future.set_exception(e)
        return future


def sweep(points: Grid, executor: Executor | None = None, out: str | os.PathLike[str] = "runs.jsonl", workers: int = 1,
          progress: Callable[[int, int], object] | None = None) -> int:
    """Run a Grid and append a row for each of its points to the file `out`; rows that are there already are kept and not made
    again. Returns how many were made.

    executor: None, this process; else anything whose `submit` returns a concurrent.futures.Future, such as a pool, or
    ``distributed.Client.get_executor(pure=False)``. workers: how many it has. progress: called as progress(done, all) after
    each chunk. A run that raises becomes a row with its error. The run of a worker that dies is tried twice more, alone, and
    then becomes such a row too.

    TypeError for an executor without submit; ValueError, OSError as Rows; VersionError when a worker has another version.
    """
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(f"an executor needs a submit method, {type(executor).__name__} has none")
    rows = Rows(os.fspath(out), points)
    try:
        return _Sweep(points, rows, _Here() if executor is None else executor, workers, progress).run()
    finally:
        rows.close()


class _Sweep:
    def __init__(self, points, rows, executor, workers, progress):
        self._all = len(points)
        self._rows = rows
        self._executor = executor
        self._most = 1 if isinstance(executor, _Here) else 2 * workers
        self._progress = progress
        self._tasks = points.tasks(rows.done)
        self._chunk = 1
        self._running = {}      # Future: (tasks, times that their worker died)
        self._suspects = deque()      # (task, times that its worker died)

    def run(self):
        before = self._rows.nr_done
        try:
            self._submit()
            while self._running:
                done, _ = wait(self._running, return_when=FIRST_COMPLETED)
                for future in done:
                    self._collect(future)
                if self._progress is not None:
                    self._progress(self._rows.nr_done, self._all)
                self._submit()
        finally:
            for future in self._running:      # none, unless something was raised
                future.cancel()
        return self._rows.nr_done - before

    def _submit(self):
        """Keep the workers busy. A run whose worker died is tried again alone, so that it cannot take others with it."""
        if self._suspects:
            if not self._running:
                task, deaths = self._suspects.popleft()
                self._start([task], deaths)
            return
        while len(self._running) < self._most and (tasks := list(islice(self._tasks, self._chunk))):
            self._start(tasks, 0)

    def _start(self, tasks, deaths):
        self._running[self._executor.submit(run_chunk, tasks, fastonline.__version__)] = tasks, deaths

    def _collect(self, future):
        tasks, deaths = self._running.pop(future)
        try:
            rows, seconds = future.result()
        except VersionError:
            raise
        except Exception as e:      # the worker died, or its answer was lost
            for task in tasks:
                if deaths < RETRIES:
                    self._suspects.append((task, deaths + 1))
                else:
                    index, key, strategy, scenario, given = task
                    self._rows.append({**_head(index, key, strategy, scenario["seed"], given),
                                       "error": f"its worker died {deaths + 1} times: {type(e).__name__}"})
            return
        for row in rows:
            self._rows.append(row)
        self._chunk = max(1, min(1000, round(CHUNK_S * len(rows) / max(seconds, 1e-6)), 2 * self._chunk))


# -- summaries

# quantiles of Student's t for 95 %, by degrees of freedom
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110,
      2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)


class Mean:
    """Mean and variance of numbers as they come (Welford's method)."""

    def __init__(self) -> None:
        self.n = 0
        self.mean = 0.0
        self._squares = 0.0

    def add(self, x: float) -> None:
        """One more number, x."""
        self.n += 1
        delta = x - self.mean
        self.mean += delta / self.n
        self._squares += delta * (x - self.mean)

    @property
    def interval(self) -> float:
        """Half the width of the 95 % interval of the mean; 0 where all numbers are equal, NaN for one number."""
        if self.n < 2:
            return float("nan")
        quantile = _T[self.n - 2] if self.n - 2 < len(_T) else 1.96 + 2.4 / (self.n - 1)
        return quantile * sqrt(self._squares / (self.n - 1) / self.n)


SUMMARY = ("grown_bytes", "overshoot_bytes", "peak_bytes", "shortfall_byte_seconds", "swapped_dead_pages", "notifications",
           "usable_s")
"""The columns that a summary shows."""


def _rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(line number, length in bytes, row) of each row in a file, up to a torn last line, whose writer was killed. A
    file of that line alone begins as a row does. ValueError naming a line that is no row; OSError as open_regular."""
    with open_regular(path) as file:
        for nr, line in enumerate(iter(partial(file.readline, _MAX_LINE), b""), 1):
            whole = line.endswith(b"\n")
            try:
                row = json.loads(line)
                if not isinstance(row["key"], str) or type(row["index"]) is not int:
                    raise TypeError
            except (ValueError, KeyError, TypeError, RecursionError):
                if not whole and (nr > 1 or line.startswith(_ROW[: len(line)])):
                    return
                raise ValueError(f"{os.fspath(path)}, line {nr}: not a row of a sweep") from None
            if not whole:
                return
            yield nr, len(line), row


class Estimate(NamedTuple):
    """A number over several runs. interval: half the width of the 95 % interval. equal: whether all runs gave the same."""

    mean: float
    interval: float
    equal: bool


class Group(Record):
    """The runs of one combination of values and strategy, which differ in their seeds. n: runs. errors: runs that failed.
    reason: None, or why the strategy was not run. Each column of numbers is an Estimate."""

    __slots__ = ()

    key: str
    n: int
    errors: int
    reason: str | None


def summary(path: str | os.PathLike[str], columns: Sequence[str] = SUMMARY) -> list[Group]:
    """Return mean, 95 % interval and n over the seeds of a sweep's rows, for each combination of values and strategy, in the
    order of the grid.

    path: of the file. columns: names of numbers in its rows. ValueError naming the line that is no row.
    """
    groups: dict[str, dict[str, Any]] = {}
    for _, _, row in _rows(path):
        key, index = row["key"].rpartition(",seed=")[0], row["index"]
        group = groups.setdefault(key, {"at": index, "n": 0, "errors": 0, "reason": None, "means": {}})
        group["at"] = min(group["at"], index)
        if "error" in row:
            group["errors"] += 1
            continue
        group["n"] += 1
        group["reason"] = row.get("reason")
        for column in columns:
            value = row.get(column)
            if isinstance(value, (int, float)) and abs(value) < _MOST:
                group["means"].setdefault(column, [Mean(), value, True])
                mean, first, equal = group["means"][column]
                mean.add(value)
                group["means"][column][2] = equal and value == first
    if not groups:
        raise ValueError(f"{os.fspath(path)}: no rows")
    made = []
    for key, group in sorted(groups.items(), key=lambda item: item[1]["at"]):
        shown = Group(key=key, n=group["n"], errors=group["errors"], reason=group["reason"])
        for column, (mean, first, equal) in group["means"].items():
            shown[column] = Estimate(first if equal else mean.mean, 0.0 if equal else mean.interval, equal)
        made.append(shown)
    return made
