"""cost/run.py: one strategy on one scenario: frames add up, time goes on, equal runs are equal."""

import json

import numpy as np
import pytest

from fastonline.cost.compare import compare, run_one
from fastonline.cost.run import Run, unusable_index
from fastonline.cost.scenario import Scenario, changed
from fastonline.cost.strategies import STRATEGIES

SMALL = Scenario.from_dict({
    "name": "small", "boot": "256M", "maximum": "512M", "host": "640M", "end": 40,
    "steps": [[10, "384M"], [20, "512M"], [30, "256M"]],
    "workload": {"kind": "sawtooth", "in_use": 0.8, "low": 0.3, "period": 7}, "scattered": True,
    "others": [{"name": "b", "steps": [[5, "64M"], [15, "128M"], [35, "0"]]}],
})


OLD = changed(SMALL, {"rules": "2.6.25", "geometry": "S390X", "boot": "256M"})


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("given", [SMALL, OLD], ids=["6.12", "2.6.25"])
def test_frames_add_up_and_the_clock_never_goes_back(name, given):
    row = run_one(given, name, check=True)
    if row.reason is not None:
        assert given is OLD and "2.6.25" in row.reason
        return
    assert len(row.samples) == 4 and len(row.steps) == 3
    for sample in row.samples:
        assert sample["held_bytes"] + sample["host_free_bytes"] + sample["others_bytes"] == given.host
        assert sample["free_bytes"] + sample["in_use_bytes"] == sample["total_bytes"]
        assert sum(nr << order for order, nr in enumerate(sample["nr_free"])) * 4096 == sample["free_bytes"]
        assert 0 <= sample["free_backed_bytes"] <= sample["free_bytes"]
    times = [sample["time"] for sample in row.samples]
    assert times == sorted(times) and times[0] >= 10
    values = row.values
    assert values["peak_bytes"] >= max(sample["held_bytes"] for sample in row.samples)
    assert 0 <= values["host_min_free_bytes"] <= min(sample["host_free_bytes"] for sample in row.samples)
    assert values["held_byte_seconds"] <= values["peak_bytes"] * times[-1]
    assert values["host_s"] >= 0 and values["guest_s"] >= 0


@pytest.mark.parametrize("name", ["whole-touch", "kvm", "boot-big", "reporting", "shared"])
def test_free_pages_that_hold_a_frame_are_counted_right(name):
    """The shortcut over what the workload uses. Expect the number that looking at every page gives."""
    run = Run(changed(SMALL, {"host": "448M"}), STRATEGIES[name])
    run.row()
    mem, domain = run.guest.mem, run.guest.domain
    end = max(end for _, end in mem.resources)
    in_use = np.zeros(end, bool)
    in_use[run.work.pfns()] = True
    held = domain.backed(np.arange(end))
    assert run._free_backed(sum(zone.free_pages for zone in mem.zones)) == np.count_nonzero(held & ~in_use)


@pytest.mark.parametrize("name", ["split", "callback", "whole", "dimm", "virtio-mem"])
def test_both_engines_agree_where_the_order_of_allocation_does_not_matter(name):
    given = changed(SMALL, {"workload": {"kind": "ramp", "in_use": 0.5, "free_order": "newest"}})
    rows = [run_one(changed(given, {"engine": engine}), name).as_dict(samples=False) for engine in ("bitmap", "struct_page")]
    assert rows[0] == rows[1]


def test_equal_runs_give_equal_bytes():
    one, two = (compare(SMALL, ["split", "kvm", "virtio-mem"]) for _ in range(2))
    assert json.dumps(one.as_dict()) == json.dumps(two.as_dict()) and str(one) == str(two) and one.csv() == two.csv()
    assert "simulation" not in json.dumps(one.as_dict()) and all(row.simulation_s > 0 for row in one.rows)


def test_unusable_index_is_extfrags():
    """unusable_free_index: 1000 where nothing is free, else what lies in smaller blocks, in thousandths, rounded down."""
    assert unusable_index([0, 0]) == [1.0, 1.0]
    assert unusable_index([2, 1, 0]) == [0.0, 0.5, 1.0]
    assert unusable_index([1, 0, 0, 2]) == [0.0, 0.058, 0.058, 0.058]


def test_nothing_takes_time_where_nothing_costs_anything():
    values = run_one(changed(SMALL, {"costs": {"table": "free"}, "workload.in_use": 0.0, "workload.low": 0.0}), "split").values
    assert values["host_s"] == values["guest_s"] == 0 and values["assumed"] == []


def test_what_onlining_does_is_counted():
    """Two memory blocks come and one goes again, by 6.12. Expect three notices (the block's, before and after), a
    recomputation and a scan of the zone each, and zonelists when the zone gets its first page."""
    given = Scenario.from_dict({"name": "x", "boot": "1G", "host": "2G", "steps": [[10, "1280M"], [20, "1152M"]]})
    values = run_one(given, "dimm", check=True).values
    assert values["notifications"] == 9 and values["watermark_recomputations"] == 3 and values["pageblocks_scanned"] == 0
    assert values["zonelist_builds"] == 1 and values["contiguous_scans"] == 64 + 128 + 64
    assert values["uevents"] == 2 + 2 + 2


