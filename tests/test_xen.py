"""The Xen balloon: as of 2.6.26, the thread's, 3.1's and 6.18's, against a host that may run dry or break off half-way."""

import errno

import numpy as np
import pytest
from conftest import ENGINES
from drivers_common import NEW, OLD, UNIT, HalfWay
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastonline import LINUX_2_6_25, LINUX_6_1, NOTIFY_BAD, X86_32_PAE, HotplugError, Memory
from fastonline.drivers import xen
from fastonline.drivers.consumers import Udev
from fastonline.drivers.driver import NEVER, run
from fastonline.drivers.hypervisor import INVALID_P2M_ENTRY, Domain, Host
from fastonline.drivers.xen import (
    BEHAVIOURS,
    BP_DONE,
    BP_ECANCELED,
    BP_WAIT,
    XEN_2_6_26,
    XEN_3_1,
    XEN_6_18,
    XEN_THREAD,
    XenBalloon,
)
from fastonline.testing.geometries import GUEST_64, GUEST_PAE

MIB = 256       # pages


def guest(behaviour, engine="bitmap", kind=NEW, boot="32M", built=None, host="128M", **options):
    geometry, rules = kind
    mem = Memory(geometry, boot=boot, rules=rules, engine=engine)
    domain = HalfWay(Host(host, scattered=options.get("order", 0) == 0, seed=7), boot if built is None else built)
    return XenBalloon(mem, domain, behaviour, **options)


def settle(balloon, size, at=0.0):
    balloon.set_target(size, at)
    run([balloon], at + 1000, at)
    balloon.validate()


@pytest.mark.parametrize("kind", [OLD, NEW], ids=["2.6.25", "6.1"])
@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=BEHAVIOURS)
def test_targets_are_reached(engine, kind, behaviour):
    balloon = guest(behaviour, engine, kind, boot="32M", built="24M")
    balloon.validate()
    assert balloon.balloon_pages == 2048 and balloon.mem.totalram_pages == 6144
    for at, size in enumerate([32, 20, 40, 24, 56]):
        settle(balloon, f"{size}M", at * 2000.0)
        reached = size if behaviour.expands or behaviour.callback else min(size, 32)
        assert balloon.current_pages == balloon.mem.totalram_pages == reached * 256
    assert balloon.domain.calls["populate_physmap"] > 0 and balloon.domain.calls["decrease_reservation"] > 0


@pytest.mark.parametrize("kind", [OLD, NEW], ids=["2.6.25", "6.1"])
@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=BEHAVIOURS)
@pytest.mark.parametrize("batch", [1, 100, None])
def test_many_batches_at_once_are_single_batches(behaviour, kind, batch, monkeypatch):
    """Up, down, and up beyond what the host has, with prices at which a time slice ends among the batches. Expect machine,
    table, list, counts and clock as with a batch at a time."""
    prices = {"populate_physmap": (1e7, 2e5, 0), "decrease_reservation": (1e7, 1e5, 3e4), "update_va_mapping": 2e4}
    balloons = []
    for at_once in (xen.AT_ONCE, 1):
        monkeypatch.setattr(xen, "AT_ONCE", at_once)
        geometry, rules = kind
        mem = Memory(geometry, boot="24M", rules=rules)
        balloon = XenBalloon(mem, Domain(Host("64M", scattered=True, call_ns=prices), "24M", "60M"), behaviour, batch=batch)
        for at, size in enumerate([20, 24, 12, 40, 80, 30]):
            balloon.set_target(f"{size}M", at * 20.0)
            run([balloon], at * 20.0 + 19.0, at * 20.0)
        balloon.validate()
        balloons.append(balloon)
    one, other = balloons
    for name in ("calls", "frames", "refused", "ns", "now", "page_seconds", "tot_pages", "peak_pages"):
        assert getattr(one.domain, name) == getattr(other.domain, name), name
    assert np.array_equal(one.domain.p2m, other.domain.p2m) and np.array_equal(one.balloon_list(), other.balloon_list())
    assert np.array_equal(one.domain.host.free_list(), other.domain.host.free_list())
    stats = [balloon.mem.stats().as_dict() | {"bytes_touched": 0} for balloon in balloons]      # which says how the engine went
    assert stats[0] == stats[1] and one.mem.buddyinfo() == other.mem.buddyinfo()
    assert (one.counts(), one.due, one.state) == (other.counts(), other.due, other.state)


