"""One run: a strategy on a scenario, step by step, and its results.

All times are virtual: the cost of calls to the host and of the guest's own work advances the guest's clock. The wall time of
the simulation is in `Row.simulation_s` only, so that equal runs give equal output.
"""

from __future__ import annotations

import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from errno import errorcode
from math import nextafter
from typing import Any

import numpy as np

from fastonline.cost.actors import GuestWork, Others, Work
from fastonline.cost.costs import Costs, costs_of
from fastonline.cost.scenario import Scenario
from fastonline.cost.strategies import Strategy, free_blocks, huge_blocks, pages_of_blocks
from fastonline.drivers.account import check_prices
from fastonline.drivers.consumers import Udev
from fastonline.drivers.driver import Actor, run
from fastonline.drivers.host import Host
from fastonline.drivers.hypervisor import ResidentDomain
from fastonline.geometry import PRESETS as GEOMETRIES, format_size


@dataclass(repr=False)
class Row:
    """The result of one strategy: `values` by column, samples and steps. If it was not run, `reason` says why."""

    strategy: str
    reason: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    simulation_s: float = 0.0
    """Wall time of the simulation, s. Not part of as_dict."""

    def __repr__(self) -> str:
        grown = "" if self.reason is not None else f" grown={format_size(self.values['grown_bytes'])}"
        return f"<Row {self.strategy}{grown} samples={len(self.samples)}{f' {self.reason}' if self.reason is not None else ''}>"

    def as_dict(self, samples: bool = True) -> dict[str, Any]:
        """Return plain values. samples: with samples and steps."""
        values = {"strategy": self.strategy, "reason": self.reason, **self.values}
        return {**values, "samples": self.samples, "steps": self.steps} if samples and self.reason is None else values


