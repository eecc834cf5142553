cimport cython
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from operator import index

from fastonline.core.buddy cimport buddy_pool, buddy_pool_fold
from fastonline.core.lock cimport settle
from fastonline.core.numbers cimport as_number, as_uint64
from fastonline.core.pageflags cimport PG_prepared
from fastonline.core.types cimport area_t, int64_t
from fastonline.hotplug.types cimport (
    MAX_NR_ZONES, MAX_NUMNODES, nr_zones, pgdat, zone as struct_zone, zone_area, zone_managed, zone_nid, zone_number,
    zone_present, zone_type,
)
from fastonline.hotplug.watermarks cimport count_scans, refresh

from fastonline.core.runs import range_list
from fastonline.errors import is_number
from fastonline.geometry import Geometry
from fastonline.rules import INT_MAX, SYSCTLS, Rules

__all__ = ["Node", "Zone", "Zones"]

cdef enum:
    ZONE_VALUES = 14     # of a zone in a state, before its reserves

THP_WORDS = ("never", "madvise", "always")


@cython.final
@cython.freelist(16)
cdef class Zone:
    """A zone of a node (struct zone). Attributes show the machine's current state. All counts are pages. Zones are equal when
    they are the same zone of the same machine. A pickled zone brings a copy of its machine.

    nid: its node. name: its type. nr: its number in the machine, nid * Zones.nr_types + type.
    """

    def __cinit__(self, Zones zones not None, nr, nid, str name not None):
        self.zones = zones
        self.nr = zones.zone_nr(nr)
        self.nid = zone_nid(&zones.table, self.nr)
        self.name = name
        if (self.nid, zones.names[zone_type(&zones.table, self.nr)]) != (nid, name):
            raise ValueError(f"zone number {nr} is not zone {name} of node {nid}")

    cdef struct_zone *at(self) noexcept:
        return &self.zones.table.zones[self.nr]

    cdef struct_zone *fresh(self) except NULL:
        """With its watermarks as they are now."""
        settle(self.zones.engine.lock)
        refresh(&self.zones.table)
        return self.at()

    cdef buddy_pool *area(self) except NULL:
        """With its counts as they are now."""
        cdef buddy_pool *a
        settle(self.zones.engine.lock)
        a = &self.zones.engine.areas[zone_area(self.nr)]
        buddy_pool_fold(a)
        return a

    def __eq__(self, other):
        return self.zones is (<Zone>other).zones and self.nr == (<Zone>other).nr if isinstance(other, Zone) else NotImplemented

    def __hash__(self):
        return hash((id(self.zones), self.nr))

    def __reduce__(self):
        return Zones.numbered, (self.zones, self.nr)

    def __repr__(self):
        return (
            f"<Zone {self.nid}/{self.name} start_pfn={self.start_pfn:#x} spanned={self.spanned_pages} "
            f"present={self.present_pages} managed={self.managed_pages} free={self.free_pages}>"
        )

    @property
    def start_pfn(self):
        """zone_start_pfn; 0 for an empty zone."""
        settle(self.zones.engine.lock)
        return self.at().start_pfn

    @property
    def spanned_pages(self):
        """Pages from the first to the last, holes included."""
        settle(self.zones.engine.lock)
        return self.at().spanned_pages

    @property
    def present_pages(self):
        """Pages that are present. Prepared pages count, except under 2.6.25, where a page counts once it is online. Pages in a
        balloon (PG_offline) stay present."""
        settle(self.zones.engine.lock)
        return zone_present(&self.zones.table, self.nr)

    @property
    def managed_pages(self):
        """Pages given to the allocator, free or in use."""
        settle(self.zones.engine.lock)
        return zone_managed(&self.zones.table, self.nr)

    @property
    def nr_free(self):
        """Free blocks of each order, 0 to MAX_PAGE_ORDER: a tuple of ints."""
        cdef buddy_pool *a = self.area()
        cdef int k
        return tuple([a.nr_free[k] for k in range(self.zones.engine.max_order + 1)])

    @property
    def free_pages(self):
        """Free pages (NR_FREE_PAGES)."""
        cdef buddy_pool *a = self.area()
        cdef int64_t total = 0
        cdef int k
        for k in range(self.zones.engine.max_order + 1):
            total += a.nr_free[k] << k
        return total

    @property
    def min(self):
        """The min watermark, pages (WMARK_MIN)."""
        return self.fresh().min

    @property
    def low(self):
        """The low watermark, pages (WMARK_LOW)."""
        return self.fresh().low

    @property
    def high(self):
        """The high watermark, pages (WMARK_HIGH)."""
        return self.fresh().high

    @property
    def watermark_boost(self):
        """Pages by which each watermark is raised until kswapd has run, because pageblocks of different types were mixed
        (boost_watermark). min, low and high are without it."""
        return self.at().boost

    @property
    def protection(self):
        """lowmem_reserve: pages kept from allocations that could have come from each higher zone."""
        cdef struct_zone *zone = self.fresh()
        cdef int i
        return tuple([zone.protection[i] for i in range(self.zones.table.nr_types)])

    @property
    def pcp_batch(self):
        """Pages that a per-CPU list of the zone takes or gives back at once; 0 for an empty zone."""
        return self.fresh().pcp_batch if self.populated else 0

    @property
    def pcp_high(self):
        """The length, in pages, above which a per-CPU list gives pages back; 0 for an empty zone."""
        return self.fresh().pcp_high if self.populated else 0

    @property
    def pcp_high_max(self):
        """The limit of pcp_high (6.7 and later); 0 for an empty zone."""
        return self.fresh().pcp_high_max if self.populated else 0

    @property
    def stat_threshold(self):
        """Pages by which a CPU's part of the zone's counters may be off; 0 for an empty zone."""
        return self.fresh().stat_threshold

    @property
    def present_early_pages(self):
        """The present pages that were there at boot."""
        settle(self.zones.engine.lock)
        return self.at().present_early

    @property
    def populated(self):
        """Whether the zone has present pages (populated_zone)."""
        return self.present_pages > 0


