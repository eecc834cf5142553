"""Published figures beside what the model predicts for them, for `fastonline compare --published`.

The prices of `cost.costs` come from some of these sources. `Figure.fitted` says where a prediction rests on a price from the
figure's own source, so that agreement is no evidence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fastonline.cost.actors import GuestWork
from fastonline.cost.compare import run_one
from fastonline.cost.costs import LARGE_GUESTS
from fastonline.cost.run import Row
from fastonline.cost.scenario import Scenario, changed, scenario
from fastonline.cost.strategies import HUGE
from fastonline.cost.workloads import read_trace
from fastonline.drivers.virtio_mem import VirtioMem, VirtioMemBus
from fastonline.geometry import X86_64
from fastonline.hotplug.memory import Memory
from fastonline.rules import LINUX_6_1
from fastonline.tables import table, wrapped

_GIB = 1 << 30
_HYPERALLOC = "HyperAlloc, EuroSys'25, luhsra/hyperalloc-bench"
_ZONE_SCAN = "lkml 2511.2/09381, 2601.3/00180, 2604.1/02043"
_THREAD = "the 2008 thread's arithmetic: sections of 512 MiB, steps of 32 MiB, batches of 1024 pages"


@dataclass(frozen=True)
class Figure:
    """A published figure and its prediction.

    low, high: between which the prediction is accepted. fitted: a price behind the prediction is from the same source. missed:
    why a prediction is outside, where that is known.
    """

    what: str
    published: float
    predicted: float
    low: float
    high: float
    source: str
    fitted: bool = False
    missed: str = ""

    @property
    def met(self) -> bool:
        """Whether the prediction is within its bounds."""
        return self.low <= self.predicted <= self.high

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and `met`, for JSON."""
        return {**asdict(self), "met": self.met}


def _exact(what: str, published: float, predicted: float, source: str) -> Figure:
    return Figure(what, published, predicted, published, published, source)


def _within(what: str, published: float, predicted: float, share: float, source: str, **more: Any) -> Figure:
    return Figure(what, published, predicted, published * (1 - share), published * (1 + share), source, **more)


def shrink(name: str, boot: int, target: int, touched: bool = False) -> Row:
    """Return the Row of one shrink of an idle guest, from `boot` to `target` GiB, by the strategy `name`. touched: the guest
    has written all of its memory before."""
    points = [[0, 0], [1, (boot - 1) * _GIB], [999.5, 0]] if touched else [[0, 0]]
    return run_one(Scenario.from_dict({
        "name": "inflate", "boot": f"{boot}G", "host": f"{boot + 2}G", "steps": [[1000, f"{target}G"]],
        "workload": {"kind": "trace", "points": points, "movable": 1.0},
    }), name)


def _counts() -> Iterator[Figure]:
    values = shrink("boot-big", 20, 2).values
    yield _exact("virtio-balloon, 18 GiB: messages", 18432, values["calls"]["discard"], _HYPERALLOC)
    yield _exact("  pages in each", 256, values["frames"]["discard"] / values["calls"]["discard"], _HYPERALLOC)
    both = Scenario.from_dict({"steps": [[10, "2G"], [20, "20G"]], "boot": "20G", "host": "24G", "name": "both"})
    requests = run_one(both, "virtio-mem-huge").values["calls"]["host_message"]
    yield _exact("virtio-mem, 18 GiB: requests", 144, requests / 2, _HYPERALLOC)
    grow = Scenario.from_dict({"name": "grow", "boot": "512M", "host": "20G", "steps": [[10, "16896M"]]})
    memmap = run_one(grow, "virtio-mem").values["memmap_added_pages"] * X86_64.page_size / 2**20
    yield _exact("memmap of 16 GiB, MiB", 256, memmap, "firecracker docs/memory-hotplug.md")


def _shrinks() -> Iterator[Figure]:
    idle = shrink("boot-big", 8, 1).steps[0]["usable_s"] * 1e3
    yield _within("7 GiB of an idle guest, ms", 4126, idle, 0.2, "Li and Wang, lkml July 2017 (1707.3/04371)")
    names = ("boot-big", "virtio-mem", "boot-big-huge", "shared")
    times = {name: shrink(name, 3, 1, touched=True).steps[0]["host_s"] for name in names}
    balloons = ("4 KiB balloon", "virtio-mem", "2 MiB balloon")
    for name, what, ratio in zip(names, balloons, (365, 10.1, 2.6), strict=False):
        predicted = times[name] / times["shared"]
        yield _within(f"{what} / HyperAlloc, touched", ratio, predicted, 0.25, _HYPERALLOC, fitted=True)


def _thread() -> Iterator[Figure]:
    wet, dry = scenario("thread"), scenario("thread-dry")
    for name, grown in (("split", 384), ("whole", 0)):
        yield _exact(f"thread-dry, {name}: grown, MiB", grown, run_one(dry, name).values["grown_bytes"] / 2**20, _THREAD)
    rows = {name: run_one(wet, name).values for name in ("split", "whole", "kvm", "cmm2")}
    for name, over in (("split", 0), ("whole", 480)):
        yield _exact(f"thread, {name}: overshoot, MiB", over, rows[name]["overshoot_bytes"] / 2**20, _THREAD)
    single = run_one(changed(wet, {"batch": 1}), "split").values
    # the phase of prepare_online_pages notifies once more
    yield _exact("thread: notifications by 1024 pages", 128, rows["split"]["notifications"] - 1, _THREAD)
    yield _exact("  by single pages", 131072, single["notifications"] - 1, _THREAD)
    yield _exact("thread, cmm2: free pages swapped", 0, rows["cmm2"]["swapped_dead_pages"], _THREAD)
    kvm = rows["kvm"]["swapped_dead_pages"]
    yield Figure("thread, kvm: free pages swapped, > 0", 1, kvm, 1, 131072, _THREAD)


