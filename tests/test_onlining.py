"""hotplug/onlining.pyx: preparing and marking; a scenario for each row of the kernel's behaviour that the two phases mirror."""

import errno
from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL_PAE

import fastonline as fo
from fastonline.core.pageflags import PAGE_FREE, PAGE_WAITING

S = 256
ALL_RULES = pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_1, fo.LINUX_6_12], ids=lambda rules: rules.name)


def counters(zone):
    return zone.start_pfn, zone.spanned_pages, zone.present_pages, zone.managed_pages


def test_2_6_25_onlines_ram_only(make_machine):
    """7.1: pages that no System RAM resource holds are skipped; a range of none of them gives 0, and still grows the span.

        section 4      | 1024 .... 1100 RAM 1200 .... 1280 |
    Expect the 100 pages of RAM from an online of the whole section, and 0 from one of what lies behind.
    """
    mem = make_machine(boot=None, rules=fo.LINUX_2_6_25)
    mem.add_memory(1100, 100)
    assert mem.online_pages(1200, 80) == 0
    assert counters(mem.zones["Normal"]) == (1200, 80, 0, 0)
    assert mem.online_pages(1024, S) == 100
    assert counters(mem.zones["Normal"]) == (1024, S, 100, 100)
    assert mem.online_pages(1024, S) == 0
    mem.validate()


@ALL_RULES
def test_prepare_grows_spans_and_onlines_nothing(make_machine, rules):
    """
        zone Normal          empty  ->  [1024, 1280)
    Expect the whole range spanned; present by the whole range in 6.1, not at all under 2.6.25; nothing managed or free (1.3,
    3.2).
    """
    mem = make_machine(boot=None, rules=rules)
    mem.add_memory(1024, S)
    mem.prepare_online_pages(1024, S)
    zone = mem.zones["Normal"]
    assert counters(zone) == (1024, S, 0 if rules is fo.LINUX_2_6_25 else S, 0)
    assert (mem.nodes[0].start_pfn, mem.nodes[0].spanned_pages) == (1024, S)
    assert zone.free_pages == 0 and mem.totalram_pages == 0
    assert set(mem.page_states(1024, S).tolist()) == {PAGE_WAITING}


@ALL_RULES
def test_marks_onlines_what_is_reserved_and_once(make_machine, rules):
    """
        prepared    | 1024 ............................ 1280 |
        mark            [1030-1039]   [1035-1044]
    Expect 10, then the 5 that are new, then 0; managed and totals follow, "prepared but unbacked" is present - managed in 6.1.
    """
    mem = make_machine(boot=None, rules=rules)
    mem.add_memory(1024, S)
    mem.prepare_online_pages(1024, S)
    assert [mem.mark_pages_onlined(1030, 10), mem.mark_pages_onlined(1035, 10), mem.mark_pages_onlined(1035, 10)] == [10, 5, 0]
    zone = mem.zones["Normal"]
    assert zone.managed_pages == zone.free_pages == mem.totalram_pages == mem.stats()["pages_onlined"] == 15
    assert zone.present_pages - zone.managed_pages == (0 if rules is fo.LINUX_2_6_25 else S - 15)
    assert mem.mark_pages_onlined(1024) == 1
    assert mem.mark_pages_onlined(1024, S) == S - 16
    assert zone.nr_free == (0, 0, 0, 0, 0, 0, 4)


def test_512m_under_pae_page_by_page_and_whole(engine):
    """The thread's section: 131072 pages of HighMem.

    Expect 128 blocks of order 10 either way, 130944 merges page by page, none for blocks of order 10; managed and totalhigh
    alike.
    """
    results = []
    for order in (0, 10):
        mem = fo.Memory(fo.X86_32_PAE, boot="512M", rules=fo.LINUX_2_6_25, engine=engine)
        mem.add_memory(1 << 17, 1 << 17)
        mem.prepare_online_pages(1 << 17, 1 << 17)
        assert mem.mark_pages_onlined(1 << 17, 1 << 17, order=order) == 1 << 17
        zone = mem.zones["HighMem"]
        results.append((sum(mem.stats()["merges"]), mem.stats()["frees"][order]))
        assert zone.nr_free == (0,) * 10 + (128,) and counters(zone) == (1 << 17, 1 << 17, 1 << 17, 1 << 17)
        assert mem.totalhigh_pages == 1 << 17
        mem.validate()
    assert results == [(131072 - 128, 131072), (0, 128)]


