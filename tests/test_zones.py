"""hotplug/zones: zones and nodes as a user sees them."""

import copy
import pickle
import re

import numpy as np
import pytest
from conftest import SMALL_PAE

import fastonline as fo
from fastonline.hotplug.zonelists import kernel_zonelist, movable_zonelist, node_order


def test_boot_zones(make_machine):
    """Zones by the geometry's limits, 64 | 192 | the rest; the zones' names are the kernel's, Movable and Device last."""
    mem = make_machine(boot="3M")
    shape = {
        zone.name: (zone.start_pfn, zone.spanned_pages, zone.present_pages, zone.managed_pages) for zone in mem.zones.values()
    }
    assert shape == {
        "DMA": (0, 64, 64, 64),
        "DMA32": (64, 192, 192, 192),
        "Normal": (256, 512, 512, 512),
        "Movable": (0,) * 4,
        "Device": (0,) * 4,
    }
    assert [zone.populated for zone in mem.nodes[0].zones] == [True, True, True, False, False]
    assert (mem.nodes[0].start_pfn, mem.nodes[0].spanned_pages, mem.nodes[0].present_pages) == (0, 768, 768)
    old = fo.Memory(SMALL_PAE, boot="4M", rules=fo.LINUX_2_6_25)
    assert [zone.name for zone in old.zones.values()] == ["DMA", "Normal", "HighMem", "Movable"]
    assert old.totalhigh_pages == old.zones["HighMem"].managed_pages == 1024 - 192 and old.totalram_pages == 1024


def test_zones_are_a_mapping(make_machine):
    mem = make_machine()
    assert mem.zones["DMA"].nr == mem.zones[0, "DMA"].nr == 0
    assert mem.zones.keys() == [(0, name) for name in ("DMA", "DMA32", "Normal", "Movable", "Device")]
    assert [(zone.nid, zone.name) for zone in mem.zones] == mem.zones.keys()
    assert repr(mem.zones).startswith("<Zones: <Zone 0/DMA start_pfn=0x0 ")
    assert len(mem.zones) == 5 and "Normal" in mem.zones and (1, "Normal") not in mem.zones
    assert "HighMem" not in mem.zones and 7 not in mem.zones
    assert [key for key, zone in mem.zones.items() if zone.populated] == [(0, "DMA"), (0, "DMA32")]
    for key in ("HighMem", (3, "Normal"), (-1, "DMA")):
        with pytest.raises(KeyError):
            mem.zones[key]


def test_zones_nodes_and_blocks_compare(make_machine):
    mem, other = make_machine(boot="2M"), make_machine()
    zone, node, block = mem.zones["DMA32"], mem.nodes[0], mem.blocks[0]
    assert zone == mem.zones["DMA32"] and zone != mem.zones["Movable"] and zone != other.zones["DMA32"] and zone != "DMA32"
    assert node == mem.nodes[0] and node != other.nodes[0] and node != 0
    assert block == mem.blocks[0] and block != mem.blocks[1] and block != other.blocks[0] and block != 0
    assert len({zone, mem.zones["DMA32"], node, mem.nodes[0], block, mem.blocks[0]}) == 3


