"""Costs by size of the machine, from 2^17 to 2^34 pages, and the cost of the first touch of a memmap."""

import mmap
import os
import resource
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastonline.cost.caches import cache_sizes
from fastonline.cost.phases import time_call, time_in_order, time_memset
from fastonline.cost.profile import SEED, Summary, summary
from fastonline.cost.provenance import provenance
from fastonline.geometry import X86_64
from fastonline.hotplug.memory import ENGINES, Memory
from fastonline.record import Record
from fastonline.rules import LINUX_6_12

ORDERS = tuple(range(17, 35))
_RANDOM_PAGES = 1 << 16
_STATE = {"bitmap": 0.55, "struct_page": 72.0}
"""Bytes of state a page, for the decision whether a size fits: planes and summary, or descriptors and tables."""


class Size(Record):
    """The costs of one engine at one size. A size that does not fit has `skipped`, the reason, and none of the last three.

    - engine, order, pages: 2^order pages. online: Summary of ns a page, all of it by online_pages. random: Summary of ns a
      page, up to 2^16 pages at random through the C API. bytes_per_page: bytes of state written by onlining it all.
    """

    __slots__ = ()

    engine: str
    order: int
    pages: int
    skipped: str
    online: Summary
    random: Summary
    bytes_per_page: float


class Scale(Record):
    """What `scale` measured. provenance: cost.provenance.provenance. caches: cost.caches.cache_sizes. rows: a Size for each
    engine and size."""

    __slots__ = ()

    provenance: dict[str, Any]
    caches: dict[str, int]
    rows: list[Size]


class Bend(Record):
    """The largest step of a curve: from `order` on random pages cost `factor` times as much. cache: whose size lies between
    the states of the two sizes, or None."""

    __slots__ = ()

    order: int
    cache: str | None
    factor: float


class FirstTouch(Record):
    """The first write of new page descriptors. backing: "small pages" or "huge pages", what madvise asked for. bytes: written.
    ns: Summary of a run. ns_per_page: least. faults: page faults of a run. again: Summary of the ns of a second write."""

    __slots__ = ()

    backing: str
    bytes: int
    ns: Summary
    faults: int
    ns_per_page: float
    again: Summary


