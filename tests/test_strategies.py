"""cost/strategies.py: what each strategy does with the frames of a host."""

from contextlib import suppress

import numpy as np
import pytest
from drivers_common import Dying

from fastonline import LINUX_6_1, X86_64, Memory
from fastonline.cost.compare import run_one
from fastonline.cost.scenario import changed, scenario
from fastonline.cost.strategies import HugeBalloon
from fastonline.drivers.hypervisor import Host, ResidentDomain

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


class Failing(Memory):
    """A machine without memory for one of the calls that take an array of pages, `fails_in` of them from now."""

    fails_in = -1

    def _count_down(self):
        self.fails_in -= 1
        if self.fails_in == -1:
            raise MemoryError("the test's")

    def set_pfns_offline(self, pfns):
        self._count_down()
        super().set_pfns_offline(pfns)

    def free_reserved_pfns(self, pfns):
        self._count_down()
        super().free_reserved_pfns(pfns)


class DyingDomain(Dying, ResidentDomain):
    """A host that is interrupted while it discards."""


@pytest.mark.parametrize("fails_in", [0, 1, 5, "discard"])
def test_a_huge_balloon_that_fails_half_way_goes_on_later(fails_in):
    """It is cut short while it inflates by 384 blocks, then while it deflates; pages are moved 64 blocks at a time. Expect an
    empty balloon the first time, whole parts freed the second, all valid, and each target reached by the next call."""
    mem = Failing(X86_64, boot="1G", rules=LINUX_6_1)
    domain = DyingDomain(Host("2G"))
    domain.touch(np.arange(1 << 18))
    balloon = HugeBalloon(mem, domain)
    free = mem.buddyinfo()
    for size, left in (("256M", 0), ("1G", 0 if fails_in == "discard" else 384 - 64 * fails_in)):
        balloon.set_target(size)
        if fails_in == "discard":
            domain.dies_in = 0
        else:
            mem.fails_in = fails_in
        with suppress(MemoryError, KeyboardInterrupt):
            balloon.work(0.0)
        assert balloon.counts()["balloon"] == 512 * left
        domain.dies_in, mem.fails_in = None, -1
        balloon.validate()
        balloon.work(1.0)
        assert balloon.current_pages == balloon.target_pages
        balloon.validate()
    assert mem.buddyinfo() == free


@pytest.mark.parametrize("name", ["split", "callback", "whole", "whole-touch", "kvm", "dimm"])
def test_a_full_guest_without_room_for_a_memmap_does_not_grow(name):
    """Descriptors are in the guest's free memory, and it has none. Expect it to stay as it was, not to break off."""
    full = changed(scenario("thread"), {"memmap": "kernel", "steps": [[10, "1536M"]], "workload.in_use": 1.0})
    values = run_one(full, name, check=True).values
    assert values["grown_bytes"] == 0 and values["shortfall_byte_seconds"] > 0
    if name in ("whole", "whole-touch", "kvm", "dimm"):
        assert values["refusals"]["ENOMEM"] >= 1
