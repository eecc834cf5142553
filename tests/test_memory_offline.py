"""hotplug/memory: offlining, reserving and removing (1.7, 3.6, RECORDED 6)."""

import errno

import pytest
from conftest import SMALL_PAE, by_zone

import fastonline as fo

S = 256


def counters(zone):
    return zone.start_pfn, zone.spanned_pages, zone.present_pages, zone.managed_pages


@pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_1], ids=lambda rules: rules.name)
def test_offline_and_online_again(make_machine, rules):
    """Expect free pages to be Reserved again, in no zone's counts; the span to shrink in 6.1 and never under 2.6.25."""
    mem = make_machine(boot=None, rules=rules)
    mem.add_memory(0, 2 * S)
    mem.online_pages(0, 2 * S)
    mem.offline_pages(0, S)
    assert set(mem.page_states(0, S).tolist()) == {1}
    assert counters(mem.zones["Normal"]) == ((0, 2 * S, S, S) if rules is fo.LINUX_2_6_25 else (S, S, S, S))
    assert mem.stats()["pages_offlined"] == S and mem.totalram_pages == S
    assert mem.online_pages(0, S) == S
    assert counters(mem.zones["Normal"]) == (0, 2 * S, 2 * S, 2 * S)
    mem.validate()


@pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_1], ids=lambda rules: rules.name)
def test_totalhigh_pages(make_machine, rules):
    """1.7: 2.6.25 does not take offlined pages off totalhigh_pages, and counts them once more when they come back."""
    mem = make_machine(SMALL_PAE, "768K", rules=rules)
    mem.add_memory(S, 2 * S)
    high = mem.totalhigh_pages
    mem.online_pages(S, 2 * S)
    kept = S if rules is fo.LINUX_2_6_25 else 0
    for times in (1, 2):
        mem.offline_pages(S, S)
        assert (mem.totalram_pages, mem.totalhigh_pages) == (192 + S, high + S + times * kept)
        mem.online_pages(S, S)
        assert (mem.totalram_pages, mem.totalhigh_pages) == (192 + 2 * S, high + 2 * S + times * kept)
    assert mem.copy().totalhigh_pages == mem.totalhigh_pages
    mem.validate()


def test_span_shrinks_as_recorded(engine):
    """RECORDED 6 (S2m): blocks 39, 33, 38, 32, 34, 36, 37, 35 leave Movable. Expect edges to skip what has gone before."""
    block = 32768
    mem = fo.Memory(fo.X86_64, boot="512M", rules=fo.LINUX_6_1, engine=engine)
    mem.add_memory(32 * block, 8 * block)
    mem.online_pages(32 * block, 8 * block, fo.MMOP_ONLINE_MOVABLE)
    seen = []
    for nr in (39, 33, 38, 32, 34, 36, 37, 35):
        mem.offline_pages(nr * block, block)
        seen.append(counters(by_zone(mem)["Movable"])[:2])
    assert seen == [(0x100000, 229376), (0x100000, 229376), (0x100000, 196608), (0x110000, 131072), (0x118000, 98304),
                    (0x118000, 98304), (0x118000, 32768), (0, 0)]
    zone = by_zone(mem)["Movable"]
    assert (zone.min, zone.low, zone.high, zone.present_pages) == (0, 0, 0, 0)


def test_offline_takes_half_a_block(make_machine):
    """
        block of 64 free pages   | 0 ... 31 | 32 ... 63 |   offline from 32 on
    Expect one split of order 6 and a block of order 5 left.
    """
    mem = make_machine(boot=None)
    mem.add_memory(0, S)
    mem.online_pages(0, S)
    mem.offline_pages(32, S - 32)
    assert mem.zones["Normal"].nr_free == (0, 0, 0, 0, 0, 1, 0)
    assert mem.stats()["splits"] == [0, 0, 0, 0, 0, 0, 1]
    assert counters(mem.zones["Normal"]) == (0, 32, 32, 32)
    assert mem.sections.online_section_nr(0)


def test_offline_takes_waiting_and_offline_pages_along(make_machine):
    """RECORDED 8: a partly plugged block can be offlined and onlined again; only its managed pages leave."""
    mem = make_machine(boot=None, rules=fo.LINUX_6_1)
    mem.add_memory(0, S)
    mem.prepare_online_pages(0, S)
    mem.mark_pages_onlined(0, 100)
    mem.alloc_contig_range(50, 3)
    mem.set_page_offline(50, 3)
    mem.offline_pages(0, S)
    assert mem.stats()["pages_offlined"] == 97 and counters(mem.zones["Normal"]) == (0, 0, 0, 0)
    assert mem.online_pages(0, S) == S
    mem.validate()


def test_ebusy_names_the_page(make_machine):
    mem = make_machine(boot=None)
    mem.add_memory(0, S)
    mem.online_pages(0, S)
    mem.alloc_contig_range(0x77, 1)
    with pytest.raises(fo.HotplugError, match="page 0x77 is in use") as caught:
        mem.offline_pages(0, S)
    assert caught.value.errno == errno.EBUSY


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


def test_remove(make_machine):
    mem = make_machine(boot=None)
    mem.add_memory(0, 4 * S)
    mem.online_pages(S, S)
    mem.remove_memory(2 * S, 2 * S)
    assert mem.sections.runs() == [(0, 2)] and list(mem.resources) == [(0, 2 * S)]
    assert set(mem.page_states(2 * S, 2 * S).tolist()) == {0}
    mem.add_memory(3 * S, S)
    assert mem.online_pages(3 * S, S) == S
    mem.validate()


def test_present_early_comes_back(engine):
    """A boot block that goes offline and comes back, twice. Expect the machine to be as it was, and to be saved and copied
    so."""
    mem = fo.Memory(fo.X86_64, boot="512M", rules=fo.LINUX_6_1, engine=engine)
    early = [zone.present_early_pages for zone in mem.zones.values()]
    for _ in range(2):
        mem.offline_pages(32768, 32768)
        assert [zone.present_early_pages for zone in mem.zones.values()] != early
        mem.online_pages(32768, 32768)
        assert [zone.present_early_pages for zone in mem.zones.values()] == early
    mem.copy().validate()
