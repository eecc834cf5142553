"""DIMMs: memory that is plugged and unplugged by the memory block."""

from __future__ import annotations

import errno
from collections import Counter

import numpy as np

from fastonline.core.undo import Undo
from fastonline.drivers.driver import NEVER, Driver, add_memory, free_range
from fastonline.drivers.hypervisor import Domain
from fastonline.errors import HotplugError
from fastonline.hotplug.memory import Memory


def add_section(driver: Driver, backed: bool) -> int:
    """Hot-add one memory block to the guest of `driver` and return its first pfn. backed: the host provides all of its frames
    first. HotplugError ENOMEM if it has too few, else as add_memory. A failed call changes nothing."""
    mem, domain = driver.mem, driver.domain
    start = free_range(mem, mem.pages_per_block)
    with Undo() as undo:
        if backed:
            pfns = np.arange(start, start + mem.pages_per_block)
            undo.add(_unback, domain, pfns)
            got = domain.back(pfns)
            if got < pfns.size:
                raise HotplugError.of(errno.ENOMEM, f"the host has {got} of {pfns.size} frames")
        add_memory(undo, mem, start, mem.pages_per_block)
    return start


def _unback(domain, pfns):
    """Return the frames of those of the pages that have one."""
    domain.unback(pfns[domain.backed(pfns)])


class Dimms(Driver):
    """DIMMs, plugged and unplugged as a whole. User space onlines their memory (Yasunori Goto in the 2008 thread).

    mem, domain: as Driver. refusals: {name of an errno: times}. auto_online: the kernel onlines added memory at once. A DIMM is
    one memory block. The guest gets as many as its target needs. DIMMs above the target are offlined and removed, newest first.
    A DIMM with pages in use stays, and is tried again after RETRY seconds.
    """

    RETRY = 10.0

    def __init__(
        self, mem: Memory, domain: Domain, refusals: Counter[str] | None = None, auto_online: bool = False
    ) -> None:
        super().__init__(mem, domain)
        self.refusals: Counter[str] = Counter() if refusals is None else refusals
        if auto_online:
            mem.auto_online_blocks = "online"
        self._dimms: list[int] = []

    def counts(self) -> dict[str, int]:
        """{"dimms": those that are plugged, "refused": times}."""
        return {"dimms": len(self._dimms), "refused": sum(self.refusals.values())}

    def _work(self):
        self.due = NEVER
        unit = self.mem.pages_per_block
        try:
            while self.current_pages < self.target_pages:
                if self.domain.available(unit) < unit:
                    raise HotplugError.of(errno.ENOMEM, "the host does not have enough free frames for a DIMM")
                self._dimms.append(add_section(self, backed=True))
        except HotplugError as e:
            self._refused(e)
        for start in self._dimms[::-1]:
            if self.current_pages - unit < self.target_pages:
                break
            try:
                block = self.mem.blocks[start // unit]
                if block.state == "online":
                    block.offline()
                self.mem.remove_memory(start, unit)
            except HotplugError as e:
                self._refused(e)
                continue
            self._dimms.remove(start)
            self.domain.unback(np.arange(start, start + unit))

    def _refused(self, error):
        self.refusals[errno.errorcode[error.errno]] += 1
        self.due = self.domain.now + self.RETRY
