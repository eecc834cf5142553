"""The actors of a run besides the strategy's driver: the guest itself, its workload, and the host's other guests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastonline.cost.scenario import Scenario
from fastonline.cost.strategies import Guest, pages_of_blocks
from fastonline.drivers.driver import NEVER, alloc_highuser
from fastonline.drivers.host import Host
from fastonline.drivers.hypervisor import Domain, ResidentDomain
from fastonline.errors import HotplugError
from fastonline.hotplug.memory import Memory
from fastonline.hotplug.migrate import MovablePages

COUNTED = ("notifications", "watermark_recomputations", "pageblocks_scanned", "zonelist_builds")
"""The counters of Memory.stats that a run reports."""


class GuestWork:
    """Counts the work of a guest and its cost: descriptors, pages freed and allocated, notifier calls, uevents, scans.

    mem: Memory. prices: {what: Price} of a table of costs. It listens to the machine's events.
    """

    def __init__(self, mem: Memory, prices: Any) -> None:
        self._mem = mem
        self._prices = prices
        self.uevents = 0
        self.contiguous_scans = 0
        """Pageblocks scanned by set_zone_contiguous (mm/page_alloc.c, 4.7): the whole zone for each memory block."""
        self._zone_of: dict[int, Any] = {}
        mem.events.listen(self._heard)

    def done(self) -> dict[str, int]:
        """Return {column of a row: count} so far."""
        stats = self._mem.stats().as_dict()
        return {**{name: stats[name] for name in COUNTED}, "uevents": self.uevents, "contiguous_scans": self.contiguous_scans}

    def _heard(self, kind, text):
        if kind != "uevent":
            return
        self.uevents += 1
        action, _, device = text.partition("@")
        if device.startswith("memory") and self._mem.rules.zone_contiguous:
            nr = int(device.removeprefix("memory"))
            if action == "online":
                self._zone_of[nr] = self._mem.zone_of(nr * self._mem.pages_per_block)
            if action in ("online", "offline") and self._zone_of.get(nr) is not None:
                self.contiguous_scans += self._zone_of[nr].spanned_pages >> self._mem.geometry.pageblock_order

    def counts(self) -> dict[str, int]:
        """Return {name of a price: count} so far."""
        mem, stats = self._mem, self._mem.stats()
        frees = stats["frees"]
        return {
            "add_page": mem.sections.present.weight() * mem.geometry.pages_per_section,
            "alloc_page": pages_of_blocks(stats["allocations"]),
            "online_page": frees[0],
            "online_block": pages_of_blocks(frees) - frees[0],
            "notifier": stats["notifications"],
            "uevent": self.uevents,
            "scan_pageblock": stats["pageblocks_scanned"],
            "scan_contiguous": self.contiguous_scans,
        }

    def since(self, before: Mapping[str, int]) -> dict[str, int]:
        """Return {name of a price: count} since `counts` returned `before`."""
        return {name: nr - before[name] for name, nr in self.counts().items()}

    def ns(self, counts: Mapping[str, int]) -> float:
        """Return the cost of `counts`, ns."""
        return sum(nr * (self._prices[what].call + self._prices[what].frame) for what, nr in counts.items() if nr > 0)


class Work:
    """The workload as an actor: it takes and frees pages so that the guest uses what the scenario demands. guest: Guest."""

    def __init__(self, scenario: Scenario, guest: Guest) -> None:
        page = guest.mem.geometry.page_size
        load = scenario.workload
        self._times, wanted = load.demand(scenario.boot, scenario.maximum, scenario.steps, scenario.end, scenario.seed)
        self._wanted = wanted // page
        self._load = load
        self._guest = guest
        self._rng = np.random.default_rng([scenario.seed, 2])
        self._next = 0
        self.demand = 0
        """The number of pages that the workload wants now."""
        self._movable = MovablePages(guest.mem, self._moved)
        self._fixed = np.empty(0, np.int64)

    @property
    def due(self) -> float:
        """The time of the next change of the demand, s."""
        return float(self._times[self._next]) if self._next < self._times.size else NEVER

    @property
    def pages(self) -> int:
        """The number of pages in use."""
        return len(self._movable) + self._fixed.size

    def pfns(self) -> NDArray[np.int64]:
        """int64 array: the pages in use."""
        return np.concatenate([self._movable.pfns, self._fixed])

    @property
    def short(self) -> int:
        """The number of pages that are missing."""
        return max(0, self.demand - self.pages)

    def work(self, now: float) -> None:
        """Set the demand for the time `now`, s."""
        self._next = int(np.searchsorted(self._times, now, "right"))
        self.demand = int(self._wanted[self._next - 1])
        self.adjust()

    def adjust(self) -> None:
        """Free or allocate pages to meet the demand, as far as possible."""
        movable = round(self.demand * self._load.movable)
        for kind, wanted in (("movable", movable), ("fixed", self.demand - movable)):
            have = len(self._movable) if kind == "movable" else self._fixed.size
            if wanted < have:
                self._free(kind, have - wanted)
        for kind, wanted in (("fixed", self.demand - movable), ("movable", movable)):
            have = len(self._movable) if kind == "movable" else self._fixed.size
            if wanted > have:
                self._take(kind, wanted - have)

    def _take(self, kind, nr):
        mem, domain = self._guest.mem, self._guest.domain
        pfns = alloc_highuser(mem, nr, highest="Movable" if kind == "movable" else "Normal")
        if kind == "movable":
            self._movable.adopt(pfns)
        else:
            self._fixed = np.concatenate([self._fixed, pfns])
        if isinstance(domain, ResidentDomain) and pfns.size:
            self._touch(pfns)

    def _touch(self, pfns):
        """Write pages. If the host has no frame left, count a refusal."""
        domain, pfns = self._guest.domain, np.sort(pfns, kind="stable")
        try:
            domain.touch(pfns)
        except HotplugError:
            self._guest.refusals["ENOMEM"] += 1

    def _moved(self, old, new):
        if isinstance(self._guest.domain, ResidentDomain):
            self._touch(new)

    def _free(self, kind, nr):
        have = len(self._movable) if kind == "movable" else self._fixed.size
        random = self._load.free_order == "random"
        if random and nr < have:
            indices = self._rng.choice(have, nr, replace=False, shuffle=False)
        else:
            first = 0 if self._load.free_order == "oldest" else have - nr
            indices = np.arange(first, first + nr)
        if kind == "movable":
            self._movable.free_at(indices, ordered=not random)
        else:
            pfns = self._fixed[indices]
            self._fixed = np.delete(self._fixed, indices)
            self._guest.mem.page_lists.free(pfns)


class Others:
    """The other guests of a host, as an actor. They take and return frames at the times of the scenario, while frames last."""

    RETRY = 1.0     # s until missing frames are requested again

    def __init__(self, scenario: Scenario, host: Host) -> None:
        self._steps = [(other.steps, Domain(host, name=other.name)) for other in scenario.others]
        self._page = host.page_size
        self.due = 0.0 if self._steps else NEVER

    @property
    def pages(self) -> int:
        """The number of frames that they hold."""
        return sum(domain.tot_pages for _, domain in self._steps)

    def work(self, now: float) -> None:
        """Take or return frames for the time `now`, s."""
        self.due = NEVER
        for steps, domain in self._steps:
            wanted = next((size for at, size in reversed(steps) if at <= now), 0) // self._page
            held = domain.tot_pages
            if wanted < held:
                domain.unback(np.arange(wanted, held))
            elif wanted > held and domain.back(np.arange(held, wanted)) < wanted - held:
                self.due = now + self.RETRY
            self.due = min([self.due, *(at for at, _ in steps if at > now)])
