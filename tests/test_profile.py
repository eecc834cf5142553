"""cost.profile: counts are asserted, never times."""

import errno
import json
import re

import numpy as np
import pytest
from conftest import ENGINES

import fastonline as fo
from fastonline.cost import phases
from fastonline.cost.processes import profile_processes
from fastonline.cost.profile import (
    BATCH,
    C_API,
    LIFECYCLE,
    LISTENED,
    LISTENER,
    WORKLOADS,
    Profile,
    Timing,
    parts,
    profile,
    ratios,
    summary,
)
from fastonline.cost.report import number, profile_text, si, size

SECTION = 1 << 17       # pages
START = 0x40000

# freeing 2^17 pages one by one: every pair of every order merges once
MERGES = [SECTION >> order + 1 for order in range(10)] + [0]


@pytest.fixture(scope="module")
def result():
    return profile(repeat=2, orders=(10, 3, 0))


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


def rows(result, workload):
    return [row for row in result["rows"] + result["calls"] if row["workload"] == workload]


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


# -- what a profile says

def test_rows_of_every_engine_and_workload(result):
    want = {
        (engine, name) for engine in ENGINES for name in ("whole, order 10", "whole, order 3", "whole, order 0", *WORKLOADS)
    }
    assert {(row["engine"], row["workload"]) for row in result["rows"]} == want
    assert len(result["rows"]) == len(want)
    assert [row["workload"] for row in result["calls"]] == [LISTENER, *LIFECYCLE] * 2


@pytest.mark.parametrize(("workload", "merges"), [
    ("whole, order 10", [0] * 11),
    ("whole, order 3", [0, 0, 0, *MERGES[3:]]),
    ("whole, order 0", MERGES),
    (C_API, [0] * 11),
    ("ascending", MERGES),
    ("random", MERGES),
    (f"batches of {BATCH}", MERGES),
    ("one batch", MERGES),
    ("online_pages", [0] * 11),
])
def test_merges_are_exact_and_the_same_for_both_engines(result, workload, merges):
    assert [row["merges"] for row in rows(result, workload)] == [merges, merges]


def test_times_are_consistent(result):
    for row in result["rows"] + result["calls"]:
        ns, per_page = row["ns"], row["ns_per_page"]
        assert 0 <= ns["min"] <= ns["median"]
        assert ns["spread"] >= 0
        assert row["pages"] == (LISTENED if row["workload"] == LISTENER else SECTION)
        assert per_page["min"] * row["pages"] == pytest.approx(ns["min"])
        assert row["pages_per_second"] == pytest.approx(row["pages"] * 1e9 / max(ns["min"], 1))
        assert len(row["times"]) == 2 and min(row["times"]) == ns["min"] and row["first"] >= 0 and row["cold"] is None


def test_bytes_touched_follow_from_the_layout(result):
    """Whole: a bit in the reserved and in the free plane, one in 64 in the plane of full words; or each 64-byte descriptor."""
    bitmap, struct_page = rows(result, "whole, order 10")
    assert bitmap["bytes_touched"] == SECTION // 8 * 2 + SECTION // 512
    assert struct_page["bytes_touched"] >= SECTION * 64
    bitmap, struct_page = rows(result, "ascending")
    assert bitmap["bytes_touched"] == SECTION * 16
    assert struct_page["bytes_touched"] > SECTION * 64


def test_memset_of_what_the_whole_writes(result):
    for item, row in zip(result["memset"], rows(result, C_API), strict=True):
        assert item["engine"] == row["engine"]
        assert item["bytes"] == row["bytes_touched"]
        assert item["ratio"] == row["ns"]["min"] / max(item["ns"]["min"], 1)