def test_balloon_expand_as_in_the_thread(engine):
    balloon = guest(XEN_THREAD, engine, OLD)
    mem, domain = balloon.mem, balloon.domain
    start = balloon.balloon_expand(UNIT)
    assert start == 8192 and mem.totalram_pages == 8192
    assert mem.page_flags(start) == "PG_reserved|PG_prepared"
    assert mem.zones["HighMem"].spanned_pages == start + UNIT - 4096
    assert balloon.balloon_list()[:5].tolist() == [start, start + 1, start + 2, start + 3, start + 4]    # highmem: appended
    assert balloon.balloon_high == UNIT and balloon.balloon_low == 0
    assert not domain.backed(np.arange(start, start + UNIT)).any()
    told = []
    mem.notifiers.register(lambda action, notice: told.append((action, notice.onlined)))
    balloon.set_target((8192 + 100) * 4096)
    balloon.work(0.0)
    assert mem.totalram_pages == 8292 and told == [(1, 100)]
    assert domain.calls["update_va_mapping"] == 0      # all highmem
    assert int(domain.p2m[start + 99]) != INVALID_P2M_ENTRY == int(domain.p2m[start + 100])
    balloon.validate()


def test_lowmem_at_the_head_highmem_at_the_tail():
    balloon = guest(XEN_2_6_26, kind=OLD)
    zone = balloon.mem.zones["HighMem"]
    settle(balloon, (8192 - zone.free_pages - 500) * 4096)
    pfns = balloon.balloon_list()
    high = pfns >= 4096
    assert balloon.balloon_low == int((~high).sum()) > 0 and balloon.balloon_high == int(high.sum()) > 0
    assert not high[: balloon.balloon_low].any() and high[balloon.balloon_low :].all()
    assert balloon.domain.calls["update_va_mapping"] == balloon.balloon_low      # unmapped
    first = pfns[:10].copy()
    balloon.set_target((balloon.current_pages + 10) * 4096, 2000.0)
    balloon.work(2000.0)
    assert all(balloon.mem.page_flags(int(pfn)) == "PG_buddy|PG_prepared" for pfn in first)


@pytest.mark.parametrize("geometry, rules, batch", [(GUEST_PAE, LINUX_2_6_25, 1024), (GUEST_64, LINUX_6_1, 512)])
def test_batches_are_a_page_of_longs(geometry, rules, batch):
    balloon = guest(XEN_3_1, kind=(geometry, rules), built="16M")
    settle(balloon, "32M")
    assert balloon.domain.calls["populate_physmap"] == 4096 // batch
    single = guest(XEN_3_1, kind=(geometry, rules), built="16M", batch=1)
    settle(single, 4196 * 4096)
    assert single.domain.calls["populate_physmap"] == 100


