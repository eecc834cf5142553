# cython: binding=True
import errno

from libc.errno cimport EINVAL

from fastonline.core.bitmap_engine cimport bitmap_online_quickly
from fastonline.core.buddy cimport buddy_pool, buddy_pool_fold
from fastonline.core.engine cimport pfn_batch
from fastonline.core.lock cimport settle
from fastonline.core.numbers cimport as_uint64
from fastonline.core.undo cimport Undo, undo_step
from fastonline.hotplug cimport (
    add_remove, machine, machine_state, offlining, onlining, page_alloc, page_map, page_ops, page_views, sysctl,
    zone_ranges,
)
from fastonline.hotplug.arguments cimport (
    as_batch, as_group, as_online_type, as_order, as_pages, as_threads, set_arguments,
)
from fastonline.hotplug.chain_calls cimport MEM_ONLINE
from fastonline.hotplug.machine cimport is_zone
from fastonline.hotplug.memmap cimport memmaps_on_memory
from fastonline.hotplug.types cimport nr_zones, zone_area, zone_present

from fastonline.core.undo import Undo
from fastonline.errors import HotplugError
from fastonline.hotplug import procfs
from fastonline.hotplug.arguments import ENGINES, MEMMAPS
from fastonline.hotplug.blocks import MMOP_ONLINE, Blocks
from fastonline.hotplug.invariants import check_machine, check_saved
from fastonline.hotplug.notifier import RestoringCallback
from fastonline.hotplug.zones import Node
from fastonline.rules import LINUX_6_12

__all__ = ["ENGINES", "MEMMAPS", "THP_MIN_BYTES", "Memory", "load"]

THP_MIN_BYTES = 512 << 20
compiled_for_fastonline_abi_2 = FASTONLINE_ABI


