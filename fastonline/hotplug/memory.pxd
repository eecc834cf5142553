"""The machine as an embedder sees it: the C-level door of Memory.

Every function here is noexcept nogil and touches no Python object: it returns a count, a pfn, or a negative errno, and changes
nothing when it returns one. No notifier and no online_page_callback is called from here: who embeds is the driver.
"""

from fastonline.core.bitmap_engine cimport BitmapEngine
from fastonline.core.engine cimport Engine, pfn_batch
from fastonline.core.lock cimport MachineLock
from fastonline.core.sections cimport Sections
from fastonline.core.types cimport int16_t, int64_t, pfn_t, uint64_t
from fastonline.hotplug.zones cimport Zones


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
    cdef readonly dict memmaps           # first section of a memmap -> its first pfn and pages
    cdef readonly list groups            # (start_pfn, nr_pages) as added at a time: static memory groups
    cdef public object pcp               # PerCpuPages, or None: every allocation goes to the buddy allocator
    cdef bint auto_movable               # the online policy is auto-movable, not contig-zones
    cdef public int64_t auto_movable_ratio       # memory_hotplug.auto_movable_ratio, in percent
    cdef public bint auto_movable_numa_aware
    cdef int auto_online                 # MMOP_*: what add_memory does with new blocks
    cdef int policy_zone                 # the highest kernel zone there has been
    cdef list listeners                  # the events' own list, to see at once whether anybody listens
    cdef Engine pages
    cdef MachineLock lock                # the engine's own
    cdef BitmapEngine planes             # the same, when it is the bitmap engine; else None
    cdef object nids                     # (nr_sections,) int16: the node each present section belongs to
    cdef int16_t *nid_of                 # cached from nids
    cdef list chain                      # the notifiers' own list, to see at once whether anybody listens
    # of the rules and the geometry, as C has them
    cdef bint watermarks_at_mark, aligned, grow_before_notify, shrink_spans, always_notify_online, min_free_kbytes_follows
    cdef int pageblock_order
    cdef int movable_type, hotplug_type  # numbers of two zone types
    cdef bint fixed_room                 # planes were made for all of max_memory
    cdef bint changing                   # a notifier is being asked: no hot-plug call may begin
    cdef int online_order                # what order=None means
    cdef uint64_t pages_onlined, pages_offlined, pages_migrated, balloon_migrated
    cdef object __weakref__

    # 1: went online; 0: was not Reserved; -EINVAL: not there or not prepared (online_page, 2.6.25)
    cdef int online_page(self, pfn_t pfn) noexcept nogil
    # pages that went online, in blocks of at most `order` (-1: as the rules say), or -EINVAL
    cdef int64_t online_range(self, pfn_t start_pfn, uint64_t nr_pages, int order) noexcept nogil
    # zone_nr: nid * zones.nr_types + type. A pfn, or -ENOMEM / -EINVAL
    cdef int64_t alloc_page(self, int zone_nr, int order) noexcept nogil
    # 0, or -EINVAL: that is not one allocation of this order
    cdef int free_page(self, pfn_t pfn, int order) noexcept nogil

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
    cdef void release_area(self, uint64_t start, uint64_t nr, int z) noexcept
    cdef uint64_t part_pages(self) noexcept nogil
    cdef void step(self, int step, uint64_t start, uint64_t nr, int order) noexcept nogil
    cdef void step_back(self, int step, uint64_t start, uint64_t nr) noexcept nogil
    cdef int walk(self, int step, uint64_t start, uint64_t nr, int order, int threads=*) except -1
    cdef int64_t mark(self, uint64_t start, uint64_t nr, int order, bint whole) except -1
    cdef int changed_nid(self, uint64_t start) noexcept
    cdef int count_onlined(self, uint64_t start, uint64_t nr, uint64_t onlined) noexcept nogil
    cdef void sections_went_online(self, uint64_t start, uint64_t nr) noexcept nogil
    cdef void section_online(self, uint64_t section) noexcept nogil
    cdef int gather(self, pfn_batch *batch, object array, object pfns) except -1
    cdef int gather_states(self, pfn_batch *batch, str what, object array, int want, int other, str name) except -1
    cdef void batch_went_online(self, const pfn_batch *batch) noexcept nogil
    cdef uint64_t node_present(self, int nid) noexcept nogil
    cdef list zonelist(self, object zone)
    cdef uint64_t alloc_blocks(self, int z, int order, uint64_t nr, int64_t *out) noexcept nogil
    cdef uint64_t blocks_free(self, int z, int order) noexcept nogil
