"""The ways for a guest to grow and shrink that the 2008 thread proposed, and those that came later, each as a driver with a
target.

`STRATEGIES` has them by name; `Strategy.build` makes the `Guest` of a scenario on a host. One of your own::

    >>> import fastonline as fo
    >>> from fastonline.cost.compare import compare
    >>> from fastonline.cost.scenario import scenario
    >>> from fastonline.cost.strategies import STRATEGIES, Guest, Strategy
    >>> from fastonline.drivers.hypervisor import Domain
    >>> from fastonline.drivers.xen import XEN_3_1, XenBalloon
    >>> def build(given, host):
    ...     mem = fo.Memory(given.geometry, boot=given.boot, rules=given.rules)
    ...     return Guest(XenBalloon(mem, Domain(host, given.boot), XEN_3_1, batch=64))
    >>> STRATEGIES["mine"] = Strategy("mine", "me", "the callback, 64 pages at a time", "xen", build)
    >>> for row in compare(scenario("thread-dry"), ["callback", "mine"]).rows:
    ...     print(row.strategy, sum(row.values["calls"].values()))
    callback 54864
    mine 57744
    >>> del STRATEGIES["mine"]
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import lshift
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastonline.core.pageflags import PG_buddy
from fastonline.core.undo import Undo
from fastonline.cost.scenario import Scenario
from fastonline.drivers.cmm import Cmm2, HintedDomain
from fastonline.drivers.consumers import Udev
from fastonline.drivers.dimm import Dimms, add_section
from fastonline.drivers.driver import NEVER, Actor, Driver, PageList, alloc_highuser, check_guest, free_heads, ram_pages
from fastonline.drivers.extents import pages_of_extents, parts_of_extents
from fastonline.drivers.host import Host
from fastonline.drivers.hyperv import HvBalloon
from fastonline.drivers.hypervisor import Domain, ResidentDomain
from fastonline.drivers.virtio_balloon import REPORTING_DELAY, VirtioBalloonDriver
from fastonline.drivers.virtio_mem import VirtioMemDriver
from fastonline.drivers.xen import XEN_2_6_26, XEN_3_1, XEN_6_18, XEN_THREAD, XenBalloon
from fastonline.errors import HotplugError
from fastonline.geometry import PRESETS as GEOMETRIES
from fastonline.hotplug.memory import Memory
from fastonline.rules import LINUX_2_6_25, PRESETS as RULES

HUGE = 2 << 20
"""Bytes of the blocks that reporting, HyperAlloc and the policy work with."""


@dataclass
class Guest:
    """A guest that was built for a strategy: its driver, and what else acts in it. limited: the domain's limit bounds what it
    can use, its memory does not. follows: it gets the scenario's targets; if False, a host policy decides, or its size never
    changes. refusals: {name of an errno: how often something was refused}."""

    driver: Driver
    actors: tuple[Actor, ...] = ()
    limited: bool = False
    follows: bool = True
    refusals: Counter[str] = field(default_factory=Counter)

    @property
    def mem(self) -> Memory:
        """The Memory of the guest."""
        return self.driver.mem

    @property
    def domain(self) -> Domain:
        """The Domain of the guest."""
        return self.driver.domain

    @property
    def size_pages(self) -> int:
        """The number of pages that the guest can use."""
        pages = self.mem.totalram_pages
        limit = self.domain.max_pages if self.limited else None
        return pages if limit is None else min(pages, limit)


@dataclass(frozen=True)
class Strategy:
    """One way to grow. `mechanism` names its prices in a table of costs; `build(scenario, host)` makes the Guest;
    `whole_blocks`: it needs a kernel that adds whole memory blocks, which 2.6.25 does not."""

    name: str
    who: str
    what: str
    mechanism: str
    build: Callable[[Scenario, Host], Guest]
    whole_blocks: bool = False

    def forbidden(self, scenario: Scenario) -> str | None:
        """Return why the rules of a scenario forbid it, or None."""
        if self.whole_blocks and not RULES[scenario.rules].aligned:
            return f"Linux {scenario.rules} adds ranges of any size, this needs whole memory blocks"
        return None


# -- drivers that only a comparison needs

def _added(driver: Driver, refusals: Counter[str], backed: bool) -> int | None:
    """Add a section, `backed` or not, to the driver's guest. Return its first page, or count the refusal and return None."""
    try:
        return add_section(driver, backed)
    except HotplugError as e:
        refusals[errno.errorcode[e.errno]] += 1
        return None