@pytest.mark.parametrize("again", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"])
def test_a_copied_zone_belongs_to_the_copied_machine(make_machine, again):
    mem = make_machine()
    mem.alloc_pages(3)
    copied, zone, node = again((mem, mem.zones["DMA32"], mem.nodes[0]))
    assert zone == copied.zones["DMA32"] and node == copied.nodes[0] and zone != mem.zones["DMA32"]
    assert zone.free_pages == mem.zones["DMA32"].free_pages
    pfn = copied.alloc_pages(zone=zone)
    assert zone.free_pages == mem.zones["DMA32"].free_pages - 1 and pfn >= 0
    assert copy.copy(mem.zones["DMA32"]) == mem.zones["DMA32"]


def test_the_zones_of_a_machine_that_is_gone_cannot_be_pickled(make_machine):
    zones = make_machine().zones
    with pytest.raises(TypeError, match="machine that is gone"):
        pickle.dumps(zones["DMA32"])
    assert zones["DMA32"].free_pages == zones["DMA32"].managed_pages > 0


def test_a_zone_is_live(make_machine):
    mem = make_machine()
    zone = mem.zones["Normal"]
    mem.add_memory(1024, 256)
    mem.online_pages(1024, 256)
    assert (zone.start_pfn, zone.free_pages, zone.nr_free) == (1024, 256, (0, 0, 0, 0, 0, 0, 4))
    assert "Normal" in repr(zone) and "spanned=256" in repr(zone) and "present=512" in repr(mem.nodes[0])


@pytest.mark.parametrize("pfn, name", [(0, "DMA"), (63, "DMA"), (64, "DMA32"), (255, "DMA32"), (300, None), (4095, None)])
def test_zone_of(make_machine, pfn, name):
    zone = make_machine().zone_of(pfn)
    assert (zone.name if zone else None) == name


@pytest.mark.parametrize("rules", [fo.LINUX_6_1, fo.LINUX_6_12])
def test_fallback_order_of_nodes(rules, engine):
    """Nodes 0 to 3, of which 1 has no memory online; CPUs on node 0. Expect the node itself first, then those with memory:
    higher numbers before lower ones, node 0 last; since 6.7 a node without memory is not even in its own order."""
    mem = fo.Memory(SMALL_PAE, boot="1M", rules=rules, engine=engine)
    for nid in (1, 2, 3):
        mem.add_memory(1024 + 256 * nid, 256, nid)
        if nid > 1:
            mem.online_pages(1024 + 256 * nid, 256)
    assert [node_order(mem, nid) for nid in (0, 2, 3)] == [[0, 2, 3], [2, 3, 0], [3, 2, 0]]
    assert node_order(mem, 1) == [nid for nid in (1, 2, 3, 0) if nid != 1 or rules is fo.LINUX_6_1]
    log = []
    mem.events.listen(lambda kind, text: log.append(text) if text.startswith("Fallback") else None)
    mem.offline_pages(1024 + 256 * 3, 256)
    names = (
        {0: "0 2", 1: "2 0", 2: "2 0", 3: "2 0"}
        if rules is fo.LINUX_6_12
        else {0: "0 2 3", 1: "1 2 3 0", 2: "2 3 0", 3: "3 2 0"}
    )
    assert log == [f"Fallback order for Node {nid}: {order}" for nid, order in names.items()]
    assert node_order(mem, 3) == ([2, 0] if rules is fo.LINUX_6_12 else [3, 2, 0])


def test_sixty_four_nodes(engine):
    mem = fo.Memory(SMALL_PAE, rules=fo.LINUX_6_1, engine=engine)
    for nid in (15, 63, 1):
        mem.add_memory(nid % 16 * 256, 256, nid) if nid != 63 else mem.add_memory(0, 256, 63)
    mem.online_pages(0, 256)
    assert list(mem.nodes) == [0, 1, 15, 63] and mem.zones[63, "HighMem"].managed_pages == 256
    mem.copy().validate()


@pytest.mark.parametrize("rules, names, after", [
    (fo.LINUX_2_6_25, ("kswapd1",), ("kswapd1",)), (fo.LINUX_6_1, ("kcompactd1", "kswapd1"), ()),
])
def test_threads_of_a_node(rules, names, after, engine):
    """Node 1 is added, onlined, offlined. Expect its threads from the first memory online on, until the last went offline; in
    2.6.25 kswapd stays. Copies and saved machines know."""
    mem = fo.Memory(SMALL_PAE, boot="1M", rules=rules, engine=engine)
    assert len(mem.nodes[0].threads) == len(names)
    mem.add_memory(1024, 512, 1)
    assert mem.nodes[1].threads == ()
    mem.online_pages(1024, 256)
    assert mem.nodes[1].threads == mem.copy().nodes[1].threads == names
    mem.online_pages(1280, 256)
    mem.offline_pages(1024, 256)
    assert mem.nodes[1].threads == names
    mem.offline_pages(1280, 256)
    assert mem.nodes[1].threads == mem.copy().nodes[1].threads == after
    assert mem.zones.has_memory(1) == bool(after)      # N_HIGH_MEMORY is for good in 2.6.25


@pytest.mark.parametrize("key", [
    "Nope", 7, (0,), (0, "DMA", 1), (1, "DMA"), ("0", "DMA"), (0, 7), (0, []), (True, "DMA"), None, (1 << 70, "DMA"),
])
def test_a_zone_that_is_none(make_machine, key):
    """Expect the key and the zones that there are, from the mapping and from an allocation."""
    mem = make_machine()
    assert key not in mem.zones
    message = f"invalid zone {key!r} (expected DMA, DMA32, Normal, Movable, Device, or (nid, name) with a node of 0)"
    with pytest.raises(KeyError) as error:
        mem.zones[key]
    assert message in error.value.args[0]
    if key is not None:     # every zone
        with pytest.raises(ValueError, match=re.escape(message)):
            mem.alloc_pages(0, key)


def test_zonelists_of_a_node_that_is_not_there(make_machine):
    """Expect the other nodes' zones: that is where its first memory's memmap comes from."""
    mem = make_machine()
    for nid in (3, 1 << 20):
        assert kernel_zonelist(mem, nid) == movable_zonelist(mem, nid) == [1, 0]


def test_numbers_of_numpy(make_machine):
    assert make_machine().zones[np.int64(0), "DMA"].nr == 0


def test_zones_by_number(make_machine):
    mem = make_machine()
    mem.add_memory(1024, 256, nid=1)
    for zone in mem.zones.values():
        again = mem.zones.numbered(zone.nr)
        assert (again.nid, again.name, again.nr) == (zone.nid, zone.name, zone.nr)
    for nr in (-1, 1 << 40):
        with pytest.raises(ValueError, match="zone number"):
            mem.zones.numbered(nr)
