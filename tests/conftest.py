"""What every test file needs: both engines, small machines, and the recordings that may or may not lie beside the project."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import fastonline as fo

settings.register_profile(
    "fastonline", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("fastonline")

ENGINES = ("bitmap", "struct_page")

# Sections of 256 pages and blocks of at most 64, so that a plain Python reference keeps up.
SMALL_64 = replace(
    fo.X86_64, name="SMALL_64", section_size_bits=20, max_physmem_bits=24, max_page_order=6, pageblock_order=5,
    zone_limits=(("DMA", 1 << 18), ("DMA32", 1 << 20), ("Normal", None)), subsection_shift=17,
)
SMALL_PAE = replace(
    fo.X86_32_PAE, name="SMALL_PAE", section_size_bits=20, max_physmem_bits=24, max_page_order=6, pageblock_order=5,
    zone_limits=(("DMA", 1 << 18), ("Normal", 3 << 18), ("HighMem", None)),
)
# 64 KiB pages, 512 MiB blocks: one section is one block of order 13.
SMALL_64K = replace(fo.ARM64_64K, name="SMALL_64K", max_physmem_bits=31)
# Buddy blocks of two pageblocks, a section of four blocks: zones meet in the middle of things.
SMALL_ORDER_7 = replace(SMALL_64, name="SMALL_ORDER_7", section_size_bits=21, max_physmem_bits=25, max_page_order=7, pageblock_order=6,
                        zone_limits=(("DMA", 1 << 19), ("DMA32", 1 << 21), ("Normal", None)))


@pytest.fixture(params=ENGINES)
def engine(request):
    """The name of one engine; a test that takes it runs on both."""
    return request.param


@pytest.fixture
def make_machine(engine):
    """make_machine(geometry=SMALL_64, boot="1M", **): a Memory on this test's engine."""
    def make(geometry=SMALL_64, boot="1M", **given):
        return fo.Memory(geometry, boot=boot, engine=engine, **given)

    return make


def snapshot(mem):
    """All that a refused call must leave as it was: states, counters, texts, sections."""
    spans = mem.sections.spans()
    return {
        "states": [mem.page_states(start, nr).tobytes() for start, nr in spans],
        "spans": spans,
        "online": [mem.sections.online_section_nr(nr) for first, n in mem.sections.runs() for nr in range(first, first + n)],
        "buddyinfo": mem.buddyinfo(),
        "zoneinfo": mem.zoneinfo(),
        "nodes": [(nid, node.start_pfn, node.spanned_pages) for nid, node in mem.nodes.items()],
        "resources": list(mem.resources),
        "stats": {k: v for k, v in mem.stats().items() if k != "notifications"},
        "min_free_kbytes": mem.min_free_kbytes,
        "totals": (mem.totalram_pages, mem.totalhigh_pages),
    }


def shared(*parts):
    """A path under the ``shared`` directory beside the project; the test is skipped where there is none."""
    path = Path(__file__).resolve().parents[2].joinpath("shared", *parts)
    if not path.exists():
        pytest.skip(f"{Path('..', 'shared', *parts)} is not beside the project")
    return path


def by_zone(mem):
    """{name: Zone} of node 0."""
    return {zone.name: zone for zone in mem.nodes[0].zones}
