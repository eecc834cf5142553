"""The same work in plain Python: a byte a page, and a set of first pages for each order of free blocks."""


class PlainPython:
    name = "plain_python"
    first = 0

    def __init__(self, nr_pages, max_order=10):
        self.nr_pages = nr_pages
        self.max_order = max_order
        self.reset()

    def reset(self):
        """Every page is waiting, none is free."""
        self.waiting = bytearray(b"\1") * self.nr_pages
        self.free_blocks = [set() for _ in range(self.max_order + 1)]
        self.merges = [0] * (self.max_order + 1)

    def online_range(self, start, nr):
        """Whole blocks of the largest order, all of them waiting."""
        self.waiting[start : start + nr] = bytes(nr)
        self.free_blocks[self.max_order].update(range(start, start + nr, 1 << self.max_order))
        return nr

    def take_range(self, start, nr):
        """Whole blocks of the largest order, all of them free."""
        self.free_blocks[self.max_order].difference_update(range(start, start + nr, 1 << self.max_order))
        return nr

    def online_page(self, pfn):
        if not self.waiting[pfn]:
            return 0
        self.waiting[pfn] = 0
        self.free_page(pfn)
        return 1

    def online_pfns(self, pfns):
        return sum(map(self.online_page, pfns))

    online_each = online_pfns

    def alloc(self, nr):
        return [self.alloc_page() for _ in range(nr)]

    def free(self, pfns):
        for pfn in pfns:
            self.free_page(pfn)

    def alloc_page(self):
        order = 0
        while not self.free_blocks[order]:
            order += 1
        pfn = self.free_blocks[order].pop()
        while order:
            order -= 1
            self.free_blocks[order].add(pfn + (1 << order))
        return pfn

    def free_page(self, pfn):
        order = 0
        while order < self.max_order:
            buddy = pfn ^ 1 << order
            if buddy not in self.free_blocks[order]:
                break
            self.free_blocks[order].remove(buddy)
            self.merges[order] += 1
            pfn &= buddy
            order += 1
        self.free_blocks[order].add(pfn)

    def nr_free(self):
        return [len(blocks) for blocks in self.free_blocks]

    def nr_merges(self):
        return list(self.merges)

    def pfns(self, array):
        """The pfns as this contender likes them."""
        return array.tolist()
