"""A run of one driver through a series of targets, for `fastonline balloon`."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

from fastonline.drivers.cmm import Cmm1, Cmm2, HintedDomain
from fastonline.drivers.consumers import Udev
from fastonline.drivers.dimm import Dimms
from fastonline.drivers.driver import Driver, run
from fastonline.drivers.host import Host
from fastonline.drivers.hyperv import HvBalloon
from fastonline.drivers.hypervisor import Domain, ResidentDomain
from fastonline.drivers.virtio_balloon import VirtioBalloonDriver
from fastonline.drivers.virtio_mem import VirtioMemDriver
from fastonline.drivers.xen import XenBalloon, by_name as xen_behaviour
from fastonline.errors import invalid_name
from fastonline.figures import LINE_COLORS, drawing
from fastonline.geometry import Geometry, format_size, parse_size
from fastonline.hotplug.memory import Memory
from fastonline.rules import Rules
from fastonline.tables import fitted, short, wrapped

INTERVAL = 60.0     # s between targets that come without times

Progress = Callable[[Sequence[tuple[float, int]]], Iterable[tuple[float, int]]]


@dataclass(frozen=True)
class Sample:
    """The state at the end of a target's time. Sizes in bytes; plugged_s and usable_s in virtual seconds."""

    time: float
    """Virtual s at which the next target came."""
    target: int
    actual: int
    """Memory that the driver has plugged, or left to the guest."""
    usable: int
    """The part of `actual` that the guest's allocator has. Added memory that is not online yet does not count."""
    total: int
    """The most that the guest could use without adding memory: its totalram and the balloon."""
    host_free: int
    calls: int
    """Calls to the host for this target."""
    call_ns: float
    """The cost of these calls, ns."""
    wall_ms: float
    """Wall time of the simulation, ms."""
    obstacle: str = ""
    """Why the target was not reached, "" if it was."""
    plugged_s: float | None = None
    """Virtual s from the target until `actual` reached it. None: it did not."""
    usable_s: float | None = None
    """The same for `usable`."""

    @property
    def remark(self) -> str:
        """Why the target is not reached, or not usable yet; else ""."""
        if self.obstacle:
            return f"target {_size(self.target)} not reached: {self.obstacle}"
        waiting = self.actual - self.usable
        return f"target {_size(self.target)} not usable: {_size(waiting)} is plugged and not online" \
            if waiting > 0 else ""


