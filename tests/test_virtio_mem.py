"""virtio-mem: sub-blocks and big blocks, what the host is asked for and when, partial blocks, retries, and what goes wrong."""

import errno

import numpy as np
import pytest
from conftest import ENGINES
from drivers_common import NEW, OLD, UNIT, HalfWay
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastonline import LINUX_6_1, MEM_GOING_OFFLINE, NOTIFY_BAD, HotplugError, Memory
from fastonline.drivers.consumers import Udev
from fastonline.drivers.driver import NEVER, run
from fastonline.drivers.hypervisor import Domain, Host, ResidentDomain
from fastonline.drivers.virtio_balloon import VirtioBalloonDriver
from fastonline.drivers.virtio_mem import VirtioMem, VirtioMemBus, VirtioMemDriver, block_sizes
from fastonline.hotplug.migrate import MovablePages
from fastonline.testing.geometries import GUEST_64

SUB = 512           # pages of a sub-block, eight of which are a memory block
MIB = 256           # pages


class Logged(VirtioMemDriver):
    """A driver that keeps what it asked the host for, in sub-blocks; busy: the host answers so."""

    busy = ()

    def __init__(self, *args, **options):
        self.log = []
        super().__init__(*args, **options)

    def plug(self, start_pfn, nr_pages):
        self.log.append(("plug", start_pfn // SUB, nr_pages // SUB))
        return "plug" not in self.busy and super().plug(start_pfn, nr_pages)

    def unplug(self, start_pfn, nr_pages):
        self.log.append(("unplug", start_pfn // SUB, nr_pages // SUB))
        return "unplug" not in self.busy and super().unplug(start_pfn, nr_pages)

    def asked(self):
        log, self.log = self.log, []
        return log


def guest(engine="bitmap", host="128M", max_memory=None, **options):
    mem = Memory(GUEST_64, boot="32M", rules=LINUX_6_1, engine=engine)
    return Logged(mem, HalfWay(Host(host, scattered=True, seed=7), "32M", max_memory), **options)


def settle(driver, size, at=0.0, seconds=1.0):
    driver.set_target(size, at)
    run([driver], at + seconds, at)
    driver.validate()


def managed(mem):
    return {zone.name: zone.managed_pages for zone in mem.zones.values() if zone.managed_pages}


@pytest.mark.parametrize("block_size, reached", [
    (None, [40, 54, 34, 32, 96]), ("4M", [40, 52, 32, 32, 96]), ("16M", [32, 48, 32, 32, 96]), ("32M", [32, 32, 32, 32, 96]),
])
def test_targets_are_reached(engine, block_size, reached):
    """In whole sub-blocks, or big blocks; boot memory stays."""
    driver = guest(engine, host="96M", block_size=block_size)
    for at, (size, whole) in enumerate(zip([40, 54, 34, 20, 200], reached, strict=True)):
        settle(driver, f"{size}M", at * 10.0)
        assert driver.current_pages == driver.mem.totalram_pages == whole * MIB
        assert driver.due == NEVER and driver.device.errno == 0
    assert driver.domain.host.free_frames == 0


def test_modes():
    mem = Memory(GUEST_64, boot="32M")
    assert block_sizes(mem, 4096) == block_sizes(mem, 2 << 20) == (512, 4096) and block_sizes(mem, 8 << 20) == (2048, 4096)
    assert block_sizes(mem, 16 << 20) == (4096, 4096) and block_sizes(mem, 64 << 20) == (16384, 16384)
    wide = Memory(GUEST_64, boot="64M", memory_block_size="32M")
    assert block_sizes(wide, 16 << 20) == (4096, 8192)
    for size in (0, 1024, 3 << 20, -4096):
        with pytest.raises(ValueError, match="power of two"):
            block_sizes(mem, size)


def test_runs_of_sub_blocks(engine):
    """
        memory2    |========|   8 at once          memory3    |===     |   3, then 2 more, then the rest and memory4
    """
    driver = guest(engine)
    mem = driver.mem
    settle(driver, (32 + 16 + 6) * MIB * 4096)
    assert driver.asked() == [("plug", 16, 8), ("plug", 24, 3)]
    assert managed(mem)["Movable"] == 11 * SUB and mem.zones["Movable"].present_pages == 2 * UNIT
    settle(driver, (32 + 16 + 10) * MIB * 4096, 10.0)
    assert driver.asked() == [("plug", 27, 2)]
    settle(driver, (32 + 32 + 2) * MIB * 4096, 20.0)
    assert driver.asked() == [("plug", 29, 3), ("plug", 32, 1)]
    settle(driver, (32 + 16 + 12) * MIB * 4096, 30.0)
    assert driver.asked() == [("unplug", 32, 1), ("unplug", 31, 1), ("unplug", 30, 1)]
    assert list(mem.blocks) == [0, 1, 2, 3] and mem.page_flags(30 * SUB) == "PG_offline|PG_prepared"
    settle(driver, "32M", 40.0)
    assert driver.asked() == [("unplug", sub, 1) for sub in range(29, 23, -1)] + [("unplug", 16, 8)]
    assert list(mem.blocks) == [0, 1] and driver.device.plugged == {}
    assert "virtio0" in mem.resources.text()


def test_blocks_that_are_offline(engine):
    """They take part in plugging and unplugging, by runs, and show it when they go online."""
    driver = guest(engine, auto_online=False)
    settle(driver, "44M")
    settle(driver, "46M", 10.0)
    assert driver.asked() == [("plug", 16, 6), ("plug", 22, 1)] and driver.mem.blocks[2].state == "offline"
    assert driver.mem.totalram_pages == 8192 and driver.current_pages == 46 * MIB
    settle(driver, "42M", 20.0)
    assert driver.asked() == [("unplug", 21, 2)]
    driver.mem.blocks[2].online("online_movable")
    driver.validate()
    assert managed(driver.mem)["Movable"] == 5 * SUB
    driver.mem.blocks[2].offline()
    driver.validate()
    settle(driver, "32M", 30.0)
    assert driver.asked() == [("unplug", 16, 5)] and list(driver.mem.blocks) == [0, 1]


def test_unplug_order(engine):
    """memory2 Movable, memory3 kernel, memory4 offline. Expect offline, Movable, kernel."""
    driver = guest(engine, auto_online=False)
    settle(driver, "80M")
    driver.mem.blocks[2].online("online_movable")
    driver.mem.blocks[3].online("online_kernel")
    driver.asked()
    settle(driver, "32M", 10.0)
    assert driver.asked() == [("unplug", 32, 8), ("unplug", 16, 8), ("unplug", 24, 8)]


def test_used_memory_stays_and_is_tried_again(engine):
    driver = guest(engine)
    settle(driver, "64M")
    driver.mem.alloc_contig_range(3 * SUB + 16 * SUB, 1)
    driver.set_target("32M", 10.0)
    driver.work(10.0)
    assert driver.current_pages == 8192 + SUB and driver.device.errno == errno.EBUSY and driver.due == 60.0
    assert list(driver.mem.blocks) == [0, 1, 2] and managed(driver.mem)["Movable"] == SUB
    driver.validate()
    times = []
    while len(times) < 5:
        times.append(driver.due)
        driver.work(driver.due)
    assert np.diff(times).tolist() == [100.0, 200.0, 300.0, 300.0] and driver.retries == 5
    driver.mem.free_pages(19 * SUB)
    driver.work(driver.due)
    assert driver.current_pages == 8192 and driver.due == NEVER and driver.retries == 6
    driver.validate()


def test_pages_in_use_move(engine):
    driver = guest(engine)
    settle(driver, "64M")
    owner = MovablePages(driver.mem)
    owner.alloc(1000)
    assert (owner.pfns >= 8192).all()
    settle(driver, "32M", 10.0)
    assert driver.current_pages == 8192 and (owner.pfns < 8192).all() and np.unique(owner.pfns).size == 1000


@pytest.mark.parametrize("block_size", [None, "16M"])
def test_a_dry_host(engine, block_size):
    """A request is granted whole or not at all; later it is asked for again."""
    driver = guest(engine, host="64M", block_size=block_size)
    neighbour = Domain(driver.domain.host, "10M")
    settle(driver, "64M")
    assert driver.current_pages == 48 * MIB and driver.device.errno == errno.ETXTBSY and driver.due == 50.0
    assert driver.domain.host.free_frames == 6 * MIB and driver.domain.refused["host"] > 0
    neighbour.destroy()
    run([driver], 50.0, 1.0)
    driver.validate()
    assert driver.current_pages == 64 * MIB and driver.due == NEVER and driver.retries == 1


def test_the_cap_is_the_region():
    driver = guest(max_memory="50M")
    settle(driver, "1G")
    assert driver.requested_pages == UNIT and driver.current_pages == 48 * MIB and driver.due == NEVER
    none = guest(max_memory="40M")
    settle(none, "1G")
    assert none.current_pages == 8192 and "virtio0" not in none.mem.resources.text()
    none.close()


@pytest.mark.parametrize("block_size", [None, "32M"])
def test_a_host_that_dies_or_breaks_off(engine, block_size):
    driver = guest(engine, block_size=block_size)
    driver.domain.dies = True
    driver.set_target("64M")
    with pytest.raises(KeyboardInterrupt):
        driver.work(0.0)
    driver.validate()
    driver.domain.stop_at = 100
    settle(driver, "64M", 10.0)
    assert driver.current_pages == 8192 and driver.due == 60.0
    run([driver], 60.0, 11.0)
    assert driver.current_pages == 64 * MIB
    driver.validate()


def test_a_busy_host_keeps_what_it_has(engine):
    """A host that migrates says BUSY to everything. Expect the guest to have its pages back."""
    driver = guest(engine)
    settle(driver, "44M")
    driver.busy = ("unplug",)
    before = driver.mem.buddyinfo()
    settle(driver, "32M", 10.0)
    assert driver.device.errno == errno.ETXTBSY and driver.current_pages == 44 * MIB and driver.mem.buddyinfo() == before
    driver.busy = ()
    run([driver], 60.0, 11.0)
    driver.validate()
    assert driver.current_pages == 8192


@pytest.mark.parametrize("block_size", [None, "32M"])
def test_memory_that_cannot_be_added_is_unplugged(engine, block_size):
    """Somebody has put a DIMM into the region. Expect nothing plugged there, and a device that is broken, as in the kernel."""
    driver = guest(engine, block_size=block_size)
    driver.mem.add_memory(3 * UNIT, UNIT)
    before = driver.domain.tot_pages
    driver.set_target("96M")
    driver.work(0.0)
    assert driver.device.errno == errno.EEXIST and driver.broken and driver.due == NEVER
    assert [ask[0] for ask in driver.asked()[-2:]] == ["plug", "unplug"]
    assert driver.current_pages == before + (0 if block_size else UNIT) and driver.device._pending == []
    driver.mem.blocks[3].offline()
    driver.mem.remove_memory(3 * UNIT, UNIT)
    settle(driver, "96M", 10.0)
    assert driver.current_pages == before + (0 if block_size else UNIT)


def test_memory_that_can_neither_be_added_nor_unplugged():
    """VIRTIO_MEM_SBM_MB_PLUGGED: it counts as plugged until the host takes it."""
    mem = Memory(GUEST_64, boot="32M", rules=LINUX_6_1)

    class Stubborn:
        takes = False

        def plug(self, start_pfn, nr_pages):
            return True

        def unplug(self, start_pfn, nr_pages):
            return self.takes
    host = Stubborn()
    device = VirtioMem(mem, 32 << 20, 32 << 20, 2 << 20, host=host)
    VirtioMemBus(mem).add(device)
    mem.add_memory(2 * UNIT, UNIT)      # somebody's, in the region
    assert device.request(4 << 20) == 4 << 20 and device.errno == errno.ETXTBSY and device.plugged == {}
    host.takes = True
    assert device.request(0) == 0 and device.errno == 0
    mem.validate()


def test_so_much_may_be_offline():
    """Expect a stop at 1 GiB that nobody has onlined, and going on when half of that can be added again."""
    mem = Memory(GUEST_64, boot="32M", rules=LINUX_6_1)
    driver = VirtioMemDriver(mem, Domain(Host("4G"), "32M"), auto_online=False)
    settle(driver, "3G")
    assert driver.current_pages == (1024 + 32) * MIB and driver.device.errno == errno.ENOSPC and driver.due == NEVER
    for nr in range(2, 2 + 31):
        mem.blocks[nr].online("online_movable")
    assert driver.due == NEVER
    mem.blocks[33].online("online_movable")
    run([driver], 2.0, 1.0)
    assert driver.current_pages == (1024 + 512 + 32) * MIB
    udev = Udev(mem, delay=0.1, period=0.1)
    for block in mem.blocks.values():
        if block.state == "offline":
            block.online()
    run([udev, driver], 20.0, 2.0)
    assert driver.current_pages == 3072 * MIB == mem.totalram_pages
    driver.validate()


# -- big blocks

def test_big_blocks_go_up_and_down(engine):
    """Plugged from the lowest, unplugged from the highest; a big block of two memory blocks, one request each."""
    driver = guest(engine, host="160M", block_size="32M")
    assert driver.device.big_blocks
    settle(driver, "128M")
    assert driver.asked() == [("plug", 16, 16), ("plug", 32, 16), ("plug", 48, 16)]
    assert list(driver.mem.blocks) == list(range(8)) and managed(driver.mem)["Movable"] == 6 * UNIT
    settle(driver, "70M", 10.0)
    assert driver.asked() == [("unplug", 48, 16), ("unplug", 32, 16)] and list(driver.mem.blocks) == [0, 1, 2, 3]


def test_a_big_block_starts_at_its_own_size():
    mem = Memory(GUEST_64, boot="48M", rules=LINUX_6_1)
    driver = VirtioMemDriver(mem, Domain(Host("256M"), "48M"), block_size="32M")
    settle(driver, "80M")
    assert list(mem.blocks) == [0, 1, 2, 4, 5] and driver.current_pages == 80 * MIB


def test_big_blocks_unplug_order(engine):
    """The first is kernel memory, the second Movable, the third offline, the fourth half and half."""
    driver = guest(engine, host="256M", block_size="32M", auto_online=False)
    settle(driver, "160M")
    for nr, word in ((2, "online_kernel"), (3, "online_kernel"), (4, "online_movable"), (5, "online_movable"),
                     (8, "online_kernel"), (9, "online_movable")):
        driver.mem.blocks[nr].online(word)
    driver.asked()
    for at, first in enumerate([48, 32, 64, 16]):
        settle(driver, (160 - 32 * (at + 1)) * MIB * 4096, 10.0 + at)
        assert driver.asked() == [("unplug", first, 16)]


def test_a_big_block_in_use_stays_whole(engine):
    """A page of its second section is in use, the first is taken by then. Expect the first back, and the next lower block."""
    driver = guest(engine, block_size="32M")
    settle(driver, "96M")
    driver.mem.alloc_contig_range(5 * UNIT + 7, 1)
    before = driver.mem.buddyinfo()
    settle(driver, "64M", 10.0)
    assert list(driver.mem.blocks) == [0, 1, 4, 5] and driver.device.errno == 0
    settle(driver, "32M", 20.0)
    assert list(driver.mem.blocks) == [0, 1, 4, 5] and driver.device.errno == errno.EBUSY and driver.due < NEVER
    driver.mem.free_pages(5 * UNIT + 7)
    run([driver], driver.due, 21.0)
    assert list(driver.mem.blocks) == [0, 1]
    settle(driver, "96M", 500.0)
    driver.mem.alloc_contig_range(5 * UNIT + 7, 1)
    assert driver.mem.buddyinfo() == before


def test_a_big_block_that_may_not_go_offline_is_rolled_back(engine):
    """Its second memory block is vetoed when the first is offline already. Expect both online in their zone, nothing lost."""
    driver = guest(engine, block_size="32M")
    settle(driver, "64M")
    before = driver.mem.buddyinfo()

    def veto(action, notice):
        return NOTIFY_BAD if action == MEM_GOING_OFFLINE and notice.start_pfn == 3 * UNIT else None
    driver.mem.notifiers.register(veto)
    settle(driver, "32M", 10.0)
    assert driver.device.errno == errno.EBUSY and [b.state for b in driver.mem.blocks.values()] == ["online"] * 4
    assert driver.mem.buddyinfo() == before and managed(driver.mem)["Movable"] == 2 * UNIT
    driver.mem.notifiers.unregister(veto)
    run([driver], driver.due, 11.0)
    driver.validate()
    assert driver.current_pages == 8192


def test_a_big_block_is_rolled_back_when_a_notifier_raises(engine):
    """Expect the notifier's exception, both memory blocks online in their zone, and the next request to work."""
    driver = guest(engine, block_size="32M")
    settle(driver, "64M")
    before = driver.mem.buddyinfo()

    def refuse(action, notice):
        if action == MEM_GOING_OFFLINE and notice.start_pfn == 3 * UNIT:
            raise RuntimeError("no")
    driver.mem.notifiers.register(refuse)
    with pytest.raises(RuntimeError):
        driver.device.request(0)
    assert [b.state for b in driver.mem.blocks.values()] == ["online"] * 4 and driver.mem.buddyinfo() == before
    driver.mem.notifiers.unregister(refuse)
    settle(driver, "32M", 10.0)
    assert driver.current_pages == 8192


def test_a_big_block_the_host_does_not_take():
    driver = guest(block_size="32M")
    settle(driver, "64M")
    driver.busy = ("unplug",)
    settle(driver, "32M", 10.0)
    assert list(driver.mem.blocks) == [0, 1] and driver.current_pages == 64 * MIB and driver.device.plugged_pages == 2 * UNIT
    driver.busy = ()
    run([driver], driver.due, 11.0)
    driver.validate()
    assert driver.current_pages == 8192


def test_a_region_over_ram_or_another_device_is_refused():
    """EBUSY at probe; a region whose ends lie inside memory blocks is taken, with a warning for each."""
    mem = Memory(GUEST_64, boot="32M", rules=LINUX_6_1)
    bus, log = VirtioMemBus(mem), []
    mem.events.listen(lambda kind, text: log.append(text))
    bus.add(VirtioMem(mem, 68 << 20, 32 << 20, 2 << 20))
    assert sum("alignment of the physical" in text for text in log) == 2
    for start, why in ((16, "System RAM"), (96, "virtio0")):
        with pytest.raises(HotplugError, match=why) as e:
            bus.add(VirtioMem(mem, start << 20, 32 << 20, 2 << 20, name="virtio1"))
        assert e.value.errno == errno.EBUSY and list(bus.devices) == ["virtio0"]


def test_a_guest_that_boots_again(engine):
    """UNPLUG_ALL gives every frame back, then the requested size is plugged into the new kernel."""
    driver = guest(engine)
    settle(driver, "60M")
    fresh = Memory(GUEST_64, boot="32M", rules=LINUX_6_1, engine=engine)
    driver.reboot(fresh, 20.0)
    assert driver.domain.tot_pages == 8192 and driver.device.plugged_pages == 0
    run([driver], 21.0, 20.0)
    driver.validate()
    assert driver.current_pages == fresh.totalram_pages == 60 * MIB
    for other in (fresh, Memory(GUEST_64, boot="64M", rules=LINUX_6_1)):
        with pytest.raises(ValueError, match="new Memory"):
            driver.reboot(other)


def test_the_region_does_not_end_with_the_hosts_memory():
    """31 MiB are left on the host, blocks have 16 MiB. Expect a region of two blocks, and all but 1 MiB plugged."""
    driver = guest(host="63M")
    settle(driver, "62M")
    assert driver.device.nr_blocks == 2 and driver.current_pages == 62 * MIB


# -- the end, and bad input

def test_close():
    driver = guest()
    settle(driver, "48M")
    with pytest.raises(HotplugError, match="4096 pages are plugged") as e:
        driver.close()
    assert e.value.errno == errno.EBUSY
    settle(driver, "32M", 10.0)
    driver.close()
    mem = driver.mem
    assert mem.online_page_callback is None and len(mem.notifiers) == 0 and mem.auto_online_blocks == "offline"
    assert "virtio0" not in mem.resources.text()


def test_a_callback_already_taken():
    mem = Memory(GUEST_64, boot="32M", rules=LINUX_6_1)
    mem.set_online_page_callback(print)
    with pytest.raises(HotplugError) as e:
        VirtioMemDriver(mem, Domain(Host("64M"), "32M"))
    assert e.value.errno == errno.EINVAL and len(mem.notifiers) == 0 and mem.auto_online_blocks == "offline"
    mem.restore_online_page_callback(print)
    mem.resources.request(40 << 20, 4096, "somebody")
    with pytest.raises(HotplugError) as e:
        VirtioMemDriver(mem, Domain(Host("64M"), "32M"))
    assert e.value.errno == errno.EBUSY and mem.online_page_callback is None
    mem.validate()


def test_two_devices_share_the_callback(engine):
    mem = Memory(GUEST_64, boot="32M", rules=LINUX_6_1, engine=engine)
    mem.auto_online_blocks = "online"
    bus = VirtioMemBus(mem)
    one, two = VirtioMem(mem, 32 << 20, 32 << 20, 2 << 20), VirtioMem(mem, 64 << 20, 64 << 20, 32 << 20, name="virtio1")
    for device in (one, two):
        bus.add(device)
    assert one.request(6 << 20) == 6 << 20 and two.request(32 << 20) == 32 << 20
    assert mem.totalram_pages == 70 * MIB
    assert one.request(0) == two.request(0) == 0
    bus.remove(one)
    assert mem.online_page_callback is not None
    bus.remove(two)
    assert mem.online_page_callback is None
    mem.validate()


def test_bad_input():
    with pytest.raises(ValueError, match="power of two"):
        guest(block_size="3M")
    with pytest.raises(ValueError, match="virtio-mem does not exist under Linux 2.6.25"):
        VirtioMemDriver(Memory(OLD[0], boot="32M", rules=OLD[1]), Domain(Host("64M"), "32M"))
    device = guest().device
    for size in (-(2 << 20), 1 << 40):
        with pytest.raises(ValueError, match="virtio0"):
            device.request(size)


class VirtioMemMachine(RuleBasedStateMachine):
    """Two guests of one host that is too small: targets move at random, plugs break off or die, guests use memory, blocks go
    offline and online by hand, others take the frames."""

    @initialize(engine=st.sampled_from(ENGINES), data=st.data())
    def boot(self, engine, data):
        self.host = Host("112M", scattered=True, seed=11)
        self.now, self.drivers, self.used, self.udevs = 0.0, [], [], []
        for _ in range(2):
            mem = Memory(NEW[0], boot="32M", rules=NEW[1], engine=engine)
            size = data.draw(st.sampled_from([None, "4M", "16M", "32M"]))
            auto_online = data.draw(st.booleans())
            self.drivers.append(VirtioMemDriver(mem, HalfWay(self.host, "32M", "96M"), size, auto_online))
            self.used.append(MovablePages(mem))
            self.udevs.append(Udev(mem, delay=20.0, period=10.0))
        self.neighbour = Domain(self.host)

    which = st.integers(0, 1)

    def advance(self, seconds):
        try:
            run([*self.drivers, *self.udevs], self.now + seconds, self.now)
        except KeyboardInterrupt:
            for driver in self.drivers:      # the worker is started again
                driver.due = min(driver.due, self.now)
        self.now += seconds

    @rule(which=which, pages=st.integers(0, 110 * MIB), seconds=st.sampled_from([0.0, 10.0, 400.0]))
    def target(self, which, pages, seconds):
        self.drivers[which].set_target(pages * 4096, self.now)
        self.advance(seconds)

    @rule(which=which, stop_at=st.integers(0, 5000), dies=st.booleans(), pages=st.integers(32 * MIB, 110 * MIB))
    def plug_breaks_off(self, which, stop_at, dies, pages):
        domain = self.drivers[which].domain
        domain.stop_at, domain.dies = stop_at, dies
        self.drivers[which].set_target(pages * 4096, self.now)
        self.advance(0.0)
        domain.stop_at, domain.dies = None, False

    @rule(nr=st.integers(0, 48 * MIB))
    def host_runs_dry(self, nr):
        self.neighbour.unback(self.neighbour.backed_pfns())
        self.neighbour.back(np.arange(nr))

    @rule(which=which, share=st.floats(0, 1), movable=st.booleans())
    def guest_uses_memory(self, which, share, movable):
        mem, used = self.drivers[which].mem, self.used[which]
        used.free()
        pfns = mem.alloc_pages_bulk(int(sum(zone.free_pages for zone in mem.zones.values()) * share))
        if movable:
            used.adopt(pfns)
        else:
            mem.free_pfns(pfns[::2])
            used.adopt(pfns[1::2])
            used.pinned = 10

    @rule(which=which, nr=st.integers(2, 6), word=st.sampled_from(["offline", "online_movable", "online_kernel"]))
    def by_hand(self, which, nr, word):
        mem = self.drivers[which].mem
        if nr in mem.blocks:
            try:
                mem.blocks[nr].write_state(word)
            except HotplugError as e:
                assert e.errno in (errno.EBUSY, errno.EINTR, errno.EINVAL)

    @invariant()
    def books_balance(self):
        for driver in getattr(self, "drivers", []):
            driver.validate()


TestVirtioMemMachine = VirtioMemMachine.TestCase
TestVirtioMemMachine.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


# -- backing

def test_pages_are_backed_when_they_are_touched(engine):
    """A ResidentDomain, 64 MiB more. Expect no frame for what is only plugged, and none for what was unplugged."""
    mem = Memory(GUEST_64, boot="32M", engine=engine)
    domain = ResidentDomain(Host("4G"))
    driver = VirtioMemDriver(mem, domain, auto_online=True, backing="touch")
    settle(driver, "96M")
    assert driver.current_pages == 96 * MIB == mem.totalram_pages and domain.tot_pages == 0
    pfns = mem.alloc_pages_bulk(32 * MIB, 0, "Movable")
    domain.touch(pfns)
    assert domain.tot_pages == 32 * MIB
    mem.free_pfns(pfns)
    settle(driver, "32M", 10.0)
    assert driver.current_pages == 32 * MIB == mem.totalram_pages and domain.tot_pages == 0
    driver.validate()


def test_a_backing_that_cannot_be_is_refused():
    mem = Memory(GUEST_64, boot="32M")
    for domain, backing in [(Domain(Host("4G"), "32M"), "touch"), (ResidentDomain(Host("4G")), "tuch")]:
        with pytest.raises(ValueError):
            VirtioMemDriver(mem, domain, backing=backing)
    assert mem.online_page_callback is None


@pytest.mark.parametrize("backing", ["plug", "touch"])
def test_a_resident_guest_gets_what_it_is_asked_to_have(engine, backing):
    mem = Memory(GUEST_64, boot="32M", rules=LINUX_6_1, engine=engine)
    domain = ResidentDomain(Host("128M"))
    driver = VirtioMemDriver(mem, domain, backing=backing)
    driver.set_target("64M")
    run([driver], 10.0)
    assert driver.current_pages == driver.usable_pages == mem.totalram_pages == 16384
    assert domain.tot_pages == (8192 if backing == "plug" else 0)
    domain.touch(mem.alloc_pages_bulk(100))
    driver.validate()
    driver.set_target("48M", 10.0)
    run([driver], 20.0, 10.0)
    assert driver.current_pages == mem.totalram_pages == 12288
    driver.validate()


@pytest.mark.parametrize("backing", ["plug", "touch"])
def test_virtio_mem_and_free_page_reporting_in_one_guest(engine, backing):
    """A guest grows by virtio-mem, uses what it got, frees it, and its balloon reports the free blocks. Expect that the host
    has their frames again, that the device does not mind, and that the memory can be used, and unplugged, all the same."""
    mem = Memory(GUEST_64, boot="32M", rules=LINUX_6_1, engine=engine)
    domain = ResidentDomain(Host("512M"))
    device = VirtioMemDriver(mem, domain, backing=backing)
    balloon = VirtioBalloonDriver(mem, domain, reporting=True)
    device.set_target("288M")
    run([device, balloon], 1.0)
    used = mem.alloc_pages_bulk(60000)
    domain.touch(used)
    mem.free_pfns(used)
    held = domain.tot_pages
    run([device, balloon], 5.0, 1.0)
    assert domain.tot_pages < held // 2 and device.current_pages == 73728
    device.validate()
    balloon.validate()
    used = mem.alloc_pages_bulk(10000)
    domain.touch(used)
    assert domain.tot_pages >= 10000
    mem.free_pfns(used)
    device.set_target("32M", 5.0)
    run([device, balloon], 200.0, 5.0)
    assert device.current_pages == mem.totalram_pages == 8192 and domain.tot_pages <= 8192
    device.validate()
    balloon.validate()
