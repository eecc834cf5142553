"""A guest around its Memory: the kernel's own pages, programs and drivers, on which the steps of a recording act."""

import numpy as np

from fastonline.core.pageflags import KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL, PAGE_IN_USE, PG_buddy
from fastonline.drivers.virtio_balloon import VirtioBalloon
from fastonline.drivers.virtio_mem import VirtioMem, VirtioMemBus
from fastonline.hotplug.memmap import replace_memmap
from fastonline.hotplug.migrate import MovablePages
from fastonline.hotplug.notifier import MEM_ONLINE, NOTIFY_OK
from fastonline.hotplug.pcp import PerCpuPages
from fastonline.hotplug.pcp_zone import RECLAIMABLE, UNMOVABLE
from fastonline.hotplug.zonelists import kernel_zonelist, movable_zonelist

BLOCK_PAGES, INODE_PAGES = 1, 2
"""Pages of slabs that a memory block takes: when it is added, for struct memory_block (1 KiB) and some twenty kernfs nodes of
128 bytes; and when its files are first read, for their inodes (600 bytes) and dentries (192). Together 3 to 4 in every
recording of either kernel that adds blocks; it matters where tens of them are added."""
BOOT_INODES = 2
"""Memory blocks whose inodes fit into the slabs that boot left partly empty."""
EMPTY_SLABS = {"6.1": 40, "6.12": 88}
"""Pages of slabs that boot leaves empty, and the first offlining shrinks: 35 to 45 in the recordings of 6.1, 74 to 104 in those
of 6.12. Other kernels are taken for 6.12."""
ONLINE_SLABS, OFFLINE_SLABS = (2, 1), (1, 2)
"""New slabs, (single pages, slabs of SLAB pages): for the first block that goes online, and after a block went offline. They
are estimates from all recordings with such steps: how many pages disappear from the free pages and the per-CPU lists
together."""
THREAD_PAGES = 4
"""The stack of a kernel thread (THREAD_SIZE, 16 KiB, page by page with CONFIG_VMAP_STACK)."""
SLAB = 8
"""Pages of the largest slabs (slub_max_order 3); others are single pages."""
PTRS_PER_PTE = 512
"""Pages that one page table maps."""

KPF_DIRTY, KPF_UNEVICTABLE, KPF_THP, KPF_MLOCKED = 1 << 4, 1 << 18, 1 << 22, 1 << 33
"""Bits of /proc/kpageflags that only a program's pages have."""


