"""cost/phases.pyx: the loops that are timed do what the public calls do."""

import errno

import numpy as np
import pytest

import fastonline as fo
from fastonline.cost import phases
from fastonline.cost.profile import parts, profile

SECTION = 1 << 17       # pages
START = 0x40000


# freeing 2^17 pages one by one: every pair of every order merges once
MERGES = [SECTION >> order + 1 for order in range(10)] + [0]


@pytest.fixture(params=[fo.LINUX_2_6_25, fo.LINUX_6_12], ids=lambda rules: rules.name)
def added(request, engine):
    """A machine with an added, unprepared section, and its online twin."""
    rules = request.param

    def machine():
        mem = fo.Memory(fo.X86_32_PAE, boot="1G", rules=rules, engine=engine)
        mem.add_memory(START, SECTION)
        return mem
    twin = machine()
    twin.online_pages(START, SECTION)
    return machine(), twin


def same_machine(mem, twin):
    """Equal in all but what the callers counted: touched bytes and merges depend on the path."""
    mem.validate()
    assert mem.buddyinfo() == twin.buddyinfo()
    assert mem.zoneinfo() == twin.zoneinfo()
    assert mem.lsmem() == twin.lsmem()
    assert mem.totalram_pages == twin.totalram_pages
    now, then = mem.stats(), twin.stats()
    assert now["pages_onlined"] - now["pages_offlined"] == then["pages_onlined"] - then["pages_offlined"]
    assert np.array_equal(mem.page_states(START, SECTION), twin.page_states(START, SECTION))


def test_phases_are_what_each_step_adds_to_the_one_before():
    """Expect a step that noise made longer than the whole to count as the whole, and the sum to be the total all the same."""
    run = {"prepare": 5, "flags": 10, "engine": 30, "total": 42, "watermarks": 3, "notify": None}
    assert parts([run])["ns"] == {
        "prepare": {"min": 5, "median": 5}, "flags": {"min": 10, "median": 10}, "buddy": {"min": 20, "median": 20},
        "accounting": {"min": 12, "median": 12}, "watermarks": {"min": 3, "median": 3}, "notify": None,
    }
    noisy = parts([{**run, "flags": 50}])
    assert noisy["ns"]["flags"]["min"] == 42 and noisy["ns"]["buddy"]["min"] == noisy["ns"]["accounting"]["min"] == 0
    assert noisy["total"]["min"] == 50


def test_every_pass_over_the_pages_is_the_same_length(added):
    """Each step of time_pages onlines the whole section once: three times frees and merges of one."""
    mem, twin = added
    before = mem.stats()
    phases.time_pages(mem, START, SECTION, np.arange(START, START + SECTION, dtype=np.uint64))
    after = mem.stats()
    assert after["pages_onlined"] - before["pages_onlined"] == 3 * SECTION
    assert sum(after["frees"]) - sum(before["frees"]) == 3 * SECTION
    assert [b - a for a, b in zip(before["merges"], after["merges"], strict=True)] == [3 * n for n in MERGES]


def test_watermarks_of_2_6_25_are_a_phase():
    result = profile(fo.X86_32_PAE, rules=fo.LINUX_2_6_25, repeat=1)
    assert all(item["ns"]["watermarks"] is not None for item in result["phases"])


def test_time_range_is_online_pages(added):
    mem, twin = added
    ns = phases.time_range(mem, START, SECTION, mem.rules.online_order if mem.rules.online_order is not None else 10)
    assert list(ns) == ["prepare", "flags", "engine", "total", "watermarks", "notify"]
    assert all(value >= 0 for value in ns.values())
    same_machine(mem, twin)
    assert mem.stats()["merges"] == [2 * n for n in twin.stats()["merges"]]


def test_time_range_by_order(added):
    mem, twin = added
    phases.time_range(mem, START, SECTION, 0)
    same_machine(mem, twin)
    assert mem.stats()["merges"] == [2 * n for n in MERGES]