def test_merges_an_order_are_halves(engine):
    """2.1: 64 pages one by one. Expect 32 merges of order 0, 16 of order 1 ... 1 of order 5, whatever the order of the
    pages."""
    for pfns in (np.arange(64), np.arange(64)[::-1], np.random.default_rng(3).permutation(64)):
        mem = fo.Memory(SMALL_PAE, rules=fo.LINUX_2_6_25, engine=engine)
        mem.add_memory(0, S)
        mem.prepare_online_pages(0, S)
        assert mem.mark_pfns_onlined(pfns) == 64
        assert mem.stats()["merges"] == [32, 16, 8, 4, 2, 1, 0]
        assert mem.zones["HighMem"].nr_free == (0, 0, 0, 0, 0, 0, 1)


@pytest.mark.parametrize("dtype", [np.uint32, np.int64, np.uint64, np.int16, ">u4", list, range])
def test_arrays_of_every_width(make_machine, dtype):
    mem = make_machine(boot=None)
    mem.add_memory(0, S)
    mem.prepare_online_pages(0, S)
    pfns = range(3, 200, 2)
    given = pfns if dtype is range else list(pfns) if dtype is list else np.array(pfns, dtype)
    assert mem.mark_pfns_onlined(given) == 99
    assert np.flatnonzero(mem.page_states(0, S) == PAGE_FREE).tolist() == list(pfns)
    assert mem.mark_pfns_onlined([]) == 0
    assert mem.mark_pfns_onlined(np.arange(0, 2 * S, 2)[:100][::-1]) == 100


@pytest.mark.parametrize("dtype", [np.uint32, np.int64, np.uint64])
def test_arrays_that_lie_askew(make_machine, dtype):
    """A contiguous array whose items do not lie at multiples of their size, as in a file that is read at an odd offset."""
    mem = make_machine(boot=None)
    mem.add_memory(0, S)
    mem.prepare_online_pages(0, S)
    given = np.frombuffer(bytearray(1 + 8 * 20), dtype, 20, offset=1)
    given[:] = range(3, 43, 2)
    assert not given.flags.aligned
    assert mem.mark_pfns_onlined(given) == 20
    assert np.flatnonzero(mem.page_states(0, S) == PAGE_FREE).tolist() == given.tolist()


# -- online_page_callback, 3.3

def test_callback_slot(make_machine):
    """One slot for all: EINVAL for a second callback, and for restoring one that is not set; generic_online_page is the
    default."""
    mem = make_machine()
    def mine(pfn, order):
        raise AssertionError
    with mem.set_online_page_callback(mine) as given:
        assert given is mine and mem.online_page_callback is mine
        for refused in (lambda: mem.set_online_page_callback(print), lambda: mem.restore_online_page_callback(print)):
            with pytest.raises(fo.HotplugError) as caught:
                refused()
            assert caught.value.errno == errno.EINVAL
    assert mem.online_page_callback is None
    mem.restore_online_page_callback(mem.generic_online_page)
    with pytest.raises(TypeError):
        mem.set_online_page_callback(None)


@ALL_RULES
def test_callback_keeps_pages_back(make_machine, rules):
    """
        blocks of a section      0   1   2   3          (order 0 under 2.6.25: 256 pages)
        the callback gives          yes     yes
    Expect half of the pages online, counted once; the rest Reserved, given later by generic_online_page alone.
    """
    mem = make_machine(boot=None, rules=rules)
    mem.add_memory(0, S)
    orders = set()
    def odd(pfn, order):
        orders.add(order)
        if pfn // 64 % 2:
            assert mem.generic_online_page(pfn, order) == 1 << order
    mem.set_online_page_callback(odd)
    assert mem.online_pages(0, S) == 128
    assert orders == ({0} if rules is fo.LINUX_2_6_25 else {6})
    zone = mem.zones["Normal"]
    assert zone.managed_pages == mem.stats()["pages_onlined"] == 128
    assert zone.present_pages == (128 if rules is fo.LINUX_2_6_25 else S)
    assert mem.mark_pfns_onlined([0, 70]) == 0
    assert mem.generic_online_page(0, 6) == 64 and mem.generic_online_page(0, 6) == 0
    assert mem.stats()["pages_onlined"] == 192
    mem.validate()


@ALL_RULES
def test_a_callback_by_array_gets_the_same_blocks(make_machine, rules):
    """
        a section, page 70 online     [0, 70)   70   [71, 256)
        the callback gives              what lies in the odd quarters
    Expect the blocks that a callback for each gets, in its order, in one array for each run of one order, and the same machine.
    """
    def machine(**how):
        mem = make_machine(boot=None, rules=rules)
        mem.add_memory(0, S)
        mem.prepare_online_pages(0, S)
        mem.mark_pages_onlined(70)
        given = []
        def callback(pfns, order):
            given.append((pfns, order))
            for pfn in np.atleast_1d(pfns).tolist():
                if pfn // 64 % 2:
                    mem.generic_online_page(pfn, order)
        mem.set_online_page_callback(callback, **how)
        return mem, mem.mark_pages_onlined(0, S), given
    one, done, single = machine()
    other, done_by_array, arrays = machine(by_array=True)
    assert [(pfn, order) for pfns, order in arrays for pfn in pfns.tolist()] == single and done == done_by_array == 127
    assert all(len(pfns) and pfns.dtype == np.int64 for pfns, _ in arrays)
    assert [order for _, order in arrays] == ([0, 0] if rules is fo.LINUX_2_6_25 else [6, 2, 1, 0, 3, 4, 5, 6])
    assert (one.page_states(0, S) == other.page_states(0, S)).all() and one.buddyinfo() == other.buddyinfo()
    other.validate()


