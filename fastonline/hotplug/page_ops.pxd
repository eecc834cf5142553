"""Pages that a driver keeps back or gives away: Reserved again, handed to the host, and back."""

from fastonline.core.engine cimport Engine, pfn_batch
from fastonline.core.types cimport uint64_t
from fastonline.hotplug.machine cimport Machine

cdef enum:
    LONG_RUN = 64      # pages from which on a run is checked by words

cdef bint all_are(Engine pages, uint64_t start, uint64_t nr, int want) noexcept nogil
cdef uint64_t set_page_reserved(Machine mem, uint64_t start, uint64_t nr) except? 0xFFFFFFFFFFFFFFFF
cdef int set_page_offline(Machine mem, uint64_t start, uint64_t nr, bint offline) except -1
cdef uint64_t set_pfns_reserved(Machine mem, object array, pfn_batch *batch) except? 0xFFFFFFFFFFFFFFFF
cdef int set_pfns_offline(Machine mem, object array, pfn_batch *batch, bint offline) except -1
cdef int free_reserved_pfns(Machine mem, object array, pfn_batch *batch) except -1