@pytest.mark.parametrize("behaviour, kind", [(XEN_2_6_26, OLD), (XEN_THREAD, OLD), (XEN_3_1, NEW), (XEN_6_18, NEW)])
def test_page_by_page_is_what_single_calls_do(engine, behaviour, kind):
    """Once by the frame_list, once one by one, with somebody who is told. Expect the same pages, frames and counts."""
    ends = []
    for single in (False, True):
        balloon = guest(behaviour, engine, kind, built="16M", host="36M", batch=1, max_retry_count=1)
        told = []
        if single:
            balloon._frame_list = 1
            balloon.mem.notifiers.register(lambda action, notice, told=told: told.append(notice.onlined))
        for at, size in enumerate([17, 20, 17, 40, 19]):
            settle(balloon, f"{size}M", at * 2000.0)
        stats = balloon.mem.stats()
        ends.append({
            "list": balloon.balloon_list().tobytes(), "p2m": balloon.domain.p2m.tobytes(), "calls": balloon.domain.calls,
            "refused": balloon.domain.refused, "hard_limit": balloon.hard_limit, "pages": balloon.current_pages,
            "merges": stats["merges"], "onlined": stats["pages_onlined"], "buddyinfo": balloon.mem.buddyinfo(),
        })
    for what, value in ends[0].items():
        assert value == ends[1][what], what
    assert not behaviour.expands or set(told) - {0} == {1} and sum(told) > 4096
    assert ends[0]["calls"]["populate_physmap"] > 4096 <= ends[0]["calls"]["decrease_reservation"]


def test_2_6_26_gives_a_partial_batch_back():
    balloon = guest(XEN_2_6_26, built="16M")
    balloon.domain.stop_at = 100
    balloon.set_target("32M")
    balloon.work(0.0)
    assert balloon.hard_limit == 4096 + 100
    assert balloon.current_pages == 4196 and balloon.due == NEVER     # the limit is reached, no timer
    assert balloon.domain.calls["decrease_reservation"] == 1
    balloon.validate()
    settle(balloon, "32M", 10.0)      # a new target forgets the limit
    assert balloon.hard_limit is None and balloon.current_pages == 8192


def test_3_1_keeps_what_it_got():
    balloon = guest(XEN_3_1, built="16M")
    balloon.domain.stop_at = 100
    settle(balloon, "32M")
    assert balloon.current_pages == 8192 and balloon.domain.calls["decrease_reservation"] == 0


def test_retries_back_off_and_end():
    balloon = guest(XEN_6_18, built="16M", host="20M", max_retry_count=4)
    times = []
    balloon.set_target("32M")
    now = 0.0
    while balloon.due < 3600:
        now = max(now, balloon.due)
        balloon.work(now)
        times.append(now)
    assert (
        times == [0.0, 2.0, 6.0, 14.0]
        and balloon.due == 14.0 + 3600.0
        and balloon.state == BP_ECANCELED
        and balloon.gave_up == 1
    )
    assert balloon.current_pages == 5120 and balloon.domain.host.free_frames == 0
    assert balloon.domain.refused["host"] > 0
    balloon.validate()
    endless = guest(XEN_6_18, built="16M", host="20M", max_retry_count=0, max_schedule_delay=8)
    endless.set_target("32M")
    endless.work(0.0)
    delays = []
    for _ in range(6):
        now = endless.due
        endless.work(now)
        delays.append(endless.due - now)
    assert delays == [4, 8, 8, 8, 8, 8]


def test_3_1_never_gives_up():
    """RETRY_UNLIMITED until 5.3. Expect tries for ever, at most 32 s apart, and success when the host has frames again."""
    balloon = guest(XEN_3_1, built="16M", host="36M")
    neighbour = Domain(balloon.domain.host, "16M")
    settle(balloon, "32M")
    assert balloon.current_pages == 20 * MIB and balloon.gave_up == 0 and balloon.due < 1100
    neighbour.destroy()
    run([balloon], 1200.0, 1000.0)
    assert balloon.current_pages == 32 * MIB and balloon.due == NEVER


def test_6_18_looks_again_after_an_hour():
    balloon = guest(XEN_6_18, built="16M", host="36M")
    neighbour = Domain(balloon.domain.host, "16M")
    settle(balloon, "32M")
    assert balloon.state == BP_ECANCELED and balloon.gave_up == 1
    neighbour.destroy()
    run([balloon], 3700.0, 1000.0)
    assert balloon.current_pages == 32 * MIB and balloon.state == BP_DONE


