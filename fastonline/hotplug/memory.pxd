"""The C API of Memory, for cimport. include/fastonline.h has the same functions for C and C++.

Each function but own() is noexcept nogil, touches no Python object, and returns a count, a pfn, or a negative errno; it changes
nothing when it returns one. No notifier and no online_page_callback is called, no watermark and no per-CPU list asked: who
embeds is the driver.

The functions take no lock. One thread at a time may call those of one machine (of different machines, any number), and no other
thread may call that machine from Python meanwhile. In a program of several threads take the machine first, with the GIL:

    held = mem.own()        # waits for whoever works on it; whoever comes later from Python waits
    with nogil:
        mem.online_page(pfn)
    held = None             # or when it goes out of scope: the machine is everybody's again, with the GIL

Meanwhile the same thread must not own() once more (HotplugError EBUSY, as for any Python call on that machine that holds its
lock). A fork by another thread does not wait: in the child the machine is nobody's, HotplugError EOWNERDEAD. So it is for
everybody when the thread ends and its Held is still there.

FASTONLINE_ABI changes whenever a function or a constant of this file does; the fields of Machine may change without.
"""

from fastonline.core.lock cimport Held
from fastonline.core.types cimport int64_t, pfn_t, uint64_t
from fastonline.hotplug.settings cimport Settings

cdef enum:
    FASTONLINE_ABI = 2           # what a client was compiled for; fastonline.capi.ABI is what is there
    ALL_ZONES = -1               # to counter(): the sum over the zones

cdef enum:                       # what counter() counts; of ALL_ZONES only:
    COUNT_PAGES_ONLINED = 0
    COUNT_PAGES_OFFLINED = 1
    COUNT_FREE_PAGES = 2         # of a zone too:
    COUNT_MANAGED_PAGES = 3
    COUNT_PRESENT_PAGES = 4
    COUNT_SPANNED_PAGES = 5
    COUNT_NR_FREE = 6            # of an order: free blocks of it,
    COUNT_MERGES = 7             # pairs merged out of it,
    COUNT_SPLITS = 8             # blocks of it split,
    COUNT_FREES = 9              # blocks freed
    COUNT_ALLOCS = 10            # and allocated


cdef class Memory(Settings):
    # 1: went online; 0: was not Reserved; -EINVAL: not there or not prepared (online_page, 2.6.25)
    cdef int online_page(self, pfn_t pfn) noexcept nogil
    # pages that went online, in blocks of at most `order` (-1: as the rules say), or -EINVAL
    cdef int64_t online_range(self, pfn_t start_pfn, uint64_t nr_pages, int order) noexcept nogil
    # any pfns in any order, as mark_pfns_onlined: pages that went online, or -EINVAL: one is not there, not prepared, or twice
    cdef int64_t online_batch(self, const uint64_t *pfns, uint64_t nr) noexcept nogil
    # zone_nr: Zone.nr, nid * zones.nr_types + type. A pfn, or -ENOMEM / -EINVAL
    cdef int64_t alloc_page(self, int zone_nr, int order) noexcept nogil
    # nr blocks, their first pfns to `out` (room for nr): nr, or -ENOMEM: there are not so many / -EINVAL
    cdef int64_t alloc_bulk(self, int zone_nr, int order, uint64_t nr, int64_t *out) noexcept nogil
    # 0, or -EINVAL: that is not one allocation of this order
    cdef int free_page(self, pfn_t pfn, int order) noexcept nogil
    # single pages in any order: nr, or -EINVAL: one is no allocation of order 0, or there twice
    cdef int64_t free_batch(self, const uint64_t *pfns, uint64_t nr) noexcept nogil
    # mask of PG_* (core/pageflags.pxd), 0 where no page is
    cdef int page_state(self, pfn_t pfn) noexcept nogil
    # zone_nr of the zone a page is in, or -EINVAL: in none
    cdef int page_zone(self, pfn_t pfn) noexcept nogil
    # COUNT_*, exact, of a zone or of ALL_ZONES; order is looked at for those of an order, else 0. -EINVAL: there is none such
    cdef int64_t counter(self, int zone_nr, int which, int order) noexcept nogil
    # with the GIL: the machine is this thread's until the Held goes; see above
    cdef Held own(self)
