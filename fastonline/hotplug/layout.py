"""Page maps for zones of which only the number of free blocks by order is known."""

import numpy as np

from fastonline.core.pageflags import PAGE_FREE, PAGE_IN_USE, PAGE_WAITING


def _chunks(start, end, max_order):
    """Aligned power-of-two chunks that make up [start, end): (order, first page), ascending."""
    found = []
    while start < end:
        order = min(max_order, (start & -start).bit_length() - 1 if start else max_order, (end - start).bit_length() - 1)
        found.append((order, start))
        start += 1 << order
    return found


def lay_out(ranges, managed, nr_free, max_order):
    """Return a page map (see Memory.from_page_map) of a zone made of `ranges`, with exactly the free blocks nr_free and
    `managed` managed pages; the rest is Reserved. The largest free blocks lie in the middle, the kernel's pages at the ends.

    ranges: [(start_pfn, nr_pages)]. Returns starts and lengths of runs (uint64) and their states (uint8). A block below the
    largest order has a buddy that is not free, so that it does not merge. ValueError where there is no such layout.
    """
    chunks, edges = ([[] for _ in range(max_order + 1)] for _ in range(2))
    for start, nr in ranges:
        for order, at in _chunks(start, start + nr, max_order):
            # a smaller chunk at an edge of a range has no buddy there: it can be free as a whole
            (chunks if order == max_order else edges)[order].append(at)
    whole = chunks[max_order]
    if whole:
        middle = (whole[0] + whole[-1]) // 2
        whole.sort(key=lambda at: -abs(at - middle))      # pop() takes the one nearest to the middle
    if nr_free[max_order] > len(whole):
        raise ValueError(f"{nr_free[max_order]} free blocks of order {max_order} do not fit into {len(whole)}")
    free = [(whole.pop(), 1 << max_order) for _ in range(nr_free[max_order])]
    for order in range(max_order - 1, -1, -1):
        for _ in range(nr_free[order]):
            if edges[order]:
                free.append((edges[order].pop(), 1 << order))
                continue
            larger = next((k for k in range(order + 1, max_order + 1) if chunks[k] or edges[k]), None)
            if larger is None:
                raise ValueError(f"free blocks {list(nr_free)} do not fit into the zone")
            at = (chunks[larger] or edges[larger]).pop()
            for k in range(larger - 1, order - 1, -1):
                chunks[k].append(at + (1 << k))
            free.append((at, 1 << order))
    if not ranges:
        if managed:
            raise ValueError(f"{managed} managed pages in a zone without memory")
        return np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.uint8)
    held = managed - sum(nr for _, nr in free)
    rest = _without(ranges, free)
    reserved = sum(nr for _, nr in rest) - held
    if held < 0 or reserved < 0:
        raise ValueError(f"{managed} managed pages with free blocks {list(nr_free)} do not fit into the zone")
    runs = [(start, nr, PAGE_FREE) for start, nr in free]
    for start, nr in rest:      # the last ones are in use
        away = min(nr, reserved)
        reserved -= away
        runs += [(start, away, PAGE_WAITING)] * (away > 0) + [(start + away, nr - away, PAGE_IN_USE)] * (nr > away)
    return _as_map(runs)


def _without(ranges, blocks):
    """Ranges (first page, pages) without blocks that lie inside them, ascending."""
    found, blocks, i = [], sorted(blocks), 0
    for start, nr in sorted(ranges):
        at, end = start, start + nr
        while i < len(blocks) and blocks[i][0] < end:
            if at < blocks[i][0]:
                found.append((at, blocks[i][0] - at))
            at = sum(blocks[i])
            i += 1
        if at < end:
            found.append((at, end - at))
    return found


def _as_map(runs):
    """Starts, lengths and states of runs (first page, pages, state), neighbours alike in one."""
    merged = []
    for start, nr, state in sorted(runs):
        if merged and merged[-1][2] == state and merged[-1][0] + merged[-1][1] == start:
            merged[-1] = (merged[-1][0], merged[-1][1] + nr, state)
        else:
            merged.append((start, nr, state))
    starts, lengths, states = zip(*merged, strict=True)
    return np.array(starts, np.uint64), np.array(lengths, np.uint64), np.array(states, np.uint8)
