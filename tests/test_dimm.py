"""DIMMs that come and go as a whole."""

import json

from drivers_common import UNIT

from fastonline import Memory
from fastonline.cli import main
from fastonline.drivers.consumers import Udev
from fastonline.drivers.dimm import Dimms
from fastonline.drivers.driver import run
from fastonline.drivers.hypervisor import Domain, Host
from fastonline.testing.geometries import GUEST_64

MIB = 256      # pages


def guest(engine, host="128M", **given):
    mem = Memory(GUEST_64, boot="32M", engine=engine)
    return Dimms(mem, Domain(Host(host), "32M"), **given)


def test_dimms_come_whole_and_go_when_they_are_empty(engine):
    """33 MiB more need three DIMMs of 16. One holds a page: it stays, and is tried again."""
    driver = guest(engine, auto_online=True)
    driver.set_target("65M")
    run([driver], 1.0)
    assert driver.current_pages == 80 * MIB == driver.mem.totalram_pages and driver.counts() == {"dimms": 3, "refused": 0}
    (pfn,) = driver.mem.alloc_pages_bulk(1, 0, "Normal")
    driver.set_target("32M", 2.0)
    run([driver], 3.0, 2.0)
    assert driver.current_pages == (32 + 16) * MIB and driver.refusals == {"EBUSY": 1}
    assert driver.mem.zone_of(int(pfn)).name == "Normal"
    driver.mem.free_pfns([pfn])
    run([driver], 30.0, 3.0)
    assert driver.current_pages == 32 * MIB and driver.counts() == {"dimms": 0, "refused": 1}
    driver.validate()


def test_a_dimm_without_frames_is_not_plugged(engine):
    driver = guest(engine, host="40M", auto_online=True)
    driver.set_target("64M")
    driver.work(0.0)
    assert driver.current_pages == 32 * MIB and driver.refusals == {"ENOMEM": 1} and driver.due == Dimms.RETRY
    assert driver.domain.calls["populate_physmap"] == 0
    driver.validate()


def test_user_space_decides_when_memory_goes_online(engine):
    driver = guest(engine)
    udev = Udev(driver.mem, delay=2.0, period=0.5)
    driver.set_target("48M")
    run([udev, driver], 1.0)
    assert driver.mem.totalram_pages == 32 * MIB and driver.current_pages == 32 * MIB + UNIT
    run([udev, driver], 4.0, 1.0)
    assert driver.mem.totalram_pages == 48 * MIB
    driver.validate()


def test_balloon_takes_a_dimm_driver_a_memmap_and_a_block_size(capsys):
    args = ["balloon", "dimm", "1G,1.5G,1G", "--memory-block-size", "256M", "--memmap", "on_memory", "--json", "-"]
    assert main(args) == 0
    samples = json.loads(capsys.readouterr().out)["samples"]
    assert [sample["actual"] >> 20 for sample in samples] == [1024, 1536, 1024]
    assert samples[1]["total"] == (1536 << 20) - 2 * (4 << 20)
