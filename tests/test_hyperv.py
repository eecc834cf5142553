"""Hyper-V's hot-add by regions with gaps, and its balloon."""

import errno
import itertools

import numpy as np
import pytest
from conftest import ENGINES
from drivers_common import NEW, OLD, UNIT, HalfWay
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastonline import LINUX_6_1, HotplugError, Memory
from fastonline.core.pageflags import PG_prepared
from fastonline.drivers.consumers import Udev
from fastonline.drivers.driver import NEVER, run
from fastonline.drivers.hyperv import HvBalloon
from fastonline.drivers.hypervisor import Domain, Host, ResidentDomain
from fastonline.testing.geometries import GUEST_64


def guest(engine="bitmap", kind=NEW, boot="32M", host="256M", max_memory=None, **options):
    mem = Memory(kind[0], boot=boot, rules=kind[1], engine=engine)
    return HvBalloon(mem, HalfWay(Host(host, scattered=True), boot, max_memory), **options)


def reserved(mem, start, nr):
    return [mem.page_flags(pfn) == "PG_reserved|PG_prepared" for pfn in range(start, start + nr)]


@pytest.mark.parametrize("kind", [OLD, NEW], ids=["2.6.25", "6.1"])
def test_only_the_backed_part_goes_online_the_rest_later(engine, kind):
    balloon = guest(engine, kind)
    mem = balloon.mem
    start = 2 * UNIT
    assert balloon.hot_add(start, 1000) == 1000
    region, = balloon.regions
    assert (region.start_pfn, region.covered_end_pfn, region.ha_end_pfn, region.end_pfn) == (
        start, start + 1000, start + UNIT, start + UNIT)
    assert mem.totalram_pages == 8192 + 1000
    if mem.rules.present_at_online is False:
        assert sum(zone.present_pages for zone in mem.zones.values()) == 8192 + UNIT
    assert mem.page_flags(start + 999) == "PG_buddy|PG_prepared" and all(reserved(mem, start + 1000, 50))
    balloon.validate()
    assert balloon.hot_add(start + 1000, 24) == 24      # the block is online: page by page
    assert mem.totalram_pages == 8192 + 1024 and len(mem.blocks) == 3
    balloon.validate()


def test_a_gap_stays_out(engine):
    balloon = guest(engine)
    start = 2 * UNIT
    assert balloon.hot_add(start + 10, 100) == 100                # covered from within
    assert balloon.hot_add(start + 300, 50) == 50
    region, = balloon.regions
    assert region.gaps == [(start + 110, start + 300)] and region.covered_start_pfn == start + 10
    assert balloon.mem.totalram_pages == 8192 + 150
    flags = reserved(balloon.mem, start, 400)
    assert flags == [True] * 10 + [False] * 100 + [True] * 190 + [False] * 50 + [True] * 50
    balloon.validate()
    for pfn, why in ((start + 120, "already"), (start + 340, "already"), (start, "begins at"), (100, "already")):
        with pytest.raises(HotplugError, match=why) as e:
            balloon.hot_add(pfn, 10)
        assert e.value.errno == errno.EINVAL
        balloon.validate()


def test_a_request_longer_than_its_region_extends_it(engine):
    balloon = guest(engine)
    start = 2 * UNIT
    balloon.hot_add(start, 100)
    assert balloon.hot_add(start + 100, 2 * UNIT) == 2 * UNIT
    region, = balloon.regions
    assert region.end_pfn == region.ha_end_pfn == start + 3 * UNIT
    assert balloon.mem.totalram_pages == 8192 + 100 + 2 * UNIT
    balloon.validate()


def test_a_region_given_by_the_host():
    balloon = guest()
    start = 4 * UNIT
    assert balloon.hot_add(start + 5, 10, region=(start, 4 * UNIT)) == 10
    assert balloon.regions[0].end_pfn == start + 4 * UNIT and len(balloon.mem.blocks) == 3
    balloon.validate()
    for bad in ((start + 1, UNIT), (start, UNIT + 1), (start, UNIT), (20 * UNIT, 1 << 64), (-UNIT, 30 * UNIT)):
        with pytest.raises(HotplugError):
            balloon.hot_add(20 * UNIT, 10, region=bad)


