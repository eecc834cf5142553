"""Who listens when memory comes: ehea, udev, and a container of a node."""

import errno

import pytest
from drivers_common import NEW, OLD, UNIT

from fastonline import LINUX_2_6_25, MEM_GOING_OFFLINE, MEM_GOING_ONLINE, MMOP_ONLINE_MOVABLE, HotplugError, Memory
from fastonline.drivers.consumers import Container, Ehea, Udev
from fastonline.drivers.driver import NEVER, run
from fastonline.drivers.hypervisor import Domain, Host
from fastonline.drivers.xen import XEN_THREAD, XenBalloon
from fastonline.testing.geometries import GUEST_64, GUEST_PAE


def test_ehea_gets_the_precise_count(engine):
    """A balloon onlines pages here and there: nr_pages spans them, onlined counts them."""
    mem = Memory(GUEST_PAE, boot="32M", rules=LINUX_2_6_25, engine=engine)
    ehea = Ehea(mem)
    balloon = XenBalloon(mem, Domain(Host("64M"), "32M"), XEN_THREAD)
    balloon.set_target("40M")
    balloon.work(0.0)
    assert ehea.onlined == mem.stats()["pages_onlined"] == 2048 and ehea.sections == {2}
    spread = [8192 + 2048 + 10, 8192 + 2048 + 1000]
    mem.mark_pfns_onlined(spread)
    assert ehea.onlined == 2050 and ehea.announced == 2048 + 991


def test_ehea_has_room_for_so_many_sections(engine):
    mem = Memory(GUEST_64, boot="32M", engine=engine)
    ehea = Ehea(mem, max_sections=1)
    mem.add_memory(2 * UNIT, 2 * UNIT)
    mem.online_pages(2 * UNIT, UNIT)
    with pytest.raises(HotplugError) as e:
        mem.online_pages(3 * UNIT, UNIT)
    assert e.value.errno == errno.EPERM and ehea.vetoes == 1 and mem.blocks[3].state == "offline"
    mem.offline_pages(2 * UNIT, UNIT)
    assert ehea.sections == set()
    mem.online_pages(3 * UNIT, UNIT)
    assert ehea.sections == {3}
    ehea.close()
    mem.validate()


@pytest.mark.parametrize("geometry, rules", [OLD, NEW], ids=["2.6.25", "6.1"])
def test_udev_onlines_later(engine, geometry, rules):
    mem = Memory(geometry, boot="32M", rules=rules, engine=engine)
    udev = Udev(mem, delay=2.0, period=0.5)
    run([udev], 1.0)
    mem.add_memory(2 * UNIT, 2 * UNIT)
    run([udev], 2.9, 1.2)
    assert [(e.action, e.device) for e in udev.events] == [("add", "memory2"), ("add", "memory3")]
    assert mem.blocks[2].state == "offline"
    run([udev], 4.0, 2.9)
    assert mem.blocks[2].state == mem.blocks[3].state == "online"
    assert [(e.time, e.action) for e in udev.events[2:]] == [(3.5, "online"), (3.5, "online")]
    udev.close()
    assert udev.due == NEVER
    mem.validate()


def test_udev_asks_a_script_and_lives_with_a_veto():
    mem = Memory(GUEST_64, boot="32M")
    udev = Udev(mem, delay=0.0, period=1.0, online_type=MMOP_ONLINE_MOVABLE, check=lambda block: block.nr != 3)
    Ehea(mem, max_sections=1)
    mem.add_memory(2 * UNIT, 3 * UNIT)
    run([udev], 2.0)
    assert [mem.blocks[nr].state for nr in (2, 3, 4)] == ["online", "offline", "offline"]
    assert mem.blocks[2].valid_zones == "Movable"
    assert [(e.action, e.device) for e in udev.events if e.action != "add"] == [("online", "memory2"), ("failed", "memory4")]
    mem.offline_pages(2 * UNIT, UNIT)
    mem.remove_memory(2 * UNIT, UNIT)
    run([udev], 4.0, 3.0)
    assert ("remove", "memory2") in [(e.action, e.device) for e in udev.events]
    for bad in ({"delay": -1}, {"period": 0}):
        with pytest.raises(ValueError):
            Udev(mem, **bad)


