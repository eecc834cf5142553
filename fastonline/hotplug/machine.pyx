import errno
import weakref

cimport cython

import numpy as np

from fastonline.core.buddy cimport buddy_pool, buddy_pool_fold
from fastonline.core.buffer cimport data_of
from fastonline.core.lock cimport unusable_lock
from fastonline.core.ram cimport check_ram
from fastonline.core.structpage cimport StructPageEngine
from fastonline.core.types cimport MIN_MAX_ORDER, NR_ORDERS
from fastonline.hotplug.types cimport MMOP_OFFLINE, nr_zones, zone_managed, zone_number, zone_type
from fastonline.hotplug.watermarks cimport count_scans

from fastonline.errors import HotplugError
from fastonline.hotplug.events import Events
from fastonline.hotplug.notifier import NotifierChain
from fastonline.geometry import X86_64
from fastonline.hotplug.stats import Stats
from fastonline.rules import LINUX_6_12

__all__ = ["Machine"]

# Room is whole blocks of every order that a geometry may have.
cdef enum:
    ROOM_PAGES = 8192

# The parts of a machine whose __init__ has not run: every use raises.
cdef MachineLock NO_LOCK = unusable_lock()
cdef Engine NO_PAGES = Engine(0, MIN_MAX_ORDER, 1)
cdef Sections NO_SECTIONS = Sections(0, 0)
cdef Zones NO_ZONES = Zones(X86_64, LINUX_6_12, NO_PAGES, 1)
NO_SECTIONS.seal()


@cython.no_gc_clear      # the garbage collector calls what may still call the machine
cdef class Machine:
    """The state of one machine. Memory is the class to use; it documents the attributes."""

    def __cinit__(self, *args, **kwargs):
        forget_all(self)

    @property
    def memmaps(self):
        """{section: [(first pfn, pages)]}: where the page descriptors of added memory lie. A copy."""
        return {section: list(pieces) for section, pieces in self.memmap_of.items()}

    @property
    def groups(self):
        """[(start_pfn, nr_pages, group)] of added memory, by section. A copy."""
        return [added for groups in self.groups_at.values() for added in groups]

    def stats(self):
        """Return the exact counts since the machine was made, a hotplug.stats.Stats: ``mem.stats().merges``. The C API's calls
        recompute and notify nothing."""
        cdef buddy_pool *a
        cdef int area, k, orders = self.pages.max_order + 1
        cdef uint64_t frees[NR_ORDERS]
        cdef uint64_t allocs[NR_ORDERS]
        cdef uint64_t merges[NR_ORDERS]
        cdef uint64_t splits[NR_ORDERS]
        _held = self.lock.hold()
        count_scans(&self.zones.table)
        for k in range(orders):
            frees[k] = allocs[k] = merges[k] = splits[k] = 0
        for area in range(1, self.pages.nr_areas):
            a = &self.pages.areas[area]
            buddy_pool_fold(a)
            for k in range(orders):
                frees[k] += a.frees[k]
                allocs[k] += a.allocs[k]
                merges[k] += a.merges[k]
                splits[k] += a.splits[k]
        return Stats({
            "frees": [frees[k] for k in range(orders)],
            "allocations": [allocs[k] for k in range(orders)],
            "merges": [merges[k] for k in range(orders)],
            "splits": [splits[k] for k in range(orders)],
            "pages_onlined": self.pages_onlined,
            "pages_offlined": self.pages_offlined,
            "pages_migrated": self.pages_migrated,
            "balloon_migrated": self.balloon_migrated,
            "notifications": self.notifiers.calls,
            "watermark_recomputations": self.zones.table.recomputed,
            "pageblocks_scanned": self.zones.table.scanned,
            "zonelist_builds": self.zonelist_builds,
            "bytes_touched": self.pages.bytes_touched(),
        })

    cdef Held mem_hotplug_begin(self, str what):
        cdef Held held = hold_step(self)
        if self.changing:
            raise HotplugError.of(errno.EBUSY, f"{what} from inside a memory notifier: the hot-plug lock is held")
        return held


cdef Held hold_step(Machine mem):
    return mem.lock.hold() if mem.per_cpu_pages is None else mem.lock.hold_uninterrupted()


# -- room

