"""What threads= makes of the first write of a memmap: 4 GiB of memory are added, with --large 64 GiB."""

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
