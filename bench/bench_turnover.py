"""A guest whose memory is nearly full: a random page is freed and one allocated, and the only block of an order is far away."""

import numpy as np
import pytest
from bench_scale import sizes
from paths import full_guest

STEPS = 1 << 14
FREE = 8        # pages that are free


@pytest.fixture(params=["bitmap", "struct_page"])
def engine(request):
    return request.param


@pytest.mark.benchmark(group="turnover")
@pytest.mark.parametrize("nr_pages", sizes(18, 20, 22, large=(24,)))
def bench_turnover(measure, engine, nr_pages):
    mem, zone = full_guest(engine, nr_pages)
    held = np.random.default_rng(2008).permutation(nr_pages)[: STEPS].tolist()
    mem.free_pfns(np.setdiff1d(np.arange(STEPS + FREE), held)[:FREE])

    def run():
        free, alloc = mem.free_pages, mem.alloc_pages
        for i, pfn in enumerate(held):
            free(pfn)
            held[i] = alloc(0, zone)
        return len(held)

    assert measure(run, STEPS, rounds=10) == STEPS
    assert zone.free_pages == FREE
    mem.validate()


@pytest.mark.benchmark(group="turnover, worst case")
@pytest.mark.parametrize("nr_pages", sizes(18, 22, large=(26, 30)))
@pytest.mark.parametrize("order", [0, 3, 9])
def bench_far_block(measure, nr_pages, order):
    """The only block of the order is the last one. Four pages freed at the low end merge past order 1, or stay below order
    3."""
    mem, zone = full_guest("bitmap", nr_pages)
    far = nr_pages - (1 << order)
    mem.free_pfns(np.arange(far, nr_pages))
    low = range(0, 4) if order < 2 else range(0, 8, 2)

    def run():
        for _ in range(256):
            for pfn in low:
                mem.free_pages(pfn)
            assert mem.alloc_pages(order, zone) == far
            mem.free_pages(far, order)
            for pfn in low:
                mem.alloc_contig_range(pfn, 1)
        return 256

    assert measure(run, 256, rounds=10) == 256