@pytest.mark.parametrize("switch", [False, True])
def test_xen_hotplug_unpopulated(engine, switch):
    """Pages for another driver: expect added memory with the switch, the guest's own without."""
    balloon = guest(XEN_6_18, engine, hotplug_unpopulated=switch)
    assert balloon.alloc_ballooned_pages(100).size == 100
    assert balloon.current_pages == 8192 - (0 if switch else 100) and balloon.expansions == int(switch)
    balloon.validate()


def test_2_6_26_tries_every_second_when_it_cannot_shrink():
    balloon = guest(XEN_2_6_26)
    balloon.set_target(0)
    balloon.work(5.0)
    assert balloon.due == 6.0
    free = sum(zone.free_pages for zone in balloon.mem.zones.values())
    assert 0 < free == balloon.current_pages       # nothing in use here: what is left are the watermarks
    assert all(zone.free_pages >= zone.min for zone in balloon.mem.zones.values())
    balloon.validate()


def test_6_18_waits_for_user_space(engine):
    balloon = guest(XEN_6_18, engine, auto_online=False)
    udev = Udev(balloon.mem, delay=3.0, period=0.5)
    balloon.set_target("40M")
    run([udev, balloon], 2.0)
    assert balloon.state == BP_WAIT and balloon.current_pages == 8192 and balloon.total_pages == 8192 + UNIT
    run([udev, balloon], 10.0, 2.0)
    assert balloon.state == BP_DONE and balloon.current_pages == 10240 and balloon.expansions == 1
    assert [(e.action, e.device) for e in udev.events] == [("add", "memory2"), ("online", "memory2")]
    balloon.validate()


def test_3_1_promises_what_is_added_and_not_online():
    balloon = guest(XEN_3_1, auto_online=False)
    balloon.set_target((8192 + 1000) * 4096)
    balloon.work(0.0)
    assert (balloon.hotplug_pages, balloon.balloon_hotplug) == (1000, UNIT - 1000)
    balloon.set_target((8192 + 1500) * 4096, 1.0)
    balloon.work(1.0)
    assert (balloon.hotplug_pages, balloon.balloon_hotplug) == (1500, UNIT - 1500)
    balloon.set_target((8192 + 200) * 4096, 2.0)
    balloon.work(2.0)
    assert (balloon.hotplug_pages, balloon.balloon_hotplug) == (200, UNIT - 200)
    balloon.mem.online_pages(8192, UNIT)
    assert (balloon.hotplug_pages, balloon.balloon_hotplug) == (0, 0) and balloon.due == 0.0
    run([balloon], 3.0, 2.0)
    assert balloon.current_pages == 8392
    balloon.validate()


def test_large_pages(engine):
    balloon = guest(XEN_THREAD, engine, built="16M", order=9)
    settle(balloon, "25M")
    assert balloon.current_pages == 24 * 256        # whole extents only
    extents = balloon.domain.p2m[:8192].view(np.int64).reshape(-1, 512)
    backed = extents[extents[:, 0] >= 0]
    assert len(backed) == 12 and np.array_equal(backed, backed[:, :1] + np.arange(512)) and not np.any(backed[:, 0] % 512)
    settle(balloon, "8M", 2000.0)
    assert balloon.current_pages == 8 * 256
    settle(balloon, "60M", 4000.0)
    assert balloon.current_pages == 60 * 256
    # a boot domain of scattered frames shrinks by large pages, and gives small ones back
    mem = Memory(GUEST_64, boot="32M", engine=engine)
    scattered = XenBalloon(mem, Domain(Host("64M", scattered=True), "32M"), XEN_6_18, order=9)
    settle(scattered, "20M")
    assert scattered.current_pages == 5120


def test_two_guests_on_a_dry_host():
    host = Host("48M", scattered=True)
    one, two = (XenBalloon(Memory(GUEST_64, boot="32M"), Domain(host, "20M"), XEN_6_18) for _ in range(2))
    for balloon in (one, two):
        settle(balloon, "32M")
    assert host.free_frames == 0 and one.current_pages == 28 * 256 and two.current_pages == 20 * 256
    settle(one, "18M", 3000.0)
    settle(two, "30M", 5000.0)
    assert two.current_pages == 30 * 256