def test_phases_of_every_path(result):
    assert {(item["engine"], item["path"]) for item in result["phases"]} == {
        (engine, path) for engine in ENGINES for path in ("whole", "ascending", "random")
    }
    for item in result["phases"]:
        assert tuple(item["ns"]) == phases.PHASES == ("prepare", "flags", "buddy", "accounting", "watermarks", "notify")
        assert (item["ns"]["notify"] is None) == (item["path"] != "whole")
        assert (item["ns"]["watermarks"] is None) == (item["path"] != "whole")      # a mark of 6.12 recomputes none
        for name in ("min", "median"):
            assert sum(ns[name] for ns in item["ns"].values() if ns is not None) == item["total"][name]


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


def test_first_touch_and_repeated_add_are_apart(result):
    """The bitmap engine's state is small; struct_page's first add_memory faults in its descriptors, the next one does not."""
    first, again = ({row["engine"]: row for row in rows(result, name)} for name in LIFECYCLE[:2])
    assert first["struct_page"]["faults"] > again["struct_page"]["faults"]
    assert first["struct_page"]["bytes_touched"] == again["struct_page"]["bytes_touched"] == SECTION * 64


def test_interval_from_process_to_process():
    """Each process measures all of it; the rows hold every repeat and the lowest and highest of each."""
    result = profile_processes(2, engines=["struct_page"], section="128M", repeat=3)
    assert len(result["huge_bytes"]) == 2
    for row in result["rows"] + result["calls"]:
        low, high = row["between"]["min"]
        assert len(row["times"]) == 6 and min(row["times"]) == row["ns"]["min"] == pytest.approx(low * row["pages"])
        assert low <= high <= row["between"]["median"][1]
    assert result["ratios"] == {} and rows(result, "random")[0]["merges"][0] == SECTION >> 3
    text = profile_text(result)
    assert "3 repeats in each of 2 processes" in text and max(map(len, text.splitlines())) <= 80
    assert "2 processes          struct_page, ns a page from one process to another" in text
    with pytest.raises(ValueError, match="processes must be at least 1, not 0"):
        profile_processes(0)


def test_cold_stands_beside_warm():
    result = profile(engines=["bitmap"], section="128M", repeat=1, cold=True)
    assert all(row["cold"]["min"] >= 0 for row in result["rows"] + result["calls"])
    assert "    cold" in profile_text(result)
    assert re.search(r" on bitmap warm and [\d.]+ [mu]?s cold\.$", profile_text(result).rstrip())


def test_result_goes_through_json(result):
    assert json.loads(json.dumps(result)) == result


def test_default_order_is_the_rules():
    for rules, name in ((fo.LINUX_2_6_25, "whole, order 0"), (fo.LINUX_6_1, "whole, order 10")):
        names = [row["workload"] for row in profile(fo.X86_32_PAE, rules=rules, engines=["bitmap"], repeat=1)["rows"]]
        assert names == [name, *WORKLOADS]


@pytest.mark.parametrize("geometry", [fo.X86_32_PAE, fo.ARM64_64K, fo.S390X], ids=lambda geometry: geometry.name)
def test_other_geometries(geometry):
    result = profile(geometry, repeat=1)
    nr_pages = (512 << 20) // geometry.page_size
    assert result["nr_pages"] == nr_pages
    top = geometry.max_page_order
    assert all(row["merges"] == [nr_pages >> k + 1 for k in range(top)] + [0] for row in rows(result, "random"))


def test_engine_given_twice_is_measured_once():
    result = profile(engines=["bitmap", "bitmap"], orders=[10, 10], repeat=1)
    assert len(result["rows"]) == 1 + len(WORKLOADS)
    assert result["ratios"] == {}


def test_progress_gets_every_step(result):
    seen = []

    def progress(steps):
        for step in steps:
            seen.append(step)
            yield step

    profile(engines=["bitmap"], repeat=1, progress=progress)
    assert len(seen) == 1 + len(WORKLOADS) + 1 + len(LIFECYCLE) + 3


