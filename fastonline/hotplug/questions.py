"""Questions about a machine, answered without changing it: what can go offline, what can be added, how small it can get.

The answers follow the machine's rules. They do not include vetoes of notifiers and memory that could be reclaimed.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastonline.core.pageflags import PG_buddy, PG_offline, PG_prepared, PG_tail
from fastonline.geometry import format_size
from fastonline.hotplug.zonelists import movable_zonelist

if TYPE_CHECKING:
    from fastonline.hotplug.memory import Memory

_STEP = 1 << 18      # pages that are looked at at a time


@dataclass(frozen=True)
class Answer:
    """Whether a memory block can go offline.

    - block: its number. state: as in sysfs.
    - pfn: the first page that prevents it, or None.
    - reason: why it cannot, "" if it can. errno: of offline_pages, 0 if it can.
    - free, movable, host: how many of its pages are free, would be migrated, and are with the host (PG_offline).
    """

    block: int
    state: str
    pfn: int | None
    reason: str
    errno: int
    free: int = 0
    movable: int = 0
    host: int = 0

    @property
    def can(self) -> bool:
        """Whether it can go offline."""
        return not self.errno


def _pages(nr):
    return f"{nr} page{'' if nr == 1 else 's'}"


def why_not_offline(mem: Memory, block_nr: int) -> Answer:
    """Return an Answer: whether memory block `block_nr` can go offline, and why not. It makes the checks of offline_pages
    (6.12) in their order. KeyError if there is no such block."""
    block = mem.blocks[block_nr]
    if block.state != "online":
        return Answer(block_nr, block.state, None, f"it is {block.state}", errno.EINVAL)
    start, nr = block.start_pfn, block.nr_pages
    states = mem.page_states(start, nr)
    missing = np.flatnonzero(states & PG_prepared == 0)
    if len(missing):
        pfn = start + int(missing[0])
        return Answer(block_nr, "online", pfn, f"a hole of {_pages(len(missing))} without memory", errno.EINVAL)
    zones = _zones_of(mem, start, nr)
    if len(zones) > 1:
        return Answer(block_nr, "online", None, f"it spans several zones: {', '.join(zones)}", errno.EINVAL)
    movable, pinned = _movable(mem, start, nr)
    used = _in_use(states)
    stuck = used.copy()
    stuck[movable] = False
    counts = {
        "free": int(np.count_nonzero(states & PG_buddy)), "movable": int(np.count_nonzero(used & ~stuck)),
        "host": int(np.count_nonzero(states & PG_offline)),
    }
    if stuck.any():
        pfn = start + int(stuck.argmax())
        reason = f"{_pages(np.count_nonzero(stuck))} in use cannot move"
        return Answer(block_nr, "online", pfn, reason, errno.EBUSY, **counts)
    if len(pinned):
        code = errno.EAGAIN if mem.rules.offline_times_out else errno.EINTR
        return Answer(block_nr, "online", int(pinned.min()), f"{_pages(len(pinned))} pinned", code, **counts)
    room = _room_outside(mem, start, counts["free"])
    if counts["movable"] > room:
        code = errno.ENOMEM if mem.rules.offline_times_out else errno.EINTR
        reason = f"{counts['movable']} pages have to move, and there is room for {room}"
        return Answer(block_nr, "online", None, reason, code, **counts)
    return Answer(block_nr, "online", None, "", 0, **counts)


def offlineable(mem: Memory) -> list[Answer]:
    """Return why_not_offline of every memory block, ascending, each by itself. Where pages have to move, offlining one block
    can change the answer for the next."""
    return [why_not_offline(mem, nr) for nr in mem.blocks]


@dataclass(frozen=True)
class Growth:
    """How much memory can be hot-added. Sizes in bytes.

    - block: size of a memory block, the smallest range that can be added.
    - memmap: memory that the descriptors of one block take from the kernel zones; 0 if they lie on the block itself.
    - room: free memory of the kernel zones for descriptors, above min watermarks and reserves.
    - at_once: the most that one add_memory can add.
    - online_kernel, online_movable: the most that can be added block by block, when each is onlined into a kernel zone, or
      Movable, before the next. The estimate may be one block off, since onlining recomputes the watermarks
      (init_per_zone_wmark_min). Up to 6.7 Movable memory lowers the watermarks of kernel zones, and more fits.
    - ranges: (start_pfn, nr_pages) that add_memory accepts: whole blocks without a resource.
    """

    block: int
    memmap: int
    room: int
    at_once: int
    online_kernel: int
    online_movable: int
    ranges: tuple[tuple[int, int], ...]


def growable(mem: Memory) -> Growth:
    """Return a Growth: how much memory can be hot-added, at once and block by block. Unless mem.memmap is "on_memory", page
    descriptors come from the kernel zones, as GFP_KERNEL allocations down to the min watermark and lowmem_reserve
    (sparse_add_section, __zone_watermark_ok)."""
    page, block = mem.geometry.page_size, mem.pages_per_block * mem.geometry.page_size
    ranges = tuple(acceptable_ranges(mem))
    limit, largest = (sum(nr for _, nr in ranges) * page, max((nr for _, nr in ranges), default=0) * page)
    memmap = -(-mem.pages_per_block * mem.rules.struct_page_bytes[mem.geometry.bits == 64] // page)
    room = _kernel_room(mem)
    if mem.memmap == "on_memory" and memmap % (1 << mem.geometry.pageblock_order) == 0 and memmap < mem.pages_per_block:
        memmap = 0
    fits = limit if not memmap else _sections_with_room(mem) * mem.geometry.pages_per_section // mem.pages_per_block * block
    # a block that went online in a kernel zone brings more than the next one's descriptors take
    return Growth(
        block=block, memmap=memmap * page, room=sum(room.values()) * page, at_once=min(fits, largest),
        online_kernel=limit if fits else 0, online_movable=min(fits, limit), ranges=ranges,
    )


def acceptable_ranges(mem: Memory) -> Iterator[tuple[int, int]]:
    """Yield (start_pfn, nr_pages) of the ranges that add_memory accepts: whole memory blocks below the end of memory, without a
    resource or a present section."""
    unit, shift = mem.pages_per_block, mem.geometry.page_shift
    taken = [(resource.start >> shift, -(-resource.end >> shift)) for depth, resource in mem.resources.walk() if not depth]
    section = mem.geometry.pages_per_section
    taken += [(first * section, (first + nr) * section) for first, nr in mem.sections.runs()]
    at = 0
    for start, end in [*sorted(taken), (mem.max_pfn, mem.max_pfn)]:
        low, high = -(-at // unit) * unit, start // unit * unit
        if low < high:
            yield low, high - low
        at = max(at, end)


@dataclass(frozen=True)
class Shrink:
    """One way to make the guest smaller. Sizes in bytes.

    - way: "blocks" (whole memory blocks, as DIMMs have), "virtio-mem" or "balloon".
    - unit: size of what can be given back at once. units: how many can be given back. size: what the guest has left.
    """

    way: str
    unit: int
    units: int
    size: int


def shrinkable(mem: Memory) -> list[Shrink]:
    """Return how small the guest can get, a list of Shrink: by whole memory blocks, by virtio-mem with block sizes from a
    pageblock to 1 GiB, and by a balloon. Each assumes that all memory was plugged that way.

    Pages with an owner are migrated as long as there is room above the min watermarks. A balloon takes single pages down to the
    min watermark and lowmem_reserve of each zone. Nothing is reclaimed or swapped out.
    """
    survey, page = _Survey(mem), mem.geometry.page_size
    blocks = [answer for answer in offlineable(mem) if answer.can]
    free, movable = (np.array([getattr(block, name) for block in blocks], np.int64) for name in ("free", "movable"))
    found = [_shrink("blocks", mem.pages_per_block, free, movable, survey, page)]
    unit = 1 << mem.geometry.pageblock_order
    while unit * page <= 1 << 30:
        free, movable = survey.units(unit)
        found.append(_shrink("virtio-mem", unit, free, movable, survey, page))
        unit *= 2
    top = mem.zones.names.index("Movable")
    balloon = sum(_above_min(zone, zone.protection[top]) for zone in mem.zones.values())
    return [*found, Shrink("balloon", page, balloon, (survey.backed_pages - balloon) * page)]


def _shrink(way, unit, free, movable, survey, page):
    """The Shrink of units of so many pages, with those free and movable ones in each; units that the host has count as gone."""
    backed = free + movable
    taken = backed[_fitting(free, movable, survey.spare)]
    return Shrink(way, unit * page, int(np.count_nonzero(taken)), (survey.backed_pages - int(taken.sum())) * page)


@dataclass(frozen=True)
class HugePages:
    """How many huge pages of `size` bytes could be allocated. now: without migration. migrated: after migration."""

    size: int
    now: int
    migrated: int


def huge_pages(mem: Memory) -> list[HugePages]:
    """Return how many 2 MiB and 1 GiB pages are available, now and after migration: aligned ranges of one zone that
    alloc_contig_range can empty."""
    survey, page = _Survey(mem), mem.geometry.page_size
    found = []
    for size in (2 << 20, 1 << 30):
        unit = size // page
        if unit < survey.step:
            now = sum(count << order - (unit.bit_length() - 1) for zone in mem.zones.values()
                      for order, count in enumerate(zone.nr_free) if 1 << order >= unit)
            found.append(HugePages(size, now, now))
            continue
        free, movable = survey.units(unit)
        migrated = len(_fitting(free, movable, survey.spare, unit))
        found.append(HugePages(size, int(np.count_nonzero(free == unit)), migrated))
    return found


@dataclass(frozen=True)
class Accounting:
    """How host and guest count the same memory, in pages.

    - logical: System RAM of the guest. present: pages of online blocks (present_pages). managed: pages given to the allocator
      (MemTotal of /proc/meminfo). free: NR_FREE_PAGES. used: managed pages that are not free.
    - plugged: hot-added System RAM. offline: System RAM in no zone. host: present pages with the host, in a balloon or
      unplugged by virtio-mem (PG_offline). reserved: present pages that the allocator never got: the kernel's own since boot,
      and pages that wait to be marked. memmap: pages with descriptors of added memory.
    """

    logical: int
    plugged: int
    offline: int
    present: int
    host: int
    reserved: int
    managed: int
    memmap: int
    free: int
    page_size: int

    @property
    def used(self) -> int:
        """Managed pages that are not free."""
        return self.managed - self.free

    def rows(self) -> list[tuple[str, int, str]]:
        """Return (name, pages, why it differs from the row before) for each step from logical to free."""
        return [
            ("logical size", self.logical, f"System RAM; {self._size(self.plugged)} of it hot-added"),
            ("- offline", -self.offline, "memory blocks that are not online"),
            ("present", self.present, "present_pages of all zones"),
            ("- host", -self.host, "with the host: in a balloon, or not plugged"),
            ("- reserved", -self.reserved, "kernel image, boot memmap, pages never onlined"),
            ("managed", self.managed, "managed_pages of all zones: MemTotal"),
            ("- used", -self.used, f"{self._size(self.memmap)} of it memmap of added memory"),
            ("free", self.free, "free pages of all zones: MemFree"),
        ]

    def _size(self, pages):
        return format_size(pages * self.page_size)


def accounting(mem: Memory) -> Accounting:
    """Return the Accounting of a machine: how host and guest count its memory, and why the figures differ."""
    zones = mem.zones.values()
    logical = sum(end - start for start, end in mem.resources)
    present, managed = sum(zone.present_pages for zone in zones), sum(zone.managed_pages for zone in zones)
    host = _Survey(mem).host_pages
    return Accounting(
        logical=logical, plugged=sum(nr for _, nr, _ in mem.groups), offline=logical - present, present=present, host=host,
        reserved=present - host - managed, managed=managed,
        memmap=sum(nr for pieces in mem.memmaps.values() for _, nr in pieces), free=sum(zone.free_pages for zone in zones),
        page_size=mem.geometry.page_size,
    )


class _Survey:
    """What the pageblocks of a machine hold. step: pages of one. spare: free pages above all min watermarks, to which pages may
    move. backed_pages, host_pages: online and not with the host; with the host."""

    def __init__(self, mem):
        self.step = 1 << mem.geometry.pageblock_order
        zones = mem.zones.values()
        self.spare = sum(zone.free_pages - zone.min - zone.watermark_boost for zone in zones if zone.populated)
        self.free, self.movable, self.usable, self.zone, self.first = ([] for _ in range(5))
        self.backed_pages = self.host_pages = 0
        for start, nr in mem.sections.spans():
            for at in range(start, start + nr, _STEP):
                self._look(mem, at, min(_STEP, start + nr - at))
        for name in ("free", "movable", "usable", "zone", "first"):
            setattr(self, name, np.concatenate([np.empty(0, np.int64), *getattr(self, name)]))

    def _look(self, mem, start, nr):
        states = mem.page_states(start, nr)
        prepared = states & PG_prepared != 0
        used = _in_use(states)
        moves = np.zeros(nr, bool)
        movable, pinned = _movable(mem, start, nr)
        moves[movable] = True
        moves[pinned - start] = False
        host = states & PG_offline != 0
        self.backed_pages += int(np.count_nonzero(prepared & ~host))
        self.host_pages += int(np.count_nonzero(host))
        first = -(-start // self.step) * self.step - start
        parts = (nr - first) // self.step
        if parts <= 0:
            return

        def count(mask):
            return mask[first : first + parts * self.step].reshape(parts, self.step).sum(axis=1)

        pfns = start + first + np.arange(parts) * self.step
        self.free.append(count(states & PG_buddy != 0))
        self.movable.append(count(used & moves))
        self.usable.append(count(states & PG_buddy != 0) + self.movable[-1] + count(host))
        zones = [mem.zone_of(int(pfn)) for pfn in pfns]
        self.zone.append(np.array([-1 if zone is None else zone.nr for zone in zones]))
        self.first.append(pfns)

    def units(self, pages):
        """(free, movable) pages of each aligned run of so many pages, in one zone, none of which is in use and stuck."""
        each = pages // self.step
        nr = self.first // pages
        at = np.flatnonzero(self.first % pages == 0)
        at = at[at + each <= len(self.first)]
        at = at[nr[at + each - 1] == nr[at]]
        index = at[:, None] + np.arange(each)
        zones = self.zone[index]
        at = index[(self.usable[index] == self.step).all(axis=1) & (zones == zones[:, :1]).all(axis=1)]
        return self.free[at].sum(axis=1), self.movable[at].sum(axis=1)


def _fitting(free: NDArray[np.int64], movable: NDArray[np.int64], spare: int, unit: int = 0) -> NDArray[np.int64]:
    """Which units can be emptied: those with nothing to move, then those with the least, as long as their pages find room
    elsewhere. unit: only units of so many pages, none of them the host's."""
    order = np.argsort(movable, kind="stable")
    if unit:
        order = order[(free + movable)[order] == unit]
    left = spare - np.cumsum((free + movable)[order])
    fits = (movable[order] == 0) | (left >= 0)
    return order[: int(fits.argmin())] if len(fits) and not fits.all() else order


