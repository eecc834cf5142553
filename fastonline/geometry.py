"""What a machine looks like before it has any memory: page and section size, zones, the width of page->flags.

Facts: include/linux/mmzone.h, include/linux/page-flags-layout.h and each architecture's sparsemem.h, 2.6.25 to 6.18.
"""

import re
from dataclasses import dataclass, replace
from typing import SupportsIndex

from fastonline.errors import invalid_name

MAX_BOOT_ZONES = 4
"""Zones that a kernel has below Movable (enum zone_type)."""

_SUFFIXES = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}
# The re module compiles it when it is needed first.
_SIZE = (
    r"(?a)\s*(?:0[xX](?P<hex>[0-9a-fA-F]+)|(?P<number>[0-9]+(?:\.[0-9]+(?=\s*[KMGTPkmgtp]))?))"
    r"\s*(?:(?P<suffix>[KMGTPkmgtp])[iI]?)?[bB]?\s*"
)


def parse_size(size: SupportsIndex | str, unit: int = 1) -> int:
    """Return the bytes of a size, a multiple of `unit` bytes.

    size: an int, or text as people type it:

    - ``"536870912"``, ``"0x20000000"``: bytes, decimal or hexadecimal.
    - ``"512M"``, ``"512m"``, ``"512MB"``, ``"512MiB"``, ``"512 MiB"``, ``"1653817 kB"``: K, M, G, T and P are powers of 1024,
      as in the kernel's memparse; "B" and "iB" change nothing.
    - ``"1.5G"``, ``"1.1G"``: a decimal fraction is rounded down to whole units.

    unit: bytes, such as those of a page. TypeError if `size` is neither an int nor text; ValueError if it is negative, not a
    size, or, without a fraction, not a multiple of `unit`.
    """
    if isinstance(size, str):
        nr_bytes, is_rounded = _parse_text(size)
        if is_rounded:
            return nr_bytes - nr_bytes % unit
    elif isinstance(size, bool) or not hasattr(size, "__index__"):
        raise TypeError(f"invalid size {size!r:.80} (expected an int, or text such as '512M')")
    else:
        nr_bytes = size.__index__()
    if nr_bytes < 0:
        raise ValueError(f"invalid size {nr_bytes} (expected 0 or more)")
    if nr_bytes % unit:
        raise ValueError(f"invalid size {size!r} (expected a multiple of {format_size(unit)})")
    return nr_bytes


def _parse_text(size: str) -> tuple[int, bool]:
    """(bytes, has it a decimal fraction?) of the text of a size."""
    found = re.fullmatch(_SIZE, size) if len(size) <= 64 else None
    if found is None:
        raise ValueError(f"invalid size {size!r:.80} (expected bytes, or a number with K, M, G, T or P, such as '512M')")
    number = found["hex"] or found["number"]
    shift = _SUFFIXES[(found["suffix"] or "").upper()]
    if found["hex"]:
        return int(number, 16) << shift, False
    whole, point, decimals = number.partition(".")
    return (int(whole + decimals) << shift) // 10 ** len(decimals), point == "."


def pages_of_size(size: SupportsIndex | str, page_size: int, what: str) -> int:
    """Return the pages of `page_size` bytes in a size (as parse_size takes it). what: what the size is of, for the message.

    TypeError or ValueError as parse_size, also for a size that is not whole pages.
    """
    try:
        return parse_size(size, page_size) // page_size
    except (TypeError, ValueError) as e:
        raise type(e)(f"{what}: {e}") from None


def format_size(size: int) -> str:
    """Return the shortest exact text of a size: 536870912 -> ``"512M"``."""
    for suffix in "PTGMK":
        if size and size % (1 << _SUFFIXES[suffix]) == 0:
            return f"{size >> _SUFFIXES[suffix]}{suffix}"
    return str(size)