def test_user_space_that_onlines_late(engine):
    balloon = guest(engine, auto_online=False)
    start = 2 * UNIT
    assert balloon.hot_add(start, 500) == 500
    assert balloon.waits == 1 and balloon.mem.totalram_pages == 8192
    balloon.validate()
    balloon.hot_add(start + 500, 100)
    assert balloon.mem.online_pages(start, UNIT) == 600
    assert balloon.mem.totalram_pages == 8192 + 600
    balloon.validate()


def test_each_block_waits_five_seconds_for_user_space(engine):
    """Expect 5 s of the guest's clock a block that nobody onlines, none for one that a listener onlines at once."""
    balloon = guest(engine, auto_online=False)
    assert balloon.hot_add(2 * UNIT, 3 * UNIT) == 3 * UNIT
    assert balloon.domain.now == 15.0 and balloon.waits == 3
    balloon.mem.events.listen(lambda kind, text: kind == "uevent" and text.startswith("add@memory")
                              and balloon.mem.blocks[int(text[len("add@memory"):])].write_state("online"))
    assert balloon.hot_add(5 * UNIT, 2 * UNIT) == 2 * UNIT
    assert balloon.domain.now == 15.0 and balloon.waits == 3 and balloon.mem.totalram_pages == 8192 + 2 * UNIT
    balloon.close()
    with pytest.raises(ValueError, match="not registered"):
        balloon.mem.notifiers.unregister(balloon._memory_notifier)


@pytest.mark.parametrize("delay, reached", [(0.5, 4 * 0.6), (4.8, 4 * 4.9), (20.0, 15.0)])
def test_user_space_works_while_the_driver_waits(engine, delay, reached):
    """Four blocks, one after the other. Expect each to wait for the one before it: as long as user space takes, 5 s at most."""
    balloon = guest(engine, auto_online=False)
    udev = Udev(balloon.mem, delay)
    balloon.set_target(8192 * 4096 + 4 * UNIT * 4096)
    added = []
    balloon.mem.events.listen(lambda kind, text: text.startswith("add@memory") and added.append(balloon.domain.now))
    run([udev, balloon], 60.0)
    assert len(added) == 4 and added[0] == 0
    step = min(delay + 0.2, 5.0)
    assert all(min(delay, 5.0) <= after - before <= step for before, after in itertools.pairwise(added)), added
    assert balloon.waits == (4 if delay > 5 else 0)
    assert balloon.mem.totalram_pages == 8192 + 4 * UNIT
    balloon.validate()


def test_a_target_that_comes_while_the_driver_waits(engine):
    """A request of four blocks is answered whole, then the host asks for less. Closing ends a request that waits."""
    balloon = guest(engine, auto_online=False)
    balloon.set_target("96M")
    run([balloon], 2.0)
    assert balloon.due == 5.0 and len(balloon.regions) == 1
    balloon.validate()
    balloon.set_target("32M", 3.0)
    run([balloon], 4.0, 3.0)
    assert balloon.due == 5.0
    run([balloon], 19.0, 4.0)
    assert balloon.waits == 3 and balloon.ballooned_pages == 0
    run([balloon], 20.0, 19.0)
    assert balloon.waits == 4 and balloon.ballooned_pages == 0 and balloon.current_pages == 8192 + 4 * UNIT
    run([balloon], 21.0, 20.0)
    assert balloon.ballooned_pages > 0
    balloon.validate()
    other = guest(engine, auto_online=False)
    other.set_target("64M")
    run([other], 2.0)
    other.close()
    other.validate()
    assert other.due == NEVER and other.current_pages == 8192 + UNIT


