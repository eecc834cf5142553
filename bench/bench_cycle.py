"""128 MiB come, go online, go offline and go again: among few sections and many, and after many times before."""

import pytest

import fastonline as fo

SECTION = fo.X86_64.pages_per_section


def cycle(mem, start):
    mem.add_memory(start, SECTION)
    mem.online_pages(start, SECTION)
    mem.offline_pages(start, SECTION)
    mem.remove_memory(start, SECTION)


@pytest.mark.benchmark(group="cycle among others")
@pytest.mark.parametrize("others", [100, 4000, pytest.param(131072, marks=pytest.mark.large(24))])
def bench_among_others(measure, others):
    mem = fo.Memory(fo.X86_64)
    for nr in range(others, -1, -1):
        if nr != others // 2:
            mem.add_memory(nr * SECTION, SECTION)
    measure(lambda: cycle(mem, others // 2 * SECTION), SECTION)
    assert mem.sections.runs() == [(0, others // 2), (others // 2 + 1, others - others // 2)]


@pytest.mark.benchmark(group="cycle after others")
@pytest.mark.parametrize("before", [0, 10_000, pytest.param(1_000_000, marks=pytest.mark.large(24))])
def bench_after_others(measure, before):
    mem = fo.Memory(fo.X86_64, boot="128M")
    for _ in range(before):
        cycle(mem, 8 * SECTION)
    measure(lambda: cycle(mem, 8 * SECTION), SECTION)
    mem.validate()
