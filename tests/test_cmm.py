"""The page states of s390 (CMM2) and the pools of CMM1."""

import errno

import numpy as np
import pytest
from conftest import ENGINES
from drivers_common import Dying
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastonline import HotplugError, Memory
from fastonline.drivers.cmm import VALID_STATES, Cmm1, Cmm2, HintedDomain, page_can_be_volatile
from fastonline.drivers.driver import NEVER, run
from fastonline.drivers.hypervisor import Host, ResidentDomain
from fastonline.testing.geometries import GUEST_64

PAGE = np.array([5])


def in_state(state, dirty=False):
    """A domain with a page in one of the valid states, reached as a guest and a host would."""
    domain = HintedDomain(Host("1M"))
    if state[1] in "rp":
        domain.touch(PAGE, write=dirty)
    if state[1] == "p":
        domain.reclaim(1)
    elif state[0] == "U":
        domain.set_unused(PAGE)
    elif state[0] == "V":
        domain.set_volatile(PAGE)
    elif state[0] == "P":
        domain.set_potentially_volatile(PAGE)
    assert domain.states(PAGE) == [state]
    return domain


# KERNEL.md 5.5, every transition there is: {state: state afterwards}
GUEST = {
    "set_stable": {"Sr": "Sr", "Sp": "Sp", "Sz": "Sz", "Ur": "Sr", "Uz": "Sz", "Vr": "Sr", "Vz": "Sz", "Pr": "Sr"},
    "set_unused": {"Sr": "Ur", "Sp": "Uz", "Sz": "Uz", "Ur": "Ur", "Uz": "Uz", "Vr": "Ur", "Vz": "Uz", "Pr": "Ur"},
    "set_volatile": {"Sr": "Vr", "Sp": "Vz", "Sz": "Vz", "Ur": "Vr", "Uz": "Vz", "Vr": "Vr", "Vz": "Vz", "Pr": "Vr"},
    "set_potentially_volatile": {
        "Sr": "Pr", "Sp": "Vz", "Sz": "Vz", "Ur": "Pr", "Uz": "Vz", "Vr": "Pr", "Vz": "Vz", "Pr": "Pr"},
    "set_stable_if_present": {
        "Sr": "Sr", "Sp": "Sp", "Sz": "Sz", "Ur": "Sr", "Uz": "Sz", "Vr": "Sr", "Vz": "Vz", "Pr": "Sr"},
}
HOST = {"Ur": "Uz", "Vr": "Vz", "Sr": "Sp", "Pr": "Vz"}
ACCESS = {"Sr": "Sr", "Sp": "Sr", "Sz": "Sr", "Vr": "Vr", "Pr": "Pr", "Vz": "Vz"}


def test_there_are_eight_states():
    assert len(VALID_STATES) == 8 and not {"Up", "Vp", "Pp", "Pz"} & set(VALID_STATES)


@pytest.mark.parametrize("call", GUEST)
@pytest.mark.parametrize("state", VALID_STATES)
def test_every_transition_of_the_guest(call, state):
    domain = in_state(state)
    present = getattr(domain, call)(PAGE)
    assert domain.states(PAGE) == [GUEST[call][state]]
    if call == "set_stable_if_present":
        assert present.tolist() == [state != "Vz"]
    domain.host.validate()


@pytest.mark.parametrize("state", VALID_STATES)
def test_every_transition_of_the_host(state):
    domain = in_state(state)
    taken = domain.reclaim(1)
    assert domain.states(PAGE) == [HOST.get(state, state)] and taken == (state in HOST)
    domain.host.validate()


@pytest.mark.parametrize("state", VALID_STATES)
def test_every_access(state):
    domain = in_state(state)
    if state[0] == "U":
        with pytest.raises(HotplugError, match="addressing exception") as e:
            domain.touch(PAGE)
        assert e.value.errno == errno.EFAULT and domain.states(PAGE) == [state]
        return
    faults = domain.touch(PAGE)
    assert faults.tolist() == ([5] if state == "Vz" else [])
    assert domain.states(PAGE) == [ACCESS[state]]
    domain.host.validate()


def test_a_dirty_potentially_volatile_page_is_preserved():
    domain = in_state("Pr", dirty=True)
    domain.reclaim(1)
    assert domain.states(PAGE) == ["Sp"] and domain.swapped_out == 1 and domain.discarded == 0
    domain.set_potentially_volatile(PAGE)
    assert domain.states(PAGE) == ["Sp"]      # there is no Pp: dirty, it stays
    domain.touch(PAGE)
    domain.set_potentially_volatile(PAGE)
    domain.clean(PAGE)
    domain.reclaim(1)
    assert domain.states(PAGE) == ["Vz"] and domain.discarded == 1


