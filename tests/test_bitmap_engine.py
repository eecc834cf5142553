"""core/bitmap_engine.pyx: one bit a page in each plane, what each says of a page, and planes that are none."""

import numpy as np
import pytest
from conftest import SMALL_64

import fastonline as fo
from fastonline.core.bitmap_engine import PLANES, BitmapEngine
from fastonline.core.pageflags import PG_buddy, PG_offline, PG_prepared, PG_reserved, PG_tail

S = SMALL_64.pages_per_section
FLAGS = {"free": PG_buddy, "reserved": PG_reserved, "offline": PG_offline, "tail": PG_tail, "prepared": PG_prepared}


def bits(plane, start, nr):
    return np.unpackbits(plane.view(np.uint8), bitorder="little")[start : start + nr].astype(bool)


def test_each_plane_is_one_flag_of_every_page():
    """A section with free, allocated, reserved and offline pages, and one that waits. Expect each plane to be the flag that
    page_states shows, in every page."""
    assert set(PLANES) == set(FLAGS)
    mem = fo.Memory(SMALL_64, boot="2M", engine="bitmap")
    mem.add_memory(2 * S, 2 * S)
    mem.prepare_online_pages(2 * S, S)
    mem.alloc_pages(3)
    mem.set_page_reserved(64, 5)
    held = mem.alloc_pages_bulk(7)
    mem.set_pfns_offline(held)
    states = mem.page_states(0, 4 * S)
    for name, flag in FLAGS.items():
        plane = bits(mem.flags["PG_buddy" if name == "free" else f"PG_{name}"], 0, 4 * S)
        expected = states & flag > 0
        assert (plane == expected).all() and expected.any() and not expected.all(), name


@pytest.mark.parametrize("name", PLANES)
def test_a_new_engine_is_empty(name):
    engine = BitmapEngine(8192, 10, 1)
    assert getattr(engine, name).weight() == 0 and len(getattr(engine, name)) == 8192
    assert engine.searched == 0


def test_bytes_touched_are_counted():
    """Taking a step with a page costs whole words at most: adding 2^15 pages writes one plane."""
    mem = fo.Memory(fo.X86_64, boot="128M", engine="bitmap")
    before = mem.stats().bytes_touched
    mem.add_memory(1 << 16, 1 << 15)
    added = mem.stats().bytes_touched - before
    mem.prepare_online_pages(1 << 16, 1 << 15)
    assert added == (1 << 15) // 8 and mem.stats().bytes_touched - before - added == (1 << 15) // 8