@dataclass(frozen=True, repr=False)
class Series:
    """A run of a driver: its samples, its steps (every change of `actual` as (s, bytes)), the driver's own counts at the end,
    and its calls to the host by name, in all."""

    driver: str
    samples: tuple[Sample, ...]
    steps: tuple[tuple[float, int], ...]
    counts: dict[str, int]
    calls: dict[str, int]

    def __repr__(self) -> str:
        return f"<Series {self.driver} targets={len(self.samples)} reached={sum(not s.obstacle for s in self.samples)}>"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int | None = None) -> str:
        """Return a table, one row a target, then a line for each target that was not reached and the counts. Columns that do
        not fit in `width` go into a second table below."""
        rows = [("time s", "target", "plugged", "usable", "host free", "plugged s", "usable s", "calls", "call ms")]
        rows += [(
            f"{s.time:.1f}", *map(_size, (s.target, s.actual, s.usable, s.host_free)), _seconds(s.plugged_s),
            _seconds(s.usable_s), str(s.calls), f"{s.call_ns / 1e6:.3f}",
        ) for s in self.samples]
        lines = fitted(rows, ">" * 9, width)
        for s in self.samples:
            if s.remark:
                lines += wrapped(f"{s.time:.1f} s: {s.remark}", width)
        counted = "  ".join(f"{name}={number}" for name, number in {**self.counts, **self.calls}.items() if number)
        return "\n".join([*lines, *wrapped(counted, width)])

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw target and actual size over time into the file `path`, whose suffix names the format. ImportError without
        matplotlib; ValueError for an unknown suffix."""
        begin = [0.0, *(s.time for s in self.samples[:-1])]
        ends = [*begin, self.samples[-1].time]
        targets = [*(s.target / 2**20 for s in self.samples), self.samples[-1].target / 2**20]
        with drawing(path, 8, 4.5) as figure:
            axes = figure.add_subplot()
            # the target is wide and pale: what coincides with it is drawn upon it
            axes.step(ends, targets, where="post", color=LINE_COLORS["target"], linewidth=5, alpha=0.6, label="target")
            axes.step([at for at, _ in self.steps], [size / 2**20 for _, size in self.steps], where="post",
                      color=LINE_COLORS["actual"], linewidth=1.5, label="actual: plugged, or left to the guest")
            axes.set(title=f"{self.driver}: target and actual size of the guest", xlabel="time, s (virtual)", ylabel="MiB")
            axes.set_ylim(bottom=0)
            axes.margins(y=0.1)
            axes.grid(color="0.9")
            axes.legend()


def _size(size):
    """A size as text, exact unless that is too long to read: 1181114368 -> "1.1G"."""
    exact = format_size(size)
    return exact if len(exact) <= 6 else short(size)


def _seconds(seconds):
    return "-" if seconds is None else f"{seconds:.3f}"


def parse_targets(text: str) -> list[tuple[float, int]]:
    """Return [(s, bytes)] of a text such as ``"1G,1.5G,768M"``, one target a minute. ValueError for an invalid size."""
    parts = [part.strip() for part in text.split(",")]
    if not any(parts):
        raise ValueError("no target given (expected sizes such as 1G,1.5G,768M)")
    return [(at * INTERVAL, parse_size(part)) for at, part in enumerate(parts)]


DRIVERS: dict[str, Callable[..., Driver]] = {}
"""{name: function(mem, host, boot, max_memory, **options) -> Driver} of the drivers that a series can be run through."""


def _xen(mem, host, boot, max_memory, behaviour="6.18", order=0, batch=None, auto_online=True):
    return XenBalloon(mem, Domain(host, boot, max_memory), xen_behaviour(behaviour), order, batch, auto_online)


def _virtio(mem, host, boot, max_memory, reporting=False):
    return _touched(VirtioBalloonDriver(mem, ResidentDomain(host, max_memory), reporting=reporting))


def _virtio_mem(mem, host, boot, max_memory, block_size=None, auto_online=True):
    return VirtioMemDriver(mem, Domain(host, boot, max_memory), block_size, auto_online)


def _hyperv(mem, host, boot, max_memory, auto_online=True):
    return HvBalloon(mem, Domain(host, boot, max_memory), auto_online)


def _cmm(mem, host, boot, max_memory, behaviour="cmm1"):
    if behaviour not in ("cmm1", "cmm2"):
        raise invalid_name("behaviour", behaviour, ("cmm1", "cmm2"))
    domain = (ResidentDomain if behaviour == "cmm1" else HintedDomain)(host, max_memory)
    if behaviour == "cmm1":
        return _touched(Cmm1(mem, domain))
    return _touched(Cmm2(mem, domain))


def _touched(driver):
    """A guest that has used all of its memory once, so that it holds as many frames as one of the other drivers'; cmm2's has
    three quarters of it as page cache."""
    mem, domain = driver.mem, driver.domain
    pfns = mem.alloc_pages_bulk(min(mem.totalram_pages, domain.available(mem.totalram_pages)))
    domain.touch(pfns)
    mem.free_pfns(pfns)
    if isinstance(driver, Cmm2):
        driver.cache_pages(pfns.size // 4 * 3)
    return driver


def _dimm(mem, host, boot, max_memory, auto_online=True):
    return Dimms(mem, Domain(host, boot, max_memory), auto_online=auto_online)


DRIVERS.update({
    "xen": _xen, "virtio": _virtio, "virtio-mem": _virtio_mem, "hyperv": _hyperv, "cmm": _cmm, "dimm": _dimm,
})


def run_series(
    name: str, targets: Sequence[tuple[float, int]], geometry: Geometry | str, rules: Rules | str, boot: int | str,
    host_memory: int | str, *, engine: str = "bitmap", max_memory: int | str | None = None, scattered: bool = False,
    seed: int = 0, call_ns: float | dict[str, float] = 0, udev_delay: float | None = None, memmap: str | None = None,
    memory_block_size: int | str | None = None, progress: Progress | None = None, **options: Any
) -> Series:
    """Take a driver through targets.

    name: of DRIVERS. targets: [(s, bytes)] ascending (parse_targets, read_targets); the last has a minute. geometry, rules,
    engine, boot, memmap, memory_block_size: the guest's Memory. host_memory, scattered, seed, call_ns: the Host. max_memory:
    what the host allows the guest. udev_delay: s after which user space onlines added memory, None: the kernel does at once.
    progress: wraps the list of targets, as tqdm does. options: the driver's own (xen: behaviour, order, batch; virtio:
    reporting; virtio-mem: block_size; cmm: behaviour). Returns a Series.

    ValueError, TypeError for arguments that make no sense, HotplugError ENOMEM for a guest that the host cannot build.
    """
    if name not in DRIVERS:
        raise invalid_name("driver", name, DRIVERS)
    mem = Memory(geometry, boot=boot, rules=rules, engine=engine, memmap=memmap, memory_block_size=memory_block_size)
    page_size = mem.geometry.page_size
    host = Host(host_memory, page_size, scattered, seed, call_ns)
    if udev_delay is not None:
        options["auto_online"] = False
    for option in options.keys() - inspect.signature(DRIVERS[name]).parameters:
        raise ValueError(f"the driver {name} has no option {'udev_delay' if option == 'auto_online' else option}")
    driver = DRIVERS[name](mem, host, boot, max_memory, **options)
    recorder = _Recorder(driver)
    actors = [_Watched(recorder, driver)]
    if udev_delay is not None:
        actors.insert(0, _Watched(recorder, Udev(mem, udev_delay)))
    samples, domain = [], driver.domain
    ends = [at for at, _ in targets[1:]] + [targets[-1][0] + INTERVAL]
    for (at, size), end in zip(targets if progress is None else progress(targets), ends, strict=True):
        calls, ns, wall = sum(domain.calls.values()), domain.ns, time.perf_counter()
        recorder.begin(size, at)
        driver.set_target(size, at)
        run(actors, end, at)
        samples.append(Sample(
            time=end,
            target=size,
            actual=driver.current_pages * page_size,
            usable=driver.usable_pages * page_size,
            total=(mem.totalram_pages + driver.counts().get("balloon", 0)) * page_size,
            host_free=host.free_frames * page_size,
            calls=sum(domain.calls.values()) - calls,
            call_ns=domain.ns - ns,
            wall_ms=(time.perf_counter() - wall) * 1e3,
            obstacle=driver.obstacle(),
            plugged_s=recorder.plugged_s,
            usable_s=recorder.usable_s,
        ))
    recorder.step(ends[-1])
    driver.validate()
    return Series(name, tuple(samples), tuple(recorder.steps), driver.counts(), dict(domain.calls))


class _Recorder:
    """Samples of a driver: after each time that it worked, and when a target is reached."""

    def __init__(self, driver):
        self._driver = driver
        self._page = driver.mem.geometry.page_size
        self.steps = []
        self.step(0.0)

    def begin(self, target, at):
        """A target, bytes, comes at the time `at`."""
        self._target, self._at = target // self._page, at
        self._grows = self._target >= self._driver.current_pages
        self.plugged_s = self.usable_s = None
        self.note(at)

    def step(self, now):
        self.steps.append((now, self._driver.current_pages * self._page))

    def note(self, now):
        """Somebody worked."""
        after = max(now, self._driver.domain.now) - self._at
        if self.plugged_s is None and self._reached(self._driver.current_pages):
            self.plugged_s = after
        if self.usable_s is None and self._reached(self._driver.usable_pages):
            self.usable_s = after

    def _reached(self, pages):
        return pages >= self._target if self._grows else pages <= self._target


class _Watched:
    """An actor whose work the recorder sees."""

    def __init__(self, recorder, actor):
        self._recorder = recorder
        self._actor = actor

    @property
    def due(self):
        return self._actor.due

    def work(self, now):
        self._actor.work(now)
        if isinstance(self._actor, Driver):
            self._recorder.step(now)
        self._recorder.note(now)
