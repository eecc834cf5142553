"""The virtio balloon: arrays of 256 units, what the host is told and when, OOM, statistics, free page reporting and hinting."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import ENGINES
from drivers_common import NEW, OLD, UNIT, Dying
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastonline import ARM64_64K, LINUX_6_1, HotplugError, Memory
from fastonline.drivers.driver import NEVER, run
from fastonline.drivers.hypervisor import Host, ResidentDomain
from fastonline.drivers.virtio_balloon import VirtioBalloon, VirtioBalloonDriver
from fastonline.hotplug.migrate import MovablePages
from fastonline.testing.geometries import GUEST_64

BOTH = pytest.mark.parametrize("kind", [OLD, NEW], ids=["2.6.25", "6.1"])


class DyingDomain(Dying, ResidentDomain):
    pass


# A report leaves 32 pageblocks above the low watermark alone: small ones, so that a small guest has more than that.
OLD_SMALL_BLOCKS, NEW_SMALL_BLOCKS = ((replace(geometry, pageblock_order=5), rules) for geometry, rules in (OLD, NEW))


def guest(engine="bitmap", kind=NEW, host="128M", limit=None, touched=True, **options):
    geometry, rules = kind
    mem = Memory(geometry, boot="32M", rules=rules, engine=engine)
    driver = VirtioBalloonDriver(mem, DyingDomain(Host(host, scattered=True, seed=3), limit), **options)
    if touched:
        driver.domain.touch(np.arange(8192))
    return driver


def settle(driver, size, at=0.0):
    driver.set_target(size, at)
    run([driver], at + 1.0, at)
    driver.validate()


def flags_of(mem, pfns):
    return {mem.page_flags(pfn) for pfn in np.asarray(pfns).tolist()}


@BOTH
def test_targets_are_reached(engine, kind):
    driver = guest(engine, kind)
    for at, size in enumerate([24, 30, 16, 64, 20]):
        settle(driver, f"{size}M", at * 10.0)
        reached = min(size, 32)
        assert driver.current_pages == driver.mem.totalram_pages == reached * 256 and driver.due == NEVER
        assert driver.num_pages == driver.actual == (32 - reached) * 256
    # every page was touched once, those that came back have not been again
    assert driver.domain.tot_pages == 16 * 256


def test_a_message_holds_256_units():
    driver = guest()
    settle(driver, (8192 - 1000) * 4096)
    assert driver.domain.calls["discard"] == 4 and driver.domain.tot_pages == 7192
    settle(driver, (8192 - 400) * 4096, 5.0)
    assert driver.domain.calls["host_message"] == 3
    told = []
    # pages of 64 KiB are sixteen units each
    mem = Memory(ARM64_64K, boot="1G", rules=LINUX_6_1)
    balloon = VirtioBalloon(mem, lambda queue, pfns, messages: told.append((queue, len(pfns), messages)))
    assert balloon.inflate(40) == 40 and balloon.deflate(20) == 20
    assert told == [("inflate", 16, 1), ("inflate", 16, 1), ("inflate", 8, 1), ("deflate", 16, 1), ("deflate", 4, 1)]
    mem.validate()


@pytest.mark.parametrize("must_tell_host, state", [(True, "PG_offline|PG_prepared"), (False, "PG_buddy|PG_prepared")])
def test_the_host_is_told_before_or_after(engine, must_tell_host, state):
    """2.6.25 without VIRTIO_BALLOON_F_MUST_TELL_HOST frees first: the guest may use the page before the host knows."""
    mem = Memory(GUEST_64, boot="32M", engine=engine)
    seen = []

    def tell_host(queue, pfns, messages):
        if queue == "deflate":
            seen.append(flags_of(mem, pfns))
    balloon = VirtioBalloon(mem, tell_host, must_tell_host)
    balloon.set_target(600)
    balloon.set_target(0)
    assert seen == [{state}] * 3
    mem.validate()


def test_a_dimm_belongs_to_the_guests_size(engine):
    """get_current_ram_size: a DIMM of 16 MiB beside 32 MiB. Expect the target to count it, and the balloon to stay
    meanwhile."""
    driver = guest(engine)
    settle(driver, "24M")
    driver.mem.add_memory(2 * UNIT, UNIT)
    driver.mem.blocks[2].online()
    run([driver], 20.0, 10.0)
    assert len(driver.balloon) == 2048 and driver.current_pages == 40 * 256
    settle(driver, "30M", 30.0)
    assert len(driver.balloon) == 18 * 256 and driver.current_pages == 30 * 256
    settle(driver, "48M", 40.0)
    assert len(driver.balloon) == 0


def test_targets_are_units_of_4_kib():
    """64 KiB pages: expect num_pages by 4 KiB, and the balloon to take whole pages, the last one in part."""
    mem = Memory(ARM64_64K, boot="1G", rules=LINUX_6_1)
    driver = VirtioBalloonDriver(mem, ResidentDomain(Host("1G", page_size=65536)))
    settle(driver, (1 << 30) - 4096 * 17)
    assert driver.num_pages == 17 and len(driver.balloon) == 2
    small = guest()
    settle(small, "1.1G")
    settle(small, "16384.5K", 10.0)
    assert small.current_pages == 4096


def test_what_came_last_leaves_first():
    balloon = VirtioBalloon(Memory(GUEST_64, boot="32M"))
    balloon.inflate(600)
    pfns = balloon.pages.pfns.copy()
    balloon.deflate(100)
    assert balloon.pages.pfns.tolist() == pfns[:500].tolist()


def test_the_guest_takes_a_page_back_without_asking():
    """KVM's view in the thread: memory is virtual, a touch is enough."""
    driver = guest(must_tell_host=False, host="30M", touched=False)
    settle(driver, "16M")
    pfns = driver.balloon.pages.pfns.copy()
    driver.balloon._tell_host = lambda queue, pfns, messages: None      # and not a word of it
    driver.balloon.deflate(1000)
    assert driver.domain.touch(pfns[-1000:]) == 1000 and driver.domain.calls["host_message"] == 0
    driver.validate()
    # more than the host has: it swaps
    settle(driver, "32M", 5.0)
    driver.domain.touch(np.arange(8192))
    assert driver.domain.swapped_out == 8192 - 30 * 256 and driver.domain.host.free_frames == 0
    driver.validate()