# A page is at least as large as any kernel's, so that a zone's kilobytes are no fraction of its pages; addresses fit 64 bits.
_BOUNDS = {
    "bits": (32, 64),
    "page_shift": (12, 18),
    "section_size_bits": (12, 63),
    "max_physmem_bits": (12, 64),
    "max_page_order": (6, 13),
    "pageblock_order": (0, 51),
    "flags_reserved": (0, 64),
    "subsection_shift": (0, 63),
}


@dataclass(frozen=True, repr=False)
class Geometry:
    """The layout of a machine's physical memory. Use a preset, or change one with ``dataclasses.replace``. A layout that the
    kernel would not compile raises ValueError with the kernel's reason.

    - name: for messages, and of the preset: printable text.
    - bits: 32 or 64: the width of the kernel's long.
    - page_shift: log2 of the bytes of a page (PAGE_SHIFT).
    - section_size_bits: SECTION_SIZE_BITS: log2 of the bytes of a section.
    - max_physmem_bits: MAX_PHYSMEM_BITS: log2 of the bytes that memory can have at most.
    - max_page_order: MAX_PAGE_ORDER, inclusive: the largest buddy block has 2^max_page_order pages.
    - pageblock_order: log2 of the pages of a pageblock.
    - zone_limits: boot zones in ascending order with the address at which each ends, whole pages; None: it goes on to the end.
      Their names are words, as in /proc/buddyinfo.
    - hotplug_zone: the kernel zone hot-added memory goes to (x86_32: HighMem, arch/x86/mm/init_32.c of 2.6.25; else Normal).
    - flags_reserved: bits of page->flags for section, node and zone (2.6.25: 9 of 32, 32 of 64).
    - sections_in_flags: Classic sparsemem keeps the section number in page->flags; vmemmap (308c05e35e3) does not.
    - subsection_shift: SUBSECTION_SHIFT: log2 of the bytes of a subsection, the granule in which sections.subsection_map says
      what of an early section is memory (5.3). At least a 64th of a section here.
    """

    name: str
    bits: int
    page_shift: int
    section_size_bits: int
    max_physmem_bits: int
    max_page_order: int
    pageblock_order: int
    zone_limits: tuple[tuple[str, int | None], ...]
    hotplug_zone: str
    flags_reserved: int = 32
    sections_in_flags: bool = False
    subsection_shift: int = 21

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"the name of a geometry must be text, not {self.name!r:.80}")
        if not self.name.isprintable():
            raise ValueError(f"the name {self.name!r:.80} of a geometry cannot be printed")
        for name, (lowest, highest) in _BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{self.name}: {name} must be an int, not {value!r}")
            if not lowest <= value <= highest:
                raise ValueError(f"{self.name}: {name} {value} is not between {lowest} and {highest}")
        self._check_zones()
        if self.max_page_order + self.page_shift > self.section_size_bits:
            raise ValueError(
                f"{self.name}: Allocator MAX_ORDER exceeds SECTION_SIZE: a buddy block of "
                f"{format_size(1 << self.max_page_order + self.page_shift)} (order {self.max_page_order}) does not fit into a "
                f"section of {format_size(1 << self.section_size_bits)}; section_size_bits must be at least "
                f"{self.max_page_order + self.page_shift}"
            )
        if self.pfn_section_shift < self.pageblock_order:
            raise ValueError(
                f"{self.name}: a pageblock (order {self.pageblock_order}) does not fit into a section of "
                f"{format_size(1 << self.section_size_bits)}"
            )
        if self.section_size_bits > self.max_physmem_bits:
            raise ValueError(
                f"{self.name}: a section of 2^{self.section_size_bits} bytes is larger than memory can be "
                f"(2^{self.max_physmem_bits} bytes)"
            )
        if self.sections_width + self.zones_width > self.flags_reserved:
            raise ValueError(
                f"{self.name}: SECTIONS_WIDTH+NODES_WIDTH+ZONES_WIDTH > FLAGS_RESERVED: {self.sections_width} section bits and "
                f"{self.zones_width} zone bits do not fit into the {self.flags_reserved} bits that page->flags has for them; "
                f"section_size_bits must be at least {self.smallest_section_size_bits}"
            )
        for zone, limit in self.zone_limits:
            if limit is not None and limit % self.page_size:
                raise ValueError(f"{self.name}: zone {zone} ends at {limit:#x}, inside a page of {format_size(self.page_size)}")

    def _check_zones(self) -> None:
        names: list[str] = []
        last: int | None = 0
        for zone, limit in self.zone_limits:
            if not isinstance(zone, str) or limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
                raise TypeError(f"{self.name}: a zone limit must be (name, bytes or None), not {(zone, limit)!r}")
            if not zone.isidentifier():
                raise ValueError(f"{self.name}: the zone name {zone!r:.80} is not a word")
            if zone in names or zone in ("Movable", "Device"):
                raise ValueError(f"{self.name}: zone {zone} is given twice")
            if last is None or limit is not None and not last <= limit < 1 << 64:
                raise ValueError(f"{self.name}: zone {zone} does not end above the zone before it")
            names.append(zone)
            last = limit
        if not 1 <= len(names) <= MAX_BOOT_ZONES:
            raise ValueError(f"{self.name}: {len(names)} boot zones, not 1 to {MAX_BOOT_ZONES}: DMA, DMA32, Normal and HighMem")
        if self.hotplug_zone not in names:
            raise ValueError(f"{self.name}: hotplug_zone {self.hotplug_zone!r} is not in zone_limits")

    def __repr__(self) -> str:
        # on one line: help() shows it as the default of arguments
        return f"<Geometry {self.name} page={format_size(self.page_size)} section={format_size(self.section_size)}>"

    @property
    def page_size(self) -> int:
        """Bytes of one page."""
        return 1 << self.page_shift

    @property
    def section_size(self) -> int:
        """Bytes of one section."""
        return 1 << self.section_size_bits

    @property
    def pfn_section_shift(self) -> int:
        """PFN_SECTION_SHIFT: log2 of the pages of one section."""
        return self.section_size_bits - self.page_shift

    @property
    def pages_per_section(self) -> int:
        """PAGES_PER_SECTION."""
        return 1 << self.pfn_section_shift

    @property
    def pages_per_subsection(self) -> int:
        """PAGES_PER_SUBSECTION: the granule in which an early section may be partial (2 MiB; at least a 64th of a section)."""
        return 1 << self.subsection_order

    @property
    def subsection_order(self) -> int:
        """log2 of PAGES_PER_SUBSECTION."""
        return min(max(self.subsection_shift - self.page_shift, self.pfn_section_shift - 6, 0), self.pfn_section_shift)

    @property
    def max_pfn(self) -> int:
        """Page frames that fit below 2^max_physmem_bits."""
        return 1 << self.max_physmem_bits - self.page_shift

    @property
    def nr_mem_sections(self) -> int:
        """NR_MEM_SECTIONS."""
        return 1 << self.max_physmem_bits - self.section_size_bits

    @property
    def zone_borders(self) -> tuple[int, ...]:
        """The first pfns of boot zones that begin inside a block of the largest order, ascending. Free pages do not merge
        across them (page_is_buddy compares page_zone_id, mm/page_alloc.c)."""
        starts = {limit >> self.page_shift for _, limit in self.zone_limits if limit is not None}
        return tuple(sorted(pfn for pfn in starts if pfn % (1 << self.max_page_order)))

    @property
    def zones_width(self) -> int:
        """ZONES_WIDTH: two bits for up to four zones (2.6.25: ZONES_SHIFT = 2 on both x86)."""
        return 2

    @property
    def sections_width(self) -> int:
        """SECTIONS_WIDTH: bits of page->flags for the section number."""
        return self.max_physmem_bits - self.section_size_bits if self.sections_in_flags else 0

    @property
    def smallest_section_size_bits(self) -> int:
        """The smallest SECTION_SIZE_BITS that would compile: 29 under PAE (7 section + 2 zone bits of 9), KERNEL.md 4.2."""
        by_flags = self.max_physmem_bits - (self.flags_reserved - self.zones_width) if self.sections_in_flags else 0
        return max(by_flags, self.max_page_order + self.page_shift, self.pageblock_order + self.page_shift)

    def section_table_bytes(self, section_size: SupportsIndex | str | None = None) -> int:
        """Bytes of the flat mem_section table (two words an entry) for sections of `section_size` (default: this geometry's).

        Dave Hansen's "~500k of overhead with 1MB sections" of the thread: ``X86_32_PAE.section_table_bytes("1M") == 524288``,
        which says nothing of whether such a kernel would compile.
        """
        size = self.section_size if section_size is None else parse_size(section_size)
        if size <= 0 or size & size - 1 or size > 1 << self.max_physmem_bits:
            raise ValueError(
                f"a section must be a power of two of at most {format_size(1 << self.max_physmem_bits)}, not {size} bytes"
            )
        return ((1 << self.max_physmem_bits) // size) * 2 * (self.bits // 8)

    def memmap_bytes(self, struct_page_bytes: int) -> int:
        """Bytes of the page descriptors of one section. struct_page_bytes: of one, see Rules.struct_page_bytes."""
        return self.pages_per_section * struct_page_bytes

    def usemap_bytes(self) -> int:
        """Bytes of one section's pageblock flags (2.6.25: 3 bits a pageblock, rounded up to a long)."""
        bits = 3 << self.pfn_section_shift - self.pageblock_order
        return -(-bits // self.bits) * (self.bits // 8)


X86_32_PAE = Geometry(
    name="X86_32_PAE",
    bits=32,
    page_shift=12,
    section_size_bits=29,
    max_physmem_bits=36,
    max_page_order=10,
    pageblock_order=9,
    zone_limits=(("DMA", 16 << 20), ("Normal", 896 << 20), ("HighMem", None)),
    hotplug_zone="HighMem",
    flags_reserved=9,
    sections_in_flags=True,
)

X86_64 = Geometry(
    name="X86_64",
    bits=64,
    page_shift=12,
    section_size_bits=27,
    max_physmem_bits=46,
    max_page_order=10,
    pageblock_order=9,
    zone_limits=(("DMA", 16 << 20), ("DMA32", 4 << 30), ("Normal", None)),
    hotplug_zone="Normal",
)

ARM64_4K = Geometry(
    name="ARM64_4K",
    bits=64,
    page_shift=12,
    section_size_bits=27,
    max_physmem_bits=48,
    max_page_order=10,
    pageblock_order=9,
    zone_limits=(("DMA", 4 << 30), ("DMA32", 4 << 30), ("Normal", None)),
    hotplug_zone="Normal",
)

ARM64_64K = replace(
    ARM64_4K, name="ARM64_64K", page_shift=16, section_size_bits=29, max_page_order=13, pageblock_order=13
)

# arch/arm64/Kconfig: ARCH_FORCE_MAX_ORDER 11; a PMD of 16 KiB pages maps 32 MiB (6.14)
ARM64_16K = replace(ARM64_4K, name="ARM64_16K", page_shift=14, max_page_order=11, pageblock_order=11)

S390X = Geometry(
    name="S390X",
    bits=64,
    page_shift=12,
    section_size_bits=28,
    max_physmem_bits=46,
    max_page_order=8,
    pageblock_order=8,
    zone_limits=(("DMA", 2 << 30), ("Normal", None)),
    hotplug_zone="Normal",
)

# arch/powerpc: SECTION_SIZE_BITS 24 (sparsemem.h), H_MAX_PHYSMEM_BITS 51 (book3s/64/hash-64k.h), ARCH_FORCE_MAX_ORDER 8
# (Kconfig, 6.14); huge pages of the radix MMU have 2 MiB; Book3S has no ZONE_DMA
PPC64LE_64K = Geometry(
    name="PPC64LE_64K",
    bits=64,
    page_shift=16,
    section_size_bits=24,
    max_physmem_bits=51,
    max_page_order=8,
    pageblock_order=5,
    zone_limits=(("Normal", None),),
    hotplug_zone="Normal",
)

# arch/riscv/include/asm/sparsemem.h (6.18)
RISCV64 = Geometry(
    name="RISCV64",
    bits=64,
    page_shift=12,
    section_size_bits=27,
    max_physmem_bits=56,
    max_page_order=10,
    pageblock_order=9,
    zone_limits=(("DMA32", 4 << 30), ("Normal", None)),
    hotplug_zone="Normal",
)

# arch/loongarch/include/asm/sparsemem.h (6.18), ARCH_FORCE_MAX_ORDER 11 of arch/loongarch/Kconfig; a PMD maps 32 MiB
LOONGARCH64_16K = Geometry(
    name="LOONGARCH64_16K",
    bits=64,
    page_shift=14,
    section_size_bits=29,
    max_physmem_bits=48,
    max_page_order=11,
    pageblock_order=11,
    zone_limits=(("DMA32", 4 << 30), ("Normal", None)),
    hotplug_zone="Normal",
)

PRESETS = {
    geometry.name: geometry
    for geometry in (X86_32_PAE, X86_64, ARM64_4K, ARM64_16K, ARM64_64K, S390X, PPC64LE_64K, RISCV64, LOONGARCH64_16K)
}


def by_name(name: str) -> Geometry:
    """Return the preset called `name`. Upper and lower case are alike, and so are "-", "." and "_": "x86_64", "ARM64-64K".

    TypeError if `name` is not text, ValueError if there is no such preset.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a geometry is text such as 'X86_64', not {name!r:.80}")
    geometry = PRESETS.get(re.sub(r"[-. ]", "_", name.strip()).upper())
    if geometry is None:
        raise invalid_name("geometry", name, PRESETS)
    return geometry


def as_geometry(geometry: Geometry | str) -> Geometry:
    """Return `geometry`, or the preset that it names. TypeError for anything else, ValueError for an unknown name."""
    found = by_name(geometry) if isinstance(geometry, str) else geometry
    if not isinstance(found, Geometry):
        raise TypeError(f"geometry is a Geometry such as fastonline.X86_64 or its name, not {geometry!r}")
    return found


_LOW_MEMORY, _LOW_MEMORY_SPLIT = 0xE0000000, 0xC0000000
_FIRMWARE = 128 << 10


def x86_boot_ranges(size: SupportsIndex | str) -> list[tuple[int, int]]:
    """Return the boot memory of an x86-64 guest of `size`, as QEMU's machine "pc" and SeaBIOS lay it out.

    The result is a list of (start_pfn, nr_pages), for the `boot` of Memory. It leaves out page 0, the hole from 636 KiB to
    1 MiB and the last 128 KiB of low memory. A guest of more than 3.5 GiB has 3 GiB low and the rest from 4 GiB on (pc_init1,
    hw/i386/pc_piix.c).

    ValueError for less than 2 MiB, or a size that is not whole pages.
    """
    nr_bytes = parse_size(size)
    if nr_bytes < 2 << 20 or nr_bytes % 4096:
        raise ValueError(f"invalid size {size!r} of a guest (expected whole pages, at least 2M)")
    low = nr_bytes if nr_bytes < _LOW_MEMORY else _LOW_MEMORY_SPLIT
    ranges = [(1, 0x9E), (0x100, (low - _FIRMWARE >> 12) - 0x100)]
    return ranges + ([(1 << 20, nr_bytes - low >> 12)] if nr_bytes > low else [])