def test_udev_sees_what_comes_between_two_looks():
    """A block goes and comes back, another is onlined by hand, a third is gone again. Expect every event, in order."""
    mem = Memory(GUEST_64, boot="64M", memory_block_size="32M")
    block = 2 * UNIT
    mem.add_memory(2 * block, block)
    udev = Udev(mem, delay=1.0, period=0.5)
    mem.remove_memory(2 * block, block)
    mem.add_memory(2 * block, 3 * block)
    mem.blocks[3].online("online_movable")
    mem.remove_memory(4 * block, block)
    run([udev], 0.2)
    assert [f"{e.action}@{e.device}" for e in udev.events] == [
        "remove@memory2", "add@memory2", "add@memory3", "add@memory4", "online@memory3", "remove@memory4"]
    run([udev], 2.0, 0.2)
    assert [(e.time, e.action, e.device) for e in udev.events[6:]] == [(1.0, "online", "memory2")]
    assert mem.blocks[2].valid_zones == "Normal" and mem.blocks[3].valid_zones == "Movable"
    udev.close()
    mem.blocks[2].offline()
    assert len(udev.events) == 7 and mem.events.listeners == []
    mem.validate()


def test_a_container_is_a_node(engine):
    mem = Memory(GUEST_64, boot="32M", engine=engine)
    udev = Udev(mem, delay=1.0, period=0.5)
    box = Container(mem, 1, [(4 * UNIT, UNIT), (6 * UNIT, 2 * UNIT)])
    changed = []

    @mem.notifiers.register
    def going_online(action, notice):
        if action == MEM_GOING_ONLINE:
            changed.append(notice.status_change_nid)
    box.add(udev)
    assert udev.events[0].device == "container1" and 1 in mem.nodes and box.online_pages() == 0
    run([udev], 5.0)
    assert box.online_pages() == 3 * UNIT == mem.nodes[1].managed_pages
    assert ("add", "node1") in [(e.action, e.device) for e in udev.events]
    assert changed[0] == 1 and changed[-1] == -1
    pfn = mem.alloc_pages(0, (1, "Normal"))
    with pytest.raises(HotplugError, match="container1 stays") as e:
        box.remove(udev)
    assert e.value.errno == errno.EBUSY and box.online_pages() == 3 * UNIT
    mem.free_pages(pfn)

    @mem.notifiers.register
    def refuse(action, notice):
        if action == MEM_GOING_OFFLINE and notice.start_pfn == 6 * UNIT:
            raise RuntimeError("no")
    with pytest.raises(RuntimeError):
        box.remove(udev)
    assert box.online_pages() == 3 * UNIT
    mem.notifiers.unregister(refuse)
    box.remove(udev, 6.0)
    assert 1 not in mem.nodes and len(mem.blocks) == 2
    mem.validate()


def test_a_container_that_does_not_fit_adds_nothing(engine):
    mem = Memory(GUEST_64, boot="32M", engine=engine)
    with pytest.raises(HotplugError) as e:
        Container(mem, 1, [(4 * UNIT, UNIT), (UNIT, UNIT)]).add()
    assert e.value.errno == errno.EEXIST and len(mem.blocks) == 2 and 1 not in mem.nodes
    with pytest.raises(ValueError):
        Container(mem, 1, [])


def test_a_listener_that_raises_while_a_container_comes():
    """The second DIMM's block is there when a listener raises, and the first one's went online by itself. Expect its exception,
    and nothing of the container left."""
    mem = Memory(GUEST_64, boot="32M")
    mem.auto_online_blocks = "online"
    box = Container(mem, 1, [(4 * UNIT, UNIT), (6 * UNIT, UNIT)])

    @mem.events.listen
    def listener(kind, text):
        if text == "add@memory6":
            raise RuntimeError("no")
    with pytest.raises(RuntimeError):
        box.add()
    assert 1 not in mem.nodes and 4 not in mem.blocks and 6 not in mem.blocks
    mem.validate()
    mem.events.ignore(listener)
    box.add()
    assert mem.nodes[1].present_pages == 2 * UNIT