def available_bytes() -> int:
    """Return the memory that this process could still use: MemAvailable, or what is left below RLIMIT_AS if that is less."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open("/proc/meminfo") as file:
            free = next((int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:")), free)
    except OSError:
        pass
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return free if soft == resource.RLIM_INFINITY else min(free, soft)


def scale(
    engines: Sequence[str] = ENGINES, orders: Iterable[int] = ORDERS, repeat: int = 3,
    progress: Callable[[list[tuple[str, int]]], Iterable[tuple[str, int]]] = iter,
) -> Scale:
    """Measure machines of 2^order pages.

    engines, orders: which. Sizes whose state takes more than half of the memory that is available are skipped. repeat: of each
    measurement. progress: as for cost.profile.profile.
    """
    steps = [(engine, order) for engine in engines for order in orders]
    rows: list[Size] = []
    for engine, order in progress(steps):
        row = Size(engine=engine, order=order, pages=1 << order)
        needed, there = int(_STATE[engine] * (1 << order)), available_bytes()
        if needed > there // 2:
            row["skipped"] = f"needs {needed >> 20} MiB of state, more than half of the {there >> 20} MiB available"
        else:
            row.update(_measure(engine, 1 << order, repeat))
        rows.append(row)
    return Scale(provenance=provenance(seed=SEED), caches=cache_sizes(), rows=rows)


def _measure(engine, pages, repeat):
    mem = Memory(replace(X86_64, name="X86_64"), rules=LINUX_6_12, engine=engine)
    mem.add_memory(0, pages)
    random = np.random.default_rng(SEED)
    some = np.sort(random.choice(pages, min(pages, _RANDOM_PAGES), replace=False)) if pages <= 1 << 22 else \
        np.unique(random.integers(0, pages, _RANDOM_PAGES))
    some = random.permutation(some).astype(np.uint64)
    whole, single, written = [], [], 0
    for run in range(repeat + 1):
        before = mem.stats()["bytes_touched"]
        ns, _ = time_call(mem.online_pages, (0, pages))
        written = mem.stats()["bytes_touched"] - before
        mem.offline_pages(0, pages)
        mem.prepare_online_pages(0, pages)
        one, done = time_in_order(mem, some)
        if done != some.size:
            raise AssertionError(f"{done} of {some.size} pages went online")
        mem.offline_pages(0, pages)
        if run:     # the first touches memory for the first time
            whole.append(ns / pages)
            single.append(one / some.size)
    return {"online": summary(whole), "random": summary(single), "bytes_per_page": written / pages}


def bend(result: Scale, engine: str) -> Bend | None:
    """Return where random pages begin to cost more on an `engine`, in `scale`'s `result`: the largest step from one size to the
    next. None when fewer than three sizes were measured."""
    rows = [row for row in result["rows"] if row["engine"] == engine and "random" in row]
    if len(rows) < 3:
        return None
    factors = [b["random"]["min"] / max(a["random"]["min"], 1e-9) for a, b in zip(rows, rows[1:], strict=False)]
    at = int(np.argmax(factors))
    low, high = (row["pages"] * _STATE[engine] for row in rows[at : at + 2])
    cache = next((name for name, size in result["caches"].items() if low <= size <= high * 2), None)
    return Bend(order=rows[at + 1]["order"], cache=cache, factor=factors[at])


def touch_memmap(nr_pages: int, descriptor_bytes: int = 64, repeat: int = 3) -> list[FirstTouch]:
    """Measure the first write of new page descriptors, as add_memory of a struct_page machine makes it, on small pages and on
    huge pages.

    nr_pages: pages that the descriptors are for. descriptor_bytes: of each. repeat: measurements of each setting.
    """
    rows = []
    for backing, advice in (("small pages", mmap.MADV_NOHUGEPAGE), ("huge pages", mmap.MADV_HUGEPAGE)):
        first, again, faults = [], [], 0
        for _ in range(repeat):
            size = -(-nr_pages * descriptor_bytes // (2 << 20)) * (2 << 20)
            with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as room:
                try:
                    room.madvise(advice)
                except OSError:
                    break       # a kernel without huge pages
                array = np.frombuffer(room, np.uint8)
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                first.append(time_memset(array)[0])
                faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
                again.append(time_memset(array)[0])
                del array
        if first:
            rows.append(FirstTouch(
                backing=backing, bytes=nr_pages * descriptor_bytes, ns=summary(first), faults=faults,
                ns_per_page=min(first) / nr_pages, again=summary(again),
            ))
    return rows


def scale_text(result: Scale) -> str:
    """Return the rows of `scale`'s `result` as a table, and where the curve bends."""
    from fastonline.cost.report import number
    lines = [f"{'pages':>6}  {'engine':<12}{'online_pages':>14}{'random page':>14}{'bytes/page':>12}    (ns a page, least)"]
    for row in result["rows"]:
        name = f"2^{row['order']}"
        if "skipped" in row:
            lines.append(f"{name:>6}  {row['engine']:<12}{row['skipped']}")
        else:
            lines.append(f"{name:>6}  {row['engine']:<12}{number(row['online']['min']):>14}{number(row['random']['min']):>14}"
                         f"{number(row['bytes_per_page']):>12}")
    for engine in dict.fromkeys(row["engine"] for row in result["rows"]):
        found = bend(result, engine)
        if found is not None:
            cache = f": its state outgrows the {found.cache} cache" if found.cache else ""
            lines.append(f"{engine}: random pages cost {found.factor:.1f} times as much from 2^{found.order} pages on{cache}")
    return "\n".join(lines) + "\n"


def memmap_text(rows: list[FirstTouch]) -> str:
    """Return the `rows` of `touch_memmap` as a table."""
    from fastonline.cost.report import number, size
    lines = [f"{'memmap, first touch':<22}{'written':>12}{'ns a page':>12}{'faults':>10}{'again':>12}"]
    for row in rows:
        again = number(row["ns_per_page"] * row["again"]["min"] / max(row["ns"]["min"], 1))
        lines.append(
            f"{row['backing']:<22}{size(row['bytes']):>12}{number(row['ns_per_page']):>12}{row['faults']:>10}{again:>12}"
        )
    return "\n".join(lines) + "\n"
