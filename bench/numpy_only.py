"""The same work with NumPy alone: a bool a page, free blocks counted by pairing neighbours order by order."""

import numpy as np


class NumpyOnly:
    name = "numpy_only"
    first = 0

    def __init__(self, nr_pages, max_order=10):
        self.nr_pages = nr_pages
        self.max_order = max_order
        self.reset()

    def reset(self):
        """Every page is waiting, none is free."""
        self.waiting = np.ones(self.nr_pages, bool)
        self.is_free = np.zeros(self.nr_pages, bool)
        self.runs = np.zeros(self.max_order + 2, np.int64)      # runs[k]: aligned runs of 2^k free pages; none past the largest
        self.merges = np.zeros(self.max_order + 1, np.int64)

    def count_runs(self, start, end):
        """Aligned runs of 2^k free pages between two boundaries of largest blocks, for each k."""
        runs = np.zeros(self.max_order + 2, np.int64)
        whole = self.is_free[start:end]
        runs[0] = np.count_nonzero(whole)
        for order in range(1, self.max_order + 1):
            whole = whole[::2] & whole[1::2]
            runs[order] = np.count_nonzero(whole)
        return runs

    def online_range(self, start, nr):
        """Whole blocks of the largest order, all of them waiting."""
        self.waiting[start : start + nr] = False
        self.is_free[start : start + nr] = True
        self.runs[:-1] += nr >> np.arange(self.max_order + 1)
        return nr

    def take_range(self, start, nr):
        """Whole blocks of the largest order, all of them free."""
        self.is_free[start : start + nr] = False
        self.runs[:-1] -= nr >> np.arange(self.max_order + 1)
        return nr

    def online_pfns(self, pfns):
        pfns = pfns[self.waiting[pfns]]
        self.waiting[pfns] = False
        if pfns.size:
            self.set_free(pfns, True)
        return pfns.size

    def set_free(self, pfns, free):
        block = 1 << self.max_order
        start = int(pfns.min()) // block * block
        end = -(-(int(pfns.max()) + 1) // block) * block
        before = self.count_runs(start, end)
        self.is_free[pfns] = free
        grown = self.count_runs(start, end) - before
        self.runs += grown
        if free:
            self.merges += grown[1:]

    def online_page(self, pfn):
        if not self.waiting[pfn]:
            return 0
        self.waiting[pfn] = False
        self.is_free[pfn] = True
        self.runs[0] += 1
        for order in range(self.max_order):
            buddy = (pfn ^ 1 << order) >> order << order
            if not self.is_free[buddy : buddy + (1 << order)].all():
                break
            self.runs[order + 1] += 1
            self.merges[order] += 1
        return 1

    def online_each(self, pfns):
        return sum(map(self.online_page, pfns.tolist()))

    def alloc(self, nr):
        pfns = np.flatnonzero(self.is_free)[:nr]
        self.set_free(pfns, False)
        return pfns

    def free(self, pfns):
        self.set_free(pfns, True)

    def nr_free(self):
        return (self.runs[:-1] - 2 * self.runs[1:]).tolist()

    def nr_merges(self):
        return self.merges.tolist()

    def pfns(self, array):
        """The pfns as this contender likes them."""
        return array.astype(np.int64)
