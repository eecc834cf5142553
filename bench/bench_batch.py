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


@pytest.mark.benchmark(group="batch, by size")
@pytest.mark.parametrize("size", [1, 16, 64, 256, 512, 1024, 4096, SECTION])
@pytest.mark.parametrize("name", ["bitmap", "struct_page"])
def bench_batch_sizes(measure, section, size):
    """The curve of random batches has no bump, and no batch is slower than calls for single pages."""
    pfns = pages(section, "random")[: max(size, 1 << 14)]
    batches = [pfns[i : i + size] for i in range(0, len(pfns), size)]
    assert measure(lambda: sum(map(section.online_pfns, batches)), len(pfns), section.reset, 10) == len(pfns)
