"""virtio-mem: memory that the host plugs in small blocks (drivers/virtio/virtio_mem.c of 6.1 and 6.12, KERNEL.md 5.6).

`VirtioMem` is the device and the guest's driver. `VirtioMemDriver` adds a host with frames. In sub-block mode a memory block
holds several device blocks, and some may be unplugged while it is online. In big-block mode a device block is at least as large
as a memory block, and is plugged and unplugged as a whole.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastonline.core.pageflags import KPF_DIRTY, KPF_OFFLINE, PG_buddy, PG_offline, PG_reserved
from fastonline.core.runs import runs
from fastonline.core.undo import Undo
from fastonline.drivers.driver import NEVER, Driver, check_guest
from fastonline.drivers.hypervisor import Domain, ResidentDomain
from fastonline.errors import HotplugError, expect, pfn_range
from fastonline.geometry import format_size, parse_size
from fastonline.hotplug.blocks import Block
from fastonline.hotplug.memory import Memory
from fastonline.hotplug.migrate import isolate, migrate_range
from fastonline.hotplug.notifier import MEM_ONLINE, NOTIFY_OK
from fastonline.hotplug.offlining import check_unused
from fastonline.hotplug.resources import Resource

RAM = "System RAM (virtio_mem)"
OFFLINE_THRESHOLD = 1 << 30
"""Bytes that may be added and not online (VIRTIO_MEM_DEFAULT_OFFLINE_THRESHOLD), at least two blocks."""
RETRY_MIN, RETRY_MAX = 50.0, 300.0
"""Seconds to the first retry, and the limit of the doubling (VIRTIO_MEM_RETRY_TIMER_MIN_MS, _MAX_MS)."""
RETRIED = (errno.EBUSY, errno.ETXTBSY, errno.ENOMEM)
"""Errors after which the driver retries: memory in use, the host busy, no room for a memmap."""


def block_sizes(mem: Memory, block_size: int) -> tuple[int, int]:
    """Return (sub_block, block) of a device with block_size bytes: the pages plugged at once, and the pages added to Linux
    (`mem`) at once. A block is a memory block of several sub-blocks, or one big block. ValueError unless the size is a power of
    two of at least a page."""
    expect(mem, Memory, "mem")
    if block_size < mem.geometry.page_size or block_size & block_size - 1:
        raise ValueError(f"invalid block size {block_size} (expected a power of two from {mem.geometry.page_size} on)")
    sub_block = max(block_size // mem.geometry.page_size, 1 << mem.geometry.pageblock_order)
    block = max(sub_block, mem.pages_per_block)
    return (block, block) if sub_block >= mem.pages_per_block else (sub_block, block)


class Answers(Protocol):
    """The host's responses to requests for nr_pages from start_pfn on: True for ACK, False for BUSY."""

    def plug(self, start_pfn: int, nr_pages: int) -> bool:
        """Provide frames for all of these pages, or for none."""

    def unplug(self, start_pfn: int, nr_pages: int) -> bool:
        """Take the frames of these pages back."""


