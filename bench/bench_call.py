"""What one Python call for one page costs, the loop around it included."""

import pytest
from contenders import pages, rounds

CALLS = 1 << 14


@pytest.mark.benchmark(group="call")
def bench_calls(measure, section):
    some = pages(section, "random")[:CALLS]
    some = some if isinstance(some, list) else some.tolist()

    def run():
        online_page, onlined = section.online_page, 0
        for pfn in some:
            onlined += online_page(pfn)
        return onlined

    assert measure(run, CALLS, section.reset, rounds(section.name)) == CALLS
    assert sum(n << order for order, n in enumerate(section.nr_free())) == CALLS
