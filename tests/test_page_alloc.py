"""hotplug/page_alloc: whom the allocator calls: arch_alloc_page, arch_free_page, OOM notifiers."""

import errno
import random

import numpy as np
import pytest

import fastonline as fo
from fastonline.core.pageflags import PAGE_FREE
from fastonline.drivers.cmm import Cmm1, Cmm2, HintedDomain
from fastonline.drivers.driver import run
from fastonline.drivers.hypervisor import Host, ResidentDomain
from fastonline.drivers.virtio_balloon import VirtioBalloonDriver
from fastonline.hotplug.memory import ENGINES
from fastonline.hotplug.page_alloc import PageLists
from fastonline.testing.geometries import GUEST_64


@pytest.fixture
def mem(engine):
    return fo.Memory(GUEST_64, boot="32M", engine=engine)


def free_pages(mem):
    return sum(zone.free_pages for zone in mem.zones.values())


def test_hooks_are_called_for_whoever_allocates_and_frees(mem):
    out, back = [], []
    mem.arch_alloc_page = lambda pfns, order: out.append((pfns.tolist(), order))
    mem.arch_free_page = lambda pfns, order: back.append((pfns.tolist(), order))
    one, block, gfp = mem.alloc_pages(), mem.alloc_pages(3), mem.alloc_pages(1, gfp="GFP_KERNEL")
    bulk = mem.alloc_pages_bulk(5, 2)
    mem.alloc_contig_range(8000, 3)
    assert out == [([one], 0), ([block], 3), ([gfp], 1), (bulk.tolist(), 2), ([8000, 8001, 8002], 0)]
    mem.free_pages(block, 3)
    mem.free_pfns([8002, one])
    assert back == [([block], 3), ([8002, one], 0)]
    for refused in (lambda: mem.free_pages(block, 3), lambda: mem.free_pfns([8001, one])):
        with pytest.raises(ValueError):
            refused()
    assert len(back) == 2
    mem.arch_alloc_page = mem.arch_free_page = None
    mem.free_pages(mem.alloc_pages())
    assert (len(out), len(back)) == (5, 2) and mem.arch_alloc_page is mem.arch_free_page is None
    with pytest.raises(TypeError):
        mem.arch_alloc_page = 3
    assert mem.copy().arch_alloc_page is None
    mem.validate()


@pytest.mark.parametrize("allocate", [
    lambda mem: mem.alloc_pages(), lambda mem: mem.alloc_pages(4), lambda mem: mem.alloc_pages(gfp="GFP_USER"),
    lambda mem: mem.alloc_pages_bulk(100), lambda mem: mem.alloc_contig_range(64, 64),
])
def test_what_a_hook_raises_leaves_nothing_allocated(mem, allocate):
    def raises(pfns, order):
        raise KeyError(int(pfns[0]))

    states = mem.page_states(0, 8192).tobytes()
    mem.arch_alloc_page = raises
    with pytest.raises(KeyError):
        allocate(mem)
    assert mem.page_states(0, 8192).tobytes() == states
    mem.arch_alloc_page = None
    taken = mem.alloc_pages_bulk(10)
    mem.arch_free_page = raises
    states = mem.page_states(0, 8192).tobytes()
    with pytest.raises(KeyError):
        mem.free_pfns(taken)
    with pytest.raises(KeyError):
        mem.free_pages(taken[0])
    assert mem.page_states(0, 8192).tobytes() == states
    mem.validate()


def test_a_hook_may_look_at_arrays_of_its_own(mem):
    """The hook checks 4000 pages, then 20 others. Expect the 20 pages that were given to be free, and nobody else's."""
    given, others = mem.alloc_pages_bulk(20), mem.alloc_pages_bulk(4000)
    states = mem.page_states(0, 8192)

    def looks(pfns, order):
        mem.check_pfns(others)
        mem.check_pfns(others[:20])

    mem.arch_free_page = looks
    mem.free_pfns(given)
    states[given] = PAGE_FREE
    assert mem.page_states(0, 8192).tolist() == states.tolist()
    mem.validate()


def test_a_hook_may_change_arrays(mem):
    """Hooks change the array that they are given, and that of the caller. Expect those pages to be allocated and freed that the
    caller meant, and all of them to be given back when arch_alloc_page raises."""
    whole = mem.page_states(0, 8192).tolist()

    def changes(pfns, order):
        pfns[:] = pfns[0]
        caller[:] = caller[0]
        if raises:
            raise KeyError

    caller, raises = np.zeros(1, np.int64), False
    mem.arch_alloc_page = mem.arch_free_page = changes
    caller = mem.alloc_pages_bulk(20)
    assert np.unique(caller).size == 20
    mem.free_pfns(caller)
    assert mem.page_states(0, 8192).tolist() == whole and np.unique(caller).size == 1
    raises = True
    with pytest.raises(KeyError):
        mem.alloc_pages_bulk(20)
    assert mem.page_states(0, 8192).tolist() == whole
    mem.validate()


