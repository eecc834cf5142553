"""Eight sections go from waiting to free, a call a section, in the largest blocks there are. Eight sections of descriptors,
64 MiB, are in no cache; one section that stays in the caches is "whole" in bench_profile.py."""

import pytest
from contenders import SECTION, all_free, make, rounds

SECTIONS = 8


@pytest.mark.benchmark(group="eight sections")
def bench_eight_sections(measure, name):
    contender = make(name, SECTIONS * SECTION)

    def run():
        return sum(contender.online_range(contender.first + i * SECTION, SECTION) for i in range(SECTIONS))

    assert measure(run, SECTIONS * SECTION, contender.reset, rounds(name)) == SECTIONS * SECTION
    assert contender.nr_free() == all_free(SECTIONS * SECTION)
