"""The machine as an embedder sees it: the C-level door of Memory. include/fastonline.h has the same functions for C and C++.

Every function of the door but own() is noexcept nogil, touches no Python object, and returns a count, a pfn, or a negative
errno; it changes nothing when it returns one. No notifier and no online_page_callback is called, no watermark and no per-CPU
list asked: who embeds is the driver.

Who holds what: the door takes no lock, it costs nothing. One thread at a time may be at the door of one machine (of different
machines, any number), and no other thread may call that machine from Python meanwhile. A program of one thread has that for
free. In any other, take the machine first, with the GIL:

    held = mem.own()        # waits for whoever works on it; whoever comes later from Python waits
    with nogil:
        mem.online_page(pfn)
    held = None             # or when it goes out of scope: the machine is everybody's again, with the GIL

Meanwhile the same thread must neither fork nor own() once more (HotplugError EBUSY, as for any Python call on that machine
that holds its lock). A fork by another thread waits.
"""

from fastonline.core.bitmap_engine cimport BitmapEngine
from fastonline.core.engine cimport Engine, pfn_batch
from fastonline.core.lock cimport Held, MachineLock
from fastonline.core.sections cimport Sections
from fastonline.core.types cimport int16_t, int64_t, pfn_t, uint64_t
from fastonline.hotplug.zones cimport Zones

cdef enum:
    FASTONLINE_ABI = 1           # what a client was compiled for; fastonline.capi.ABI is what is there
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