class WholeSections(XenBalloon):
    """Dave Hansen's proposal for Xen: online a whole section, then inflate the balloon by the excess.

    mem, domain, batch: as XenBalloon. A section for which the host has not all frames is not tried again before a new target.
    refusals: {name of an errno: times}.
    """

    def __init__(self, mem: Memory, domain: Domain, batch: int | None, refusals: Counter[str]) -> None:
        super().__init__(mem, domain, XEN_2_6_26, batch=batch)
        self.refusals = refusals

    def _work(self):
        while self.target_pages > self.current_pages + self.balloon_pages and self.hard_limit is None:
            start = _added(self, self.refusals, backed=True)
            if start is None:
                self.hard_limit = self.current_pages + self.balloon_pages
                break
            self.mem.online_pages(start, self.mem.pages_per_block)
            self._total_pages += self.mem.pages_per_block
        super()._work()


class WholeUntouched(VirtioBalloonDriver):
    """Dave Hansen's second thought: online a whole section that has no frame behind it before its first touch, then let the
    balloon take what is too much. mem, domain: as VirtioBalloonDriver. refusals: {name of an errno: times}, such as of a guest
    without room for a section's memmap."""

    def __init__(self, mem: Memory, domain: ResidentDomain, refusals: Counter[str]) -> None:
        super().__init__(mem, domain)
        self.refusals = refusals

    def _work(self):
        while self.target_pages > ram_pages(self.mem):
            start = _added(self, self.refusals, backed=False)
            if start is None:
                break
            self.mem.online_pages(start, self.mem.pages_per_block)
        self.set_target(self.target_pages << self.mem.geometry.page_shift, self.domain.now)
        super()._work()


class Plain(Driver):
    """Anthony Liguori's way for KVM: plain hot-add of whole sections, which user space onlines, and a limit of what may be
    resident. It never takes memory away. mem, domain (a ResidentDomain): as Driver. refusals: as of WholeUntouched."""

    domain: ResidentDomain

    def __init__(self, mem: Memory, domain: ResidentDomain, refusals: Counter[str]) -> None:
        super().__init__(mem, domain)
        self.refusals = refusals

    def _work(self):
        self.due = NEVER
        while self.target_pages > self.mem.sections.present.weight() * self.mem.geometry.pages_per_section:
            if _added(self, self.refusals, backed=False) is None:
                break
        self.domain.set_limit(self.target_pages * self.mem.geometry.page_size)


class PromptUdev(Udev):
    """User space that is woken by each uevent, as udevd is, instead of polling a queue. mem, delay: as Udev."""

    def __init__(self, mem: Memory, delay: float) -> None:
        super().__init__(mem, delay)
        self.due = NEVER

    def _heard(self, kind, text):
        super()._heard(kind, text)
        self.due = 0.0

    def work(self, now: float) -> None:
        """As Udev.work; now: s."""
        super().work(now)
        self.due = min(self._waiting.values(), default=NEVER)


