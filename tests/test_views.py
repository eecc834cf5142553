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
