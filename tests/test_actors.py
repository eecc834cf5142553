"""cost/actors.py: what a guest's own work costs, and the host's other guests."""


from fastonline import LINUX_6_1, X86_64, Memory
from fastonline.cost.actors import GuestWork, Others
from fastonline.cost.costs import LARGE_GUESTS
from fastonline.cost.scenario import Scenario
from fastonline.drivers.driver import NEVER
from fastonline.drivers.hypervisor import Host
from fastonline.drivers.virtio_mem import VirtioMem, VirtioMemBus

MIB, GIB = 1 << 20, 1 << 30


def plug_and_unplug(gib):
    """Modelled s of plugging and unplugging so many GiB by blocks of 128 MiB, without and with the scan for holes."""
    mem = Memory(X86_64, boot="1G", rules=LINUX_6_1)
    mem.auto_online_blocks = "online_movable"
    own = GuestWork(mem, LARGE_GUESTS.guest)
    device = VirtioMem(mem, 4 * GIB, gib * GIB, 128 * MIB)
    VirtioMemBus(mem).add(device)
    before = own.counts()
    assert device.request(gib * GIB) == gib * GIB and device.request(0) == 0
    done = own.counts()
    done.subtract(before)
    price = LARGE_GUESTS.host["virtio-mem"]["discard"]
    without = 2 * gib * (1 << 18) * price.frame / 1e9
    return without, without + own.ns(done) / 1e9


def test_scanning_the_zone_makes_twice_the_memory_cost_more_than_twice():
    (without, scan), (without_of_half, scan_of_half) = plug_and_unplug(512), plug_and_unplug(256)
    assert 3 <= scan / scan_of_half <= 3.7 and 1.9 <= without / without_of_half <= 2.2


def test_other_guests_take_what_there_is():
    """One guest of 64 MiB from 5 s on, 128 MiB from 15 s on, on a host with frames for 96 MiB. Expect the missing ones to be
    asked for again after a second, and all given back in the end."""
    given = Scenario.from_dict({
        "name": "x", "boot": "16M", "host": "96M", "steps": [[1, "16M"]],
        "others": [{"name": "b", "steps": [[5, "64M"], [15, "128M"], [35, "0"]]}],
    })
    others = Others(given, Host("96M"))
    seen = []
    for now in (0.0, 5.0, 15.0, 35.0):
        others.work(now)
        seen.append((others.pages * 4096 // MIB, others.due))
    assert seen == [(0, 5.0), (64, 15.0), (96, 16.0), (0, NEVER)]
