"""hotplug/page_ops.pyx: pages that drivers reserve, give back to the host and take again."""


import numpy as np
import pytest

from fastonline import ARM64_4K, LINUX_2_6_25, LINUX_6_1, X86_32_PAE, X86_64, HotplugError, Memory


def machine(engine, geometry=X86_64, rules=LINUX_6_1):
    return Memory(geometry, boot="512M", rules=rules, engine=engine)


def test_offline_and_back_is_the_state_before(engine):
    mem = machine(engine)
    before = (mem.totalram_pages, list(mem.zones["DMA32"].nr_free))
    pfns = np.random.default_rng(1).permutation(mem.alloc_pages_bulk(1000))
    mem.set_pfns_offline(pfns)
    mem.validate()
    assert mem.totalram_pages == before[0] - 1000
    assert all(mem.page_flags(int(pfn)) == "PG_offline|PG_prepared" for pfn in pfns[:10])
    mem.clear_pfns_offline(pfns[:400])
    mem.free_pfns(pfns[:400])
    mem.free_reserved_pfns(pfns[400:])
    mem.validate()
    assert (mem.totalram_pages, list(mem.zones["DMA32"].nr_free)) == before


def test_batches_equal_the_page_calls(engine):
    batch, single = machine(engine), machine(engine)
    pfns = batch.alloc_pages_bulk(200)
    assert np.array_equal(pfns, single.alloc_pages_bulk(200))
    batch.set_pfns_offline(pfns[::3])
    assert batch.set_pfns_reserved(pfns[1::3]) == len(pfns[1::3])
    for pfn in pfns[::3]:
        single.set_page_offline(int(pfn))
    for pfn in pfns[1::3]:
        single.set_page_reserved(int(pfn))
    end = int(pfns.max()) + 10
    assert np.array_equal(batch.page_states(0, end), single.page_states(0, end))
    assert batch.totalram_pages == single.totalram_pages
    batch.validate()


def test_pages_of_a_large_allocation_become_single(engine):
    mem = machine(engine)
    head = mem.alloc_pages(9)
    mem.set_pfns_offline(np.arange(head, head + 512))
    mem.free_reserved_pfns(np.arange(head, head + 512)[::-1])
    mem.validate()
    assert mem.totalram_pages == 1 << 17


def test_free_reserved_calls_nobody_and_takes_both_kinds(engine):
    mem = machine(engine, X86_32_PAE, LINUX_2_6_25)
    start, nr = 1 << 17, X86_32_PAE.pages_per_section
    mem.add_memory(start, nr)
    mem.set_online_page_callback(lambda pfn, order: None)
    assert mem.online_pages(start, nr) == 0
    events = []
    mem.notifiers.register(lambda action, notice: events.append(action))
    taken = mem.alloc_pages_bulk(10)
    mem.set_pfns_offline(taken)
    waiting = np.arange(start, start + 100)
    mem.free_reserved_pfns(np.concatenate([waiting, taken]))
    assert events == []
    assert mem.totalram_pages == (1 << 17) + 100
    mem.validate()


@pytest.mark.parametrize("call", ["set_pfns_offline", "clear_pfns_offline", "free_reserved_pfns", "set_pfns_reserved"])
def test_a_refused_batch_changes_nothing(engine, call):
    mem = machine(engine, ARM64_4K)
    pfns = mem.alloc_pages_bulk(20)
    states = mem.page_states(0, 1 << 17).copy()
    bad = {
        "free page": np.append(pfns, int(pfns.max()) + 5),
        "twice": np.append(pfns, pfns[0]),
        "past the end": np.append(pfns, 1 << 50),
        "no section": np.append(pfns, 1 << 20),
        "negative": np.append(pfns, -1),
    }
    if call == "set_pfns_reserved":
        del bad["free page"]    # which that call takes
    for why, array in bad.items():
        with pytest.raises((ValueError, HotplugError)):
            getattr(mem, call)(array)
        assert np.array_equal(mem.page_states(0, 1 << 17), states), why
        mem.validate()
    with pytest.raises(TypeError):
        getattr(mem, call)([1.5])
    getattr(mem, call)([])


