"""cost.profile: counts are asserted, never times."""

import json
import re

import pytest
from conftest import ENGINES

import fastonline as fo
from fastonline.cost import phases
from fastonline.cost.profile import (
    BATCH,
    C_API,
    LIFECYCLE,
    LISTENED,
    LISTENER,
    WORKLOADS,
    Profile,
    Timing,
    profile,
    ratios,
    summary,
)
from fastonline.cost.report import profile_text

SECTION = 1 << 17       # pages

# freeing 2^17 pages one by one: every pair of every order merges once
MERGES = [SECTION >> order + 1 for order in range(10)] + [0]


def rows(result, workload):
    return [row for row in result["rows"] + result["calls"] if row["workload"] == workload]


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


def test_first_touch_and_repeated_add_are_apart(result):
    """The bitmap engine's state is small; struct_page's first add_memory faults in its descriptors, the next one does not."""
    first, again = ({row["engine"]: row for row in rows(result, name)} for name in LIFECYCLE[:2])
    assert first["struct_page"]["faults"] > again["struct_page"]["faults"]
    assert first["struct_page"]["bytes_touched"] == again["struct_page"]["bytes_touched"] == SECTION * 64


def test_cold_stands_beside_warm():
    result = profile(engines=["bitmap"], section="128M", repeat=1, cold=True)
    assert all(row["cold"]["min"] >= 0 for row in result["rows"] + result["calls"])
    assert repr(result) == "<Profile X86_64 rules=6.12 section=128M rows=7 repeat=1>"
    assert "    cold" in profile_text(result)
    assert re.search(r" on bitmap \([\d.]+ [mu]?s cold\)\.$", profile_text(result).rstrip())


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


# -- text and picture


def test_the_result_has_named_fields(result):
    assert list(result) == list(Profile.__annotations__)
    assert list(result.rows[0]) == list(result.calls[0]) == list(Timing.__annotations__)
    assert result.rows[0].ns.min == result["rows"][0]["ns"]["min"] and result.phases[0].total["min"] >= 0
    plain = result.as_dict()
    assert plain == result and {type(plain), type(plain["rows"][0]), type(plain["rows"][0]["ns"])} == {dict}


def test_geometry_and_rules_by_name():
    result = profile("arm64-64k", rules="v6.18", engines=["bitmap"], repeat=1)
    assert (result["geometry"], result["rules"]) == ("ARM64_64K", "6.18")
    with pytest.raises(TypeError, match="list of names, not 'bitmap'"):
        profile(engines="bitmap")