def test_a_hook_may_keep_pages(mem):
    """Pages with an odd pfn go to a balloon. Expect that alloc_pages tries others, and that bulk gives fewer."""
    kept = []

    def keep_odd(pfns, order):
        odd = pfns[pfns % 2 == 1]
        mem.set_pfns_offline(odd)
        kept.extend(odd.tolist())
        return odd

    mem.arch_alloc_page = keep_odd
    assert all(mem.alloc_pages() % 2 == 0 for _ in range(20))
    got = mem.alloc_pages_bulk(100)
    assert (got % 2 == 0).all() and got.size < 100
    assert mem.totalram_pages == 8192 - len(kept)
    with pytest.raises(fo.HotplugError) as refused:
        mem.alloc_contig_range(8000, 4)
    assert refused.value.errno == errno.EBUSY
    mem.arch_alloc_page = None
    mem.alloc_contig_range(8000, 1)      # what was not kept is free again
    mem.validate()


def test_first_touch_for_whoever_allocates(mem):
    domain = ResidentDomain(Host("1M"))
    mem.arch_alloc_page = domain.arch_alloc_page
    pfn = mem.alloc_pages(4)
    assert domain.tot_pages == 16 and domain.backed(np.arange(pfn, pfn + 16)).all()
    mem.alloc_pages_bulk(100)
    assert domain.tot_pages == 116
    dry = ResidentDomain(Host("1M"), limit=0)
    mem.arch_alloc_page = dry.arch_alloc_page
    free = free_pages(mem)
    with pytest.raises(fo.HotplugError) as refused:
        mem.alloc_pages_bulk(10)
    assert refused.value.errno == errno.ENOMEM and free_pages(mem) == free


def test_a_page_without_a_frame_is_tossed_to_the_balloon_and_another_one_tried(mem):
    """Dave Hansen's idea in the thread: the guest may have 10 frames, and one process asks page by page."""
    cmm = Cmm2(mem, HintedDomain(Host("64M"), limit="40K"))
    used = [mem.alloc_pages() for _ in range(10)]
    mem.free_pages(used[3])
    assert cmm.domain.states([used[3]]) == ["Ur"]
    assert cmm.domain.backed([mem.alloc_pages()]).all()
    mem.alloc_pages()      # swaps out one of the first
    assert cmm.domain.swapped_out == 1
    cmm.validate()


def test_oom_notifiers_run_before_an_allocation_fails(mem):
    lent, asked = mem.alloc_pages_bulk(8192), []

    @mem.register_oom_notifier
    def gives_ten():
        nonlocal lent
        asked.append(lent.size)
        give, lent = lent[:10], lent[10:]
        mem.free_pfns(give)

    assert mem.alloc_pages() >= 0 and asked == [8192]
    assert mem.alloc_pages_bulk(25).size == 25 and len(asked) == 3
    assert mem.alloc_pages(gfp="GFP_USER") >= 0 and len(asked) > 3      # each to the watermarks
    mem.alloc_pages_bulk(free_pages(mem))
    before = len(asked)
    with pytest.raises(MemoryError):
        mem.alloc_pages(4)      # above PAGE_ALLOC_COSTLY_ORDER
    assert len(asked) == before
    lent = lent[:0]
    with pytest.raises(MemoryError):
        mem.alloc_pages_bulk(8192)
    assert len(asked) == before + 1
    mem.unregister_oom_notifier(gives_ten)
    with pytest.raises(ValueError):
        mem.unregister_oom_notifier(gives_ten)
    with pytest.raises(TypeError):
        mem.register_oom_notifier(3)
    mem.validate()


def test_an_oom_notifier_that_allocates_does_not_ask_itself(mem):
    mem.alloc_pages_bulk(8192)

    @mem.register_oom_notifier
    def allocates():
        mem.alloc_pages()

    with pytest.raises(MemoryError):
        mem.alloc_pages()
    mem.validate()


@pytest.mark.parametrize("agreed", [False, True])
def test_a_virtio_balloon_deflates_on_oom(mem, agreed):
    driver = VirtioBalloonDriver(mem, ResidentDomain(Host("64M")), deflate_on_oom=agreed)
    driver.set_target("16M")
    run([driver], 1.0)
    mem.alloc_pages_bulk(free_pages(mem))
    if agreed:
        mem.alloc_pages_bulk(300)
        assert len(driver.balloon) == 4096 - 512
    else:
        with pytest.raises(MemoryError):
            mem.alloc_pages()
        assert len(driver.balloon) == 4096
    driver.validate()
    driver.close()


def test_hinted_blocks_come_back_before_an_allocation_fails(mem):
    driver = VirtioBalloonDriver(mem, ResidentDomain(Host("64M")))
    hinted = driver.hint_free_pages().size << mem.geometry.max_page_order
    assert hinted and driver.hinted_pages == hinted
    mem.alloc_pages_bulk(free_pages(mem) + 1)
    assert driver.hinted_pages == hinted - (1 << mem.geometry.max_page_order)
    driver.validate()