def test_beyond_the_cap():
    mem = Memory(GUEST_64, boot="32M")
    domain = Domain(Host("128M"), "32M", max_memory="36M")
    balloon = XenBalloon(mem, domain, XEN_6_18)
    settle(balloon, "64M")
    assert balloon.current_pages == 36 * 256 and balloon.state == BP_ECANCELED and domain.refused["cap"] > 0


def test_an_expansion_that_is_refused_adds_nothing():
    for kind, order, nr, error in ((OLD, 9, 1000, ValueError), (NEW, 0, 1000, HotplugError), (OLD, 0, 1 << 40, HotplugError)):
        balloon = guest(XEN_THREAD, kind=kind, order=order)
        with pytest.raises(error):
            balloon.balloon_expand(nr)
        assert list(balloon.mem.blocks) == [0, 1]
        balloon.validate()


def test_a_notifier_that_raises_when_pages_are_online_costs_no_page(engine):
    balloon = guest(XEN_THREAD, engine, OLD)
    balloon.balloon_expand(1000)      # 2.6.25 takes less than a section

    def raises(action, notice):
        raise RuntimeError("from a notifier")
    balloon.mem.notifiers.register(raises)
    balloon.set_target((8192 + 900) * 4096)
    with pytest.raises(RuntimeError):
        balloon.work(0.0)
    balloon.validate()
    assert balloon.current_pages == 8192 + 900 and balloon.balloon_pages == 100


def test_xenstore_speaks_kib():
    balloon = guest(XEN_6_18)
    balloon.watch_target(20 * 1024 + 3, 5.0)
    assert balloon.target_pages == 20 * 256 and balloon.due == 5.0


def test_an_hvm_guests_target_leaves_the_firmwares_memory_out():
    """Built for 36 MiB, 4 of which the firmware has. Expect every target to mean 4 MiB less."""
    balloon = guest(XEN_6_18, static_max="36M")
    for kib, pages in ((36 * 1024, 32 * MIB), (20 * 1024, 16 * MIB), (1024, 0)):
        balloon.watch_target(kib)
        assert balloon.target_pages == pages
    with pytest.raises(ValueError):
        guest(XEN_6_18, static_max="much")


@pytest.mark.parametrize("behaviour, text, target", [
    (XEN_2_6_26, "16777216\n", 16 * MIB), (XEN_2_6_26, "20M", 20 * MIB), (XEN_2_6_26, "0x1800k", 6 * MIB),
    (XEN_2_6_26, "0100000000", 16 * MIB), (XEN_2_6_26, "lots", 0),
    (XEN_3_1, "16384\n", 16 * MIB), (XEN_6_18, "16387", 16 * MIB), (XEN_6_18, "20M", 5), (XEN_6_18, "", 0),
])
def test_sysfs_target_kb(behaviour, text, target):
    balloon = guest(behaviour)
    assert balloon.store_target_kb(text, 3.0) == len(text)
    assert balloon.target_pages == target and balloon.due == 3.0


@pytest.mark.parametrize("text, admin, code", [
    ("", True, "EBADMSG"), ("8", True, "EBADMSG"), ("1" * 65, True, "EFBIG"), ("16M", False, "EPERM"),
])
def test_sysfs_target_kb_refuses(text, admin, code):
    balloon = guest(XEN_2_6_26)
    with pytest.raises(HotplugError) as e:
        balloon.store_target_kb(text, admin=admin)
    assert errno.errorcode[e.value.errno] == code and balloon.target_pages == 8192 and balloon.due == NEVER


def test_frames_of_other_drivers_are_not_the_balloons():
    balloon = guest(XEN_2_6_26, built="16M")
    balloon.balloon_update_driver_allowance(30)
    balloon.domain.stop_at = 100
    balloon.set_target("32M")
    balloon.work(0.0)
    assert balloon.hard_limit == 4096 + 100 - 30 == balloon.current_pages
    balloon.validate()