cdef class Memory:
    cdef readonly object geometry        # Geometry
    cdef readonly object rules           # Rules
    cdef readonly str engine             # "bitmap" or "struct_page"
    cdef readonly uint64_t max_pfn       # page frames from here on can never be there
    cdef readonly Sections sections
    cdef readonly Zones zones
    cdef readonly object notifiers       # NotifierChain
    cdef readonly object resources       # Resources: what is System RAM
    cdef readonly object online_page_callback    # callable, or None: generic_online_page
    cdef readonly object events          # Events: who is told of uevents and of the kernel's log
    cdef readonly list page_owners       # whose pages offline_pages may move
    cdef readonly uint64_t pages_per_block       # pages of a memory block, the unit of sysfs
    cdef readonly str memmap             # None: it costs nothing; "kernel" or "on_memory"
    cdef readonly dict memmaps           # section -> first pfns and pages of what holds its memmap
    cdef readonly list groups            # (start_pfn, nr_pages, dynamic memory group or None) as added at a time
    cdef readonly tuple going_offline    # (start_pfn, nr_pages) that offline_pages is at work on, or None
    cdef public object pcp               # PerCpuPages, or None: every allocation goes to the buddy allocator
    cdef bint auto_movable               # the online policy is auto-movable, not contig-zones
    cdef public int64_t auto_movable_ratio       # memory_hotplug.auto_movable_ratio, in percent
    cdef public bint auto_movable_numa_aware
    cdef int auto_online                 # MMOP_*: what add_memory does with new blocks
    cdef int policy_zone                 # the highest kernel zone that the zonelists have been built with
    cdef list listeners                  # the events' own list, to see at once whether anybody listens
    cdef list unsaid                     # (kind, text) of events that are told when the machine is whole
    cdef Engine pages
    cdef MachineLock lock                # the engine's own
    cdef BitmapEngine planes             # the same, when it is the bitmap engine; else None
    cdef object nids                     # (nr_sections,) int16: the node each present section belongs to
    cdef int16_t *nid_of                 # cached from nids
    cdef list chain                      # the notifiers' own list, to see at once whether anybody listens
    # of the rules and the geometry, as C has them
    cdef bint watermarks_at_mark, aligned, grow_before_notify, shrink_spans, always_notify_online, min_free_kbytes_follows
    cdef bint totalhigh_shrinks, nodes_lose_memory
    cdef int pageblock_order
    cdef int movable_type, hotplug_type  # numbers of two zone types
    cdef bint fixed_room                 # planes were made for all of max_memory
    cdef bint changing                   # a notifier is being asked: no hot-plug call may begin
    cdef int online_order                # what order=None means
    cdef uint64_t pages_onlined, pages_offlined, pages_migrated, balloon_migrated
    cdef uint64_t high_offlined          # highmem pages that went offline and are still in totalhigh_pages (2.6.25)
    cdef object __weakref__

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

    # the rest is Memory's own
    cdef int online_any_page(self, pfn_t pfn) noexcept nogil
    cdef bint no_such_zone(self, int zone_nr) noexcept nogil
    cdef int64_t zone_counter(self, int z, int which, int order) noexcept nogil
    cdef int64_t batch_outside_prepared(self, const pfn_batch *batch) noexcept nogil
    cdef uint64_t mark_batch(self, const pfn_batch *batch) noexcept nogil

    cdef int check_range(self, uint64_t start, uint64_t nr, str what) except -1
    cdef int check_present(self, uint64_t start, uint64_t nr, str what) except -1
    cdef int64_t outside_prepared(self, uint64_t start, uint64_t nr) noexcept nogil
    cdef bint untouched(self, uint64_t start, uint64_t nr) noexcept nogil
    cdef void note_prepared(self, uint64_t start, uint64_t nr) noexcept nogil
    cdef void note_whole(self, uint64_t start, uint64_t nr, bint prepared) noexcept nogil
    cdef int room_for(self, uint64_t end_pfn) except -1
    cdef int zone_for_range(self, uint64_t start, uint64_t nr, int nid, int online_type) except -1
    cdef int own_nids(self, object array) except -1
    cdef list prepare(self, uint64_t start, uint64_t nr, int online_type)
    cdef list unprepared(self, uint64_t start, uint64_t nr)
    cdef void enter_area(self, uint64_t start, uint64_t nr, int z) noexcept
    cdef int recompute(self) except -1
    cdef int highest_kernel_zone(self) noexcept nogil
    cdef bint enters_empty_zone(self, uint64_t pfn) noexcept nogil
    cdef int build_zonelists(self, list nids) except -1
    cdef int say(self, str kind, str text) except -1
    cdef int tell(self) except -1
    cdef bint own_memmaps(self) noexcept
    cdef void release_area(self, uint64_t start, uint64_t nr, int z) noexcept
    cdef uint64_t part_pages(self) noexcept nogil
    cdef void step(self, int step, uint64_t start, uint64_t nr, int order) noexcept nogil
    cdef void step_back(self, int step, uint64_t start, uint64_t nr) noexcept nogil
    cdef int walk(self, int step, uint64_t start, uint64_t nr, int order, int threads=*) except -1
    cdef int64_t mark(self, uint64_t start, uint64_t nr, int order, bint whole) except -1
    cdef int changed_nid(self, uint64_t start) noexcept
    cdef bint populated(self, int nid, int i) noexcept nogil
    cdef int after_online(self, bint was_empty) except -1
    cdef int after_offline(self, uint64_t start, uint64_t nr, int z) except -1
    cdef list without_memmaps(self, uint64_t start, uint64_t nr)
    cdef uint64_t memmap_within(self, uint64_t start) except? -1
    cdef int after_mark(self, uint64_t start, uint64_t nr, int64_t done, int nid, bint was_empty) except -1
    cdef int count_onlined(self, uint64_t start, uint64_t nr, uint64_t onlined) noexcept nogil
    cdef void sections_went_online(self, uint64_t start, uint64_t nr) noexcept nogil
    cdef void blocks_went_online(self, uint64_t start, uint64_t nr) noexcept nogil
    cdef void section_online(self, uint64_t section) noexcept nogil
    cdef int gather(self, pfn_batch *batch, object array, object pfns) except -1
    cdef int gather_states(self, pfn_batch *batch, str what, object array, int want, int other, str name) except -1
    cdef void count_batch_onlined(self, const pfn_batch *batch, uint64_t onlined) noexcept nogil
    cdef int offline(self, uint64_t start, uint64_t nr) except -1
    cdef int turn_pfns(self, str what, object pfns, int state, str name) except -1
    cdef uint64_t node_present(self, int nid) noexcept nogil
    cdef void lost_memory(self, int nid) noexcept
    cdef list zonelist(self, object zone)
    cdef uint64_t alloc_blocks(self, int z, int order, uint64_t nr, int64_t *out) noexcept nogil
    cdef uint64_t blocks_free(self, int z, int order) noexcept nogil