cdef int forget_all(Machine mem, object nothing=None) except -1:
    """The machine has no memory and no parts, as before it was made (an undo_step)."""
    mem.lock = NO_LOCK
    mem.pages, mem.planes, mem.sections, mem.zones = NO_PAGES, None, NO_SECTIONS, NO_ZONES
    mem.geometry = mem.rules = mem.engine = mem.memmap = mem.resources = mem.events = mem.per_cpu_pages = None
    mem.notifiers = ChainCalls()
    mem.online_page_callback = mem.going_offline = mem.alloc_hook = mem.free_hook = None
    mem.block_online = Bitmap(0)
    mem.max_pfn = mem.pages_per_block = 0
    set_nids(mem, np.zeros(1, np.int16))
    mem.listeners, mem.pending_events, mem.oom_notifiers, mem.owned = [], [], [], None
    mem.memmap_of, mem.groups_at, mem.owners = {}, {}, {}
    return 0


cdef Held make_machine(Machine mem, uint64_t room):
    """Make an empty machine with room for `room` pages. geometry, rules and engine are set before. Other threads wait while the
    Held lives."""
    cdef Held held
    cdef uint64_t nr_pages = rounded_room(mem, room)
    cdef int nr_areas = 1
    geometry, rules = mem.geometry, mem.rules
    if mem.engine == "bitmap":
        mem.pages = mem.planes = BitmapEngine(nr_pages, geometry.max_page_order, nr_areas, borders=geometry.zone_borders)
    else:
        mem.pages = StructPageEngine(
            nr_pages, geometry.max_page_order, nr_areas, rules.struct_page_bytes[geometry.bits == 64], rules.lifo,
            borders=geometry.zone_borders,
        )
    held = mem.pages.lock.hold_still()
    mem.lock = mem.pages.lock
    mem.sections = Sections(geometry.pfn_section_shift, nr_pages >> geometry.pfn_section_shift, geometry.subsection_order)
    mem.sections.seal()
    mem.block_shift = (mem.pages_per_block >> geometry.pfn_section_shift).bit_length() - 1
    mem.block_online = Bitmap(nr_blocks(mem, mem.sections.nr_sections))
    set_nids(mem, np.zeros(mem.sections.nr_sections, np.int16))
    mem.zones = Zones(geometry, rules, mem.pages, 1)
    mem.zones.machine = weakref.ref(mem)
    mem.zones.table.nodes[0].online = True
    mem.resources = Resources(geometry.page_shift)
    mem.notifiers = NotifierChain()
    mem.events = Events()
    mem.listeners = mem.events._listeners
    mem.pending_events = []
    mem.auto_movable_percent = 301
    mem.auto_movable_numa_aware = True
    mem.auto_online = MMOP_OFFLINE
    # C copies of the rules that hot paths read
    mem.watermarks_at_mark = rules.watermarks_at_mark
    mem.blocks_unaware = rules.blocks_unaware
    mem.aligned = rules.aligned
    mem.zone_at_online = rules.zone_at_online
    mem.walks_system_ram = rules.walks_system_ram
    mem.grow_before_notify = rules.grow_before_notify
    mem.shrink_spans = rules.shrink_spans
    mem.watermark_by_order = rules.watermark_by_order
    mem.totalhigh_shrinks = rules.totalhigh_shrinks
    mem.nodes_lose_memory = rules.nodes_lose_memory
    mem.always_notify_online = rules.always_notify_online
    mem.min_free_kbytes_follows = rules.min_free_kbytes_follows
    mem.pageblock_order = geometry.pageblock_order
    mem.movable_type = mem.zones.names.index("Movable")
    mem.hotplug_type = mem.zones.names.index(geometry.hotplug_zone)
    mem.online_order = geometry.max_page_order if rules.online_order is None else rules.online_order
    return held