class HugeBalloon(Driver):
    """A balloon of 2 MiB blocks, as the HyperAlloc authors measured it beside their own.

    mem, domain (a ResidentDomain): as Driver. told: the guest sends a message for each 256 blocks; else the host looks itself,
    which is what HyperAlloc does (`shared`). period: s between two looks of the host for free blocks that hold frames, NEVER:
    it takes none but what a target makes it take.
    """

    domain: ResidentDomain
    MESSAGE = 256      # VIRTIO_BALLOON_ARRAY_PFNS_MAX

    def __init__(self, mem: Memory, domain: ResidentDomain, told: bool = True, period: float = NEVER) -> None:
        check_guest(mem, domain, ResidentDomain)
        self._list = PageList()
        self._size = mem.totalram_pages
        self.order = HUGE.bit_length() - 1 - mem.geometry.page_shift
        super().__init__(mem, domain)
        self._told = told
        self._seen: tuple[Any, ...] = ()
        self._period = period
        self._look_at = self.due = period

    @property
    def current_pages(self) -> int:
        """The number of pages outside of the balloon."""
        return self._size - (len(self._list) << self.order)

    def counts(self) -> dict[str, int]:
        """{"balloon": pages in it}."""
        return {"balloon": len(self._list) << self.order}

    def _work(self):
        self.due = NEVER
        missing = (self.current_pages - self.target_pages) >> self.order
        if missing > 0:
            if self._inflate(missing) < missing:
                self.due = self.domain.now + 1.0
        elif self.target_pages > self.current_pages and len(self._list):
            heads = self._list.head(-(-(self.target_pages - self.current_pages) >> self.order))
            self.domain.count("host_message", self._calls(heads.size), heads.size << self.order)
            for pfns in parts_of_extents(heads, self.order):
                self.mem.free_reserved_pfns(pfns)
                self._list.drop_head(pfns.size >> self.order)
        if self.domain.now >= self._look_at:
            self._look_at = self.domain.now + self._period
            self._take_free()
        self.due = min(self.due, self._look_at)

    def _inflate(self, blocks):
        """Take so many blocks from the guest, as far as it has them, and return how many."""
        heads = alloc_highuser(self.mem, blocks, self.order, highest="Movable")
        if heads.size:
            with Undo() as undo:
                undo.add(self._return, heads)
                for pfns in parts_of_extents(heads, self.order):
                    self.mem.set_pfns_offline(pfns)
                self.domain.discard(heads, self._calls(heads.size), self.order)
                self._list.add_head(heads)
        return heads.size

    def _return(self, heads):
        """Free blocks that were taken, whether their pages are PG_offline by now or not."""
        for head in heads.tolist():
            if "PG_offline" in self.mem.page_flags(head):
                pfns = pages_of_extents(np.array([head]), self.order)
                self.mem.clear_pfns_offline(pfns)
                self.mem.free_pfns(pfns)
            else:
                self.mem.free_pages(head, self.order)

    def _calls(self, blocks):
        return -(-blocks // self.MESSAGE) if self._told else 0

    def _take_free(self):
        """Return the frames of every free block of 2 MiB to the host, without involving the guest."""
        stats = self.mem.stats()
        seen = (stats["frees"], stats["allocations"], self.domain.frames["touch"])
        if seen == self._seen:
            return
        self._seen = seen
        free = parts_of_extents(free_heads(self.mem, self.order), self.order)
        pfns = np.concatenate([np.empty(0, np.int64), *(part[self.domain.backed(part)] for part in free)])
        if pfns.size:
            self.domain.discard(pfns, calls=0)

    def validate(self) -> None:
        """As Driver.validate, and: what is in the balloon has no frame."""
        super().validate()
        self.check_balloon(pages_of_extents(self._list.view(), self.order))


class HostPolicy:
    """The host's policy of the HyperAlloc paper, which drives virtio-mem by the guest's free huge blocks: an actor.

    driver: the VirtioMemDriver. least, most: pages of the guest. period: s between two looks. A step is 1/16 of the most; it
    grows by two steps when less than half of one is free, by one when less than one is, and shrinks by one when more than two
    are.
    """

    def __init__(self, driver: VirtioMemDriver, least: int, most: int, period: float) -> None:
        self._driver = driver
        self._least, self._most = least, most
        self._period = period
        self.due = 0.0

    def work(self, now: float) -> None:
        """Look at the time `now` (s), and set a target."""
        driver, step = self._driver, self._most // 16
        free = huge_blocks(driver.mem, free_blocks(driver.mem)) * (HUGE // driver.mem.geometry.page_size)
        change = 2 if 2 * free < step else 1 if free < step else -1 if free > 2 * step else 0
        target = min(max(driver.target_pages + change * step, self._least), self._most)
        if target != driver.target_pages:
            driver.set_target(target * driver.mem.geometry.page_size, now)
        self.due = now + self._period


def free_blocks(mem: Memory) -> list[int]:
    """Free blocks of a machine `mem`, by order."""
    return [sum(counts) for counts in zip(*[zone.nr_free for zone in mem.zones.values()], strict=True)]


def pages_of_blocks(blocks: Sequence[int]) -> int:
    """Pages of so many `blocks`, by order."""
    return sum(map(lshift, blocks, range(len(blocks))))


def huge_blocks(mem: Memory, blocks: Sequence[int]) -> int:
    """Blocks of 2 MiB in free `blocks` of a machine `mem`, by order."""
    return pages_of_blocks(blocks[HUGE.bit_length() - 1 - mem.geometry.page_shift :])


class CountsSwapped(ResidentDomain):
    """A ResidentDomain that knows what it swaps out: `dead_pages` were free in the guest, `used_pages` were in use.

    mem, a Memory, is set when the guest is there."""

    mem: Memory | None = None
    dead_pages = 0
    used_pages = 0

    def victims(self, nr: int) -> NDArray[np.int64]:
        """As ResidentDomain.victims; nr: pages."""
        self._victims = super().victims(nr)
        return self._victims

    def reclaim(self, nr: int) -> int:
        """As ResidentDomain.reclaim; nr: pages."""
        got = super().reclaim(nr)
        swapped = self._victims[self.swapped(self._victims)]
        if swapped.size and self.mem is not None:
            first = int(swapped.min())
            states = self.mem.page_states(first, int(swapped.max()) + 1 - first)[swapped - first]
            dead = int(np.count_nonzero(states & PG_buddy))
            self.dead_pages += dead
            self.used_pages += swapped.size - dead
        return got


class CountsSwappedHinted(CountsSwapped, HintedDomain):
    """The same of a HintedDomain."""


# -- how each is built

def _memory(scenario: Scenario, boot: int) -> Memory:
    return Memory(
        GEOMETRIES[scenario.geometry], boot=boot, rules=RULES[scenario.rules], engine=scenario.engine,
        memory_block_size=scenario.memory_block_size, memmap=scenario.memmap,
    )


def _resident(mem: Memory, host: Host, limit: int | None = None, hinted: bool = False) -> Any:
    domain = (CountsSwappedHinted if hinted else CountsSwapped)(host, limit)
    domain.mem = mem
    return domain


def _least(scenario: Scenario) -> int:
    """The least that the guest is ever asked to have: what cannot go below its boot memory boots with that."""
    return min(scenario.boot, *(target for _, target in scenario.steps))


def _split(scenario: Scenario, host: Host) -> Guest:
    domain = Domain(host, scenario.boot, scenario.maximum)
    return Guest(XenBalloon(_memory(scenario, scenario.boot), domain, XEN_THREAD, batch=scenario.batch))


def _callback(scenario: Scenario, host: Host) -> Guest:
    behaviour = XEN_3_1 if scenario.rules == LINUX_2_6_25.name else XEN_6_18
    domain = Domain(host, scenario.boot, scenario.maximum)
    return Guest(XenBalloon(_memory(scenario, scenario.boot), domain, behaviour, batch=scenario.batch))


def _whole(scenario: Scenario, host: Host) -> Guest:
    refusals: Counter[str] = Counter()
    domain = Domain(host, scenario.boot)
    return Guest(WholeSections(_memory(scenario, scenario.boot), domain, scenario.batch, refusals), refusals=refusals)


def _whole_touch(scenario: Scenario, host: Host) -> Guest:
    mem, refusals = _memory(scenario, scenario.boot), Counter[str]()
    return Guest(WholeUntouched(mem, _resident(mem, host), refusals), refusals=refusals)


def _kvm(scenario: Scenario, host: Host) -> Guest:
    mem, refusals = _memory(scenario, scenario.boot), Counter[str]()
    driver = Plain(mem, _resident(mem, host, scenario.boot), refusals)
    return Guest(driver, (PromptUdev(mem, scenario.user_delay),), limited=True, refusals=refusals)


def _dimm(scenario: Scenario, host: Host) -> Guest:
    mem, refusals = _memory(scenario, _least(scenario)), Counter[str]()
    driver = Dimms(mem, Domain(host, _least(scenario)), refusals)
    return Guest(driver, (PromptUdev(mem, scenario.user_delay),), refusals=refusals)


def _cmm2(scenario: Scenario, host: Host) -> Guest:
    mem = _memory(scenario, scenario.maximum)
    return Guest(Cmm2(mem, _resident(mem, host, scenario.boot, hinted=True)), limited=True)


def _boot_big(scenario: Scenario, host: Host) -> Guest:
    mem = _memory(scenario, scenario.maximum)
    return Guest(VirtioBalloonDriver(mem, _resident(mem, host)))


def _boot_big_huge(scenario: Scenario, host: Host) -> Guest:
    mem = _memory(scenario, scenario.maximum)
    return Guest(HugeBalloon(mem, _resident(mem, host)))


def _reporting(scenario: Scenario, host: Host) -> Guest:
    mem = _memory(scenario, scenario.maximum)
    driver = VirtioBalloonDriver(mem, _resident(mem, host), reporting=True)
    return Guest(driver, follows=False)


def _shared(scenario: Scenario, host: Host) -> Guest:
    mem = _memory(scenario, scenario.maximum)
    return Guest(HugeBalloon(mem, _resident(mem, host), told=False, period=REPORTING_DELAY))


def _device(scenario: Scenario, host: Host, block_size: int) -> VirtioMemDriver:
    mem = _memory(scenario, _least(scenario))
    return VirtioMemDriver(mem, _resident(mem, host, scenario.maximum), block_size, backing="touch")


def _virtio_mem(scenario: Scenario, host: Host) -> Guest:
    return Guest(_device(scenario, host, HUGE))


def _virtio_mem_huge(scenario: Scenario, host: Host) -> Guest:
    return Guest(_device(scenario, host, 64 * HUGE))


def _policy(scenario: Scenario, host: Host) -> Guest:
    driver = _device(scenario, host, HUGE)
    page = driver.mem.geometry.page_size
    policy = HostPolicy(driver, scenario.boot // page, scenario.maximum // page, scenario.policy_period)
    return Guest(driver, (policy,), follows=False)


def _hyperv(scenario: Scenario, host: Host) -> Guest:
    return Guest(HvBalloon(_memory(scenario, scenario.boot), Domain(host, scenario.boot, scenario.maximum)))


STRATEGIES = {strategy.name: strategy for strategy in (
    Strategy("split", "Jeremy Fitzhardinge", "prepare whole sections, online the pages that the host backs", "xen", _split),
    Strategy("callback", "KAMEZAWA Hiroyuki", "online whole sections, a callback keeps what is not backed", "xen", _callback),
    Strategy("whole", "Dave Hansen", "online whole sections, then balloon down", "xen", _whole),
    Strategy("whole-touch", "Dave Hansen", "the same, and the host backs pages at their first touch", "balloon", _whole_touch),
    Strategy("kvm", "Anthony Liguori", "plain hot-add, and a limit of what is resident", "kvm", _kvm),
    Strategy("dimm", "Yasunori Goto", "whole DIMMs, and user space decides", "xen", _dimm),
    Strategy("cmm2", "Dave Hansen", "boot large; a page is made stable on its way out of the allocator", "cmm2", _cmm2),
    Strategy("boot-big", "virtio-balloon", "boot large, balloon down", "balloon", _boot_big),
    Strategy("boot-big-huge", "HyperAlloc's authors", "the same by blocks of 2 MiB", "balloon-huge", _boot_big_huge),
    Strategy("reporting", "free page reporting", "boot large, report free blocks every 2 s", "reporting", _reporting),
    Strategy("virtio-mem", "David Hildenbrand", "plug and unplug by 2 MiB", "virtio-mem", _virtio_mem, True),
    Strategy("virtio-mem-huge", "David Hildenbrand", "plug and unplug by 128 MiB", "virtio-mem", _virtio_mem_huge, True),
    Strategy("hyperv", "Hyper-V", "hot-add by regions, online what the host covers", "xen", _hyperv, True),
    Strategy("shared", "HyperAlloc", "boot large; the host reads the guest's free state", "shared", _shared),
    Strategy("policy", "HyperAlloc's authors", "virtio-mem, driven by free huge blocks", "virtio-mem", _policy, True),
)}
"""{name: Strategy}, in the order of a table."""
