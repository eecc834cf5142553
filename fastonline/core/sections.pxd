"""Sparsemem's sections: which are there, which are online, which are early, and which are only partly there."""

from fastonline.core.bitmap cimport Bitmap, test_bit
from fastonline.core.types cimport pfn_t, uint64_t, word_t


cdef class Sections:
    cdef readonly int pfn_section_shift
    """log2 of the pages of a section."""
    cdef readonly int subsection_order
    """log2 of the pages of a subsection."""
    cdef readonly uint64_t nr_sections
    """Sections there is room for."""
    cdef readonly Bitmap present
    """Bitmap: the section is there (SECTION_MARKED_PRESENT)."""
    cdef readonly Bitmap online
    """Bitmap: the section is online (SECTION_IS_ONLINE)."""
    cdef readonly Bitmap early
    """Bitmap: the section was there at boot (SECTION_IS_EARLY)."""
    cdef readonly Bitmap prepared
    """Bitmap: some of the section's pages are prepared."""
    cdef readonly Bitmap fully_prepared
    """Bitmap: all of the section's pages are prepared."""
    cdef object subsections_owner            # (nr_sections,) uint64: bit i = the i-th subsection has memory
    cdef word_t *subsections                 # cached from subsections_owner

    cdef bint sealed                         # part of a machine: Python may look, and not write
    cdef void seal(self)
    cdef int check_writable(self) except -1
    cdef uint64_t all_subsections(self) noexcept nogil
    cdef bint has(self, Bitmap plane, object nr) except -1
    cdef int grow(self, uint64_t nr_sections) except -1
    # the range's sections have room; they become present, with the subsections that the range meets
    cdef void sparse_add_section(self, pfn_t start, uint64_t nr, bint early) noexcept nogil
    cdef void sparse_remove_section(self, uint64_t first, uint64_t nr) noexcept nogil
    cdef void set_online_sections(self, uint64_t first, uint64_t nr, bint online) noexcept nogil
    cdef bint all_in(self, Bitmap plane, pfn_t start, uint64_t nr) noexcept nogil   # every section of the range set there?
    cdef bint none_in(self, Bitmap plane, pfn_t start, uint64_t nr) noexcept nogil  # no section of the range?
    cdef uint64_t missing(self, pfn_t start, uint64_t nr) noexcept nogil     # first section of the range not present, or -1


cdef inline uint64_t pages_per_section(Sections s) noexcept nogil:
    return <uint64_t>1 << s.pfn_section_shift

cdef inline uint64_t pfn_to_section_nr(Sections s, pfn_t pfn) noexcept nogil:
    return pfn >> s.pfn_section_shift

cdef inline pfn_t section_nr_to_pfn(Sections s, uint64_t nr) noexcept nogil:
    return nr << s.pfn_section_shift

cdef inline bint present_section_nr(Sections s, uint64_t nr) noexcept nogil:
    return nr < s.nr_sections and test_bit(s.present.words, nr)

cdef inline bint online_section_nr(Sections s, uint64_t nr) noexcept nogil:
    return nr < s.nr_sections and test_bit(s.online.words, nr)

cdef inline bint early_section_nr(Sections s, uint64_t nr) noexcept nogil:
    return nr < s.nr_sections and test_bit(s.early.words, nr)
