"""hotplug/offlining.pyx: what offline_pages takes, and what it refuses (KERNEL.md 1.7, 3.6)."""

import errno

import pytest
from conftest import SMALL_PAE
from test_onlining import counters

import fastonline as fo

S = 256


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