cdef class Memory(Settings):
    """Memory(geometry, boot=None, rules=None, engine="bitmap", max_memory=None, memory_block_size=None, memmap=None,
    transparent_hugepage="never")
--

A simulated machine. It adds, onlines, offlines and removes memory as Linux does.

    All ranges are `start_pfn, nr_pages`: pages, not bytes (unsigned long). Sizes are bytes as int, or text such as "512M".

    Parameters: geometry is a Geometry or its name ("X86_64"). boot is the memory that is online after boot: a size, from pfn 0
    on, or ranges (start_pfn, nr_pages[, nid[, reserved]]); the first `reserved` pages of a range are present and not managed
    (x86_boot_ranges, linux.bootmem). rules: Rules or a version ("6.12", the default). engine is "bitmap", which is fast, or
    "struct_page", which has the kernel's data layout and order of allocation. max_memory is the largest size of memory; it
    reserves room for all of it at once, so that views of the flags stay valid. memory_block_size is the size of a memory block
    in sysfs: 1, 2, 4, 8... sections, None for one section, or "auto" as on x86_64 (probe_memory_block_size). memmap says where
    the page descriptors of added memory lie: None, they take no memory; "kernel", in pages of the kernel zones
    (vmemmap_populate); "on_memory", in the first pages of each block (memmap_on_memory, 5.13; ValueError before), or as
    "kernel" where the kernel cannot do that. transparent_hugepage is "never", "madvise" or "always"; boot memory below 512 MiB
    switches it off (hugepage_init).

    Attributes: geometry, rules, engine and memmap are as given. max_pfn is the page frame where memory ends, pages_per_block
    the size of a memory block. sections, zones, blocks, nodes, resources (/proc/iomem), notifiers, events (uevents and the log)
    and flags are the machine's parts. online_page_callback is None for generic_online_page. page_owners lists the MovablePages
    that offline_pages may move. memmaps is {section: [(first pfn, pages)]} of what holds page descriptors, groups lists
    (start_pfn, nr_pages, group) as added, going_offline is the (start_pfn, nr_pages) that offline_pages works on, or None.
    These can be set: pcp (PerCpuPages or None), auto_movable_ratio (int, percent) and auto_movable_numa_aware (bool) of the
    policy "auto-movable" (5.15), and possible_nodes (int: nodes that the log lists since 5.18; 0: those that exist).

    Errors: HotplugError has the kernel's errno. An argument that is not a pfn, order or size raises TypeError, ValueError or
    OverflowError. A refused call changes nothing.

    Threads: several threads may call one machine. Hot-plug calls, batches, bulk allocations and calls that look at more than
    one value (page_states, stats, validate, copy, save) exclude one another, callbacks included; a callback may call its own
    machine. alloc_pages, free_pages, a mark of one page and reading one counter are atomic and may come in between. Long steps
    release the GIL. When two threads each hold a machine and call the other's, one gets HotplugError EDEADLK.

    Signals: an exception from a handler (Ctrl-C) undoes a large add_memory, prepare_online_pages, mark_pages_onlined or
    online_pages, except for bytes_touched and the order of free lists at the range's ends. Other calls finish first. A signal
    in a call's last instant may come out of the next one (CPython recomputes its eval_breaker when it takes the GIL). A handler
    that calls the machine during a step gets HotplugError EBUSY. After fork, only the forking thread owns the machine. Freed
    pages go to the buddy allocator at once, unless `pcp` is set.
    """

    def __init__(
        self, geometry, boot=None, rules=None, engine="bitmap", max_memory=None, memory_block_size=None, memmap=None,
        transparent_hugepage="never",
    ):
        cdef list boot_ranges
        if self.geometry is not None:
            raise RuntimeError("__init__ was called already (make another Memory instead)")
        with Undo() as undo:
            (<Undo>undo).note(<undo_step>machine.forget_all, self, None)
            if rules is None:
                rules = LINUX_6_12
            boot_ranges = set_arguments(self, geometry, boot, rules, engine, max_memory, memory_block_size, memmap)
            self.fixed_room = max_memory is not None
            boot_end = boot_ranges[len(boot_ranges) - 1][0] + boot_ranges[len(boot_ranges) - 1][1] if boot_ranges else 0
            _held = machine.make_machine(self, self.max_pfn if self.fixed_room else boot_end)
            if boot_ranges:
                page_map.boot_memory(self, boot_ranges)
            if transparent_hugepage != "never":
                small = boot_ranges and machine.totalram_pages(self) < THP_MIN_BYTES // self.geometry.page_size
                sysctl.set_transparent_hugepage(self, transparent_hugepage, not small)

    @classmethod
    def from_page_map(
        cls, geometry, sections, ram, zones, min_free_kbytes, rules=LINUX_6_12, engine="bitmap", user_min_free_kbytes=None,
        **more
    ):
        """Return a machine in the state that a map of its pages describes (linux/capture.py and linux/recording.py use it).

        sections: (start_pfn, nr_pages, nid, early) of the memory that has sections; early ones are online. ram: (start_pfn,
        nr_pages) of what is System RAM, or (first byte, bytes, name) of each line of /proc/iomem. zones: objects with nid,
        name, start_pfn, spanned_pages, min, low, high, protection ({zone name: pages}), boost (none: 0) and runs, which are the
        pages that were ever prepared: arrays of their first pfns and lengths (uint64), ascending and disjoint, and of their
        states (uint8, as page_states has them: waiting, free, in use, offline). Pages in use are single ones; free lists run in
        ascending order. Counters start from zero, as after a boot. user_min_free_kbytes: what was written to the sysctl, -1 for
        nothing; None: told by a min_free_kbytes that no kernel computes. more: memory_block_size and memmap, as Memory takes
        them.

        min_free_kbytes: as the kernel has it. ValueError for maps that no machine can be in: overlapping, outside a section or
        the span, in a zone there is not.
        """
        cdef Memory mem = cls(geometry, rules=rules, engine=engine, **more)
        if mem is None:
            raise TypeError(f"{cls.__name__}() returned None")
        _held = mem.lock.hold_still()
        page_map.load_page_map(mem, sections, ram, zones, min_free_kbytes, user_min_free_kbytes)
        try:
            check_machine(mem)
        except AssertionError as e:
            raise ValueError(str(e)) from None
        return mem

    def __repr__(self):
        if self.geometry is None:
            return "<Memory, __init__ was not called>"
        return (
            f"<Memory {self.geometry.name} rules={self.rules.name} engine={self.engine} "
            f"sections={self.sections.present.weight()} totalram_pages={self.totalram_pages}>"
        )

    def summary(self):
        """Return the machine at a glance as text: memory blocks, zones with bars, free blocks by order."""
        from fastonline.hotplug.summary import summary

        return summary(self)

    def _repr_html_(self):
        from fastonline.hotplug.summary import machine_html

        return machine_html(self)

    # -- adding and removing

    def add_memory(self, start_pfn, nr_pages, nid=0, name="System RAM", merge=False, threads=1, group=None):
        """Add memory. start_pfn and nr_pages are pages; the kernel's add_memory takes bytes.

        The range's sections become present. Every page is Reserved, none is online, and no zone changes.

        start_pfn, nr_pages: unsigned long, pages, or text that is a size: ``add_memory("1G", "512M")``. 6.1's rules take
        whole memory blocks, 2.6.25 widens to sections. nid: the node; its first memory brings it online. name: in
        /proc/iomem. merge: join the resource with neighbours of that name (MHP_MERGE_RESOURCE), as virtio-mem, Xen and Hyper-V
        do; the range then gets no memmap on memory. threads: 1 to 64 threads write the memmap, whose page faults dominate the
        cost of adding many GiB to a struct_page machine (compare deferred_init_memmap, 5.9). group: (name, unit_pages) of the
        range's dynamic memory group (memory_group_register_dynamic, 5.15; each virtio-mem device has one), None: a static
        group of its own, as a DIMM. `memmap` of the machine says what the descriptors cost, auto_online_blocks whether the new
        blocks go online. Blocks that fail to come online are left offline. An exception from a callback is raised after all
        blocks were tried; the memory has been added either way.

        HotplugError: EEXIST over present memory, or over a resource that does not hold the whole range; EINVAL for a range
        that is misaligned, empty or past the end (E2BIG from `blocks.add`, as in 6.1); ENOMEM when the machine has no room
        for the memmap. MemoryError if this process runs out of memory. Mirrors add_memory (2.6.25 and 6.1).
        """
        cdef uint64_t start = as_pages(self, start_pfn, "start_pfn"), nr = as_pages(self, nr_pages, "nr_pages")
        cdef uint64_t node = as_uint64(nid, "nid")
        cdef int workers = as_threads(threads)
        if not isinstance(name, str):
            raise TypeError(f"a resource name must be a str, not {name!r}")
        if group is not None:
            group = as_group(group)
        _held = self.mem_hotplug_begin("add_memory")
        add_remove.add_memory(self, start, nr, node, name, bool(merge), workers, group)

    def remove_memory(self, start_pfn, nr_pages):
        """Remove the sections of an offline range, and the node with its last memory.

        HotplugError: EBUSY when a page is prepared or online, EINVAL when a section is not present or the range is not whole
        memory blocks. Mirrors try_remove_memory (6.1).
        """
        cdef uint64_t start = as_pages(self, start_pfn, "start_pfn"), nr = as_pages(self, nr_pages, "nr_pages")
        _held = self.mem_hotplug_begin("remove_memory")
        add_remove.remove_memory(self, start, nr)

    # -- onlining

    def prepare_online_pages(self, start_pfn, nr_pages, online_type=MMOP_ONLINE):
        """Phase 1: call the notifiers (MEM_GOING_ONLINE), and grow the zone and the node. No page goes online.

        start_pfn, nr_pages: unsigned long, pages; 6.1's rules want pageblock-aligned starts and section-aligned ends.
        online_type: MMOP_ONLINE, MMOP_ONLINE_KERNEL or MMOP_ONLINE_MOVABLE. Under 6.1's rules present_pages grows by the
        whole range, under 2.6.25 when pages are marked.

        HotplugError: EINVAL for a range that is not present, misaligned or (6.1) already prepared, or part of a block of the
        largest order in another zone (KERNEL.md 3.2); the errno of a notifier's veto (EPERM for NOTIFY_BAD). After a veto or
        an exception in a notifier, the whole chain gets MEM_CANCEL_ONLINE. Mirrors the patch of the 2008 thread
        (KERNEL.md 1.8) and move_pfn_range_to_zone (6.1).
        """
        cdef uint64_t start = as_pages(self, start_pfn, "start_pfn"), nr = as_pages(self, nr_pages, "nr_pages")
        cdef int kind = as_online_type(online_type)
        _held = self.mem_hotplug_begin("prepare_online_pages")
        onlining.prepare_online_pages(self, start, nr, kind)

    def mark_pages_onlined(self, start_pfn, nr_pages=1, order=None):
        """Phase 2: bring the Reserved pages of a prepared range online. They become free, and the buddy allocator merges them.

        start_pfn, nr_pages: unsigned long, pages. order: the largest block freed at a time. None: as the rules say (0 under
        2.6.25, MAX_PAGE_ORDER in 6.1). 0 walks page by page. The end state is the same.
        Returns the number of pages that went online; 0 when they were online already. A memmap on memory stays Reserved. The
        notifiers get MEM_ONLINE unless the number is 0.

        HotplugError: EINVAL for pages that are not present or not prepared. Mirrors mark_pages_onlined of the 2008 thread
        (KERNEL.md 1.8) and online_pages_range (6.1).
        """
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr
        cdef int64_t done
        cdef int most
        if nr_pages is 1 and order is None and self.online_page_callback is None and not memmaps_on_memory(self):
            # one page: the path that a driver takes a million times
            if self.notifiers.heard & MEM_ONLINE:
                _held = self.mem_hotplug_begin("mark_pages_onlined")
            else:
                settle(self.lock)
            if onlining.changes_no_node(self, start):
                done = self.online_page(start)
                if done >= 0:
                    onlining.notify_page(self, start, done)
                    return done
        nr = as_uint64(nr_pages, "nr_pages")
        most = self.online_order if order is None else as_order(order, self.pages.max_order)
        _held = self.mem_hotplug_begin("mark_pages_onlined")
        return onlining.mark_pages_onlined(self, start, nr, most)

    def mark_pfns_onlined(self, pfns):
        """Phase 2 for an array of pfns, in that order, page by page.

        pfns: one-dimensional integer array; uint32, int64 and uint64 are read in place. Returns the number of pages that went
        online. All or nothing: TypeError if `pfns` is not an array of integers; ValueError for two dimensions, or a pfn that
        is negative, past the end of memory or repeated; HotplugError EINVAL for a page that is not prepared.
        """
        cdef pfn_batch batch
        array = as_batch(pfns, &batch)
        _held = self.mem_hotplug_begin("mark_pfns_onlined")
        return onlining.mark_pfns_onlined(self, array, &batch)

    def online_pages(self, start_pfn, nr_pages, online_type=MMOP_ONLINE):
        """Both phases: prepare the range, bring it online, and recompute the watermarks.

        start_pfn, nr_pages, online_type and errors: as prepare_online_pages and mark_pages_onlined. Returns the number of
        pages that went online. All or nothing, also when the online_page_callback raises. A range that is online already
        gives 0 under 2.6.25, EINVAL in 6.1. Mirrors online_pages (2.6.25: KERNEL.md 1.3, 6.1: 3.2).
        """
        cdef uint64_t start = as_pages(self, start_pfn, "start_pfn"), nr = as_pages(self, nr_pages, "nr_pages")
        cdef int kind = as_online_type(online_type)
        _held = self.mem_hotplug_begin("online_pages")
        return onlining.online_pages(self, start, nr, kind)

    def generic_online_page(self, pfn, order=0):
        """Bring a waiting block of 2^order pages online, as an online_page_callback or its driver does. Returns the number of
        pages that went online. No notifier is called (generic_online_page, 6.1; __online_page_free, 3.1)."""
        cdef uint64_t start = as_uint64(pfn, "pfn")
        cdef int block = as_order(order, self.pages.max_order)
        if start & ((<uint64_t>1 << block) - 1):
            raise ValueError(f"pfn {start:#x} is not aligned to a block of order {block}")
        _held = machine.hold_step(self)
        return onlining.generic_online_page(self, start, block)

    def set_online_page_callback(self, callback, kept_flags=0, by_array=False):
        """Call ``callback(pfn, order)`` with each block that goes online, instead of freeing it. Pages that the callback does
        not pass to generic_online_page stay Reserved. kept_flags: KPF_* bits that kpageflags adds for such pages. by_array:
        call ``callback(pfns, order)`` with an int64 array, the first pfns of successive blocks of one order. Returns a context
        manager that restores generic_online_page.

        HotplugError EINVAL when another callback is set (set_online_page_callback, 6.1).
        """
        if not callable(callback):
            raise TypeError(f"an online_page_callback must be callable, not {callback!r}")
        _held = self.lock.hold()
        if self.online_page_callback is not None:
            raise HotplugError.of(errno.EINVAL, f"another online_page_callback is set: {self.online_page_callback!r}")
        self.kept_flags = as_uint64(kept_flags, "kept_flags")
        self.calls_back_by_array = bool(by_array)
        self.online_page_callback = callback
        return RestoringCallback(self, callback)

    def restore_online_page_callback(self, callback):
        """Restore generic_online_page. HotplugError EINVAL when `callback` is not the one that is set."""
        _held = self.lock.hold()
        current = self.generic_online_page if self.online_page_callback is None else self.online_page_callback
        if current != callback:
            raise HotplugError.of(errno.EINVAL, f"{callback!r} is not the online_page_callback that is set")
        self.online_page_callback = None
        self.kept_flags = 0

    # -- offlining

    def offline_pages(self, start_pfn, nr_pages):
        """Take an online range of one zone out of the allocator. Its pages become Reserved and are no longer prepared. Pages
        of MovablePages owners are migrated first. Pages that were never marked, or are with the host (PG_offline), go too.

        HotplugError: EINVAL for a range that is partly offline, misaligned (to a pageblock; in 6.1 the end to a section) or in
        several zones; EBUSY naming the first page in use that cannot move; the errno of a notifier's veto, after
        MEM_CANCEL_OFFLINE; EINTR without room to migrate to (the kernel would retry until a signal). Under 2.6.25: ENOMEM
        without room, EAGAIN for pinned pages. Pages that moved stay moved.
        Mirrors offline_pages (2.6.25: KERNEL.md 1.7, 6.1: 3.6).
        """
        cdef uint64_t start = as_pages(self, start_pfn, "start_pfn"), nr = as_pages(self, nr_pages, "nr_pages")
        _held = self.mem_hotplug_begin("offline_pages")
        offlining.offline_pages(self, start, nr)

    # -- pages that a driver keeps back or gives away

    def set_page_reserved(self, start_pfn, nr_pages=1):
        """Make pages of prepared ranges Reserved, so that they wait to be marked again. Returns how many were not Reserved.

        Free pages leave the allocator, pages in use leave their owner; an allocation of several pages is split first, as by
        split_page. managed_pages shrinks as with mark_page_reserved (6.1). HotplugError EINVAL for a section that is not
        present.
        """
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        _held = self.mem_hotplug_begin("set_page_reserved")
        return page_ops.set_page_reserved(self, start, nr)

    def set_page_offline(self, start_pfn, nr_pages=1):
        """Give pages in use to the host: they become PG_offline and are no longer managed (__SetPageOffline and
        adjust_managed_page_count(-1), as in a balloon). ValueError naming the first page that is not in use."""
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        _held = self.lock.hold()
        page_ops.set_page_offline(self, start, nr, True)

    def clear_page_offline(self, start_pfn, nr_pages=1):
        """Undo set_page_offline: the pages are in use and managed again. ValueError naming the first page not PG_offline."""
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        _held = self.lock.hold()
        page_ops.set_page_offline(self, start, nr, False)

    def set_pfns_reserved(self, pfns):
        """set_page_reserved for a one-dimensional integer array `pfns`. Returns how many were not Reserved. All or nothing:
        HotplugError EINVAL for a section that is not present, else as free_pfns."""
        cdef pfn_batch batch
        array = as_batch(pfns, &batch)
        _held = self.mem_hotplug_begin("set_pfns_reserved")
        return page_ops.set_pfns_reserved(self, array, &batch)

    def set_pfns_offline(self, pfns):
        """set_page_offline for a one-dimensional integer array `pfns`. All or nothing: ValueError naming a page that is not in
        use or repeated."""
        cdef pfn_batch batch
        array = as_batch(pfns, &batch)
        _held = self.lock.hold()
        page_ops.set_pfns_offline(self, array, &batch, True)

    def clear_pfns_offline(self, pfns):
        """clear_page_offline for a one-dimensional integer array `pfns`. All or nothing: ValueError naming a page that is not
        PG_offline or repeated."""
        cdef pfn_batch batch
        array = as_batch(pfns, &batch)
        _held = self.lock.hold()
        page_ops.set_pfns_offline(self, array, &batch, False)

    def free_reserved_pfns(self, pfns):
        """Free pages that a driver kept (Reserved in a prepared range) or gave to the host (PG_offline). They become free and
        managed. No callback and no notifier is called.

        pfns: one-dimensional integer array. All or nothing: ValueError naming a page in another state, or repeated.
        Mirrors free_reserved_page (6.1) over the array.
        """
        cdef pfn_batch batch
        array = as_batch(pfns, &batch)
        _held = self.mem_hotplug_begin("free_reserved_pfns")
        page_ops.free_reserved_pfns(self, array, &batch)

    # -- the C API

    cdef Held own(self):
        return self.lock.hold_alone()

    cdef int online_page(self, pfn_t pfn) noexcept nogil:
        # No calls on this path, so that the compiler needs no stack frame; rare cases are in onlining. A page with free
        # neighbours is in an online section.
        if self.planes is None or pfn >= self.planes.nr_pages or not bitmap_online_quickly(self.planes, pfn):
            return onlining.online_page(self, pfn)
        self.pages_onlined += 1
        if self.watermarks_at_mark:
            self.zones.table.stale = True
        return 1

    cdef int64_t online_range(self, pfn_t start_pfn, uint64_t nr_pages, int order) noexcept nogil:
        return onlining.online_range(self, start_pfn, nr_pages, order)

    cdef int64_t online_batch(self, const uint64_t *pfns, uint64_t nr) noexcept nogil:
        return onlining.online_pfns(self, pfns, nr)

    cdef int64_t alloc_page(self, int zone_nr, int order) noexcept nogil:
        return page_alloc.alloc_block(self, zone_nr, order)

    cdef int64_t alloc_bulk(self, int zone_nr, int order, uint64_t nr, int64_t *out) noexcept nogil:
        return page_alloc.alloc_bulk(self, zone_nr, order, nr, out)

    cdef int free_page(self, pfn_t pfn, int order) noexcept nogil:
        return page_alloc.free_block(self, pfn, order)

    cdef int64_t free_batch(self, const uint64_t *pfns, uint64_t nr) noexcept nogil:
        return page_alloc.free_batch(self, pfns, nr)

    cdef int page_state(self, pfn_t pfn) noexcept nogil:
        return self.pages.state(pfn) if pfn < self.pages.nr_pages else 0

    cdef int page_zone(self, pfn_t pfn) noexcept nogil:
        cdef int z = zone_ranges.page_zone(self, pfn)
        return z if z >= 0 else -EINVAL

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
            for z in range(nr_zones(&self.zones.table)):
                total += zone_counter(self, z, which, order)
            return total
        return zone_counter(self, zone_nr, which, order) if is_zone(self, zone_nr) else -EINVAL

    # -- what there is to see

    def kpageflags(self, start_pfn, nr_pages):
        """Return an (nr_pages,) uint64 array of KPF_* bits, as /proc/kpageflags shows them. Pages of offline sections are
        KPF_NOPAGE; holes and waiting pages of online sections are KPF_RESERVED (KERNEL.md 7.1)."""
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        _held = self.lock.hold()
        return page_views.kpageflags(self, start, nr)

    @property
    def nodes(self):
        """{nid: Node} of the online nodes."""
        return {nid: Node(self.zones, nid) for nid in self.zones.online_nodes()}

    @property
    def blocks(self):
        """The memory blocks by number: Blocks."""
        return Blocks(self)

    @property
    def totalram_pages(self):
        """Pages given to the allocator in all zones, free or in use (totalram_pages)."""
        settle(self.lock)
        return machine.totalram_pages(self)

    @property
    def totalhigh_pages(self):
        """The highmem pages among totalram_pages (totalhigh_pages). 2.6.25 also counts every highmem page that has gone
        offline since boot (KERNEL.md 1.7)."""
        settle(self.lock)
        return machine.totalhigh_pages(self)

    def buddyinfo(self):
        """Return the text of /proc/buddyinfo."""
        _held = self.lock.hold()
        return procfs.buddyinfo(self)

    def zoneinfo(self):
        """Return the text of /proc/zoneinfo, without the counters of pages in use."""
        _held = self.lock.hold()
        return procfs.zoneinfo(self)

    def pagetypeinfo(self):
        """Return the text of /proc/pagetypeinfo. Every page is of type Movable."""
        _held = self.lock.hold()
        return procfs.pagetypeinfo(self)

    def lsmem(self, style="2.38"):
        """Return what util-linux's lsmem prints. style: its version, "2.38" or later; labels, the width of SIZE and the last
        line differ between versions. ValueError for another version."""
        _held = self.lock.hold()
        return procfs.lsmem(self, style)

    def validate(self):
        """Check every invariant from scratch. AssertionError names the first that is broken. Other threads wait."""
        _held = self.lock.hold_still()
        check_machine(self)

    # -- copies

    @classmethod
    def _restore(cls, state):
        """Return a machine with the state of machine_state. All of it is checked. ValueError for an invalid state."""
        cdef Memory mem = Memory.__new__(cls)
        try:
            with Undo() as undo:
                (<Undo>undo).note(<undo_step>machine.forget_all, mem, None)
                _held = machine_state.restore_machine(mem, state)
                check_machine(mem)
        except (AssertionError, ArithmeticError, AttributeError, HotplugError, LookupError, TypeError, ValueError) as e:
            raise ValueError(f"invalid machine state: {e}") from None
        return mem

    def copy(self):
        """Return a second machine in the same state, without callbacks, page owners and per-CPU lists."""
        cdef Memory mem = Memory.__new__(Memory)
        _held = self.lock.hold_alone()
        machine_state.restore_machine(mem, machine_state.machine_state(self))
        return mem

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __reduce__(self):
        _held = self.lock.hold_alone()
        return Memory._restore, (machine_state.owned(machine_state.machine_state(self)),)

    def save(self, path):
        """Write the machine to the file `path`, atomically. fastonline.load reads it. OSError when it cannot be written. The
        file has what `copy` has. Other threads' changes wait until it is written."""
        from fastonline.hotplug import savefile

        _held = self.lock.hold_alone()
        savefile.save(path, machine_state.machine_state(self))