@pytest.mark.parametrize("behaviour, kind", [(XEN_3_1, OLD), (XEN_6_18, NEW)], ids=["3.1", "6.18"])
def test_ballooned_pages_for_other_drivers(engine, behaviour, kind):
    """The balloon has 1000 pages, a driver wants 3000. Expect 2000 ballooned out, and memory added to make up for it."""
    balloon = guest(behaviour, engine, kind)
    settle(balloon, 7192 * 4096)
    listed = balloon.balloon_list().tolist()
    pfns = balloon.alloc_ballooned_pages(1000, 2000.0)
    assert pfns.tolist() == (listed[::-1] if behaviour is XEN_3_1 else listed) and balloon.target_unpopulated == 1000
    assert balloon.balloon_low == balloon.balloon_high == 0 and not balloon.domain.backed(pfns).any()
    balloon.validate()
    more = balloon.alloc_ballooned_pages(2000, 2000.0)
    assert balloon.current_pages == 5192 and np.intersect1d(pfns, more).size == 0
    balloon.validate()
    run([balloon], 2100.0, 2000.0)
    balloon.validate()
    assert balloon.current_pages == 7192 and list(balloon.mem.blocks) == [0, 1, 2]
    with pytest.raises(HotplugError, match=f"{UNIT + 1000} pages are out"):
        balloon.close()
    for bad in ([*pfns[:2], pfns[0]], [int(balloon.balloon_list()[0])]):
        with pytest.raises(ValueError, match="no driver holds"):
            balloon.free_ballooned_pages(bad)
    for back in (pfns, more):
        balloon.free_ballooned_pages(back, 2100.0)
    assert balloon.target_unpopulated == 0 and balloon.due == 2100.0
    settle(balloon, (8192 + UNIT) * 4096, 2100.0)
    assert balloon.balloon_pages == 0 and balloon.current_pages == 8192 + UNIT


def test_ballooned_pages_that_cannot_be_had():
    balloon = guest(XEN_6_18)
    with pytest.raises(MemoryError, match="8192 ballooned pages"):
        balloon.alloc_ballooned_pages(8192)
    assert balloon.target_unpopulated == 0
    balloon.validate()
    for bad in (guest(XEN_2_6_26), guest(XEN_6_18, order=9)):
        with pytest.raises(ValueError, match="ballooned pages of a balloon"):
            bad.alloc_ballooned_pages(1)
    assert balloon.alloc_ballooned_pages(0).size == 0


def test_a_callback_already_taken():
    mem = Memory(GUEST_64, boot="32M")
    mem.set_online_page_callback(print)
    domain = Domain(Host("64M"), "16M")
    with pytest.raises(HotplugError) as e:
        XenBalloon(mem, domain, XEN_6_18)
    assert e.value.errno == errno.EINVAL
    mem.validate()
    assert mem.totalram_pages == 8192 and len(mem.notifiers) == 0


def test_unbacked_pages_in_use_leave_the_callback_free():
    mem = Memory(GUEST_64, boot="32M")
    mem.alloc_contig_range(8000, 1)
    with pytest.raises(HotplugError) as e:
        XenBalloon(mem, Domain(Host("64M"), "16M"), XEN_6_18)
    assert e.value.errno == errno.EBUSY and mem.online_page_callback is None
    mem.validate()


def test_close_with_pages_out():
    balloon = guest(XEN_6_18, built="16M")
    with pytest.raises(HotplugError, match="4096 pages are out") as e:
        balloon.close()
    assert e.value.errno == errno.EBUSY
    settle(balloon, "32M")
    balloon.close()
    assert balloon.mem.online_page_callback is None and len(balloon.mem.notifiers) == 0


