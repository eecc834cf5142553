"""Arguments of calls as C values: pfns, orders and arrays, and ranges that lie where memory can be.

TypeError, ValueError and OverflowError are for what is no pfn, count or order at all; HotplugError EINVAL is for ranges.
"""

from fastonline.core.engine cimport pfn_batch
from fastonline.core.types cimport int64_t, uint64_t
from fastonline.hotplug.machine cimport Machine

cdef list set_arguments(
    Machine mem, object geometry, object boot, object rules, object engine, object max_memory, object memory_block_size,
    object memmap
)
cdef uint64_t as_pages(Machine mem, object value, str what) except? 0xFFFFFFFFFFFFFFFF
cdef tuple as_group(object group)
cdef int as_threads(object threads) except -1
cdef int as_online_type(object online_type) except -1
cdef int as_order(object value, int max_order) except -1
cdef object as_pfn_array(object pfns)
cdef object as_batch(object pfns, pfn_batch *batch)

cdef int check_range(Machine mem, uint64_t start, uint64_t nr, str what) except -1
cdef int check_present(Machine mem, uint64_t start, uint64_t nr, str what) except -1
cdef int check_pfn(Machine mem, object pfn, str what) except -1
cdef int64_t find_owned(Machine mem, uint64_t start, uint64_t nr) noexcept nogil
cdef int64_t find_owned_in(Machine mem, const pfn_batch *batch) noexcept nogil

cdef int gather(Machine mem, pfn_batch *batch, object array) except -1
cdef int try_gather(Machine mem, const uint64_t *pfns, uint64_t nr, pfn_batch *batch) noexcept nogil