def _in_use(states):
    """Return a bool array: which pages are in use."""
    return (states & np.uint8(0xFF ^ PG_tail)) == PG_prepared


def _movable(mem, start, nr):
    """(indices into the range of pages that an owner moves, pfns of those that are pinned)."""
    pinned = [owner.pfns[: owner.pinned] for owner in mem.page_owners if owner.pinned]
    pfns = np.concatenate([np.empty(0, np.int64), *(
        owner.pfns[owner.within(start, nr)] for owner in mem.page_owners if not owner.offline
    )])
    held = np.concatenate([np.empty(0, np.int64), *pinned])
    return pfns - start, held[(held >= start) & (held < start + nr)]


def _zones_of(mem, start, nr):
    """The names of the zones that a range of online pages lies in."""
    near = [zone for zone in mem.zones.values() if zone.spanned_pages
            and zone.start_pfn < start + nr and start < zone.start_pfn + zone.spanned_pages]
    if len(near) > 1:
        found = {zone.nr: zone for pfn in range(start, start + nr, 1 << mem.geometry.pageblock_order)
                 if (zone := mem.zone_of(pfn)) is not None}
        near = list(found.values())
    return [zone.name for zone in near]


def _room_outside(mem, start, free):
    """Free pages that those of a block may move to (new_migration_target, alloc_migration_target)."""
    zone = mem.zone_of(start)
    nodes = [nid for nid in mem.nodes if nid != zone.nid and mem.zones.has_memory(nid)] or [zone.nid]
    highest = "Movable" if zone.name in ("Movable", "HighMem") else "Normal"
    zones = mem.zones.values()
    targets = set(movable_zonelist(mem, zone.nid, nodes, highest))
    return sum(other.free_pages for other in zones if other.nr in targets) - (free if zone.nr in targets else 0)


