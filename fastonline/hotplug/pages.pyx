from fastonline.core.bitmap cimport test_bit
from fastonline.core.lock cimport settle
from fastonline.core.numbers cimport as_uint64
from fastonline.core.sections cimport present_section_nr
from fastonline.core.types cimport uint64_t
from fastonline.hotplug.add_remove cimport add_memory
from fastonline.hotplug.resources cimport Resource
from fastonline.hotplug.types cimport zone_type
from fastonline.hotplug.zone_ranges cimport page_zone

import errno

from fastonline.errors import HotplugError

__all__ = ["Pages"]


cdef class Pages(Machine):
    """Kernel functions on single pages, for drivers. A pfn (unsigned long) stands for a page. Memory is the class to use."""

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
