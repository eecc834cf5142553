"""What a program that embeds a machine asks of it, call by call."""

import pytest

import fastonline as fo

CALLS = 1000
QUERIES = {
    "alloc and free": lambda mem, zone: mem.free_pages(mem.alloc_pages()),
    "alloc and free, zone name": lambda mem, zone: mem.free_pages(mem.alloc_pages(zone="DMA32")),
    "alloc and free, Zone": lambda mem, zone: mem.free_pages(mem.alloc_pages(zone=zone)),
    "zones[name]": lambda mem, zone: mem.zones["DMA32"],
    "free_pages": lambda mem, zone: zone.free_pages,
    "stats": lambda mem, zone: mem.stats(),
    "buddyinfo": lambda mem, zone: mem.buddyinfo(),
}


@pytest.mark.benchmark(group="queries")
@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("engine", ["bitmap", "struct_page"])
def bench_queries(measure, engine, query):
    mem = fo.Memory(fo.X86_64, boot="4G", engine=engine)
    zone, ask, before = mem.zones["DMA32"], QUERIES[query], mem.buddyinfo()

    def run():
        for _ in range(CALLS):
            ask(mem, zone)
        return CALLS

    assert measure(run, CALLS, rounds=10) == CALLS
    assert mem.buddyinfo() == before
