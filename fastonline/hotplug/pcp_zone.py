"""The per-CPU lists of one zone, and how many pages they get and give at a time (mm/page_alloc.c of 6.1.192 and 6.12:
struct per_cpu_pages, nr_pcp_alloc, nr_pcp_free, nr_pcp_high)."""

from fastonline.hotplug.pageblocks import Pageblocks

UNMOVABLE, MOVABLE, RECLAIMABLE = range(3)
"""Kinds of pages that have per-CPU lists of their own (MIGRATE_PCPTYPES, 6.1)."""
COSTLY = 3
"""PAGE_ALLOC_COSTLY_ORDER: blocks up to this order are kept on per-CPU lists, and those of a pageblock."""
SCALE_MAX = 5
"""CONFIG_PCP_BATCH_SCALE_MAX: batches grow to 2^5 of them (52166607ecc9 in 6.7, and as a stable patch in 6.1)."""
_HUGE, _HUGE_MOVABLE = 3 * (COSTLY + 1), 3 * (COSTLY + 1) + 1
"""The index of the pageblock lists (NR_PCP_THP). Until 6.10 all kinds share the first."""


class ZoneLists:
    """The lists of one zone. A list has its head, where pages are taken, at the end.

    huge_order: that of a pageblock. tunes_itself: Rules.pcp_auto_tunes. `zone` in the methods: the Zone, for its settings."""

    __slots__ = (
        "huge_order", "tunes_itself", "lists", "free_factor", "free_count", "alloc_factor", "freed_high_order", "high",
        "below_high", "boost", "diff", "disabled", "pageblocks",
    )

    def __init__(self, huge_order, tunes_itself):
        self.huge_order, self.tunes_itself = huge_order, tunes_itself
        self.lists = [[] for _ in range(_HUGE_MOVABLE + 1)]      # order_to_pindex: 3 order + kind
        self.free_factor = 0     # until 6.6: batches freed double as long as nothing is allocated
        self.free_count = 0      # since 6.7: pages freed in a row
        self.alloc_factor = 0    # since 6.7: batches allocated double as long as nothing is freed
        self.freed_high_order = False
        self.high = 0            # since 6.7 it follows what is allocated and freed
        self.below_high = False  # ZONE_BELOW_HIGH
        self.boost = 0           # of the watermarks that requests are checked against
        self.diff = 0            # vm_stat_diff of NR_FREE_PAGES: what the counter does not show yet
        self.disabled = False
        self.pageblocks = Pageblocks()      # those of kernel pages

    def copy(self):
        """Return a copy."""
        other = ZoneLists.__new__(ZoneLists)
        for name in ZoneLists.__slots__:
            setattr(other, name, getattr(self, name))
        other.lists, other.pageblocks = [list(pages) for pages in self.lists], self.pageblocks.copy()
        return other

    # -- the lists

    def count(self):
        """Return the number of pages on the lists."""
        return sum(len(pages) << self.order_of(i) for i, pages in enumerate(self.lists) if pages)

    def order_of(self, pindex):
        """Return the order of the blocks on a list."""
        return self.huge_order if pindex >= _HUGE else pindex // 3

    def pindex(self, order, kind):
        """order_to_pindex; None for an order that is not kept on lists (pcp_allowed_order)."""
        if order <= COSTLY:
            return 3 * order + kind
        if order != self.huge_order:
            return None
        return _HUGE_MOVABLE if kind == MOVABLE and self.tunes_itself else _HUGE

    def oldest(self, nr, pindex=0):
        """Take the oldest `nr` pages off the lists: of one list first, then of those behind it, and around. Yield (order, first
        pfns) for each list."""
        for i in (*range(pindex, len(self.lists)), *range(pindex)):
            pages, order = self.lists[i], self.order_of(i)
            take = min(len(pages), -(-nr >> order))
            if take > 0:
                taken, pages[:take] = pages[:take], []
                nr -= take << order
                yield order, taken

    # -- how many

    def add_free(self, zone, delta):
        """__mod_zone_page_state: NR_FREE_PAGES changed by delta; small changes show later."""
        self.diff += delta
        if abs(self.diff) > zone.stat_threshold:
            self.diff = 0

    def allocated(self, nr):
        """So many pages were taken from a list, one by one."""
        self.free_factor >>= min(nr, 8)
        self.free_count >>= min(nr, 16)

    def nr_alloc(self, zone, order=0):
        """nr_pcp_alloc: how many blocks a list that is empty gets: a batch of pages; since 6.7, of single pages twice as many
        each time, as long as pcp->high allows."""
        if self.disabled:
            self.high = 0
        if self.disabled or zone.pcp_high < zone.pcp_batch:
            return 1
        batch = zone.pcp_batch
        if self.tunes_itself:
            if not order:
                batch <<= self.alloc_factor
            high = self.clamp_high(zone)
            if zone.pcp_high != zone.pcp_high_max and not self.below_high:
                high = self.high = min(high + batch, zone.pcp_high_max)
            if not order:
                most = max(high - self.count() - zone.pcp_batch, zone.pcp_batch)
                if batch <= most and self.alloc_factor < SCALE_MAX:
                    self.alloc_factor += 1
                batch = min(batch, most)
        return max(batch >> order, 2) if batch > 1 else batch

    def clamp_high(self, zone):
        """Bring pcp->high between the zone's limits, and return it."""
        self.high = max(zone.pcp_high, min(self.high, zone.pcp_high_max))
        return self.high

    def nr_free(self, zone, pindex, nr):
        """free_unref_page_commit: `nr` blocks have come to a list. Return how many pages to free now."""
        order, batch, count = self.order_of(pindex), zone.pcp_batch, self.count()
        if not self.tunes_itself:
            empty = self.free_factor and 0 < order <= COSTLY
            if count < (0 if empty else zone.pcp_high):
                return 0
            return count if empty else self._nr_free_doubled(zone)
        self.alloc_factor >>= min(nr, 8)
        empty = 0 < order <= COSTLY and self.free_count >= batch and self.freed_high_order
        self.freed_high_order = 0 < order <= COSTLY
        if self.free_count < batch << SCALE_MAX:
            self.free_count = min(self.free_count + (nr << order), (batch << SCALE_MAX) + (1 << order) - 1)
        high = self._nr_high(zone, count, empty)
        if count < high:
            return 0
        if empty:
            return min(count, batch << SCALE_MAX)
        return 1 if high < batch else max(batch, min(self.free_count, high - batch))

    def _nr_high(self, zone, count, empty):
        """nr_pcp_high (6.12): the lists shrink in a zone that has little free, and hold what is freed in a row."""
        high, batch = self.clamp_high(zone), zone.pcp_batch
        if empty:
            self.high = max(high - (batch << SCALE_MAX), zone.pcp_high)
            return 0
        if zone.pcp_high == zone.pcp_high_max:
            return high
        if self.below_high:
            self.high = max(high - max(self.free_count, batch), zone.pcp_high)
            return max(count, zone.pcp_high)
        if count >= high:
            self.high = max(high, min(self.free_count + batch, zone.pcp_high_max))
        return high

    def _nr_free_doubled(self, zone):
        """nr_pcp_free (6.1): doubled each time that pages are freed without one being allocated."""
        if zone.pcp_high < zone.pcp_batch:
            return 1
        most = zone.pcp_high - zone.pcp_batch
        batch = zone.pcp_batch << self.free_factor
        if batch < most and self.free_factor < SCALE_MAX:
            self.free_factor += 1
        return max(zone.pcp_batch, min(batch, most))