@pytest.mark.parametrize("order", ["ascending", "random"])
def test_time_pages_ends_where_page_by_page_ends(added, order):
    mem, _ = added
    twin = mem.copy()
    pfns = np.arange(START, START + SECTION, dtype=np.uint64)
    if order == "random":
        pfns = np.random.default_rng(5).permutation(pfns)
    phases.time_pages(mem, START, SECTION, pfns)
    for _ in range(2):
        twin.prepare_online_pages(START, SECTION)
        twin.mark_pages_onlined(START, SECTION)
        twin.offline_pages(START, SECTION)
    twin.prepare_online_pages(START, SECTION)
    assert phases.time_in_order(twin, pfns)[1] == SECTION
    same_machine(mem, twin)
    assert mem.stats()["merges"] == [3 * n for n in MERGES]


def test_c_api_loops_count_what_went_online(added):
    mem, _ = added
    assert phases.time_ascending(mem, START, 4)[1] == 0     # not prepared
    mem.prepare_online_pages(START, SECTION)
    assert phases.time_ascending(mem, START, 4)[1] == 4
    assert phases.time_in_order(mem, np.array([START + 9, START + 3, START + 4], np.uint64))[1] == 2
    assert mem.zones["HighMem"].nr_free[:3] == (2, 0, 1)


def test_the_engine_is_not_reached_with_a_wrong_range(added):
    mem, twin = added
    upward = np.arange(START, START + SECTION, dtype=np.uint64)
    twice = upward.copy()
    twice[1] = START
    before = mem.zoneinfo(), mem.lsmem()
    for call in (
        lambda: phases.time_range(mem, START + SECTION, SECTION, 10),
        lambda: phases.time_range(mem, START, 0, 10),
        lambda: phases.time_range(mem, START, SECTION, 11),
        lambda: phases.time_range(mem, START, SECTION, -1),
        lambda: phases.time_pages(mem, START, SECTION, twice),
        lambda: phases.time_pages(mem, START, SECTION, upward[1:]),
        lambda: phases.time_pages(mem, START, SECTION, upward + np.uint64(1)),
        lambda: phases.time_range(twin, START, SECTION, 10),
        lambda: phases.time_pages(twin, START, SECTION, upward),
    ):
        with pytest.raises((ValueError, fo.HotplugError)):
            call()
    assert (mem.zoneinfo(), mem.lsmem()) == before
    mem.validate()
    twin.validate()


def test_time_range_call_is_mark_pages_onlined(added):
    mem, _ = added
    mem.prepare_online_pages(START, SECTION)
    twin = mem.copy()
    order = mem.rules.online_order if mem.rules.online_order is not None else 10
    assert phases.time_range_call(mem, START, SECTION, order)[1] == twin.mark_pages_onlined(START, SECTION) == SECTION
    same_machine(mem, twin)
    assert phases.time_range_call(mem, START, SECTION)[1] == 0
    assert phases.time_range_call(mem, START + SECTION, SECTION)[1] == -errno.EINVAL


def test_turnover_and_alloc_are_free_pages_and_alloc_pages(engine):
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine)
    twin = mem.copy()
    zone = mem.zones["DMA32"]
    pfns, same = (one.alloc_pages_bulk(100, zone="DMA32").tolist() for one in (mem, twin))
    assert phases.time_turnover(mem, zone.nr, pfns)[1] == 100
    for i, pfn in enumerate(same):
        twin.free_pages(pfn)
        same[i] = twin.alloc_pages(zone="DMA32")
    assert pfns == same
    assert phases.time_alloc(mem, zone.nr, 3)[1] == twin.alloc_pages(3, zone="DMA32")
    assert mem.buddyinfo() == twin.buddyinfo() and mem.stats() == twin.stats()
    mem.validate()
    free = mem.alloc_pages(zone=zone)
    mem.free_pages(free)
    with pytest.raises(ValueError, match=f"{free} is not a page in use, or zone {zone.nr} has no page"):
        phases.time_turnover(mem, zone.nr, [free])
    mem.validate()


def test_time_memset_writes():
    room = np.zeros(1000, np.uint8)
    assert phases.time_memset(room)[1] == 1000
    assert (room == 0xFF).all()


def test_time_call_and_time_calls_give_the_results():
    ns, value = phases.time_call(divmod, (17, 5))
    assert ns >= 0
    assert value == (3, 2)
    ns, total = phases.time_calls(len, ["a", "bcd", ""])
    assert ns >= 0
    assert total == 4


def test_clock_cost_is_taken_off():
    assert 0 <= phases.calibrate(100) < 1_000_000
