"""The machine once more, slow and obvious: a dict of page states, and a set of free blocks for each order.

Written from what Linux does (2.6.25, 6.1, 6.12), not from fastonline's code: blocks are merged one by one as __free_one_page
does, watermarks are computed eagerly wherever that kernel computes them, and a zone's span is found by looking at its pages.
"""

import errno
from itertools import groupby
from math import isqrt

ADDED, WAITING, FREE, HEAD, TAIL, OFFLINE = "added", "waiting", "free", "in use", "in use, not the first", "offline"
MASK = {ADDED: 0b00001, WAITING: 0b10001, FREE: 0b10010, HEAD: 0b10000, TAIL: 0b11000, OFFLINE: 0b10100}


class Refused(Exception):
    """The kernel's errno for a refused call."""

    def __init__(self, code):
        super().__init__(errno.errorcode[code])
        self.errno = code


class RefZone:
    def __init__(self, nid, name, max_order):
        self.nid, self.name = nid, name
        self.start = self.spanned = self.present = self.managed = 0
        self.min = self.low = self.high = 0
        self.protection = []
        self.blocks = [set() for _ in range(max_order + 1)]
        self.merges, self.splits, self.frees, self.allocs = ([0] * (max_order + 1) for _ in range(4))

    @property
    def nr_free(self):
        return tuple(len(blocks) for blocks in self.blocks)


