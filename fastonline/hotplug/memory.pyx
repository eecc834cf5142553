import errno

import numpy as np

from cpython.exc cimport PyErr_CheckSignals
from cpython.long cimport PyLong_CheckExact
from libc.errno cimport EINVAL, ENOMEM

from fastonline.core.bitmap cimport bitmap_clear, bitmap_full, bitmap_set, clear_bit, find_next_zero_bit, set_bit, test_bit
from fastonline.core.bitmap_engine cimport BitmapEngine, bitmap_online_quickly
from fastonline.core.buddy cimport free_area, free_area_fold
from fastonline.core.engine cimport BATCH_OK, BATCH_OUT_OF_RANGE, pfn_at, pfn_batch
from fastonline.core.lock cimport LASTING, Held, PyThreadState, settle
from fastonline.core.pageflags cimport PG_buddy, PG_offline, PG_prepared, PG_reserved, PG_tail
from fastonline.core.pageflags import FLAG_NAMES, KPF_BUDDY, KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL, KPF_NOPAGE, KPF_OFFLINE, \
    KPF_RESERVED, decode_page_flags
from fastonline.core.sections cimport early_section_nr
from fastonline.core.structpage cimport StructPageEngine
from fastonline.core.threads cimport MAX_THREADS, in_threads, range_step
from fastonline.core.types cimport MAX_MAX_ORDER, NO_AREA, int16_t, uint8_t, uint32_t
from fastonline.hotplug.types cimport MAX_NUMNODES, zone, zone_area, zone_managed, zone_present, zone_table
from fastonline.hotplug.watermarks cimport (
    init_per_zone_wmark_min, pcp_update, refresh, setup_per_zone_lowmem_reserve, setup_per_zone_wmarks,
)

from fastonline.errors import HotplugError, is_number, pfn_range
from fastonline.geometry import Geometry, format_size, parse_size
from fastonline.hotplug import procfs, savefile
from fastonline.hotplug.blocks import (
    MMOP_OFFLINE, MMOP_ONLINE, MMOP_ONLINE_KERNEL, MMOP_ONLINE_MOVABLE, WORDS, Blocks, word_to_type,
)
from fastonline.hotplug.events import Events
from fastonline.hotplug.invariants import check_machine
from fastonline.hotplug.migrate import migrate_range, movable_pages
from fastonline.hotplug.notifier import (
    MEM_CANCEL_OFFLINE, MEM_CANCEL_ONLINE, MEM_GOING_OFFLINE, MEM_GOING_ONLINE, MEM_OFFLINE, MEM_ONLINE, NO_NODE,
    MemoryNotify, NotifierChain, notifier_to_errno,
)
from fastonline.hotplug.policy import ONLINE_POLICIES, auto_movable_can_online_movable
from fastonline.hotplug.resources import Resources
from fastonline.hotplug.zones import Node, Zone
from fastonline.rules import LINUX_6_12, Rules

ENGINES = ("bitmap", "struct_page")
MEMMAPS = ("kernel", "on_memory")

__all__ = ["ENGINES", "MEMMAPS", "Flags", "Memory", "load"]

# the steps of Memory.walk, and the bits of state that it takes without looking at signals: 16 MiB
cdef enum:
    INIT = 0
    PREPARE = 1
    ONLINE = 2
    PART = 134217728

cdef int _ONLINE = MMOP_ONLINE
cdef int _KERNEL = MMOP_ONLINE_KERNEL
cdef int _MOVABLE = MMOP_ONLINE_MOVABLE


# -- arguments: TypeError, ValueError and OverflowError are for what is no pfn, count or order at all

cdef uint64_t as_uint64(object value, str what) except? 0xFFFFFFFFFFFFFFFF:
    """A pfn or a count as C has it."""
    cdef uint64_t number
    if not PyLong_CheckExact(value):
        if not is_number(value):
            raise TypeError(f"{what} is an int, not {value!r}")
        value = value.__index__()
    try:
        number = value
    except OverflowError:
        if value < 0:
            raise ValueError(f"{what} cannot be negative: {value}") from None
        raise OverflowError(f"{what} does not fit into 64 bits: {value:#x}") from None
    return number


cdef int as_threads(int threads) except -1:
    if not 1 <= threads <= MAX_THREADS:
        raise ValueError(f"threads {threads} is not between 1 and {MAX_THREADS}")
    return threads


cdef int as_order(object value, int max_order) except -1:
    cdef uint64_t order = as_uint64(value, "order")
    if order > <uint64_t>max_order:
        raise ValueError(f"order {value} is past the largest, MAX_PAGE_ORDER = {max_order}")
    return <int>order


cdef object as_pfn_array(object pfns):
    """One-dimensional, contiguous, uint32 or uint64 (negative ones wrapped, to be refused as out of range)."""
    array = np.asarray(pfns)
    if array.ndim != 1:
        raise ValueError(f"pfns are an array of one dimension, not {array.ndim}")
    if array.size == 0:
        return np.empty(0, np.uint64)
    if array.dtype.kind not in "iu":
        if array.dtype == object and all(isinstance(pfn, int) for pfn in array):
            for pfn in array:
                as_uint64(pfn, "a pfn")
        raise TypeError(f"pfns are integers, not {array.dtype}: {array[:3].tolist()!r}...")
    if array.dtype == np.uint32:
        return np.ascontiguousarray(array)
    if array.dtype.itemsize < 8:
        array = array.astype(np.int64)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).view(np.uint64)


cdef int set_batch(pfn_batch *batch, object array) except -1:
    cdef const uint32_t[::1] narrow
    cdef const uint64_t[::1] wide
    batch.pfns32 = NULL
    batch.pfns64 = NULL
    if array.dtype == np.uint32:
        narrow = array
        batch.pfns32 = &narrow[0]
    else:
        wide = array
        batch.pfns64 = &wide[0]
    batch.nr = array.size
    return 0


cdef uint64_t run_of(const pfn_batch *batch, uint64_t i) noexcept nogil:
    """Pages from the i-th on that follow one upon the other."""
    cdef uint64_t j = i + 1
    while j < batch.nr and pfn_at(batch, j) == pfn_at(batch, j - 1) + 1:
        j += 1
    return j - i


class Flags:
    """The per-page flags of a machine by name: ``flags["PG_reserved"]`` is a read-only uint64 array, pfn i at word i/64, bit
    i%64. With the bitmap engine it is the plane itself, no copy, and follows the machine until that grows beyond the room it
    has (give ``max_memory`` to have all of it from the start); the struct_page engine has no planes and makes a copy. view: the
    engine's function that gives the array."""

    __slots__ = ("_view",)

    def __init__(self, view):
        self._view = view

    def __getitem__(self, name):
        if name not in FLAG_NAMES:
            raise KeyError(f"{name!r} is no page flag; there are {', '.join(FLAG_NAMES)}")
        return self._view(name)

    def __iter__(self):
        return iter(FLAG_NAMES)

    def __len__(self):
        return len(FLAG_NAMES)

    def keys(self):
        """The names of the flags."""
        return list(FLAG_NAMES)