cdef int64_t zone_counter(Memory mem, int z, int which, int order) noexcept nogil:
    """Memory.counter of one zone."""
    cdef buddy_pool *area = &mem.pages.areas[zone_area(z)]
    if which == COUNT_FREE_PAGES:
        return page_alloc.blocks_free(mem, z, 0)
    if which == COUNT_MANAGED_PAGES:
        return area.managed
    if which == COUNT_PRESENT_PAGES:
        return zone_present(&mem.zones.table, z)
    if which == COUNT_SPANNED_PAGES:
        return mem.zones.table.zones[z].spanned_pages
    buddy_pool_fold(area)
    if which == COUNT_NR_FREE:
        return area.nr_free[order]
    if which == COUNT_MERGES:
        return area.merges[order]
    if which == COUNT_SPLITS:
        return area.splits[order]
    return area.frees[order] if which == COUNT_FREES else area.allocs[order]


def load(path):
    """Return the machine that Memory.save wrote to `path`. ValueError, naming the file and the reason, for a file that is
    truncated, altered or of another kind; OSError when it cannot be read."""
    from fastonline.hotplug import savefile

    state = savefile.load(path)
    try:
        mem = Memory._restore(state)
        check_saved(mem)
        return mem
    except (AssertionError, ValueError) as e:
        raise ValueError(f"{path}: {e}") from None
