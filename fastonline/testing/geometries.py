"""Small machines that a slow reference can keep up with."""

from dataclasses import replace

from fastonline.geometry import ARM64_64K, X86_32_PAE, X86_64

# Sections of 256 pages and blocks of at most 64, so that a plain Python reference keeps up.
SMALL_64 = replace(
    X86_64, name="SMALL_64", section_size_bits=20, max_physmem_bits=24, max_page_order=6, pageblock_order=5,
    zone_limits=(("DMA", 1 << 18), ("DMA32", 1 << 20), ("Normal", None)), subsection_shift=17,
)
SMALL_PAE = replace(
    X86_32_PAE, name="SMALL_PAE", section_size_bits=20, max_physmem_bits=24, max_page_order=6, pageblock_order=5,
    zone_limits=(("DMA", 1 << 18), ("Normal", 3 << 18), ("HighMem", None)),
)
# 64 KiB pages, 512 MiB blocks: one section is one block of order 13.
SMALL_64K = replace(ARM64_64K, name="SMALL_64K", max_physmem_bits=31)
# Buddy blocks of two pageblocks, a section of four blocks: zones meet in the middle of things.
SMALL_ORDER_7 = replace(
    SMALL_64, name="SMALL_ORDER_7", section_size_bits=21, max_physmem_bits=25, max_page_order=7, pageblock_order=6,
    zone_limits=(("DMA", 1 << 19), ("DMA32", 1 << 21), ("Normal", None)),
)
# Zones meet inside a block of the largest order, inside a pageblock, and at an odd page.
SMALL_BORDERS = replace(
    SMALL_ORDER_7, name="SMALL_BORDERS", zone_limits=(("DMA", 37 << 12), ("DMA32", 100 << 12), ("Normal", None)),
)
SMALL_BORDERS_PAE = replace(
    SMALL_PAE, name="SMALL_BORDERS_PAE", zone_limits=(("DMA", 1 << 18), ("Normal", 222 << 12), ("HighMem", None)),
)
# Guests of drivers: sections of 16 MiB, so that a step of a state machine is cheap.
GUEST_64 = replace(X86_64, name="GUEST_64", section_size_bits=24)
GUEST_PAE = replace(
    X86_32_PAE, name="GUEST_PAE", section_size_bits=24, sections_in_flags=False, flags_reserved=32,
    zone_limits=(("DMA", 4 << 20), ("Normal", 16 << 20), ("HighMem", None)),
)
