"""Whole sections go from waiting to free, a call a section, in the largest blocks there are."""

import pytest
from contenders import SECTION, all_free, make, rounds

SECTIONS = 8    # one section takes microseconds: a round is eight of them


@pytest.mark.benchmark(group="section")
def bench_sections(measure, name):
    contender = make(name, SECTIONS * SECTION)

    def run():
        return sum(contender.online_range(contender.first + i * SECTION, SECTION) for i in range(SECTIONS))

    assert measure(run, SECTIONS * SECTION, contender.reset, rounds(name)) == SECTIONS * SECTION
    assert contender.nr_free() == all_free(SECTIONS * SECTION)


@pytest.mark.benchmark(group="section, both phases")
@pytest.mark.parametrize("name", ["bitmap", "struct_page"])
def bench_online_pages(measure, section):
    mem, first = section.mem, section.first

    def reset():
        mem.offline_pages(first, SECTION)

    assert measure(lambda: mem.online_pages(first, SECTION), SECTION, reset, 30) == SECTION
    assert section.nr_free() == all_free(SECTION)
