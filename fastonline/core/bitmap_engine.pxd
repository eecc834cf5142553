"""The fast engine: a bit plane a flag, and the buddy allocator on the plane of the free pages."""

from fastonline.core.bitmap cimport Bitmap
from fastonline.core.buddy cimport buddy
from fastonline.core.engine cimport Engine, pfn_batch
from fastonline.core.pageflags cimport page_flags
from fastonline.core.types cimport pfn_t, uint64_t


cdef class BitmapEngine(Engine):
    cdef buddy buddy
    cdef page_flags flags
    cdef readonly Bitmap free        # PG_buddy
    cdef readonly Bitmap full        # one bit a word of `free`
    cdef readonly Bitmap reserved
    cdef readonly Bitmap offline
    cdef readonly Bitmap tail
    cdef readonly Bitmap prepared

    cdef void cache_pointers(self) noexcept nogil
    cdef uint64_t apply_batch(self, pfn_t start, pfn_t end, int order, bint online) noexcept nogil
    cdef uint64_t take_free(self, pfn_t start, uint64_t nr) noexcept nogil
    cdef void split_allocations(self, pfn_t start, uint64_t nr) noexcept nogil
    cdef void account_runs(self, pfn_t start, uint64_t nr, int sign) noexcept nogil
    cdef bint sparse(self, const pfn_batch *batch) noexcept nogil
