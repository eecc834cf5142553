"""Page maps of kernels before 4.6, where KPF_BUDDY stands on the first page of a free block only (832fc1de01ae)."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from fastonline.core.pageflags import KPF_BUDDY
from fastonline.files import open_regular
from fastonline.linux.proctext import ZoneInfo, ZoneKey

Map = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]
"""First pfns, lengths and KPF_* bits of runs of pages, ascending, without gaps."""

_CHUNK = 1 << 20      # bytes


def marks_heads_only(page_map: Map, zones: dict[ZoneKey, ZoneInfo], buddyinfo: dict[ZoneKey, tuple[int, ...]]) -> bool:
    """Does the map mark free blocks by their first page alone? Its BUDDY pages are then nearer to the number of free blocks
    than to that of free pages."""
    start, length, flags = page_map
    free = (flags & np.uint64(KPF_BUDDY)) != 0
    marked = blocks = pages = 0
    for key, counts in buddyinfo.items():
        if key in zones:
            low, high = zones[key].start_pfn, zones[key].end_pfn
            first, last = np.clip(start[free], low, high), np.clip((start + length)[free], low, high)
            marked += int((last - first).sum())
            blocks += sum(counts)
            pages += sum(n << order for order, n in enumerate(counts))
    return blocks < pages and abs(marked - blocks) < abs(marked - pages)


def mapped_pages(path: str | os.PathLike[str], page_map: Map) -> NDArray[np.int64]:
    """The pfns that are mapped, ascending, of a file such as /proc/kpagecount (uint64 a page) that covers a page map.
    ValueError naming the path for a file of more pages than the map."""
    start, length, _ = page_map
    found, pfn = [np.empty(0, np.int64)], 0
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > 8 * int(start[-1] + length[-1]):
            raise ValueError(f"{path}: it counts more pages than the page map has")
        while data := file.read(_CHUNK):
            counts = np.frombuffer(data[: len(data) & -8], np.int64)
            found.append(np.flatnonzero(counts > 0) + pfn)
            pfn += len(counts)
    return np.concatenate(found)


def whole_blocks(
    page_map: Map, zones: dict[ZoneKey, ZoneInfo], buddyinfo: dict[ZoneKey, tuple[int, ...]],
    mapped: NDArray[np.int64] | None,
) -> Map:
    """The map with BUDDY on every page of each free block.

    A block cannot be larger than the run behind its head of pages without flags that nobody maps, and buddyinfo has the number
    of blocks of each order. mapped: the pfns that are mapped, ascending (mapped_pages); without them the flags must leave no
    choice. ValueError where the map and buddyinfo do not fit together, or leave a choice.
    """
    start, length, flags = page_map
    free = np.flatnonzero(flags & np.uint64(KPF_BUDDY))
    marked, nr_blocks = int(length[free].sum()), sum(sum(counts) for counts in buddyinfo.values())
    if marked > 2 * nr_blocks:
        raise ValueError(f"the page map marks {marked} free pages, and buddyinfo has {nr_blocks} free blocks")
    if length[free].max(initial=0) > 2:
        raise ValueError("the page map marks three free blocks of one page in a row: two of them would be one")
    heads = np.concatenate([np.empty(0, np.int64), *(np.arange(start[i], start[i] + length[i], dtype=np.int64) for i in free)])
    parts = [np.empty((0, 2), np.int64)]
    for key, counts in buddyinfo.items():
        if any(counts) and key not in zones:
            raise ValueError(f"zone {key[1]} of node {key[0]} is in buddyinfo and not in zoneinfo")
        if any(counts):
            own = heads[(heads >= zones[key].start_pfn) & (heads < zones[key].end_pfn)]
            orders = _orders(own, _room(own, page_map, zones[key].end_pfn, len(counts) - 1, mapped), counts, mapped is None)
            if orders is None:
                raise ValueError(
                    f"the page map marks only the first page of free blocks (a kernel before 4.6), and where those of zone "
                    f"{key[1]} of node {key[0]} end does not follow from it: add /proc/kpagecount as the file kpagecount"
                )
            parts.append(np.stack([own, 1 << orders], axis=1))
    found = np.concatenate(parts)
    return _with_blocks(page_map, found[np.argsort(found[:, 0])])


def _room(heads, page_map, end, max_order, mapped):
    """The largest order that the block of each head can have."""
    start, length, flags = page_map
    plain = flags == 0
    others = np.append(np.flatnonzero(~plain), len(start))      # runs that touch are one
    bounds = np.append(start, start[-1] + length[-1]).astype(np.int64)
    at = np.searchsorted(start, (heads + 1).astype(np.uint64), "right") - 1
    room = np.where(plain[at], bounds[others[np.searchsorted(others, at)]], heads + 1)
    if mapped is not None:
        behind = np.append(mapped, end)[np.searchsorted(mapped, heads, "right")]
        room = np.minimum(room, behind)
    room = np.minimum(room, end) - heads
    orders = np.minimum(np.log2(np.maximum(room, 1)).astype(np.int64), max_order)
    aligned = np.where(heads > 0, np.log2(np.maximum(heads & -heads, 1)).astype(np.int64), max_order)
    return np.minimum(orders, aligned)


def _orders(heads, most, counts, forced):
    """Orders for the heads, so many of each as `counts` has and none above its `most`; None when there are none, or several and
    the choice is to be forced."""
    if sum(counts) != len(heads):
        return None
    wanted = np.repeat(np.arange(len(counts)), counts)
    ascending = np.argsort(most, kind="stable")
    if np.any(wanted > most[ascending]) or forced and np.any(wanted != most[ascending]):
        return None
    orders = np.empty(len(heads), np.int64)
    orders[ascending] = wanted
    return orders


def _with_blocks(page_map, blocks):
    """The map with BUDDY alone on the pages of blocks (first page, pages), ascending and disjoint."""
    start, length, flags = page_map
    flags = np.where(flags & np.uint64(KPF_BUDDY), np.uint64(0), flags)
    first, end = blocks[:, 0], blocks.sum(axis=1)
    edges = np.unique(np.concatenate([start.astype(np.int64), first, end]))
    edges = edges[edges < int(start[-1] + length[-1])]
    inside = np.searchsorted(first, edges, "right") - 1
    becomes = flags[np.searchsorted(start.astype(np.int64), edges, "right") - 1]
    if len(blocks):
        becomes[(inside >= 0) & (edges < end[inside])] = KPF_BUDDY
    return edges.astype(np.uint64), np.diff(edges, append=int(start[-1] + length[-1])).astype(np.uint64), becomes