class Node:
    """A node (struct pglist_data). nid: its number. Attributes show the current state. All counts are pages."""

    __slots__ = ("_zones", "nid")

    def __init__(self, zones, nid):
        self._zones = zones
        self.nid = nid

    def __eq__(self, other):
        return (self._zones, self.nid) == (other._zones, other.nid) if isinstance(other, Node) else NotImplemented

    def __hash__(self):
        return hash((self._zones, self.nid))

    def __repr__(self):
        return f"<Node {self.nid} start_pfn={self.start_pfn:#x} spanned={self.spanned_pages} present={self.present_pages}>"

    @property
    def zones(self):
        """The node's zones, lowest first."""
        return tuple([self._zones[self.nid, name] for name in self._zones.names])

    @property
    def start_pfn(self):
        """node_start_pfn."""
        return self._zones._node(self.nid)[0]

    @property
    def spanned_pages(self):
        """node_spanned_pages."""
        return self._zones._node(self.nid)[1]

    @property
    def present_pages(self):
        """node_present_pages."""
        return sum([zone.present_pages for zone in self.zones])

    @property
    def managed_pages(self):
        """Pages given to the allocator on this node."""
        return sum([zone.managed_pages for zone in self.zones])

    @property
    def threads(self):
        """The kernel threads of the node by name: ("kcompactd0", "kswapd0") while it has online memory. In 2.6.25 "kswapd0"
        alone, which never stops (kswapd_run, kcompactd_run)."""
        return self._zones._threads(self.nid)


