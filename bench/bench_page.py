"""One page after the other, as the fastest loop each contender can have: for the engines that is the C API, without the
GIL."""

import pytest
from contenders import SECTION, all_free, all_merges, pages, rounds


@pytest.mark.benchmark(group="page")
def bench_pages(measure, section, order):
    pfns = pages(section, order)
    assert measure(lambda: section.online_each(pfns), SECTION, section.reset, rounds(section.name)) == SECTION
    assert section.nr_free() == all_free(SECTION)
    assert section.nr_merges() == all_merges(SECTION)