@pytest.mark.parametrize("rules", [LINUX_2_6_25, LINUX_6_1], ids=lambda rules: rules.name)
@pytest.mark.parametrize("nr", [1, 3, 4000])
def test_pages_of_a_balloon_become_reserved_alike(engine, rules, nr):
    """By an array or page by page. Expect the same counters: a PG_offline page of 2.6.25 is present, a Reserved one is not."""
    mem = Memory(X86_32_PAE, boot="1G", rules=rules, engine=engine)
    pfns = mem.alloc_pages_bulk(nr, zone="HighMem")
    mem.set_pfns_offline(pfns)
    twin = mem.copy()
    mem.set_pfns_reserved(pfns)
    for pfn in pfns.tolist():
        twin.set_page_reserved(pfn)
    mem.validate()
    assert mem.zoneinfo() == twin.zoneinfo() and mem.zones["HighMem"].present_pages == twin.zones["HighMem"].present_pages


def test_a_pfn_past_the_end_is_told_before_an_unprepared_section(engine):
    mem = Memory(X86_64, boot="128M", engine=engine)
    with pytest.raises(ValueError, match="out of range"):
        mem.mark_pfns_onlined([mem.max_pfn - 1, mem.max_pfn])


S = 256


def test_reserved_pages_can_be_marked_again(make_machine):
    """Free, in use, offline and waiting pages in one range.

        | 0-9 free | 10-19 in use | 20-29 offline | 30-39 waiting |
    Expect 30 that were not Reserved, none managed; then 40 to be marked.
    """
    mem = make_machine(boot=None)
    mem.add_memory(0, S)
    mem.prepare_online_pages(0, S)
    mem.mark_pages_onlined(0, 30)
    mem.alloc_contig_range(10, 20)
    mem.set_page_offline(20, 10)
    assert mem.zones["Normal"].managed_pages == 20
    assert mem.set_page_reserved(0, 40) == 30
    assert mem.zones["Normal"].managed_pages == mem.zones["Normal"].free_pages == 0
    assert mem.set_page_reserved(0, 40) == 0
    assert mem.mark_pages_onlined(0, 40) == 40
    mem.validate()


def test_reserving_part_of_an_allocation_splits_it(make_machine):
    """split_page: an allocation of order 3 that loses a page becomes single pages. Expect each to be freed alone."""
    mem = make_machine(boot=None)
    mem.add_memory(0, S)
    mem.online_pages(0, S)
    pfn = mem.alloc_pages(3)
    assert mem.set_page_reserved(pfn + 5) == 1
    mem.free_pfns([pfn + i for i in range(8) if i != 5])
    assert mem.zones["Normal"].free_pages == S - 1
    mem.validate()


@pytest.mark.parametrize("wrong", [0, 1, 63, 64, 100, 127])
@pytest.mark.parametrize("tail", [False, True])
def test_one_wrong_page_in_a_long_run_is_named(engine, wrong, tail):
    """128 successive pages, one of them in another state. Expect each call to name it and to change nothing."""
    mem = Memory(X86_64, boot="128M", engine=engine)
    first = mem.alloc_pages(7) if tail else int(mem.alloc_contig_range(1024, 128) or 1024)
    pfns, bad = np.arange(first, first + 128), first + wrong
    good = np.delete(pfns, wrong)
    calls = {
        "in use": (lambda: mem.set_page_offline(first, 128), lambda: mem.set_pfns_offline(pfns)),
        "PG_offline": (lambda: mem.clear_page_offline(first, 128), lambda: mem.clear_pfns_offline(pfns)),
        "Reserved": (lambda: mem.free_reserved_pfns(pfns),),
    }
    mem.set_page_offline(bad)
    for state, refused in calls.items():
        before = mem.page_states(0, 32768).tobytes()
        for call in refused:
            with pytest.raises(ValueError, match=f"{bad:#x} is not {state}"):
                call()
        assert mem.page_states(0, 32768).tobytes() == before
        if state == "in use":
            mem.set_pfns_offline(good)
            mem.clear_page_offline(bad)
    mem.set_page_offline(bad)
    managed = mem.totalram_pages
    mem.free_reserved_pfns(pfns)
    assert mem.totalram_pages == managed + 128
    mem.validate()


def test_a_run_of_waiting_and_offline_pages_is_freed(engine):
    mem = Memory(X86_64, boot="128M", engine=engine)
    mem.alloc_contig_range(1024, 200)
    mem.set_page_offline(1024, 100)
    mem.set_page_reserved(1124, 100)
    mem.free_reserved_pfns(np.arange(1024, 1224))
    assert mem.totalram_pages == mem.zones["DMA"].managed_pages + mem.zones["DMA32"].managed_pages == 32768
    mem.validate()
