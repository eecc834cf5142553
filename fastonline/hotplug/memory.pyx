import errno

from libc.errno cimport EINVAL

from fastonline.core.bitmap_engine cimport bitmap_online_quickly
from fastonline.core.buddy cimport buddy_pool, buddy_pool_fold
from fastonline.core.engine cimport pfn_batch
from fastonline.core.lock cimport settle
from fastonline.core.numbers cimport as_uint64
from fastonline.hotplug cimport (
    add_remove, machine, machine_state, offlining, onlining, page_alloc, page_map, page_ops, page_views, sysctl,
    zone_ranges,
)
from fastonline.hotplug.arguments cimport (
    as_batch, as_group, as_online_type, as_order, as_pages, as_threads, check_present, check_range, set_arguments,
)
from fastonline.hotplug.machine cimport is_zone
from fastonline.hotplug.memmap cimport memmaps_on_memory
from fastonline.hotplug.types cimport zone_area, zone_present

from fastonline.core.pageflags import decode_page_flags
from fastonline.errors import HotplugError
from fastonline.hotplug import procfs, savefile, summary
from fastonline.hotplug.arguments import ENGINES, MEMMAPS
from fastonline.hotplug.blocks import MMOP_ONLINE, Blocks
from fastonline.hotplug.invariants import check_machine
from fastonline.hotplug.notifier import RestoringCallback
from fastonline.hotplug.page_views import Flags
from fastonline.hotplug.zones import Node
from fastonline.rules import LINUX_6_12

__all__ = ["ENGINES", "MEMMAPS", "THP_MIN_BYTES", "Memory", "load"]

THP_MIN_BYTES = 512 << 20


