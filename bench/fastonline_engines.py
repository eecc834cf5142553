"""The two engines as contenders: a machine with one prepared range behind 1 GiB of boot memory."""

import numpy as np

import fastonline as fo
from fastonline.cost.phases import time_in_order


class FastOnline:
    def __init__(self, engine, nr_pages):
        self.name = engine
        self.nr_pages = nr_pages
        self.mem = fo.Memory(fo.X86_64, boot="1G", engine=engine)
        self.first = (1 << 30) // fo.X86_64.page_size
        self.mem.add_memory(self.first, nr_pages)
        self.prepared = False
        self.reset()

    def reset(self):
        """Every page is waiting, none is free."""
        if self.prepared:
            self.mem.offline_pages(self.first, self.nr_pages)
        self.mem.prepare_online_pages(self.first, self.nr_pages)
        self.prepared = True
        self.merges_before = self.mem.stats()["merges"]
        self.online_range = self.mem.mark_pages_onlined
        self.online_page = self.mem.mark_pages_onlined
        self.online_pfns = self.mem.mark_pfns_onlined
        self.free = self.mem.free_pfns

    def take_range(self, start, nr):
        """Out again, to pages that are not prepared; how many."""
        self.mem.offline_pages(start, nr)
        self.prepared = False
        return nr

    def online_each(self, pfns):
        """Page by page through the C API, without the GIL."""
        return time_in_order(self.mem, pfns)[1]

    def alloc(self, nr):
        return self.mem.alloc_pages_bulk(nr, zone="Normal")

    def nr_free(self):
        return list(self.mem.zones["Normal"].nr_free)

    def nr_merges(self):
        return [b - a for a, b in zip(self.merges_before, self.mem.stats()["merges"], strict=True)]

    def pfns(self, array):
        """The pfns as this contender likes them."""
        return array.astype(np.uint64)
