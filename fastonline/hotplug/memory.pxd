"""The C API of Memory, for cimport. include/fastonline.h has the same functions for C and C++.

Each function but own() is noexcept nogil and touches no Python object. It returns a count, a pfn or a negative errno; a call
that fails changes nothing. It calls no notifier and no online_page_callback, and checks no watermark and no per-CPU list: the
embedding program plays the driver's role.

The functions take no lock. Only one thread at a time may call them for one machine, and no other thread may call that machine
from Python meanwhile. Different machines are independent. With several threads, lock the machine first, with the GIL:

    held = mem.own()        # waits for other threads; later calls from Python wait
    with nogil:
        mem.online_page(pfn)
    held = None             # with the GIL: the lock is released, as when held goes out of scope

While it holds the lock, the thread must not call own() again: HotplugError EBUSY, as for any Python call that takes the lock.
A fork by another thread does not wait; in the child the machine then raises HotplugError EOWNERDEAD. So it does everywhere when
the thread ends without releasing its Held.

FASTONLINE_ABI changes with the functions and constants of this file, not with the fields of Machine. A module that cimports
this file and was compiled for another ABI fails to import.
"""

from fastonline.core.lock cimport Held
from fastonline.core.types cimport int64_t, pfn_t, uint64_t
from fastonline.hotplug.settings cimport Settings

cdef enum:
    FASTONLINE_ABI = 2           # what a client was compiled for; fastonline.capi.ABI is the installed one
    ALL_ZONES = -1               # to counter(): the sum over the zones

# Cython's import of a client looks for each variable of this file by name: the name ends with FASTONLINE_ABI.
cdef int compiled_for_fastonline_abi_2

cdef enum:                       # what counter() counts. These two need ALL_ZONES:
    COUNT_PAGES_ONLINED = 0
    COUNT_PAGES_OFFLINED = 1
    COUNT_FREE_PAGES = 2         # ALL_ZONES or one zone:
    COUNT_MANAGED_PAGES = 3
    COUNT_PRESENT_PAGES = 4
    COUNT_SPANNED_PAGES = 5
    COUNT_NR_FREE = 6            # by order: free blocks
    COUNT_MERGES = 7             # by order: pairs merged out of it
    COUNT_SPLITS = 8             # by order: blocks split
    COUNT_FREES = 9              # by order: blocks freed
    COUNT_ALLOCS = 10            # by order: blocks allocated


cdef class Memory(Settings):
    # Returns 1: online now; 0: was not Reserved; -EINVAL: not present or not prepared (online_page, 2.6.25)
    cdef int online_page(self, pfn_t pfn) noexcept nogil
    # Frees blocks of at most `order` (-1: the order of the rules). Returns the pages that went online, or -EINVAL
    cdef int64_t online_range(self, pfn_t start_pfn, uint64_t nr_pages, int order) noexcept nogil
    # pfns in any order. Returns the pages that went online, or -EINVAL: one is not present, not prepared or repeated
    cdef int64_t online_batch(self, const uint64_t *pfns, uint64_t nr) noexcept nogil
    # zone_nr: Zone.nr, nid * zones.nr_types + type. Returns a pfn, -ENOMEM or -EINVAL
    cdef int64_t alloc_page(self, int zone_nr, int order) noexcept nogil
    # Writes the first pfn of each of nr blocks to `out`. Returns nr, -ENOMEM (fewer are free) or -EINVAL
    cdef int64_t alloc_bulk(self, int zone_nr, int order, uint64_t nr, int64_t *out) noexcept nogil
    # Returns 0, or -EINVAL: no allocation of this order begins there
    cdef int free_page(self, pfn_t pfn, int order) noexcept nogil
    # Single pages in any order. Returns nr, or -EINVAL: one is not an allocation of order 0, or repeated
    cdef int64_t free_batch(self, const uint64_t *pfns, uint64_t nr) noexcept nogil
    # Returns a mask of PG_* (core/pageflags.pxd), 0 where there is no page
    cdef int page_state(self, pfn_t pfn) noexcept nogil
    # Returns the zone_nr of a page's zone, or -EINVAL: it has none
    cdef int page_zone(self, pfn_t pfn) noexcept nogil
    # which: COUNT_*; zone_nr: a zone or ALL_ZONES; order: 0 unless counted by order. Exact, or -EINVAL
    cdef int64_t counter(self, int zone_nr, int which, int order) noexcept nogil
    # With the GIL: locks the machine for this thread while the Held lives; see above
    cdef Held own(self)
