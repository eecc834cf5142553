"""The paths beside the headline ones: batches of any size through each call that takes them, and machines made, copied, saved
and loaded."""

import numpy as np
import pytest

import fastonline as fo

SECTION = 1 << 17
MOST = 1 << 14      # pages of a round, where batches are smaller


@pytest.fixture(params=["bitmap", "struct_page"])
def engine(request):
    return request.param


@pytest.mark.benchmark(group="batches of pages in use, by size")
@pytest.mark.parametrize("size", [1, 16, 64, 256, 512, 1024, 4096, SECTION])
@pytest.mark.parametrize("call", ["free_pfns", "alloc_pages_bulk", "set_pfns_reserved"])
def bench_batch_calls(measure, engine, call, size):
    """The curves have no bump."""
    pfns = np.random.default_rng(2008).permutation(SECTION)[: max(size, MOST)]
    batches = [pfns[i : i + size] for i in range(0, len(pfns), size)]
    mem = None

    def reset():
        nonlocal mem
        mem = fo.Memory(fo.X86_64, engine=engine, max_memory="512M")
        mem.add_memory(0, SECTION)
        mem.online_pages(0, SECTION)
        mem.alloc_contig_range(0, SECTION)
        if call == "alloc_pages_bulk":
            mem.free_pfns(pfns)

    def run():
        ask = getattr(mem, call)
        for batch in batches:
            ask(size if call == "alloc_pages_bulk" else batch)

    measure(run, len(pfns), reset, 5)
    assert mem.zone_of(0).free_pages == (len(pfns) if call == "free_pfns" else 0)
    mem.validate()


@pytest.mark.benchmark(group="machines of 16 GiB")
@pytest.mark.parametrize("what", ["copy", "save", "load"])
def bench_copies(measure, engine, what, tmp_path):
    """ns a page."""
    mem = fo.Memory(fo.X86_64, boot="16G", engine=engine)
    mem.alloc_pages_bulk(100_000)
    mem.save(tmp_path / "machine")
    run = {
        "copy": mem.copy,
        "save": lambda: mem.save(tmp_path / "again"),
        "load": lambda: fo.load(tmp_path / "machine"),
    }[what]
    measure(run, 1 << 22, rounds=3)


@pytest.mark.benchmark(group="a machine of 64 MiB")
def bench_create(measure, engine):
    """ns a machine."""
    made = measure(lambda: fo.Memory(fo.X86_64, boot="64M", engine=engine), 1, rounds=50)
    assert made.totalram_pages == 1 << 14