def test_the_host_takes_the_cheapest_first():
    domain = HintedDomain(Host("1M"), limit="32K")
    domain.touch(np.arange(8), write=True)
    domain.set_volatile(np.array([6]))
    domain.set_unused(np.array([7]))
    domain.set_potentially_volatile(np.array([4, 5]))
    domain.clean(np.array([5]))
    domain.touch(np.arange(10, 13))
    assert domain.states(np.arange(8)) == ["Sr", "Sr", "Sr", "Sr", "Pr", "Vz", "Vz", "Uz"]
    assert (domain.swapped_out, domain.discarded, domain.dropped) == (0, 2, 1)
    domain.touch(np.array([13]))
    assert domain.states(np.array([0])) == ["Sp"]


def test_what_can_be_volatile():
    assert page_can_be_volatile()
    for flag in ("reserved", "dirty", "writeback", "locked", "anonymous", "private", "discarded"):
        assert not page_can_be_volatile(**{flag: True}), flag
    for flag in ("mapping", "uptodate", "lru"):
        assert not page_can_be_volatile(**{flag: False}), flag
    assert page_can_be_volatile(mapcount=3, refcount=4) and not page_can_be_volatile(mapcount=3, refcount=5)
    assert page_can_be_volatile(dirty=np.array([True, False])).tolist() == [False, True]


def test_stable_on_the_way_out_of_the_allocator(engine):
    mem = Memory(GUEST_64, boot="32M", engine=engine)
    cmm = Cmm2(mem, HintedDomain(Host("64M")))
    domain = cmm.domain
    assert set(domain.states(np.arange(8192))) == {"Uz"} and domain.tot_pages == 0
    pfns = mem.alloc_pages_bulk(100)
    assert set(domain.states(pfns)) == {"Sr"} and domain.tot_pages == 100
    mem.free_pfns(pfns)
    assert set(domain.states(pfns)) == {"Ur"}
    cmm.validate()
    cmm.set_target(0)
    cmm.work(0.0)
    assert set(domain.states(pfns)) == {"Uz"} and domain.dropped == 100 and domain.swapped_out == 0
    cmm.validate()


def test_a_page_the_host_cannot_back_goes_to_the_balloon(engine):
    """Dave Hansen's idea in the thread."""
    mem = Memory(GUEST_64, boot="32M", engine=engine)
    host = Host("1M")
    cmm = Cmm2(mem, HintedDomain(host, limit=0))
    assert mem.alloc_pages_bulk(50).size == 0
    assert cmm.counts()["balloon"] == 50 and mem.totalram_pages == 8192 - 50
    cmm.validate()
    cmm.set_target("128K")
    cmm.work(0.0)
    assert cmm.counts()["balloon"] == 18 and mem.totalram_pages == 8192 - 18
    cmm.validate()


def test_the_page_cache_is_discarded_not_swapped(engine):
    mem = Memory(GUEST_64, boot="32M", engine=engine)
    cmm = Cmm2(mem, HintedDomain(Host("64M")))
    used, cache = mem.alloc_pages_bulk(500), cmm.cache_pages(1000)
    cmm.set_target(700 * 4096)
    cmm.work(0.0)
    assert cmm.current_pages == 700 and cmm.domain.discarded == 800 and cmm.domain.swapped_out == 0
    assert set(cmm.domain.states(used)) == {"Sr"} and set(cmm.domain.states(cache)) == {"Vr", "Vz"}
    assert cmm.use_cache() == 800
    assert mem.totalram_pages - sum(zone.free_pages for zone in mem.zones.values()) == 700
    cmm.validate()


