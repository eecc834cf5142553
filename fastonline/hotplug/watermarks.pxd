"""min_free_kbytes, the zones' watermarks and lowmem_reserve, recomputed when the kernel recomputes them."""

from fastonline.core.types cimport int64_t, uint64_t
from fastonline.hotplug.types cimport zone_table

cdef uint64_t int_sqrt(uint64_t x) noexcept nogil
cdef uint64_t nr_free_buffer_pages(zone_table *t) noexcept nogil
cdef int64_t calculate_min_free_kbytes(zone_table *t) noexcept nogil     # -1, or what the user's larger value was kept against
cdef void pcp_update(zone_table *t, int z, int64_t pages) noexcept nogil
cdef void setup_per_zone_wmarks(zone_table *t) noexcept nogil
# to be called before a zone's span changes, and before `scanned` is read
cdef void count_scans(zone_table *t) noexcept nogil
cdef void setup_per_zone_lowmem_reserve(zone_table *t) noexcept nogil
cdef void refresh_zone_stat_thresholds(zone_table *t) noexcept nogil
cdef void set_recommended_min_free_kbytes(zone_table *t) noexcept nogil  # khugepaged's
cdef int64_t init_per_zone_wmark_min(zone_table *t) noexcept nogil       # all three; -1 or what calculate_min_free_kbytes gave
cdef void refresh(zone_table *t) noexcept nogil                          # bring stale watermarks up to date
