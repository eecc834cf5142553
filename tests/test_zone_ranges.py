"""hotplug/zone_ranges.pyx: which zone a range joins, and the spans of zones and nodes."""

import errno

import pytest
from conftest import SMALL_PAE, by_zone
from test_onlining import counters

import fastonline as fo

S = 256


def test_spans_as_recorded(engine):
    """RECORDED 3: blocks 35,32,39,33,38,34,36,37 to Movable, one after the other. Expect the recorded (start, spanned,
    present)."""
    block = 32768
    mem = fo.Memory(fo.X86_64, boot="512M", rules=fo.LINUX_6_1, engine=engine)
    mem.add_memory(32 * block, 8 * block)
    seen = []
    for nr in (35, 32, 39, 33, 38, 34, 36, 37):
        mem.online_pages(nr * block, block, fo.MMOP_ONLINE_MOVABLE)
        seen.append(counters(by_zone(mem)["Movable"])[:3])
        assert by_zone(mem)["Movable"].nr_free == (0,) * 10 + (32 * len(seen),)
    assert seen == [(0x118000, 32768, 32768), (0x100000, 131072, 65536)] + [
        (0x100000, 262144, present) for present in (98304, 131072, 163840, 196608, 229376, 262144)]


def test_zones_may_overlap_and_never_share_a_block(make_machine):
    """RECORDED 5: no placement is refused. Movable inside Normal, Normal inside Movable; a 2.6.25 range over boot zones keeps
    them."""
    mem = make_machine(boot=None)
    mem.add_memory(0, 8 * S)
    for nr, kind in ((0, 2), (4, 2), (1, 3), (6, 3), (5, 2)):
        mem.online_pages(nr * S, S, kind)
    assert counters(by_zone(mem)["Normal"]) == (0, 6 * S, 3 * S, 3 * S)
    assert counters(by_zone(mem)["Movable"]) == (S, 6 * S, 2 * S, 2 * S)
    mem.validate()
    old = make_machine(boot="4M", rules=fo.LINUX_2_6_25)
    zones = [counters(zone)[2:] for zone in old.zones.values()]
    assert old.online_pages(0, 1024) == 0
    assert [counters(zone)[2:] for zone in old.zones.values()] == zones
    old.validate()


def test_half_of_a_block_cannot_change_its_zone(make_machine):
    """A pageblock may be offlined out of a buddy block, and comes back to the same zone only. Expect EINVAL for Movable, where
    Linux would take the call (KERNEL.md 3.2)."""
    mem = make_machine(boot=None)
    mem.add_memory(0, S)
    mem.online_pages(0, S)
    mem.offline_pages(32, S - 32)
    with pytest.raises(fo.HotplugError, match="Normal") as caught:
        mem.online_pages(32, S - 32, fo.MMOP_ONLINE_MOVABLE)
    assert caught.value.errno == errno.EINVAL
    assert mem.online_pages(32, S - 32) == S - 32
    mem.validate()


def test_a_range_over_two_nodes_reaches_into_both_spans(make_machine):
    """
        0       256     512
        | node 0 | node 1 |      one page of node 1 is online, then all of both goes online in one call (2.6.25)
    Expect each zone to span its own pages: blocks stay in the zone that they were given.
    """
    mem = make_machine(geometry=SMALL_PAE, boot=None, rules=fo.LINUX_2_6_25)
    mem.add_memory(0, S)
    mem.add_memory(S, S, 1)
    assert mem.online_pages(S, 1) == 1
    assert mem.online_pages(0, 2 * S) == 2 * S - 1
    assert mem.zones[1, "HighMem"].spanned_pages == 64
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


@pytest.mark.parametrize("later, span", [(2 * S, (0, S + 32)), (0, (2 * S - 32, S + 32))], ids=["end", "start"])
def test_span_shrinks_to_a_page_inside_a_buddy_block(make_machine, later, span):
    """Half of a buddy block goes offline in the middle of Movable, then the section beyond it. Expect the span to end, or to
    begin, at a prepared page: the other half of the block has left the zone before."""
    mem = make_machine(boot=None)
    mem.add_memory(0, 3 * S)
    if later:
        mem.online_pages(0, 3 * S, fo.MMOP_ONLINE_MOVABLE)
        mem.offline_pages(S + 32, S - 32)
    else:
        mem.online_pages(0, S, fo.MMOP_ONLINE_MOVABLE)
        mem.online_pages(2 * S - 32, S + 32, fo.MMOP_ONLINE_MOVABLE)
    mem.offline_pages(later, S)
    assert counters(by_zone(mem)["Movable"])[:2] == span
    assert (mem.nodes[0].start_pfn, mem.nodes[0].spanned_pages) == span
    mem.validate()