@pytest.mark.parametrize("options, match", [
    ({"order": 11}, "order 11"), ({"batch": 0}, "batch of 0"), ({"batch": 513}, "batch of 513"),
])
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        guest(XEN_6_18, **options)
    with pytest.raises(ValueError, match="whole extents"):
        guest(XEN_2_6_26, built=4100 * 4096, order=9)
    with pytest.raises(ValueError, match="with order 0, not 9"):
        guest(XEN_6_18, kind=OLD, order=9)
    with pytest.raises(ValueError, match="must agree"):
        XenBalloon(Memory(GUEST_64, boot="32M"), Domain(Host("64M", page_size=65536), "32M"))


@pytest.mark.parametrize("behaviour, kind", [(XEN_THREAD, OLD), (XEN_6_18, NEW)], ids=["thread", "6.18"])
def test_memory_is_not_added_over_a_device(behaviour, kind):
    """iomem has a device behind boot memory. Expect the balloon's memory behind that."""
    balloon = guest(behaviour, kind=kind)
    balloon.mem.resources.request(40 << 20, 1 << 20, "PCI Bus 0000:00")
    settle(balloon, "40M")
    assert list(balloon.mem.blocks) == [0, 1, 3] and balloon.current_pages == 40 * MIB


def test_a_vetoed_expansion_adds_nothing(engine):
    balloon = guest(XEN_THREAD, engine, OLD)
    veto = balloon.mem.notifiers.register(lambda action, notice: NOTIFY_BAD)
    settle(balloon, "40M")
    assert balloon.current_pages == 8192 and list(balloon.mem.blocks) == [0, 1] and balloon.expansions == 0
    with pytest.raises(HotplugError) as e:
        balloon.balloon_expand(UNIT)
    assert e.value.errno == errno.EPERM
    balloon.mem.notifiers.unregister(veto)
    settle(balloon, "40M", 2000.0)
    assert balloon.current_pages == 10240


def test_a_whole_section_goes_online_in_the_drivers_batches(engine):
    """512 MiB at order 0: expect one hypercall for each list of 1024 frames, and one MEM_ONLINE for each, not one a page."""
    mem = Memory(X86_32_PAE, boot="1G", rules=LINUX_2_6_25, max_memory="2G", engine=engine)
    balloon = XenBalloon(mem, Domain(Host("2G", scattered=True), "1G"), XEN_THREAD)
    balloon.balloon_expand(1 << 17)
    told = []
    mem.notifiers.register(lambda action, notice: told.append(notice.onlined))
    balloon.set_target("1.5G")
    balloon.work(0.0)
    assert balloon.current_pages == mem.totalram_pages == 3 << 17
    assert balloon.domain.calls["populate_physmap"] == 128 and told == [1024] * 128
    balloon.validate()


def test_a_whole_section_goes_online_page_by_page(engine):
    """Expect a hypercall for each page, in the steps of a list of 1024: seconds if each were a step of its own."""
    mem = Memory(X86_32_PAE, boot="1G", rules=LINUX_2_6_25, max_memory="2G", engine=engine)
    balloon = XenBalloon(mem, Domain(Host("2G", scattered=True, call_ns=100), "1G"), XEN_THREAD, batch=1)
    balloon.set_target("1.5G")
    balloon.work(0.0)
    assert balloon.current_pages == mem.totalram_pages == 3 << 17
    assert balloon.domain.calls["populate_physmap"] == 1 << 17 and balloon.domain.ns == 100 << 17
    balloon.validate()


def test_user_space_cannot_online_what_the_thread_balloon_holds(engine):
    """
        section 2: |== prepared, on the balloon's list, not one page online ==|     its block: "offline"
    A udev rule writes "online". Expect the balloon's veto, and no page without a frame with the allocator.
    """
    mem = Memory(OLD[0], boot="32M", rules=OLD[1], engine=engine)
    balloon = XenBalloon(mem, Domain(Host("80M"), "32M"), BEHAVIOURS["thread"])
    start = balloon.balloon_expand(4096)
    with pytest.raises(HotplugError) as refused:
        mem.online_pages(start, 4096)
    assert refused.value.errno == errno.EPERM
    balloon.validate()
    assert mem.totalram_pages == 8192


