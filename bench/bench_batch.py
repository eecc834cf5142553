"""Arrays of pfns: a driver's batches of 512, and the whole section in one."""

import pytest
from contenders import SECTION, all_free, all_merges, pages, rounds


@pytest.mark.benchmark(group="batch")
@pytest.mark.parametrize("size", [512, SECTION])
def bench_batches(measure, section, order, size):
    pfns = pages(section, order)
    batches = [pfns[i : i + size] for i in range(0, SECTION, size)]
    assert measure(lambda: sum(map(section.online_pfns, batches)), SECTION, section.reset, rounds(section.name)) == SECTION
    assert section.nr_free() == all_free(SECTION)
    assert section.nr_merges() == all_merges(SECTION)
