"""virtio-mem: memory that the host plugs in sub-blocks (drivers/virtio/virtio_mem.c of 6.1 and 6.12, KERNEL.md 5.6).

Sub-block mode only: a memory block holds several sub-blocks, some of which may be unplugged while it is online.
"""

from __future__ import annotations

import errno

import numpy as np
from numpy.typing import NDArray

from fastonline.errors import HotplugError
from fastonline.hotplug.memory import Memory
from fastonline.hotplug.migrate import free_movable, isolate, migrate_range

RAM = "System RAM (virtio_mem)"


class VirtioMem:
    """One device: ``request(size)`` does what the driver does when the host asks for another size.

    start, max_size: bytes, the device's region. block_size: of the device. nid: the node of its memory. name: of the device,
    as the log and /proc/iomem show it. Devices of one machine share the online_page_callback, see VirtioMemBus.
    """

    def __init__(self, mem: Memory, start: int, max_size: int, block_size: int, nid: int = 0, name: str = "virtio0") -> None:
        page, per_block = mem.geometry.page_size, mem.pages_per_block
        self._mem = mem
        self.name = name
        self.nid = nid
        self.sub_block_pages = max(block_size // page, 1 << mem.geometry.pageblock_order)
        if self.sub_block_pages >= per_block:
            raise ValueError(
                f"{name}: sub-blocks of {self.sub_block_pages} pages need big-block mode, which is not modelled; a memory block "
                f"has {per_block}"
            )
        self.start_pfn = start // page
        self.first_block = -(-self.start_pfn // per_block)
        self.nr_blocks = (start + max_size) // page // per_block - self.first_block
        self._sub_blocks = per_block // self.sub_block_pages
        self.plugged: dict[int, NDArray[np.bool_]] = {}
        """Block number -> (sub-blocks,) bool: which of a block that was added are plugged."""

    @property
    def plugged_size(self) -> int:
        """Bytes."""
        return int(sum(map(np.count_nonzero, self.plugged.values()))) * self.sub_block_pages * self._mem.geometry.page_size

    def holds(self, pfn: int) -> bool:
        """Does the page belong to a block of this device?"""
        return pfn // self._mem.pages_per_block in self.plugged

    def _pages(self, block, first, nr=1):
        return block * self._mem.pages_per_block + first * self.sub_block_pages, nr * self.sub_block_pages

    def _state(self, block):
        """OFFLINE, KERNEL or MOVABLE, and whether it is partly plugged (VIRTIO_MEM_SBM_MB_*)."""
        state = "OFFLINE"
        if self._mem.blocks[block].state == "online":
            state = "MOVABLE" if self._mem.zone_of(block * self._mem.pages_per_block).name == "Movable" else "KERNEL"
        return state, not self.plugged[block].all()

    def _blocks_in(self, state, partial, down=False):
        return [b for b in sorted(self.plugged, reverse=down) if b in self.plugged and self._state(b) == (state, partial)]

    def online_page(self, pfn: int, order: int) -> None:
        """virtio_mem_online_page: the plugged sub-blocks of a chunk go online, the others stay away."""
        block, at = divmod(pfn, self._mem.pages_per_block)
        size = 1 << order
        first, last = at // self.sub_block_pages, (at + size - 1) // self.sub_block_pages
        plugged = self.plugged[block][first : last + 1]
        if plugged.all():
            self._mem.generic_online_page(pfn, order)
        elif plugged.any():
            for i in np.flatnonzero(plugged):
                self._online(pfn + int(i) * self.sub_block_pages, self.sub_block_pages)

    def _online(self, pfn, nr_pages):
        """virtio_mem_fake_online: what never was online in the largest aligned blocks, what was unplugged page by page."""
        end = pfn + nr_pages
        if "PG_offline" in self._mem.page_flags(pfn):
            self._mem.clear_page_offline(pfn, nr_pages)
            free_movable(self._mem, np.arange(pfn, end))
            return
        while pfn < end:
            order = min((pfn & -pfn).bit_length() - 1, (end - pfn).bit_length() - 1, self._mem.geometry.max_page_order)
            self._mem.generic_online_page(pfn, order)
            pfn += 1 << order

    def request(self, requested_size: int) -> int:
        """Plug or unplug until the size is the requested one, as far as that goes; the size reached, in bytes.
        ValueError for a size that is no multiple of the sub-blocks or larger than the region."""
        unit = self.sub_block_pages * self._mem.geometry.page_size
        if requested_size % unit or not 0 <= requested_size <= self.nr_blocks * self._sub_blocks * unit:
            raise ValueError(f"{self.name}: {requested_size:#x} bytes are no multiple of {unit:#x}, or more than the device has")
        self._mem.events.log(f"virtio_mem {self.name}: plugged size: {self.plugged_size:#x}")
        self._mem.events.log(f"virtio_mem {self.name}: requested size: {requested_size:#x}")
        missing = (requested_size - self.plugged_size) // unit
        if missing > 0:
            self._plug(missing)
        else:
            self._unplug(-missing)
        return self.plugged_size

    def _plug(self, nr):
        for state in ("KERNEL", "MOVABLE", "OFFLINE"):
            for block in self._blocks_in(state, True):
                for i in np.flatnonzero(~self.plugged[block])[:nr].tolist():
                    self.plugged[block][i] = True
                    nr -= 1
                    if state != "OFFLINE":
                        self._online(*self._pages(block, i))
        for block in range(self.first_block, self.first_block + self.nr_blocks):
            if not nr:
                return
            if block in self.plugged:
                continue
            count = min(nr, self._sub_blocks)
            self.plugged[block] = np.arange(self._sub_blocks) < count
            try:
                per_block = self._mem.pages_per_block
                self._mem.add_memory(block * per_block, per_block, self.nid, RAM, merge=True, group=(self.name, per_block))
            except HotplugError:
                del self.plugged[block]
                return
            nr -= count

    def _unplug(self, nr):
        """virtio_mem_sbm_unplug_request: offline blocks first, Movable before kernel ones, the highest first."""
        for state, partial in (("OFFLINE", True), ("OFFLINE", False), ("MOVABLE", True), ("KERNEL", True), ("MOVABLE", False),
                               ("KERNEL", False)):
            for block in self._blocks_in(state, partial, down=True):
                if not nr:
                    return
                nr -= self._unplug_from(block, state != "OFFLINE", nr)

    def _unplug_from(self, block, online, nr):
        """Unplug up to `nr` sub-blocks of one block, and remove it when none is left; how many."""
        plugged = self.plugged[block]
        done = 0
        if not online:
            last = np.flatnonzero(plugged)[::-1][:nr]
            plugged[last] = False
            done = len(last)
        elif nr >= self._sub_blocks and plugged.all() and self._fake_offline(block, 0, self._sub_blocks):
            plugged[:] = False
            done = self._sub_blocks
        else:
            for i in np.flatnonzero(plugged)[::-1].tolist():
                if done == nr:
                    break
                if self._fake_offline(block, i, 1):
                    plugged[i] = False
                    done += 1
        if not plugged.any():
            try:
                if online:
                    self._mem.blocks[block].offline()
                self._mem.remove_memory(block * self._mem.pages_per_block, self._mem.pages_per_block)
                del self.plugged[block]
            except HotplugError:
                pass     # it stays, empty; a later request tries again
        return done

    def _fake_offline(self, block, first, nr):
        """alloc_contig_range and PageOffline: True when the sub-blocks hold nothing that cannot move."""
        mem = self._mem
        start, pages = self._pages(block, first, nr)
        if mem.pcp is not None:
            mem.pcp.drain(mem.zone_of(start).nr)
            mem.pcp.release(start, pages)
        try:
            mem.check_movable(start, pages)
            migrate_range(mem, start, pages, contig=True)
        except HotplugError as e:
            if e.errno not in (errno.EBUSY, errno.EINTR):
                raise
            return False
        isolate(mem, start, pages)
        mem.set_page_offline(start, pages)
        return True


class VirtioMemBus:
    """The virtio-mem devices of a machine, which share one online_page_callback; ``devices`` by name."""

    def __init__(self, mem: Memory) -> None:
        self._mem = mem
        self.devices: dict[str, VirtioMem] = {}

    def add(self, device: VirtioMem) -> None:
        """Probe a device."""
        if not self.devices:
            self._mem.set_online_page_callback(self._online_page)
        self.devices[device.name] = device

    def _online_page(self, pfn, order):
        for device in self.devices.values():
            if device.holds(pfn):
                device.online_page(pfn, order)
                return
        self._mem.generic_online_page(pfn, order)
