"""Where the free pages of a zone may lie when only their number by order is known."""

import numpy as np


def _chunks(start, end, max_order):
    """Aligned power-of-two chunks that make up [start, end): (order, first page), ascending."""
    found = []
    while start < end:
        order = min(max_order, (start & -start).bit_length() - 1 if start else max_order, (end - start).bit_length() - 1)
        found.append((order, start))
        start += 1 << order
    return found


def lay_out(ranges, managed, nr_free, max_order):
    """Free and used runs of pages for a zone that consists of `ranges`, so that its free blocks are exactly nr_free and free
    and used pages together are `managed`; the rest is Reserved.

    ranges: [(start_pfn, nr_pages)]. Returns two lists of (start_pfn, nr_pages). A block below the largest order has a buddy
    that is not free, so that it does not merge. ValueError where there is no such layout.
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
        return [], []
    first, last = min(start for start, _ in ranges), max(start + nr for start, nr in ranges)
    rest = np.zeros(last - first + 2, bool)
    for start, nr in ranges:
        rest[start - first + 1 : start + nr - first + 1] = True
    for start, nr in free:
        rest[start - first + 1 : start + nr - first + 1] = False
    held = managed - sum(nr for _, nr in free)
    pages = np.flatnonzero(rest)
    if not 0 <= held <= len(pages):
        raise ValueError(f"{managed} managed pages with free blocks {list(nr_free)} do not fit into the zone")
    rest[pages[: len(pages) - held]] = False      # Reserved ones
    cuts = np.flatnonzero(rest[1:] != rest[:-1])
    used = [(int(a) + first, int(b - a)) for a, b in zip(cuts[::2], cuts[1::2], strict=True)]
    return sorted(free), used