def test_a_callback_by_array_that_raises(make_machine):
    """Expect all pages of its array to wait again, those that it gave too."""
    mem = make_machine(boot=None, rules=fo.LINUX_2_6_25)
    mem.add_memory(0, S)
    def callback(pfns, order):
        mem.generic_online_page(int(pfns[5]), order)
        raise RuntimeError
    mem.set_online_page_callback(callback, by_array=True)
    with pytest.raises(RuntimeError):
        mem.online_pages(0, S)
    assert mem.totalram_pages == 0 and not mem.sections.online_section_nr(0)
    mem.validate()


@pytest.mark.parametrize("call", ["prepare_online_pages", "online_pages"])
@ALL_RULES
def test_a_cancelled_range_is_still_in_its_zone(make_machine, rules, call):
    """A callback refuses MEM_GOING_ONLINE. Expect the others to be told MEM_CANCEL_ONLINE while the range is in the zone that
    it joined before anybody was asked (online_pages: failed_addition), and in no zone afterwards."""
    mem = make_machine(boot="1M", rules=rules)
    mem.add_memory(1024, S)
    before, seen = mem.zoneinfo(), []

    def listen(action, notice):
        zone = mem.zone_of(1024)
        seen.append((action, None if zone is None else (zone.name, zone.spanned_pages)))

    mem.notifiers.register(listen, priority=1)
    mem.notifiers.register(lambda action, notice: fo.NOTIFY_BAD if action == fo.MEM_GOING_ONLINE else fo.NOTIFY_OK)
    with pytest.raises(fo.HotplugError):
        getattr(mem, call)(1024, S)
    joined = ("Normal", S) if rules.grow_before_notify else None
    assert seen == [(fo.MEM_GOING_ONLINE, joined), (fo.MEM_CANCEL_ONLINE, joined)]
    assert mem.zone_of(1024) is None and mem.zoneinfo() == before
    mem.validate()


# -- nodes

def test_a_mark_recomputes_watermarks_before_a_later_node(make_machine):
    """Under 2.6.25 a mark sets the watermarks there and then: a node that comes afterwards has none yet (1.3)."""
    mem = make_machine(geometry=SMALL_PAE, boot="1M", rules=fo.LINUX_2_6_25)
    mem.mark_pages_onlined(0, 1)
    mem.add_memory(S, S, 1)
    assert mem.zones[1, "HighMem"].min == 0


@ALL_RULES
def test_a_block_whose_callback_keeps_every_page_is_online(make_machine, rules):
    """memory_block_change_state: the block is online, whatever its callback kept back, and is not onlined twice."""
    mem = make_machine(boot="1M", rules=rules)
    mem.add_memory(1024, S)
    with mem.set_online_page_callback(lambda pfn, order: None):
        assert mem.blocks[1024 // S].online() == 0
    assert mem.blocks[1024 // S].state == "online"
    with pytest.raises(fo.HotplugError):
        mem.blocks[1024 // S].online()
    assert mem.zones["Normal"].managed_pages == 0
    mem.offline_pages(1024, S)
    assert mem.blocks[1024 // S].state == "offline"
    mem.validate()


def test_a_mark_without_phase_1_says_what_is_missing(engine):
    mem = fo.Memory(fo.X86_64, boot="1G", engine=engine)
    mem.add_memory("1G", "128M")
    with pytest.raises(fo.HotplugError, match=r"EINVAL: .*section 8 is not prepared \(call prepare_online_pages\)"):
        mem.mark_pages_onlined(0x40000)


def test_a_range_with_holes_does_not_go_online(make_machine):
    """Part of a section is added, where the rules allow that and do not walk System RAM. Expect EINVAL for the whole section,
    and the added part to go online."""
    mem = make_machine(rules=replace(fo.LINUX_6_12, aligned=False, name="unaligned"))
    mem.add_memory(512, 100)
    with pytest.raises(fo.HotplugError, match="part of it is not present") as caught:
        mem.online_pages(512, 256)
    assert caught.value.errno == errno.EINVAL
    assert mem.online_pages(512, 100) == 100
    mem.validate()