def _plug_and_unplug(gib):
    """Modelled s of plugging and unplugging so many GiB by blocks of 128 MiB, without and with the scan for holes."""
    mem = Memory(X86_64, boot="1G", rules=LINUX_6_1)
    mem.auto_online_blocks = "online_movable"
    own = GuestWork(mem, LARGE_GUESTS.guest)
    device = VirtioMem(mem, 4 * _GIB, gib * _GIB, 128 << 20)
    VirtioMemBus(mem).add(device)
    before = own.counts()
    if device.request(gib * _GIB) != gib * _GIB or device.request(0) != 0:
        raise RuntimeError(f"virtio-mem did not plug and unplug {gib} GiB")
    without = 2 * gib * (1 << 18) * LARGE_GUESTS.host["virtio-mem"]["discard"].frame / 1e9
    return without, without + own.ns(own.since(before)) / 1e9


def _scan() -> Iterator[Figure]:
    (without, scan), (without_half, scan_half) = _plug_and_unplug(512), _plug_and_unplug(256)
    # the time without the scan is linear in the memory; the published seconds are too coarse to say more
    yield Figure("33-36 s for 512 GiB / 10 s for 256", 3.45, scan / scan_half, 3, 3.7, _ZONE_SCAN, fitted=True)
    yield Figure("  no zone scan: 6-7 s / 2-3 s", 2.6, without / without_half, 1.9, 2.2, _ZONE_SCAN, fitted=True)


def _clang() -> Iterator[Figure]:
    """GiB.min that a 16 GiB guest holds while it follows the clang demand of hyperalloc-bench, if there is a checkout."""
    checkout = os.environ.get("HYPERALLOC_BENCH")
    if not checkout:
        return
    runs = {name: os.path.join(checkout, "compiling", "latest", folder, "out_0.csv")
            for name, folder in (("reporting", "clang-base-auto-o9-d2000-c32"), ("shared", "clang-llfree-auto"))}
    demand = read_trace(runs["reporting"])
    held = {name: _held(name, demand, "random") for name in runs}
    own = {name: _held(name, _outside_free_blocks(path), "newest") for name, path in runs.items()}
    ratio = 545.5 / 422.6
    yield _within("clang under reporting, GiB.min", 545.5, held["reporting"], 0.1, _HYPERALLOC)
    for what, found, missed in (
        ("clang, reporting / HyperAlloc, own blocks", own, ""),
        ("  both with the buddy's blocks", held, (
            "both hold what is not in free blocks of 2 MiB, so that they are equal in equal guests. HyperAlloc's guest has "
            "LLFree in the place of the buddy allocator, which is not modelled. Where each follows the blocks in use that its "
            f"own guest recorded, they hold {own['reporting']:.0f} and {own['shared']:.0f} GiB.min"
        )),
    ):
        yield Figure(what, ratio, found["reporting"] / found["shared"], ratio - 0.1, ratio + 0.1, _HYPERALLOC, missed=missed)


def _held(name, points, free_order):
    """GiB.min that a guest of 16 GiB holds whose demand follows `points`, by the strategy `name`."""
    return run_one(Scenario.from_dict({
        "name": "clang", "boot": "16G", "host": "20G", "steps": [[1, "16G"]], "rules": "6.1", "end": points[-1][0],
        "workload": {"kind": "trace", "points": points, "movable": 0.9, "free_order": free_order},
    }), name).values["held_byte_seconds"] / _GIB / 60


def _outside_free_blocks(path):
    """The trace of the memory that is not in free blocks of 2 MiB, which is how a guest's allocator has spread its pages."""
    total, huge = (read_trace(path, demand=column) for column in ("total", "huge"))
    return [(time, size - blocks * HUGE) for (time, size), (_, blocks) in zip(total, huge, strict=True)]


GROUPS: dict[str, Callable[[], Iterator[Figure]]] = {
    "counts": _counts, "shrinks": _shrinks, "thread": _thread, "scan": _scan, "clang": _clang,
}
"""{name: function that predicts its figures}. "clang" gives none unless $HYPERALLOC_BENCH names a checkout."""


def published(groups: Sequence[str] = tuple(GROUPS)) -> list[Figure]:
    """Return the published figures with their predictions. groups: names of GROUPS."""
    return [figure for name in groups for figure in GROUPS[name]()]


def published_text(figures: Sequence[Figure], width: int | None = None) -> str:
    """Return a table of `figures`, published beside predicted, then each source and why predictions missed. width: columns
    for the text below the table, None: any."""
    rows = [("", "published", "predicted", "accepted", "")]
    sources = list(dict.fromkeys(figure.source for figure in figures))
    for figure in figures:
        marks = f"[{sources.index(figure.source) + 1}]{'*' if figure.fitted else ''}{'' if figure.met else ' MISSED'}"
        accepted = _short(figure.low) if figure.low == figure.high else f"{_short(figure.low)}-{_short(figure.high)}"
        rows.append((figure.what, _short(figure.published), _short(figure.predicted), accepted, marks))
    lines = table(rows, "<>>><")
    for figure in figures:
        if not figure.met and figure.missed:
            lines += wrapped(f"{figure.what.strip()}: {figure.missed}.", width)
    lines += [line for nr, source in enumerate(sources, 1) for line in wrapped(f"[{nr}] {source}", width)]
    lines += wrapped("*: a price behind the prediction is from the same source; agreement only shows that nothing else adds "
                     "to it.", width)
    return "\n".join(lines)


def _short(value):
    return f"{value:.3g}" if value < 1000 and value % 1 else f"{value:.0f}"
