import errno

import numpy as np

from cpython.long cimport PyLong_CheckExact
from libc.errno cimport EINVAL, ENOMEM

from fastonline.core.bitmap cimport bitmap_full, bitmap_set, test_bit
from fastonline.core.bitmap_engine cimport BitmapEngine
from fastonline.core.buddy cimport free_area_fold
from fastonline.core.engine cimport BATCH_OK, BATCH_OUT_OF_RANGE, pfn_at, pfn_batch
from fastonline.core.pageflags cimport PG_buddy, PG_offline, PG_prepared, PG_reserved, PG_tail
from fastonline.core.pageflags import FLAG_NAMES, KPF_BUDDY, KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL, KPF_NOPAGE, KPF_OFFLINE, \
    KPF_RESERVED, decode_page_flags
from fastonline.core.sections cimport early_section_nr
from fastonline.core.structpage cimport StructPageEngine
from fastonline.core.types cimport NO_AREA, int16_t, uint8_t, uint32_t
from fastonline.hotplug.types cimport MAX_NUMNODES, zone, zone_area, zone_managed, zone_present
from fastonline.hotplug.watermarks cimport init_per_zone_wmark_min, refresh, setup_per_zone_wmarks

from fastonline.errors import HotplugError, pfn_range
from fastonline.geometry import Geometry, format_size, parse_size
from fastonline.hotplug import procfs, savefile
from fastonline.hotplug.blocks import MMOP_ONLINE, MMOP_ONLINE_KERNEL, MMOP_ONLINE_MOVABLE, Blocks
from fastonline.hotplug.invariants import check_machine
from fastonline.hotplug.notifier import (
    MEM_CANCEL_OFFLINE, MEM_CANCEL_ONLINE, MEM_GOING_OFFLINE, MEM_GOING_ONLINE, MEM_OFFLINE, MEM_ONLINE, NO_NODE,
    MemoryNotify, NotifierChain, notifier_to_errno,
)
from fastonline.hotplug.resources import Resources
from fastonline.hotplug.zones import Node
from fastonline.rules import LINUX_6_12, Rules

ENGINES = ("bitmap", "struct_page")

cdef int _KERNEL = MMOP_ONLINE_KERNEL
cdef int _MOVABLE = MMOP_ONLINE_MOVABLE


# -- arguments: TypeError, ValueError and OverflowError are for what is no pfn, count or order at all

