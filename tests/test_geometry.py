"""geometry.py: the thread's figures, and illegal geometries refused with the kernel's reason (4.2, 4.3, 4.4)."""

from dataclasses import fields, replace

import numpy as np
import pytest

import fastonline as fo
from fastonline.geometry import PRESETS, as_geometry, by_name, format_size


def test_the_threads_figures():
    """Dave Hansen's "~500k of overhead with 1MB sections" is exact for a flat table under PAE. Expect 512 KiB."""
    pae = fo.X86_32_PAE
    assert pae.section_table_bytes("1M") == 512 << 10
    assert pae.section_table_bytes("4M") == 128 << 10
    assert pae.section_table_bytes() == 128 * 8
    assert replace(fo.X86_64, max_physmem_bits=40).section_table_bytes("1M") == 16 << 20
    assert pae.smallest_section_size_bits == 29
    assert (pae.sections_width, pae.zones_width, pae.flags_reserved) == (7, 2, 9)
    assert pae.pages_per_section == 131072
    assert pae.memmap_bytes(32) == 4 << 20
    assert pae.usemap_bytes() == 96
    assert fo.X86_64.memmap_bytes(56) == 1792 << 10
    assert fo.X86_64.memmap_bytes(64) == 2 << 20
    assert fo.X86_64.usemap_bytes() == 24
    assert fo.X86_64.nr_mem_sections == 1 << 19
    assert fo.X86_64.pages_per_subsection == 512
    assert replace(fo.X86_64, section_size_bits=22).smallest_section_size_bits == 22     # 4 MiB: MAX_PAGE_ORDER + PAGE_SHIFT


@pytest.mark.parametrize("geometry, section, order, pageblock", [
    (fo.X86_32_PAE, "512M", 10, 9), (fo.X86_64, "128M", 10, 9), (fo.ARM64_4K, "128M", 10, 9), (fo.ARM64_64K, "512M", 13, 13),
    (fo.S390X, "256M", 8, 8),
], ids=lambda value: getattr(value, "name", None))
def test_presets(geometry, section, order, pageblock):
    assert PRESETS[geometry.name] is geometry
    assert format_size(geometry.section_size) == section
    assert (geometry.max_page_order, geometry.pageblock_order) == (order, pageblock)
    assert geometry.page_size * geometry.pages_per_section == geometry.section_size
    assert geometry.max_pfn == geometry.nr_mem_sections * geometry.pages_per_section


ILLEGAL = [
    (
        fo.X86_32_PAE,
        {"section_size_bits": 28},
        "8 section bits .* FLAGS_RESERVED|FLAGS_RESERVED.*8 section bits",
        "PAE below 512 MiB",
    ),
    (fo.X86_32_PAE, {"section_size_bits": 20}, "MAX_ORDER exceeds SECTION_SIZE", "1 MiB sections"),
    (fo.X86_64, {"section_size_bits": 21}, "Allocator MAX_ORDER exceeds SECTION_SIZE", "2 MiB sections"),
    (fo.X86_64, {"section_size_bits": 21}, "at least 22", "the minimum is 4 MiB"),
    (fo.X86_64, {"max_page_order": 16}, "max_page_order 16", "a buddy order past 13"),
    (fo.X86_64, {"max_page_order": 5}, "max_page_order 5", "a buddy order below a word"),
    (fo.X86_64, {"section_size_bits": 22, "pageblock_order": 11}, "pageblock", "a pageblock larger than a section"),
    (fo.X86_64, {"section_size_bits": 47}, "larger than memory", "a section larger than memory"),
    (fo.X86_64, {"zone_limits": (("DMA", 12345), ("Normal", None))}, "0x3039", "a zone that ends inside a block"),
    (fo.X86_64, {"hotplug_zone": "HighMem"}, "HighMem", "no such hotplug zone"),
    (fo.X86_64, {"zone_limits": (("a\n", None),)}, r"zone name 'a\\n' is not a word", "a zone of two lines"),
    (fo.X86_64, {"name": "a\n"}, r"name 'a\\n' of a geometry cannot be printed", "a name of two lines"),
]


@pytest.mark.parametrize("geometry, change, reason, what", ILLEGAL, ids=[case[3] for case in ILLEGAL])
def test_illegal_geometries(geometry, change, reason, what):
    with pytest.raises(ValueError, match=reason):
        replace(geometry, **change)


def test_29_bits_is_the_limit_and_compiles():
    assert replace(fo.X86_32_PAE, section_size_bits=29).sections_width == 7
    with pytest.raises(ValueError, match="at least 29"):
        replace(fo.X86_32_PAE, section_size_bits=28)


@pytest.mark.parametrize(
    "size, expected",
    [
        ("512M", 512 << 20),
        ("1G", 1 << 30),
        ("4096", 4096),
        (4096, 4096),
        ("8k", 8192),
        (" 2 T".replace(" ", ""), 2 << 40),
        ("1GiB", 1 << 30),
        ("64MB", 64 << 20),
        ("0", 0),
        ("3P", 3 << 50),
    ],
)
def test_sizes(size, expected):
    assert fo.parse_size(size) == expected
    assert fo.parse_size(format_size(expected)) == expected


