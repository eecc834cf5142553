"""From flags of /proc/kpageflags to runs of pages in one state, as Memory.from_page_map takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastonline.core.pageflags import (
    KPF_BUDDY,
    KPF_DIRTY,
    KPF_NOPAGE,
    KPF_OFFLINE,
    KPF_RESERVED,
    PAGE_FREE,
    PAGE_IN_USE,
    PAGE_OFFLINE,
    PAGE_WAITING,
)
from fastonline.core.runs import run_starts
from fastonline.linux.proctext import ZoneInfo
from fastonline.linux.ranges import Ranges

_FLAGLESS = 0xFF        # in use or with the host, until managed_pages has decided

KPF_NAMES = dict(enumerate((
    "locked", "error", "referenced", "uptodate", "dirty", "lru", "active", "slab", "writeback", "reclaim", "buddy", "mmap",
    "anon", "swapcache", "swapbacked", "compound_head", "compound_tail", "huge", "unevictable", "hwpoison", "nopage", "ksm",
    "thp", "offline", "zero_page", "idle", "pgtable",
))) | dict(enumerate((
    "reserved", "mlocked", "mappedtodisk", "private", "private_2", "owner_private", "arch", "uncached", "softdirty", "arch_2",
), 32))
"""Bit of /proc/kpageflags -> name (include/uapi/linux/kernel-page-flags.h and kernel-page-flags.h, 6.12)."""

Runs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]
"""First pfns, ends and states of runs of pages, ascending."""
Map = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint8]]
"""First pfns, lengths and states."""


@dataclass(frozen=True, kw_only=True)
class MappedZone(ZoneInfo):
    """A zone with its pages, as Memory.from_page_map takes it."""

    runs: Map


def states_of(start: NDArray[np.uint64], length: NDArray[np.uint64], flags: NDArray[np.uint64]) -> Runs:
    """The runs of a map of KPF_* flags that have page frames, with their states."""
    state = np.full(len(flags), PAGE_IN_USE, np.uint8)
    state[flags == 0] = _FLAGLESS
    # since 6.11 pages that never were online are PageOffline too; virtio-mem has marked its own with DIRTY
    kinds = {KPF_OFFLINE: PAGE_OFFLINE, KPF_OFFLINE | KPF_DIRTY: PAGE_WAITING, KPF_RESERVED: PAGE_WAITING, KPF_BUDDY: PAGE_FREE}
    for bits, becomes in kinds.items():
        state[(flags & np.uint64(bits)) == bits] = becomes
    there = (flags & np.uint64(KPF_NOPAGE)) == 0
    first = start.astype(np.int64)
    return first[there], (first + length.astype(np.int64))[there], state[there]


def decode_kpageflags(flags: int) -> str:
    """The names of KPF_* bits, as page-types has them: "lru|mmap|anon"; "no flag" for none."""
    return "|".join(KPF_NAMES.get(bit, f"bit {bit}") for bit in range(64) if flags >> bit & 1) or "no flag"


def clipped(runs: Runs, ranges: Ranges) -> Runs:
    """The parts of the runs that lie in ascending ranges."""
    start, end, state = runs
    parts = [(slice(np.searchsorted(end, lo, "right"), np.searchsorted(start, hi, "left")), lo, hi) for lo, hi in ranges]
    none = np.empty(0, np.int64)
    return (
        np.concatenate([none, *(np.maximum(start[part], lo) for part, lo, hi in parts)]),
        np.concatenate([none, *(np.minimum(end[part], hi) for part, lo, hi in parts)]),
        np.concatenate([none.astype(np.uint8), *(state[part] for part, lo, hi in parts)]),
    )


def managed(runs: Runs, zone: ZoneInfo) -> Map:
    """The runs as from_page_map takes them, with as many pages given to the allocator as the zone manages.

    Fewer than neither reserved nor offline: a balloon has them, on the longest runs without a flag (or else in use). More: a
    driver marked pages offline, or reserved, and left them managed.
    """
    start, end, state = runs
    given = int((end - start)[(state != PAGE_WAITING) & (state != PAGE_OFFLINE)].sum())
    missing = given - zone.managed_pages
    sources, becomes = ((_FLAGLESS, PAGE_IN_USE), PAGE_OFFLINE) if missing > 0 else ((PAGE_OFFLINE, PAGE_WAITING), PAGE_IN_USE)
    left = abs(missing)
    for source in sources:
        runs, left = _turn(runs, source, becomes, left)
    if left:
        raise ValueError(
            f"zone {zone.name} of node {zone.nid} manages {zone.managed_pages} pages by zoneinfo; the page map and iomem have "
            f"{given}, and no {left} of them could be otherwise"
        )
    return merged(runs)


def merged(runs: Runs) -> Map:
    """The runs as from_page_map takes them, neighbours that are alike in one; pages without a flag are in use."""
    start, end, state = runs
    state = np.where(state == _FLAGLESS, PAGE_IN_USE, state).astype(np.uint8)
    first = run_starts(state, start[1:] != end[:-1])
    last = np.append(first[1:], len(state)) - 1
    return start[first].astype(np.uint64), (end[last] - start[first]).astype(np.uint64), state[first]


def _turn(runs: Runs, source: int, becomes: int, pages: int) -> tuple[Runs, int]:
    """Change the state of exactly `pages` pages, on the longest runs of pages in another; and how many there were not."""
    start, end, state = runs
    found = np.flatnonzero(state == source)
    found = found[np.argsort(-(end - start)[found], kind="stable")]
    total = np.append(0, np.cumsum((end - start)[found]))
    whole = int(np.searchsorted(total, pages, "right")) - 1
    left = pages - int(total[whole])
    state = state.copy()
    state[found[:whole]] = becomes
    if left and whole < len(found):
        at = int(found[whole])
        middle = start[at] + left
        return (np.insert(start, at + 1, middle), np.insert(end, at, middle), np.insert(state, at, becomes)), 0
    return (start, end, state), left