class VirtioMem:
    """A virtio-mem device with its driver: ``request(size)`` plugs or unplugs memory to reach a size.

    mem: Memory. start, max_size: bytes, the device's region. block_size: of the device. nid: the node of its memory. name: of
    the device in the log and /proc/iomem. host: an Answers, None: every request gets ACK. Devices of one machine share
    the online_page_callback, see VirtioMemBus.

    Blocks are numbered by their size: memory blocks in sub-block mode, big blocks in big-block mode. requested_size: bytes; pfn
    and order: of a chunk that Linux onlines.
    """

    def __init__(
        self, mem: Memory, start: int, max_size: int, block_size: int, nid: int = 0, name: str = "virtio0",
        host: Answers | None = None
    ) -> None:
        self._mem = mem
        self._host = host
        self.name = name
        self.nid = nid
        self.sub_block_pages, self.block_pages = block_sizes(mem, block_size)
        self.max_size = max_size
        page = mem.geometry.page_size
        self.start_pfn = start // page
        self.first_block = -(-self.start_pfn // self.block_pages)
        self.nr_blocks = max(0, (start + max_size) // page // self.block_pages - self.first_block)
        self._sub_blocks = self.block_pages // self.sub_block_pages
        self.plugged: dict[int, NDArray[np.bool_]] = {}
        """{block number: (sub-blocks,) bool array}: which sub-blocks of each added block are plugged."""
        self._pending: list[tuple[int, int]] = []      # (start_pfn, nr_pages) plugged and not added, to be unplugged
        self.requested_size = 0
        """Bytes that the host asks for (virtio_mem_config.requested_size)."""
        self.errno = 0
        """Why the last request did not reach its size: EBUSY, the rest is in use; ETXTBSY, the host is busy; ENOSPC, the region
        is full or too much memory is offline; else the errno of add_memory. 0 if it did."""

    def __repr__(self) -> str:
        mode = "big" if self.big_blocks else "sub"
        size, plugged = format_size(self.max_size), format_size(self.plugged_size)
        return f"<VirtioMem {self.name} {mode}-block mode, size={size} plugged={plugged} errno={self.errno}>"

    @property
    def big_blocks(self) -> bool:
        """Whether the device is in big-block mode."""
        return self._sub_blocks == 1

    @property
    def plugged_pages(self) -> int:
        """The number of plugged pages."""
        whole = sum(int(np.count_nonzero(plugged)) for plugged in self.plugged.values()) * self.sub_block_pages
        return whole + sum(nr_pages for _, nr_pages in self._pending)

    @property
    def plugged_size(self) -> int:
        """The plugged size, bytes (virtio_mem_config.plugged_size)."""
        return self.plugged_pages * self._mem.geometry.page_size

    def plugged_pfns(self) -> NDArray[np.int64]:
        """Return every plugged page of added blocks, an int64 array."""
        pfns = [np.empty(0, np.int64)]
        for block, plugged in self.plugged.items():
            pfns.append(np.flatnonzero(np.repeat(plugged, self.sub_block_pages)) + block * self.block_pages)
        return np.concatenate(pfns)

    def holds(self, pfn: int) -> bool:
        """Return whether the page belongs to a block of this device."""
        return pfn // self.block_pages in self.plugged

    def _pages(self, block, first, nr=1):
        return block * self.block_pages + first * self.sub_block_pages, nr * self.sub_block_pages

    def memory_blocks(self, block: int) -> list[Block]:
        """Return a list of the memory blocks of an added block."""
        each = self.block_pages // self._mem.pages_per_block
        return [self._mem.blocks[nr] for nr in range(block * each, (block + 1) * each)]

    def _state(self, block):
        """OFFLINE, KERNEL or MOVABLE, and whether it is partly plugged (VIRTIO_MEM_SBM_MB_*). A big block is OFFLINE or
        MOVABLE when all of it is (or offline)."""
        online = [b for b in self.memory_blocks(block) if b.state == "online"]
        state = "KERNEL" if online else "OFFLINE"
        if online and all(self._mem.zone_of(b.start_pfn).name == "Movable" for b in online):
            state = "MOVABLE"
        return state, not self.plugged[block].all()

    def _blocks_in(self, state, partial, down=False):
        return [b for b in sorted(self.plugged, reverse=down) if b in self.plugged and self._state(b) == (state, partial)]

    @property
    def offline_threshold(self) -> int:
        """The number of pages that may be added and not online."""
        return max(OFFLINE_THRESHOLD // self._mem.geometry.page_size, 2 * self.block_pages)

    def room(self) -> int:
        """Return how many pages may still be added. Offline pages count against the threshold (virtio_mem_could_add_memory)."""
        return self.offline_threshold - sum(map(self._offline_pages, self.plugged))

    def _offline_pages(self, block):
        return sum(b.nr_pages for b in self.memory_blocks(block) if b.state == "offline")

    def _send(self, request, start_pfn, nr_pages):
        """virtio_mem_send_plug_request, _unplug_request: HotplugError ETXTBSY when the host is busy."""
        if self._host is not None and not getattr(self._host, request)(start_pfn, nr_pages):
            where = pfn_range(start_pfn, nr_pages)
            raise HotplugError.of(errno.ETXTBSY, f"{self.name}: the host is too busy to {request} {where}")

    def online_page(self, pfn: int, order: int) -> None:
        """Online the plugged sub-blocks of a chunk of 2^order pages at `pfn` (virtio_mem_online_page)."""
        block, at = divmod(pfn, self.block_pages)
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
            self._mem.page_lists.free(np.arange(pfn, end))
            return
        while pfn < end:
            order = min((pfn & -pfn).bit_length() - 1, (end - pfn).bit_length() - 1, self._mem.geometry.max_page_order)
            self._mem.generic_online_page(pfn, order)
            pfn += 1 << order

    def request(self, requested_size: int) -> int:
        """Plug or unplug whole sub-blocks until the device has the requested size, as far as possible. Returns the size
        reached, bytes; `errno` says why it differs. ValueError for a size above the region's."""
        if not 0 <= requested_size <= self.max_size:
            raise ValueError(
                f"{self.name}: invalid requested size {requested_size:#x}: the device has {self.max_size:#x}"
            )
        self._mem.events.log(f"virtio_mem {self.name}: plugged size: {self.plugged_size:#x}")
        self._mem.events.log(f"virtio_mem {self.name}: requested size: {requested_size:#x}")
        self.requested_size = requested_size
        return self.go_on()

    def go_on(self) -> int:
        """Retry the last request (virtio_mem_run_wq). Returns the size reached, bytes."""
        try:
            self._unplug_pending()
            missing = self.requested_size - self.plugged_size
            nr = abs(missing) // (self.sub_block_pages * self._mem.geometry.page_size)
            self.errno = self._plug(nr) if missing > 0 else self._unplug(nr)
        except HotplugError as e:
            self.errno = e.errno
        return self.plugged_size

    def goes_on(self, action: int, start_pfn: int, nr_pages: int) -> bool:
        """Return whether the device retries after a memory notice with `action` for start_pfn, nr_pages: when memory of its own
        came online, and half of the offline threshold is free again (virtio_mem_memory_notifier_cb)."""
        own = any(map(self.holds, range(start_pfn, start_pfn + nr_pages, self._mem.pages_per_block)))
        return action == MEM_ONLINE and own and 2 * self.room() >= self.offline_threshold

    def _unplug_pending(self):
        while self._pending:
            self._send("unplug", *self._pending[0])
            del self._pending[0]

    def _plug(self, nr):
        """virtio_mem_sbm_plug_request, virtio_mem_bbm_plug_request: 0, or ENOSPC."""
        for state in ("KERNEL", "MOVABLE", "OFFLINE"):
            for block in self._blocks_in(state, True):
                for first, count in runs(np.flatnonzero(~self.plugged[block])[:nr]):
                    self._send("plug", *self._pages(block, first, count))
                    self.plugged[block][first : first + count] = True
                    nr -= count
                    if state != "OFFLINE":
                        for i in range(first, first + count):
                            self._online(*self._pages(block, i))
        room = self.room()
        for block in range(self.first_block, self.first_block + self.nr_blocks):
            if not nr or room < self.block_pages:
                break
            if block not in self.plugged:
                count = min(nr, self._sub_blocks)
                self._plug_and_add(block, count)
                room -= self._offline_pages(block)
                nr -= count
        return errno.ENOSPC if nr else 0

    def _plug_and_add(self, block, count):
        """Plug the first sub-blocks of a block, then add it; unplug them when that fails: HotplugError."""
        plugged, first = self._pages(block, 0, count), block * self.block_pages // self._mem.pages_per_block
        foreign = first in self._mem.blocks
        self._send("plug", *plugged)
        self.plugged[block] = np.arange(self._sub_blocks) < count
        try:
            self._mem.add_memory(
                block * self.block_pages, self.block_pages, self.nid, RAM, merge=True, group=(self.name, self.block_pages)
            )
        except MemoryError as e:
            raise HotplugError.of(errno.ENOMEM, str(e)) from None
        finally:
            if foreign or first not in self._mem.blocks:
                del self.plugged[block]
                self._pending.append(plugged)
                self._unplug_pending()

    def _unplug(self, nr):
        """virtio_mem_sbm_unplug_request, virtio_mem_bbm_unplug_request: offline blocks first, Movable before kernel ones, the
        highest first. 0, or EBUSY."""
        for state, partial in (("OFFLINE", True), ("OFFLINE", False), ("MOVABLE", True), ("KERNEL", True), ("MOVABLE", False),
                               ("KERNEL", False)):
            for block in self._blocks_in(state, partial, down=True):
                if not nr:
                    return 0
                if self.big_blocks:
                    nr -= self._unplug_big(block)
                elif state == "OFFLINE":
                    nr -= self._unplug_offline(block, nr)
                else:
                    nr -= self._unplug_online(block, nr)
        return errno.EBUSY if nr else 0

    def _unplug_offline(self, block, nr):
        """virtio_mem_sbm_unplug_any_sb_offline: up to `nr` sub-blocks, the last run of them first; how many."""
        last = np.flatnonzero(self.plugged[block])[::-1][:nr]
        for first, count in reversed(runs(last)):
            self._send("unplug", *self._pages(block, first, count))
            self.plugged[block][first : first + count] = False
        if not self.plugged[block].any():
            self._mem.remove_memory(block * self.block_pages, self.block_pages)
            del self.plugged[block]
        return len(last)

    def _unplug_online(self, block, nr):
        """virtio_mem_sbm_unplug_any_sb_online: the whole block at once, or those of its sub-blocks that are not in use, the
        last first; how many."""
        plugged, done = self.plugged[block], 0
        if nr >= self._sub_blocks and plugged.all() and self._unplug_sub_blocks(block, 0, self._sub_blocks):
            done = self._sub_blocks
        else:
            for i in np.flatnonzero(plugged)[::-1].tolist():
                if done == nr:
                    break
                done += self._unplug_sub_blocks(block, i, 1)
        if not plugged.any():
            with suppress(HotplugError):      # then it stays, empty; a later request tries again
                self._offline_and_remove(block)
        return done

    def _unplug_sub_blocks(self, block, first, count):
        """virtio_mem_sbm_unplug_sb_online: how many, all or none."""
        pages = self._pages(block, first, count)
        if not self._fake_offline(*pages):
            return 0
        try:
            self._send("unplug", *pages)
        except BaseException:
            self._online(*pages)
            raise
        self.plugged[block][first : first + count] = False
        return count

    def _unplug_big(self, block):
        """virtio_mem_bbm_offline_remove_and_unplug_bb: take the pages of its sections that are online, offline and remove it,
        unplug it. Returns 1, or 0 with everything as it was when some of it is in use or cannot go offline."""
        start, unit = block * self.block_pages, self._mem.geometry.pages_per_section
        taken = []
        self.plugged[block][:] = False      # what comes online meanwhile stays away
        try:
            for pfn in range(start, start + self.block_pages, unit):
                if self._mem.sections.online_section_nr(pfn // unit):
                    if not self._fake_offline(pfn, unit):
                        return 0
                    taken.append(pfn)
            self._offline_and_remove(block)
        except HotplugError:
            return 0
        finally:
            if block in self.plugged:
                self.plugged[block][:] = True
                for pfn in taken:
                    if self._mem.sections.online_section_nr(pfn // unit):
                        self._online(pfn, unit)
        self._pending.append((start, self.block_pages))
        self._unplug_pending()
        return 1

    def _offline_and_remove(self, block):
        """offline_and_remove_memory: all of its memory blocks, or none: HotplugError."""
        online = [(b, "online_movable" if self._mem.zone_of(b.start_pfn).name == "Movable" else "online_kernel")
                  for b in self.memory_blocks(block) if b.state == "online"]
        with Undo() as undo:
            for b, word in online:
                undo.add(self._online_again, b, word)
                b.offline()
        self._mem.remove_memory(block * self.block_pages, self.block_pages)
        del self.plugged[block]

    @staticmethod
    def _online_again(block, word):
        """Online a memory block if it is offline."""
        if block.state == "offline":
            with suppress(HotplugError):      # the others are tried all the same
                block.online(word)

    def _fake_offline(self, start, pages):
        """alloc_contig_range and PageOffline: True when the pages hold nothing that cannot move."""
        mem = self._mem
        mem.page_lists.drain(mem.zone_of(start).nr)
        mem.page_lists.release(start, pages)
        try:
            check_unused(mem, start, pages)
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

    def __repr__(self) -> str:
        return f"<VirtioMemBus devices={list(self.devices)}>"

    def add(self, device: VirtioMem) -> None:
        """Probe a device. HotplugError EBUSY when RAM or another device is in its region (virtio_mem_create_resource); EINVAL
        when another online_page_callback is set."""
        page = self._mem.geometry.page_size
        start, end = device.start_pfn * page, device.start_pfn * page + device.max_size
        taken: Resource | VirtioMem | None = next((
            r for _, r in self._mem.resources.walk() if r.start < end and start < r.end and r.name != device.name
            and not (r.start <= start and end <= r.end and not r.is_ram)
        ), None)
        if taken is None:
            taken = next((other for other in self.devices.values()
                          if other.start_pfn * page < end and start < other.start_pfn * page + other.max_size), None)
        if taken is not None:
            raise HotplugError.of(
                errno.EBUSY, f"{device.name}: could not reserve device region [{start:#x}-{end - 1:#x}]: {taken.name} is there"
            )
        unit = self._mem.pages_per_block * page
        for what, address in (("start", start), ("end", end)):
            if address % unit:
                self._mem.events.log(
                    f"virtio_mem {device.name}: The alignment of the physical {what} address can make some memory unusable.")
        if not self.devices:
            self._mem.set_online_page_callback(self._online_page, KPF_OFFLINE | KPF_DIRTY)
        self.devices[device.name] = device

    def remove(self, device: VirtioMem) -> None:
        """Remove a device. HotplugError EBUSY while it has plugged memory."""
        if device.plugged:
            raise HotplugError.of(errno.EBUSY, f"{device.name} cannot be removed: {device.plugged_pages} pages are plugged")
        del self.devices[device.name]
        if not self.devices:
            self._mem.restore_online_page_callback(self._online_page)

    def _online_page(self, pfn, order):
        for device in self.devices.values():
            if device.holds(pfn):
                device.online_page(pfn, order)
                return
        self._mem.generic_online_page(pfn, order)


class VirtioMemDriver(Driver):
    """A virtio-mem device above a guest's boot memory, together with its host.

    mem: Memory, all of it backed by the domain. domain: hypervisor.Domain. block_size: of the device (bytes or text such as
    "2M"), None: a pageblock. backing: "plug", a block gets its frames when it is plugged (prealloc=on, on a ResidentDomain);
    "touch", a page gets its frame at its first touch, as in QEMU (a ResidentDomain). auto_online: added memory goes online at
    once, to Movable; if False, user space must online it, and the device stops at OFFLINE_THRESHOLD until then. The region is
    as large as the domain's limit, or the host's memory, above the boot memory.

    A target is boot memory plus plugged memory, rounded down to sub-blocks. Below the boot memory nothing is plugged; above the
    region all of it is. Requests that fail for want of frames, or of memory that the guest can free, are retried after
    RETRY_MIN seconds, then later and later. The host grants a request (start_pfn, nr_pages) whole or not at all. now: virtual
    seconds.

    HotplugError EINVAL when another online_page_callback is set; ValueError for rules without whole memory blocks (2.6.25).
    """

    def __init__(
        self, mem: Memory, domain: Domain, block_size: int | str | None = None, auto_online: bool = True, backing: str = "plug"
    ) -> None:
        check_guest(mem, domain)
        if not mem.rules.aligned:
            raise ValueError(f"virtio-mem does not exist under Linux {mem.rules.name}: it needs whole memory blocks")
        if backing not in ("plug", "touch"):
            raise ValueError(f"invalid backing {backing!r} (expected 'plug' or 'touch')")
        if backing == "touch" and not isinstance(domain, ResidentDomain):
            raise ValueError("backing at the first touch needs a ResidentDomain")
        self.backing = backing
        self.boot_pages = mem.totalram_pages if isinstance(domain, ResidentDomain) else domain.tot_pages
        page = mem.geometry.page_size
        size = page << mem.geometry.pageblock_order if block_size is None else parse_size(block_size)
        unit = block_sizes(mem, size)[1]
        start = -(-max(end for _, end in mem.resources) // unit) * unit
        if domain.max_pages is None:
            nr_pages = -(-(domain.host.nr_frames - self.boot_pages) // unit) * unit  # the host's memory is not the region's end
        else:
            nr_pages = domain.max_pages - self.boot_pages
        nr_pages = max(0, min(nr_pages, mem.max_pfn - start)) // unit * unit
        self.device = VirtioMem(mem, start * page, nr_pages * page, size, host=self)
        super().__init__(mem, domain)
        self.retries = 0
        """How often the retry timer has run."""
        self.broken = False
        """Set after an unexpected errno; the device then stops (kernel: "unknown error, marking device broken")."""
        self._retry = RETRY_MIN
        self._waits = False     # for the timer
        self._auto_online = auto_online
        self._probe()

    def _probe(self):
        mem, page = self.mem, self.mem.geometry.page_size
        self._bus = VirtioMemBus(mem)
        self._bus.add(self.device)
        self._region = (self.device.start_pfn * page, self.device.max_size)
        if self._region[1]:
            mem.resources.request(*self._region, self.device.name)
        mem.notifiers.register(self._notifier, actions=MEM_ONLINE)
        self._auto_online_before = mem.auto_online_blocks
        if self._auto_online:
            mem.auto_online_blocks = "online_movable"

    def reboot(self, mem: Memory, now: float = 0.0) -> None:
        """Reboot the guest as `mem`, a Memory with the same boot memory. The host unplugs everything (UNPLUG_ALL), and the new
        kernel plugs the requested size again.

        ValueError for a Memory of another size or geometry; HotplugError as for a new driver. Mirrors virtio_mem_system_reset
        of QEMU, and virtio_mem_init's VIRTIO_MEM_REQ_UNPLUG_ALL (6.1).
        """
        expect(mem, Memory, "mem")
        if mem.geometry != self.mem.geometry or mem.totalram_pages > self.boot_pages or mem is self.mem:
            raise ValueError("a guest boots again with the geometry and the boot memory that it had, in a new Memory")
        old, device = self.device, self.device
        self.domain.unback(old.plugged_pfns())
        self.domain.count("host_message", 1, old.plugged_pages)
        self.mem.notifiers.unregister(self._notifier)
        self.mem = mem
        self.device = VirtioMem(
            mem, device.start_pfn * mem.geometry.page_size, device.max_size,
            device.sub_block_pages * mem.geometry.page_size, host=self
        )
        self.broken = self._waits = False
        self._retry = RETRY_MIN
        self._probe()
        self.due = now

    @property
    def current_pages(self) -> int:
        """Boot memory and plugged pages."""
        return self.boot_pages + self.device.plugged_pages

    @property
    def requested_pages(self) -> int:
        """The pages that the host asks to be plugged (virtio_mem_config.requested_size)."""
        unit = self.device.sub_block_pages
        return min(max(0, self.target_pages - self.boot_pages), self.device.nr_blocks * self.device.block_pages) // unit * unit

    def counts(self) -> dict[str, int]:
        """{"plugged": pages, "blocks": added ones, "retries"}."""
        return {"plugged": self.device.plugged_pages, "blocks": len(self.device.plugged), "retries": self.retries}

    def obstacle(self) -> str:
        """As Driver.obstacle: boot memory stays, the region ends, and blocks are plugged whole."""
        page, most = self.mem.geometry.page_size, self.boot_pages + self.device.nr_blocks * self.device.block_pages
        if self.target_pages < self.boot_pages == self.current_pages:
            return "boot memory cannot be unplugged"
        if self.target_pages > most == self.current_pages:
            return f"the device's region ends at {format_size(most * page)}"
        if self.boot_pages + self.requested_pages == self.current_pages != self.target_pages:
            return f"the device plugs blocks of {format_size(self.device.sub_block_pages * page)}"
        return super().obstacle()

    # -- the host's responses

    def plug(self, start_pfn: int, nr_pages: int) -> bool:
        """Handle VIRTIO_MEM_REQ_PLUG: frames for all of the pages, or False (BUSY). With backing "touch" no frames are given
        yet."""
        if self.backing == "touch":
            self.domain.count("host_message", 1, nr_pages)
            return True
        self.domain.count("host_message")
        pfns = np.arange(start_pfn, start_pfn + nr_pages)
        got = self.domain.back(pfns)
        if got < nr_pages:
            self.domain.unback(pfns[:got])
        return got == nr_pages

    def unplug(self, start_pfn: int, nr_pages: int) -> bool:
        """Handle VIRTIO_MEM_REQ_UNPLUG: take the frames back, and return True."""
        self.domain.count("host_message")
        self.domain.unback(np.arange(start_pfn, start_pfn + nr_pages))
        return True

    # -- the guest's worker

    def _work(self):
        """virtio_mem_run_wq."""
        if not self.broken:
            if self._waits:
                self._waits = False
                self.retries += 1
            self.device.request(self.requested_pages * self.mem.geometry.page_size)
        self.due = NEVER
        if self.device.errno == 0:
            self._retry = RETRY_MIN
        elif self.device.errno in RETRIED:
            self.due = self.domain.now + self._retry
            self._waits = True
            self._retry = min(2 * self._retry, RETRY_MAX)
        elif self.device.errno != errno.ENOSPC:
            self.broken = True      # "unknown error, marking device broken"

    def _notifier(self, action, notice):
        """Memory came online: the device goes on once half of what it may leave offline can be added again."""
        if self.device.errno == errno.ENOSPC and self.device.goes_on(action, notice.start_pfn, notice.nr_pages):
            self.due = 0.0
        return NOTIFY_OK

    def close(self) -> None:
        """Release the callback and the region. HotplugError EBUSY while memory is plugged: set the target to the boot memory
        first (the kernel's driver warns and leaves the memory behind)."""
        self._bus.remove(self.device)
        self.mem.notifiers.unregister(self._notifier)
        if self._region[1]:
            self.mem.resources.release_resource(*self._region)
        self.mem.auto_online_blocks = self._auto_online_before
        self.due = NEVER

    def validate(self) -> None:
        """As Driver.validate. Also checks that plugged pages are backed and, in online memory blocks, managed, and that all
        other added pages are not backed and not with the allocator."""
        super().validate()
        device, domain = self.device, self.domain
        plugged = device.plugged_pages
        if not isinstance(domain, ResidentDomain):      # whose pages lose their frames when they are reported or reclaimed
            if domain.tot_pages != self.boot_pages + plugged:
                raise AssertionError(
                    f"{self.boot_pages} boot pages and {plugged} plugged pages differ from the {domain.tot_pages} that the "
                    f"host backs"
                )
            if not domain.backed(device.plugged_pfns()).all():
                raise AssertionError("a plugged page has no frame")
        for block, sub_blocks in device.plugged.items():
            pfns = np.arange(block * device.block_pages, (block + 1) * device.block_pages)
            away = ~np.repeat(sub_blocks, device.sub_block_pages)
            if domain.backed(pfns[away]).any():
                raise AssertionError(f"a page of block {block} that is not plugged has a frame")
            states = self.mem.page_states(int(pfns[0]), pfns.size)
            kept = states & (PG_offline | PG_reserved) != 0
            if not np.all(kept[away]) or np.any(states[away] & PG_buddy):
                raise AssertionError(f"an unplugged page of block {block} is online")
            online = np.repeat([b.state == "online" for b in device.memory_blocks(block)], self.mem.pages_per_block)
            if not self.mem.memmaps and np.any(kept[online & ~away]):
                raise AssertionError(f"a plugged page of block {block} did not go online with it")