@pytest.mark.parametrize(("arguments", "message"), [
    ({"section": "100M"}, "invalid size '100M' .expected a multiple of 128M."),
    ({"section": 0}, "invalid section 0 .expected at least 128M."),
    ({"orders": [11]}, "order 11 is not between 0 and X86_64's MAX_PAGE_ORDER = 10"),
    ({"orders": [-1]}, "order -1"),
    ({"repeat": 0}, "repeat must be at least 1, not 0"),
    ({"engines": ["slab"]}, "invalid engine 'slab' .expected 'bitmap' or 'struct_page'."),
])
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message.replace("'", ".")):
        profile(**arguments)


def test_summary():
    assert summary([5]) == {"min": 5, "median": 5, "spread": 0}
    assert summary([4, 1, 3, 2, 5]) == {"min": 1, "median": 3, "spread": 2}


def test_ratios_of_least_times():
    row = {"ns": {"min": 10, "median": 99}}
    both = [
        {"engine": "bitmap", "workload": "w", **row},
        {"engine": "struct_page", "workload": "w", "ns": {"min": 45, "median": 50}},
    ]
    assert ratios(both) == {"w": 4.5}
    assert ratios(both[:1]) == {}


# -- the stopwatch: each measured piece leaves the machine as the real call does

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


# -- text and picture

def test_text_has_every_workload_and_fits(result):
    text = profile_text(result)
    assert max(map(len, text.splitlines())) <= 80
    for name in (*WORKLOADS, LISTENER, *LIFECYCLE):
        assert sum(line.startswith(f"{name:<19}") for line in text.splitlines()) >= 2, name
    assert "131072 pages of 4096 bytes;\nX86_64, rules of Linux 6.12, 1G of boot memory" in text
    assert "2 repeats, caches warm" in text and "not a kernel's" in text
    assert "struct_page walks every page, the bitmap engine none" in text
    assert re.fullmatch(r"online_pages of 512M takes [\d.]+ [mu]?s on bitmap, [\d.]+ [mu]?s on struct_page warm\.",
                        text.splitlines()[-1])


def test_brief_text_has_five_rows_and_the_figure_to_quote(result):
    text = profile_text(result, brief=True)
    assert [line.split("  ")[0] for line in text.splitlines()[2:7]] == [
        "ascending", "random", "online_pages", "add_memory, first", "offline_pages"]
    assert text.splitlines()[-1].startswith("online_pages of 512M takes ")


def test_text_of_one_engine_has_no_ratio():
    text = profile_text(profile(engines=["struct_page"], repeat=1))
    assert " ratio\n" not in text
    assert "1 repeat, caches warm" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.004321, "0.00432"), (0.0123, "0.0123"), (1.268, "1.27"), (24.54, "24.5"), (1893.2, "1893")]
)
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(12, "12"), (1500, "1.5k"), (1.37e8, "137M"), (9.996e8, "1000M"), (1.4e11, "140G"), (2e12, "2T")]
)
def test_si(value, text):
    assert si(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0 B"), (1023, "1023 B"), (33024, "32.2 KiB"), (8 << 20, "8.0 MiB"),
                                             (3 << 30, "3.0 GiB")])
def test_size(value, text):
    assert size(value) == text


def test_plot(result, tmp_path):
    pytest.importorskip("matplotlib")
    from fastonline.cost import plots

    plots.plot_profile(result, tmp_path / "p.svg")
    svg = (tmp_path / "p.svg").read_text()
    assert "<svg" in svg
    for name in (*WORKLOADS, *phases.PHASES, *ENGINES, "fastonline 0."):
        assert f">{name}" in svg, name      # text, not outlines
    with pytest.raises(ValueError, match="foo"):
        plots.plot_profile(result, tmp_path / "p.foo")


def test_the_result_has_named_fields(result):
    assert list(result) == list(Profile.__annotations__)
    assert list(result.rows[0]) == list(result.calls[0]) == list(Timing.__annotations__)
    assert result.rows[0].ns.min == result["rows"][0]["ns"]["min"] and result.phases[0].total["min"] >= 0
    plain = result.as_dict()
    assert plain == result and {type(plain), type(plain["rows"][0]), type(plain["rows"][0]["ns"])} == {dict}
