"""The stopwatch: pieces of onlining, each timed where it runs, without the interpreter where there is none in the path.

The clock is CLOCK_MONOTONIC_RAW, read inside nogil; what one reading costs is measured and taken off every time.
"""

from libc.stdint cimport int64_t, uint64_t

from fastonline.core.types cimport pfn_t
from fastonline.hotplug.memory cimport Memory

cdef int64_t now() noexcept nogil                                    # ns since some moment
cdef int64_t since(int64_t start) noexcept nogil                     # ns since `start`, the clock's own cost taken off

# Mark pages of a prepared range through the C API, Memory.online_page, one at a time: ns. `onlined` gets how many went online.
cdef int64_t ascending(Memory mem, pfn_t start_pfn, uint64_t nr_pages, uint64_t *onlined) noexcept nogil
cdef int64_t in_order(Memory mem, const uint64_t *pfns, uint64_t nr_pages, uint64_t *onlined) noexcept nogil