class BalloonMachine(RuleBasedStateMachine):
    """Two guests of one host that is too small: targets move at random, populates break off or die, others take the frames."""

    @initialize(engine=st.sampled_from(ENGINES), kind=st.sampled_from([OLD, NEW]), data=st.data())
    def boot(self, engine, kind, data):
        self.host = Host("80M", scattered=True, seed=11)
        self.balloons, self.udevs, self.now = [], [], 0.0
        for name in (data.draw(st.sampled_from(list(BEHAVIOURS))), data.draw(st.sampled_from(list(BEHAVIOURS)))):
            auto_online = data.draw(st.booleans())
            mem = Memory(kind[0], boot="32M", rules=kind[1], engine=engine)
            domain = HalfWay(self.host, "20M", max_memory="60M")
            self.balloons.append(XenBalloon(mem, domain, BEHAVIOURS[name], auto_online=auto_online))
            self.udevs.append(Udev(mem, delay=2.5, period=1.0))
        self.neighbour = Domain(self.host)
        self.used = [np.empty(0, np.int64) for _ in self.balloons]
        self.held = [np.empty(0, np.int64) for _ in self.balloons]

    def advance(self, seconds):
        try:
            run([*self.balloons, *self.udevs], self.now + seconds, self.now)
        except KeyboardInterrupt:
            for balloon in self.balloons:      # the worker is started again
                balloon.due = min(balloon.due, self.now)
        self.now += seconds

    @rule(which=st.integers(0, 1), pages=st.integers(0, 70 * 256), seconds=st.sampled_from([0.0, 1.0, 10.0, 100.0]))
    def target(self, which, pages, seconds):
        self.balloons[which].set_target(pages * 4096, self.now)
        self.advance(seconds)

    @rule(which=st.integers(0, 1), stop_at=st.integers(0, 600))
    def populate_breaks_off(self, which, stop_at):
        self.balloons[which].domain.stop_at = stop_at
        self.advance(1.0)

    @rule(which=st.integers(0, 1))
    def populate_dies(self, which):
        self.balloons[which].domain.dies = True
        self.advance(1.0)

    @rule(which=st.integers(0, 1), nr=st.integers(0, 3000))
    def driver_takes_pages(self, which, nr):
        balloon = self.balloons[which]
        if balloon.behaviour.callback:
            balloon.free_ballooned_pages(self.held[which], self.now)
            self.held[which] = np.empty(0, np.int64)
            try:
                self.held[which] = balloon.alloc_ballooned_pages(nr, self.now)
            except MemoryError:
                assert balloon.target_unpopulated == 0

    @rule(nr=st.integers(0, 60 * 256))
    def host_runs_dry(self, nr):
        self.neighbour.unback(self.neighbour.backed_pfns())
        self.neighbour.back(np.arange(nr))

    @rule(which=st.integers(0, 1), share=st.floats(0, 1))
    def guest_uses_memory(self, which, share):
        mem = self.balloons[which].mem
        mem.free_pfns(self.used[which])
        free = sum(zone.free_pages for zone in mem.zones.values())
        self.used[which] = mem.alloc_pages_bulk(int(free * share))

    @invariant()
    def books_balance(self):
        for balloon in getattr(self, "balloons", []):
            balloon.validate()


TestBalloonMachine = BalloonMachine.TestCase
TestBalloonMachine.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


def test_old_names_warn():
    with pytest.warns(DeprecationWarning, match="XEN_6_18"):
        assert xen.XEN_TODAY is XEN_6_18
    with pytest.warns(DeprecationWarning, match="6.18"):
        assert xen.by_name("today") is XEN_6_18 is xen.by_name("6.18")
    with pytest.raises(ValueError, match=r"invalid behaviour '4\.0' \(expected 2\.6\.26, thread, 3\.1, 6\.18\)"):
        xen.by_name("4.0")
    with pytest.raises(AttributeError, match="XEN_TOMORROW"):
        xen.XEN_TOMORROW  # noqa: B018