@pytest.mark.parametrize(
    "size, expected",
    [
        ("", ValueError),
        ("M", ValueError),
        ("1.3", ValueError),
        ("-1", ValueError),
        ("1X", ValueError),
        ("١", ValueError),
        (-1, ValueError),
        (1.0, TypeError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_sizes_that_are_none(size, expected):
    with pytest.raises(expected):
        fo.parse_size(size)


@pytest.mark.parametrize("size", [0, 3, "3M", 1 << 37, -1])
def test_section_tables_that_are_none(size):
    with pytest.raises(ValueError):
        fo.X86_32_PAE.section_table_bytes(size)


@pytest.mark.parametrize(
    ("geometry", "page", "section", "largest", "pageblock"),
    [
        (fo.ARM64_16K, "16K", "128M", "32M", "32M"),
        (fo.PPC64LE_64K, "64K", "16M", "16M", "2M"),
        (fo.RISCV64, "4K", "128M", "4M", "2M"),
        (fo.LOONGARCH64_16K, "16K", "512M", "32M", "32M"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_other_architectures(engine, geometry, page, section, largest, pageblock):
    """What arch/*/Kconfig and sparsemem.h say. Expect those sizes, and a block that comes, goes online and leaves."""
    assert geometry.page_size == fo.parse_size(page) and geometry.section_size == fo.parse_size(section)
    assert geometry.page_size << geometry.max_page_order == fo.parse_size(largest)
    assert geometry.page_size << geometry.pageblock_order == fo.parse_size(pageblock)
    mem = fo.Memory(geometry, "1G", engine=engine)
    start, nr = fo.parse_size("4G") // geometry.page_size, mem.pages_per_block
    mem.add_memory(start, nr)
    assert mem.online_pages(start, nr) == nr
    mem.validate()
    mem.offline_pages(start, nr)
    mem.remove_memory(start, nr)
    mem.validate()


@pytest.mark.parametrize("name", ["X86_64", "x86_64", "x86-64", " X86_64 "])
def test_presets_by_name_as_typed(name):
    assert by_name(name) is fo.X86_64 is fo.Memory(name).geometry
    assert by_name("ARM64-64K") is by_name("arm64_64k") is fo.ARM64_64K


def test_unknown_names_get_the_nearest():
    with pytest.raises(ValueError, match=r"^invalid geometry 'x86_46' \(expected X86_32_PAE, .*\); did you mean 'X86_64'\?$"):
        by_name("x86_46")
    with pytest.raises(ValueError, match=r"^invalid geometry 'VAX' \(expected X86_32_PAE, .*\)$"):
        fo.Memory("VAX")
    with pytest.raises(TypeError, match="text such as"):
        by_name(64)


# Every field of a geometry changed alone, and what that is seen by. Where the kernel would not compile the other value it is
# refused, which is the field's effect.

def boot(geometry, engine):
    """A machine of 48 MiB that has a section more, which is online, and its memmap in the kernel's pages."""
    mem = fo.Memory(geometry, boot="48M", engine=engine, memmap="kernel")
    mem.add_memory((1 << 34) // geometry.page_size, geometry.pages_per_section)
    mem.online_pages((1 << 34) // geometry.page_size, geometry.pages_per_section)
    mem.validate()
    return mem


EFFECTS = {
    "name": ("another", repr),
    "bits": (32, lambda mem: sum(nr for pieces in mem.memmaps.values() for _, nr in pieces)),
    "page_shift": (13, lambda mem: mem.totalram_pages),
    "section_size_bits": (26, lambda mem: mem.pages_per_block),
    "max_physmem_bits": (40, lambda mem: mem.max_pfn),
    "max_page_order": (9, lambda mem: len(mem.buddyinfo().splitlines()[0].split())),
    "pageblock_order": (8, lambda mem: mem.pagetypeinfo().splitlines()[0]),
    "zone_limits": ((("DMA", 8 << 20), ("DMA32", 4 << 30), ("Normal", None)), lambda mem: mem.zones["DMA"].managed_pages),
    "hotplug_zone": ("DMA32", lambda mem: mem.zone_of((1 << 34) // 4096).name),
    "flags_reserved": (1, None),
    "sections_in_flags": (True, lambda mem: mem.geometry.sections_width),
    "subsection_shift": (23, lambda mem: int(mem.sections.subsection_map[0])),
}


@pytest.mark.parametrize("name", [field.name for field in fields(fo.Geometry)])
def test_each_field_has_an_effect(engine, name):
    """Expect what the field is seen by to be another value than with X86_64."""
    value, seen_by = EFFECTS[name]
    if seen_by is None:
        with pytest.raises(ValueError, match="FLAGS_RESERVED"):
            replace(fo.X86_64, **{name: value})
        return
    other = replace(fo.X86_64, **{name: value})
    assert seen_by(boot(fo.X86_64, engine)) != seen_by(boot(other, engine))


@pytest.mark.parametrize("shift, bits", [(12, 64), (21, 64), (22, 32), (26, 2), (27, 1), (30, 1)])
def test_subsections(engine, shift, bits):
    """Sections of 128 MiB with subsections of 4 KiB (a 64th is the least), 2 MiB, 4 MiB... 1 GiB (a section is the most), and
    64 MiB at boot, half of a section. Expect a bit for each subsection that has memory, and added sections to be whole."""
    geometry = replace(fo.X86_64, subsection_shift=shift)
    mem = fo.Memory(geometry, boot="64M", engine=engine)
    assert geometry.pages_per_subsection == 32768 // bits
    assert int(mem.sections.subsection_map[0]) == (1 << -(-bits // 2)) - 1
    assert mem.sections.partial_section_nr(0) == (bits > 1)
    mem.add_memory(32 * 32768, 32768)
    assert int(mem.sections.subsection_map[32]) == (1 << bits) - 1 and not mem.sections.partial_section_nr(32)
    again = mem.copy()
    assert np.array_equal(again.sections.subsection_map, mem.sections.subsection_map)
    assert not again.sections.partial_section_nr(32)


def test_a_geometry_or_its_name():
    assert as_geometry(fo.X86_64) is fo.X86_64 and as_geometry("x86_64") is fo.X86_64
    with pytest.raises(TypeError, match="or its name, not 64"):
        as_geometry(64)