def gathered(pages):
    """Yield the batches in which munmap frees pages (struct mmu_gather, 6.1): 8 pages, which fit into it, then 510 at a time.
    After about 10000 pages it begins again with 8."""
    sizes = [8] + [510] * (10000 // 510)
    at = 0
    while at < len(pages):
        for size in sizes:
            if at < len(pages):
                yield pages[at : at + size]
            at += size


class Region:
    """Anonymous memory of a program, and the page tables that map it. The program touches all pages, first to last. A page
    table is allocated when its first page is touched. All or nothing: MemoryError."""

    def __init__(self, guest, nr_pages):
        self._mem = guest.mem
        self._tables = []
        self._huge = []      # first pfns of its huge pages
        self.pages = MovablePages(guest.mem, self._moved)
        self.dirty = np.empty(0, np.int64)      # pfns of pages that migration has unmapped, with the dirty bit of their entries
        self.locked = False
        """Whether it is locked (mlock)."""
        try:
            for at in range(0, nr_pages, PTRS_PER_PTE):
                self._fault_in(guest, min(PTRS_PER_PTE, nr_pages - at))
        except MemoryError:
            self.free()
            raise
        self.landed = {"pages": nr_pages, "per_block": self.per_block()}
        """The first places of its pages: how many in each memory block, and the lowest and highest pfn."""
        if nr_pages:
            self.landed |= {"lowest_pfn": int(self.pages.pfns.min()), "highest_pfn": int(self.pages.pfns.max())}

    def _fault_in(self, guest, nr_pages):
        """Allocate the pages that one page table maps: a huge page where huge pages are on and one is free, else single
        pages."""
        mem, huge = self._mem, None
        if guest.huge_pages and nr_pages == 1 << mem.geometry.pageblock_order:
            huge = mem.pcp.alloc_huge(movable_zonelist(mem, 0))
        self._tables.append(mem.pcp.alloc_kernel(0))
        if huge is None:
            self.pages.alloc(nr_pages)
        else:
            self._huge.append(huge)
            self.pages.adopt(np.arange(huge, huge + nr_pages))

    def _moved(self, old, new):
        self.dirty = np.union1d(np.setdiff1d(self.dirty, old), new)
        self._huge = [pfn for pfn in self._huge if pfn not in old]

    def tried_to_move(self, start_pfn, nr_pages):
        """Record that offline_pages tried to move the region's pages in this range. Pinned pages are dirty then, though they
        stay."""
        held = self.pages.pfns[: self.pages.pinned]
        self.dirty = np.union1d(self.dirty, held[(held >= start_pfn) & (held < start_pfn + nr_pages)])

    def flags(self):
        """(pfns, flags) of its pages: int64 and uint64, flags as /proc/kpageflags shows them."""
        flags = np.zeros(len(self.pages), np.uint64)
        if self.locked:
            flags |= np.uint64(KPF_UNEVICTABLE | KPF_MLOCKED)
        pfns = self.pages.pfns
        flags[np.isin(pfns, self.dirty)] |= np.uint64(KPF_DIRTY)
        if self._huge:
            first = pfns & -(1 << self._mem.geometry.pageblock_order)
            huge = np.isin(first, self._huge)
            flags[huge] |= np.uint64(KPF_THP | KPF_COMPOUND_TAIL)
            flags[huge & (pfns == first)] ^= np.uint64(KPF_COMPOUND_HEAD | KPF_COMPOUND_TAIL)
        return pfns, flags

    def per_block(self):
        """{memory block: how many of its pages lie there now}, the blocks as text."""
        blocks, counts = np.unique(self.pages.pfns // self._mem.pages_per_block, return_counts=True)
        return dict(zip(map(str, blocks.tolist()), counts.tolist(), strict=True))

    def keep_pinned(self):
        """Give up the pinned pages. Returns the MovablePages that have them now."""
        held, rest = np.split(self.pages.pfns, [self.pages.pinned])
        self.pages.give(len(self.pages))
        pinned = MovablePages(self._mem)
        pinned.adopt(held)
        pinned.pinned = len(held)
        pinned.mapped = False
        self.pages.adopt(rest)
        self.pages.pinned = 0
        return pinned

    def free(self):
        """Free the region as munmap does: pages by address, then page tables. Until 6.8 each batch is freed back to front
        (release_pages)."""
        pages = self.pages.give(len(self.pages))[::-1]
        at = 0
        for first in [*np.flatnonzero(np.isin(pages, self._huge)).tolist(), len(pages)]:
            part = pages[at:first]
            if len(part) and self._mem.rules.munmap_reverses:
                part = np.concatenate([batch[::-1] for batch in gathered(part)])
            self._mem.page_lists.free(part)
            at = first
            if first < len(pages):
                self._mem.pcp.free_huge(int(pages[first]))
                at += 1 << self._mem.geometry.pageblock_order
        for pfn in self._tables:
            self._mem.pcp.free_kernel(pfn)


class Guest:
    """A running machine. mem: its Memory, which gets per-CPU lists."""

    def __init__(self, mem):
        self.mem = mem
        mem.pcp = PerCpuPages(mem)
        self.balloon = VirtioBalloon(mem)
        self.inflated = self.deflated = 0
        self.virtio_mem = VirtioMemBus(mem)
        self.regions = {}
        self.begin_step()
        self.pinned = {}         # regions that were freed -> MovablePages in a list, what a pipe holds of them
        self._evicted, self._lost_memmaps = 0, []      # kernel pages, (section, index, pages), that had to leave a block
        self.slots = {}          # number -> (start, size, nid) of the DIMM in it
        self.refused_dimms = []  # (start, size, nid), bytes, of DIMMs that the kernel did not take
        self._retries = []       # devices that go on when the kernel finds time
        self.cache = MovablePages(mem)
        self.unknown = False
        """Something that was not recorded took kernel pages. How many pages are free in kernel zones is unknown from then
        on."""
        self.split_loosely = False
        """Several kernel zones served one request under 6.7 or later. How many pages each gave is known only roughly."""
        self.huge_pages = mem.zones.transparent_hugepage == "always"
        self.ran_out = False
        """Pages had nowhere to move to. How many moved depends on the free pages of kernel zones."""
        self._boot_zone = zone = self._preferred()
        self._devices = {}       # memory block -> pages of the slabs that its device takes
        self._unread = []        # of them, those whose files have not been read
        self._last_zone = zone    # the zone that was preferred after the step before
        self._read_zone = zone       # the zone that single pages have been taken from
        self._blocks_read = 0        # memory blocks whose files have been read since boot
        self._inode_zones = {zone}   # zones that slabs of inodes have been taken from
        self._happened = set()       # actions of the blocks' uevents in this step: "online", "offline"...
        self._synthetic = False      # a uevent is being sent that nothing has caused
        self._has_online_slabs = False
        self._stacks = {nid: [] for nid, node in mem.nodes.items() if node.threads}      # the stacks of boot are unknown
        mem.events.listen(self._heard)

    def begin_step(self):
        """Forget what is known of the step before."""
        self.allocated = []
        """Regions of this step, in the order of their allocation."""
        self.remarks = []
        """(what, predicted, recorded) of outcomes that cannot be predicted from a recording. The guest took the recorded
        ones."""
        self.failing = 0
        """Pages that failed to move in each round of an offline_pages that a signal ended."""

    def take_boost(self, zones):
        """Take the watermark boosts of a recorded state, {"node/zone": {"boost"}}. kswapd has not run yet there."""
        for zone in self.mem.zones.values():
            self.mem.zones._set_boost(zone.nr, zones.get(f"{zone.nid}/{zone.name}", {}).get("boost", 0))

    def interrupted(self, start_pfn, nr_pages):
        """Record that a signal ended an offline_pages of this range: which pages the kernel tried to move again and again."""
        pinned = [region.pages for region in self.regions.values()] + [pages for held in self.pinned.values() for pages in held]
        self.failing = sum(
            int(np.count_nonzero((held >= start_pfn) & (held < start_pfn + nr_pages)))
            for held in (pages.pfns[: pages.pinned] for pages in pinned)
        )
        if not self.failing:
            self.failing = 1      # the page for which there is no room
        for region in self.regions.values():
            region.tried_to_move(start_pfn, nr_pages)

    def _heard(self, kind, text):
        self.ran_out = self.ran_out or kind == "kmsg" and text.startswith("page allocation failure")
        action, _, device = text.partition("@")
        if kind != "uevent" or not device.startswith("memory") or self._synthetic:
            return
        self._happened.add(action)
        if action == "add" and device not in self._devices:
            self._unread.append(device)
            self._devices[device] = self._take(BLOCK_PAGES)
        elif action == "remove":
            for pfn in self._devices.pop(device, ()):
                self.mem.pcp.free_kernel(pfn)

    def synthetic_uevent(self, text):
        """Send the event that a write to a uevent file causes. Nothing happened to the device (kobject_synth_uevent)."""
        self._synthetic = True
        try:
            self.mem.events.uevent(text)
        finally:
            self._synthetic = False

    def booted(self, nid, name, pcp_count, pcp_high):
        """Set up a zone after boot. Its last pcp_count pages in use are on per-CPU lists, and pcp->high is pcp_high. In the
        zone that the kernel prefers, the slabs before them are empty ones that boot left. ValueError if fewer pages are in
        use."""
        zone = self.mem.zones[nid, name]
        states = self.mem.page_states(zone.start_pfn, zone.spanned_pages)
        used = np.flatnonzero(states == PAGE_IN_USE) + zone.start_pfn
        at = len(used) - pcp_count
        if not 0 <= pcp_count <= len(used):
            raise ValueError(f"{pcp_count} pages on per-CPU lists of zone {name}, where {len(used)} are in use")
        self.mem.pcp.put(zone, used[at:].tolist(), pcp_high)
        if zone.nr == self._boot_zone:
            slabs = used[:at][used[:at] % SLAB == 0]
            empty = EMPTY_SLABS.get(self.mem.rules.name, EMPTY_SLABS["6.12"]) // SLAB
            slabs = slabs[np.isin(slabs + SLAB - 1, used[:at])][-empty:].tolist()
            singles = [(pfn + i, 0) for pfn in slabs[:1] for i in range(SLAB)]
            self.mem.pcp.empty_slabs = singles + [(pfn, 3) for pfn in slabs[1:]]

    def add_virtio_mem(self, device, start, max_size, block_size, nid=0):
        """Add a virtio-mem device to the guest."""
        if not self.virtio_mem.devices:
            self.mem.notifiers.register(self._onlined, actions=MEM_ONLINE)
        self.virtio_mem.add(VirtioMem(self.mem, start, max_size, block_size, nid, device))

    def _onlined(self, action, notice):
        self._retries += [d for d in self.virtio_mem.devices.values() if d.goes_on(action, notice.start_pfn, notice.nr_pages)]
        return NOTIFY_OK

    def request(self, name, requested_size, plugged_size=None):
        """Request another size of a virtio-mem device, as its host does. plugged_size: the size that it reached in a recording,
        bytes. Where the kernel's own pages decided that, the guest follows the recording. ValueError for an impossible size."""
        device = self.virtio_mem.devices[name]
        reached = device.request(requested_size)
        if plugged_size is not None and reached != plugged_size and self._kernel_blocks(device):
            self.remarks.append((f"plugged_size of {name}", reached, plugged_size))
            for start_pfn in self._kernel_blocks(device):
                for pfn in range(start_pfn, start_pfn + device.block_pages, device.sub_block_pages)[::-1]:
                    if device.plugged_size > plugged_size and self.evict(pfn, device.sub_block_pages):
                        device.go_on()
            if device.plugged_size < plugged_size:
                device.requested_size = plugged_size
                device.go_on()
                device.requested_size = requested_size
        self._retries.clear()       # a device does not resume for memory that it onlined itself

    def _kernel_blocks(self, device):
        """First pfns of a virtio-mem device's blocks that are in a kernel zone, highest first."""
        starts = [block * device.block_pages for block in sorted(device.plugged, reverse=True)]
        return [start for start in starts if (zone := self.mem.zone_of(start)) is not None and zone.name != "Movable"]

    # -- the kernel's own pages; a recording does not have their places

    def kernel_pages(self, start_pfn, nr_pages):
        """Return the pages of a range that the kernel uses itself, without those on per-CPU lists: an int64 array."""
        lists, free = self.mem.pcp.away(start_pfn, nr_pages)
        used = np.flatnonzero(self.mem.page_states(start_pfn, nr_pages) == PAGE_IN_USE) + start_pfn
        owned = np.concatenate([np.empty(0, np.int64), *(owner.pfns for owner in self.mem.page_owners)])
        return np.setdiff1d(used, np.concatenate([lists, free, owned]))

    def evict(self, start_pfn, nr_pages):
        """Free the kernel's own pages of a range, since a recording shows that they lie elsewhere. Returns how many there were.
        As many are allocated at the end of the step."""
        pages = self.kernel_pages(start_pfn, nr_pages)
        if len(pages):
            self._evicted += len(pages)
            self.mem.pcp.evict(start_pfn, nr_pages, pages)
            tables = [region._tables for region in self.regions.values()]
            for pfns in [*self._devices.values(), *self._stacks.values(), *tables]:
                pfns[:] = np.setdiff1d(pfns, pages).tolist()
            for section, pieces in self.mem.memmaps.items():
                self._lost_memmaps += [(section, at, nr) for at, (pfn, nr) in enumerate(pieces) if pfn in pages]
                self._evicted -= sum(nr for pfn, nr in pieces if pfn in pages)
        return len(pages)

    def hold(self, start_pfn, nr_pages):
        """Record that the kernel has a page of its own in a range."""
        free = np.flatnonzero(self.mem.page_states(start_pfn, nr_pages) & PG_buddy)
        if len(free):
            self.mem.alloc_contig_range(start_pfn + int(free[0]), 1)

    def _replace_evicted(self):
        for section, at, nr in self._lost_memmaps:
            found = self._take(1, nr.bit_length() - 1)
            if found:
                replace_memmap(self.mem, section, at, found[0])
        self._take(max(0, self._evicted))
        self._lost_memmaps, self._evicted = [], 0

    def retry(self):
        """Resume devices that waited for memory to go online."""
        for device in dict.fromkeys(self._retries):
            device.go_on()
        self._retries.clear()

    def alloc(self, region, nr_pages):
        """Allocate and touch memory, as a program. MemoryError when memory runs out; ValueError when the region exists."""
        if region in self.regions:
            raise ValueError(f"region {region} exists already")
        if nr_pages > self.mem.totalram_pages:
            raise MemoryError(f"{nr_pages} pages are more than the guest has")
        self.regions[region] = Region(self, nr_pages)
        self.allocated.append(self.regions[region])
        self._note_zones(self.regions[region].pages.pfns)

    def _note_zones(self, pfns):
        """Record the pages that a request got."""
        shift = self.mem.geometry.max_page_order
        there = [self.mem.zone_of(block << shift) for block in np.unique(np.asarray(pfns) >> shift).tolist()]
        zones = {(zone.nid, zone.name) for zone in there}
        kernel = [zone for zone in zones if zone[1] != "Movable"]
        self.split_loosely = self.split_loosely or self.mem.rules.pcp_auto_tunes and len(kernel) > 1

    def free(self, region):
        """Free a region, as a program. Pages that a pipe holds stay until they are unpinned."""
        gone = self.regions.pop(region)
        if gone.pages.pinned:
            self.pinned.setdefault(region, []).append(gone.keep_pinned())
        gone.free()

    def programs(self):
        """Return the regions whose pages a program maps, a list."""
        return list(self.regions.values())

    def mlock(self, region):
        """Lock a region's pages in memory, as a program."""
        self.regions[region].locked = True

    def unpin(self, region):
        """Release the pages of a region that a pipe holds, also those left of a region that was freed."""
        if region in self.regions:
            self.regions[region].pages.pinned = 0
        for pages in self.pinned.pop(region, ()):
            pages.free()

    def move_and_keep(self, pfn):
        """Move a movable page, and never use its old place again (soft_offline_in_use_page). Returns False when a pipe holds
        the page or there is no room."""
        owner = next(owner for owner in self.mem.page_owners if len(owner.within(pfn, 1)))
        index = owner.within(pfn, 1)
        zone = self.mem.zone_of(pfn)
        if index[0] < owner.pinned:
            return False
        highest = "Movable" if zone.name == "Movable" else "Normal"
        new = self.mem.pcp.alloc(1, movable_zonelist(self.mem, zone.nid, None, highest))
        if len(new):
            owner.moved(index, new)
        return len(new) == 1

    def inflate(self, nr_pages):
        """Inflate the balloon. Returns how many pages it got."""
        before = self.balloon.pages.pfns
        got = self.balloon.inflate(nr_pages)
        self._note_zones(np.setdiff1d(self.balloon.pages.pfns, before))
        self.inflated += got
        return got

    def deflate(self, nr_pages):
        """Deflate the balloon. Returns how many pages it gave back."""
        given = self.balloon.deflate(nr_pages)
        self.deflated += given
        return given

    def page_cache(self, nr_pages):
        """Read a file, as a program: its pages, movable ones, stay in the page cache."""
        self.cache.alloc(nr_pages)

    def kernel_memory(self, nr_pages):
        """Allocate single unmovable pages that the kernel keeps (GFP_KERNEL). All or nothing: MemoryError."""
        pfns = self._take(nr_pages)
        if len(pfns) < nr_pages:
            for pfn in pfns:
                self.mem.pcp.free_kernel(pfn)
            raise MemoryError(f"cannot allocate {nr_pages} pages of kernel memory: {len(pfns)} are available")

    def drop_caches(self):
        """Free the page cache."""
        self.cache.free()

    def _take(self, nr, order=0, kind=UNMOVABLE):
        """Allocate blocks for the kernel. Returns their pfns; fewer than `nr` where the kernel would have to reclaim pages."""
        pfns = []
        try:
            for _ in range(nr):
                pfns.append(self.mem.pcp.alloc_kernel(order, kind=kind))
        except MemoryError:
            pass
        return pfns

    def _preferred(self):
        zones = kernel_zonelist(self.mem, 0)
        return zones[0] if zones else None

    def look(self):
        """Read the files of the blocks that were added last. Their inodes and dentries need slabs. The room that boot left in
        the inodes' slabs is enough for two blocks. The third block's slab comes from a pageblock that becomes Reclaimable, in a
        zone without one since boot."""
        self._blocks_read += len(self._unread)
        zone = self._preferred()
        if self._unread and self._blocks_read > BOOT_INODES and zone not in self._inode_zones:
            self._take(1, 1, RECLAIMABLE)
            self._inode_zones.add(zone)
        for device in self._unread:
            if device in self._devices:
                self._devices[device] += self._take(INODE_PAGES)
        self._unread.clear()

    def _slabs(self, singles, large):
        """Allocate slabs for caches, single pages and large slabs. The caches keep them until they shrink."""
        self.mem.pcp.empty_slabs += [(pfn, 3) for pfn in self._take(large, 3)] + [(pfn, 0) for pfn in self._take(singles)]

    def _start_threads(self):
        """Allocate stacks for kernel threads of nodes that got their first memory, and free those of nodes without memory."""
        running = {nid: len(node.threads) for nid, node in self.mem.nodes.items() if node.threads}
        for nid, nr in running.items():
            if nid not in self._stacks:
                self._stacks[nid] = self._take(THREAD_PAGES * nr)
        for nid in self._stacks.keys() - running.keys():
            for pfn in self._stacks.pop(nid):
                self.mem.pcp.free_kernel(pfn)

    def finish_step(self, observed=True):
        """Do what the kernel does after a step. Caches allocate new slabs for the first block that goes online, and after a
        block went offline, which shrank them (slab_mem_going_offline_callback). observed: whether somebody read files after the
        step; if not, no slab is needed."""
        self._replace_evicted()
        if not observed:
            self.mem.pcp.background_work()
            return
        self.look()
        if "offline" in self._happened:
            self._slabs(*OFFLINE_SLABS)
            self._has_online_slabs = False
        if "online" in self._happened and not self._has_online_slabs:
            self._slabs(*ONLINE_SLABS)
            self._has_online_slabs = True
        self._happened.clear()
        self._start_threads()
        zone = self._preferred()
        if zone == self._last_zone != self._read_zone:
            self._take(1)
            self._read_zone = zone
        self._last_zone = zone
        self.mem.pcp.background_work()
