"""The rest of a guest around its Memory: the kernel's own pages, programs, drivers. What a recording's steps act on."""

from fastonline.drivers.virtio_balloon import VirtioBalloon
from fastonline.drivers.virtio_mem import VirtioMem, VirtioMemBus
from fastonline.hotplug.migrate import MovablePages
from fastonline.hotplug.pcp import PerCpuPages


class Region:
    """Anonymous memory of a program, all of it touched, and the page tables that map it."""

    def __init__(self, guest, nr_pages):
        self._mem = guest.mem
        self._tables = [guest.mem.pcp.alloc_kernel(0) for _ in range(-(-nr_pages // 512))]
        self.pages = MovablePages(guest.mem)
        self.pages.alloc(nr_pages)

    def free(self):
        """munmap: the pages in the order of their addresses, then the page tables."""
        self.pages.free()
        for pfn in self._tables:
            self._mem.pcp.free_kernel(pfn)


class Guest:
    """A running machine. mem: its Memory, which gets per-CPU lists."""

    def __init__(self, mem):
        self.mem = mem
        mem.pcp = PerCpuPages(mem)
        self.balloon = VirtioBalloon(mem)
        self.virtio_mem = VirtioMemBus(mem)
        self.regions = {}
        self.refused = []
        """(start, size, nid) of the DIMMs that the kernel refused, in bytes."""
        self._kernel_zone = self._preferred()

    def add_virtio_mem(self, device, start, max_size, block_size, nid=0):
        """Probe a virtio-mem device."""
        self.virtio_mem.add(VirtioMem(self.mem, start, max_size, block_size, nid, device))

    def alloc(self, region, nr_pages):
        """A program allocates and touches memory. MemoryError where there is none; KeyError for a region that is there."""
        if region in self.regions:
            raise KeyError(f"region {region} is there already")
        self.regions[region] = Region(self, nr_pages)

    def free(self, region):
        """A program frees a region."""
        self.regions.pop(region).free()

    def _preferred(self):
        zones = self.mem.kernel_zonelist(0)
        return zones[0] if zones else None

    def settle(self):
        """The kernel works on: when another zone has become the one it prefers, its next slab page and per-CPU refill come from
        there (RECORDED.md 3), and a block onlined into it stays."""
        zone = self._preferred()
        if zone is not None and zone != self._kernel_zone:
            self.mem.pcp.alloc_kernel(3)
            self.mem.pcp.alloc_kernel(0)
        self._kernel_zone = zone
