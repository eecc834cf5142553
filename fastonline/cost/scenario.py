"""Scenarios: a guest's machine, its host, its target sizes over time, and its workload.

A `Scenario` is plain data: frozen, picklable, to be read from a TOML file or a dict and written as a dict.
``scenario("thread")`` reads a preset, ``scenario("my.toml")`` a file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from typing import Any

from fastonline.cost.costs import check_price, costs_of
from fastonline.cost.plain import KeyProblem, Reader, check_times, integer, number, optional, pairs, read_table, text, truth
from fastonline.cost.workloads import Workload
from fastonline.errors import invalid_name
from fastonline.files import read_text
from fastonline.geometry import PRESETS as GEOMETRIES, by_name as geometry_by_name, format_size, parse_size
from fastonline.hotplug.memory import ENGINES, MEMMAPS
from fastonline.rules import PRESETS as RULES, by_name as rules_by_name

PRESETS = ("thread", "thread-dry", "inflate", "microvm", "two-guests")
"""The scenarios that come with the package, in fastonline/cost/presets."""

LAST_STEP = 60.0     # s that the last step has, where the scenario does not say


@dataclass(frozen=True)
class Other:
    """Another guest of the host: `steps` are (s, bytes) of what it holds from then on; before the first, nothing."""

    name: str
    steps: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Scenario:
    """One guest on one host. Sizes in bytes, times in virtual s.

    name: for the output. geometry, rules, engine, memmap, memory_block_size: of the guest's Memory, by name. boot: what the
    guest has at the start. maximum: what it may have at most. host: the host's memory; scattered: its frames are lent in
    random order. others: the other guests there. steps: (s, bytes) of the guest's target from then on, until `end`, each later
    than the one before. workload: what uses the guest's memory. costs: the table of costs, and changes to it. user_delay: s
    from a uevent to the moment at which user space onlines the memory. batch: extents in one hypercall of the Xen balloons
    (None: a page of them). policy_period: s between two looks of the host's policy. seed: of everything that is random.

    ValueError and TypeError for invalid values; the message begins with the key.
    """

    name: str
    boot: int
    host: int
    steps: tuple[tuple[float, int], ...]
    maximum: int = 0
    end: float = 0.0
    geometry: str = "X86_64"
    rules: str = "6.12"
    engine: str = "bitmap"
    memmap: str | None = None
    memory_block_size: int | None = None
    scattered: bool = False
    others: tuple[Other, ...] = ()
    workload: Workload = Workload()
    costs: Mapping[str, Any] = field(default_factory=lambda: {"table": "published"})
    user_delay: float = 0.1
    batch: int | None = None
    policy_period: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, by_name in (("geometry", geometry_by_name), ("rules", rules_by_name)):
            try:
                object.__setattr__(self, name, by_name(getattr(self, name)).name)
            except ValueError as e:
                raise ValueError(f"{name}: {e}") from None
        if self.engine not in ENGINES:
            raise ValueError(f"engine: {invalid_name('engine', self.engine, ENGINES)}")
        if self.memmap is not None and self.memmap not in MEMMAPS:
            raise ValueError(f"memmap: {invalid_name('memmap', self.memmap, MEMMAPS)}")
        if self.memmap == "on_memory" and not RULES[self.rules].memmap_on_memory:
            raise ValueError(f"memmap: Linux {self.rules} has no memmap_on_memory")
        if not self.steps:
            raise ValueError("steps: at least one (time, target) is needed")
        if not self.maximum:
            object.__setattr__(self, "maximum", max(self.boot, *(target for _, target in self.steps)))
        if not self.end:
            object.__setattr__(self, "end", self.steps[-1][0] + LAST_STEP)
        self._check_sizes()
        self._check_times()
        if not 0 <= self.user_delay < float("inf"):
            raise ValueError(f"user_delay: {self.user_delay} is not a time from 0 on")
        if not 0 < self.policy_period < float("inf"):
            raise ValueError(f"policy_period: {self.policy_period} is not a time above 0")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch: {self.batch} is not at least 1")
        if self.seed < 0:
            raise ValueError(f"seed: {self.seed} is negative")

    def _check_sizes(self):
        geometry = GEOMETRIES[self.geometry]
        most = geometry.max_pfn * geometry.page_size
        sizes = [("boot", self.boot), *(("steps", target) for _, target in self.steps)]
        sizes += [("maximum", self.maximum), ("host", self.host)]      # the maximum may be that of the steps
        sizes += [("others", size) for other in self.others for _, size in other.steps]
        for key, size in sizes:
            try:
                parse_size(size, geometry.page_size)
            except ValueError as e:
                raise ValueError(f"{key}: {e}") from None
            if key != "others" and size <= 0:
                raise ValueError(f"{key}: a size of 0")
            if key in ("boot", "maximum", "steps") and size > most:
                raise ValueError(f"{key}: {format_size(size)} is more than {self.geometry} can have, {format_size(most)}")
        if self.boot > self.maximum:
            raise ValueError(f"boot: {format_size(self.boot)} is more than the maximum, {format_size(self.maximum)}")
        if self.boot + self.others_at(0.0) > self.host:
            raise ValueError(
                f"boot: {format_size(self.boot)} and {format_size(self.others_at(0.0))} of other guests are more than the host "
                f"has, {format_size(self.host)}"
            )
        for time, target in self.steps:
            if target > self.maximum:
                raise ValueError(
                    f"steps: the target {format_size(target)} at {time:g} s is above the maximum, {format_size(self.maximum)}"
                )
        block = self.memory_block_size
        if block is not None and (block < geometry.section_size or block % geometry.section_size or block & block - 1):
            raise ValueError(
                f"memory_block_size: {format_size(block)} is not 1, 2, 4... sections of {format_size(geometry.section_size)}"
            )

    def _check_times(self):
        for key, steps in [("steps", self.steps), *(("others", other.steps) for other in self.others)]:
            try:
                check_times((time for time, _ in steps), distinct=True)
            except ValueError as e:
                raise ValueError(f"{key}: {e}") from None
        if not self.steps[-1][0] <= self.end < float("inf"):
            raise ValueError(f"end: {self.end:g} s is before the last step")

    def others_at(self, time: float) -> int:
        """Return the bytes that the other guests want at a time, s."""
        return sum(next((size for at, size in reversed(other.steps) if at <= time), 0) for other in self.others)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], directory: str = "") -> Scenario:
        """The scenario that a dict of plain values describes, as TOML has them; sizes are bytes or text such as "512M". Paths
        of traces are relative to `directory`. KeyProblem for a key or a value that is wrong."""
        readers = {**_READERS, "workload": lambda value: Workload.from_dict(value, directory)}
        given = read_table(values, readers)
        for name in ("name", "boot", "host", "steps"):
            if name not in given:
                raise KeyProblem("", f"{name} is missing")
        try:
            return cls(**given)
        except (TypeError, ValueError) as e:
            key, _, message = str(e).partition(": ")
            raise KeyProblem(key, message) from None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON and for from_dict."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["steps"] = [list(step) for step in self.steps]
        values["others"] = [{"name": other.name, "steps": [list(step) for step in other.steps]} for other in self.others]
        values["workload"] = self.workload.as_dict()
        values["costs"] = dict(self.costs)
        return values


# -- reading plain values

def _others(value):
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"expected a list of tables, not {value!r}")
    given = [read_table(other, {"name": text, "steps": _STEPS}) for other in value]
    if not all(other.get("steps") for other in given):
        raise ValueError("another guest needs steps")
    return tuple(Other(other.get("name", f"guest {nr}"), other["steps"]) for nr, other in enumerate(given, 2))


def _costs(value):
    if not isinstance(value, Mapping):
        raise TypeError(f"expected a table, not {value!r}")
    given = dict(value)
    table = text(given.pop("table", "published"))
    costs_of(table, given)
    return {"table": table, **{name: list(check_price(name, price)) for name, price in given.items()}}


def _size(value):
    """parse_size; a decimal fraction is rounded down to whole pages of every geometry."""
    size = parse_size(value)
    return size - size % LARGEST_PAGE if isinstance(value, str) and "." in value else size


LARGEST_PAGE = max(geometry.page_size for geometry in GEOMETRIES.values())
_STEPS = pairs(_size)

_READERS: dict[str, Reader] = {
    "name": text, "geometry": text, "rules": text, "engine": text, "memmap": optional(text), "boot": _size,
    "maximum": _size, "host": _size, "memory_block_size": optional(_size), "scattered": truth, "steps": _STEPS,
    "end": number, "others": _others, "costs": _costs, "user_delay": number, "batch": optional(integer),
    "policy_period": number, "seed": integer,
}


# -- files and presets

def scenario(name: str | os.PathLike[str]) -> Scenario:
    """The scenario of that name: one of PRESETS, or a TOML file.

    OSError when the file cannot be read; ValueError, naming file, line and key, when it is not a scenario; ValueError with the
    nearest preset for a name that is neither.
    """
    name = os.fspath(name)
    if name in PRESETS:
        return _parse((files(__package__) / "presets" / f"{name}.toml").read_text(), name, "")
    if os.path.exists(name) or name.endswith(".toml") or os.sep in name:
        toml = read_text(name).removeprefix("\ufeff")
        return _parse(toml, name, os.path.dirname(name))
    raise invalid_name("preset", name, PRESETS)


# tomllib takes the square of their number
_MANY_PARTS = re.compile(r"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){20}""")


