"""cost/strategies.py: what each strategy does with the frames of a host."""

import pytest

from fastonline.cost.compare import run_one
from fastonline.cost.scenario import changed, scenario

MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture(scope="module")
def thread():
    names = ("split", "callback", "whole", "kvm", "cmm2", "boot-big")
    return {name: run_one(scenario("thread"), name).values for name in names}


def test_a_strategy_that_the_rules_forbid_says_why():
    row = run_one(scenario("thread"), "virtio-mem")
    assert "2.6.25" in row.reason and row.as_dict() == {"strategy": "virtio-mem", "reason": row.reason}


def test_whole_overshoots_by_a_section_less_the_first_step(thread):
    assert thread["whole"]["overshoot_bytes"] == 480 * MIB
    assert thread["split"]["overshoot_bytes"] == thread["callback"]["overshoot_bytes"] == 0
    assert all(values["grown_bytes"] == 512 * MIB for values in thread.values())


def test_a_dry_host_lets_split_grow_and_whole_not():
    dry = scenario("thread-dry")
    split, whole = run_one(dry, "split").values, run_one(dry, "whole").values
    assert split["grown_bytes"] == 384 * MIB and whole["grown_bytes"] == 0
    assert split["shortfall_byte_seconds"] == 0 < whole["shortfall_byte_seconds"]
    assert whole["refusals"] == {"ENOMEM": 31}


def test_kvm_swaps_out_what_the_guest_had_freed_and_cmm2_does_not(thread):
    assert thread["kvm"]["swapped_dead_pages"] > 10000 and thread["cmm2"]["swapped_dead_pages"] == 0


def test_marks_notify_once_a_page_or_once_a_batch(thread):
    single = run_one(changed(scenario("thread"), {"batch": 1}), "split").values
    assert (thread["split"]["notifications"], single["notifications"]) == (128 + 1, 131072 + 1)      # and one by the prepare
    assert (thread["split"]["watermark_recomputations"], single["watermark_recomputations"]) == (128, 131072)
    assert thread["split"]["pageblocks_scanned"] == 128 * (1536 // 2)