cdef uint64_t rounded_room(Machine mem, uint64_t nr_pages) except 0:
    """Round room up to whole sections and whole blocks of the largest order."""
    cdef uint64_t unit = max(<uint64_t>mem.geometry.pages_per_section, <uint64_t>ROOM_PAGES)
    return max(<uint64_t>1, (nr_pages + unit - 1) // unit) * unit


cdef uint64_t nr_blocks(Machine mem, uint64_t nr_sections) noexcept nogil:
    """The memory blocks that so many sections make up; the last may have fewer."""
    return (nr_sections + (<uint64_t>1 << mem.block_shift) - 1) >> mem.block_shift


cdef int room_for(Machine mem, uint64_t end_pfn) except -1:
    """Room for the pages below end_pfn, doubled each time so that growing by small steps stays cheap."""
    cdef uint64_t nr_pages, nr_sections
    if end_pfn <= mem.pages.nr_pages:
        return 0
    nr_pages = rounded_room(mem, min(mem.max_pfn, max(end_pfn, 2 * mem.pages.nr_pages)))
    nr_sections = nr_pages >> mem.sections.pfn_section_shift
    # NumPy lets go of the GIL while it copies: other threads' calls of one step wait
    _held = mem.lock.hold_still()
    check_ram((mem.sections.present.ones() << mem.sections.pfn_section_shift) * mem.pages.page_bits >> 3)
    nids = np.zeros(nr_sections, np.int16)
    nids[: mem.nids.size] = mem.nids
    # the engine last: if it fails, there is unused room for sections, and nothing else has changed
    mem.block_online.grow(nr_blocks(mem, nr_sections), [(0, mem.block_online.nbits)])
    mem.sections.grow(nr_sections)
    set_nids(mem, nids)
    mem.pages.grow(nr_pages, mem.sections.spans())
    return 0


cdef int add_group(Machine mem, tuple added) except -1:
    """Record a range that was added in one call, (start_pfn, nr_pages, group), for policy.py."""
    cdef uint64_t start = added[0]
    mem.groups_at.setdefault(start >> mem.sections.pfn_section_shift, []).append(added)
    return 0


cdef int set_nids(Machine mem, object array) except -1:
    mem.nids = array
    mem.nid_of = <int16_t *>data_of(array)
    return 0


# -- events

cdef int queue_event(Machine mem, str kind, str text) except -1:
    """Queue an event of this kind, "uevent" or "kmsg", when anybody listens."""
    if mem.listeners:
        mem.pending_events.append((kind, text))
    return 0


cdef int flush_events(Machine mem) except -1:
    """Deliver queued events. They are queued because Python code must never see a half-changed machine."""
    if mem.pending_events:
        pending, mem.pending_events = mem.pending_events, []
        deliver_events(mem, pending)
    return 0


cdef int deliver_events(Machine mem, list happened) except -1:
    mem.lock.call_back(mem.events.tell, (happened,))
    return 0


# -- counters

cdef int count_sections(Machine mem) except -1:
    """Recount the sections of each node."""
    cdef uint64_t section, first, count
    cdef int nid
    for nid in range(mem.zones.table.nr_nodes):
        mem.zones.table.nodes[nid].nr_sections = 0
    for first, count in mem.sections.runs():
        for section in range(first, first + count):
            mem.zones.table.nodes[mem.nid_of[section]].nr_sections += 1
    return 0


cdef int reset_counters(Machine mem) except -1:
    """Reset the counters after boot."""
    cdef int area
    for area in range(1, mem.pages.nr_areas):
        counts = mem.pages.counters(area)
        for name in ("merges", "splits", "frees", "allocs"):
            counts[name][:] = 0
        mem.pages.set_area_counters(area, counts)
    mem.pages.set_touched(0)
    mem.pages_onlined = 0
    mem.pages_offlined = 0
    mem.zonelist_builds = 0
    mem.zones.table.recomputed = mem.zones.table.counted = mem.zones.table.scanned = 0
    return 0


cdef uint64_t totalram_pages(Machine mem) noexcept nogil:
    cdef uint64_t total = 0
    cdef int z
    for z in range(nr_zones(&mem.zones.table)):
        total += zone_managed(&mem.zones.table, z)
    return total


cdef uint64_t totalhigh_pages(Machine mem) noexcept nogil:
    cdef uint64_t total = mem.high_offlined
    cdef int z
    for z in range(nr_zones(&mem.zones.table)):
        if mem.zones.table.is_highmem[zone_type(&mem.zones.table, z)]:
            total += zone_managed(&mem.zones.table, z)
    return total


cdef uint64_t node_present_pages(Machine mem, int nid) noexcept nogil:
    cdef int z
    cdef uint64_t total = 0
    for z in range(zone_number(&mem.zones.table, nid, 0), zone_number(&mem.zones.table, nid + 1, 0)):
        total += zone_present(&mem.zones.table, z)
    return total
