from operator import index

from fastonline.core.bitmap cimport bitmap_clear, bitmap_empty, bitmap_full, bitmap_set, find_next_bit, find_next_zero_bit, ones_below, ones_from
from fastonline.core.bitmap import zeroed

__all__ = ["Sections"]


cdef class Sections:
    """The sections of a machine, by number (mem_section of sparsemem): bit planes, one bit a section, and a map of subsections.

    pfn_section_shift: log2 of the pages of a section; nr_sections: those there is room for. present, online, early: Bitmaps of
    SECTION_MARKED_PRESENT, SECTION_IS_ONLINE and SECTION_IS_EARLY; block_online: of the online sections whose memory block has
    gone online as such; prepared, whole: of the sections that have prepared pages, and of those that have no other.
    subsection_map: (nr_sections,) uint64, bit i: the i-th 64th of the section has memory.
    """

    def __cinit__(self, int pfn_section_shift, uint64_t nr_sections):
        self.pfn_section_shift = pfn_section_shift
        self.nr_sections = 0
        self.present = Bitmap(0)
        self.online = Bitmap(0)
        self.block_online = Bitmap(0)
        self.early = Bitmap(0)
        self.prepared = Bitmap(0)
        self.whole = Bitmap(0)
        self.subsection_map = zeroed(0)
        self.grow(nr_sections)

    cdef int grow(self, uint64_t nr_sections) except -1:
        cdef word_t[::1] view
        cdef list all = [(0, self.nr_sections)] if self.nr_sections else []
        for plane in (self.present, self.online, self.block_online, self.early, self.prepared, self.whole):
            (<Bitmap>plane).grow(nr_sections, all)
        array = zeroed(nr_sections)
        array[: self.nr_sections] = self.subsection_map
        view = array
        self.subsection_map = array
        self.subsections = &view[0] if nr_sections else NULL
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
    def pages_per_section(self):
        """PAGES_PER_SECTION: pages of one section."""
        return 1 << self.pfn_section_shift

    def _checked(self, first, nr):
        if not 0 <= first <= first + nr <= self.nr_sections:
            raise ValueError(f"sections {first} to {first + nr} are not among the {self.nr_sections} there is room for")

    def add(self, uint64_t start_pfn, uint64_t nr_pages, bint early=False):
        """The sections that the range start_pfn, nr_pages meets become present, and the subsections that it meets are there
        (sparse_add_section); early: as at boot (sparse_init), online at once."""
        cdef int shift = self.pfn_section_shift, granule = max(0, shift - 6)
        cdef uint64_t nr, first, last, start, end
        if nr_pages == 0:
            return
        self._checked(start_pfn >> shift, 1)
        self._checked((start_pfn + nr_pages - 1 >> shift), 1)
        end = start_pfn + nr_pages
        for nr in range(start_pfn >> shift, ((end - 1) >> shift) + 1):
            start = max(start_pfn, nr << shift) - (nr << shift)
            first = start >> granule
            last = (min(end, (nr + 1) << shift) - 1 - (nr << shift)) >> granule
            self.subsections[nr] |= ones_from(first) & ones_below(last + 1)
        nr = start_pfn >> shift
        bitmap_set(self.present.words, nr, ((end - 1) >> shift) + 1 - nr)
        if early:
            bitmap_set(self.early.words, nr, ((end - 1) >> shift) + 1 - nr)
            self.set_online(nr, ((end - 1) >> shift) + 1 - nr, True)

    def remove(self, uint64_t first, uint64_t nr):
        """`nr` sections from number `first` on are gone (sparse_remove_section)."""
        self._checked(first, nr)
        for plane in (self.present, self.online, self.block_online, self.early):
            bitmap_clear((<Bitmap>plane).words, first, nr)
        self.subsection_map[first : first + nr] = 0

    def set_online(self, uint64_t first, uint64_t nr, bint online):
        """online_mem_sections, or offline_mem_sections when not `online`: of `nr` sections from number `first` on, with their
        memory blocks. ValueError for sections there is no room for."""
        self._checked(first, nr)
        for plane in (self.online, self.block_online):
            if online:
                bitmap_set((<Bitmap>plane).words, first, nr)
            else:
                bitmap_clear((<Bitmap>plane).words, first, nr)

    def __len__(self):
        return self.nr_sections

    def _has(self, Bitmap plane, nr):
        nr = index(nr)
        return 0 <= nr < self.nr_sections and plane[nr]

    def present_section_nr(self, nr):
        """Is section `nr` there?"""
        return self._has(self.present, nr)

    def valid_section_nr(self, nr):
        """Has section `nr` page descriptors? Here every present section has."""
        return self.present_section_nr(nr)

    def online_section_nr(self, nr):
        """Is section `nr` online?"""
        return self._has(self.online, nr)

    def early_section_nr(self, nr):
        """Was section `nr` there at boot?"""
        return self._has(self.early, nr)

    def partial_section_nr(self, nr):
        """Is section `nr` there only in part?"""
        return self.present_section_nr(nr) and int(self.subsection_map[nr]) != (1 << 64) - 1

    def missing_runs(self, uint64_t start, uint64_t end):
        """The sections of [start, end) that are not there, as a list of (first number, end)."""
        cdef uint64_t nr = find_next_zero_bit(self.present.words, end, start), after
        cdef list found = []
        while nr < end:
            after = find_next_bit(self.present.words, end, nr)
            found.append((nr, after))
            nr = find_next_zero_bit(self.present.words, end, after)
        return found

    def runs(self):
        """The present sections as a list of (first number, how many)."""
        cdef uint64_t nr = find_next_bit(self.present.words, self.nr_sections, 0), end
        cdef list found = []
        while nr < self.nr_sections:
            end = find_next_zero_bit(self.present.words, self.nr_sections, nr)
            found.append((nr, end - nr))
            nr = find_next_bit(self.present.words, self.nr_sections, end)
        return found

    def spans(self):
        """The present sections as a list of (start_pfn, nr_pages)."""
        return [(nr << self.pfn_section_shift, count << self.pfn_section_shift) for nr, count in self.runs()]