def _parse(toml, name, directory):
    if found := _MANY_PARTS.search(toml):
        raise ValueError(f"{name}, line {toml.count(chr(10), 0, found.start()) + 1}: a key of more than 20 parts")
    try:
        values = tomllib.loads(toml)
    except (ValueError, RecursionError) as e:      # not TOML, a number or brackets without end
        raise ValueError(f"{name}: invalid TOML: {e}") from None
    values.setdefault("name", os.path.splitext(os.path.basename(name))[0])
    try:
        return Scenario.from_dict(values, directory)
    except KeyProblem as e:
        line = _line_of(toml, e.key)
        raise ValueError(f"{name}{'' if line is None else f', line {line}'}: {e}") from None


def _line_of(toml, key):
    """The line at which a TOML text sets a dotted key, or the nearest table around it; None: nowhere."""
    *table, last = key.split(".")
    best, inside = None, []
    for nr, line in enumerate(toml.splitlines(), 1):
        if header := re.match(r"\s*\[+([^\]]+)\]", line):
            inside = header[1].strip().split(".")
            if inside == [*table, last] or inside == table:
                best = best or nr
        elif re.match(rf"\s*[\"']?{re.escape(last)}[\"']?\s*=", line) and inside == table:
            return nr
        elif table and not inside and re.match(rf"\s*{re.escape(table[0])}\s*[.=]", line):
            best = best or nr
    return best


def changed(base: Scenario, changes: Mapping[str, Any]) -> Scenario:
    """`base` with other values. changes: {dotted key: value as in a dict}, such as {"workload.in_use": 0.5}. KeyProblem as
    from_dict."""
    values = base.as_dict()
    for key, value in changes.items():
        *tables, last = key.split(".")
        inside: Any = values
        for table in tables:
            inside = inside.get(table)
            if not isinstance(inside, dict):
                raise KeyProblem(key, str(invalid_name("table", table, ("workload", "costs"))))
        inside[last] = value
    return Scenario.from_dict(values)