cdef uint64_t as_uint64(object value, str what) except? 0xFFFFFFFFFFFFFFFF:
    """A pfn or a count as C has it."""
    cdef uint64_t number
    if not PyLong_CheckExact(value):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{what} is an int, not {value!r}")
        value = value.__index__()
    try:
        number = value
    except OverflowError:
        if value < 0:
            raise ValueError(f"{what} cannot be negative: {value}") from None
        raise OverflowError(f"{what} does not fit into 64 bits: {value:#x}") from None
    return number


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
            wide = next(pfn for pfn in array if not -(1 << 63) <= pfn < 1 << 64)
            raise OverflowError(f"pfn {wide:#x} does not fit into 64 bits")
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
    """The per-page flags of a machine by name: ``flags["PG_reserved"]`` is a read-only uint64 array, pfn i at word i/64,
    bit i%64. With the bitmap engine it is the plane itself, no copy, and follows the machine until that grows beyond the room
    it has (give ``max_memory`` to have all of it from the start); the struct_page engine has no planes and makes a copy."""

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

    All ranges are ``start_pfn, nr_pages`` (unsigned long, in pages of the geometry). Errors: HotplugError with the kernel's
    errno; TypeError, ValueError, OverflowError for arguments that are no pfn, order or size at all. A refused call changes
    nothing. Per-CPU lists and migrate types are not modelled: a freed page is in the buddy allocator at once.
    """

    def __init__(self, geometry, boot=None, rules=LINUX_6_12, engine="bitmap", max_memory=None):
        cdef uint64_t boot_pages, room
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
            self.pages = BitmapEngine(nr_pages, geometry.max_page_order, nr_areas)
        else:
            self.pages = StructPageEngine(
                nr_pages, geometry.max_page_order, nr_areas, rules.struct_page_bytes[geometry.bits == 64], rules.lifo
            )
        self.sections = Sections(geometry.pfn_section_shift, nr_pages >> geometry.pfn_section_shift)
        self.own_nids(np.zeros(self.sections.nr_sections, np.int16))
        self.zones = Zones(geometry, rules, self.pages, 1)
        self.zones.table.nodes[0].online = True
        self.resources = Resources()
        self.notifiers = NotifierChain()
        self.chain = self.notifiers.chain
        self.watermarks_at_mark = rules.watermarks_at_mark
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
        self.pages.grow(nr_pages, self.sections.spans())
        self.sections.grow(nr_pages >> self.sections.pfn_section_shift)
        self.own_nids(nids)
        return 0

    cdef int own_nids(self, object array) except -1:
        cdef int16_t[::1] view = array
        self.nids = array
        self.nid_of = &view[0]
        return 0

    def _boot(self, uint64_t nr_pages):
        """Memory from pfn 0 on, online as after a boot: early sections, zones by the geometry's limits, every page free."""
        cdef uint64_t start = 0, end, shift = self.geometry.page_shift
        cdef int i
        self.sections.add(0, nr_pages, early=True)
        self.resources.register(0, nr_pages)
        self.pages.init_pages(0, self._rounded(nr_pages))
        for i, (_, limit) in enumerate(self.geometry.zone_limits):
            end = nr_pages if limit is None else min(nr_pages, <uint64_t>limit >> shift)
            if end > start:
                self._boot_range(start, end - start, i)
                start = end
        self._reset_counters()
        init_per_zone_wmark_min(&self.zones.table)

    def _boot_range(self, uint64_t start, uint64_t nr, int z):
        """A range of one zone that was there at boot, all of it free."""
        self.pages.assign_area(start, nr, zone_area(z))
        self.zones.grow_span(z, start, nr)
        self.zones.table.zones[z].present_pages += nr
        self.zones.table.zones[z].present_early += nr
        self.zones.table.nodes[z / self.zones.table.nr_types].has_memory = True
        self.pages.prepare_pages(start, nr)
        self.pages.online_range(start, nr, self.geometry.max_page_order)

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
        if start + nr < start or start + nr > self.max_pfn:
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
        """The first page of the range whose section has no prepared page at all, or -1."""
        cdef uint64_t pfn = start, end = start + nr, base, pages = <uint64_t>1 << self.sections.pfn_section_shift
        while pfn < end:
            base = pfn & ~(pages - 1)
            if not self.pages.state(pfn) & PG_prepared and self.pages.weigh(PG_prepared, base, pages) == 0:
                return pfn
            pfn = base + pages
        return -1

    cdef int zone_for_range(self, uint64_t start, uint64_t nr, int nid, int online_type) except -1:
        """zone_for_pfn_range, contig-zones policy: the zone number (KERNEL.md 3.4, RECORDED.md 5). Under 2.6.25 pages keep the
        zone they were given, which for added memory is the geometry's hotplug_zone."""
        cdef int base = nid * self.zones.table.nr_types, i, kernel = -1, movable
        cdef zone *zones = &self.zones.table.zones[base]
        cdef bint kernel_meets, movable_meets
        if not self.rules.shrink_spans:
            if self.pages.area_of[start >> self.pages.max_order] != NO_AREA:
                return self.pages.area_of[start >> self.pages.max_order] - 1
            return base + self.zones.names.index(self.geometry.hotplug_zone)
        movable = self.zones.names.index("Movable")
        if online_type == _MOVABLE:
            return base + movable
        for i in range(self.zones.table.normal + 1):
            if start < zones[i].start_pfn + zones[i].spanned_pages and zones[i].start_pfn < start + nr:
                kernel = i
                break
        kernel_meets = kernel >= 0
        if not kernel_meets:
            kernel = self.zones.names.index(self.geometry.hotplug_zone)
            kernel_meets = zones_meet(&zones[kernel], start, nr)
        movable_meets = zones_meet(&zones[movable], start, nr)
        if online_type != _KERNEL and movable_meets and not kernel_meets:
            return base + movable
        return base + kernel

    # -- adding and removing

    def add_memory(self, start_pfn, nr_pages, nid=0):
        """Sections appear: their memmap is there, every page Reserved, nothing online; no zone changes.

        start_pfn, nr_pages: unsigned long, pages. Today's rules take whole memory blocks, 2.6.25 widens the range to whole
        sections. nid: the node, which comes online with its first memory.

        HotplugError: EEXIST over memory that is there, EINVAL for a range that is misaligned, empty or past the end.
        MemoryError when there is no room for the memmap. Mirrors add_memory (2.6.25, 6.1: KERNEL.md 1.2, 3.1).
        """
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        cdef uint64_t node = as_uint64(nid, "nid"), unit = self.geometry.pages_per_section, first, end, section
        self._not_changing("add_memory")
        self.check_range(start, nr, "add_memory")
        if node >= MAX_NUMNODES:
            raise ValueError(f"nid {nid} is past the last node, {MAX_NUMNODES - 1}")
        taken = self.resources.conflict(start, nr)
        if taken:
            raise HotplugError.of(
                errno.EEXIST, f"add_memory of {pfn_range(start, nr)}: {pfn_range(taken[0], taken[1] - taken[0])} is there"
            )
        if self.rules.aligned and (start % unit or nr % unit):
            raise HotplugError.of(
                errno.EINVAL,
                f"add_memory of {pfn_range(start, nr)}: not whole memory blocks of {unit:#x} pages",
            )
        first = start // unit
        end = (start + nr + unit - 1) // unit
        self.zones.need_node(node)
        self.room_for(end * unit)
        for section in range(first, end):
            # a section that an earlier, narrower range brought is there already (2.6.25 swallows its EEXIST)
            if not test_bit(self.sections.present.words, section):
                self.sections.add(section * unit, unit)
                self.nids[section] = node
                self.pages.init_pages(section * unit, unit)
        self.resources.register(start, nr)
        self.zones.table.nodes[node].online = True

    def remove_memory(self, start_pfn, nr_pages):
        """The sections of an offline range are gone, with the node when that was its last memory.

        HotplugError: EBUSY when some of it is prepared or online, EINVAL when it is not there, or no whole sections.
        Mirrors try_remove_memory (6.1).
        """
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        cdef uint64_t unit = self.geometry.pages_per_section
        self._not_changing("remove_memory")
        self.check_present(start, nr, "remove_memory")
        if start % unit or nr % unit:
            raise HotplugError.of(errno.EINVAL, f"remove_memory of {pfn_range(start, nr)}: not whole sections of {unit:#x} pages")
        if self.pages.weigh(PG_prepared, start, nr):
            raise HotplugError.of(errno.EBUSY, f"remove_memory of {pfn_range(start, nr)}: offline it first")
        self.pages.forget_pages(start, nr)
        self.pages.assign_area(start, nr, NO_AREA)
        self.sections.remove(start // unit, nr // unit)
        self.resources.release(start, nr)
        present = {int(self.nids[n]) for first, count in self.sections.runs() for n in range(first, first + count)}
        for nid in self.zones.online_nodes():
            if nid and nid not in present:
                self.zones.table.nodes[nid].online = False

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

    cdef int prepare(self, uint64_t start, uint64_t nr, int online_type) except -1:
        cdef uint64_t unit = self.geometry.pages_per_section, pfn, run
        cdef int nid, z
        cdef bint assigned = False
        self._not_changing("prepare_online_pages")
        self.check_present(start, nr, "prepare_online_pages")
        if self.rules.aligned:
            if start & ((<uint64_t>1 << <int>self.geometry.pageblock_order) - 1) or (start + nr) % unit:
                raise HotplugError.of(
                    errno.EINVAL,
                    f"prepare_online_pages of {pfn_range(start, nr)}: it must begin at a pageblock (2^{self.geometry.pageblock_order} "
                    f"pages) and end with a section ({unit:#x} pages)",
                )
            if self.pages.weigh(PG_prepared, start, nr):
                raise HotplugError.of(errno.EINVAL, f"prepare_online_pages of {pfn_range(start, nr)}: prepared or online already")
        nid = self.nids[start // unit]
        z = self.zone_for_range(start, nr, nid, online_type)
        notice = None
        if self.chain:
            notice = MemoryNotify(start, nr, 0, self.changed_nid(start))
        if self.rules.grow_before_notify:
            self.pages.assign_area(start, nr, zone_area(z))
            self.zones.grow_span(z, start, nr)
            assigned = True
        if notice is not None:
            try:
                self._ask(MEM_GOING_ONLINE, MEM_CANCEL_ONLINE, notice, "prepare_online_pages")
            except BaseException:
                if assigned:
                    self.release_area(start, nr, z)
                raise
        if not assigned:
            self.pages.assign_area(start, nr, zone_area(z))
            self.zones.grow_span(z, start, nr)
        if self.rules.aligned:
            self.pages.prepare_pages(start, nr)
            self.zones.table.zones[z].present_pages += nr
        else:
            # 2.6.25 walks System RAM only, and what is online stays as it is
            for pfn, run in self.resources.within(start, nr):
                self.prepare_unprepared(pfn, run)
        return 0

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
        cdef uint64_t size = <uint64_t>1 << self.pages.max_order, block
        for block in range(start // size, (start + nr + size - 1) // size):
            if self.pages.weigh(PG_prepared, block * size, size) == 0:
                self.pages.assign_area(block * size, size, NO_AREA)
        self.zones.shrink_span(z, start, nr)

    cdef void prepare_unprepared(self, uint64_t start, uint64_t nr) noexcept nogil:
        cdef uint64_t pfn
        if self.pages.weigh(PG_prepared, start, nr) == 0:
            self.pages.prepare_pages(start, nr)
            return
        for pfn in range(start, start + nr):
            if not self.pages.state(pfn) & PG_prepared:
                self.pages.prepare_pages(pfn, 1)

    def mark_pages_onlined(self, start_pfn, nr_pages=1, order=None):
        """Phase 2: the Reserved pages of a prepared range go online, Reserved -> free, merged as the buddy allocator merges.

        start_pfn, nr_pages: unsigned long, pages. order: the largest block handed to the allocator at a time; None takes it
        from the rules (0 under 2.6.25, MAX_PAGE_ORDER today), 0 walks page by page; the end state is the same.
        Returns the number of pages that went online; marking again returns 0. MEM_ONLINE goes to the chain when it is not 0.

        HotplugError: EINVAL for pages that are not present, or in a section that was not prepared. Mirrors mark_pages_onlined
        of the 2008 thread (KERNEL.md 1.8) and online_pages_range (6.1).
        """
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr
        cdef int64_t done
        if nr_pages is 1 and order is None and self.online_page_callback is None and not self.chain:
            # one page and nobody listening: the path that a driver takes a million times
            done = self.online_page(start)
            if done >= 0:
                return done
        nr = as_uint64(nr_pages, "nr_pages")
        return self.mark(start, nr, self.online_order if order is None else as_order(order, self.pages.max_order), False)

    cdef int64_t mark(self, uint64_t start, uint64_t nr, int order, bint whole) except -1:
        cdef int64_t done, outside
        cdef int nid
        self._not_changing("mark_pages_onlined")
        self.check_present(start, nr, "mark_pages_onlined")
        outside = self.outside_prepared(start, nr)
        if outside >= 0:
            raise HotplugError.of(
                errno.EINVAL,
                f"mark_pages_onlined of {pfn_range(start, nr)}: the section of pfn {outside:#x} is not prepared; "
                "prepare_online_pages it first",
            )
        nid = self.changed_nid(start)
        if self.online_page_callback is not None:
            done = self._mark_by_callback(start, nr, order)
        else:
            self.pages.need_batch()
            with nogil:
                done = self.pages.online_range(start, nr, order)
        self.count_onlined(start, nr, done)
        if done and self.chain and not whole:
            self.notifiers.tell(MEM_ONLINE, MemoryNotify(start, nr, done, nid))
        return done

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

    cdef void section_online(self, uint64_t section) noexcept nogil:
        bitmap_set(self.sections.online.words, section, 1)
        self.zones.table.nodes[self.nid_of[section]].has_memory = True

    cdef int changed_nid(self, uint64_t start) noexcept:
        """status_change_nid: the node of the page, when none of its memory has been online."""
        cdef int nid = self.nid_of[start >> self.sections.pfn_section_shift]
        return -1 if self.zones.table.nodes[nid].has_memory else nid

    cdef int count_onlined(self, uint64_t start, uint64_t nr, uint64_t onlined) noexcept nogil:
        """What follows when pages of a range went online: sections, counters, and watermarks where every mark asks for them."""
        if onlined:
            self.sections_went_online(start, nr)
            self.pages_onlined += onlined
            self.zones.table.stale |= self.watermarks_at_mark
        return 0

    def _mark_by_callback(self, uint64_t start, uint64_t nr, int order):
        """Hand every aligned chunk of waiting pages to the online_page_callback; how many pages went online. When the callback
        raises, the chunks it had are waiting again and the exception goes on."""
        cdef uint64_t pfn = start, end = start + nr, size
        cdef int64_t done = 0
        cdef int chunk
        callback, given = self.online_page_callback, []
        try:
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
            raise
        return done

    def mark_pfns_onlined(self, pfns):
        """Phase 2 for any one-dimensional integer array of pfns, in that order, page by page.

        Returns the number of pages that went online. All or nothing: TypeError for what is no array of integers, ValueError
        for one of two dimensions, or with a pfn past the end of memory, negative, or there twice; HotplugError EINVAL when a
        page is in a section that was not prepared. uint32 and int64 or uint64 arrays are read in place.
        """
        cdef pfn_batch batch
        cdef int64_t pfn = -1, done = 0
        cdef uint64_t shift = self.sections.pfn_section_shift, base, i
        cdef int nid
        self._not_changing("mark_pfns_onlined")
        array = as_pfn_array(pfns)
        if array.size == 0:
            return 0
        self.gather(&batch, array, pfns)
        while True:
            pfn = self.pages.find_unprepared(&batch, pfn + 1)
            if pfn < 0:
                break
            base = <uint64_t>pfn >> shift << shift
            if self.pages.weigh(PG_prepared, base, <uint64_t>1 << shift) == 0:
                self.pages.ungather(&batch)
                raise HotplugError.of(
                    errno.EINVAL, f"mark_pfns_onlined: the section of pfn {pfn:#x} is not present or not prepared"
                )
            pfn = base + (<uint64_t>1 << shift) - 1
        nid = self.changed_nid(batch.first)
        if self.online_page_callback is not None:
            self.pages.ungather(&batch)
            for i in range(batch.nr):
                done += self._mark_by_callback(pfn_at(&batch, i), 1, 0)
        else:
            with nogil:
                done = self.pages.online_batch(&batch)
        if done:
            self.batch_went_online(&batch)
            self.pages_onlined += done
            self.zones.table.stale |= self.watermarks_at_mark
            if self.chain:
                self.notifiers.tell(MEM_ONLINE, MemoryNotify(batch.first, batch.end - batch.first, done, nid))
        return done

    cdef int gather(self, pfn_batch *batch, object array, object pfns) except -1:
        """Set the bits of an array of pfns, or say which one is wrong; no bit is set then."""
        cdef uint64_t bad = 0
        cdef int why
        self.pages.need_batch()
        set_batch(batch, array)
        with nogil:
            why = self.pages.gather(batch, &bad)
        if why == BATCH_OK:
            return 0
        pfn = int(np.asarray(pfns)[bad])
        if why == BATCH_OUT_OF_RANGE:
            if 0 <= pfn < self.max_pfn:
                # past the room made so far, where no section has been added
                raise HotplugError.of(errno.EINVAL, f"pfns[{bad}] = {pfn:#x}: there is no section")
            raise ValueError(f"pfns[{bad}] = {pfn:#x} is out of range: memory ends at pfn {self.max_pfn:#x}")
        raise ValueError(f"pfns[{bad}] = {pfn:#x} is there twice")

    cdef void batch_went_online(self, const pfn_batch *batch) noexcept nogil:
        cdef uint64_t i, shift = self.sections.pfn_section_shift, first = batch.first >> shift
        if bitmap_full(self.sections.online.words, first, ((batch.end - 1) >> shift) + 1 - first):
            return
        for i in range(batch.nr):
            if not test_bit(self.sections.online.words, pfn_at(batch, i) >> shift):
                self.sections_went_online(pfn_at(batch, i), 1)

    def online_pages(self, start_pfn, nr_pages, online_type=MMOP_ONLINE):
        """Both phases: prepare the range, mark it, recompute the watermarks. Returns the number of pages that went online.

        As prepare_online_pages and mark_pages_onlined; all or nothing, also when the online_page_callback raises. Under 2.6.25
        a range that is online already gives 0, today EINVAL. Mirrors online_pages (2.6.25: KERNEL.md 1.3, 6.1: 3.2).
        """
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        cdef uint64_t shift = self.sections.pfn_section_shift, section
        cdef int64_t done
        cdef int nid
        self.prepare(start, nr, online_type)
        nid = self.changed_nid(start)
        try:
            done = self.mark(start, nr, self.online_order, True)
        except BaseException:
            self.undo_prepare(start, nr)
            if self.chain:
                self.notifiers.tell(MEM_CANCEL_ONLINE, MemoryNotify(start, nr, 0, nid))
            raise
        if self.rules.always_notify_online:
            for section in range(start >> shift, (start + nr) >> shift):
                self.section_online(section)
        if self.rules.min_free_kbytes_follows:
            init_per_zone_wmark_min(&self.zones.table)
        else:
            self.zones.table.stale = True
        if self.chain and (done or self.rules.always_notify_online):
            self.notifiers.tell(MEM_ONLINE, MemoryNotify(start, nr, done, nid))
        return done

    cdef int undo_prepare(self, uint64_t start, uint64_t nr) except -1:
        """A prepared range of which nothing is online is no longer prepared."""
        cdef int z = self.pages.area_of[start >> self.pages.max_order] - 1
        self.pages.unprepare_pages(start, nr)
        if self.rules.aligned:
            self.zones.table.zones[z].present_pages -= nr
            self.release_area(start, nr, z)
        return 0

    def generic_online_page(self, pfn, order=0):
        """What an online_page_callback, or the driver behind it later, calls to let a block of waiting pages go online; how
        many did. No notifier is told (generic_online_page, 6.1; __online_page_free, 3.1)."""
        cdef uint64_t start = as_uint64(pfn, "pfn"), size
        cdef int block = as_order(order, self.pages.max_order)
        cdef int64_t done
        size = <uint64_t>1 << block
        if start & (size - 1):
            raise ValueError(f"pfn {start:#x} is not aligned to a block of order {block}")
        self.check_present(start, size, "generic_online_page")
        self.pages.need_batch()
        done = self.pages.online_range(start, size, block)
        self.count_onlined(start, size, done)
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
        """Take an online range of one zone, none of whose pages is in use, out of the allocator: free -> Reserved, not prepared.
        Pages that were prepared and never marked, and those given back to the host (PG_offline), go with it.

        HotplugError: EINVAL for what is not online as a whole, misaligned (pageblock; today the end a section) or in several
        zones; EBUSY naming the first page in use; what a notifier vetoes with, MEM_CANCEL_OFFLINE told.
        Mirrors offline_pages (2.6.25: KERNEL.md 1.7, 6.1: 3.6).
        """
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        cdef uint64_t block = <uint64_t>1 << <int>self.geometry.pageblock_order, unit = self.geometry.pages_per_section
        cdef uint64_t section
        cdef int64_t used
        cdef int z, nid
        self._not_changing("offline_pages")
        self.check_present(start, nr, "offline_pages")
        where = pfn_range(start, nr)
        if start & (block - 1) or (start + nr) % (unit if self.rules.aligned else block):
            raise HotplugError.of(errno.EINVAL, f"offline_pages of {where}: not whole pageblocks (or, today, sections)")
        if self.pages.weigh(PG_prepared, start, nr) != nr:
            raise HotplugError.of(errno.EINVAL, f"offline_pages of {where}: some of it is not online")
        if self.pages.area_run(start, start + nr) != nr:
            raise HotplugError.of(errno.EINVAL, f"offline_pages of {where}: it lies in several zones")
        self._not_used(start, nr, where)
        z = self.pages.area_of[start >> self.pages.max_order] - 1
        nid = z // self.zones.table.nr_types
        notice = None
        if self.chain:
            notice = MemoryNotify(start, nr, 0, nid if nr >= self.node_present(nid) else NO_NODE)
            self._ask(MEM_GOING_OFFLINE, MEM_CANCEL_OFFLINE, notice, "offline_pages")
            try:
                self._not_used(start, nr, where)    # a notifier may have allocated
            except HotplugError:
                self.notifiers.tell(MEM_CANCEL_OFFLINE, notice)
                raise
        refresh(&self.zones.table)     # 2.6.25 leaves the watermarks as the last mark made them
        self.pages_offlined += self.pages.take_range(start, nr)
        if self.rules.aligned:
            self.zones.table.zones[z].present_pages -= nr
            if early_section_nr(self.sections, start // unit):
                self.zones.table.zones[z].present_early -= nr
        for section in range(start // unit, (start + nr + unit - 1) // unit):
            if self.pages.weigh(PG_prepared, section * unit, unit) == 0:
                self.sections.set_online(section, 1, False)
        if self.rules.shrink_spans:
            self.release_area(start, nr, z)
        if self.node_present(nid) == 0:
            self.zones.table.nodes[nid].has_memory = False
        if self.rules.watermarks_at_offline:
            init_per_zone_wmark_min(&self.zones.table)
        if notice is not None:
            self.notifiers.tell(MEM_OFFLINE, notice)

    def _not_used(self, uint64_t start, uint64_t nr, where):
        cdef int64_t used = self.pages.find_used(start, nr)
        if used >= 0:
            raise HotplugError.of(errno.EBUSY, f"offline_pages of {where}: page {used:#x} is in use")

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
        self._not_changing("set_page_reserved")
        self.check_present(start, nr, "set_page_reserved")
        return self.pages.reserve_range(start, nr)

    def set_page_offline(self, start_pfn, nr_pages=1):
        """Pages in use go back to the host: PG_offline, no longer managed (__SetPageOffline and adjust_managed_page_count(-1),
        as a balloon does). ValueError naming the first page that is not in use."""
        self._check_states("set_page_offline", start_pfn, nr_pages, PG_prepared, "in use")
        self.pages.set_offline(start_pfn, nr_pages)

    def clear_page_offline(self, start_pfn, nr_pages=1):
        """The inverse of set_page_offline: in use again, and managed. ValueError naming the first page not PG_offline."""
        self._check_states("clear_page_offline", start_pfn, nr_pages, PG_prepared | PG_offline, "PG_offline")
        self.pages.clear_offline(start_pfn, nr_pages)

    # the same for arrays of pfns: what a driver that keeps pages back does batch by batch

    def set_pfns_reserved(self, pfns):
        """set_page_reserved for any one-dimensional integer array of pfns; how many were not Reserved before. All or nothing:
        HotplugError EINVAL for one where no section is, else as free_pfns."""
        cdef pfn_batch batch
        cdef uint64_t i = 0, run, reserved = 0
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
        i = 0
        with nogil:
            while i < batch.nr:
                run = run_of(&batch, i)
                reserved += self.pages.reserve_range(pfn_at(&batch, i), run)
                i += run
        return reserved

    def set_pfns_offline(self, pfns):
        """set_page_offline for any one-dimensional integer array of pfns. All or nothing: ValueError naming a page that is not
        in use, or is there twice."""
        cdef pfn_batch batch
        cdef uint64_t i = 0, run
        array = as_pfn_array(pfns)      # the batch points into it
        if self.gather_states(&batch, "set_pfns_offline", array, PG_prepared, PG_prepared, "in use"):
            self.pages.ungather(&batch)
            with nogil:
                while i < batch.nr:
                    run = run_of(&batch, i)
                    self.pages.set_offline(pfn_at(&batch, i), run)
                    i += run

    def clear_pfns_offline(self, pfns):
        """clear_page_offline for any one-dimensional integer array of pfns. All or nothing: ValueError naming a page that is
        not PG_offline, or is there twice."""
        cdef pfn_batch batch
        cdef uint64_t i = 0, run
        cdef int offline = PG_prepared | PG_offline
        array = as_pfn_array(pfns)
        if self.gather_states(&batch, "clear_pfns_offline", array, offline, offline, "PG_offline"):
            self.pages.ungather(&batch)
            with nogil:
                while i < batch.nr:
                    run = run_of(&batch, i)
                    self.pages.clear_offline(pfn_at(&batch, i), run)
                    i += run

    def free_reserved_pfns(self, pfns):
        """What the driver behind an online_page_callback calls for the pages it kept (Reserved in a prepared range) or gave back
        to the host (PG_offline), once they are backed: they are free and managed, no callback and no notifier is called.

        pfns: one-dimensional integer array. All or nothing: ValueError naming a page that is neither, or is there twice.
        Mirrors free_reserved_page (6.1) over the array.
        """
        cdef pfn_batch batch
        cdef uint64_t i = 0, run, done = 0
        self._not_changing("free_reserved_pfns")
        array = as_pfn_array(pfns)
        if self.gather_states(&batch, "free_reserved_pfns", array, PG_prepared | PG_reserved, PG_prepared | PG_offline,
                               "Reserved in a prepared range, or PG_offline"):
            with nogil:
                while i < batch.nr:
                    run = run_of(&batch, i)
                    if self.pages.weigh(PG_offline, pfn_at(&batch, i), run):
                        self.pages.reserve_range(pfn_at(&batch, i), run)
                    i += run
                done = self.pages.online_batch(&batch)
            self.batch_went_online(&batch)
            self.pages_onlined += done
            self.zones.table.stale |= self.watermarks_at_mark

    cdef int gather_states(self, pfn_batch *batch, str what, object array, int want, int other, str name) except -1:
        """Gather an array of pages each of which has one of two states; 0: it is empty, nothing is gathered. An error leaves
        nothing gathered."""
        cdef uint64_t i
        cdef int64_t bad = -1
        cdef int state
        if array.size == 0:
            return 0
        try:
            self.gather(batch, array, array)
        except HotplugError as e:
            raise ValueError(e.strerror) from None
        with nogil:
            for i in range(batch.nr):
                state = self.pages.state(pfn_at(batch, i)) & ~PG_tail
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

    # -- the allocator

    cdef list zonelist(self, object zone):
        """Zone numbers to try: one zone, or all from the highest type down, node by node."""
        cdef int types = self.zones.table.nr_types
        if zone is None:
            return [nid * types + i for nid in self.zones.online_nodes() for i in range(types - 1, -1, -1)]
        if not isinstance(zone, (str, tuple)):
            zone = (zone.nid, zone.name)
        try:
            return [self.zones[zone].nr]
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"there is no zone {zone!r}: {', '.join(self.zones.names)}") from None

    def alloc_pages(self, order=0, zone=None):
        """The first pfn of a free block of 2^order pages, now in use: the smallest block that fits.

        zone: a name, a (nid, name) or a Zone; None tries every zone from the highest down, node by node. Watermarks are not
        applied. The bitmap engine takes the lowest address, struct_page the head of the kernel's list. MemoryError when
        nothing fits. Mirrors __rmqueue_smallest.
        """
        cdef int want = as_order(order, self.pages.max_order), z
        cdef int64_t pfn
        for z in self.zonelist(zone):
            pfn = self.pages.alloc_block(zone_area(z), want)
            if pfn >= 0:
                return pfn
        raise MemoryError(f"no free block of order {want}" + ("" if zone is None else f" in zone {zone}"))

    def alloc_pages_bulk(self, nr, order=0, zone=None):
        """`nr` blocks of 2^order pages: (nr,) int64 array of their first pfns, as `nr` calls of alloc_pages would give them.
        All or nothing: MemoryError when there are not so many."""
        cdef uint64_t want = as_uint64(nr, "nr"), got = 0, i
        cdef int block = as_order(order, self.pages.max_order), z
        cdef int64_t[::1] out
        cdef int64_t *into
        cdef list zones = self.zonelist(zone)
        there = sum([self.blocks_free(z, block) for z in zones])
        if want > <uint64_t>there:
            raise MemoryError(f"{want} blocks of order {block} were asked for, {there} are free")
        pfns = np.empty(want, np.int64)
        if want == 0:
            return pfns
        out = pfns
        into = &out[0]
        for z in zones:
            if block == 0:
                with nogil:
                    got += self.pages.alloc_pages(zone_area(z), want - got, into + got)
            else:
                for i in range(min(want - got, self.blocks_free(z, block))):
                    into[got] = self.pages.alloc_block(zone_area(z), block)
                    got += 1
            if got == want:
                break
        return pfns

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
        self.check_present(start, nr, "alloc_contig_range")
        if self.pages.weigh(PG_buddy, start, nr) != nr:
            for pfn in range(start, start + nr):
                if not self.pages.state(pfn) & PG_buddy:
                    raise HotplugError.of(
                        errno.EBUSY, f"alloc_contig_range of {pfn_range(start, nr)}: page {int(pfn):#x} is not free"
                    )
        self.pages.claim_range(start, nr)

    def free_pages(self, pfn, order=0):
        """Free one allocation, given its first page and its order. ValueError naming the page when it is free, Reserved,
        unaligned, or not the first page of an allocation of that order; nothing changes then (__free_pages)."""
        cdef uint64_t start = as_uint64(pfn, "pfn")
        cdef int block = as_order(order, self.pages.max_order)
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

    def free_pfns(self, pfns):
        """Free single pages, given as a one-dimensional integer array. All or nothing: ValueError naming a page that is free,
        Reserved, no allocation of order 0, past the end of memory, or there twice."""
        cdef pfn_batch batch
        cdef int64_t bad
        array = as_pfn_array(pfns)
        if array.size == 0:
            return
        try:
            self.gather(&batch, array, pfns)
        except HotplugError as e:
            raise ValueError(e.strerror) from None
        with nogil:
            bad = self.pages.find_unfreeable(&batch)
            if bad < 0:
                self.pages.free_batch(&batch)
        if bad >= 0:
            self.pages.ungather(&batch)
            raise ValueError(f"page {bad:#x} is not an allocation of order 0: {self._why_not_freeable(bad)}")

    # -- the C door

    cdef int online_page(self, pfn_t pfn) noexcept nogil:
        cdef uint64_t section = pfn >> self.sections.pfn_section_shift
        cdef int done
        if pfn >= self.pages.nr_pages:
            return -EINVAL
        done = self.pages.online_page(pfn)
        if done == 1:
            if not test_bit(self.sections.online.words, section):
                self.section_online(section)
            self.pages_onlined += 1
            self.zones.table.stale |= self.watermarks_at_mark
        elif done < 0:
            return 0 if test_bit(self.sections.present.words, section) and self.outside_prepared(pfn, 1) < 0 else -EINVAL
        return done

    cdef int64_t online_range(self, pfn_t start_pfn, uint64_t nr_pages, int order) noexcept nogil:
        cdef int64_t done
        if nr_pages == 0 or start_pfn + nr_pages < start_pfn or start_pfn + nr_pages > self.pages.nr_pages \
                or self.sections.missing(start_pfn, nr_pages) != <uint64_t>-1 or self.outside_prepared(start_pfn, nr_pages) >= 0 \
                or order > self.pages.max_order or self.pages.batch_words == NULL:
            return -EINVAL
        done = self.pages.online_range(start_pfn, nr_pages, self.online_order if order < 0 else order)
        self.count_onlined(start_pfn, nr_pages, done)
        return done

    cdef int64_t alloc_page(self, int zone_nr, int order) noexcept nogil:
        cdef int64_t pfn
        if not 0 <= zone_nr < self.zones.table.nr_nodes * self.zones.table.nr_types or not 0 <= order <= self.pages.max_order:
            return -EINVAL
        pfn = self.pages.alloc_block(zone_area(zone_nr), order)
        return pfn if pfn >= 0 else -ENOMEM

    cdef int free_page(self, pfn_t pfn, int order) noexcept nogil:
        if pfn >= self.pages.nr_pages or not 0 <= order <= self.pages.max_order or pfn & ((<uint64_t>1 << order) - 1) \
                or not self.pages.freeable(pfn, order):
            return -EINVAL
        self.pages.free_block(pfn, order)
        return 0

    # -- what there is to see

    @property
    def flags(self):
        """The per-page flags by name, see Flags."""
        return Flags(self.pages.view)

    def page_flags(self, pfn):
        """The flags of one page, decoded: ``'PG_reserved|PG_prepared'``; ``'0'`` for a page without any."""
        cdef uint64_t nr = as_uint64(pfn, "pfn")
        self.check_range(nr, 1, "page_flags")
        return decode_page_flags(self.pages.state(nr) if nr < self.pages.nr_pages else 0)

    def page_states(self, start_pfn, nr_pages):
        """(nr_pages,) uint8: the mask of each page's flags, bit i = FLAG_NAMES[i]; 0 where no page is."""
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages"), there
        cdef uint8_t[::1] out
        self.check_range(start, nr, "page_states")
        states = np.zeros(nr, np.uint8)
        there = min(nr, self.pages.nr_pages - min(start, self.pages.nr_pages))
        if there:
            out = states
            self.pages.states(start, there, &out[0])
        return states

    def kpageflags(self, start_pfn, nr_pages):
        """(nr_pages,) uint64: what /proc/kpageflags would show, in the kernel's KPF_* bits. Pages of sections that are not
        online are KPF_NOPAGE, holes and waiting pages of online ones KPF_RESERVED (RECORDED.md 1)."""
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn")
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
        """The memory blocks by number (hotplug/blocks.py)."""
        return Blocks(self)

    @property
    def totalram_pages(self):
        """Pages given to the allocator, everywhere."""
        cdef int z
        return sum([zone_managed(&self.zones.table, z) for z in range(self.zones.table.nr_nodes * self.zones.table.nr_types)])

    @property
    def totalhigh_pages(self):
        """Of them, those in highmem."""
        cdef int z
        return sum([
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
        self.zones.table.min_free_kbytes = value
        self.zones.table.user_min_free_kbytes = value
        setup_per_zone_wmarks(&self.zones.table)
        self.zones.table.stale = False

    def section_nid(self, section_nr):
        """The node that a present section belongs to."""
        if not self.sections.present_section_nr(section_nr):
            raise ValueError(f"section {section_nr} is not present")
        return int(self.nids[section_nr])

    def zone_of(self, pfn):
        """The Zone that a page is in, or None for one that is in no zone."""
        cdef uint64_t nr = as_uint64(pfn, "pfn")
        cdef int z = self.pages.area_of[nr >> self.pages.max_order] - 1 if nr < self.pages.nr_pages else -1
        if z < 0:
            return None
        return self.zones[z // self.zones.nr_types, self.zones.names[z % self.zones.nr_types]]

    def valid_zones(self, block_nr):
        """The text of a memory block's valid_zones file."""
        cdef uint64_t unit = self.geometry.pages_per_section, start = block_nr * unit
        if self.sections.online_section_nr(block_nr):
            if self.pages.weigh(PG_prepared, start, unit) < unit or self.pages.area_run(start, start + unit) < unit:
                return "none"
            return self.zone_of(start).name
        nid = self.section_nid(block_nr)
        words = []
        for online_type in (MMOP_ONLINE, MMOP_ONLINE_KERNEL, MMOP_ONLINE_MOVABLE):
            name = self.zones.names[self.zone_for_range(start, unit, nid, online_type) % self.zones.nr_types]
            if name not in words:
                words.append(name)
        return " ".join(words)

    def check_engine(self):
        """validate()'s part that only the engine can see. AssertionError with what is wrong."""
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
        "pages_offlined", "notifications" (callbacks called), "bytes_touched" (bytes of page state written)."""
        cdef int area
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
            "notifications": self.notifiers.calls,
            "bytes_touched": self.pages.bytes_touched(),
        }

    def validate(self):
        """Check every invariant from scratch; AssertionError with the first that is broken."""
        check_machine(self)

    # -- copies

    def _state(self):
        """All there is, as plain values and arrays: what copy, pickle and save carry. Callbacks are not carried."""
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
            "area_of": [self.pages.area_array[start >> shift : start + nr >> shift].copy() for start, nr in spans],
            "nids": [self.nids[first : first + nr].copy() for first, nr in runs],
            "subsections": [self.sections.subsection_map[first : first + nr].copy() for first, nr in runs],
            "online": [[self.sections.online_section_nr(n) for n in range(first, first + nr)] for first, nr in runs],
            "early": [[self.sections.early_section_nr(n) for n in range(first, first + nr)] for first, nr in runs],
            "zones": self.zones.__getstate__(),
            "resources": list(self.resources),
            "counters": [self.pages_onlined, self.pages_offlined, self.notifiers.calls, self.pages.bytes_touched()],
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
        mem._make(state["nr_pages"])
        mem.zones.__setstate__(state["zones"])
        shift = mem.sections.pfn_section_shift
        for (first, nr), nids, subsections, online, early in zip(
            state["runs"], state["nids"], state["subsections"], state["online"], state["early"], strict=True
        ):
            mem.sections.add(first << shift, nr << shift)
            mem.nids[first : first + nr] = nids
            mem.sections.subsection_map[first : first + nr] = subsections
            for i in range(nr):
                mem.sections.set_flags(first + i, online[i], early[i])
        spans = mem.sections.spans()
        mem.pages.set_planes(spans, state["planes"])
        shift = mem.pages.max_order
        for (start, nr), areas in zip(spans, state["area_of"], strict=True):
            mem.pages.area_array[start >> shift : start + nr >> shift] = areas
        for area, counts in enumerate(state["areas"]):
            mem.pages.set_area_counters(area, counts)
        for start, end in state["resources"]:
            mem.resources.register(start, end - start)
        mem.pages_onlined, mem.pages_offlined, mem.notifiers.calls, touched = state["counters"]
        mem.pages.set_touched(touched)
        return mem

    def copy(self):
        """A second machine in the same state. Notifiers and the online_page_callback are not carried over."""
        return Memory._restore(self._state())

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce__(self):
        return Memory._restore, (self._state(),)

    def save(self, path):
        """Write the machine to one file, atomically; fastonline.load reads it. Notifiers and callbacks are not saved."""
        savefile.save(path, self._state())


cdef inline bint zones_meet(const zone *zone, uint64_t start, uint64_t nr) noexcept nogil:
    return zone.spanned_pages and start < zone.start_pfn + zone.spanned_pages and zone.start_pfn < start + nr


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
    """The machine that Memory.save wrote. ValueError naming the file and what is wrong for one that is truncated, altered or
    something else; OSError when it cannot be read."""
    state = savefile.load(path)
    try:
        mem = Memory._restore(state)
        mem.validate()
    except (AssertionError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
        raise ValueError(f"{path}: not a machine that fastonline saved: {e}") from None
    return mem