def test_memory_comes_by_memory_blocks(engine):
    """Blocks of two sections. Expect one to be added for a page, and what it covers later to go online in both sections."""
    mem = Memory(GUEST_64, boot="32M", rules=NEW[1], engine=engine, memory_block_size="32M")
    balloon = HvBalloon(mem, Domain(Host("256M"), "32M"))
    assert balloon.chunk == 2 * UNIT and balloon.hot_add(2 * UNIT, 1) == 1 and list(mem.blocks) == [0, 1]
    assert balloon.hot_add(2 * UNIT + 1, UNIT + 9) == UNIT + 9
    balloon.validate()
    assert mem.totalram_pages == 2 * UNIT + UNIT + 10


def test_memory_of_somebody_else_goes_online_whole(engine):
    balloon = guest(engine)
    balloon.hot_add(2 * UNIT, 10)
    balloon.domain.back(np.arange(6 * UNIT, 7 * UNIT))
    balloon.mem.add_memory(6 * UNIT, UNIT)
    assert balloon.mem.online_pages(6 * UNIT, UNIT) == UNIT
    balloon.validate()


def test_memory_that_is_there_ends_hot_add_for_good():
    balloon = guest()
    balloon.mem.add_memory(3 * UNIT, UNIT)
    assert balloon.hot_add(2 * UNIT, 2 * UNIT) == UNIT
    assert balloon.do_hot_add is False
    assert balloon.hot_add(10 * UNIT, 10) == 0
    balloon.validate()


def test_a_host_with_nothing_left():
    balloon = guest(host="33M")
    assert balloon.hot_add(2 * UNIT, UNIT) == 256
    assert balloon.hot_add(2 * UNIT + 256, 1) == 0
    assert balloon.domain.host.free_frames == 0
    balloon.validate()


@pytest.mark.parametrize("mib, floor", [(64, 8 + 32), (128, 40 + 32), (512, 104 + 64), (1024, 104 + 128), (2048, 232 + 128)])
def test_floor(mib, floor):
    mem = Memory(GUEST_64, boot=mib << 20)
    balloon = HvBalloon(mem, Domain(Host("2G"), mib << 20))
    assert balloon.floor() == floor * 256


def test_balloon_up_in_large_blocks_and_down(engine):
    balloon = guest(engine, boot="256M")
    assert balloon.balloon_up(10000) == 10000
    assert balloon.mem.totalram_pages == 65536 - 10000 and balloon.domain.tot_pages == 65536 - 10000
    allocated = balloon.mem.stats()["allocations"]
    assert allocated[9] == 19 and allocated[0] == 10000 - 19 * 512
    balloon.validate()
    assert balloon.balloon_down(4000) == 4000 and balloon.ballooned_pages == 6000
    balloon.validate()
    assert balloon.balloon_up(10**6) < 65536 - 256 * 16
    assert balloon.mem.totalram_pages >= balloon.floor()
    with pytest.raises(HotplugError) as e:
        balloon.close()
    assert e.value.errno == errno.EBUSY
    balloon.balloon_down(10**6)
    balloon.close()
    balloon.validate()


@pytest.mark.parametrize("start, nr", [(2 * UNIT, 0), (2 * UNIT, -5), (-1, 10), (1 << 60, 10)])
def test_no_pages_that_can_be_there(start, nr):
    with pytest.raises(HotplugError) as e:
        guest().hot_add(start, nr)
    assert e.value.errno == errno.EINVAL


def test_a_callback_already_taken():
    mem = Memory(GUEST_64, boot="32M")
    mem.set_online_page_callback(print)
    with pytest.raises(HotplugError) as e:
        HvBalloon(mem, Domain(Host("64M"), "32M"))
    assert e.value.errno == errno.EINVAL


def test_targets(engine):
    balloon = guest(engine, boot="128M", max_memory="200M")
    for at, (size, reached) in enumerate([("130M", 130), ("131M", 131), ("100M", 100), ("190M", 190), ("1G", 200)]):
        balloon.set_target(size, at * 10.0)
        run([balloon], at * 10.0 + 5, at * 10.0)
        assert balloon.current_pages == reached * 256 == balloon.mem.totalram_pages
        balloon.validate()
    assert balloon.due < NEVER and balloon.counts()["regions"] == 3


