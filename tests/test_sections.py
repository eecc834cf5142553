"""core/sections: which sections are there, online, early, or only partly there."""

import pytest
from conftest import SMALL_64

from fastonline.core.sections import Sections


def test_added_removed_and_online():
    sections = Sections(8, 40)
    sections.add(256, 512)
    sections.add(0, 100, early=True)
    assert [nr for nr in range(40) if sections.present_section_nr(nr)] == [0, 1, 2]
    assert [nr for nr in range(40) if sections.online_section_nr(nr)] == [0]
    assert [nr for nr in range(40) if sections.early_section_nr(nr)] == [0]
    assert sections.runs() == [(0, 3)] and sections.spans() == [(0, 768)]
    sections.set_online(1, 2, True)
    sections.remove(1, 1)
    assert sections.runs() == [(0, 1), (2, 1)] and sections.spans() == [(0, 256), (512, 256)]
    assert not sections.online_section_nr(1) and sections.online_section_nr(2)
    assert len(sections) == 40 and sections.pages_per_section == 256


def test_old_names_warn(make_machine):
    sections = make_machine(boot="4M").sections
    with pytest.warns(DeprecationWarning, match="fully_prepared"):
        assert sections.whole is sections.fully_prepared


def test_partial_sections():
    """A section of 256 pages has 64 subsections of 4.

        pages    0 ..... 99 | 100 ... 255      the 25 lowest bits of the map
    Expect a subsection that memory only begins to fill to count.
    """
    sections = Sections(8, 4)
    sections.add(0, 98)
    assert sections.partial_section_nr(0) and int(sections.subsection_map[0]) == (1 << 25) - 1
    sections.add(100, 156)
    assert not sections.partial_section_nr(0)
    sections.add(256, 1)
    assert int(sections.subsection_map[1]) == 1
    assert not sections.partial_section_nr(2)


@pytest.mark.parametrize("nr", [-1, 4, 1 << 70])
def test_sections_that_are_not_there(nr):
    sections = Sections(8, 4)
    assert not any(ask(nr) for ask in (sections.present_section_nr, sections.valid_section_nr, sections.online_section_nr,
                                       sections.early_section_nr, sections.partial_section_nr))


def test_many_sections_in_runs_over_word_borders():
    sections = Sections(6, 300)
    for first, nr in ((0, 1), (63, 2), (100, 130), (299, 1)):
        sections.add(first << 6, nr << 6)
    assert sections.runs() == [(0, 1), (63, 2), (100, 130), (299, 1)]


def test_pages_go_online_section_by_section(make_machine):
    """A section is online with the first page of it that is; boot sections are early and online at once."""
    mem = make_machine(boot="1M")
    mem.add_memory(1024, 512)
    mem.prepare_online_pages(1024, 512)
    assert [mem.sections.online_section_nr(nr) for nr in (0, 4, 5)] == [True, False, False]
    mem.mark_pages_onlined(1024 + 256)
    assert [mem.sections.online_section_nr(nr) for nr in (0, 4, 5)] == [True, False, True]
    mem.mark_pfns_onlined([1024 + 7])
    assert [mem.sections.early_section_nr(nr) for nr in (0, 4, 5)] == [True, False, False]
    assert mem.sections.online_section_nr(4)
    mem.offline_pages(1024, 512)
    assert not mem.sections.online_section_nr(4) and not mem.sections.online_section_nr(5)


def test_machine_grows_where_memory_is_added(make_machine):
    """The last section first: room is made up to it, and nothing in between is there."""
    mem = make_machine(boot=None)
    last = SMALL_64.nr_mem_sections - 1
    mem.add_memory(last * 256, 256)
    mem.online_pages(last * 256, 256)
    mem.add_memory(0, 256)
    mem.online_pages(0, 256)
    mem.validate()
    assert mem.sections.runs() == [(0, 1), (last, 1)]
    assert mem.zones["Normal"].spanned_pages == SMALL_64.max_pfn and mem.zones["Normal"].present_pages == 512
