"""testing/geometries.py: each small machine boots, goes through a cycle and is valid, on both engines."""

import pytest

import fastonline as fo
from fastonline.testing import geometries

SMALL = {name: value for name, value in vars(geometries).items() if name.startswith(("SMALL", "GUEST"))}


@pytest.mark.parametrize("geometry", SMALL.values(), ids=SMALL)
def test_a_cycle(engine, geometry):
    size = geometry.pages_per_section
    mem = fo.Memory(geometry, boot=2 * size * geometry.page_size, engine=engine)
    before = mem.buddyinfo()
    start = mem.max_pfn - size
    mem.add_memory(start, size)
    mem.online_pages(start, size)
    mem.validate()
    assert sum(zone.managed_pages for zone in mem.zones.values()) == mem.totalram_pages
    mem.offline_pages(start, size)
    mem.remove_memory(start, size)
    mem.validate()
    assert mem.buddyinfo() == before


def test_they_are_small():
    assert len(SMALL) >= 8 and all(geometry.pages_per_section <= 8192 for geometry in SMALL.values())
