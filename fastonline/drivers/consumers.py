"""Consumers of hot-plug events: a network driver that registers memory with its adapter, the user space that onlines it, and a
container with a whole node. All three come from the 2008 thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from fastonline.core.undo import Undo
from fastonline.drivers.driver import NEVER, add_memory
from fastonline.errors import HotplugError, expect
from fastonline.hotplug.blocks import MMOP_ONLINE, WORDS, Block
from fastonline.hotplug.memory import Memory
from fastonline.hotplug.notifier import MEM_GOING_ONLINE, MEM_OFFLINE, MEM_ONLINE, NOTIFY_BAD, NOTIFY_OK


class Ehea:
    """A network driver like ehea. Its adapter must know all memory that may hold a packet, so it registers a memory notifier.

    mem: Memory. max_sections: the most sections in the adapter's map, None: no limit. priority: of its notifier.

    `onlined` counts pages by MemoryNotify.onlined, which Kamezawa asked for in the thread; `announced` counts nr_pages instead.
    It vetoes a section too many with NOTIFY_BAD.
    """

    def __init__(self, mem: Memory, max_sections: int | None = None, priority: int = 0) -> None:
        expect(mem, Memory, "mem")
        self._mem = mem
        self.max_sections = max_sections
        self.sections: set[int] = set()
        """Sections in the adapter's map."""
        self.onlined = 0
        """Pages onlined according to the notices. A page counts each time."""
        self.announced = 0
        self.vetoes = 0
        mem.notifiers.register(self._notifier, priority)

    def __repr__(self) -> str:
        return f"<Ehea sections={len(self.sections)} onlined={self.onlined} vetoes={self.vetoes}>"

    def _notifier(self, action, notice):
        unit = self._mem.geometry.pages_per_section
        sections = set(range(notice.start_pfn // unit, -(-(notice.start_pfn + notice.nr_pages) // unit)))
        if action == MEM_GOING_ONLINE:
            if self.max_sections is not None and len(self.sections | sections) > self.max_sections:
                self.vetoes += 1
                return NOTIFY_BAD
        elif action == MEM_ONLINE:
            self.sections |= sections
            self.onlined += notice.onlined
            self.announced += notice.nr_pages
        elif action == MEM_OFFLINE:
            self.sections -= {nr for nr in sections if not self._mem.sections.online_section_nr(nr)}
        return NOTIFY_OK

    def close(self) -> None:
        """Listen no more."""
        self._mem.notifiers.unregister(self._notifier)


@dataclass(frozen=True)
class Uevent:
    """An event in udev's queue."""

    time: float
    action: str
    """"add", "remove", "online" or "offline"; "failed" if a write of user space was refused."""
    device: str
    """"memory12", "node1", or "container0"."""


class Udev:
    """User space that onlines added memory. It reads uevents and, after a delay, writes to the state file of each new memory
    block (auto_online_blocks removes this delay, 31bc3858ea3e).

    An actor for driver.run. mem: Memory. delay: s from the event to the write. period: s between two reads of the queue.
    online_type: MMOP_ONLINE, MMOP_ONLINE_KERNEL or MMOP_ONLINE_MOVABLE. check: ``check(block) -> bool``, called before a block
    is onlined (the "user level check" of the thread); if it returns False, the block stays offline. now: virtual seconds.
    """

    def __init__(
        self, mem: Memory, delay: float = 0.1, period: float = 0.1, online_type: int = MMOP_ONLINE,
        check: Callable[[Block], bool] | None = None
    ) -> None:
        expect(mem, Memory, "mem")
        if not delay >= 0 or not period > 0:
            raise ValueError(f"invalid delay {delay} s or period {period} s (expected at least 0 and above 0)")
        self.mem = mem
        self.delay = delay
        self.period = period
        self.online_type = online_type
        self.check = check
        self.events: list[Uevent] = []
        """The uevents read so far, oldest first."""
        self.due = 0.0
        self._queue: list[tuple[str, str]] = []     # (action, device)
        self._waiting: dict[int, float] = {}        # block: when it is to be onlined
        mem.events.listen(self._heard)

    def __repr__(self) -> str:
        return f"<Udev events={len(self.events)} waiting={len(self._queue)} due={self.due:g}>"

    def _heard(self, kind, text):
        if kind == "uevent":
            action, _, device = text.partition("@")
            self._queue.append((action, device))

    def tell(self, now: float, action: str, device: str) -> None:
        """Put an event into the queue: the action ("add", "online"...) and the device ("memory32"), at time `now`."""
        self.events.append(Uevent(now, action, device))

    def work(self, now: float) -> None:
        """Read the queue, and online the blocks that are due at `now`."""
        self._look(now)
        for nr in [nr for nr, time in self._waiting.items() if time <= now]:
            if self._waiting.pop(nr, None) is not None:     # not removed meanwhile
                self._online(nr, now)
        self.due = min([now + self.period, *self._waiting.values()])

    def _look(self, now):
        queue, self._queue = self._queue, []
        for action, device in queue:
            self.tell(now, action, device)
            if device.startswith("memory"):
                nr = int(device.removeprefix("memory"))
                if action == "add":
                    self._waiting[nr] = now + self.delay
                elif action == "remove":
                    self._waiting.pop(nr, None)

    def _online(self, nr, now):
        block = self.mem.blocks[nr]
        if block.state == "online" or (self.check is not None and not self.check(block)):
            return
        try:
            block.write_state(WORDS[self.online_type])
        except HotplugError:
            self.tell(now, "failed", f"memory{nr}")
        self._look(now)

    def close(self) -> None:
        """Listen no more."""
        self.mem.events.ignore(self._heard)
        self.due = NEVER


class Container:
    """A container of DIMMs that is a node of its own and is hot-added as a whole (ACPI's container device; Goto in the thread).
    User space gets one event for it besides those of its memory blocks.

    mem: Memory. nid: the node. dimms: (start_pfn, nr_pages) of each. udev: the Udev that gets the event at `now`, virtual s.
    """

    def __init__(self, mem: Memory, nid: int, dimms: Iterable[tuple[int, int]]) -> None:
        expect(mem, Memory, "mem")
        if not dimms:
            raise ValueError(f"container{nid} has no DIMM")
        self.mem = mem
        self.nid = nid
        self.dimms = list(dimms)

    def __repr__(self) -> str:
        return f"<Container node={self.nid} dimms={len(self.dimms)}>"

    def add(self, udev: Udev | None = None, now: float = 0.0) -> None:
        """Add every DIMM and send the event of the container. All or nothing; HotplugError as add_memory."""
        with Undo() as undo:
            for start_pfn, nr_pages in self.dimms:
                add_memory(undo, self.mem, start_pfn, nr_pages, self.nid)
        if udev is not None:
            udev.tell(now, "add", f"container{self.nid}")

    @property
    def _unit(self):
        return self.mem.geometry.pages_per_section

    def _online_again(self, nr):
        """Online section `nr` if it is offline."""
        if not self.mem.sections.online_section_nr(nr):
            with suppress(HotplugError):      # the others are tried all the same
                self.mem.online_pages(nr * self._unit, self._unit)

    def remove(self, udev: Udev | None = None, now: float = 0.0) -> None:
        """Offline and remove every DIMM. All or nothing: HotplugError EBUSY while a page is in use."""
        sections = [nr for start, pages in self.dimms for nr in range(start // self._unit, (start + pages) // self._unit)]
        try:
            with Undo() as undo:
                for nr in sections:
                    if self.mem.sections.online_section_nr(nr):
                        undo.add(self._online_again, nr)
                        self.mem.offline_pages(nr * self._unit, self._unit)
        except HotplugError as e:
            raise HotplugError.of(e.errno, f"container{self.nid} stays: {e.strerror}") from None
        for start_pfn, nr_pages in self.dimms:
            self.mem.remove_memory(start_pfn, nr_pages)
        if udev is not None:
            udev.tell(now, "remove", f"container{self.nid}")

    def online_pages(self) -> int:
        """Return the managed pages of the node."""
        node = self.mem.nodes.get(self.nid)
        return 0 if node is None else node.managed_pages
