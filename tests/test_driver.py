"""What the drivers share: the clock, and the workers' turns."""

import numpy as np
import pytest
from drivers_common import NEW, UNIT

from fastonline import Memory
from fastonline.drivers.cmm import Cmm1, Cmm2
from fastonline.drivers.consumers import Container, Ehea, Udev
from fastonline.drivers.dimm import Dimms
from fastonline.drivers.driver import AT_ONE_TIME, NEVER, SLICE, PageList, alloc_highuser, run
from fastonline.drivers.hyperv import HvBalloon
from fastonline.drivers.hypervisor import Domain, Host, ResidentDomain
from fastonline.drivers.virtio_balloon import VirtioBalloon, VirtioBalloonDriver
from fastonline.drivers.virtio_mem import VirtioMemDriver, block_sizes
from fastonline.drivers.xen import XEN_6_18, XenBalloon


def test_nobody_has_work():
    run([], until=10.0)


def test_time_passes_by_what_calls_cost():
    """10 ms a batch, 8 of them. Expect the guest's clock to show 80 ms after the time of the target."""
    host = Host("64M", call_ns={"decrease_reservation": 1e7})
    balloon = XenBalloon(Memory(NEW[0], boot="32M", rules=NEW[1]), Domain(host, "32M"), XEN_6_18)
    balloon.set_target("16M", 5.0)
    run([balloon], 6.0, 5.0)
    assert balloon.current_pages == 4096 and balloon.due == NEVER
    assert balloon.domain.now == pytest.approx(5.08) and balloon.domain.ns == 8e7


def test_a_slow_worker_takes_turns():
    """A second a batch: expect the neighbour to be served meanwhile, and a target that comes in between to be taken up."""
    host = Host("128M", call_ns={"decrease_reservation": 1e9})
    slow = XenBalloon(Memory(NEW[0], boot="32M", rules=NEW[1]), Domain(host, "32M"), XEN_6_18)
    other = VirtioBalloonDriver(Memory(NEW[0], boot="32M", rules=NEW[1]), ResidentDomain(host))
    slow.set_target("16M")
    other.set_target("20M", 2.5)
    run([slow, other], 3.2)
    assert slow.current_pages == 8192 - 4 * 512 and other.current_pages == 20 * 256 and slow.due == slow.domain.now == 4.0
    assert SLICE == 1.0
    slow.set_target("32M", 3.2)
    run([slow, other], 10.0, 3.2)
    assert slow.current_pages == 2 * UNIT and slow.domain.calls["decrease_reservation"] == 4


@pytest.mark.parametrize("make_driver", [
    lambda mem, host: Dimms(mem, Domain(host, "32M")),
    lambda mem, host: VirtioBalloonDriver(mem, ResidentDomain(host)),
    lambda mem, host: VirtioMemDriver(mem, Domain(host, "32M")),
    lambda mem, host: XenBalloon(mem, Domain(host, "32M"), XEN_6_18),
], ids=["dimm", "virtio-balloon", "virtio-mem", "xen"])
@pytest.mark.parametrize("size, error", [
    ("no size", ValueError), ("-1G", ValueError), (-1, ValueError), (None, TypeError), (1.5, TypeError),
])
def test_what_is_no_target(make_driver, size, error):
    driver = make_driver(Memory(NEW[0], boot="32M", rules=NEW[1]), Host("64M"))
    with pytest.raises(error):
        driver.set_target(size)
    assert driver.target_pages == 8192 and driver.due == NEVER


@pytest.mark.parametrize("kind", [XenBalloon, VirtioBalloonDriver, VirtioMemDriver, HvBalloon, Cmm1, Cmm2, Dimms])
def test_what_a_driver_is_made_of(kind):
    """Expect the words of what was wanted and of what came, and a guest that is as it was."""
    mem, host = Memory(NEW[0], boot="32M", rules=NEW[1]), Host("64M")
    for given in (("32M", Domain(host)), (None, None), (host, mem)):
        with pytest.raises(TypeError, match="^mem must be a Memory, not "):
            kind(*given)
    for given in (host, mem, None, "32M"):
        with pytest.raises(TypeError, match=r"^domain must be a \w*Domain, not "):
            kind(mem, given)
    assert mem.arch_free_page is None and mem.online_page_callback is None
    for made in (Udev, Ehea, VirtioBalloon, lambda mem: Container(mem, 1, [(0, 1)]), lambda mem: block_sizes(mem, 1)):
        with pytest.raises(TypeError, match="^mem must be a Memory, not "):
            made(host)


class Counting:
    """An actor that is due so many times at one moment, and then never."""

    def __init__(self, times, due=0.0):
        self.times, self.due = times, due

    def work(self, now):
        self.times -= 1
        if self.times == 0:
            self.due = NEVER


@pytest.mark.parametrize("due", [0.0, -5.0, 3.0, float("nan")])
def test_a_driver_that_does_not_move_its_due(due):
    """Expect its name instead of a loop without end, also beside others; as often as it likes up to a limit."""
    with pytest.raises(RuntimeError, match=r"^Counting: its work\(\d\.0\) leaves due at "):
        run([Counting(-1, due), Counting(5)], 10.0)
    run([Counting(AT_ONE_TIME), Counting(7)], 10.0)


@pytest.mark.parametrize("until, now", [(float("nan"), 0.0), (1.0, float("nan"))])
def test_times_that_are_none(until, now):
    with pytest.raises(ValueError, match="invalid time"):
        run([Counting(1)], until, now)


def test_a_page_list_holds_pages_past_2_31():
    """Pages below 2^31 at both ends, then one past it. Expect their order and int64 arrays."""
    pages = PageList()
    pages.add_tail(np.arange(2000))
    pages.add_head(np.array([5000, 5001]))
    pages.add_tail(np.array([1 << 33]))
    pages.add_head(np.array([(1 << 31) - 1]))
    expected = [(1 << 31) - 1, 5001, 5000, *range(2000), 1 << 33]
    assert repr(pages) == "<PageList pages=2004>"
    assert pages.view().tolist() == expected == pages.head(5000).tolist() == pages.tail(5000)[::-1].tolist()
    assert pages.view().dtype == pages.head(1).dtype == pages.tail(1).dtype == np.int64
    pages.drop_tail(1)
    assert pages.tail(1).tolist() == [1999]


def test_a_balloon_gets_what_arch_alloc_page_leaves(engine):
    """A hook keeps 3 of 10 pages. Expect the other 7, and an array without any for none."""
    mem = Memory("X86_64", boot="512M", engine=engine)
    mem.arch_alloc_page = lambda pfns, order: pfns[:3]
    pfns = alloc_highuser(mem, 10)
    assert pfns.size == 7 and all("PG_buddy" not in mem.page_flags(pfn) for pfn in pfns.tolist())
    assert alloc_highuser(mem, 0).tolist() == []
