"""Threads: the first write of a memmap shared by several (4 GiB of memory, with --large 64 GiB), and several that work on
machines of their own."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from bench_scale import few, sizes

import fastonline as fo

START = 1 << 20


@pytest.mark.benchmark(group="add_memory, threads")
@pytest.mark.parametrize("nr_pages", sizes(20, large=(24,)))
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("engine", ["bitmap", "struct_page"])
def bench_add_memory(benchmark, engine, threads, nr_pages):
    made = []

    def setup():
        made[:] = [fo.Memory(fo.X86_64, boot="1G", max_memory=(START + nr_pages) * fo.X86_64.page_size, engine=engine)]

    benchmark.pedantic(lambda: made[0].add_memory(START, nr_pages, threads=threads), setup=setup, rounds=few(nr_pages))
    assert made[0].sections.spans()[-1] == (START, nr_pages)


OWN = {"bitmap": 1 << 26, "struct_page": 1 << 20}   # pages of each thread: steps long enough to let go of the GIL


@pytest.mark.benchmark(group="machines of their own")
@pytest.mark.parametrize("threads", [1, 2, pytest.param(4, marks=pytest.mark.large(24))])
@pytest.mark.parametrize("engine", ["bitmap", "struct_page"])
def bench_own_machines(measure, engine, threads):
    """Each thread onlines a machine of its own and takes it offline again. ns_per_page is of all pages of all threads: with as
    many processors as threads it falls by their number."""
    nr_pages = OWN[engine]
    mems = [fo.Memory(fo.X86_64, engine=engine, max_memory=nr_pages * fo.X86_64.page_size) for _ in range(threads)]
    for mem in mems:
        mem.add_memory(0, nr_pages)

    def work(mem):
        for _ in range(4):
            assert mem.online_pages(0, nr_pages) == nr_pages
            mem.offline_pages(0, nr_pages)

    with ThreadPoolExecutor(threads) as pool:
        measure(lambda: list(pool.map(work, mems)), 4 * threads * nr_pages, rounds=5)