@cython.no_gc      # no circle goes through it, and nothing may find it half taken apart
cdef class Zones:
    """The zones of a machine: ``zones["Normal"]`` is node 0's, ``zones[1, "Normal"]`` node 1's. Iterating gives every Zone of
    the online nodes; keys(), values() and items() are those of a mapping from ``(nid, name)`` to Zone. names: the zone types of
    each node, lowest first.

    geometry: Geometry. rules: Rules. engine: the Engine with the zones' pages. nr_nodes: the most nodes, 1 to 64. TypeError and
    ValueError for invalid values."""

    def __cinit__(self, geometry, rules, Engine engine not None, nr_nodes):
        cdef int i
        if not isinstance(geometry, Geometry) or not isinstance(rules, Rules):
            raise TypeError(f"expected a Geometry and Rules, not {geometry!r} and {rules!r}")
        names = [name for name, _ in geometry.zone_limits] + ["Movable"]
        if rules.zone_device:
            names.append("Device")
        if len(names) > MAX_NR_ZONES:
            raise ValueError(f"{len(names)} zone types are more than {MAX_NR_ZONES}")
        ratios = dict(rules.lowmem_reserve_ratio)
        self.names = tuple(names)
        self.types = {name: i for i, name in enumerate(names)}
        self.table.nr_types = len(names)
        self.engine = engine
        for i, name in enumerate(names):
            self.table.is_highmem[i] = name == "HighMem" or (name == "Movable" and "HighMem" in names)
            self.table.is_movable[i] = name == "Movable"
            self.table.ratio[i] = ratios.get(name, 0)
            if name == "Normal":
                self.table.normal = i
        self.table.present_is_managed = rules.present_at_online
        self.table.by_present = rules.watermark_pages == "present"
        self.table.empty_zones_reserve = rules.empty_zones_reserve
        self.table.movable_has_min = rules.movable_has_min
        self.table.pcp_auto_tunes = rules.pcp_auto_tunes
        self.table.pcp_high_from_low = rules.pcp_high_from_low
        self.node_threads = rules.node_threads
        self.table.scale_factor = rules.watermark_scale_factor
        self.table.min_free_max = rules.min_free_kbytes_max
        self.table.page_kb = geometry.page_size >> 10
        self.table.batch_cap = rules.batch_cap_bytes // geometry.page_size
        self.table.pcp_follows = rules.pcp_follows
        self.table.nr_cpus = 1
        self.table.pageblock_pages = 1 << <int>geometry.pageblock_order
        self.table.raised_from = -1
        self.table.scans_pageblocks = "Reserve" in rules.migrate_types
        self.thp = "never"
        self.table.min_free_kbytes = 0
        self.table.user_min_free_kbytes = -1
        self.need_node(as_number(nr_nodes, "nr_nodes", 1, MAX_NUMNODES) - 1)
        self.table.nodes[0].nr_cpus = 1

    def __reduce__(self):
        machine = self.machine() if self.machine is not None else None
        if machine is None:
            raise TypeError("cannot pickle the zones of a machine that is gone")
        return getattr, (machine, "zones")

    def __dealloc__(self):
        free(self.table.zones)
        free(self.table.nodes)

    cdef int need_node(self, int nid) except -1:
        """Room for node `nid`, 0 to MAX_NUMNODES - 1. A MemoryError changes nothing that anybody sees."""
        cdef struct_zone *zones
        cdef pgdat *nodes
        cdef int before = self.table.nr_nodes, nr = nid + 1
        if not 0 <= nid < MAX_NUMNODES:
            raise ValueError(f"node {nid} is not between 0 and {MAX_NUMNODES - 1}")
        if nr <= before:
            return 0
        self.engine.add_areas(zone_area(nr * self.table.nr_types))
        self.table.areas = self.engine.areas
        zones = <struct_zone *>realloc(self.table.zones, nr * self.table.nr_types * sizeof(struct_zone))
        if zones != NULL:
            self.table.zones = zones
        nodes = <pgdat *>realloc(self.table.nodes, nr * sizeof(pgdat))
        if nodes != NULL:
            self.table.nodes = nodes
        if zones == NULL or nodes == NULL:
            raise MemoryError(f"cannot allocate node {nid}")
        memset(&self.table.zones[before * self.table.nr_types], 0, (nr - before) * self.table.nr_types * sizeof(struct_zone))
        memset(&self.table.nodes[before], 0, (nr - before) * sizeof(pgdat))
        self.table.nr_nodes = nr
        return 0

    cdef void grow_span(self, int z, pfn_t start, uint64_t nr) noexcept nogil:
        """resize_zone_range and resize_pgdat_range (2.6.25: grow_zone_span, grow_pgdat_span): start = min, end = max."""
        cdef struct_zone *zone = &self.table.zones[z]
        cdef pgdat *node = &self.table.nodes[zone_nid(&self.table, z)]
        cdef pfn_t end = start + nr
        count_scans(&self.table)
        if zone.spanned_pages:
            end = max(end, zone.start_pfn + zone.spanned_pages)
            zone.start_pfn = min(start, zone.start_pfn)
        else:
            zone.start_pfn = start
        zone.spanned_pages = end - zone.start_pfn
        end = start + nr
        if node.spanned_pages:
            end = max(end, node.start_pfn + node.spanned_pages)
            node.start_pfn = min(start, node.start_pfn)
        else:
            node.start_pfn = start
        node.spanned_pages = end - node.start_pfn

    cdef void spans(self, int z, uint64_t *spans) noexcept nogil:
        cdef struct_zone *zone = &self.table.zones[z]
        cdef pgdat *node = &self.table.nodes[zone_nid(&self.table, z)]
        spans[0], spans[1], spans[2], spans[3] = zone.start_pfn, zone.spanned_pages, node.start_pfn, node.spanned_pages

    cdef void set_spans(self, int z, const uint64_t *spans) noexcept nogil:
        cdef struct_zone *zone = &self.table.zones[z]
        cdef pgdat *node = &self.table.nodes[zone_nid(&self.table, z)]
        count_scans(&self.table)
        zone.start_pfn, zone.spanned_pages, node.start_pfn, node.spanned_pages = spans[0], spans[1], spans[2], spans[3]

    cdef void shrink_span(self, int z, pfn_t start, uint64_t nr) noexcept nogil:
        """remove_pfn_range_from_zone: a range at an edge of the span takes it back to the next prepared page of the zone; the
        pages of the range belong to no zone any more. A block of which a part went offline earlier still has its area."""
        cdef struct_zone *zone = &self.table.zones[z]
        cdef area_t area = zone_area(z)
        cdef area_t *area_of = self.engine.area_of
        cdef int shift = self.engine.borders.shift
        cdef pfn_t zone_end = zone.start_pfn + zone.spanned_pages, first, last
        cdef int i, base = zone_number(&self.table, zone_nid(&self.table, z), 0)
        cdef pgdat *node = &self.table.nodes[zone_nid(&self.table, z)]
        count_scans(&self.table)
        if start <= zone.start_pfn:
            first = (start + nr) >> shift
            last = (zone_end - 1) >> shift
            while first <= last and area_of[first] != area:
                first += 1
            if first > last:
                zone.start_pfn = 0
                zone.spanned_pages = 0
            else:
                first = max(first << shift, start + nr)
                while first < zone_end and not self.engine.state(first) & PG_prepared:
                    first += 1
                zone.start_pfn = first
                zone.spanned_pages = zone_end - first
        elif start + nr >= zone_end:
            last = (start + (<pfn_t>1 << shift) - 1) >> shift
            while last > zone.start_pfn >> shift and area_of[last - 1] != area:
                last -= 1
            zone_end = min(last << shift, start)
            while zone_end > zone.start_pfn and not self.engine.state(zone_end - 1) & PG_prepared:
                zone_end -= 1
            zone.spanned_pages = zone_end - min(zone_end, zone.start_pfn)
            if zone.spanned_pages == 0:
                zone.start_pfn = 0
        # update_pgdat_span
        first = 0
        last = 0
        for i in range(base, base + self.table.nr_types):
            if self.table.zones[i].spanned_pages:
                if last == 0 or self.table.zones[i].start_pfn < first:
                    first = self.table.zones[i].start_pfn
                last = max(last, self.table.zones[i].start_pfn + self.table.zones[i].spanned_pages)
        node.start_pfn = first
        node.spanned_pages = last - first

    @property
    def nr_types(self):
        """The number of zones of each node."""
        return self.table.nr_types

    @property
    def nr_orders(self):
        """NR_PAGE_ORDERS."""
        return self.engine.max_order + 1

    def online_nodes(self):
        """Return the numbers of the online nodes, ascending."""
        return [nid for nid in range(self.table.nr_nodes) if self.table.nodes[nid].online]

    cdef int zone_nr(self, object nr) except -1:
        return as_number(nr, "a zone number", 0, nr_zones(&self.table) - 1)

    cdef int node_nr(self, object nid) except -2:
        """The number of a node, or -1 for one that there is no room for. TypeError for what is no number."""
        if not is_number(nid):
            raise TypeError(f"a node must be an int, not {nid!r}")
        nid = index(nid)
        return nid if 0 <= nid < self.table.nr_nodes else -1

    @property
    def transparent_hugepage(self):
        """The word in force in /sys/kernel/mm/transparent_hugepage/enabled."""
        return self.thp

    def set_transparent_hugepage(self, word):
        """Set the word; khugepaged runs unless it is "never". The watermarks do not change. ValueError for another word."""
        if word not in THP_WORDS:
            raise ValueError(f"invalid transparent_hugepage {word!r} (expected 'never', 'madvise' or 'always')")
        self.thp = word
        self.table.khugepaged = word != "never"

    def _set_boost(self, nr, pages):
        cdef int z = self.zone_nr(nr)
        self.table.zones[z].boost = as_number(pages, "a watermark boost", 0, self.table.zones[z].spanned_pages)

    def has_memory(self, nid):
        """Return whether node `nid` is in N_MEMORY. In 2.6.25 it never leaves (N_HIGH_MEMORY)."""
        cdef int n = self.node_nr(nid)
        return n >= 0 and bool(self.table.nodes[n].has_memory)

    def has_normal_memory(self, nid):
        """Return whether node `nid` is in N_NORMAL_MEMORY: a zone up to Normal has present pages."""
        cdef int n = self.node_nr(nid), base = zone_number(&self.table, n, 0), i
        return n >= 0 and bool(self.table.nodes[n].has_memory) and any([
            zone_present(&self.table, base + i) for i in range(self.table.normal + 1)
        ])

    def _threads(self, nid):
        return tuple([f"{name}{nid}" for name in self.node_threads]) if self.has_memory(nid) else ()

    def _node(self, nid):
        cdef int n = as_number(nid, "nid", 0, self.table.nr_nodes - 1)
        settle(self.engine.lock)
        return self.table.nodes[n].start_pfn, self.table.nodes[n].spanned_pages

    cdef int find(self, object key) except -2:
        """The number of the zone with this key, or -1: there is none."""
        cdef int nid = 0, number
        name = key
        if isinstance(key, tuple) and len(key) == 2:
            nid = self.node_nr(key[0]) if is_number(key[0]) else -1
            name = key[1]
        if not isinstance(name, str) or not 0 <= nid < self.table.nr_nodes or not self.table.nodes[nid].online:
            return -1
        number = self.types.get(name, -1)
        return -1 if number < 0 else zone_number(&self.table, nid, number)

    cdef int need(self, object key) except -1:
        """find, or KeyError."""
        cdef int z = self.find(key)
        if z < 0:
            raise KeyError(self.unknown(key))
        return z

    cdef str unknown(self, object key):
        """The message for a key that no zone has."""
        return (f"invalid zone {key!r} (expected {', '.join(self.names)}, or (nid, name) with a node of "
                f"{range_list(self.online_nodes())})")

    def __getitem__(self, key):
        cdef int z = self.need(key)
        return self.zone_at(z)

    def numbered(self, nr):
        """Return the zone of number `nr` (Zone.nr). ValueError if there is no such zone."""
        return self.zone_at(self.zone_nr(nr))

    def of_page(self, pfn):
        """Return the zone of page `pfn`, or None when it is in no zone."""
        cdef uint64_t number = as_uint64(pfn, "pfn")
        cdef int z = self.engine.area_of[number >> self.engine.borders.shift] - 1 if number < self.engine.nr_pages else -1
        return self.zone_at(z) if z >= 0 else None

    cdef object zone_at(self, int z):
        return Zone(self, z, zone_nid(&self.table, z), self.names[zone_type(&self.table, z)])

    def __contains__(self, key):
        return self.find(key) >= 0

    def __iter__(self):
        return iter(self.values())

    def __repr__(self):
        return f"<Zones: {', '.join([repr(zone) for zone in self if zone.populated]) or 'none populated'}>"

    def _repr_html_(self):
        from fastonline.hotplug.summary import zones_html

        return zones_html(self)

    def __len__(self):
        return len(self.online_nodes()) * self.table.nr_types

    def keys(self):
        """Return (nid, name) of every zone of every online node."""
        return [(nid, name) for nid in self.online_nodes() for name in self.names]

    def values(self):
        """Return every zone of every online node, node by node, lowest first."""
        cdef int nid, i
        return [Zone(self, zone_number(&self.table, nid, i), nid, self.names[i])
                for nid in range(self.table.nr_nodes) if self.table.nodes[nid].online for i in range(self.table.nr_types)]

    def items(self):
        """Return ((nid, name), Zone) pairs."""
        return [((zone.nid, zone.name), zone) for zone in self.values()]

    cdef dict state(self):
        cdef int z
        cdef list zones = []
        refresh(&self.table)
        for z in range(nr_zones(&self.table)):
            zones.append((
                self.table.zones[z].start_pfn, self.table.zones[z].spanned_pages, self.table.zones[z].present_pages,
                self.table.zones[z].present_early,
                self.table.zones[z].min, self.table.zones[z].low, self.table.zones[z].high,
                self.table.zones[z].pcp_batch, self.table.zones[z].pcp_high,
                self.table.zones[z].pageset_batch, self.table.zones[z].pageset_high,
                self.table.zones[z].pcp_high_max, self.table.zones[z].stat_threshold, self.table.zones[z].boost,
                [self.table.zones[z].protection[i] for i in range(self.table.nr_types)],
            ))
        nodes = [
            (bool(self.table.nodes[n].online), bool(self.table.nodes[n].has_memory), self.table.nodes[n].start_pfn,
             self.table.nodes[n].spanned_pages, self.table.nodes[n].nr_cpus)
            for n in range(self.table.nr_nodes)
        ]
        return {
            "zones": zones,
            "nodes": nodes,
            "min_free_kbytes": self.table.min_free_kbytes,
            "watermark_scale_factor": self.table.scale_factor,
            "lowmem_reserve_ratio": [self.table.ratio[i] for i in range(self.table.nr_types)],
            "user_min_free_kbytes": self.table.user_min_free_kbytes,
            "transparent_hugepage": self.transparent_hugepage,
        }

    cdef int restore(self, dict state) except -1:
        """Undo state(). TypeError, ValueError or OverflowError for invalid values, which change nothing."""
        cdef int z, i, n, types = self.table.nr_types
        cdef struct_zone *zone
        nodes, zones, ratios = state["nodes"], state["zones"], state["lowmem_reserve_ratio"]
        if not self.table.nr_nodes <= len(nodes) <= MAX_NUMNODES or len(zones) != len(nodes) * types or len(ratios) != types:
            raise ValueError(f"{len(nodes)} nodes with {len(zones)} zones in all, of {types} types")
        nodes = [
            (bool(online), bool(has_memory), as_pages(start), as_pages(spanned), as_number(cpus, "nr_cpus", 0, INT_MAX))
            for online, has_memory, start, spanned, cpus in nodes
        ]
        zones = [
            [as_pages(start), as_pages(spanned), as_pages(present), as_uint64(early, "pages"), *map(as_pages, values),
             *map(as_pages, protection)]
            for start, spanned, present, early, *values, protection in zones
        ]
        if any([len(values) != ZONE_VALUES + types for values in zones]):
            raise ValueError(f"a zone has {ZONE_VALUES} values and {types} reserves")
        ratios = [as_number(ratio, "a lowmem_reserve_ratio", 0, INT64_MAX) for ratio in ratios]
        min_free_kbytes = as_number(state["min_free_kbytes"], "min_free_kbytes", 0, INT_MAX)
        user_min_free_kbytes = state["user_min_free_kbytes"]
        if user_min_free_kbytes != -1:
            user_min_free_kbytes = as_number(user_min_free_kbytes, "min_free_kbytes", 0, INT_MAX)
        scale_factor = as_number(
            state["watermark_scale_factor"], "watermark_scale_factor", 0, SYSCTLS["watermark_scale_factor"][1]
        )
        nr_cpus = as_number(sum([cpus for _, _, _, _, cpus in nodes]), "nr_cpus", 1, INT_MAX)
        self.need_node(len(nodes) - 1)
        self.set_transparent_hugepage(state.get("transparent_hugepage", "never"))
        for z, values in enumerate(zones):
            zone = &self.table.zones[z]
            (zone.start_pfn, zone.spanned_pages, zone.present_pages, zone.present_early, zone.min, zone.low, zone.high,
             zone.pcp_batch, zone.pcp_high, zone.pageset_batch, zone.pageset_high, zone.pcp_high_max,
             zone.stat_threshold, zone.boost) = values[:ZONE_VALUES]
            for i in range(types):
                zone.protection[i] = values[ZONE_VALUES + i]
        for n, (online, has_memory, start, spanned, cpus) in enumerate(nodes):
            self.table.nodes[n].online = online
            self.table.nodes[n].has_memory = has_memory
            self.table.nodes[n].start_pfn = start
            self.table.nodes[n].spanned_pages = spanned
            self.table.nodes[n].nr_cpus = cpus
        for i, ratio in enumerate(ratios):
            self.table.ratio[i] = ratio
        self.table.min_free_kbytes = min_free_kbytes
        self.table.user_min_free_kbytes = user_min_free_kbytes
        self.table.scale_factor = scale_factor
        self.table.nr_cpus = nr_cpus
        self.table.stale = False
        return 0


cdef uint64_t as_pages(object value) except? 0xFFFFFFFFFFFFFFFF:
    return as_number(value, "a number of pages", 0, <uint64_t>1 << 62)
