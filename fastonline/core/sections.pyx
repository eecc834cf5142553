cimport cython

import warnings
from operator import index

from libc.string cimport memset

from fastonline.core.bitmap cimport (
    bitmap_clear, bitmap_empty, bitmap_full, bitmap_set, find_next_zero_bit, ones_below, ones_from, read_only,
    test_bit,
)
from fastonline.core.bitmap import zeroed
from fastonline.core.buffer cimport data_of
from fastonline.core.numbers cimport as_number, as_range
from fastonline.core.runs cimport bit_runs
from fastonline.core.types cimport max_bits

from fastonline.errors import is_number

__all__ = ["Sections"]


@cython.no_gc      # no circle goes through it, and nothing may find it half taken apart
cdef class Sections:
    """The sections of a machine by number (mem_section of sparsemem): bit planes, one bit per section, and a subsection map.

    pfn_section_shift: log2 of the pages of a section; nr_sections: those there is room for. present, online, early: Bitmaps of
    SECTION_MARKED_PRESENT, SECTION_IS_ONLINE and SECTION_IS_EARLY; prepared, fully_prepared: of the sections that have
    prepared pages, and of those that have no others.
    subsection_order: log2 of the pages of a subsection, at least a 64th of a section, which None stands for; subsection_map:
    (nr_sections,) uint64, bit i: the i-th subsection of the section has memory (subsection_map_init, 5.3).
    TypeError, ValueError and OverflowError for numbers that are none, and for sections there is no room for. The sections of a
    machine are to be read: add, remove and set_online raise ValueError.
    """

    def __cinit__(self, pfn_section_shift, nr_sections, subsection_order=None):
        self.pfn_section_shift = as_number(pfn_section_shift, "pfn_section_shift", 0, 51)
        least = max(0, self.pfn_section_shift - 6)
        self.subsection_order = least if subsection_order is None else \
            as_number(subsection_order, "subsection_order", least, self.pfn_section_shift)
        self.present = Bitmap(0)
        self.online = Bitmap(0)
        self.early = Bitmap(0)
        self.prepared = Bitmap(0)
        self.fully_prepared = Bitmap(0)
        self.subsections_owner = zeroed(0)
        self.grow(as_number(nr_sections, "nr_sections", 0, max_bits() >> self.pfn_section_shift))

    cdef int grow(self, uint64_t nr_sections) except -1:
        cdef list all = [(0, self.nr_sections)] if self.nr_sections else []
        cdef tuple planes = (self.present, self.online, self.early, self.prepared, self.fully_prepared)
        # all room is made before any of it is used: a MemoryError changes nothing
        arrays = [(<Bitmap>plane).grown(nr_sections, all) for plane in planes]
        subsections = zeroed(nr_sections)
        subsections[: self.nr_sections] = self.subsections_owner
        for plane, array in zip(planes, arrays):
            (<Bitmap>plane).own(array, nr_sections)
        self.subsections_owner = subsections
        self.subsections = <word_t *>data_of(subsections)
        self.nr_sections = nr_sections
        return 0

    cdef uint64_t missing(self, pfn_t start, uint64_t nr) noexcept nogil:
        cdef uint64_t section = start >> self.pfn_section_shift, end = ((start + nr - 1) >> self.pfn_section_shift) + 1
        section = find_next_zero_bit(self.present.words, min(end, self.nr_sections), section)
        return section if section < end else <uint64_t>-1

    cdef bint all_in(self, Bitmap plane, pfn_t start, uint64_t nr) noexcept nogil:
        cdef uint64_t first = start >> self.pfn_section_shift
        return bitmap_full(plane.words, first, ((start + nr - 1) >> self.pfn_section_shift) + 1 - first)

    cdef bint none_in(self, Bitmap plane, pfn_t start, uint64_t nr) noexcept nogil:
        cdef uint64_t first = start >> self.pfn_section_shift
        return bitmap_empty(plane.words, first, ((start + nr - 1) >> self.pfn_section_shift) + 1 - first)

    @property
    def whole(self):
        """The old name of `fully_prepared`. It warns with DeprecationWarning. The next release drops it."""
        warnings.warn("Sections.whole is now fully_prepared", DeprecationWarning, stacklevel=1)
        return self.fully_prepared

    def __repr__(self):
        return f"<Sections present={self.present.weight()} online={self.online.weight()} early={self.early.weight()}>"

    @property
    def subsection_map(self):
        """(nr_sections,) uint64, read-only; bit i: the i-th subsection of the section has memory."""
        return read_only(self.subsections_owner)

    cdef uint64_t all_subsections(self) noexcept nogil:
        """Return the map of a section with all of its subsections."""
        return ones_below(<uint64_t>1 << (self.pfn_section_shift - self.subsection_order))

    @property
    def pages_per_section(self):
        """PAGES_PER_SECTION: pages of one section."""
        return 1 << self.pfn_section_shift

    cdef void sparse_add_section(self, pfn_t start, uint64_t nr, bint early) noexcept nogil:
        cdef int shift = self.pfn_section_shift, granule = self.subsection_order
        cdef uint64_t first = start >> shift, count = ((start + nr - 1) >> shift) + 1 - first, section, base
        for section in range(first, first + count):
            base = section << shift
            self.subsections[section] |= ones_from((max(start, base) - base) >> granule) & ones_below(
                ((min(start + nr, base + (<uint64_t>1 << shift)) - 1 - base) >> granule) + 1)
        bitmap_set(self.present.words, first, count)
        if early:
            bitmap_set(self.early.words, first, count)
            self.set_online_sections(first, count, True)

    cdef void sparse_remove_section(self, uint64_t first, uint64_t nr) noexcept nogil:
        bitmap_clear(self.present.words, first, nr)
        bitmap_clear(self.early.words, first, nr)
        self.set_online_sections(first, nr, False)
        memset(&self.subsections[first], 0, nr * sizeof(word_t))

    cdef void set_online_sections(self, uint64_t first, uint64_t nr, bint online) noexcept nogil:
        if online:
            bitmap_set(self.online.words, first, nr)
        else:
            bitmap_clear(self.online.words, first, nr)

    cdef void seal(self):
        """Make the sections read-only for Python."""
        self.sealed = True
        for plane in (self.present, self.online, self.early, self.prepared, self.fully_prepared):
            (<Bitmap>plane).sealed = True

    cdef int check_writable(self) except -1:
        if self.sealed:
            raise ValueError("these sections are part of a machine, and read-only")
        return 0

    def add(self, start_pfn, nr_pages, early=False):
        """Make the sections and subsections of the range start_pfn, nr_pages present (sparse_add_section). early: as at boot
        (sparse_init), and online at once."""
        cdef uint64_t first, count
        as_range(start_pfn, nr_pages, self.nr_sections << self.pfn_section_shift, "pages", ValueError, &first, &count)
        self.check_writable()
        if count:
            self.sparse_add_section(first, count, early)

    def remove(self, first, nr):
        """Remove `nr` sections from number `first` on (sparse_remove_section)."""
        cdef uint64_t start, count
        as_range(first, nr, self.nr_sections, "sections", ValueError, &start, &count)
        self.check_writable()
        if count:
            self.sparse_remove_section(start, count)

    def set_online(self, first, nr, online):
        """Set whether `nr` sections from number `first` on are `online` (online_mem_sections, offline_mem_sections)."""
        cdef uint64_t start, count
        as_range(first, nr, self.nr_sections, "sections", ValueError, &start, &count)
        self.check_writable()
        self.set_online_sections(start, count, online)

    def __len__(self):
        return self.nr_sections

    cdef bint has(self, Bitmap plane, nr) except -1:
        nr = as_section_nr(nr)
        return 0 <= nr < self.nr_sections and test_bit(plane.words, nr)

    def present_section_nr(self, nr):
        """Return whether section `nr` is present."""
        return self.has(self.present, nr)

    def valid_section_nr(self, nr):
        """Return whether section `nr` has page descriptors. Here every present section has."""
        return self.present_section_nr(nr)

    def online_section_nr(self, nr):
        """Return whether section `nr` is online."""
        return self.has(self.online, nr)

    def early_section_nr(self, nr):
        """Return whether section `nr` was present at boot."""
        return self.has(self.early, nr)

    def partial_section_nr(self, nr):
        """Return whether only a part of section `nr` is present."""
        nr = as_section_nr(nr)
        return self.has(self.present, nr) and self.subsections[<uint64_t>nr] != self.all_subsections()

    def missing_runs(self, first, nr):
        """Return the absent ones of `nr` sections from number `first` on: a list of (first number, how many)."""
        cdef uint64_t at, count
        as_range(first, nr, self.nr_sections, "sections", ValueError, &at, &count)
        return bit_runs(self.present.words, at, at + count, False)

    def runs(self):
        """Return the present sections: a list of (first number, how many)."""
        return bit_runs(self.present.words, 0, self.nr_sections, True)

    def spans(self):
        """Return the present sections: a list of (start_pfn, nr_pages)."""
        return [(nr << self.pfn_section_shift, count << self.pfn_section_shift) for nr, count in self.runs()]


cdef object as_section_nr(object nr):
    """A number as a Python int, which may be one that no section has."""
    if not is_number(nr):
        raise TypeError(f"a section number must be an int, not {nr!r}")
    return index(nr)