class Run:
    """One strategy on one scenario: ``Run(scenario, strategy).row()``. strategy: a Strategy. check: validate the driver after
    each step (slow)."""

    def __init__(self, scenario: Scenario, strategy: Strategy, check: bool = False) -> None:
        self.scenario = scenario
        self.strategy = strategy
        self._check = check
        changes = {name: price for name, price in scenario.costs.items() if name != "table"}
        self._costs: Costs = costs_of(scenario.costs.get("table", "published"), changes)
        geometry = GEOMETRIES[scenario.geometry]
        self._page = geometry.page_size
        self.host = Host(scenario.host, self._page, scenario.scattered, scenario.seed)
        self.others = Others(scenario, self.host)
        self.others.work(0.0)
        self.guest = strategy.build(scenario, self.host)
        self.work = Work(scenario, self.guest)
        self.own = GuestWork(self.guest.mem, self._costs.guest_prices(strategy.mechanism))
        self._set_up()
        # from here on it counts
        self.host.prices = check_prices(self._costs.prices(strategy.mechanism))
        domain = self.guest.domain
        domain.page_seconds = 0.0
        domain.reset_peak()
        self.guest.refusals.clear()
        self._start = {"time": domain.now, "size": self.guest.size_pages, "frames": dict(domain.frames),
                       "calls": dict(domain.calls), "own": self.own.counts(),
                       "done": self.own.done(),
                       "present": self._present()}
        self._last = domain.now
        self._most = self.guest.size_pages
        self._peak = self._step_peak = domain.tot_pages
        self._min_free = self.host.free_frames
        self._guest_ns = self._short_page_s = 0.0
        self._short = self.work.short
        self._target = self._reached = None
        self.samples: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []

    def _set_up(self):
        """Set up the guest at its first size, with its workload, at no cost."""
        guest, page = self.guest, self._page
        if guest.follows:
            guest.driver.set_target(self.scenario.boot, 0.0)
        for _ in range(1000):
            actor = min((guest.driver, *guest.actors), key=lambda actor: actor.due)
            if guest.size_pages * page == self.scenario.boot or actor.due > 10.0:
                break
            guest.domain.wait_until(actor.due)
            actor.work(guest.domain.now)
        self.work.work(0.0)

    # -- the course of a run

    def row(self) -> Row:
        """Run it from the first step to the end, and return its Row."""
        began = clock.perf_counter()
        scenario = self.scenario
        acting: tuple[Actor, ...] = (self.work, self.others, self.guest.driver, *self.guest.actors)
        actors = [_Watched(self, actor) for actor in acting]
        self._until(actors, scenario.steps[0][0])
        self.sample(scenario.boot)
        before = scenario.boot
        ends = [time for time, _ in scenario.steps[1:]] + [scenario.end]
        for (time, target), end in zip(scenario.steps, ends, strict=True):
            self._step(actors, time, before, target, end)
            before = target
        return Row(self.strategy.name, None, self._values(), self.samples, self.steps, clock.perf_counter() - began)

    def _until(self, actors, end):
        """Run the actors until just before `end`; work due at `end` belongs to the next step."""
        domain = self.guest.domain
        run(actors, nextafter(end, 0.0), domain.now)
        domain.wait_until(end)
        self.note()

    def _step(self, actors, time, before, target, end):
        guest, domain = self.guest, self.guest.domain
        began, host_ns, guest_ns = domain.now, domain.ns, self._guest_ns
        self._step_peak = domain.tot_pages
        self._target, self._grows, self._reached = target // self._page, target > before, None
        self.work.work(time)
        self.note()
        if guest.follows:
            guest.driver.set_target(target, time)
        self._until(actors, end)
        host_s, guest_s = (domain.ns - host_ns) / 1e9, (self._guest_ns - guest_ns) / 1e9
        usable = None if self._reached is None else self._reached - began
        overshoot = max(0, self._step_peak - self._target) if target > before else 0
        self.steps.append({
            "time": time, "target_bytes": target, "reached": self._reached is not None, "usable_s": rounded(usable),
            "host_s": rounded(host_s), "guest_s": rounded(guest_s),
            "wait_s": None if usable is None else rounded(max(0.0, usable - host_s - guest_s)),
            "peak_bytes": self._step_peak * self._page, "overshoot_bytes": overshoot * self._page,
        })
        self.sample(target)
        if self._check:
            guest.driver.validate()

    def note(self) -> None:
        """Update integrals and extremes after an actor worked, and let the workload allocate what it still lacks."""
        guest, domain = self.guest, self.guest.domain
        peak = domain.reset_peak()
        self._step_peak = max(self._step_peak, peak)
        self._peak = max(self._peak, peak)
        self._min_free = min(self._min_free, self.host.nr_frames - peak - self.others.pages)
        self._short_page_s += self._short * (domain.now - self._last)
        self._last = domain.now
        self._short = self.work.short
        if self._short:
            self.work.adjust()
            self._short = self.work.short
        size = guest.size_pages
        self._most = max(self._most, size)
        if self._reached is None and self._target is not None and guest.follows:
            there = size >= self._target if self._grows else size <= self._target
            self._reached = domain.now if there else None

    def pay(self, before: Mapping[str, int]) -> None:
        """The guest's clock moves on by what the guest did itself since GuestWork.counts said `before`."""
        ns = self.own.ns(self.own.since(before))
        if ns:
            self._guest_ns += ns
            self.guest.domain.wait(ns / 1e9)

    # -- what is written down

    def _free_backed(self, free):
        """Of `free` pages of the guest, those that hold a frame: all pages held that are not in use, where swapping took none
        of those."""
        domain = self.guest.domain
        if not isinstance(domain, ResidentDomain):
            return free
        if domain.swapped_out or self.guest.refusals["ENOMEM"]:
            return domain.tot_pages - int(np.count_nonzero(domain.backed(self.work.pfns())))
        return domain.tot_pages - self.work.pages

    def _present(self):
        return self.guest.mem.sections.present.weight() * self.guest.mem.geometry.pages_per_section

    def sample(self, target: int) -> None:
        """Write down what there is now; target: in bytes."""
        mem, page = self.guest.mem, self._page
        nr_free = free_blocks(mem)
        free = pages_of_blocks(nr_free)
        held, host_free, others = self.guest.domain.tot_pages, self.host.free_frames, self.others.pages
        present = sum(zone.present_pages for zone in mem.zones.values())
        self.samples.append({
            "time": rounded(self.guest.domain.now), "target_bytes": target, "size_bytes": self.guest.size_pages * page,
            "total_bytes": mem.totalram_pages * page, "free_bytes": free * page,
            "in_use_bytes": (mem.totalram_pages - free) * page, "demand_bytes": self.work.demand * page,
            "held_bytes": held * page, "host_free_bytes": host_free * page, "others_bytes": others * page,
            "free_backed_bytes": self._free_backed(free) * page, "unfreeable_pages": present - mem.totalram_pages,
            "nr_free": nr_free, "unusable_index": unusable_index(nr_free), "huge_blocks": huge_blocks(mem, nr_free),
        })

    def _values(self):
        guest, mem, domain, page, start = self.guest, self.guest.mem, self.guest.domain, self._page, self._start
        calls = {name: nr - start["calls"][name] for name, nr in domain.calls.items() if nr > start["calls"][name]}
        frames = {name: nr - start["frames"][name] for name, nr in domain.frames.items() if nr > start["frames"][name]}
        own = self.own.since(start["own"])
        memmap = mem.rules.struct_page_bytes[mem.geometry.bits == 64]
        most_unfreeable = max(sample["unfreeable_pages"] for sample in self.samples)
        return {
            "grown_bytes": (self._most - start["size"]) * page,
            "overshoot_bytes": max(step["overshoot_bytes"] for step in self.steps),
            "peak_bytes": self._peak * page,
            "held_byte_seconds": round(domain.page_seconds * page),
            "free_backed_bytes": max(sample["free_backed_bytes"] for sample in self.samples),
            "host_min_free_bytes": self._min_free * page,
            "shortfall_byte_seconds": round(self._short_page_s * page),
            "steps_reached": sum(step["reached"] for step in self.steps) if guest.follows else None,
            "usable_s": max((step["usable_s"] for step in self.steps if step["usable_s"] is not None), default=None),
            "host_s": rounded(domain.ns / 1e9),
            "guest_s": rounded(self._guest_ns / 1e9),
            "wait_s": rounded(sum(step["wait_s"] for step in self.steps if step["wait_s"] is not None)),
            "assumed": self._assumed(calls, own),
            "touched_pages": frames.get("touch", 0),
            "swapped_dead_pages": getattr(domain, "dead_pages", 0),
            "swapped_used_pages": getattr(domain, "used_pages", 0),
            **{name: nr - start["done"][name] for name, nr in self.own.done().items()},
            "memmap_pages": -(-self._present() * memmap // page),
            "memmap_added_pages": -(-max(0, self._present() - start["present"]) * memmap // page),
            "memmap_paid_by": MEMMAP_PAID_BY[mem.memmap],
            "unfreeable_pages": most_unfreeable,
            "unfreeable": self._unfreeable(),
            "refusals": dict(sorted(guest.refusals.items())),
            "refused_frames": dict(domain.refused),
            "calls": calls,
            "frames": frames,
            "driver": guest.driver.counts(),
        }

    def _unfreeable(self):
        """{zone: present pages that cannot be freed}, at the end."""
        return {zone.name: zone.present_pages - zone.managed_pages for zone in self.guest.mem.zones.values()
                if zone.present_pages != zone.managed_pages}

    def _assumed(self, calls, own):
        """Names of the prices without a published figure that were paid, sorted."""
        host, prices = self._costs.host[self.strategy.mechanism], self._costs.guest_prices(self.strategy.mechanism)
        paid = [(name, host[name]) for name in calls if name in host]
        paid += [(name, prices[name]) for name, nr in own.items() if nr > 0]
        names = {name for name, price in paid if price.assumed and not price.free}
        if any(isinstance(actor, Udev) for actor in self.guest.actors) and own["uevent"]:
            names.add("user_delay")
        return sorted(names)


MEMMAP_PAID_BY = {None: "nobody (not modelled)", "kernel": "the guest's kernel zones", "on_memory": "the added memory"}
"""{Memory.memmap: who pays for the descriptors of added memory}"""


def rounded(seconds: float | None) -> float | None:
    """`seconds` to the nanosecond."""
    return None if seconds is None else round(seconds, 9)


def unusable_index(nr_free: Sequence[int]) -> list[float]:
    """Share of the free memory that cannot serve an allocation, for each order (unusable_free_index, mm/vmstat.c): 1.0 where
    nothing is free. nr_free: free blocks by order."""
    free = pages_of_blocks(nr_free)
    index, usable = [], free
    for order, nr in enumerate(nr_free):
        index.append((1000 * (free - usable) // free) / 1000 if free else 1.0)
        usable -= nr << order
    return index


class _Watched:
    """An actor of a run, with the costs and the counts of what it does."""

    def __init__(self, run: Run, actor: Actor) -> None:
        self._run = run
        self._actor = actor
        self._pays = not isinstance(actor, (Work, Others))

    @property
    def due(self):
        return self._actor.due

    def work(self, now):
        run, domain = self._run, self._run.guest.domain
        domain.wait_until(now)
        if self._pays:
            before = run.own.counts()
            self._actor.work(now)
            run.pay(before)
            device = getattr(self._actor, "device", None)
            if device is not None and device.errno:
                run.guest.refusals[errorcode[device.errno]] += 1
        else:
            self._actor.work(now)
        run.note()