@pytest.mark.parametrize("call", ["set_stable", "set_volatile", "set_potentially_volatile", "set_stable_if_present"])
def test_free_pages_stay_unused(engine, call):
    """Whatever is said of a free page, or of one in the balloon. Expect ValueError naming it, and no change."""
    mem = Memory(GUEST_64, boot="32M", engine=engine)
    cmm = Cmm2(mem, HintedDomain(Host("1M"), limit=0))
    mem.alloc_pages_bulk(50)
    cmm.set_target("128K")
    cmm.work(0.0)
    used = mem.alloc_pages_bulk(10)
    free = next(pfn for pfn in range(8192) if pfn not in used and pfn not in cmm._list.view())
    assert used.size == 10 and cmm.counts()["balloon"]
    for page in (free, int(cmm._list.view()[0])):
        before = cmm.domain.states(np.arange(8192)), dict(cmm.domain.calls)
        with pytest.raises(ValueError, match=f"page {page:#x} is unused"):
            getattr(cmm.domain, call)(np.array([used[0], page]))
        assert (cmm.domain.states(np.arange(8192)), dict(cmm.domain.calls)) == before
    getattr(cmm.domain, call)(used)
    cmm.domain.set_unused(np.array([free]))
    cmm.validate()


def test_cmm1_pools(engine):
    mem = Memory(GUEST_64, boot="32M", engine=engine)
    domain = ResidentDomain(Host("64M"))
    cmm = Cmm1(mem, domain, timeout_pages=300, timeout_seconds=10.0)
    touched = mem.alloc_pages_bulk(8000)
    domain.touch(touched)
    mem.free_pfns(touched)
    cmm.set_target("24M")
    run([cmm], 1.0)
    assert cmm.pages == 2048 and domain.calls["discard"] == 2048 and cmm.arrays == -(-2048 // 510)
    assert domain.tot_pages < 8000
    cmm.validate()
    cmm.set_timed_target(700, 1.0)
    run([cmm], 5.0, 1.0)
    assert cmm.timed_pages == 700 and cmm.current_pages == 8192 - 2748
    for at, left in ((11.5, 400), (21.5, 100), (31.5, 0)):
        run([cmm], at, at - 1)
        assert cmm.timed_pages == left
    assert cmm.due == NEVER and cmm.pages == 2048
    cmm.set_timed_target(100, 40.0)
    run([cmm], 40.0, 40.0)
    assert cmm.oom_notify() == 256 and cmm.timed_pages == 0 and cmm.pages == 2048 - 156
    cmm.validate()
    cmm.close()
    assert cmm.current_pages == 8192
    cmm.validate()


def test_cmm1_takes_what_it_gets():
    mem = Memory(GUEST_64, boot="32M")
    cmm = Cmm1(mem, ResidentDomain(Host("64M")))
    cmm.set_target(0)
    run([cmm], 1.0)
    assert 0 < cmm.current_pages == cmm.target_pages == mem.totalram_pages - cmm.pages
    cmm.set_target("1G", 2.0)
    run([cmm], 3.0, 2.0)
    assert cmm.pages == 0 and cmm.current_pages == 8192
    with pytest.raises(ValueError):
        Cmm1(mem, ResidentDomain(Host("64M")), timeout_pages=-1)


class CmmMachine(RuleBasedStateMachine):
    """Guest and host do what they like to sixty pages; a plain model says what must come of it."""

    @initialize()
    def boot(self):
        self.host = Host("160K", scattered=True, seed=2)
        self.domain = HintedDomain(self.host)
        self.model, self.dirty = {pfn: "Sz" for pfn in range(60)}, set()

    pages = st.lists(st.integers(0, 59), max_size=30, unique=True)

    @rule(pages=pages, call=st.sampled_from(list(GUEST)))
    def hint(self, pages, call):
        getattr(self.domain, call)(np.array(pages, np.int64))
        for pfn in pages:
            stays = call == "set_potentially_volatile" and self.model[pfn] == "Sp" and pfn in self.dirty
            self.model[pfn] = "Sp" if stays else GUEST[call][self.model[pfn]]

    @rule(pages=pages, write=st.booleans())
    def access(self, pages, write):
        if any(self.model[pfn][0] == "U" for pfn in pages):
            with pytest.raises(HotplugError):
                self.domain.touch(np.array(pages, np.int64), write)
            return
        before = dict(self.model)
        gone = self.domain.touch(np.array(pages, np.int64), write)
        assert set(gone.tolist()) == {pfn for pfn in pages if before[pfn] == "Vz"}
        # the host may have taken others to make room, and of these too: only by its own transitions
        for pfn, state in enumerate(self.domain.states(np.arange(60))):
            came = ACCESS[before[pfn]] if pfn in pages else before[pfn]
            if write and pfn in pages and pfn not in gone:
                self.dirty.add(pfn)
            taken = {HOST.get(came, came), HOST.get(before[pfn], before[pfn])}
            if before[pfn] == "Pr" and pfn in self.dirty:
                taken.add("Sp")
            assert state in {came} | taken
            self.model[pfn] = state

    @rule(nr=st.integers(0, 30))
    def reclaim(self, nr):
        before = dict(self.model)
        self.domain.reclaim(nr)
        for pfn, state in enumerate(self.domain.states(np.arange(60))):
            host = "Sp" if before[pfn] == "Pr" and pfn in self.dirty else HOST.get(before[pfn], before[pfn])
            assert state in (before[pfn], host)
            self.model[pfn] = state

    @rule(pages=pages)
    def clean(self, pages):
        self.domain.clean(np.array(pages, np.int64))
        self.dirty -= set(pages)

    @invariant()
    def only_valid_states(self):
        if hasattr(self, "domain"):
            states = self.domain.states(np.arange(60))
            assert set(states) <= set(VALID_STATES) and states == [self.model[pfn] for pfn in range(60)]
            self.host.validate()


TestCmmMachine = CmmMachine.TestCase
TestCmmMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


class DyingDomain(Dying, HintedDomain):
    pass


class DyingPools(Dying, ResidentDomain):
    pass


class DriverMachine(RuleBasedStateMachine):
    """A guest with pools and one with hints, on a host that is too small: targets move at random, guests allocate and free, the
    host dies half-way or runs dry."""

    @initialize(engine=st.sampled_from(ENGINES))
    def boot(self, engine):
        self.host = Host("40M", scattered=True, seed=4)
        one, two = (Memory(GUEST_64, boot="32M", engine=engine) for _ in range(2))
        self.pools = Cmm1(one, DyingPools(self.host), timeout_pages=500, timeout_seconds=3.0)
        self.hints = Cmm2(two, DyingDomain(self.host))
        self.neighbour = ResidentDomain(self.host)
        self.used, self.now = [], 0.0

    def step(self, call, *args):
        """None where the host died, or had nothing left for it."""
        try:
            return call(*args)
        except KeyboardInterrupt:
            for driver in (self.pools, self.hints):      # the worker is started again
                driver.due = min(driver.due, self.now)
        except HotplugError as e:
            assert e.errno == errno.ENOMEM and self.host.free_frames == 0

    @rule(pools=st.booleans(), pages=st.integers(0, 9000), seconds=st.sampled_from([0.0, 1.0, 10.0]))
    def target(self, pools, pages, seconds):
        (self.pools if pools else self.hints).set_target(pages * 4096, self.now)
        self.step(run, [self.pools, self.hints], self.now + seconds, self.now)
        self.now += seconds

    @rule(pages=st.integers(0, 3000))
    def timed_target(self, pages):
        self.pools.set_timed_target(pages, self.now)

    @rule(dies_in=st.integers(0, 3), pools=st.booleans())
    def host_will_die(self, dies_in, pools):
        (self.pools if pools else self.hints).domain.dies_in = dies_in

    @rule(nr=st.integers(0, 4000))
    def allocate(self, nr):
        nr = min(nr, sum(zone.free_pages for zone in self.hints.mem.zones.values()))
        pfns = self.step(self.hints.mem.alloc_pages_bulk, nr)
        if pfns is not None:
            self.used.append(pfns)

    @rule()
    def free(self):
        if self.used:
            self.hints.mem.free_pfns(self.used.pop())

    @rule(nr=st.integers(0, 2000))
    def cache(self, nr):
        self.step(self.hints.cache_pages, min(nr, sum(zone.free_pages for zone in self.hints.mem.zones.values())))
        self.step(self.hints.use_cache)

    @rule(nr=st.integers(0, 8000))
    def touch(self, nr):
        pfns = self.pools.mem.alloc_pages_bulk(min(nr, sum(zone.free_pages for zone in self.pools.mem.zones.values())))
        self.step(self.pools.domain.touch, pfns)
        self.pools.mem.free_pfns(pfns)

    @rule(nr=st.integers(0, 500))
    def out_of_memory(self, nr):
        before = self.pools.pages + self.pools.timed_pages
        assert self.pools.oom_notify(nr) == min(nr, before)

    @rule(nr=st.integers(0, 9000))
    def host_runs_dry(self, nr):
        self.neighbour.discard(np.arange(9000))
        self.step(self.neighbour.touch, np.arange(nr))

    @invariant()
    def books_balance(self):
        if hasattr(self, "pools"):
            self.pools.validate()
            self.hints.validate()


TestDriverMachine = DriverMachine.TestCase
TestDriverMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