class Reference:
    """One machine. Its methods do what those of Memory do, and raise Refused instead of HotplugError.

    geometry, rules: a Geometry and Rules. boot_pages: of boot memory, from pfn 0 on. max_pfn: where memory ends, None: as the
    geometry has it. sections_per_block: of a memory block.
    """

    def __init__(self, geometry, rules, boot_pages=0, max_pfn=None, sections_per_block=1):
        self.geometry, self.rules = geometry, rules
        self.max_order = geometry.max_page_order
        self.unit = geometry.pages_per_section
        self.sections_per_block = sections_per_block
        self.block = sections_per_block * self.unit
        self.pageblock = 1 << geometry.pageblock_order
        self.max_pfn = max_pfn or geometry.max_pfn
        self.names = [name for name, _ in geometry.zone_limits] + ["Movable"] + ["Device"] * rules.zone_device
        self.state = {}              # pfn -> one of the states above; absent pages are not in it
        self.part_zone = {}          # number of a part -> its zone; a part is a block, or a piece where zones meet inside one
        self.ram = set()             # pfns that are System RAM
        self.nid_of_section = {}
        self.online_sections = set()
        self.blocks_gone_online = set()      # blocks that boot or online_pages as a whole has made online (mem->state)
        self.zones = {}
        self.node_span = {}
        self.online_nodes = set()
        self.min_free_kbytes, self.user_min_free_kbytes = 0, -1
        self.pages_onlined = self.pages_offlined = self.high_offlined = 0
        self._need_node(0)
        self.online_nodes.add(0)
        if boot_pages:
            self._boot(boot_pages)

    def _need_node(self, nid):
        if (nid, self.names[0]) not in self.zones:
            for name in self.names:
                self.zones[nid, name] = RefZone(nid, name, self.max_order)
                self.zones[nid, name].protection = [0] * len(self.names)
            self.node_span[nid] = (0, 0)

    def _boot(self, nr_pages):
        start = 0
        self.ram.update(range(nr_pages))
        for section in range(-(-nr_pages // self.unit)):
            self.nid_of_section[section] = 0
            self.online_sections.add(section)
            self.blocks_gone_online.add(section // self.sections_per_block)
            self.state.update(dict.fromkeys(range(section * self.unit, (section + 1) * self.unit), ADDED))
        for name, limit in self.geometry.zone_limits:
            end = nr_pages if limit is None else min(nr_pages, limit >> self.geometry.page_shift)
            if end > start:
                zone = self.zones[0, name]
                self._take_into_zone(zone, start, end - start)
                zone.present += end - start
                self.state.update(dict.fromkeys(range(start, end), WAITING))
                self._online(start, end - start, self.max_order)
                start = end
        for zone in self.zones.values():
            for counts in (zone.merges, zone.splits, zone.frees, zone.allocs):
                counts[:] = [0] * len(counts)
        self.pages_onlined = 0
        self._init_per_zone_wmark_min()

    # -- the buddy allocator, 2.1: merge while the buddy of the same zone is a free block of the same order

    def _zone_of(self, pfn):
        return self.part_zone.get(self._part(pfn))

    def _part(self, pfn):
        """(block, how many zone borders are at or before the page)"""
        return pfn >> self.max_order, sum(border <= pfn for border in self.geometry.zone_borders)

    def _parts(self, start, nr):
        """(part, its pages) of a range."""
        return [(part, list(pages)) for part, pages in groupby(range(start, start + nr), self._part)]

    def _free_block(self, pfn, order):
        zone = self._zone_of(pfn)
        zone.frees[order] += 1
        for p in range(pfn, pfn + (1 << order)):
            self.state[p] = FREE
        while order < self.max_order and (pfn ^ 1 << order) in zone.blocks[order]:
            zone.blocks[order].remove(pfn ^ 1 << order)
            zone.merges[order] += 1
            pfn &= ~(1 << order)
            order += 1
        zone.blocks[order].add(pfn)

    def _block_at(self, pfn):
        """(first page, order) of the free block that holds a free page."""
        zone = self._zone_of(pfn)
        for order in range(self.max_order + 1):
            if pfn >> order << order in zone.blocks[order]:
                return pfn >> order << order, order
        raise AssertionError(f"page {pfn:#x} is free and in no block")

    def _split_to(self, pfn, order):
        """Halve the free block that holds pfn until a block of this order begins there; it is taken off its list."""
        zone = self._zone_of(pfn)
        first, at = self._block_at(pfn)
        zone.blocks[at].remove(first)
        while at > order:
            zone.splits[at] += 1
            at -= 1
            low, high = first, first + (1 << at)
            first, other = (high, low) if pfn >= high else (low, high)
            zone.blocks[at].add(other)
        assert first == pfn

    def _take(self, start, nr):
        """Take the free pages of a range off the lists, in the largest blocks that lie inside it; splits at its two ends
        only."""
        taken, pfn = [], start
        while pfn < start + nr:
            if self.state.get(pfn) != FREE:
                pfn += 1
                continue
            first, order = self._block_at(pfn)
            while (
                first >> order << order < start
                or (pfn >> order << order) < start
                or (pfn >> order << order) + (1 << order) > start + nr
            ):
                order -= 1
                first = pfn >> order << order
            self._split_to(first, order)
            taken += range(first, first + (1 << order))
            pfn = first + (1 << order)
        return taken

    def _online(self, start, nr, order):
        """online_pages_range over the runs of waiting pages: aligned chunks of at most `order`, each in one zone."""
        pfn, done = start, 0
        while pfn < start + nr:
            if self.state.get(pfn) != WAITING:
                pfn += 1
                continue
            end = pfn
            while end < start + nr and self.state.get(end) == WAITING:
                end += 1
            while pfn < end:
                k = order
                while pfn & (1 << k) - 1 or pfn + (1 << k) > end or self._zone_of(pfn + (1 << k) - 1) is not self._zone_of(pfn):
                    k -= 1
                self._zone_of(pfn).managed += 1 << k
                self._free_block(pfn, k)
                pfn, done = pfn + (1 << k), done + (1 << k)
        self.pages_onlined += done
        return done

    # -- zones

    def _weight(self, zone):
        """present_pages, which under 2.6.25 is what went online, in a balloon or not."""
        if not self.rules.present_at_online:
            return zone.present
        if OFFLINE not in self.state.values():      # a shortcut: this is asked thousands of times
            return zone.managed
        return zone.managed + sum(s == OFFLINE and self._zone_of(p) is zone for p, s in self.state.items())

    def present(self, zone):
        return self._weight(zone)

    @staticmethod
    def _grown(start, spanned, first, nr):
        if not spanned:
            return first, nr
        low, high = min(start, first), max(start + spanned, first + nr)
        return low, high - low

    def _take_into_zone(self, zone, start, nr):
        zone.start, zone.spanned = self._grown(zone.start, zone.spanned, start, nr)
        self.node_span[zone.nid] = self._grown(*self.node_span[zone.nid], start, nr)
        for part, pages in self._parts(start, nr):
            there = self.part_zone.setdefault(part, zone)
            if there is not zone:
                there.start, there.spanned = self._grown(there.start, there.spanned, pages[0], len(pages))
                self.node_span[there.nid] = self._grown(*self.node_span[there.nid], pages[0], len(pages))

    def _leave_zone(self, zone, start, nr):
        """remove_pfn_range_from_zone: at an edge the span goes back to the next page that is left."""
        mask = (1 << self.max_order) - 1
        for part, _ in self._parts(start, nr):
            block = part[0] << self.max_order
            if all(self.state.get(p, ADDED) == ADDED for p in range(block, block + mask + 1) if self._part(p) == part):
                self.part_zone.pop(part, None)
        left = sorted(p for p, s in self.state.items() if s != ADDED and self._zone_of(p) is zone)
        if not left:
            zone.start = zone.spanned = 0
        else:
            end = zone.start + zone.spanned
            if start <= zone.start:
                zone.start = left[0]
                zone.spanned = end - zone.start
            elif start + nr >= end:
                zone.spanned = left[-1] + 1 - zone.start
        spans = [(z.start, z.start + z.spanned) for z in self.zones.values() if z.nid == zone.nid and z.spanned]
        low = min((s for s, _ in spans), default=0)
        self.node_span[zone.nid] = (low, max((e for _, e in spans), default=0) - low)

    def _choose_zone(self, start, nr, online_type):
        """3.4: zone_for_pfn_range, contig-zones policy; 2.6.25: where the page already is, or the hotplug zone."""
        nid = self.nid_of_section[start // self.unit]
        hotplug = self.zones[nid, self.geometry.hotplug_zone]
        if not self.rules.zone_at_online:
            return self._zone_of(start) or hotplug

        def meets(zone):
            return zone.spanned and start < zone.start + zone.spanned and zone.start < start + nr

        movable = self.zones[nid, "Movable"]
        if online_type == 3:
            return movable
        names = self.names[: self.names.index("Normal") + 1]
        kernel = next((self.zones[nid, n] for n in names if meets(self.zones[nid, n])), hotplug)
        if online_type == 1 and meets(movable) and not meets(kernel):
            return movable
        return kernel

    # -- watermarks, 2.4 and 2.6

    def _pages(self, zone):
        return self._weight(zone) if self.rules.watermark_pages == "present" else zone.managed

    def _is_highmem(self, zone):
        return zone.name == "HighMem" or (zone.name == "Movable" and "HighMem" in self.names)

    def _setup_per_zone_wmarks(self):
        kernel_only = self.rules.movable_has_min

        def capped(zone):
            return self._is_highmem(zone) or (kernel_only and zone.name == "Movable")

        pages_min = self.min_free_kbytes // (self.geometry.page_size >> 10)
        lowmem = sum(self._pages(z) for z in self.zones.values() if not capped(z))
        if not lowmem:
            return
        for zone in self._zones_of_online_nodes():
            pages = self._pages(zone)
            share = pages_min * pages // lowmem
            zone.min = min(max(pages // 1024, 32), 128) if capped(zone) else share
            if self.rules.watermark_scale_factor:
                n = self.rules.watermark_scale_factor
                delta = max(share // 4, pages // 10000 * n + pages % 10000 * n // 10000)
                zone.low, zone.high = zone.min + delta, zone.min + 2 * delta
            else:
                zone.low, zone.high = zone.min + share // 4, zone.min + share // 2

    def _init_per_zone_wmark_min(self):
        low = [z for z in self.zones.values() if z.name in self.names[: self.names.index("Normal") + 1]]
        lowmem_kbytes = sum(max(0, self._pages(z) - z.high) for z in low) * (self.geometry.page_size >> 10)
        wanted = isqrt(lowmem_kbytes * 16)
        if wanted > self.user_min_free_kbytes:
            self.min_free_kbytes = min(max(wanted, 128), self.rules.min_free_kbytes_max)
        self._setup_per_zone_wmarks()
        ratios = dict(self.rules.lowmem_reserve_ratio)
        for zone in self._zones_of_online_nodes():
            i = self.names.index(zone.name)
            for j in range(len(self.names)):
                above = sum(self._pages(self.zones[zone.nid, other]) for other in self.names[i + 1 : j + 1])
                empty = not self._pages(zone) and not self.rules.empty_zones_reserve
                zone.protection[j] = 0 if empty or not ratios.get(zone.name) else above // ratios[zone.name]

    def _zones_of_online_nodes(self):
        """for_each_zone."""
        return [zone for zone in self.zones.values() if zone.nid in self.online_nodes]

    def _after_mark(self):
        if self.rules.watermarks_at_mark:
            self._setup_per_zone_wmarks()

    def set_min_free_kbytes(self, kbytes):
        self.min_free_kbytes = self.user_min_free_kbytes = kbytes
        self._setup_per_zone_wmarks()

    # -- the calls

    def _check(self, start, nr, present=True):
        if nr == 0 or start + nr > self.max_pfn:
            raise Refused(errno.EINVAL)
        if present and any(s not in self.nid_of_section for s in range(start // self.unit, (start + nr - 1) // self.unit + 1)):
            raise Refused(errno.EINVAL)

    def _prepared(self, pfn):
        return self.state.get(pfn, ADDED) != ADDED

    def add_memory(self, start, nr, nid=0):
        self._check(start, nr, present=False)
        if any(p in self.ram for p in range(start, start + nr)):
            raise Refused(errno.EEXIST)
        if self.rules.aligned and (start % self.block or nr % self.block):
            raise Refused(errno.EINVAL)
        self._need_node(nid)
        self.online_nodes.add(nid)
        for section in range(start // self.unit, (start + nr - 1) // self.unit + 1):
            if section not in self.nid_of_section:
                self.nid_of_section[section] = nid
                self.state.update(dict.fromkeys(range(section * self.unit, (section + 1) * self.unit), ADDED))
        self.ram.update(range(start, start + nr))

    def remove_memory(self, start, nr):
        self._check(start, nr)
        if start % self.block or nr % self.block:
            raise Refused(errno.EINVAL)
        if any(self._prepared(p) for p in range(start, start + nr)):
            raise Refused(errno.EBUSY)
        for p in range(start, start + nr):
            del self.state[p]
            self.part_zone.pop(self._part(p), None)
        for section in range(start // self.unit, (start + nr) // self.unit):
            del self.nid_of_section[section]
            self.online_sections.discard(section)
        self.ram.difference_update(range(start, start + nr))
        self.online_nodes = {nid for nid in self.online_nodes if nid == 0 or nid in self.nid_of_section.values()}

    def prepare_online_pages(self, start, nr, online_type=1):
        self._check(start, nr)
        if self.rules.aligned and (start % self.pageblock or (start + nr) % self.unit):
            raise Refused(errno.EINVAL)
        if not self.rules.walks_system_ram:
            if any(self._prepared(p) for p in range(start, start + nr)):
                raise Refused(errno.EINVAL)
            if not self.ram.issuperset(range(start, start + nr)):
                raise Refused(errno.EINVAL)    # the hole behind boot memory was never added
        zone = self._choose_zone(start, nr, online_type)
        if self.rules.zone_at_online and self._zone_of(start) not in (None, zone):
            raise Refused(errno.EINVAL)    # half of a buddy block would lie in another zone
        self._take_into_zone(zone, start, nr)
        for p in range(start, start + nr):
            if p in self.ram and self.state[p] == ADDED:
                self.state[p] = WAITING
                self._zone_of(p).present += 1

    def _check_markable(self, pfns):
        for section in sorted({p // self.unit for p in pfns}):
            if not any(self._prepared(p) for p in range(section * self.unit, (section + 1) * self.unit)):
                raise Refused(errno.EINVAL)

    def _sections_online(self, pfns):
        for p in pfns:
            if self.state.get(p) in (FREE, HEAD, TAIL, OFFLINE):
                self.online_sections.add(p // self.unit)

    def mark_pages_onlined(self, start, nr=1, order=None):
        self._check(start, nr)
        self._check_markable(range(start, start + nr))
        return self._mark(start, nr, order)

    def _mark(self, start, nr, order=None):
        if order is None:
            order = self.max_order if self.rules.online_order is None else self.rules.online_order
        done = self._online(start, nr, order)
        if done:
            self._sections_online(range(start, start + nr))
        self._after_mark()
        return done

    def mark_pfns_onlined(self, pfns):
        if len(set(pfns)) != len(pfns) or any(not 0 <= p < self.max_pfn for p in pfns):
            raise ValueError
        if not pfns:
            return 0
        self._check_markable(pfns)
        done = sum(self._online(p, 1, 0) for p in pfns)
        if done:
            self._sections_online(pfns)
        self._after_mark()
        return done

    def online_pages(self, start, nr, online_type=1):
        self.prepare_online_pages(start, nr, online_type)
        done = self._mark(start, nr)
        # memory_block_change_state: what went online is the block, whatever of it was kept back
        self.online_sections.update(
            section for section in range(-(-start // self.unit), (start + nr) // self.unit)
            if any(self._prepared(p) for p in range(section * self.unit, (section + 1) * self.unit))
        )
        self.blocks_gone_online.update(
            block for block in range(-(-start // self.block), (start + nr) // self.block) if self._any_online(block)
        )
        if self.rules.min_free_kbytes_follows:
            self._init_per_zone_wmark_min()
        else:
            self._setup_per_zone_wmarks()
        return done

    def offline_pages(self, start, nr):
        self._check(start, nr)
        if start % self.pageblock or (start + nr) % (self.unit if self.rules.aligned else self.pageblock):
            raise Refused(errno.EINVAL)
        pages = range(start, start + nr)
        if not all(self._prepared(p) for p in pages) or len({id(self._zone_of(p)) for p in pages}) != 1:
            raise Refused(errno.EINVAL)
        if any(self.state[p] in (HEAD, TAIL) for p in pages):
            raise Refused(errno.EBUSY)
        zone = self._zone_of(start)
        taken = self._take(start, nr)
        zone.managed -= len(taken)
        self.pages_offlined += len(taken)
        if self._is_highmem(zone) and not self.rules.totalhigh_shrinks:
            self.high_offlined += len(taken)    # totalhigh_pages is not decremented, and incremented when they come back
        self.state.update(dict.fromkeys(pages, ADDED))
        zone.present -= nr
        for section in range(start // self.unit, (start + nr - 1) // self.unit + 1):
            if not any(self._prepared(p) for p in range(section * self.unit, (section + 1) * self.unit)):
                self.online_sections.discard(section)
        self.blocks_gone_online = {block for block in self.blocks_gone_online if self._any_online(block)}
        if self.rules.shrink_spans:
            self._leave_zone(zone, start, nr)
        if self.rules.watermarks_at_offline:
            self._init_per_zone_wmark_min()

    # -- memory blocks: one state each (drivers/base/memory.c)

    def _sections_of(self, block):
        return range(block * self.sections_per_block, (block + 1) * self.sections_per_block)

    def _any_online(self, block):
        return any(section in self.online_sections for section in self._sections_of(block))

    def block_states(self):
        """{number: "online" or "offline"} of the memory blocks, ascending."""
        blocks = sorted({section // self.sections_per_block for section in self.nid_of_section})
        online = self.blocks_gone_online.__contains__ if self.rules.blocks_unaware else self._any_online
        return {block: "online" if online(block) else "offline" for block in blocks}

    def online_block(self, nr, word="online"):
        pages = range(nr * self.block, (nr + 1) * self.block)
        if self.block_states()[nr] == "online":
            raise Refused(errno.EINVAL)
        if self.rules.blocks_unaware and any(self.state.get(p) not in (ADDED, WAITING) for p in pages):
            raise Refused(errno.EBUSY)
        return self.online_pages(pages.start, self.block, ("offline", "online", "online_kernel", "online_movable").index(word))

    def offline_block(self, nr):
        if self.block_states()[nr] == "offline":
            raise Refused(errno.EINVAL)
        self.offline_pages(nr * self.block, self.block)

    def _split_allocations(self, start, nr):
        """split_page: every allocation that meets the range becomes single pages."""
        while start > 0 and self.state.get(start) == TAIL:
            start, nr = start - 1, nr + 1
        p = start
        while p < start + nr or self.state.get(p) == TAIL:
            if self.state.get(p) == TAIL:
                self.state[p] = HEAD
            p += 1

    def set_page_reserved(self, start, nr=1):
        self._check(start, nr)
        self._split_allocations(start, nr)
        for p in self._take(start, nr):
            self._zone_of(p).managed -= 1
            self.state[p] = None
        reserved = 0
        for p in range(start, start + nr):
            if self.state[p] in (None, HEAD, OFFLINE):
                self._zone_of(p).managed -= self.state[p] == HEAD
                self.state[p] = WAITING
                reserved += 1
        return reserved

    def set_page_offline(self, start, nr=1):
        self._check(start, nr)
        if any(self.state[p] not in (HEAD, TAIL) for p in range(start, start + nr)):
            raise ValueError
        self._split_allocations(start, nr)
        for p in range(start, start + nr):
            self.state[p] = OFFLINE
            self._zone_of(p).managed -= 1

    def clear_page_offline(self, start, nr=1):
        self._check(start, nr)
        if any(self.state[p] != OFFLINE for p in range(start, start + nr)):
            raise ValueError
        for p in range(start, start + nr):
            self.state[p] = HEAD
            self._zone_of(p).managed += 1

    def smallest_fit(self, zone, order):
        """The order of the smallest free blocks that fit, or None."""
        return next((k for k in range(order, self.max_order + 1) if zone.blocks[k]), None)

    def alloc(self, pfn, order=0):
        """Take the block that an engine says it has allocated; the block it came from must be one of the smallest that fit."""
        zone = self._zone_of(pfn)
        assert self.state.get(pfn) == FREE, f"page {pfn:#x} was handed out and is {self.state.get(pfn)}"
        assert self._block_at(pfn)[1] == self.smallest_fit(zone, order), f"page {pfn:#x}: a smaller block would have fitted"
        self._split_to(pfn, order)
        zone.allocs[order] += 1
        self.state[pfn] = HEAD
        self.state.update(dict.fromkeys(range(pfn + 1, pfn + (1 << order)), TAIL))

    def alloc_contig_range(self, start, nr):
        self._check(start, nr)
        if any(self.state[p] != FREE for p in range(start, start + nr)):
            raise Refused(errno.EBUSY)
        for p in self._take(start, nr):
            self.state[p] = HEAD
            self._zone_of(p).allocs[0] += 1

    def free_pages(self, pfn, order=0):
        whole = [self.state.get(p) for p in range(pfn, pfn + (1 << order))]
        if pfn & (1 << order) - 1 or whole != [HEAD] + [TAIL] * (len(whole) - 1) or self.state.get(pfn + len(whole)) == TAIL:
            raise ValueError
        self._free_block(pfn, order)

    def free_pfns(self, pfns):
        singles = [self.state.get(p) == HEAD and self.state.get(p + 1) != TAIL for p in pfns]
        if len(set(pfns)) != len(pfns) or not all(singles):
            raise ValueError
        for p in pfns:
            self._free_block(p, 0)

    # -- what there is to see

    def totals(self):
        """totalram_pages, totalhigh_pages"""
        high = sum(zone.managed for zone in self.zones.values() if self._is_highmem(zone))
        return sum(zone.managed for zone in self.zones.values()), high + self.high_offlined

    def page_states(self, start, nr):
        known = [0] * nr
        for p, state in self.state.items():
            if start <= p < start + nr:
                known[p - start] = MASK[state]
        return known

    def buddyinfo(self):
        return "".join(
            f"Node {z.nid}, zone {z.name:>8} " + "".join(f"{n:6d} " for n in z.nr_free) + "\n"
            for z in self.zones.values() if z.nid in self.online_nodes and self._weight(z)
        )

    def stats(self):
        def total(name):
            return [sum(counts) for counts in zip(*(getattr(z, name) for z in self.zones.values()), strict=True)]

        return {
            "frees": total("frees"), "allocations": total("allocs"), "merges": total("merges"), "splits": total("splits"),
            "pages_onlined": self.pages_onlined, "pages_offlined": self.pages_offlined,
        }
