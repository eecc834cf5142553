"""The tree of /proc/iomem, as far as RAM goes: which physical ranges are System RAM (kernel/resource.c)."""

import errno
from bisect import bisect_right

from fastonline.errors import HotplugError


class Resources:
    """Ranges of page frames, disjoint and ascending."""

    def __init__(self):
        self._ranges = []    # (start_pfn, end_pfn)

    def __iter__(self):
        return iter(self._ranges)

    def __len__(self):
        return len(self._ranges)

    def conflict(self, start_pfn, nr_pages):
        """The range that meets this one, or None."""
        end_pfn = start_pfn + nr_pages
        at = bisect_right(self._ranges, (end_pfn - 1, float("inf")))
        if at and self._ranges[at - 1][1] > start_pfn:
            return self._ranges[at - 1]
        return None

    def register(self, start_pfn, nr_pages):
        """register_memory_resource: EEXIST when the range is taken."""
        taken = self.conflict(start_pfn, nr_pages)
        if taken:
            raise HotplugError.of(
                errno.EEXIST,
                f"System RAM [pfn {start_pfn:#x}-{start_pfn + nr_pages - 1:#x}] cannot be added: "
                f"[pfn {taken[0]:#x}-{taken[1] - 1:#x}] is there",
            )
        self._ranges.insert(bisect_right(self._ranges, (start_pfn, 0)), (start_pfn, start_pfn + nr_pages))

    def release(self, start_pfn, nr_pages):
        """release_mem_region_adjustable: the range is gone; what it is cut out of stays."""
        end_pfn = start_pfn + nr_pages
        kept = []
        for start, end in self._ranges:
            if end <= start_pfn or start >= end_pfn:
                kept.append((start, end))
                continue
            if start < start_pfn:
                kept.append((start, start_pfn))
            if end > end_pfn:
                kept.append((end_pfn, end))
        self._ranges = kept

    def within(self, start_pfn, nr_pages):
        """The parts of the range that are RAM, as a list of (start_pfn, nr_pages) (walk_memory_resource)."""
        end_pfn = start_pfn + nr_pages
        first = max(0, bisect_right(self._ranges, (start_pfn, float("inf"))) - 1)
        parts = []
        for start, end in self._ranges[first:]:
            if start >= end_pfn:
                break
            if end > start_pfn:
                parts.append((max(start, start_pfn), min(end, end_pfn) - max(start, start_pfn)))
        return parts