@BOTH
def test_below_what_the_guest_can_give(engine, kind):
    driver = guest(engine, kind)
    used = driver.mem.alloc_pages_bulk(1000)
    driver.set_target(0)
    driver.work(0.0)
    assert driver.due == 0.2
    left = driver.current_pages
    assert left - 1000 == sum(zone.free_pages for zone in driver.mem.zones.values() if zone.present_pages)
    assert all(zone.free_pages >= zone.min for zone in driver.mem.zones.values() if zone.present_pages)
    driver.validate()
    driver.mem.free_pfns(used)
    run([driver], 0.2, 0.1)
    assert driver.current_pages == left - 1000
    driver.validate()


def test_pages_that_can_be_asked_back_stay_managed(engine):
    """VIRTIO_BALLOON_F_DEFLATE_ON_OOM: MemTotal does not change."""
    driver = guest(engine, deflate_on_oom=True)
    settle(driver, "16M")
    assert driver.mem.totalram_pages == 8192 and driver.current_pages == 4096
    assert flags_of(driver.mem, driver.balloon.pages.pfns) == {"PG_prepared"}
    driver.mem.alloc_pages_bulk(sum(zone.free_pages for zone in driver.mem.zones.values()))
    assert driver.mem.alloc_pages_bulk(256).size == 256 and len(driver.balloon) == 4096 - 256
    assert driver.current_pages == 4096 + 256 and driver.target_pages == 4096 and driver.due == NEVER
    driver.validate()
    settle(driver, "16M", 10.0)      # asked again, there is nothing to be had
    assert driver.current_pages == 4352 and driver.due < NEVER
    stingy = guest(engine)
    settle(stingy, "16M")
    assert stingy.oom_notify() == 0 and stingy.current_pages == 4096


def test_stats():
    driver = guest()
    settle(driver, "16M")
    stats = driver.stats()
    free = sum(zone.free_pages for zone in driver.mem.zones.values() if zone.present_pages)
    assert stats["MEMTOT"] == 16 << 20 and stats["MEMFREE"] == free * 4096 and 0 < stats["AVAIL"] < stats["MEMFREE"]
    assert driver.domain.calls["host_message"] == 1