class HvMachine(RuleBasedStateMachine):
    """Targets at random, requests anywhere, a neighbour that takes the host's frames."""

    @initialize(engine=st.sampled_from(ENGINES), kind=st.sampled_from([OLD, NEW]), auto_online=st.booleans())
    def boot(self, engine, kind, auto_online):
        self.balloon = guest(engine, kind, boot="96M", host="200M", auto_online=auto_online)
        self.neighbour = Domain(self.balloon.domain.host)
        self.now = 0.0

    @rule(pages=st.integers(0, 180 * 256))
    def target(self, pages):
        self.balloon.set_target(pages * 4096, self.now)
        run([self.balloon], self.now + 3, self.now)
        self.now += 3

    @rule(start=st.integers(6 * UNIT, 12 * UNIT), nr=st.integers(1, 2 * UNIT))
    def request(self, start, nr):
        try:
            taken = self.balloon.hot_add(start, nr)
            assert 0 <= taken <= nr
        except HotplugError as e:
            assert e.errno == errno.EINVAL or e.errno == errno.EBUSY and self.balloon.due < NEVER

    @rule(nr=st.integers(0, 180 * 256))
    def host_runs_dry(self, nr):
        self.neighbour.unback(self.neighbour.backed_pfns())
        self.neighbour.back(np.arange(nr))

    @rule(stop_at=st.integers(0, 600), dies=st.booleans(), pages=st.integers(96 * 256, 180 * 256))
    def populate_breaks_off(self, stop_at, dies, pages):
        domain = self.balloon.domain
        domain.stop_at, domain.dies = stop_at, dies
        try:
            self.target(pages)
        except KeyboardInterrupt:
            self.balloon.due = self.now      # the worker is started again
        domain.stop_at, domain.dies = None, False

    @rule()
    def user_space_onlines(self):
        mem = self.balloon.mem
        for block in mem.blocks.values():
            if block.state == "offline" and not np.any(mem.page_states(block.start_pfn, UNIT) & PG_prepared):
                mem.online_pages(block.start_pfn, UNIT)

    @invariant()
    def books_balance(self):
        if hasattr(self, "balloon"):
            self.balloon.validate()


TestHvMachine = HvMachine.TestCase
TestHvMachine.settings = settings(max_examples=20, stateful_step_count=12, deadline=None)


@pytest.mark.parametrize("backing", ["plug", "touch"])
def test_a_resident_guest_gets_what_it_is_asked_to_have(engine, backing):
    """32 MiB to 64 MiB and back to 48 MiB. Expect a guest of that size, and frames at once or at the first touch."""
    mem = Memory(GUEST_64, boot="32M", rules=LINUX_6_1, engine=engine)
    domain = ResidentDomain(Host("128M"))
    driver = HvBalloon(mem, domain, backing=backing)
    assert driver.current_pages == 8192
    driver.set_target("64M")
    run([driver], 10.0)
    assert driver.current_pages == driver.usable_pages == mem.totalram_pages == 16384
    assert domain.tot_pages == (8192 if backing == "plug" else 0)
    driver.validate()
    domain.touch(mem.alloc_pages_bulk(100))
    driver.set_target("48M", 10.0)
    run([driver], 20.0, 10.0)
    assert driver.current_pages == mem.totalram_pages == 12288
    driver.validate()
    driver.set_target("64M", 20.0)
    run([driver], 30.0, 20.0)
    assert driver.current_pages == mem.totalram_pages == 16384
    driver.validate()


def test_backing_needs_a_resident_domain():
    mem = Memory(GUEST_64, boot="32M", rules=LINUX_6_1)
    with pytest.raises(ValueError, match="ResidentDomain"):
        HvBalloon(mem, Domain(Host("64M"), "32M"), backing="touch")
    with pytest.raises(ValueError, match="backing"):
        HvBalloon(mem, Domain(Host("64M"), "32M"), backing="later")
