"""hotplug/add_remove.pyx: what add_memory and remove_memory bring and take: sections, memmaps, resources, nodes."""

import errno

import numpy as np
import pytest

import fastonline as fo
from fastonline.core.pageflags import PAGE_IN_USE

S = 256
ALL_RULES = pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_1, fo.LINUX_6_12], ids=lambda rules: rules.name)


@ALL_RULES
def test_add_changes_no_zone(make_machine, rules):
    """
        0        1024   1280
        | boot  |  add  |
    Expect a present section of Reserved pages and nothing else: no span, no present, no free page (1.2, 3.1).
    """
    mem = make_machine(boot="4M", rules=rules)
    before = mem.zoneinfo(), mem.buddyinfo(), mem.totalram_pages
    mem.add_memory(1024, S)
    assert (mem.zoneinfo(), mem.buddyinfo(), mem.totalram_pages) == before
    assert set(mem.page_states(1024, S).tolist()) == {1}
    assert mem.sections.present_section_nr(4) and not mem.sections.online_section_nr(4)


def test_2_6_25_widens_the_range_and_swallows_what_is_there(make_machine):
    """
        section   4            5            6
                  |   [#######|####]       |        add 1100..1399
    Expect sections 4 and 5 present; the rest of 4 can be added later, the same range cannot (1.2).
    """
    mem = make_machine(boot=None, rules=fo.LINUX_2_6_25)
    mem.add_memory(1100, 300)
    assert mem.sections.runs() == [(4, 2)]
    mem.add_memory(1024, 76)
    assert list(mem.resources) == [(1024, 1100), (1100, 1400)]
    with pytest.raises(fo.HotplugError) as caught:
        mem.add_memory(1399, 10)
    assert caught.value.errno == errno.EEXIST


def test_2_6_25_brings_each_section_once(engine):
    """1.2: uevents and memmaps are those of the sections that were really added.

        section      34               35               36               37
                     [1][ 2          ]                 [      [  3     ]
    Expect add@memory34 from the first add, nothing from the second, 36 and 37 from the third, 448 pages of 56 bytes a page for
    each memmap (a block of 512), and every page back when all is gone.
    """
    section = 0x8000
    mem = fo.Memory(fo.X86_64, boot="1G", rules=fo.LINUX_2_6_25, engine=engine, memmap="kernel")
    heard, free = [], mem.buddyinfo()
    mem.events.listen(lambda kind, text: heard.append(text))
    for start, nr, events, memmaps in ((34 * section, section // 2, ["add@memory34"], [34]),
                                       (34 * section + section // 2, section // 2, [], [34]),
                                       (36 * section + section // 2, section, ["add@memory36", "add@memory37"], [34, 36, 37])):
        mem.add_memory(start, nr)
        assert heard == events and sorted(mem.memmaps) == memmaps
        assert all(nr == 512 for (_, nr), in mem.memmaps.values())
        heard.clear()
    before = mem.buddyinfo(), dict(mem.memmaps)
    with pytest.raises(fo.HotplugError):
        mem.add_memory(37 * section, section)
    assert (mem.buddyinfo(), mem.memmaps) == before
    mem.remove_memory(34 * section, section)
    mem.remove_memory(36 * section, 2 * section)
    assert mem.buddyinfo() == free and not mem.memmaps
    mem.validate()


def test_2_6_25_no_room_for_the_second_memmap(engine):
    """One free block of 512 pages, an add that widens over a section that is there. Expect ENOMEM, its memmap kept."""
    section = 0x8000
    mem = fo.Memory(fo.X86_64, boot="128M", rules=fo.LINUX_2_6_25, engine=engine, memmap="kernel")
    mem.add_memory(34 * section, section // 2)
    held = mem.alloc_pages_bulk(mem.totalram_pages // 512 - 2, 9)
    before = mem.buddyinfo(), dict(mem.memmaps), list(mem.resources)
    with pytest.raises(fo.HotplugError) as caught:
        mem.add_memory(34 * section + section // 2, 2 * section)
    assert caught.value.errno == errno.ENOMEM and len(held)
    assert (mem.buddyinfo(), mem.memmaps, list(mem.resources)) == before
    mem.remove_memory(34 * section, section)
    mem.validate()


def test_nodes_come_and_go(make_machine):
    """RECORDED 6 (S10): a node is there with its first memory, has zones of its own, and goes with its last section."""
    mem = make_machine(boot="1M", rules=fo.LINUX_6_1)
    mem.add_memory(1024, 2 * S, 1)
    assert list(mem.nodes) == [0, 1] and (1, "Normal") in mem.zones and mem.blocks[4].node == 1
    mem.online_pages(1024, S)
    assert (
        mem.zones[1, "Normal"].managed_pages == S and mem.nodes[1].managed_pages == S and mem.zones["Normal"].managed_pages == 0
    )
    assert mem.alloc_pages(0, (1, "Normal")) in range(1024, 1024 + S)
    mem.free_pages(int(np.flatnonzero(mem.page_states(1024, S) == PAGE_IN_USE)[0]) + 1024)
    mem.offline_pages(1024, S)
    mem.remove_memory(1024, 2 * S)
    assert list(mem.nodes) == [0] and (1, "Normal") not in mem.zones
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