def test_free_blocks_are_reported(engine):
    driver = guest(engine, NEW_SMALL_BLOCKS, reporting=True)
    assert driver.due == 2.0
    used = driver.mem.alloc_pages_bulk(100)
    run([driver], 1.9)
    assert driver.domain.tot_pages == 8192
    run([driver], 2.0, 1.9)
    left = driver.domain.tot_pages
    assert driver.domain.backed(used).all() and 100 <= left < 8192 and (8192 - left) % 32 == 0
    calls = driver.domain.calls["discard"]
    run([driver], 10.0, 2.0)
    assert driver.domain.tot_pages == left and driver.domain.calls["discard"] == calls      # reported blocks are not again
    driver.mem.free_pfns(used)
    run([driver], 12.0, 10.0)
    assert driver.domain.tot_pages < left and driver.domain.calls["discard"] == calls + 1
    driver.validate()
    driver.close()
    assert driver.due == NEVER


def test_a_report_holds_32_blocks():
    mem = Memory(GUEST_64, boot="256M")
    driver = VirtioBalloonDriver(mem, ResidentDomain(Host("256M")))
    driver.domain.touch(np.arange(65536))
    spare = sum(zone.free_pages for zone in mem.zones.values() if zone.free_pages > zone.low + (32 << 9))
    assert driver.report_free_pages() == spare == 60 << 10
    assert driver.domain.calls["discard"] == 4 and driver.report_free_pages() == 0
    driver.validate()


def test_reports_of_64_kib_pages_are_2_mib():
    mem = Memory(ARM64_64K, boot="1G", rules=LINUX_6_1)
    driver = VirtioBalloonDriver(mem, ResidentDomain(Host("1G", page_size=65536)))
    driver.domain.touch(np.arange(16384))
    mem.alloc_contig_range(40, 1)
    assert driver.reporting_order == 5 and driver.report_free_pages() == 16384 - 32
    assert driver.domain.backed_pfns().tolist() == list(range(32, 64))
    driver.validate()


def test_hints(engine):
    driver = guest(engine, kind=OLD)
    free = driver.mem.buddyinfo()
    heads = driver.hint_free_pages()
    assert heads.size > 1 and driver.hinted_pages == heads.size << 10 == driver.counts()["hinted"]
    assert (heads < 4096).all(), "highmem is not for kernel allocations"
    assert driver.domain.calls["host_message"] == heads.size and driver.domain.tot_pages == 8192
    assert driver.mem.totalram_pages == 8192
    driver.validate()
    assert driver.return_free_pages(1025) == 2048 and driver.hinted_pages == heads.size - 2 << 10
    assert driver.return_free_pages() == heads.size - 2 << 10 and driver.hinted_pages == 0
    assert driver.mem.buddyinfo() == free
    driver.hint_free_pages()
    driver.close()
    assert driver.mem.buddyinfo() == free


@pytest.mark.parametrize("deflate_on_oom", [False, True])
def test_pages_of_the_balloon_move(engine, deflate_on_oom):
    """Their block goes offline. Expect the host to be told of each page's new place, then of its old one."""
    mem = Memory(GUEST_64, boot="32M", engine=engine)
    mem.add_memory(2 * UNIT, UNIT)
    mem.blocks[2].online("online_movable")
    driver = VirtioBalloonDriver(mem, ResidentDomain(Host("64M")), deflate_on_oom=deflate_on_oom)
    driver.domain.touch(np.arange(3 * UNIT))
    settle(driver, "47M")
    assert (driver.balloon.pages.pfns >= 2 * UNIT).all()
    mem.blocks[2].offline()
    assert driver.domain.calls["discard"] == 1 + 256 and driver.domain.calls["host_message"] == 256
    assert mem.stats()["balloon_migrated"] == 256 and (driver.balloon.pages.pfns < 2 * UNIT).all()
    assert mem.totalram_pages == 2 * UNIT - (0 if deflate_on_oom else 256)
    driver.validate()