cdef class Memory(Settings):
    """Memory(geometry, boot=None, rules=None, engine="bitmap", max_memory=None, memory_block_size=None, memmap=None,
    transparent_hugepage="never")
--

A simulated machine: its sections, zones, nodes and pages, onlined the way Linux does it.

    All ranges are `start_pfn, nr_pages`: pages, not bytes (unsigned long). Sizes are bytes as int, or text such as "512M".

    Parameters: geometry is what the machine looks like, a Geometry or its name ("X86_64"). boot is the memory that is online
    after boot: a size, from pfn 0 on, or ranges (start_pfn, nr_pages[, nid[, reserved]]), of which boot keeps the first
    `reserved` pages: present, not managed (x86_boot_ranges, linux.bootmem). rules: Rules or a version ("6.12", the default).
    engine is "bitmap", which is fast, or "struct_page", which is laid out as the kernel is and allocates in the kernel's order.
    max_memory is the size that memory can grow to; with it, room for all of it is reserved at once, so that views of the flags
    stay valid. memory_block_size is the size of a memory block in sysfs: 1, 2, 4, 8... sections, None for one section, or
    "auto" as x86_64 chooses it (probe_memory_block_size). memmap says who pays for page descriptors of added memory: None,
    nobody; "kernel", pages of the kernel zones (vmemmap_populate); "on_memory", the first pages of each block where the kernel
    can (memmap_on_memory, 5.13; else ValueError), or else as "kernel". transparent_hugepage is "never", "madvise" or "always";
    boot memory below 512 MiB switches it off (hugepage_init).

    Attributes: geometry, rules, engine and memmap are as given. max_pfn is the page frame where memory ends, pages_per_block
    the size of a memory block. sections, zones, blocks, nodes, resources (/proc/iomem), notifiers, events (uevents and the log)
    and flags are the machine's parts. online_page_callback is None for generic_online_page. page_owners lists the MovablePages
    that offline_pages may move. memmaps is {section: [(first pfn, pages)]} of what holds page descriptors, groups lists
    (start_pfn, nr_pages, group) as added, going_offline is the (start_pfn, nr_pages) that offline_pages works on, or None.
    These can be set: pcp (PerCpuPages or None), auto_movable_ratio (int, percent) and auto_movable_numa_aware (bool) of the
    policy "auto-movable" (5.15), and possible_nodes (int: nodes that the log lists since 5.18; 0: those that exist).

    Errors: HotplugError carries the kernel's errno. TypeError, ValueError and OverflowError are for arguments that are no pfn,
    order or size at all. A refused call changes nothing.

    Threads: several threads may call one machine. Hot-plug calls, batches, bulk allocations and calls that look at more than
    one value (page_states, stats, validate, copy, save) exclude one another for their whole length, callbacks included; a
    callback may call its own machine. alloc_pages, free_pages, a mark of one page and reading one counter are atomic and may
    come in between. Steps over much state release the GIL. Two threads that each hold a machine and call the other's: one gets
    HotplugError EDEADLK.

    Signals: an exception from a handler (Ctrl-C) undoes a large add_memory, prepare_online_pages, mark_pages_onlined or
    online_pages as a whole, except for bytes_touched and the order of free lists at the range's ends. Other calls finish first.
    A handler that calls the machine during a step gets HotplugError EBUSY. After a fork, only the forking thread owns the
    machine in the child. Freed pages go to the buddy allocator at once, unless `pcp` is set.
    """

    def __init__(
        self, geometry, boot=None, rules=None, engine="bitmap", max_memory=None, memory_block_size=None, memmap=None,
        transparent_hugepage="never",
    ):
        cdef list boot_ranges
        if self.geometry is not None:
            raise RuntimeError("__init__ was called already (make another Memory instead)")
        try:
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
        except BaseException:
            machine.unmake_machine(self)
            raise

    @classmethod
    def from_page_map(
        cls, geometry, sections, ram, zones, min_free_kbytes, rules=LINUX_6_12, engine="bitmap", user_min_free_kbytes=None,
        **more
    ):
        """A machine in the midst of its life, as a map of its pages shows it (linux/capture.py makes one of a kernel's,
        linux/recording.py one that has as many free blocks as were recorded).

        sections: (start_pfn, nr_pages, nid, early) of the memory that has sections; early ones are online. ram: (start_pfn,
        nr_pages) of what is System RAM. zones: objects with nid, name, start_pfn, spanned_pages, min, low, high, protection
        ({zone name: pages}), boost (none: 0) and runs, which are the pages that were ever prepared: arrays of their first pfns
        and lengths (uint64), ascending and disjoint, and of their states (uint8, as page_states has them: waiting, free, in
        use, offline). Pages in use are single ones; free lists run in ascending order. Counters start from zero, as after a
        boot. user_min_free_kbytes: what was written to the sysctl, -1 for nothing; None: told by a min_free_kbytes that no
        kernel computes. more: memory_block_size and memmap, as Memory takes them.

        min_free_kbytes: as the kernel has it. ValueError for maps that no machine can be in: overlapping, outside a section or
        the span, in a zone there is not.
        """
        cdef Memory mem = cls(geometry, rules=rules, engine=engine, **more)
        _held = mem.lock.hold_still()
        page_map.load_page_map(mem, sections, ram, zones, min_free_kbytes, user_min_free_kbytes)
        if ram:
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
        return summary.summary(self)

    def _repr_html_(self):
        return summary.machine_html(self)

    # -- adding and removing

    def add_memory(self, start_pfn, nr_pages, nid=0, name="System RAM", merge=False, threads=1, group=None):
        """Add memory: start_pfn and nr_pages are pages; the kernel's add_memory takes bytes.

        Sections appear: their memmap is there, every page Reserved, nothing online; no zone changes.

        start_pfn, nr_pages: unsigned long, pages, or text that is a size: ``add_memory("1G", "512M")``. 6.1's rules take
        whole memory blocks, 2.6.25 widens to sections. nid: the node, online from its first memory on. name: in /proc/iomem,
        merge: joined with its neighbours of that name (MHP_MERGE_RESOURCE), as virtio-mem, Xen and Hyper-V ask; they do not
        ask for a memmap on memory. threads: 1 to 64 share the first write of the memmap, whose page faults are what adding
        many GiB to a struct_page machine costs (as deferred_init_memmap does at boot, 5.9). group: (name, unit_pages) of the
        dynamic memory group that the range belongs to (memory_group_register_dynamic, 5.15: each virtio-mem device has one);
        None: a static one of its own, as a DIMM. The memmap costs what the machine's `memmap` says, and the new blocks go
        online as auto_online_blocks says; those that cannot stay offline, and what a callback raises meanwhile comes out of
        the call when all have been tried: the memory is there then.

        HotplugError: EEXIST over memory that is there, or over any resource that does not hold the whole range; EINVAL for a
        range that is misaligned, empty or past the end (`blocks.add` tells that one as 6.1 does, E2BIG); ENOMEM when
        there is no room for the memmap in the machine. MemoryError when there is none here, before any of it is written.
        Mirrors add_memory (2.6.25 and 6.1, mm/memory_hotplug.c).
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
        """The sections of an offline range are gone, with the node when that was its last memory.

        HotplugError: EBUSY when some of it is prepared or online, EINVAL when it is not there, or no whole memory blocks.
        Mirrors try_remove_memory (6.1).
        """
        cdef uint64_t start = as_pages(self, start_pfn, "start_pfn"), nr = as_pages(self, nr_pages, "nr_pages")
        _held = self.mem_hotplug_begin("remove_memory")
        add_remove.remove_memory(self, start, nr)

    # -- onlining

    def prepare_online_pages(self, start_pfn, nr_pages, online_type=MMOP_ONLINE):
        """Phase 1: tell the chain (MEM_GOING_ONLINE), grow the zone's and the node's span; no page goes online.

        start_pfn, nr_pages: unsigned long, pages; 6.1's rules want pageblock-aligned starts and section-aligned ends.
        online_type: MMOP_ONLINE, MMOP_ONLINE_KERNEL or MMOP_ONLINE_MOVABLE. Under 6.1's rules present_pages grows by the
        whole range, under 2.6.25 when pages are marked.

        HotplugError: EINVAL for what is not there, misaligned or (6.1) prepared already; what a notifier vetoes with (EPERM
        for NOTIFY_BAD), or its exception; MEM_CANCEL_ONLINE then goes to the whole chain. Mirrors the patch of the 2008
        thread (KERNEL.md 1.8); 6.1 move_pfn_range_to_zone.
        """
        cdef uint64_t start = as_pages(self, start_pfn, "start_pfn"), nr = as_pages(self, nr_pages, "nr_pages")
        cdef int kind = as_online_type(online_type)
        _held = self.mem_hotplug_begin("prepare_online_pages")
        onlining.prepare_online_pages(self, start, nr, kind)

    def mark_pages_onlined(self, start_pfn, nr_pages=1, order=None):
        """Phase 2: the Reserved pages of a prepared range go online, Reserved -> free, merged as the buddy allocator merges.

        start_pfn, nr_pages: unsigned long, pages. order: the largest block handed to the allocator at a time; None takes it
        from the rules (0 under 2.6.25, MAX_PAGE_ORDER in 6.1), 0 walks page by page; the end state is the same.
        Returns the number of pages that went online; marking again returns 0, and page descriptors that a block has on itself
        stay Reserved. MEM_ONLINE goes to the chain when it is not 0.

        HotplugError: EINVAL for pages that are not present, or in a section that was not prepared. Mirrors mark_pages_onlined
        of the 2008 thread (KERNEL.md 1.8) and online_pages_range (6.1).
        """
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr
        cdef int64_t done
        cdef int most
        if nr_pages is 1 and order is None and self.online_page_callback is None and not self.chain \
                and not memmaps_on_memory(self):
            # one page and nobody listening: the path that a driver takes a million times
            settle(self.lock)
            if not zone_ranges.enters_empty_zone(self, start):
                done = self.online_page(start)
                if done >= 0:
                    onlining.count_mark(self, done)
                    return done
        nr = as_uint64(nr_pages, "nr_pages")
        most = self.online_order if order is None else as_order(order, self.pages.max_order)
        _held = self.mem_hotplug_begin("mark_pages_onlined")
        return onlining.mark_pages_onlined(self, start, nr, most)

    def mark_pfns_onlined(self, pfns):
        """Phase 2 for any one-dimensional integer array of pfns, in that order, page by page.

        Returns the number of pages that went online. All or nothing: TypeError for what is no array of integers, ValueError
        for one of two dimensions, or with a pfn past the end of memory, negative, or there twice; HotplugError EINVAL when a
        page is in a section that was not prepared. uint32, int64 and uint64 arrays are read in place.
        """
        cdef pfn_batch batch
        array = as_batch(pfns, &batch)
        _held = self.mem_hotplug_begin("mark_pfns_onlined")
        return onlining.mark_pfns_onlined(self, array, &batch)

    def online_pages(self, start_pfn, nr_pages, online_type=MMOP_ONLINE):
        """Both phases: prepare the range, mark it, recompute the watermarks. Returns the number of pages that went online.

        start_pfn, nr_pages, online_type, errors: as prepare_online_pages and mark_pages_onlined; all or nothing, also when the
        online_page_callback raises. Under 2.6.25 a range that is online already gives 0, in 6.1 EINVAL. Mirrors online_pages
        (2.6.25: KERNEL.md 1.3, 6.1: 3.2).
        """
        cdef uint64_t start = as_pages(self, start_pfn, "start_pfn"), nr = as_pages(self, nr_pages, "nr_pages")
        cdef int kind = as_online_type(online_type)
        _held = self.mem_hotplug_begin("online_pages")
        return onlining.online_pages(self, start, nr, kind)

    def generic_online_page(self, pfn, order=0):
        """What an online_page_callback, or the driver behind it later, calls to let a block of waiting pages go online; how
        many did. No notifier is told (generic_online_page, 6.1; __online_page_free, 3.1)."""
        cdef uint64_t start = as_uint64(pfn, "pfn")
        cdef int block = as_order(order, self.pages.max_order)
        if start & ((<uint64_t>1 << block) - 1):
            raise ValueError(f"pfn {start:#x} is not aligned to a block of order {block}")
        _held = self.lock.hold()
        return onlining.generic_online_page(self, start, block)

    def set_online_page_callback(self, callback, kept_flags=0):
        """From now on marks hand ``callback(pfn, order)`` each block instead of freeing it; the pages it does not give to
        generic_online_page stay Reserved. Returns a context manager that restores. kept_flags: KPF_* bits that kpageflags shows
        of such pages, besides what waiting pages have.

        HotplugError EINVAL when another callback is set (set_online_page_callback, 6.1).
        """
        if not callable(callback):
            raise TypeError(f"an online_page_callback must be callable, not {callback!r}")
        _held = self.lock.hold()
        if self.online_page_callback is not None:
            raise HotplugError.of(errno.EINVAL, f"another online_page_callback is set: {self.online_page_callback!r}")
        self.kept_flags = as_uint64(kept_flags, "kept_flags")
        self.online_page_callback = callback
        return RestoringCallback(self, callback)

    def restore_online_page_callback(self, callback):
        """Go back to generic_online_page. HotplugError EINVAL when `callback` is not the one that is set."""
        _held = self.lock.hold()
        current = self.generic_online_page if self.online_page_callback is None else self.online_page_callback
        if current != callback:
            raise HotplugError.of(errno.EINVAL, f"{callback!r} is not the online_page_callback that is set")
        self.online_page_callback = None
        self.kept_flags = 0

    # -- offlining

    def offline_pages(self, start_pfn, nr_pages):
        """Take an online range of one zone out of the allocator: free -> Reserved, not prepared. Pages in use that an owner of
        movable pages (hotplug/migrate.py) holds move elsewhere first; pages that were prepared and never marked, and those
        given back to the host (PG_offline), go with the range.

        HotplugError: EINVAL for what is not online as a whole, misaligned (pageblock; in 6.1 the end a section) or in several
        zones; EBUSY naming the first page in use that cannot move; what a notifier vetoes with, MEM_CANCEL_OFFLINE told; EINTR
        where there is no room to move to (the kernel would try until a signal), under 2.6.25 ENOMEM, and EAGAIN for pinned
        pages: pages that moved stay moved.
        Mirrors offline_pages (2.6.25: KERNEL.md 1.7, 6.1: 3.6).
        """
        cdef uint64_t start = as_pages(self, start_pfn, "start_pfn"), nr = as_pages(self, nr_pages, "nr_pages")
        _held = self.mem_hotplug_begin("offline_pages")
        offlining.offline_pages(self, start, nr)

    # -- pages that a driver keeps back or gives away

    def set_page_reserved(self, start_pfn, nr_pages=1):
        """Pages of prepared ranges become Reserved: waiting, to be marked again. Returns how many were not Reserved before.

        Free pages leave the allocator, pages in use leave their owner (an allocation of several pages becomes single pages
        first, as split_page does). managed_pages shrinks as with mark_page_reserved (6.1). HotplugError EINVAL where no
        section is.
        """
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        _held = self.mem_hotplug_begin("set_page_reserved")
        return page_ops.set_page_reserved(self, start, nr)

    def set_page_offline(self, start_pfn, nr_pages=1):
        """Pages in use go back to the host: PG_offline, no longer managed (__SetPageOffline and adjust_managed_page_count(-1),
        as a balloon does). ValueError naming the first page that is not in use."""
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        _held = self.lock.hold()
        page_ops.set_page_offline(self, start, nr, True)

    def clear_page_offline(self, start_pfn, nr_pages=1):
        """The inverse of set_page_offline: in use again, and managed. ValueError naming the first page not PG_offline."""
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        _held = self.lock.hold()
        page_ops.set_page_offline(self, start, nr, False)

    def set_pfns_reserved(self, pfns):
        """set_page_reserved for any one-dimensional integer array of pfns; how many were not Reserved before. All or nothing:
        HotplugError EINVAL for one where no section is, else as free_pfns."""
        cdef pfn_batch batch
        array = as_batch(pfns, &batch)
        _held = self.mem_hotplug_begin("set_pfns_reserved")
        return page_ops.set_pfns_reserved(self, array, &batch)

    def set_pfns_offline(self, pfns):
        """set_page_offline for any one-dimensional integer array of pfns. All or nothing: ValueError naming a page that is not
        in use, or is there twice."""
        cdef pfn_batch batch
        array = as_batch(pfns, &batch)
        _held = self.lock.hold()
        page_ops.set_pfns_offline(self, array, &batch, True)

    def clear_pfns_offline(self, pfns):
        """clear_page_offline for any one-dimensional integer array of pfns. All or nothing: ValueError naming a page that is
        not PG_offline, or is there twice."""
        cdef pfn_batch batch
        array = as_batch(pfns, &batch)
        _held = self.lock.hold()
        page_ops.set_pfns_offline(self, array, &batch, False)

    def free_reserved_pfns(self, pfns):
        """What the driver behind an online_page_callback calls for the pages it kept (Reserved in a prepared range) or gave
        back to the host (PG_offline), once they are backed: they are free and managed, no callback and no notifier is called.

        pfns: one-dimensional integer array. All or nothing: ValueError naming a page that is neither, or is there twice.
        Mirrors free_reserved_page (6.1) over the array.
        """
        cdef pfn_batch batch
        array = as_batch(pfns, &batch)
        _held = self.mem_hotplug_begin("free_reserved_pfns")
        page_ops.free_reserved_pfns(self, array, &batch)

    # -- the allocator

    def alloc_pages(self, order=0, zone=None, gfp=None, nid=0):
        """The first pfn of a free block of 2^order pages, now in use: the smallest block that fits.

        zone: a name, a (nid, name) or a Zone; None tries every zone from the highest down, node by node. Watermarks are not
        applied. gfp: "GFP_KERNEL", "GFP_USER", "GFP_ATOMIC", "GFP_DMA", "GFP_DMA32", "GFP_HIGHUSER" or "GFP_HIGHUSER_MOVABLE":
        the zones of node nid's zonelist that it allows, each down to its low watermark, then to min, and what it keeps for
        requests that a higher zone could serve; nothing is reclaimed (get_page_from_freelist). zone must be None then.

        The bitmap engine takes the lowest address, struct_page the head of the kernel's list. MemoryError when nothing fits.
        Mirrors __rmqueue_smallest.
        """
        cdef int block = as_order(order, self.pages.max_order)
        cdef int64_t pfn
        if gfp is not None:
            if zone is not None:
                raise ValueError("zone and gfp exclude each other")
            _held = self.lock.hold()
            return page_alloc.alloc_pages_gfp(self, block, gfp, nid)
        pfn = page_alloc.alloc_pages(self, block, zone)
        try:
            return pfn
        except MemoryError:      # for the int itself
            page_alloc.free_block(self, pfn, block)
            raise

    def alloc_pages_bulk(self, nr, order=0, zone=None):
        """`nr` blocks of 2^order pages: (nr,) int64 array of their first pfns, as `nr` calls of alloc_pages(order, zone) would
        give them (__alloc_pages_bulk, 5.13, which is of order 0).
        All or nothing: MemoryError when there are not so many."""
        cdef uint64_t want = as_uint64(nr, "nr")
        cdef int block = as_order(order, self.pages.max_order)
        _held = self.lock.hold()
        return page_alloc.alloc_pages_bulk(self, want, block, zone)

    def alloc_contig_range(self, start_pfn, nr_pages):
        """Take exactly this range of free pages, as single pages in use. HotplugError EBUSY naming the first page that is not
        free (alloc_contig_range, 6.1, which would migrate)."""
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        _held = self.lock.hold()
        check_present(self, start, nr, "alloc_contig_range")
        page_alloc.alloc_contig_range(self, start, nr)

    def free_pages(self, pfn, order=0):
        """Free one allocation, given its first page and its order. ValueError naming the page when it is free, Reserved,
        unaligned, or not the first page of an allocation of that order; nothing changes then (__free_pages)."""
        cdef uint64_t start = as_uint64(pfn, "pfn")
        cdef int block = as_order(order, self.pages.max_order)
        settle(self.lock)
        page_alloc.free_pages(self, start, block)

    def free_pfns(self, pfns):
        """Free single pages. pfns: one-dimensional integer array. All or nothing: ValueError naming a page that is free,
        Reserved, no allocation of order 0, past the end of memory, or there twice."""
        cdef pfn_batch batch
        array = as_batch(pfns, &batch)
        _held = self.lock.hold()
        page_alloc.free_pfns(self, array, &batch)

    # -- the C API

    cdef Held own(self):
        return self.lock.hold_alone()

    cdef int online_page(self, pfn_t pfn) noexcept nogil:
        # what is rare is elsewhere: no call is left here, and so nothing to save on the stack. Where pages are free near by,
        # the section is online
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
            for z in range(self.zones.table.nr_nodes * self.zones.table.nr_types):
                total += zone_counter(self, z, which, order)
            return total
        return zone_counter(self, zone_nr, which, order) if is_zone(self, zone_nr) else -EINVAL

    # -- what there is to see

    @property
    def flags(self):
        """The per-page flags by name, see Flags."""
        settle(self.lock)
        return Flags(self.pages.view)

    def page_flags(self, pfn):
        """The flags of one page, decoded: ``'PG_reserved|PG_prepared'``; ``'0'`` for a page without any."""
        cdef uint64_t nr = as_uint64(pfn, "pfn")
        check_range(self, nr, 1, "page_flags")
        settle(self.lock)
        return decode_page_flags(self.page_state(nr))

    def page_states(self, start_pfn, nr_pages):
        """(nr_pages,) uint8: the mask of each page's flags, bit i = FLAG_NAMES[i]; 0 where no page is."""
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        _held = self.lock.hold()
        return page_views.page_states(self, start, nr)

    def kpageflags(self, start_pfn, nr_pages):
        """(nr_pages,) uint64: what /proc/kpageflags would show, in the kernel's KPF_* bits. Pages of sections that are not
        online are KPF_NOPAGE, holes and waiting pages of online ones KPF_RESERVED (KERNEL.md 7.1)."""
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        _held = self.lock.hold()
        return page_views.kpageflags(self, start, nr)

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
        settle(self.lock)
        return machine.totalram_pages(self)

    @property
    def totalhigh_pages(self):
        """totalhigh_pages: of totalram_pages, those in highmem; under 2.6.25 with those that have gone offline since boot, each
        time (KERNEL.md 1.7)."""
        settle(self.lock)
        return machine.totalhigh_pages(self)

    def zone_of(self, pfn):
        """The Zone that a page is in, or None for one that is in no zone."""
        cdef uint64_t number = as_uint64(pfn, "pfn")
        cdef int z, types = self.zones.table.nr_types
        settle(self.lock)
        z = zone_ranges.page_zone(self, number)
        return self.zones[z // types, self.zones.names[z % types]] if z >= 0 else None

    def buddyinfo(self):
        """The text of /proc/buddyinfo."""
        _held = self.lock.hold()
        return procfs.buddyinfo(self)

    def zoneinfo(self):
        """The text of /proc/zoneinfo, as far as zones go."""
        _held = self.lock.hold()
        return procfs.zoneinfo(self)

    def pagetypeinfo(self):
        """The text of /proc/pagetypeinfo; every page is Movable here."""
        _held = self.lock.hold()
        return procfs.pagetypeinfo(self)

    def lsmem(self, style="2.38"):
        """The text that util-linux's lsmem prints of this machine. style: its version, from 2.38 on (str, such as "2.41"): the
        labels, the width of SIZE and the last line differ. ValueError for another one."""
        _held = self.lock.hold()
        return procfs.lsmem(self, style)

    def stats(self):
        """Return the exact counts since the machine was made, a hotplug.stats.Stats: ``mem.stats().merges``. The C API's calls
        recompute and notify nothing."""
        _held = self.lock.hold()
        return machine.stats(self)

    def validate(self):
        """Check every invariant from scratch; AssertionError with the first that is broken. Other threads wait meanwhile."""
        _held = self.lock.hold_still()
        check_machine(self)

    # -- copies

    @classmethod
    def _restore(cls, state):
        """A machine from what machine_state gave, or another wrote: checked in full. ValueError for what no machine has."""
        cdef Memory mem = cls.__new__(cls)
        try:
            _held = machine_state.restore_machine(mem, state)
            check_machine(mem)
        except BaseException as e:
            machine.unmake_machine(mem)
            if isinstance(e, (AssertionError, ArithmeticError, AttributeError, HotplugError, LookupError, TypeError,
                    ValueError)):
                raise ValueError(f"invalid machine state: {e}") from None
            raise
        return mem

    def copy(self):
        """A second machine in the same state. Whoever listens, owns pages or keeps per-CPU lists is not carried over."""
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
        """Write the machine to one file `path`, atomically; fastonline.load reads it. OSError when it cannot be written. What
        copy does not carry over is not saved. Other threads' changes wait until it is written."""
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
    """The machine that Memory.save wrote to `path`. ValueError naming the file and what is wrong for one that is truncated,
    altered or something else; OSError when it cannot be read."""
    state = savefile.load(path)
    try:
        return Memory._restore(state)
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from None
