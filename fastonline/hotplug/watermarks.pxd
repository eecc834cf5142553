"""min_free_kbytes, the zones' watermarks and lowmem_reserve, recomputed when the kernel recomputes them."""

from fastonline.core.types cimport int64_t, uint64_t
from fastonline.hotplug.types cimport zone_table

cdef uint64_t int_sqrt(uint64_t x) noexcept nogil
cdef uint64_t nr_free_buffer_pages(zone_table *t) noexcept nogil
cdef bint calculate_min_free_kbytes(zone_table *t) noexcept nogil        # False: the user's larger value was kept
cdef void setup_per_zone_wmarks(zone_table *t) noexcept nogil
cdef void setup_per_zone_lowmem_reserve(zone_table *t) noexcept nogil
cdef bint init_per_zone_wmark_min(zone_table *t) noexcept nogil          # all three
cdef void refresh(zone_table *t) noexcept nogil                          # bring stale watermarks up to date
