# cython: binding=True
from fastonline.core.bitmap cimport test_bit
from fastonline.core.engine cimport pfn_batch
from fastonline.core.lock cimport settle
from fastonline.core.numbers cimport as_uint64
from fastonline.core.sections cimport present_section_nr
from fastonline.core.types cimport int64_t, uint64_t
from fastonline.hotplug cimport page_alloc, page_views
from fastonline.hotplug.add_remove cimport add_memory
from fastonline.hotplug.arguments cimport as_batch, as_order, check_present, check_range
from fastonline.hotplug.resources cimport Resource
from fastonline.hotplug.types cimport zone_type
from fastonline.hotplug.zone_ranges cimport page_zone

import errno

from fastonline.core.pageflags import decode_page_flags
from fastonline.errors import HotplugError
from fastonline.hotplug.page_views import Flags

__all__ = ["Pages"]


cdef class Pages(Machine):
    """Questions about single pages, and the allocator's calls. A pfn (unsigned long) stands for a page. Memory is the class to
    use; hotplug.pcp uses no more than this."""

    def add_memory_resource(self, nid, res):
        """Add the memory of an existing resource, such as one that a balloon driver has allocated. The resource becomes RAM; no
        "System RAM" is added inside it.

        nid: the node. res: a Resource of whole pages, from ``mem.resources.allocate``. HotplugError: EINVAL if it is not in the
        tree, EEXIST if it is RAM or has children, else as add_memory. Mirrors add_memory_resource (4.5; the patch that the 2008
        thread builds on).
        """
        cdef uint64_t node = as_uint64(nid, "nid"), start, end
        cdef int shift = self.geometry.page_shift
        if not isinstance(res, Resource):
            raise TypeError(f"res must be a Resource, not {res!r:.80}")
        _held = self.mem_hotplug_begin("add_memory_resource")
        if not any([known is res for _, known in self.resources.walk()]) or (res.start | res.end) & ((1 << shift) - 1):
            raise HotplugError.of(errno.EINVAL, f"add_memory_resource of {res!r}: not whole pages of /proc/iomem")
        if res.is_ram or res.children:
            raise HotplugError.of(errno.EEXIST, f"add_memory_resource of {res!r}: it is RAM, or others are inside")
        start, end = res.start >> shift, res.end >> shift
        add_memory(self, start, end - start, node, res, False, 1, None)

    @property
    def page_owners(self):
        """The MovablePages that offline_pages may move: a list of its own."""
        return list(self.owners.values())

    def pfn_valid(self, pfn):
        """Return whether the page has a descriptor, that is, its section is present (pfn_valid, include/linux/mmzone.h)."""
        return self._section(pfn) is not None

    def pfn_to_online_page(self, pfn):
        """Return the pfn if its section is online, else None (pfn_to_online_page, mm/memory_hotplug.c, 4.13)."""
        section = self._section(pfn)
        return pfn if section is not None and test_bit(self.sections.online.words, section) else None

    def page_to_nid(self, pfn):
        """Return the node of a page (page_to_nid). ValueError if there is no page."""
        section = self._section(pfn)
        if section is None:
            raise ValueError(f"no page is at pfn {pfn:#x}")
        return self.nid_of[<uint64_t>section]

    def PageHighMem(self, pfn):
        """Return whether the page is in a zone that the kernel does not map. For an added page without a zone, the geometry's
        hotplug_zone counts (PageHighMem, is_highmem). ValueError if there is no page."""
        cdef int z
        if self._section(pfn) is None:
            raise ValueError(f"no page is at pfn {pfn:#x}")
        z = page_zone(self, pfn)
        return bool(self.zones.table.is_highmem[self.hotplug_type if z < 0 else zone_type(&self.zones.table, z)])

    cdef object _section(self, object pfn):
        """The number of the page's section, None when it is not present."""
        cdef uint64_t section = as_uint64(pfn, "pfn") >> self.sections.pfn_section_shift
        settle(self.lock)
        return section if present_section_nr(self.sections, section) else None

    # -- their state

    @property
    def flags(self):
        """The page flags by name: Flags."""
        settle(self.lock)
        return Flags(self.pages.view)

    def page_flags(self, pfn):
        """Return the flags of one page as text: ``'PG_reserved|PG_prepared'``, or ``'0'`` for none."""
        cdef uint64_t nr = as_uint64(pfn, "pfn")
        check_range(self, nr, 1, "page_flags")
        settle(self.lock)
        return decode_page_flags(self.pages.state(nr) if nr < self.pages.nr_pages else 0)

    def page_states(self, start_pfn, nr_pages):
        """Return an (nr_pages,) uint8 array of flag masks, bit i = FLAG_NAMES[i]; 0 where there is no page."""
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        _held = self.lock.hold()
        return page_views.page_states(self, start, nr)

    def zone_of(self, pfn):
        """Return the Zone of a page, or None when it is in no zone."""
        settle(self.lock)
        return self.zones.of_page(pfn)

    # -- the allocator

    def alloc_pages(self, order=0, zone=None, gfp=None, nid=0):
        """Allocate 2^order pages from the smallest free block that fits, and return the first pfn.

        zone: a name, a (nid, name) or a Zone; None tries every zone from the highest down, node by node. Watermarks are not
        applied. gfp: "GFP_KERNEL", "GFP_USER", "GFP_ATOMIC", "GFP_DMA", "GFP_DMA32", "GFP_HIGHUSER" or "GFP_HIGHUSER_MOVABLE"
        tries the zones of node nid's zonelist that it allows, down to the low watermark, then to min, plus lowmem_reserve
        (get_page_from_freelist). Nothing is reclaimed. zone must be None then.

        The bitmap engine takes the lowest address, struct_page the head of the kernel's list. MemoryError if no block fits.
        Mirrors __rmqueue_smallest.
        """
        cdef int block = 0 if order is 0 else as_order(order, self.pages.max_order)
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
        """Allocate `nr` blocks of 2^order pages, as `nr` calls of alloc_pages(order, zone) would. Returns an (nr,) int64 array
        of their first pfns. All or nothing: MemoryError when fewer fit (__alloc_pages_bulk, 5.13, has order 0 only)."""
        cdef uint64_t want = as_uint64(nr, "nr")
        cdef int block = 0 if order is 0 else as_order(order, self.pages.max_order)
        _held = self.lock.hold()
        return page_alloc.alloc_pages_bulk(self, want, block, zone)

    def alloc_contig_range(self, start_pfn, nr_pages):
        """Allocate exactly this range of free pages, as single pages. HotplugError EBUSY naming the first page that is not
        free (alloc_contig_range, 6.1, which would migrate it)."""
        cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
        _held = self.lock.hold()
        check_present(self, start, nr, "alloc_contig_range")
        page_alloc.alloc_contig_range(self, start, nr)

    def free_pages(self, pfn, order=0):
        """Free an allocation of 2^order pages, given its first pfn. ValueError naming the page when no allocation of that
        order begins there (__free_pages)."""
        cdef uint64_t start = as_uint64(pfn, "pfn")
        cdef int block = 0 if order is 0 else as_order(order, self.pages.max_order)
        settle(self.lock)
        page_alloc.free_pages(self, start, block)

    def free_pfns(self, pfns):
        """Free single pages. pfns: one-dimensional integer array. All or nothing: ValueError naming a page that is not an
        allocation of order 0, past the end of memory or repeated."""
        cdef pfn_batch batch
        array = as_batch(pfns, &batch)
        _held = self.lock.hold()
        page_alloc.free_pfns(self, array, &batch)

    def check_pfns(self, pfns):
        """Raise the error that free_pfns would raise for these pages, and free none."""
        cdef pfn_batch batch
        array = as_batch(pfns, &batch)
        _held = self.lock.hold()
        if batch.nr:
            page_alloc.gather_freeable(self, array, &batch)
            self.pages.ungather(&batch)

    @property
    def page_lists(self):
        """Where movable pages and memmaps come from and go to: `pcp`, or without it a PageLists, which has the same methods and
        keeps no pages."""
        return page_alloc.lists_of(self)
