"""Allocate every page of a section at order 0, in bulk, and free them again."""

import pytest
from contenders import SECTION, all_free, rounds


@pytest.mark.benchmark(group="alloc")
def bench_alloc_and_free(measure, section):
    section.online_range(section.first, SECTION)

    def run():
        pfns = section.alloc(SECTION)
        section.free(pfns)
        return len(pfns)

    assert measure(run, SECTION, rounds=rounds(section.name)) == SECTION
    assert section.nr_free() == all_free(SECTION)