def test_pools_of_cmm_shrink_on_oom(mem):
    pools = Cmm1(mem, ResidentDomain(Host("64M")))
    pools.set_target("16M")
    run([pools], 1.0)
    mem.alloc_pages_bulk(free_pages(mem) + 100)
    assert pools.pages == 4096 - 256 and pools.target_pages == 4096 + 256
    pools.validate()
    pools.close()
    mem.validate()


# -- PageLists

def test_a_machine_without_per_cpu_lists_has_plain_ones(mem):
    """The same calls as PerCpuPages. Expect pages straight from the buddy allocator, and straight back."""
    lists, before = mem.page_lists, mem.buddyinfo()
    assert mem.pcp is None and type(lists) is PageLists and lists.mem is mem
    zone = mem.zones["DMA32"]
    pages, kernel = lists.alloc(10, [zone.nr]), lists.alloc_kernel(2)
    assert len(pages) == 10 and free_pages(mem) == mem.totalram_pages - 14
    assert lists.is_kernel(kernel, 2) and not lists.is_kernel(kernel, 1) and not lists.is_kernel(1 << 60, 0)
    lists.drain(zone.nr), lists.release(0, 512), lists.disable(zone.nr), lists.enable(zone.nr), lists.shrink_slabs()
    lists.free(pages[:5])
    lists.give_back(pages, 0)
    lists.give_back(np.empty(0, np.int64), 0)       # whose strides are 0
    lists.give_back(pages[5:].copy(), 5)
    lists.free_kernel(kernel, 2)
    assert mem.buddyinfo() == before
    mem.validate()


@pytest.mark.parametrize("call, error", [
    (lambda lists: lists.free([0]), ValueError),
    (lambda lists: lists.free([1.5]), TypeError),
    (lambda lists: lists.free_kernel(0, 3), ValueError),
    (lambda lists: lists.free_kernel(-1), ValueError),
    (lambda lists: lists.free_kernel(0, 99), ValueError),
    (lambda lists: lists.alloc_kernel(99), ValueError),
    (lambda lists: lists.alloc_kernel(None), TypeError),
    (lambda lists: lists.alloc(-1, [0]), ValueError),
    (lambda lists: lists.alloc(1, [999]), ValueError),
    (lambda lists: lists.give_back(None, 0), TypeError),
    (lambda lists: lists.give_back(np.zeros(2), 1), TypeError),
    (lambda lists: lists.give_back(np.zeros(2, np.int64), 3), TypeError),
    (lambda lists: lists.give_back(np.zeros(6, np.int64)[::2], 3), TypeError),
    (lambda lists: lists.is_kernel(-1, 0), OverflowError),
    (lambda lists: PageLists(None), TypeError),
    (lambda lists: lists.mem.check_pfns([0]), ValueError),
    (lambda lists: lists.mem.check_pfns([None]), TypeError),
])
def test_what_plain_lists_refuse(mem, call, error):
    before = mem.buddyinfo()
    with pytest.raises(error):
        call(mem.page_lists)
    assert mem.buddyinfo() == before
    mem.validate()


def test_movable_pages_are_fewer_when_a_hook_keeps_some(mem):
    """arch_alloc_page keeps the first page of each call. Expect one page fewer, not an error."""
    mem.arch_alloc_page = lambda pfns, order: pfns[:1]
    assert len(mem.page_lists.alloc(10, [mem.zones["DMA32"].nr])) == 9


def test_pages_that_can_be_freed_are_not_freed_by_asking(mem):
    pages, before = mem.alloc_pages_bulk(3), mem.buddyinfo()
    mem.check_pfns(pages)
    assert mem.buddyinfo() == before
    mem.free_pfns(pages)


@pytest.mark.parametrize("seed", range(3))
def test_watermarks_by_order_count_what_single_pages_changed(seed):
    """2.6.25, where free single pages do not count for a pair. Pages are freed one by one, which the bitmap engine counts
    later. Expect both engines to give and refuse the same."""
    said = []
    for engine in ENGINES:
        draw = random.Random(seed)
        mem = fo.Memory("X86_64", boot="16M", rules=fo.LINUX_2_6_25, engine=engine)
        held = mem.alloc_pages_bulk(mem.zones["DMA"].free_pages, 0, "DMA").tolist()
        draw.shuffle(held)
        said.append([])
        for _ in range(1000):
            mem.free_pages(held.pop())
            order = draw.randrange(1, 3)
            try:
                mem.free_pages(mem.alloc_pages(order, gfp="GFP_KERNEL"), order)
                said[-1].append(True)
            except MemoryError:
                said[-1].append(False)
    assert said[0] == said[1] and 100 < sum(said[0]) < 900
