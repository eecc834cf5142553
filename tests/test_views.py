"""Every array that the package hands out keeps its memory: the owner goes, or grows, and the view is read (a sanitized build
sees)."""

import gc

import numpy as np
import pytest

import fastonline as fo
from fastonline.core.bitmap import Bitmap
from fastonline.core.bitmap_engine import BitmapEngine
from fastonline.core.sections import Sections
from fastonline.core.structpage import StructPageEngine

S = fo.X86_64.pages_per_section
FAR = 64 * S        # beyond the room that a machine of one section is made with
FLAGS = ("PG_reserved", "PG_buddy", "PG_offline", "PG_prepared", "PG_tail")


@pytest.mark.parametrize("grown", [False, True], ids=["deleted", "grown"])
@pytest.mark.parametrize("name", FLAGS)
def test_flags_outlive_their_machine(make_machine, name, grown):
    mem = make_machine(fo.X86_64, boot="128M")
    flags, view = mem.flags, mem.flags[name]
    before = view.copy()
    if grown:
        mem.add_memory(FAR, S)
        mem.online_pages(FAR, S)
    del mem
    gc.collect()
    assert not view.flags.writeable
    assert (view == before).all()
    assert flags[name].size >= view.size


@pytest.mark.parametrize("read", [
    lambda mem: mem.sections.present.view(), lambda mem: mem.sections.online.array, lambda mem: mem.sections.subsection_map,
    lambda mem: mem.page_states(0, S), lambda mem: mem.kpageflags(0, S), lambda mem: mem.alloc_pages_bulk(3),
    lambda mem: np.array(mem.zones["DMA"].nr_free),
], ids=["present", "online", "subsections", "page_states", "kpageflags", "alloc_pages_bulk", "nr_free"])
def test_arrays_outlive_their_machine(make_machine, read):
    mem = make_machine(fo.X86_64, boot="128M")
    array = read(mem)
    before = array.copy()
    mem.add_memory(FAR, S)
    del mem
    gc.collect()
    assert (array == before).all()


def test_zones_nodes_and_sections_outlive_their_machine(make_machine):
    mem = make_machine(fo.X86_64, boot="128M")
    zone, node, sections, chain = mem.zones["DMA"], mem.nodes[0], mem.sections, mem.notifiers
    expected = zone.nr_free, node.spanned_pages, sections.spans()
    del mem
    gc.collect()
    assert (zone.nr_free, node.spanned_pages, sections.spans()) == expected
    assert chain is not None and zone.free_pages == sum(nr << order for order, nr in enumerate(expected[0]))


@pytest.mark.parametrize(
    "make, read",
    [
        (lambda: Bitmap(1000), lambda owner: owner.view()),
        (lambda: Bitmap(1000), lambda owner: owner.array),
        (lambda: Sections(8, 64), lambda owner: owner.subsection_map),
        (lambda: BitmapEngine(1 << 14, 10, 2), lambda owner: owner.area_array),
        (lambda: BitmapEngine(1 << 14, 10, 2), lambda owner: owner.view("PG_tail")),
        (lambda: StructPageEngine(1 << 14, 10, 2), lambda owner: owner.array),
        (lambda: StructPageEngine(1 << 14, 10, 2), lambda owner: owner.view("PG_buddy")),
    ],
    ids=[
        "Bitmap.view",
        "Bitmap.array",
        "Sections.subsection_map",
        "area_array",
        "BitmapEngine.view",
        "descriptors",
        "StructPageEngine.view",
    ],
)
def test_core_arrays_outlive_their_owner(make, read):
    array = read(make())
    gc.collect()
    assert int(np.asarray(array).sum()) >= 0