def _kernel_room(mem):
    """{zone: pages} that GFP_KERNEL allocations can have above the min watermark and lowmem_reserve."""
    names = mem.zones.names
    top = names.index("Normal")
    return {zone.nr: _above_min(zone, zone.protection[top]) for zone in mem.zones.values() if names.index(zone.name) <= top}


def _sections_with_room(mem):
    """Sections whose page descriptors can be had: in blocks as large as they need, then page by page with a page table for each
    such block (vmemmap_populate_hugepages, vmemmap_populate_basepages)."""
    pages = -(-mem.geometry.pages_per_section * mem.rules.struct_page_bytes[mem.geometry.bits == 64] // mem.geometry.page_size)
    order = min((pages - 1).bit_length(), mem.geometry.max_page_order)
    room, blocks = _kernel_room(mem), 0
    for zone in mem.zones.values():
        if zone.nr in room:
            there = sum(count << larger - order for larger, count in enumerate(zone.nr_free) if larger >= order)
            taken = min(there, room[zone.nr] >> order)
            blocks += taken
            room[zone.nr] -= taken << order
    blocks += sum(room.values()) // ((1 << order) + 1)
    return blocks // -(-pages >> order) if pages > 1 << order else blocks


def _above_min(zone, reserve):
    """Free pages that an allocation may take which lowmem_reserve keeps `reserve` pages from (__zone_watermark_ok)."""
    return max(0, zone.free_pages - zone.min - zone.watermark_boost - reserve)