cdef class Memory:
    """One machine: its sections, zones, nodes and pages, onlined the way Linux does it.

    ::

        mem = Memory(X86_32_PAE, boot="1G", rules=LINUX_2_6_25)
        mem.add_memory(1 << 18, 1 << 17)
        mem.prepare_online_pages(1 << 18, 1 << 17)
        mem.mark_pages_onlined(1 << 18)

    geometry: Geometry. boot: size (bytes, or text such as "1G") of memory that is there and online from pfn 0 on, as after a
    boot. rules: which kernel is mirrored. engine: "bitmap" (fast) or "struct_page" (laid out as the kernel is, and the one
    whose allocations come in the kernel's order). max_memory: size beyond which memory can never be added; when it is given,
    room for all of it is made at once, untouched, so that views of the flags follow the machine for good.
    memory_block_size: size of the blocks of sysfs, one section or 2, 4, 8... of them (None: one). memmap: None, the memmap of
    what is added costs nothing; "kernel", its pages are allocated from the kernel zones (one pageblock for 128 MiB, KERNEL.md
    6.2); "on_memory", they are the first pages of each added block where the kernel can do so (memmap_on_memory), else as
    "kernel"; ValueError under the rules of a kernel that has no such thing.

    All ranges are ``start_pfn, nr_pages`` (unsigned long, in pages of the geometry). Errors: HotplugError with the kernel's
    errno; TypeError, ValueError, OverflowError for arguments that are no pfn, order or size at all. A refused call changes
    nothing. A freed page is in the buddy allocator at once: per-CPU lists are there only where a guest's own allocations are
    replayed.

    What was given is there to read: geometry, rules, engine, memmap; max_pfn, the page frame at which memory ends;
    pages_per_block, the pages of a memory block. So are the parts: sections (Sections), zones (Zones), resources (Resources,
    /proc/iomem), notifiers (NotifierChain), events (Events: uevents and the log), online_page_callback (None:
    generic_online_page), page_owners (the MovablePages that offline_pages may move), memmaps ({section: [(first pfn, pages)]}
    of what holds page descriptors), groups ([(start_pfn, nr_pages, group)] as they were added), going_offline (the (start_pfn,
    nr_pages) that offline_pages is at work on, or None). To be set: pcp (PerCpuPages, or None), auto_movable_ratio (int,
    percent) and auto_movable_numa_aware (bool) of the policy "auto-movable" (5.15).

    Several threads may call one machine. Hot-plug calls, batches, bulk allocations and whatever looks at more than one value
    (page_states, stats, validate, copy, save) exclude one another, each from its first step to its last, callbacks included
    (mem_hotplug_begin); a callback may call its own machine again. alloc_pages, free_pages, a mark of one page nobody listens
    to and the reading of one counter or page are one step each: other threads may take them between the steps of a call, so
    while it is in a callback, and never see a step in part. A step over much state lets go of the GIL.

    A signal whose handler raises (Ctrl-C) comes through add_memory, prepare_online_pages, mark_pages_onlined and online_pages
    in the midst of a large range and takes them back whole, but for bytes_touched and the order of free lists at the range's
    ends; from the other calls it comes when the step is done. A handler that calls the machine in the midst of a step gets
    HotplugError EBUSY. A fork waits for steps that run without the GIL; in the child a machine is nobody's but the forking
    thread's.
    """

    def __init__(
        self, geometry, boot=None, rules=LINUX_6_12, engine="bitmap", max_memory=None, memory_block_size=None, memmap=None
    ):
        cdef uint64_t boot_pages
        if not isinstance(geometry, Geometry):
            raise TypeError(f"geometry is a Geometry such as fastonline.X86_64, not {geometry!r}")
        if not isinstance(rules, Rules):
            raise TypeError(f"rules are a Rules such as fastonline.LINUX_6_12, not {rules!r}")
        if engine not in ENGINES:
            raise ValueError(f"engine {engine!r} is none of {', '.join(ENGINES)}")
        self.geometry = geometry
        self.rules = rules
        self.engine = engine
        self.max_pfn = geometry.max_pfn
        if max_memory is not None:
            self.max_pfn = self._pages_of_size(max_memory, "max_memory")
            if not 0 < self.max_pfn <= geometry.max_pfn:
                raise ValueError(
                    f"max_memory {max_memory!r} is not between one page and the {format_size(geometry.max_pfn * geometry.page_size)} "
                    f"that {geometry.name} can address"
                )
        boot_pages = 0 if boot is None else self._pages_of_size(boot, "boot")
        if boot_pages > self.max_pfn:
            raise ValueError(f"boot memory of {boot!r} is more than the {format_size(self.max_pfn * geometry.page_size)} there can be")
        self.pages_per_block = geometry.pages_per_section
        if memory_block_size is not None:
            self.pages_per_block = self._pages_of_size(memory_block_size, "memory_block_size")
            sections = self.pages_per_block // geometry.pages_per_section
            if self.pages_per_block % geometry.pages_per_section or not sections or sections & (sections - 1):
                raise ValueError(
                    f"memory_block_size {memory_block_size!r} is not 1, 2, 4, 8... sections of {format_size(geometry.section_size)}"
                )
            if sections > 1 and not rules.aligned:
                raise ValueError(
                    f"memory_block_size {memory_block_size!r}: a memory block of Linux {rules.name} is one section, "
                    f"{format_size(geometry.section_size)}"
                )
        if memmap is not None and memmap not in MEMMAPS:
            raise ValueError(f"memmap {memmap!r} is none of None, 'kernel', 'on_memory'")
        if memmap == "on_memory" and not rules.memmap_on_memory:
            raise ValueError(f"memmap 'on_memory': no memmap_on_memory before 5.13, the rules are Linux {rules.name}'s")
        self.memmap = memmap
        self.fixed_room = max_memory is not None
        self._make(self.max_pfn if self.fixed_room else boot_pages)
        if boot_pages:
            self._boot(boot_pages)

    def _pages_of_size(self, size, what):
        nr_bytes = parse_size(size)
        if nr_bytes % self.geometry.page_size:
            raise ValueError(f"{what} {size!r} is not a whole number of pages of {self.geometry.page_size} bytes")
        return nr_bytes // self.geometry.page_size

    def _make(self, uint64_t room):
        """An empty machine with room for so many pages."""
        cdef int nr_areas = 1
        cdef uint64_t nr_pages = self._rounded(room)
        geometry, rules = self.geometry, self.rules
        if self.engine == "bitmap":
            self.pages = self.planes = BitmapEngine(nr_pages, geometry.max_page_order, nr_areas)
        else:
            self.pages = StructPageEngine(
                nr_pages, geometry.max_page_order, nr_areas, rules.struct_page_bytes[geometry.bits == 64], rules.lifo
            )
        self.lock = self.pages.lock
        self.sections = Sections(geometry.pfn_section_shift, nr_pages >> geometry.pfn_section_shift)
        self.own_nids(np.zeros(self.sections.nr_sections, np.int16))
        self.zones = Zones(geometry, rules, self.pages, 1)
        self.zones.table.nodes[0].online = True
        self.resources = Resources(geometry.page_shift)
        self.notifiers = NotifierChain()
        self.chain = self.notifiers.chain
        self.events = Events()
        self.listeners = self.events.listeners
        self.unsaid = []
        self.page_owners = []
        self.memmaps = {}
        self.groups = []
        self.auto_movable_ratio = 301
        self.auto_movable_numa_aware = True
        self.auto_online = MMOP_OFFLINE
        # what the paths of a few microseconds ask of the rules and the geometry
        self.watermarks_at_mark = rules.watermarks_at_mark
        self.aligned = rules.aligned
        self.grow_before_notify = rules.grow_before_notify
        self.shrink_spans = rules.shrink_spans
        self.totalhigh_shrinks = rules.totalhigh_shrinks
        self.nodes_lose_memory = rules.nodes_lose_memory
        self.always_notify_online = rules.always_notify_online
        self.min_free_kbytes_follows = rules.min_free_kbytes_follows
        self.pageblock_order = geometry.pageblock_order
        self.movable_type = self.zones.names.index("Movable")
        self.hotplug_type = self.zones.names.index(geometry.hotplug_zone)
        self.online_order = geometry.max_page_order if rules.online_order is None else rules.online_order

    def _rounded(self, uint64_t nr_pages):
        """Room is whole sections, and whole blocks of every order there can be."""
        unit = max(self.geometry.pages_per_section, 1 << 13)
        return max(1, (nr_pages + unit - 1) // unit) * unit

    cdef int room_for(self, uint64_t end_pfn) except -1:
        """Room for the pages below end_pfn, doubled each time so that growing by small steps stays cheap."""
        cdef uint64_t nr_pages
        if end_pfn <= self.pages.nr_pages:
            return 0
        nr_pages = self._rounded(min(self.max_pfn, max(end_pfn, 2 * self.pages.nr_pages)))
        nids = np.zeros(nr_pages >> self.sections.pfn_section_shift, np.int16)
        nids[: self.nids.size] = self.nids
        # the engine last: where that fails there is room for sections that nobody asks for, and nothing else has changed
        self.sections.grow(nr_pages >> self.sections.pfn_section_shift)
        self.own_nids(nids)
        self.pages.grow(nr_pages, self.sections.spans())
        return 0

    cdef int own_nids(self, object array) except -1:
        cdef int16_t[::1] view = array
        self.nids = array
        self.nid_of = &view[0]
        return 0

    def _boot(self, uint64_t nr_pages):
        """Memory from pfn 0 on, online as after a boot: early sections, zones by the geometry's limits, every page free."""
        cdef uint64_t start = 0, end, shift = self.geometry.page_shift, pfn, nr
        cdef int i
        self.sections.add(0, nr_pages, early=True)
        self.resources.register(0, nr_pages)
        for pfn, nr in self.sections.spans():
            self.walk(INIT, pfn, nr, 0)
        for i, (_, limit) in enumerate(self.geometry.zone_limits):
            end = nr_pages if limit is None else min(nr_pages, <uint64_t>limit >> shift)
            if end > start:
                self._boot_range(start, end - start, i)
                start = end
        self._reset_counters()
        self.policy_zone = self.highest_kernel_zone()
        init_per_zone_wmark_min(&self.zones.table)

    def _boot_range(self, uint64_t start, uint64_t nr, int z):
        """A range of one zone that was there at boot, all of it free."""
        self.pages.assign_area(start, nr, zone_area(z))
        self.zones.grow_span(z, start, nr)
        self.zones.table.zones[z].present_pages += nr
        self.zones.table.zones[z].present_early += nr
        self.zones.table.nodes[z / self.zones.table.nr_types].has_memory = True
        self.walk(PREPARE, start, nr, 0)
        self.note_whole(start, nr, True)
        self.walk(ONLINE, start, nr, self.geometry.max_page_order)

    @classmethod
    def from_page_map(
        cls, geometry, sections, ram, zones, min_free_kbytes, rules=LINUX_6_12, engine="bitmap", user_min_free_kbytes=None, **more
    ):
        """A machine in the midst of its life, as a map of its pages shows it (linux/capture.py makes one of a kernel's,
        linux/recording.py one that has as many free blocks as were recorded).

        sections: (start_pfn, nr_pages, nid, early) of the memory that has sections; early ones are online. ram: (start_pfn,
        nr_pages) of what is System RAM. zones: objects with nid, name, start_pfn, spanned_pages, min, low, high, protection
        ({zone name: pages}) and runs, which are the pages that were ever prepared: arrays of their first pfns and lengths
        (uint64), ascending and disjoint, and of their states (uint8, as page_states has them: waiting, free, in use, offline).
        Pages in use are single ones; free lists run in ascending order. Counters start from zero, as after a boot.
        user_min_free_kbytes: what was written to the sysctl, -1 for nothing; None: told by a min_free_kbytes that no kernel
        computes. more: memory_block_size and memmap, as Memory takes them.

        min_free_kbytes: as the kernel has it. ValueError for maps that no machine can be in: overlapping, outside a section or
        the span, in a zone there is not.
        """
        cdef Memory mem = cls(geometry, rules=rules, engine=engine, **more)
        cdef zone_table *table = &mem.zones.table
        cdef uint64_t end = max([start + nr for start, nr, _, _ in sections], default=0)
        cdef int shift = geometry.pfn_section_shift, z, i
        if end > mem.max_pfn:
            raise ValueError(f"a page map of {end:#x} pages: {geometry.name} ends at pfn {mem.max_pfn:#x}")
        for kbytes in (min_free_kbytes, -1 if user_min_free_kbytes is None else user_min_free_kbytes):
            if not -1 <= kbytes <= 0x7FFFFFFF:
                raise ValueError(f"min_free_kbytes does not fit into an int: {kbytes}")
        mem.room_for(end)
        for start, nr, nid, early in sections:
            mem.zones.need_node(nid)
            table.nodes[<int>nid].online = True
            mem.sections.add(start, nr, early)
            mem.nids[start >> shift : (start + nr - 1 >> shift) + 1] = nid
            if not early:
                mem.groups.append((start, nr, None))
        for start, nr in mem.sections.spans():
            mem.pages.init_pages(start, nr)
        for start, nr in ram:
            mem.resources.register(start, nr)
        for known in zones:
            mem.zones.need_node(known.nid)
            table.nodes[<int>known.nid].online = True      # a node without memory too
            if (known.nid, known.name) not in mem.zones:
                raise ValueError(f"there is no zone {known.name} on node {known.nid} with rules {rules.name}")
            mem._map_zone(known, mem.zones[known.nid, known.name].nr)
        for start, nr in mem.sections.spans():
            mem.note_prepared(start, nr)
        if np.any(mem.sections.online.array & ~mem.sections.prepared.array):
            raise ValueError("a section is online, and none of its pages is in the page map of a zone")
        mem._reset_counters()
        mem.policy_zone = mem.highest_kernel_zone()
        init_per_zone_wmark_min(table)
        if user_min_free_kbytes is not None:
            table.user_min_free_kbytes = user_min_free_kbytes
        elif min_free_kbytes > table.min_free_kbytes:
            # above what a kernel computes: the user's, or khugepaged's, and kept either way
            table.user_min_free_kbytes = min_free_kbytes
        table.min_free_kbytes = min_free_kbytes
        for known in zones:
            z = mem.zones[known.nid, known.name].nr
            table.zones[z].min, table.zones[z].low, table.zones[z].high = known.min, known.low, known.high
            pcp_update(table, z, zone_managed(table, z))
            for i, name in enumerate(mem.zones.names):
                table.zones[z].protection[i] = known.protection.get(name, 0)
        return mem

    def _map_zone(self, known, int z):
        """Bring the added pages of a zone into the states of its page map."""
        cdef const uint64_t[::1] starts, lengths
        cdef const uint8_t[::1] states
        cdef Py_ssize_t i, nr
        cdef uint64_t block
        cdef int shift = self.pages.max_order
        starts, lengths, states = known.runs
        nr = starts.shape[0]
        if nr == 0:
            return
        ends = np.asarray(starts) + np.asarray(lengths)
        if np.any(ends <= starts) or np.any(ends[: nr - 1] > starts[1:]) \
                or not known.start_pfn <= starts[0] or not ends[nr - 1] <= known.start_pfn + known.spanned_pages:
            raise ValueError(f"the page map of zone {known.name} is not in order, or leaves the zone's span")
        if not np.isin(states, [PG_prepared | flag for flag in (PG_reserved, PG_buddy, 0, PG_offline)]).all():
            raise ValueError(f"the page map of zone {known.name} has pages that are neither waiting, free, in use nor offline")
        for i in range(nr):
            if self.sections.missing(starts[i], lengths[i]) != <uint64_t>-1 \
                    or self.pages.weigh(PG_prepared, starts[i], lengths[i]):
                raise ValueError(f"{pfn_range(starts[i], lengths[i])} of zone {known.name} has no section, or is in two zones")
            for block in range(starts[i] >> shift, ((starts[i] + lengths[i] - 1) >> shift) + 1):
                if self.pages.area_of[block] not in (NO_AREA, zone_area(z)):
                    raise ValueError(f"{pfn_range(block << shift, 1 << shift)} is in two zones, one of them {known.name}")
            self.pages.assign_area(starts[i], lengths[i], zone_area(z))
            self.pages.prepare_pages(starts[i], lengths[i])
            if states[i] & (PG_reserved | PG_buddy) == 0:
                self.pages.online_range(starts[i], lengths[i], shift, True)
                self.pages.claim_range(starts[i], lengths[i])
                if states[i] & PG_offline:
                    self.pages.set_offline(starts[i], lengths[i])
        # last, so that the free lists are in the order of these alone
        for i in range(nr):
            if states[i] & PG_buddy:
                self.pages.online_range(starts[i], lengths[i], shift, True)
        self.zones.grow_span(z, known.start_pfn, known.spanned_pages)
        self.zones.table.zones[z].present_pages += np.sum(lengths)
        self.zones.table.zones[z].present_early += np.sum(lengths)
        self.zones.table.nodes[z / self.zones.table.nr_types].has_memory = True

    cdef int highest_kernel_zone(self) noexcept nogil:
        """The number of the highest zone type below Movable that is populated; 0 when none is."""
        cdef int types = self.zones.table.nr_types, z, highest = 0
        for z in range(self.zones.table.nr_nodes * types):
            if z % types < self.movable_type and zone_present(&self.zones.table, z):
                highest = max(highest, z % types)
        return highest

    cdef bint enters_empty_zone(self, uint64_t pfn) noexcept nogil:
        """Will the page's zone be populated by its first page that is marked? (populated_zone in 2.6.25's online_pages.)"""
        cdef int area = self.pages.area_of[pfn >> self.pages.max_order] if pfn < self.pages.nr_pages else NO_AREA
        return self.zones.table.present_is_managed and area != NO_AREA and zone_present(&self.zones.table, area - 1) == 0

    def _reset_counters(self):
        """What boot did is not counted."""
        cdef int area
        for area in range(1, self.pages.nr_areas):
            counts = self.pages.area_counters(area)
            for name in ("merges", "splits", "frees", "allocs"):
                counts[name][:] = 0
            self.pages.set_area_counters(area, counts)
        self.pages.set_touched(0)
        self.pages_onlined = 0
        self.pages_offlined = 0

    def __repr__(self):
        return (
            f"<Memory {self.geometry.name} rules={self.rules.name} engine={self.engine} "
            f"sections={self.sections.present.weight()} totalram_pages={self.totalram_pages}>"
        )

    # -- ranges

    cdef int check_range(self, uint64_t start, uint64_t nr, str what) except -1:
        if nr == 0:
            raise HotplugError.of(errno.EINVAL, f"{what} of zero pages at pfn {start:#x}")
        if nr > self.max_pfn or start > self.max_pfn - nr:
            raise HotplugError.of(
                errno.EINVAL, f"{what} of {pfn_range(int(start), int(nr))}: memory ends at pfn {self.max_pfn:#x}"
            )
        return 0

    cdef int check_present(self, uint64_t start, uint64_t nr, str what) except -1:
        cdef uint64_t section
        self.check_range(start, nr, what)
        section = self.sections.missing(start, nr)
        if section != <uint64_t>-1:
            raise HotplugError.of(
                errno.EINVAL, f"{what} of {pfn_range(start, nr)}: section {section} is not present; add_memory it first"
            )
        return 0

    cdef int64_t outside_prepared(self, uint64_t start, uint64_t nr) noexcept nogil:
        """The first section of the range with no prepared page in it, or -1."""
        cdef uint64_t shift = self.sections.pfn_section_shift, end = ((start + nr - 1) >> shift) + 1
        cdef uint64_t section = find_next_zero_bit(self.sections.prepared.words, end, start >> shift)
        return section if section < end else -1

    cdef bint untouched(self, uint64_t start, uint64_t nr) noexcept nogil:
        """Is all of the range waiting, because its sections were prepared as a whole and none has had a page online?"""
        return self.sections.none_in(self.sections.online, start, nr) and self.sections.all_in(self.sections.whole, start, nr)

    cdef void note_prepared(self, uint64_t start, uint64_t nr) noexcept nogil:
        """Pages of the range were prepared, or are no longer: which sections are so now in whole, in part, or not at all?"""
        cdef uint64_t shift = self.sections.pfn_section_shift, section, pages = <uint64_t>1 << shift, weight
        for section in range(start >> shift, ((start + nr - 1) >> shift) + 1):
            weight = self.pages.weigh(PG_prepared, section << shift, pages)
            if weight:
                set_bit(self.sections.prepared.words, section)
            else:
                clear_bit(self.sections.prepared.words, section)
            if weight == pages:
                set_bit(self.sections.whole.words, section)
            else:
                clear_bit(self.sections.whole.words, section)

    cdef void note_whole(self, uint64_t start, uint64_t nr, bint prepared) noexcept nogil:
        """note_prepared for a range all of whose pages are alike: only the sections at its ends need be looked at."""
        cdef uint64_t shift = self.sections.pfn_section_shift, end = (start + nr) >> shift
        cdef uint64_t first = (start + (<uint64_t>1 << shift) - 1) >> shift
        if first < end:
            if prepared:
                bitmap_set(self.sections.prepared.words, first, end - first)
                bitmap_set(self.sections.whole.words, first, end - first)
            else:
                bitmap_clear(self.sections.prepared.words, first, end - first)
                bitmap_clear(self.sections.whole.words, first, end - first)
        if first << shift != start:
            self.note_prepared(start, 1)
        if end << shift != start + nr:
            self.note_prepared(start + nr - 1, 1)

    cdef int zone_for_range(self, uint64_t start, uint64_t nr, int nid, int online_type) except -1:
        """zone_for_pfn_range: the zone number. The words name the kernel zones or Movable; plain `online` asks the policy:
        contig-zones takes the first kernel zone whose span meets the range, else Movable when its span does, else the
        hotplug_zone; auto-movable (hotplug/policy.py) weighs (KERNEL.md 3.4, RECORDED.md 5 and 14). Under 2.6.25 pages keep
        the zone they were given, which for added memory is the geometry's hotplug_zone."""
        cdef int base = nid * self.zones.table.nr_types, i, kernel = -1, movable
        cdef zone *zones = &self.zones.table.zones[base]
        cdef bint kernel_meets, movable_meets
        if not self.shrink_spans:
            if self.pages.area_of[start >> self.pages.max_order] != NO_AREA:
                return self.pages.area_of[start >> self.pages.max_order] - 1
            return base + self.hotplug_type
        movable = self.movable_type
        if online_type == _MOVABLE or online_type == _ONLINE and self.auto_movable \
                and auto_movable_can_online_movable(self, start, nr, nid):
            return base + movable
        for i in range(self.zones.table.normal + 1):
            if start < zones[i].start_pfn + zones[i].spanned_pages and zones[i].start_pfn < start + nr:
                kernel = i
                break
        kernel_meets = kernel >= 0
        if not kernel_meets:
            kernel = self.hotplug_type
            kernel_meets = zones_meet(&zones[kernel], start, nr)
        movable_meets = zones_meet(&zones[movable], start, nr)
        if online_type == _ONLINE and not self.auto_movable and movable_meets and not kernel_meets:
            return base + movable
        return base + kernel

    # -- adding and removing

    def add_memory(self, start_pfn, nr_pages, nid=0, name="System RAM", merge=False, int threads=1, group=None):
        """Sections appear: their memmap is there, every page Reserved, nothing online; no zone changes.

        start_pfn, nr_pages: unsigned long, pages. Today's rules take whole memory blocks, 2.6.25 widens the range to whole
        sections. nid: the node, which comes online with its first memory. name: of the resource in /proc/iomem,
        merge: joined with its neighbours of that name (MHP_MERGE_RESOURCE), as virtio-mem, Xen and Hyper-V ask; they do not
        ask for a memmap on memory. threads: 1 to 64 share the first write of the memmap, whose page faults are what adding
        many GiB to a struct_page machine costs (as deferred_init_memmap does at boot, 5.9). group: (name, unit_pages) of the
        dynamic memory group that the range belongs to (memory_group_register_dynamic, 5.15: each virtio-mem device has one);
        None: a static one of its own, as a DIMM. The memmap costs what the machine's `memmap` says, and the new blocks go
        online as auto_online_blocks says; those that cannot stay offline, and what a callback raises meanwhile comes out of
        the call when all have been tried: the memory is there then.

        HotplugError: EEXIST over memory that is there, or over any resource that does not hold the whole range; EINVAL for a
        range that is misaligned, empty or past the end (`blocks.add` tells that one as today's kernels do, E2BIG); ENOMEM when
        there is no room for the memmap in the machine. MemoryError when there is none here. Mirrors add_memory (2.6.25, 6.1:
        KERNEL.md 1.2, 3.1).
        """
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        cdef uint64_t node = as_uint64(nid, "nid"), unit = self.geometry.pages_per_section, first, end
        cdef int done = 0, auto_online
        held = self.lock.hold()
        as_threads(threads)
        self._not_changing("add_memory")
        self.check_range(start, nr, "add_memory")
        if node >= MAX_NUMNODES:
            raise ValueError(f"nid {nid} is past the last node, {MAX_NUMNODES - 1}")
        taken = self.resources.conflict(start, nr)
        if taken:
            raise HotplugError.of(
                errno.EEXIST, f"add_memory of {pfn_range(start, nr)}: {pfn_range(taken[0], taken[1] - taken[0])} is there"
            )
        if self.rules.aligned and (start % self.pages_per_block or nr % self.pages_per_block):
            raise HotplugError.of(
                errno.EINVAL,
                f"add_memory of {pfn_range(start, nr)}: not whole memory blocks of {self.pages_per_block:#x} pages",
            )
        first = start // unit
        end = (start + nr + unit - 1) // unit
        refresh(&self.zones.table)     # what marks have asked for comes before a new node's zones are there
        self.room_for(end * unit)
        # a section that an earlier, narrower range brought is there already (2.6.25 swallows its EEXIST)
        runs = self.sections.missing_runs(first, end)
        try:
            for first, end in runs:
                self.walk(INIT, first * unit, (end - first) * unit, 0, threads)
                done += 1
            if self.memmap is not None:
                self._alloc_memmap(start, nr, runs, node, merge)
            self.zones.need_node(node)
            self.resources.register(start, nr, name, merge)
        except BaseException:
            # no room for the memmap, or a signal: nothing of the range is there any more
            for first, end in runs[:done]:
                self.pages.forget_pages(first * unit, (end - first) * unit)
                self._free_memmap(first, end)
            if self.resources.conflict(start, nr):
                self.resources.release(start, nr)
            raise
        new_node = not self.zones.table.nodes[node].online
        for first, end in runs:
            self.sections.add(first * unit, (end - first) * unit)
            self.nids[first:end] = node
        if new_node and self.rules.zonelists_follow:
            self.build_zonelists([node])
        self.zones.table.nodes[node].online = True
        self.groups.append((start, nr, group))
        auto_online = self.auto_online
        blocks = []
        if self.listeners or auto_online != MMOP_OFFLINE:
            blocks = [block for first, end in runs
                      for block in range(first * unit // self.pages_per_block, (end * unit - 1) // self.pages_per_block + 1)]
        for block in blocks:
            self.say("uevent", f"add@memory{block}")
        if new_node:
            self.say("uevent", f"add@node{node}")
        try:
            self.tell()
        finally:
            if auto_online != MMOP_OFFLINE:
                self.blocks.auto_online(blocks, auto_online)

    def _alloc_memmap(self, uint64_t start, uint64_t nr, list runs, int nid, bint driver):
        """Page descriptors of an added range, whose new sections are in `runs`: its own first pages, or pages of the kernel
        (sparse_add_section, mhp_supports_memmap_on_memory), as for all that drivers add. ENOMEM when there is no room; nothing
        is kept then."""
        cdef uint64_t unit = self.geometry.pages_per_section, at
        cdef uint64_t size = self.rules.struct_page_bytes[self.geometry.bits == 64]
        cdef uint64_t pages = (unit * size + self.geometry.page_size - 1) // self.geometry.page_size
        cdef uint64_t in_block = self.pages_per_block * size // self.geometry.page_size
        if self.memmap == "on_memory" and not driver and (nr == self.pages_per_block or self.rules.memmap_per_block) \
                and in_block % (1 << <int>self.geometry.pageblock_order) == 0 and in_block < self.pages_per_block:
            for at in range(start, start + nr, self.pages_per_block):
                self.memmaps[at // unit] = [(at, in_block)]
            return
        # where a section's is more than the largest block there is, several of those (vmemmap_populate on s390)
        order = min((pages - 1).bit_length(), self.pages.max_order)
        sections = [section for run in runs for section in range(*run)]
        pieces = (pages + (1 << order) - 1) >> order
        taken = []
        try:
            for _ in range(len(sections) * pieces):
                taken.append((self._alloc_kernel(order, nid), 1 << order))
        except BaseException as e:
            for pfn, _ in taken:
                self._free_kernel(pfn, order)
            if isinstance(e, MemoryError):
                raise HotplugError.of(errno.ENOMEM, f"add_memory of {pfn_range(start, nr)}: no room for its memmap") from None
            raise
        for i, section in enumerate(sections):
            self.memmaps[section] = taken[i * pieces : (i + 1) * pieces]

    def _free_memmap(self, uint64_t first, uint64_t end):
        """The inverse of _alloc_memmap, for sections [first, end)."""
        cdef uint64_t unit = self.geometry.pages_per_section
        for section in range(first, end):
            for pfn, count in self.memmaps.pop(section, ()):
                if not first * unit <= pfn < end * unit:
                    self._free_kernel(pfn, count.bit_length() - 1)

    def _alloc_kernel(self, order, nid):
        """An unmovable block: from the node's kernel zones, highest first, then from the other nodes'."""
        if self.pcp is not None:
            return self.pcp.alloc_kernel(order, nid)
        for z in self.kernel_zonelist(nid):
            settle(self.lock)
            pfn = self.pages.alloc_block(zone_area(z), order)
            if pfn >= 0:
                return pfn
        raise MemoryError(f"no free block of order {order} in a kernel zone")

    def _free_kernel(self, pfn, order):
        if self.pcp is not None:
            self.pcp.free_kernel(pfn, order)
        else:
            self.free_pages(pfn, order)

    def node_order(self, nid):
        """Nodes in the order in which node `nid` falls back to them, list of ints: itself, then the others with memory; under
        rules that skip memoryless nodes only those with memory. All are equally far from one another and the CPUs are node
        0's, so that higher numbers come first, then lower ones, and node 0 last (find_next_best_node, mm/page_alloc.c)."""
        others = [n for n in self.zones.online_nodes() if n != nid and self.zones.has_memory(n)]
        own = [] if self.rules.skips_memoryless and not self.zones.has_memory(nid) else [nid]
        return own + sorted(others, key=lambda n: ((n < nid) + (n == 0), n))

    def kernel_zonelist(self, nid):
        """Zone numbers that GFP_KERNEL on node `nid` may use, in its order: list of ints."""
        cdef int types = self.zones.table.nr_types
        return [n * types + i for n in self.node_order(nid) for i in range(self.zones.table.normal, -1, -1)
                if self.populated(n, i)]

    def movable_zonelist(self, nid, nodes=None, highest=None):
        """Zone numbers that GFP_HIGHUSER_MOVABLE on node `nid` may use, in its order: list of ints; of `nodes` only, from zone
        type `highest` down."""
        cdef int types = self.zones.table.nr_types
        top = self.zones.names.index(highest or "Movable")
        return [n * types + i for n in self.node_order(nid) if nodes is None or n in nodes for i in range(top, -1, -1)
                if self.populated(n, i)]

    cdef bint populated(self, int nid, int i) noexcept nogil:
        """Has zone type `i` of node `nid`, which may not be there, present pages?"""
        cdef int types = self.zones.table.nr_types
        return 0 <= nid < self.zones.table.nr_nodes and zone_present(&self.zones.table, nid * types + i) > 0

    cdef int build_zonelists(self, list nids) except -1:
        """build_all_zonelists, for these nodes: which is the policy zone, and what the log says. 2.6.25 has set the watermarks
        anew by then (KERNEL.md 1.3), later kernels have not (RECORDED.md 3)."""
        cdef int z
        cdef int64_t total = 0
        cdef int kinds = 6 if self.rules.shrink_spans else 5
        self.policy_zone = max(self.policy_zone, self.highest_kernel_zone())
        if not self.listeners:
            return 0
        refresh(&self.zones.table)
        for nid in nids:
            self.say("kmsg", f"Fallback order for Node {nid}: {' '.join(map(str, self.node_order(nid)))}")
        for z in range(self.zones.table.nr_nodes * self.zones.table.nr_types):
            total += max(<int64_t>0, <int64_t>zone_managed(&self.zones.table, z) - self.zones.table.zones[z].high)
        grouping = "off" if total < (kinds << <int>self.geometry.pageblock_order) else "on"
        self.say("kmsg", f"Built {len(self.zones.online_nodes())} zonelists, mobility grouping {grouping}.  Total pages: {total}")
        self.say("kmsg", f"Policy zone: {self.zones.names[self.policy_zone]}")
        return 0

    cdef int say(self, str kind, str text) except -1:
        """An event that is told when the machine is whole: see tell."""
        if self.listeners:
            self.unsaid.append((kind, text))
        return 0

    cdef int tell(self) except -1:
        """Tell the listeners what has been said. Until here nothing of Python ran since the machine began to change, so that no
        signal could come in between."""
        if self.unsaid:
            unsaid, self.unsaid = self.unsaid, []
            self.events.tell(unsaid)
        return 0

    cdef int recompute(self) except -1:
        """init_per_zone_wmark_min, and what it says when the user's min_free_kbytes is kept."""
        cdef int64_t refused = init_per_zone_wmark_min(&self.zones.table)
        if refused >= 0:
            self.say("kmsg", f"min_free_kbytes is not updated to {refused} because user defined value "
                     f"{self.zones.table.user_min_free_kbytes} is preferred")
        return 0

    def remove_memory(self, start_pfn, nr_pages):
        """The sections of an offline range are gone, with the node when that was its last memory.

        HotplugError: EBUSY when some of it is prepared or online, EINVAL when it is not there, or no whole memory blocks.
        Mirrors try_remove_memory (6.1).
        """
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        cdef uint64_t unit = self.geometry.pages_per_section
        cdef PyThreadState *thread
        held = self.lock.hold()
        self._not_changing("remove_memory")
        self.check_present(start, nr, "remove_memory")
        if start % self.pages_per_block or nr % self.pages_per_block:
            raise HotplugError.of(
                errno.EINVAL,
                f"remove_memory of {pfn_range(start, nr)}: not whole memory blocks of {self.pages_per_block:#x} pages",
            )
        if not self.sections.none_in(self.sections.prepared, start, nr):
            raise HotplugError.of(errno.EBUSY, f"remove_memory of {pfn_range(start, nr)}: offline it first")
        self._free_memmap(start // unit, (start + nr) // unit)
        self.groups[:] = [(s, n, group) for s, n, group in self.groups if s < start or s >= start + nr]
        thread = self.lock.let_go(nr * self.pages.page_bits)
        self.pages.forget_pages(start, nr)
        self.lock.take_back(thread)
        self.pages.assign_area(start, nr, NO_AREA)
        self.sections.remove(start // unit, nr // unit)
        self.resources.release(start, nr)
        present = {int(self.nids[n]) for first, count in self.sections.runs() for n in range(first, first + count)}
        if self.listeners:
            for block in range(start // self.pages_per_block, (start + nr) // self.pages_per_block):
                self.say("uevent", f"remove@memory{block}")
        for nid in self.zones.online_nodes():
            if nid and nid not in present:
                self.zones.table.nodes[nid].online = False
                self.say("uevent", f"remove@node{nid}")
        self.tell()

    # -- onlining

    def prepare_online_pages(self, start_pfn, nr_pages, online_type=MMOP_ONLINE):
        """Phase 1: tell the chain (MEM_GOING_ONLINE), grow the zone's and the node's span; no page goes online.

        start_pfn, nr_pages: unsigned long, pages; today's rules want pageblock-aligned starts and section-aligned ends.
        online_type: MMOP_ONLINE, MMOP_ONLINE_KERNEL or MMOP_ONLINE_MOVABLE. Under today's rules present_pages grows by the
        whole range, under 2.6.25 when pages are marked.

        HotplugError: EINVAL for what is not there, misaligned or (today) prepared already; what a notifier vetoes with (EPERM
        for NOTIFY_BAD), or its exception; MEM_CANCEL_ONLINE then goes to the whole chain. Mirrors the patch of the 2008
        thread (KERNEL.md 1.8); today move_pfn_range_to_zone (6.1).
        """
        self.prepare(as_uint64(start_pfn, "start_pfn"), as_uint64(nr_pages, "nr_pages"), online_type)

    cdef list prepare(self, uint64_t start, uint64_t nr, int online_type):
        """prepare_online_pages: the runs (start_pfn, nr_pages) that are prepared now and were not before."""
        cdef uint64_t unit = <uint64_t>1 << self.sections.pfn_section_shift, pfn, run
        cdef list fresh = [(start, nr)]
        cdef int nid, z, done = 0
        cdef bint assigned = False
        held = self.lock.hold()
        self._not_changing("prepare_online_pages")
        self.check_present(start, nr, "prepare_online_pages")
        if self.aligned:
            if start & ((<uint64_t>1 << self.pageblock_order) - 1) or (start + nr) % unit:
                raise HotplugError.of(
                    errno.EINVAL,
                    f"prepare_online_pages of {pfn_range(start, nr)}: it must begin at a pageblock (2^{self.geometry.pageblock_order} "
                    f"pages) and end with a section ({unit:#x} pages)",
                )
            if not self.sections.none_in(self.sections.prepared, start, nr) and self.pages.weigh(PG_prepared, start, nr):
                raise HotplugError.of(errno.EINVAL, f"prepare_online_pages of {pfn_range(start, nr)}: prepared or online already")
            # only a section that was there at boot can have holes
            if not self.sections.none_in(self.sections.early, start, nr) and \
                    sum([part for _, part in self.resources.within(start, nr)]) != nr:
                raise HotplugError.of(errno.EINVAL, f"prepare_online_pages of {pfn_range(start, nr)}: some of it is not memory")
        nid = self.nid_of[start >> self.sections.pfn_section_shift]
        z = self.zone_for_range(start, nr, nid, online_type)
        if self.aligned and self.pages.area_of[start >> self.pages.max_order] != NO_AREA \
                and self.pages.area_of[start >> self.pages.max_order] != zone_area(z):
            raise HotplugError.of(
                errno.EINVAL,
                f"prepare_online_pages of {pfn_range(start, nr)}: the buddy block at its start lies in zone "
                f"{self.zone_of(start).name} already, and a block lies in one zone",
            )
        notice = None
        if self.chain:
            notice = self._notice(start, nr, 0, self.changed_nid(start))
        if self.grow_before_notify:
            self.enter_area(start, nr, z)
            assigned = True
        if notice is not None:
            try:
                self._ask(MEM_GOING_ONLINE, MEM_CANCEL_ONLINE, notice, "prepare_online_pages")
            except BaseException:
                if assigned:
                    self.release_area(start, nr, z)
                raise
        if not self.aligned:
            # 2.6.25 walks System RAM only, and what is online stays as it is
            fresh = [part for pfn, run in self.resources.within(start, nr) for part in self.unprepared(pfn, run)]
        try:
            for pfn, run in fresh:
                self.walk(PREPARE, pfn, run, 0)
                done += 1
        except BaseException:
            for pfn, run in fresh[:done]:
                self.pages.unprepare_pages(pfn, run)
            if assigned:
                self.release_area(start, nr, z)
            if notice is not None:
                self.notifiers.tell(MEM_CANCEL_ONLINE, notice)
            raise
        if not assigned:
            self.enter_area(start, nr, z)
        if self.aligned:
            self.zones.table.zones[z].present_pages += nr
            if early_section_nr(self.sections, start // unit):
                self.zones.table.zones[z].present_early += nr
        for pfn, run in fresh:
            self.note_whole(pfn, run, True)
        return fresh

    def _ask(self, going, cancel, notice, what):
        """Ask the chain; a veto or an exception is followed by the cancelling event to all, and raised."""
        self.changing = True
        try:
            try:
                veto = notifier_to_errno(self.notifiers.call(going, notice))
            except BaseException:
                self.notifiers.tell(cancel, notice)
                raise
            if veto:
                self.notifiers.tell(cancel, notice)
                raise HotplugError.of(
                    veto, f"{what} of {pfn_range(notice.start_pfn, notice.nr_pages)} was vetoed by a memory notifier"
                )
        finally:
            self.changing = False

    def _not_changing(self, what):
        if self.changing:
            raise HotplugError.of(errno.EBUSY, f"{what} from inside a memory notifier: the hot-plug lock is held")

    cdef void release_area(self, uint64_t start, uint64_t nr, int z) noexcept:
        """The range leaves its zone: blocks with nothing else prepared in them lose their area, the span shrinks."""
        cdef int order = self.pages.max_order
        cdef uint64_t size = <uint64_t>1 << order, first = (start + size - 1) >> order, end = (start + nr) >> order, block
        if first < end:
            self.pages.assign_area(first << order, (end - first) << order, NO_AREA)
        for block in (start >> order, (start + nr - 1) >> order):
            if not first <= block < end and self.pages.weigh(PG_prepared, block << order, size) == 0:
                self.pages.assign_area(block << order, size, NO_AREA)
        self.zones.shrink_span(z, start, nr)

    cdef void enter_area(self, uint64_t start, uint64_t nr, int z) noexcept:
        """The range joins a zone: the span grows; blocks that are in a zone already stay in it, as pages do in 2.6.25, and it is
        that zone's span that reaches over them."""
        cdef int order = self.pages.max_order
        cdef uint64_t block, end = start + nr, first
        for block in range(start >> order, ((end - 1) >> order) + 1):
            if self.pages.area_of[block] == NO_AREA:
                self.pages.area_of[block] = zone_area(z)
            elif self.pages.area_of[block] != zone_area(z):
                first = max(start, block << order)
                self.zones.grow_span(self.pages.area_of[block] - 1, first, min(end, (block + 1) << order) - first)
        self.zones.grow_span(z, start, nr)

    cdef list unprepared(self, uint64_t start, uint64_t nr):
        """The runs (start_pfn, nr_pages) of the range that are not prepared."""
        if self.pages.weigh(PG_prepared, start, nr) == 0:
            return [(start, nr)]
        edges = np.flatnonzero(np.diff(self.page_states(start, nr) & PG_prepared == 0, prepend=False, append=False))
        return [(start + first, end - first) for first, end in edges.reshape(-1, 2).tolist()]

    def mark_pages_onlined(self, start_pfn, nr_pages=1, order=None):
        """Phase 2: the Reserved pages of a prepared range go online, Reserved -> free, merged as the buddy allocator merges.

        start_pfn, nr_pages: unsigned long, pages. order: the largest block handed to the allocator at a time; None takes it
        from the rules (0 under 2.6.25, MAX_PAGE_ORDER today), 0 walks page by page; the end state is the same.
        Returns the number of pages that went online; marking again returns 0, and page descriptors that a block has on itself
        stay Reserved. MEM_ONLINE goes to the chain when it is not 0.

        HotplugError: EINVAL for pages that are not present, or in a section that was not prepared. Mirrors mark_pages_onlined
        of the 2008 thread (KERNEL.md 1.8) and online_pages_range (6.1).
        """
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr
        cdef int64_t done
        if nr_pages is 1 and order is None and self.online_page_callback is None and not self.chain and not self.own_memmaps():
            # one page and nobody listening: the path that a driver takes a million times
            settle(self.lock)
            if not self.enters_empty_zone(start):
                done = self.online_page(start)
                if done >= 0:
                    return done
        nr = as_uint64(nr_pages, "nr_pages")
        return self.mark(start, nr, self.online_order if order is None else as_order(order, self.pages.max_order), False)

    cdef int64_t mark(self, uint64_t start, uint64_t nr, int order, bint whole) except -1:
        cdef int64_t done, outside
        cdef uint64_t pfn, run
        cdef list runs = None
        cdef int nid
        cdef bint empty
        cdef PyThreadState *thread
        held = self.lock.hold()
        self._not_changing("mark_pages_onlined")
        self.check_present(start, nr, "mark_pages_onlined")
        outside = -1 if whole else self.outside_prepared(start, nr)
        if outside >= 0:
            raise HotplugError.of(
                errno.EINVAL,
                f"mark_pages_onlined of {pfn_range(start, nr)}: section {outside} is not prepared; "
                "prepare_online_pages it first",
            )
        nid = self.changed_nid(start)
        empty = self.enters_empty_zone(start)
        if self.own_memmaps():
            runs = self.without_memmaps(start, nr)
        if self.online_page_callback is not None:
            done = self._mark_by_callback([(start, nr)] if runs is None else runs, order)
        elif runs is not None:
            done = 0
            for pfn, run in runs:
                thread = self.lock.let_go(run * self.pages.page_bits)
                done += self.pages.online_range(pfn, run, order, False)
                self.lock.take_back(thread)
            self.count_onlined(start, nr, done)
        else:
            if self.untouched(start, nr):
                self.walk(ONLINE, start, nr, order)
                done = nr
            else:
                thread = self.lock.let_go(nr * self.pages.page_bits)
                done = self.pages.online_range(start, nr, order, False)
                self.lock.take_back(thread)
            self.count_onlined(start, nr, done)
        if not whole:
            self.after_mark(start, nr, done, nid, empty)
        return done

    cdef int after_mark(self, uint64_t start, uint64_t nr, int64_t done, int nid, bint was_empty) except -1:
        """What the log and the notifiers are told of a mark."""
        if was_empty:
            self.build_zonelists(self.zones.online_nodes())
        try:
            self.tell()
        finally:
            if done and self.chain:
                self.notifiers.tell(MEM_ONLINE, MemoryNotify(start, nr, done, nid))
        return 0

    cdef uint64_t part_pages(self) noexcept nogil:
        """Pages that a range is walked in at a time: some milliseconds, whole blocks of every order."""
        return (PART // self.pages.page_bits) >> MAX_MAX_ORDER << MAX_MAX_ORDER

    cdef void step(self, int step, uint64_t start, uint64_t nr, int order) noexcept nogil:
        if step == INIT:
            self.pages.init_pages(start, nr)
        elif step == PREPARE:
            self.pages.prepare_pages(start, nr)
        elif step == ONLINE:
            self.pages.online_range(start, nr, order, True)

    cdef void step_back(self, int step, uint64_t start, uint64_t nr) noexcept nogil:
        if step == INIT:
            self.pages.forget_pages(start, nr)
        elif step == PREPARE:
            self.pages.unprepare_pages(start, nr)
        elif step == ONLINE:
            self.pages.reserve_range(start, nr)

    cdef int walk(self, int step, uint64_t start, uint64_t nr, int order, int threads=1) except -1:
        """Take a range, all of whose pages are alike, one step further: added, prepared or online. Nobody sees a part of it.

        A range that lasts is walked part by part without the GIL; in between signals are looked at. When a handler raises
        (Ctrl-C), the parts are taken back, with their counters, and nothing has changed. Several threads share a part of a
        step whose pages have nothing to do with each other (INIT).
        """
        cdef uint64_t at = start, end = start + nr, whole = self.part_pages() * threads, part = whole
        cdef int area
        cdef PyThreadState *thread
        if nr * self.pages.page_bits < LASTING:
            self.step(step, start, nr, order)
            return 0
        counts = [self.pages.area_counters(area) for area in range(self.pages.nr_areas)]
        self.lock.busy += 1
        try:
            while at < end:
                part = min(end, (at + part) >> MAX_MAX_ORDER << MAX_MAX_ORDER) - at
                thread = self.lock.let_go(part * self.pages.page_bits)
                if threads == 1:
                    self.step(step, at, part, order)
                else:
                    self.pages.shared = True
                    in_threads(<range_step>shared_step, <void *>self, step, at, part, 1 << MAX_MAX_ORDER, threads)
                    self.pages.shared = False
                self.lock.take_back(thread)
                at += part
                part = whole
                if at < end:
                    PyErr_CheckSignals()
        except BaseException:
            self.step_back(step, start, at - start)
            for area in range(self.pages.nr_areas):
                self.pages.set_area_counters(area, counts[area])
            raise
        finally:
            self.lock.busy -= 1
        return 0

    cdef void sections_went_online(self, uint64_t start, uint64_t nr) noexcept nogil:
        """online_mem_sections for what a mark has just been over: a section with a page online is online, its node has memory."""
        cdef uint64_t shift = self.sections.pfn_section_shift, pfn = start, end = start + nr, section
        while pfn < end:
            section = pfn >> shift
            if not test_bit(self.sections.online.words, section):
                while pfn < end and pfn >> shift == section and \
                        self.pages.state(pfn) & (PG_prepared | PG_reserved) != PG_prepared:
                    pfn += 1
                if pfn < end and pfn >> shift == section:
                    self.section_online(section)
            pfn = (section + 1) << shift

    cdef void blocks_went_online(self, uint64_t start, uint64_t nr) noexcept nogil:
        """The whole sections of a range are online, whatever a callback kept back of them (memory_block_change_state)."""
        cdef uint64_t shift = self.sections.pfn_section_shift, section
        for section in range((start + (<uint64_t>1 << shift) - 1) >> shift, (start + nr) >> shift):
            if test_bit(self.sections.prepared.words, section):
                bitmap_set(self.sections.online.words, section, 1)
                bitmap_set(self.sections.block_online.words, section, 1)

    cdef void section_online(self, uint64_t section) noexcept nogil:
        bitmap_set(self.sections.online.words, section, 1)
        self.zones.table.nodes[self.nid_of[section]].has_memory = True

    cdef int changed_nid(self, uint64_t start) noexcept:
        """status_change_nid: the node of the page, when none of its memory has been online."""
        cdef int nid = self.nid_of[start >> self.sections.pfn_section_shift]
        # without node states that follow, 2.6.25 looks at node_present_pages
        return -1 if (self.zones.table.nodes[nid].has_memory if self.nodes_lose_memory else self.node_present(nid)) else nid

    cdef int count_onlined(self, uint64_t start, uint64_t nr, uint64_t onlined) noexcept nogil:
        """What follows when a range was marked: sections, counters, and watermarks where every mark asks for them."""
        if onlined:
            self.sections_went_online(start, nr)
            self.pages_onlined += onlined
        self.zones.table.stale |= self.watermarks_at_mark
        return 0

    def _mark_by_callback(self, ranges, int order):
        """Hand every aligned chunk of waiting pages of the (start_pfn, nr_pages) ranges to the online_page_callback; how many
        pages went online, which generic_online_page has counted. When the callback raises, all is as it was before (but for
        the counts of frees and merges that had been made) and the exception goes on."""
        cdef uint64_t pfn, nr, end, size, onlined = self.pages_onlined
        cdef int64_t done = 0
        cdef int chunk
        callback, given = self.online_page_callback, []
        zones, online = self.zones.__getstate__(), self.sections.online.array.copy()
        try:
            for pfn, nr in ranges:
                end = pfn + nr
                while pfn < end:
                    if self.pages.state(pfn) != (PG_reserved | PG_prepared):
                        pfn += 1
                        continue
                    chunk = 0
                    while chunk < order and not pfn & ((<uint64_t>2 << chunk) - 1) and pfn + (<uint64_t>2 << chunk) <= end and \
                            self.pages.all_waiting(pfn, <uint64_t>2 << chunk):
                        chunk += 1
                    size = <uint64_t>1 << chunk
                    given.append((pfn, size))
                    callback(pfn, chunk)
                    done += size - self.pages.weigh(PG_reserved, pfn, size) - self.pages.weigh(PG_offline, pfn, size)
                    pfn += size
        except BaseException:
            for pfn, size in given:
                self.pages.reserve_range(pfn, size)
            self.zones.__setstate__(zones)
            self.sections.online.array[: online.size] = online
            self.pages_onlined = onlined
            raise
        self.zones.table.stale |= self.watermarks_at_mark
        return done

    def mark_pfns_onlined(self, pfns):
        """Phase 2 for any one-dimensional integer array of pfns, in that order, page by page.

        Returns the number of pages that went online. All or nothing: TypeError for what is no array of integers, ValueError
        for one of two dimensions, or with a pfn past the end of memory, negative, or there twice; HotplugError EINVAL when a
        page is in a section that was not prepared. uint32 and int64 or uint64 arrays are read in place.
        """
        cdef pfn_batch batch
        cdef int64_t outside, done = 0
        cdef int nid
        cdef bint empty
        cdef PyThreadState *thread
        held = self.lock.hold()
        self._not_changing("mark_pfns_onlined")
        array = as_pfn_array(pfns)
        if self.own_memmaps():
            array = pfns = self._without_memmap_pages(array)
        if array.size == 0:
            return 0
        self.gather(&batch, array, pfns)
        outside = self.batch_outside_prepared(&batch)
        if outside >= 0:
            self.pages.ungather(&batch)
            self._check_pfn(outside, "a pfn")
            raise HotplugError.of(
                errno.EINVAL, f"mark_pfns_onlined: the section of pfn {outside:#x} is not present or not prepared"
            )
        nid = self.changed_nid(batch.first)
        empty = self.enters_empty_zone(batch.first)
        if self.online_page_callback is not None:
            self.pages.ungather(&batch)
            done = self._mark_by_callback([(pfn, 1) for pfn in array.tolist()], 0)
        else:
            thread = self.lock.let_go(batch.nr * (self.pages.page_bits + 64))
            done = self.mark_batch(&batch)
            self.lock.take_back(thread)
        self.after_mark(batch.first, batch.end - batch.first, done, nid, empty)
        return done

    cdef int gather(self, pfn_batch *batch, object array, object pfns) except -1:
        """Set the bits of an array of pfns, or say which one is wrong; no bit is set then."""
        cdef uint64_t bad = 0
        cdef int why
        cdef PyThreadState *thread
        set_batch(batch, array)
        thread = self.lock.let_go(batch.nr * (self.pages.page_bits + 64))
        why = self.pages.gather(batch, &bad)
        self.lock.take_back(thread)
        if why == BATCH_OK:
            return 0
        pfn = int(np.asarray(pfns)[bad])
        if why == BATCH_OUT_OF_RANGE:
            self._check_pfn(pfn, f"pfns[{bad}]")
            # past the room made so far, where no section has been added
            raise HotplugError.of(errno.EINVAL, f"pfns[{bad}] = {pfn:#x}: there is no section")
        raise ValueError(f"pfns[{bad}] = {pfn:#x} is there twice")

    def _check_pfn(self, pfn, str what):
        """ValueError for a pfn that is negative or past the end of memory."""
        if not 0 <= pfn < self.max_pfn:
            raise ValueError(f"{what} = {pfn if pfn < 0 else hex(pfn)} is out of range: memory ends at pfn {self.max_pfn:#x}")

    cdef int64_t batch_outside_prepared(self, const pfn_batch *batch) noexcept nogil:
        """The lowest pfn of a gathered batch in a section with no prepared page, or -1."""
        cdef int64_t pfn = -1
        if self.sections.all_in(self.sections.whole, batch.first, batch.end - batch.first):
            return -1
        while True:
            pfn = self.pages.find_unprepared(batch, pfn + 1)
            if pfn < 0 or self.outside_prepared(pfn, 1) >= 0:
                return pfn
            pfn |= (<int64_t>1 << self.sections.pfn_section_shift) - 1

    cdef uint64_t mark_batch(self, const pfn_batch *batch) noexcept nogil:
        """The waiting pages of a gathered batch go online, and all that counts them knows."""
        cdef uint64_t done = self.pages.online_batch(batch)
        self.count_batch_onlined(batch, done)
        return done

    cdef void count_batch_onlined(self, const pfn_batch *batch, uint64_t onlined) noexcept nogil:
        """count_onlined for a batch: its sections are done as soon as none that it spans is offline, mostly after a few pages."""
        cdef uint64_t i = 0 if onlined else batch.nr, span = batch.end - batch.first
        self.pages_onlined += onlined
        self.zones.table.stale |= self.watermarks_at_mark
        while i < batch.nr and not self.sections.all_in(self.sections.online, batch.first, span):
            while i < batch.nr and test_bit(self.sections.online.words, pfn_at(batch, i) >> self.sections.pfn_section_shift):
                i += 1
            if i < batch.nr:
                self.sections_went_online(pfn_at(batch, i), 1)
                i += 1

    def online_pages(self, start_pfn, nr_pages, online_type=MMOP_ONLINE):
        """Both phases: prepare the range, mark it, recompute the watermarks. Returns the number of pages that went online.

        start_pfn, nr_pages, online_type, errors: as prepare_online_pages and mark_pages_onlined; all or nothing, also when the
        online_page_callback raises. Under 2.6.25 a range that is online already gives 0, today EINVAL. Mirrors online_pages
        (2.6.25: KERNEL.md 1.3, 6.1: 3.2).
        """
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        cdef uint64_t shift = self.sections.pfn_section_shift
        cdef int64_t done
        cdef int nid
        cdef bint was_empty
        held = self.lock.hold()
        # only a callback can still refuse the second phase, one that a notifier sets too, or a signal when it lasts
        zones = None if self.online_page_callback is None and not self.chain and nr < LASTING // self.pages.page_bits \
            else self.zones.__getstate__()
        areas = None if zones is None else self.pages.area_array.copy()
        fresh = self.prepare(start, nr, online_type)
        nid = self.changed_nid(start)
        was_empty = (0 if self.rules.present_at_online else nr) == \
            zone_present(&self.zones.table, self.pages.area_of[start >> self.pages.max_order] - 1)
        try:
            done = self.mark(start, nr, self.online_order, True)
        except BaseException:
            for pfn, run in fresh:
                self.pages.unprepare_pages(pfn, run)
                self.note_whole(pfn, run, False)
            self.pages.area_array[: areas.size] = areas
            self.zones.__setstate__(zones)
            if self.chain:
                self.notifiers.tell(MEM_CANCEL_ONLINE, self._notice(start, nr, 0, nid))
            raise
        self.blocks_went_online(start, nr)
        if self.pcp is not None:
            self.pcp.at_tail(np.arange(start, start + nr, <uint64_t>1 << self.pages.max_order))
        if self.always_notify_online:
            self.zones.table.nodes[self.nid_of[start >> shift]].has_memory = True
        self.after_online(was_empty)
        try:
            self.tell()
        finally:
            if self.chain and (done or self.always_notify_online):
                self.notifiers.tell(MEM_ONLINE, self._notice(start, nr, done, nid))
        return done

    cdef int after_online(self, bint was_empty) except -1:
        """What follows for the zones when a range has gone online, and what the log says of it."""
        if not self.min_free_kbytes_follows:
            self.zones.table.stale = True
        if was_empty:
            self.build_zonelists(self.zones.online_nodes())
        if self.min_free_kbytes_follows:
            self.recompute()
        return 0

    cdef bint own_memmaps(self) noexcept:
        """Can a block have its page descriptors on itself?"""
        return self.memmap is not None and self.memmap == "on_memory"

    cdef uint64_t memmap_within(self, uint64_t start) except? -1:
        """Pages from here on that hold the page descriptors of their own memory block: they never go online."""
        cdef uint64_t first, pages
        if self.memmap is None:
            return 0
        first, pages = self.memmaps.get(start >> self.sections.pfn_section_shift, ((0, 0),))[0]
        return pages if first == start else 0

    cdef list without_memmaps(self, uint64_t start, uint64_t nr):
        """The runs (start_pfn, nr_pages) of the range that lie between the memmaps of its blocks."""
        cdef uint64_t at = start, end = start + nr, size = self.pages_per_block, first, own
        cdef list runs = []
        for first in range(start // size * size, end, size):
            own = self.memmap_within(first)
            if own:
                if at < first:
                    runs.append((at, first - at))
                at = max(at, first + own)
        if at < end:
            runs.append((at, end - at))
        return runs

    def _without_memmap_pages(self, array):
        """The pfns of an array that are no memmap of their own block."""
        array = array.astype(np.int64)
        starts = array // self.pages_per_block * self.pages_per_block
        blocks, which = np.unique(starts, return_inverse=True)
        own = np.array([self.memmap_within(block) if block >= 0 else 0 for block in blocks.tolist()], np.int64)
        return as_pfn_array(array[array - starts >= own[which]])

    def _notice(self, uint64_t start, uint64_t nr, onlined, int nid):
        """What is told of a range: a memmap on memory is no part of it (memory_block_online gives online_pages the rest,
        6.1)."""
        cdef uint64_t own = self.memmap_within(start)
        return MemoryNotify(start + own, nr - own, onlined, nid)

    def generic_online_page(self, pfn, order=0):
        """What an online_page_callback, or the driver behind it later, calls to let a block of waiting pages go online; how
        many did. No notifier is told (generic_online_page, 6.1; __online_page_free, 3.1)."""
        cdef uint64_t start = as_uint64(pfn, "pfn"), size
        cdef int block = as_order(order, self.pages.max_order)
        cdef int64_t done
        size = <uint64_t>1 << block
        if start & (size - 1):
            raise ValueError(f"pfn {start:#x} is not aligned to a block of order {block}")
        held = self.lock.hold()
        self.check_present(start, size, "generic_online_page")
        done = 0
        for at, run in self.without_memmaps(start, size) if self.own_memmaps() else ((start, size),):
            done += self.pages.online_range(at, run, block, False)
        self.count_onlined(start, size, done)
        if self.pcp is not None:
            self.pcp.at_tail(np.arange(start, start + size))
        return done

    def set_online_page_callback(self, callback):
        """From now on marks hand ``callback(pfn, order)`` each block instead of freeing it; the pages it does not give to
        generic_online_page stay Reserved. Returns a context manager that restores.

        HotplugError EINVAL when another callback is set (set_online_page_callback, 6.1).
        """
        if not callable(callback):
            raise TypeError(f"an online_page_callback is called, and {callback!r} cannot be")
        if self.online_page_callback is not None:
            raise HotplugError.of(errno.EINVAL, f"another online_page_callback is set: {self.online_page_callback!r}")
        self.online_page_callback = callback
        return _Restoring(self, callback)

    def restore_online_page_callback(self, callback):
        """Go back to generic_online_page. HotplugError EINVAL when `callback` is not the one that is set."""
        current = self.generic_online_page if self.online_page_callback is None else self.online_page_callback
        if current != callback:
            raise HotplugError.of(errno.EINVAL, f"{callback!r} is not the online_page_callback that is set")
        self.online_page_callback = None

    # -- offlining and reserving

    def offline_pages(self, start_pfn, nr_pages):
        """Take an online range of one zone out of the allocator: free -> Reserved, not prepared. Pages in use that an owner of
        movable pages (hotplug/migrate.py) holds move elsewhere first; pages that were prepared and never marked, and those
        given back to the host (PG_offline), go with the range.

        HotplugError: EINVAL for what is not online as a whole, misaligned (pageblock; today the end a section) or in several
        zones; EBUSY naming the first page in use that cannot move; what a notifier vetoes with, MEM_CANCEL_OFFLINE told; EINTR
        where there is no room to move to (the kernel would try until a signal), under 2.6.25 ENOMEM, and EAGAIN for pinned
        pages: pages that moved stay moved.
        Mirrors offline_pages (2.6.25: KERNEL.md 1.7, 6.1: 3.6).
        """
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        held = self.lock.hold()
        self._not_changing("offline_pages")
        self.check_present(start, nr, "offline_pages")
        before, self.going_offline = self.going_offline, (start, nr)
        try:
            self.offline(start, nr)
        finally:
            self.going_offline = before

    cdef int offline(self, uint64_t start, uint64_t nr) except -1:
        """offline_pages of a range that is there."""
        cdef uint64_t block = <uint64_t>1 << <int>self.geometry.pageblock_order, unit = self.geometry.pages_per_section
        cdef uint64_t section, offlined = 0
        cdef int z, nid
        cdef int64_t used
        cdef PyThreadState *thread
        cdef bint moved = False, alone
        where = pfn_range(start, nr)
        if start & (block - 1) or (start + nr) % (unit if self.rules.aligned else block):
            raise HotplugError.of(errno.EINVAL, f"offline_pages of {where}: not whole pageblocks (or, today, sections)")
        if not self.sections.all_in(self.sections.whole, start, nr) and self.pages.weigh(PG_prepared, start, nr) != nr:
            raise HotplugError.of(errno.EINVAL, f"offline_pages of {where}: some of it is not online")
        if self.pages.area_run(start, start + nr) != nr:
            raise HotplugError.of(errno.EINVAL, f"offline_pages of {where}: it lies in several zones")
        z = self.pages.area_of[start >> self.pages.max_order] - 1
        nid = z // self.zones.table.nr_types
        if self.pcp is not None:
            self.pcp.disable(z)
        try:
            if self.pcp is not None:
                self.pcp.release(start, nr)
            self._not_used(start, nr, where)
            notice = None
            if self.chain:
                notice = self._notice(start, nr, 0, nid if nr >= self.node_present(nid) else NO_NODE)
                self._ask(MEM_GOING_OFFLINE, MEM_CANCEL_OFFLINE, notice, "offline_pages")
            if self.pcp is not None:
                self.pcp.shrink_slabs()
            try:
                if notice is not None:
                    self._not_used(start, nr, where)    # a notifier may have allocated
                if self.page_owners:
                    moved = migrate_range(self, start, nr)
            except BaseException:      # an owner's on_move too
                if notice is not None:
                    self.notifiers.tell(MEM_CANCEL_OFFLINE, notice)
                raise
        finally:
            if self.pcp is not None:
                self.pcp.enable(z)
        # where Python ran, or the GIL was let go of, other threads may have allocated since the range was looked at
        alone = notice is None and self.pcp is None
        thread = self.lock.let_go(nr * self.pages.page_bits)
        if moved or thread == NULL and alone:
            used = -1
        else:
            used = self.pages.find_used(start, nr)
        if used < 0:
            refresh(&self.zones.table)     # 2.6.25 leaves the watermarks as the last mark made them
            if moved:
                offlined = nr - self.pages.weigh(PG_reserved, start, nr) - self.pages.weigh(PG_offline, start, nr)
                self.pages.reserve_range(start, nr)
            offlined += self.pages.take_range(start, nr)
            self.pages_offlined += offlined
            if self.zones.table.is_highmem[z % self.zones.table.nr_types] and not self.totalhigh_shrinks:
                self.high_offlined += offlined
        self.lock.take_back(thread)
        if used >= 0:
            if notice is not None:
                self.notifiers.tell(MEM_CANCEL_OFFLINE, notice)
            raise HotplugError.of(errno.EBUSY, f"{where}: page {used:#x} is in use")
        if self.rules.aligned:
            self.zones.table.zones[z].present_pages -= nr
            if early_section_nr(self.sections, start // unit):
                self.zones.table.zones[z].present_early -= nr
        self.note_whole(start, nr, False)
        for section in range(start // unit, (start + nr + unit - 1) // unit):
            if not test_bit(self.sections.prepared.words, section):
                self.sections.set_online(section, 1, False)
        self.after_offline(start, nr, z)
        try:
            self.tell()
        finally:
            if notice is not None:
                self.notifiers.tell(MEM_OFFLINE, notice)

    cdef int after_offline(self, uint64_t start, uint64_t nr, int z) except -1:
        """What follows for zone and node when a range has gone offline, and what the log says of it."""
        cdef int nid = z / self.zones.table.nr_types
        if self.rules.watermarks_at_offline:
            self.recompute()
        if self.rules.skips_memoryless:
            self.lost_memory(nid)
        if self.rules.zonelists_follow and zone_present(&self.zones.table, z) == 0:
            self.build_zonelists(self.zones.online_nodes())
        self.lost_memory(nid)
        if self.shrink_spans:
            self.release_area(start, nr, z)
        return 0

    cdef void lost_memory(self, int nid) noexcept:
        """node_states_clear_node, kswapd_stop and kcompactd_stop, for a node that has no memory any more."""
        if self.nodes_lose_memory and self.node_present(nid) == 0:
            self.zones.table.nodes[nid].has_memory = False

    def _not_used(self, uint64_t start, uint64_t nr, where):
        """EBUSY naming the first page in use that nobody can move."""
        cdef int64_t used
        cdef PyThreadState *thread = self.lock.let_go(nr * self.pages.page_bits)
        used = self.pages.find_used(start, nr)
        self.lock.take_back(thread)
        if used < 0:
            return
        if self.page_owners:
            states = self.page_states(start, nr)
            in_use = (states & (0xFF ^ PG_tail)) == PG_prepared
            in_use[movable_pages(self, start, nr) - start] = False
            if not in_use.any():
                return
            used = start + int(in_use.argmax())
        if self.listeners:
            self.events.log(f"page: refcount:1 mapcount:0 pfn:{used:#x}")
            self.events.log("page dumped because: unmovable page")
        raise HotplugError.of(errno.EBUSY, f"{where}: page {used:#x} is in use")

    cdef uint64_t node_present(self, int nid) noexcept nogil:
        """node_present_pages."""
        cdef int types = self.zones.table.nr_types, z
        cdef uint64_t total = 0
        for z in range(nid * types, (nid + 1) * types):
            total += zone_present(&self.zones.table, z)
        return total

    def set_page_reserved(self, start_pfn, nr_pages=1):
        """Pages of prepared ranges become Reserved: waiting, to be marked again. Returns how many were not Reserved before.

        Free pages leave the allocator, pages in use leave their owner (an allocation of several pages becomes single pages
        first, as split_page does). managed_pages shrinks as with mark_page_reserved (6.1). HotplugError EINVAL where no
        section is.
        """
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        held = self.lock.hold()
        self._not_changing("set_page_reserved")
        self.check_present(start, nr, "set_page_reserved")
        refresh(&self.zones.table)
        return self.pages.reserve_range(start, nr)

    def set_page_offline(self, start_pfn, nr_pages=1):
        """Pages in use go back to the host: PG_offline, no longer managed (__SetPageOffline and adjust_managed_page_count(-1),
        as a balloon does). ValueError naming the first page that is not in use."""
        held = self.lock.hold()
        self._check_states("set_page_offline", start_pfn, nr_pages, PG_prepared, "in use")
        self.pages.set_offline(start_pfn, nr_pages)

    def clear_page_offline(self, start_pfn, nr_pages=1):
        """The inverse of set_page_offline: in use again, and managed. ValueError naming the first page not PG_offline."""
        held = self.lock.hold()
        self._check_states("clear_page_offline", start_pfn, nr_pages, PG_prepared | PG_offline, "PG_offline")
        self.pages.clear_offline(start_pfn, nr_pages)

    # the same for arrays of pfns: what a driver that keeps pages back does batch by batch

    def set_pfns_reserved(self, pfns):
        """set_page_reserved for any one-dimensional integer array of pfns; how many were not Reserved before. All or nothing:
        HotplugError EINVAL for one where no section is, else as free_pfns."""
        cdef pfn_batch batch
        cdef uint64_t i = 0, run, reserved = 0
        held = self.lock.hold()
        self._not_changing("set_pfns_reserved")
        array = as_pfn_array(pfns)
        if array.size == 0:
            return 0
        self.gather(&batch, array, pfns)
        self.pages.ungather(&batch)
        while i < batch.nr:
            run = run_of(&batch, i)
            self.check_present(pfn_at(&batch, i), run, "set_pfns_reserved")
            i += run
        refresh(&self.zones.table)
        i = 0
        while i < batch.nr:
            run = run_of(&batch, i)
            reserved += self.pages.reserve_range(pfn_at(&batch, i), run)
            i += run
        return reserved

    def set_pfns_offline(self, pfns):
        """set_page_offline for any one-dimensional integer array of pfns. All or nothing: ValueError naming a page that is not
        in use, or is there twice."""
        self.turn_pfns("set_pfns_offline", pfns, PG_prepared, "in use")

    def clear_pfns_offline(self, pfns):
        """clear_page_offline for any one-dimensional integer array of pfns. All or nothing: ValueError naming a page that is
        not PG_offline, or is there twice."""
        self.turn_pfns("clear_pfns_offline", pfns, PG_prepared | PG_offline, "PG_offline")

    cdef int turn_pfns(self, str what, object pfns, int state, str name) except -1:
        """Pages that all have this state go from in use to PG_offline, or back."""
        cdef pfn_batch batch
        cdef uint64_t i = 0, run
        held = self.lock.hold()
        array = as_pfn_array(pfns)      # the batch points into it
        if self.gather_states(&batch, what, array, state, state, name):
            self.pages.ungather(&batch)
            refresh(&self.zones.table)
            while i < batch.nr:
                run = run_of(&batch, i)
                if state & PG_offline:
                    self.pages.clear_offline(pfn_at(&batch, i), run)
                else:
                    self.pages.set_offline(pfn_at(&batch, i), run)
                i += run
        return 0

    def free_reserved_pfns(self, pfns):
        """What the driver behind an online_page_callback calls for the pages it kept (Reserved in a prepared range) or gave back
        to the host (PG_offline), once they are backed: they are free and managed, no callback and no notifier is called.

        pfns: one-dimensional integer array. All or nothing: ValueError naming a page that is neither, or is there twice.
        Mirrors free_reserved_page (6.1) over the array.
        """
        cdef pfn_batch batch
        cdef uint64_t i = 0, run
        held = self.lock.hold()
        self._not_changing("free_reserved_pfns")
        array = as_pfn_array(pfns)
        if self.gather_states(&batch, "free_reserved_pfns", array, PG_prepared | PG_reserved, PG_prepared | PG_offline,
                               "Reserved in a prepared range, or PG_offline"):
            refresh(&self.zones.table)
            while i < batch.nr:
                run = run_of(&batch, i)
                if self.pages.weigh(PG_offline, pfn_at(&batch, i), run):
                    self.pages.reserve_range(pfn_at(&batch, i), run)
                i += run
            self.mark_batch(&batch)

    cdef int gather_states(self, pfn_batch *batch, str what, object array, int want, int other, str name) except -1:
        """Gather an array of pages each of which has one of two states; 0: it is empty, nothing is gathered. An error leaves
        nothing gathered."""
        cdef Engine pages = self.pages
        cdef pfn_batch given
        cdef uint64_t i
        cdef int64_t bad = -1
        cdef int state
        if array.size == 0:
            return 0
        try:
            self.gather(batch, array, array)
        except HotplugError as e:
            raise ValueError(e.strerror) from None
        given = batch[0]        # what is local stays in registers
        for i in range(given.nr):
            state = pages.state(pfn_at(&given, i)) & ~PG_tail
            if state != want and state != other:
                bad = i
                break
        if bad >= 0:
            self.pages.ungather(batch)
            pfn = int(array[bad])
            raise ValueError(f"{what}: pfns[{bad}] = {pfn:#x} is not {name}: {self.page_flags(pfn)}")
        return 1

    def _check_states(self, what, start_pfn, nr_pages, int want, name):
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages"), pfn
        self.check_present(start, nr, what)
        for pfn in range(start, start + nr):
            if self.pages.state(pfn) & ~PG_tail != want:
                raise ValueError(f"page {int(pfn):#x} is not {name}: {self.page_flags(pfn)}")
        refresh(&self.zones.table)

    # -- the allocator

    cdef list zonelist(self, object zone):
        """Zone numbers to try: one zone, or all from the highest type down, node by node."""
        cdef int types = self.zones.table.nr_types
        if zone is None:
            return [nid * types + i for nid in self.zones.online_nodes() for i in range(types - 1, -1, -1)]
        try:
            return [self.zones[(zone.nid, zone.name) if isinstance(zone, Zone) else zone].nr]
        except KeyError as e:
            raise ValueError(e.args[0]) from None

    def alloc_pages(self, order=0, zone=None):
        """The first pfn of a free block of 2^order pages, now in use: the smallest block that fits.

        zone: a name, a (nid, name) or a Zone; None tries every zone from the highest down, node by node. Watermarks are not
        applied. The bitmap engine takes the lowest address, struct_page the head of the kernel's list. MemoryError when
        nothing fits. Mirrors __rmqueue_smallest.
        """
        cdef int want = as_order(order, self.pages.max_order), z
        cdef int64_t pfn
        for z in self.zonelist(zone):
            settle(self.lock)
            pfn = self.pages.alloc_block(zone_area(z), want)
            if pfn >= 0:
                return pfn
        raise MemoryError(f"no free block of order {want}" + ("" if zone is None else f" in zone {zone}"))

    def alloc_pages_bulk(self, nr, order=0, zone=None):
        """`nr` blocks of 2^order pages: (nr,) int64 array of their first pfns, as `nr` calls of alloc_pages(order, zone) would
        give them (__alloc_pages_bulk, 5.13, which is of order 0).
        All or nothing: MemoryError when there are not so many."""
        cdef uint64_t want = as_uint64(nr, "nr"), got = 0
        cdef int block = as_order(order, self.pages.max_order), z
        cdef int64_t[::1] out
        cdef int64_t *into
        cdef list zones = self.zonelist(zone)
        cdef PyThreadState *thread
        held = self.lock.hold()
        there = sum([self.blocks_free(z, block) for z in zones])
        if want > <uint64_t>there:
            raise MemoryError(f"{want} blocks of order {block} were asked for, {there} are free")
        pfns = np.empty(want, np.int64)
        if want == 0:
            return pfns
        out = pfns
        into = &out[0]
        for z in zones:
            thread = self.lock.let_go((want - got) * (self.pages.page_bits + 64))
            got += self.alloc_blocks(z, block, want - got, into + got)
            self.lock.take_back(thread)
            if got == want:
                break
        return pfns

    cdef uint64_t alloc_blocks(self, int z, int order, uint64_t nr, int64_t *out) noexcept nogil:
        """At most `nr` blocks of one zone; how many there were."""
        cdef uint64_t i
        if order == 0:
            return self.pages.alloc_pages(zone_area(z), nr, out)
        nr = min(nr, self.blocks_free(z, order))
        for i in range(nr):
            out[i] = self.pages.alloc_block(zone_area(z), order)
        return nr

    cdef uint64_t blocks_free(self, int z, int order) noexcept nogil:
        """Blocks of an order that a zone's free blocks would give."""
        cdef uint64_t total = 0
        cdef int k
        free_area_fold(&self.pages.areas[zone_area(z)])
        for k in range(order, self.pages.max_order + 1):
            total += <uint64_t>self.pages.areas[zone_area(z)].nr_free[k] << (k - order)
        return total

    def alloc_contig_range(self, start_pfn, nr_pages):
        """Take exactly this range of free pages, as single pages in use. HotplugError EBUSY naming the first page that is not
        free (alloc_contig_range, 6.1, which would migrate)."""
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages"), pfn
        held = self.lock.hold()
        self.check_present(start, nr, "alloc_contig_range")
        if self.pages.weigh(PG_buddy, start, nr) != nr:
            for pfn in range(start, start + nr):
                if not self.pages.state(pfn) & PG_buddy:
                    raise HotplugError.of(
                        errno.EBUSY, f"alloc_contig_range of {pfn_range(start, nr)}: page {int(pfn):#x} is not free"
                    )
        self.pages.claim_range(start, nr)

    def free_pages_within(self, start_pfn, nr_pages):
        """The pfns of a range's free pages: int64 array, ascending."""
        return np.flatnonzero(self.page_states(start_pfn, nr_pages) & PG_buddy).astype(np.int64) + start_pfn

    def check_movable(self, start_pfn, nr_pages):
        """HotplugError EBUSY naming the first page in use of the range start_pfn, nr_pages that nobody can move
        (has_unmovable_pages, 6.1)."""
        self._not_used(start_pfn, nr_pages, pfn_range(start_pfn, nr_pages))

    def count_migrated(self, uint64_t nr, bint balloon):
        """`nr` pages have moved, a balloon's or not (pgmigrate_success and balloon_migrate of /proc/vmstat)."""
        self.pages_migrated += nr
        self.balloon_migrated += nr if balloon else 0

    def free_pages(self, pfn, order=0):
        """Free one allocation, given its first page and its order. ValueError naming the page when it is free, Reserved,
        unaligned, or not the first page of an allocation of that order; nothing changes then (__free_pages)."""
        cdef uint64_t start = as_uint64(pfn, "pfn")
        cdef int block = as_order(order, self.pages.max_order)
        settle(self.lock)
        if self.free_page(start, block) == 0:
            return
        if start & ((<uint64_t>1 << block) - 1):
            raise ValueError(f"page {start:#x} is not aligned to a block of order {block}")
        raise ValueError(f"page {start:#x} is not the first of an allocation of order {block}: {self._why_not_freeable(start)}")

    def _why_not_freeable(self, uint64_t pfn):
        cdef uint64_t end = pfn + 1
        cdef int flags = self.pages.state(pfn) if pfn < self.pages.nr_pages else 0
        if not flags:
            return "no page is there"
        if flags & ~PG_tail != PG_prepared:
            return f"it is {'free' if flags & PG_buddy else 'Reserved' if flags & PG_reserved else 'offline'}"
        if flags & PG_tail:
            return "it lies inside an allocation"
        while end < self.pages.nr_pages and self.pages.state(end) & PG_tail:
            end += 1
        return f"it was allocated with order {int(end - pfn).bit_length() - 1}"

    def undo_isolate_page_range(self, start_pfn, nr_pages):
        """Free a range of single pages in use; its free blocks come to the end of the free lists, lowest address first.
        ValueError naming a page that is no allocation of order 0; nothing changes then (undo_isolate_page_range, 6.1, of pages
        that alloc_contig_range has taken)."""
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages"), pfn, run
        held = self.lock.hold()
        self.check_present(start, nr, "undo_isolate_page_range")
        for pfn in range(start, start + nr):
            if not self.pages.freeable(pfn, 0):
                raise ValueError(f"page {int(pfn):#x} is not an allocation of order 0: {self._why_not_freeable(pfn)}")
        while nr:
            run = self.pages.area_run(start, start + nr)
            self.pages.clear_reserved(start, run)      # as waiting pages go online, but these are managed already
            self.pages.free_range(start, run, self.pages.max_order)
            start += run
            nr -= run

    def free_pfns(self, pfns):
        """Free single pages. pfns: one-dimensional integer array. All or nothing: ValueError naming a page that is free,
        Reserved, no allocation of order 0, past the end of memory, or there twice."""
        cdef pfn_batch batch
        cdef int64_t bad
        cdef PyThreadState *thread
        array = as_pfn_array(pfns)
        if array.size == 0:
            return
        held = self.lock.hold()
        try:
            self.gather(&batch, array, pfns)
        except HotplugError as e:
            raise ValueError(e.strerror) from None
        thread = self.lock.let_go(batch.nr * (self.pages.page_bits + 64))
        bad = self.pages.find_unfreeable(&batch)
        if bad < 0:
            self.pages.free_batch(&batch)
        self.lock.take_back(thread)
        if bad >= 0:
            self.pages.ungather(&batch)
            raise ValueError(f"page {bad:#x} is not an allocation of order 0: {self._why_not_freeable(bad)}")

    # -- the C door

    cdef Held own(self):
        return self.lock.hold_alone()

    cdef int online_page(self, pfn_t pfn) noexcept nogil:
        cdef uint64_t section
        # what is rare is elsewhere: no call is left here, and so nothing to save on the stack
        if self.planes is None or pfn >= self.planes.nr_pages or not bitmap_online_quickly(self.planes, pfn):
            return self.online_any_page(pfn)
        self.pages_onlined += 1
        if self.watermarks_at_mark:
            self.zones.table.stale = True
        section = pfn >> self.sections.pfn_section_shift
        if not test_bit(self.sections.online.words, section):
            self.section_online(section)
        return 1

    cdef int online_any_page(self, pfn_t pfn) noexcept nogil:
        cdef uint64_t section = pfn >> self.sections.pfn_section_shift
        cdef int done
        if pfn >= self.pages.nr_pages:
            return -EINVAL
        done = self.pages.online_page(pfn)
        if done == 1:
            if not test_bit(self.sections.online.words, section):
                self.section_online(section)
            self.pages_onlined += 1
        elif done < 0:
            if not test_bit(self.sections.present.words, section) or self.outside_prepared(pfn, 1) >= 0:
                return -EINVAL
            done = 0
        if self.watermarks_at_mark:
            self.zones.table.stale = True
        return done

    cdef int64_t online_range(self, pfn_t start_pfn, uint64_t nr_pages, int order) noexcept nogil:
        cdef int64_t done
        if nr_pages == 0 or nr_pages > self.pages.nr_pages or start_pfn > self.pages.nr_pages - nr_pages \
                or self.sections.missing(start_pfn, nr_pages) != <uint64_t>-1 or self.outside_prepared(start_pfn, nr_pages) >= 0 \
                or order > self.pages.max_order:
            return -EINVAL
        done = self.pages.online_range(
            start_pfn, nr_pages, self.online_order if order < 0 else order, self.untouched(start_pfn, nr_pages)
        )
        self.count_onlined(start_pfn, nr_pages, done)
        return done

    cdef int64_t online_batch(self, const uint64_t *pfns, uint64_t nr) noexcept nogil:
        cdef pfn_batch batch = pfn_batch(NULL, pfns, nr, 0, 0)
        cdef uint64_t bad
        if nr == 0:
            return 0
        if self.pages.gather(&batch, &bad) != BATCH_OK:
            return -EINVAL
        if self.batch_outside_prepared(&batch) >= 0:
            self.pages.ungather(&batch)
            return -EINVAL
        return self.mark_batch(&batch)

    cdef bint no_such_zone(self, int zone_nr) noexcept nogil:
        return not 0 <= zone_nr < self.zones.table.nr_nodes * self.zones.table.nr_types

    cdef int64_t alloc_page(self, int zone_nr, int order) noexcept nogil:
        cdef int64_t pfn
        if self.no_such_zone(zone_nr) or not 0 <= order <= self.pages.max_order:
            return -EINVAL
        pfn = self.pages.alloc_block(zone_area(zone_nr), order)
        return pfn if pfn >= 0 else -ENOMEM

    cdef int64_t alloc_bulk(self, int zone_nr, int order, uint64_t nr, int64_t *out) noexcept nogil:
        if self.no_such_zone(zone_nr) or not 0 <= order <= self.pages.max_order:
            return -EINVAL
        if nr > self.blocks_free(zone_nr, order):
            return -ENOMEM
        return self.alloc_blocks(zone_nr, order, nr, out)

    cdef int free_page(self, pfn_t pfn, int order) noexcept nogil:
        if pfn >= self.pages.nr_pages or not 0 <= order <= self.pages.max_order or pfn & ((<uint64_t>1 << order) - 1) \
                or not self.pages.freeable(pfn, order):
            return -EINVAL
        self.pages.free_block(pfn, order)
        return 0

    cdef int64_t free_batch(self, const uint64_t *pfns, uint64_t nr) noexcept nogil:
        cdef pfn_batch batch = pfn_batch(NULL, pfns, nr, 0, 0)
        cdef uint64_t bad
        if nr == 0:
            return 0
        if self.pages.gather(&batch, &bad) != BATCH_OK:
            return -EINVAL
        if self.pages.find_unfreeable(&batch) >= 0:
            self.pages.ungather(&batch)
            return -EINVAL
        self.pages.free_batch(&batch)
        return nr

    cdef int page_state(self, pfn_t pfn) noexcept nogil:
        return self.pages.state(pfn) if pfn < self.pages.nr_pages else 0

    cdef int page_zone(self, pfn_t pfn) noexcept nogil:
        if pfn >= self.pages.nr_pages or self.pages.area_of[pfn >> self.pages.max_order] == NO_AREA:
            return -EINVAL
        return self.pages.area_of[pfn >> self.pages.max_order] - 1

    cdef int64_t counter(self, int zone_nr, int which, int order) noexcept nogil:
        cdef int64_t total = 0
        cdef int z
        if which == COUNT_PAGES_ONLINED and zone_nr == ALL_ZONES:
            return self.pages_onlined
        if which == COUNT_PAGES_OFFLINED and zone_nr == ALL_ZONES:
            return self.pages_offlined
        if not COUNT_FREE_PAGES <= which <= COUNT_ALLOCS or not 0 <= order <= self.pages.max_order:
            return -EINVAL
        if zone_nr == ALL_ZONES:
            for z in range(self.zones.table.nr_nodes * self.zones.table.nr_types):
                total += self.zone_counter(z, which, order)
            return total
        return -EINVAL if self.no_such_zone(zone_nr) else self.zone_counter(zone_nr, which, order)

    cdef int64_t zone_counter(self, int z, int which, int order) noexcept nogil:
        cdef free_area *area = &self.pages.areas[zone_area(z)]
        if which == COUNT_FREE_PAGES:
            return self.blocks_free(z, 0)
        if which == COUNT_MANAGED_PAGES:
            return area.managed
        if which == COUNT_PRESENT_PAGES:
            return zone_present(&self.zones.table, z)
        if which == COUNT_SPANNED_PAGES:
            return self.zones.table.zones[z].spanned_pages
        free_area_fold(area)
        if which == COUNT_NR_FREE:
            return area.nr_free[order]
        if which == COUNT_MERGES:
            return area.merges[order]
        if which == COUNT_SPLITS:
            return area.splits[order]
        return area.frees[order] if which == COUNT_FREES else area.allocs[order]

    # -- what there is to see

    @property
    def flags(self):
        """The per-page flags by name, see Flags."""
        return Flags(self.pages.view)

    def page_flags(self, pfn):
        """The flags of one page, decoded: ``'PG_reserved|PG_prepared'``; ``'0'`` for a page without any."""
        cdef uint64_t nr = as_uint64(pfn, "pfn")
        self.check_range(nr, 1, "page_flags")
        settle(self.lock)
        return decode_page_flags(self.pages.state(nr) if nr < self.pages.nr_pages else 0)

    def page_states(self, start_pfn, nr_pages):
        """(nr_pages,) uint8: the mask of each page's flags, bit i = FLAG_NAMES[i]; 0 where no page is."""
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages"), there, at = 0, part
        cdef uint8_t[::1] out
        cdef PyThreadState *thread
        held = self.lock.hold()
        self.check_range(start, nr, "page_states")
        states = np.zeros(nr, np.uint8)
        there = min(nr, self.pages.nr_pages - min(start, self.pages.nr_pages))
        if there:
            out = states
            while at < there:
                part = min(there - at, self.part_pages())
                thread = self.lock.let_go(part * (self.pages.page_bits + 8))
                self.pages.states(start + at, part, &out[at])
                self.lock.take_back(thread)
                at += part
                if at < there:
                    PyErr_CheckSignals()
        return states

    def kpageflags(self, start_pfn, nr_pages):
        """(nr_pages,) uint64: what /proc/kpageflags would show, in the kernel's KPF_* bits. Pages of sections that are not
        online are KPF_NOPAGE, holes and waiting pages of online ones KPF_RESERVED (RECORDED.md 1)."""
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn")
        held = self.lock.hold()
        states = self.page_states(start_pfn, nr_pages)
        has = {name: (states >> i & 1).astype(bool) for i, name in enumerate(FLAG_NAMES)}
        tail_follows = np.append(has["PG_tail"][1:], False)
        if start + len(states) < self.pages.nr_pages:
            tail_follows[len(states) - 1] = self.pages.state(start + len(states)) & PG_tail
        kpf = np.zeros(len(states), np.uint64)
        kpf[has["PG_buddy"]] = KPF_BUDDY
        kpf[has["PG_reserved"]] = KPF_RESERVED
        kpf[has["PG_offline"]] = KPF_OFFLINE
        kpf[has["PG_tail"]] = KPF_COMPOUND_TAIL
        kpf[tail_follows & (states == PG_prepared)] = KPF_COMPOUND_HEAD
        sections, of_page = np.unique(
            np.arange(start, start + len(states), dtype=np.uint64) >> np.uint64(self.sections.pfn_section_shift),
            return_inverse=True,
        )
        online = np.array([self.sections.online_section_nr(int(nr)) for nr in sections])
        kpf[~online[of_page]] = KPF_NOPAGE
        return kpf

    @property
    def nodes(self):
        """{nid: Node} of the nodes that are there."""
        return {nid: Node(self.zones, nid) for nid in self.zones.online_nodes()}

    @property
    def blocks(self):
        """The memory blocks by number: Blocks, live."""
        return Blocks(self)

    @property
    def totalram_pages(self):
        """totalram_pages: pages given to the allocator, everywhere, free or in use."""
        cdef int z
        settle(self.lock)
        return sum([zone_managed(&self.zones.table, z) for z in range(self.zones.table.nr_nodes * self.zones.table.nr_types)])

    @property
    def totalhigh_pages(self):
        """totalhigh_pages: of totalram_pages, those in highmem; under 2.6.25 with those that have gone offline since boot, each
        time (KERNEL.md 1.7)."""
        cdef int z
        settle(self.lock)
        return self.high_offlined + sum([
            zone_managed(&self.zones.table, z)
            for z in range(self.zones.table.nr_nodes * self.zones.table.nr_types)
            if self.zones.table.is_highmem[z % self.zones.table.nr_types]
        ])

    @property
    def min_free_kbytes(self):
        """vm.min_free_kbytes. Writing it sets the watermarks anew and is kept against smaller computed values."""
        return self.zones.table.min_free_kbytes

    @min_free_kbytes.setter
    def min_free_kbytes(self, kbytes):
        cdef uint64_t value = as_uint64(kbytes, "min_free_kbytes")
        if value > 0x7FFFFFFF:
            raise OverflowError(f"min_free_kbytes does not fit into an int: {kbytes}")
        settle(self.lock)
        self.zones.table.min_free_kbytes = value
        self.zones.table.user_min_free_kbytes = value
        setup_per_zone_wmarks(&self.zones.table)
        self.zones.table.stale = False

    def section_nid(self, section_nr):
        """The node that section number section_nr belongs to; ValueError when it is not present (pfn_to_nid)."""
        if not self.sections.present_section_nr(section_nr):
            raise ValueError(f"section {section_nr} is not present")
        return int(self.nids[section_nr])

    def largest_blocks(self, zone):
        """Numbers of the blocks of 2^max_page_order pages that lie in a zone, int64 array, ascending. zone: a Zone."""
        return np.flatnonzero(self.pages.area_array == zone_area(zone.nr)).astype(np.int64)

    def zone_of(self, pfn):
        """The Zone that a page is in, or None for one that is in no zone."""
        cdef uint64_t nr = as_uint64(pfn, "pfn")
        cdef int z = self.pages.area_of[nr >> self.pages.max_order] - 1 if nr < self.pages.nr_pages else -1
        if z < 0:
            return None
        return self.zones[z // self.zones.nr_types, self.zones.names[z % self.zones.nr_types]]

    def valid_zones(self, block_nr):
        """The text of the valid_zones file of memory block number block_nr: an online one's zone, "none" when it has
        several."""
        cdef uint64_t unit = self.pages_per_block, start = block_nr * unit
        if self.sections.online_section_nr(start // self.geometry.pages_per_section):
            areas = np.unique(self.pages.area_array[start >> self.pages.max_order : start + unit >> self.pages.max_order])
            areas = areas[areas != NO_AREA]
            return self.zones.names[(int(areas[0]) - 1) % self.zones.nr_types] if len(areas) == 1 else "none"
        nid = self.section_nid(start // self.geometry.pages_per_section)
        words = []
        for online_type in (MMOP_ONLINE, MMOP_ONLINE_KERNEL, MMOP_ONLINE_MOVABLE):
            name = self.zones.names[self.zone_for_range(start, unit, nid, online_type) % self.zones.nr_types]
            if name not in words:
                words.append(name)
        return " ".join(words)

    @property
    def auto_online_blocks(self):
        """What add_memory does with new blocks: "offline", "online", "online_kernel" or "online_movable". Writing another word
        gives HotplugError EINVAL."""
        return WORDS[self.auto_online]

    @auto_online_blocks.setter
    def auto_online_blocks(self, word):
        self.auto_online = word_to_type(word, self.rules)

    @property
    def policy(self):
        """memory_hotplug.online_policy, what plain `online` means: "contig-zones" or "auto-movable"."""
        return ONLINE_POLICIES[self.auto_movable]

    @policy.setter
    def policy(self, name):
        if name not in ONLINE_POLICIES:
            raise HotplugError.of(errno.EINVAL, f"online_policy {name!r} is none of {', '.join(ONLINE_POLICIES)}")
        self.auto_movable = ONLINE_POLICIES.index(name)

    @property
    def lowmem_reserve_ratio(self):
        """vm.lowmem_reserve_ratio by zone type, without recomputing anything; read_lowmem_reserve_ratio is what a read does."""
        cdef int i
        return tuple([self.zones.table.ratio[i] for i in range(self.zones.table.nr_types)])

    @lowmem_reserve_ratio.setter
    def lowmem_reserve_ratio(self, ratios):
        values = [as_uint64(ratio, "a lowmem_reserve_ratio") for ratio in ratios]
        if len(values) > self.zones.table.nr_types:
            raise HotplugError.of(errno.EINVAL, f"lowmem_reserve_ratio has {self.zones.table.nr_types} values, not {len(values)}")
        settle(self.lock)
        for i, ratio in enumerate(values):
            self.zones.table.ratio[i] = ratio
        setup_per_zone_lowmem_reserve(&self.zones.table)

    def read_lowmem_reserve_ratio(self):
        """Read the sysctl: its handler recomputes the protection of every zone (RECORDED.md 4). Returns the ratios."""
        settle(self.lock)
        setup_per_zone_lowmem_reserve(&self.zones.table)
        return self.lowmem_reserve_ratio

    @property
    def watermark_scale_factor(self):
        """vm.watermark_scale_factor; writing it, 1 to 3000, sets the watermarks anew, else HotplugError EINVAL."""
        return self.zones.table.scale_factor

    @watermark_scale_factor.setter
    def watermark_scale_factor(self, factor):
        cdef uint64_t value = as_uint64(factor, "watermark_scale_factor")
        if not 1 <= value <= 3000 or not self.rules.watermark_scale_factor:
            raise HotplugError.of(errno.EINVAL, f"watermark_scale_factor {value} is not between 1 and 3000, or not known")
        settle(self.lock)
        self.zones.table.scale_factor = value
        setup_per_zone_wmarks(&self.zones.table)

    @property
    def nr_cpus(self):
        """CPUs that share a zone's pcp_high, at least 1: ValueError for 0, OverflowError for what fits into no int."""
        return self.zones.table.nr_cpus

    @nr_cpus.setter
    def nr_cpus(self, nr):
        cdef uint64_t value = as_uint64(nr, "nr_cpus")
        if value == 0:
            raise ValueError("a machine has at least one CPU")
        if value > 0x7FFFFFFF:
            raise OverflowError(f"nr_cpus does not fit into an int: {nr}")
        settle(self.lock)
        self.zones.table.nr_cpus = value
        for zone in self.zones.values():
            pcp_update(&self.zones.table, zone.nr, zone_managed(&self.zones.table, zone.nr))

    def check_engine(self):
        """validate()'s part that only the engine can see. AssertionError with what is wrong."""
        held = self.lock.hold()
        self.pages.check()

    def buddyinfo(self):
        """The text of /proc/buddyinfo."""
        return procfs.buddyinfo(self)

    def zoneinfo(self):
        """The text of /proc/zoneinfo, as far as zones go."""
        return procfs.zoneinfo(self)

    def pagetypeinfo(self):
        """The text of /proc/pagetypeinfo; every page is Movable here."""
        return procfs.pagetypeinfo(self)

    def lsmem(self):
        """What util-linux's lsmem prints of this machine."""
        return procfs.lsmem(self)

    def stats(self):
        """Exact counts since the machine was made, boot memory not counted: "frees", "allocations", "merges", "splits" (lists
        by order: blocks freed and allocated, pairs merged out of the order, blocks of the order split), "pages_onlined",
        "pages_offlined", "pages_migrated" and of them "balloon_migrated", "notifications" (callbacks called), "bytes_touched"
        (bytes of page state written)."""
        cdef int area
        held = self.lock.hold()
        counts = [self.pages.area_counters(area) for area in range(1, self.pages.nr_areas)]
        by_order = {name: sum([c[name] for c in counts])[: self.pages.max_order + 1].tolist()
                    for name in ("frees", "allocs", "merges", "splits")}
        return {
            "frees": by_order["frees"],
            "allocations": by_order["allocs"],
            "merges": by_order["merges"],
            "splits": by_order["splits"],
            "pages_onlined": self.pages_onlined,
            "pages_offlined": self.pages_offlined,
            "pages_migrated": self.pages_migrated,
            "balloon_migrated": self.balloon_migrated,
            "notifications": self.notifiers.calls,
            "bytes_touched": self.pages.bytes_touched(),
        }

    def validate(self):
        """Check every invariant from scratch; AssertionError with the first that is broken."""
        held = self.lock.hold()
        check_machine(self)

    # -- copies

    def _state(self):
        """All there is, as plain values and arrays that are the machine's own: what copy, pickle and save carry, while they hold
        the lock. Callbacks are not carried."""
        cdef int area, shift = self.pages.max_order
        spans = self.sections.spans()
        runs = self.sections.runs()
        return {
            "geometry": self.geometry,
            "rules": self.rules,
            "engine": self.engine,
            "max_pfn": self.max_pfn,
            "fixed_room": bool(self.fixed_room),
            "nr_pages": self.pages.nr_pages,
            "runs": runs,
            "planes": self.pages.planes(spans),
            "areas": [self.pages.area_counters(area) for area in range(self.pages.nr_areas)],
            "area_of": [self.pages.area_array[start >> shift : start + nr >> shift] for start, nr in spans],
            "nids": [self.nids[first : first + nr] for first, nr in runs],
            "subsections": [self.sections.subsection_map[first : first + nr] for first, nr in runs],
            "online": [self.sections.online.bits(first, nr) for first, nr in runs],
            "block_online": [self.sections.block_online.bits(first, nr) for first, nr in runs],
            "early": [self.sections.early.bits(first, nr) for first, nr in runs],
            "zones": self.zones.__getstate__(),
            "resources": self.resources.tree(),
            "pages_per_block": self.pages_per_block,
            "memmap": self.memmap,
            "memmaps": [[section, *piece] for section, pieces in self.memmaps.items() for piece in pieces],
            "groups": list(self.groups),
            "hotplug": [self.auto_online, self.auto_movable, self.auto_movable_ratio, self.auto_movable_numa_aware,
                        self.policy_zone],
            "counters": [self.pages_onlined, self.pages_offlined, self.notifiers.calls, self.pages.bytes_touched(),
                         self.pages_migrated, self.balloon_migrated, self.high_offlined],
        }

    @classmethod
    def _restore(cls, state):
        """A machine from what _state gave."""
        cdef Memory mem = cls.__new__(cls)
        cdef int area, shift
        mem.geometry = state["geometry"]
        mem.rules = state["rules"]
        mem.engine = state["engine"]
        mem.max_pfn = state["max_pfn"]
        mem.fixed_room = state["fixed_room"]
        mem.pages_per_block = state["pages_per_block"]
        mem.memmap = state["memmap"]
        if mem.engine not in ENGINES or not 0 < mem.max_pfn <= mem.geometry.max_pfn or not 0 < state["nr_pages"] <= mem._rounded(mem.max_pfn) \
                or mem.pages_per_block <= 0 or mem.pages_per_block % mem.geometry.pages_per_section:
            raise ValueError("the engine, the size or the blocks of the machine are none")
        mem._make(state["nr_pages"])
        for section, pfn, nr in state["memmaps"]:
            mem.memmaps.setdefault(section, []).append((pfn, nr))
        mem.groups.extend((start, nr, group and tuple(group)) for start, nr, group in state["groups"])
        mem.auto_online, mem.auto_movable, mem.auto_movable_ratio, mem.auto_movable_numa_aware, mem.policy_zone = state["hotplug"]
        mem.zones.__setstate__(state["zones"])
        shift = mem.sections.pfn_section_shift
        for (first, nr), nids, subsections, online, block_online, early in zip(
            state["runs"], state["nids"], state["subsections"], state["online"], state["block_online"], state["early"],
            strict=True,
        ):
            mem.sections.add(first << shift, nr << shift)
            mem.nids[first : first + nr] = nids
            mem.sections.subsection_map[first : first + nr] = subsections
            mem.sections.online.set_bits(first, online)
            mem.sections.block_online.set_bits(first, block_online)
            mem.sections.early.set_bits(first, early)
        spans = mem.sections.spans()
        mem.pages.set_planes(spans, state["planes"])
        for start, nr in spans:
            mem.note_prepared(start, nr)
        shift = mem.pages.max_order
        for (start, nr), areas in zip(spans, state["area_of"], strict=True):
            mem.pages.area_array[start >> shift : start + nr >> shift] = areas
        if np.any(mem.pages.area_array >= mem.pages.nr_areas):
            raise ValueError("there are pages of a zone that there is not")
        for area, counts in enumerate(state["areas"]):
            mem.pages.set_area_counters(area, counts)
        mem.resources = Resources(mem.geometry.page_shift, state["resources"])
        mem.pages_onlined, mem.pages_offlined, mem.notifiers.calls, touched, mem.pages_migrated, \
            mem.balloon_migrated, mem.high_offlined = state["counters"]
        mem.pages.set_touched(touched)
        return mem

    def copy(self):
        """A second machine in the same state. Whoever listens, owns pages or keeps per-CPU lists is not carried over."""
        held = self.lock.hold()
        return Memory._restore(self._state())

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce__(self):
        held = self.lock.hold()
        return Memory._restore, (_owned(self._state()),)

    def save(self, path):
        """Write the machine to one file `path`, atomically; fastonline.load reads it. OSError when it cannot be written. What
        copy does not carry over is not saved. Other threads' changes wait until it is written."""
        held = self.lock.hold()
        savefile.save(path, self._state())


cdef void shared_step(Memory mem, int step, pfn_t start, uint64_t nr) noexcept nogil:
    mem.step(step, start, nr, 0)


cdef inline bint zones_meet(const zone *zone, uint64_t start, uint64_t nr) noexcept nogil:
    return zone.spanned_pages and start < zone.start_pfn + zone.spanned_pages and zone.start_pfn < start + nr


def _owned(value):
    """The state with copies of its arrays, which may go on living when the machine does not stand still any more."""
    if isinstance(value, dict):
        return {key: _owned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_owned(item) for item in value]
    return value.copy() if isinstance(value, np.ndarray) else value


class _Restoring:
    """Restores the online_page_callback when a with block ends."""

    __slots__ = ("_mem", "_callback")

    def __init__(self, mem, callback):
        self._mem = mem
        self._callback = callback

    def __enter__(self):
        return self._callback

    def __exit__(self, *exc):
        self._mem.restore_online_page_callback(self._callback)


def load(path):
    """The machine that Memory.save wrote to `path`. ValueError naming the file and what is wrong for one that is truncated,
    altered or something else; OSError when it cannot be read."""
    state = savefile.load(path)
    try:
        mem = Memory._restore(state)
        mem.validate()
    except (AssertionError, ArithmeticError, AttributeError, HotplugError, LookupError, TypeError, ValueError) as e:
        raise ValueError(f"{path}: not a machine that fastonline saved: {e}") from None
    return mem