def test_close_empties_the_balloon(engine):
    driver = guest(engine, reporting=True)
    settle(driver, "8M")
    driver.close()
    driver.validate()
    assert len(driver.balloon) == 0 and driver.mem.totalram_pages == 8192 and driver.due == NEVER


def test_a_host_that_dies_costs_no_page(engine):
    driver = guest(engine)
    driver.domain.dies_in = 0
    driver.set_target("16M")
    with pytest.raises(KeyboardInterrupt):
        driver.work(0.0)
    driver.validate()
    assert driver.actual == 0
    settle(driver, "16M", 1.0)
    assert driver.current_pages == 4096


def test_bad_input():
    balloon = VirtioBalloon(Memory(GUEST_64, boot="32M"))
    for call in (balloon.inflate, balloon.deflate, balloon.set_target):
        with pytest.raises(ValueError):
            call(-1)
    assert balloon.deflate(10) == 0
    with pytest.raises(ValueError, match="must agree"):
        VirtioBalloonDriver(Memory(GUEST_64, boot="32M"), ResidentDomain(Host("64M", page_size=65536)))


class VirtioMachine(RuleBasedStateMachine):
    """Two guests of one host that is too small: targets move at random, guests use memory, the host dies or runs dry."""

    @initialize(engine=st.sampled_from(ENGINES), kind=st.sampled_from([OLD_SMALL_BLOCKS, NEW_SMALL_BLOCKS]), data=st.data())
    def boot(self, engine, kind, data):
        self.host = Host("40M", scattered=True, seed=11)
        self.now, self.drivers, self.used = 0.0, [], []
        for _ in range(2):
            mem = Memory(kind[0], boot="32M", rules=kind[1], engine=engine)
            must_tell, oom, reporting = (data.draw(st.booleans()) for _ in range(3))
            self.drivers.append(VirtioBalloonDriver(mem, DyingDomain(self.host, "28M"), must_tell, oom, reporting))
            self.used.append(MovablePages(mem))
        self.neighbour = ResidentDomain(self.host)

    which = st.integers(0, 1)

    def advance(self, seconds):
        try:
            run(self.drivers, self.now + seconds, self.now)
        except KeyboardInterrupt:
            for driver in self.drivers:      # the worker is started again
                driver.due = min(driver.due, self.now)
        self.now += seconds

    @rule(which=which, pages=st.integers(0, 36 * 256), seconds=st.sampled_from([0.0, 0.5, 3.0]))
    def target(self, which, pages, seconds):
        self.drivers[which].set_target(pages * 4096, self.now)
        self.advance(seconds)

    @rule(which=which, dies_in=st.integers(0, 20))
    def host_dies(self, which, dies_in):
        self.drivers[which].domain.dies_in = dies_in
        self.advance(1.0)
        self.drivers[which].domain.dies_in = None

    @rule(which=which, share=st.floats(0, 1))
    def guest_touches(self, which, share):
        driver, used = self.drivers[which], self.used[which]
        used.free()
        used.adopt(driver.mem.alloc_pages_bulk(int(sum(z.free_pages for z in driver.mem.zones.values()) * share)))
        try:
            driver.domain.touch(used.pfns)
        except HotplugError:
            assert self.host.free_frames == 0

    @rule(nr=st.integers(0, 40 * 256))
    def host_runs_dry(self, nr):
        self.neighbour.discard(np.arange(40 * 256))
        try:
            self.neighbour.touch(np.arange(nr))
        except HotplugError:
            assert self.host.free_frames == 0

    @rule(which=which)
    def out_of_memory(self, which):
        before = len(self.drivers[which].balloon)
        freed = self.drivers[which].oom_notify()
        assert freed == (min(256, before) if self.drivers[which].deflate_on_oom else 0)

    @rule(which=which, hint=st.booleans())
    def hints(self, which, hint):
        if hint:
            self.drivers[which].hint_free_pages()
        else:
            self.drivers[which].return_free_pages(2000)

    @rule(which=which)
    def close(self, which):
        self.drivers[which].close()
        assert self.drivers[which].current_pages == 8192

    @invariant()
    def books_balance(self):
        for driver in getattr(self, "drivers", []):
            driver.validate()


TestVirtioMachine = VirtioMachine.TestCase
TestVirtioMachine.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
