"""One machine: its state, room for more of it, and the events that a call has queued.

Every phase of hot-plug is a file of functions that take a Machine first (add_remove, onlining, offlining, page_ops, ...).
`Memory` (memory.pxd) is the public class over them; an embedding program uses `Memory`, not the fields here.
"""

from fastonline.core.bitmap cimport Bitmap, test_bit
from fastonline.core.bitmap_engine cimport BitmapEngine
from fastonline.core.engine cimport Engine
from fastonline.core.lock cimport Held, MachineLock
from fastonline.core.sections cimport Sections
from fastonline.core.types cimport int16_t, int64_t, uint64_t
from fastonline.hotplug.chain_calls cimport ChainCalls
from fastonline.hotplug.resources cimport Resources
from fastonline.hotplug.types cimport nr_zones, zone_number, zone_present
from fastonline.hotplug.zones cimport Zones


cdef class Machine:
    cdef readonly object geometry
    """Geometry: what the machine looks like."""
    cdef readonly object rules
    """Rules: which kernel is mirrored."""
    cdef readonly str engine
    """The engine that holds the pages: "bitmap" or "struct_page"."""
    cdef readonly uint64_t max_pfn
    """The end of memory (int): no page can be added from this pfn on."""
    cdef readonly uint64_t pages_per_block
    """Pages of a memory block (int), the unit of /sys/devices/system/memory."""
    cdef readonly str memmap
    """Where the page descriptors of added memory lie: None, "kernel" or "on_memory"."""

    # the parts
    cdef Engine pages
    cdef BitmapEngine planes             # the same, when it is the bitmap engine; else None
    cdef MachineLock lock                # the engine's own
    cdef readonly Sections sections
    """Sections: which are present, online and early."""
    cdef Bitmap block_online             # by block number: the memory block is online (mem->state, drivers/base/memory.c)
    cdef readonly Zones zones
    """Zones, by name ("Normal") or (nid, name)."""
    cdef object nids                     # (nr_sections,) int16: the node each present section belongs to
    cdef int16_t *nid_of                 # cached from nids
    cdef readonly Resources resources
    """Resources: the tree of /proc/iomem."""
    cdef dict memmap_of                  # section -> [(first pfn, pages)] of what holds its page descriptors
    cdef dict groups_at                  # section -> [(start_pfn, nr_pages, dynamic memory group or None)] added from there on
    cdef dict owners                     # id -> MovablePages that offline_pages may move
    cdef Bitmap owned                    # pages that one of them has; None: nobody ever had one
    cdef object per_cpu_pages            # pcp: PerCpuPages, or None; page_alloc.lists_of gives what stands for them then

    # callbacks
    cdef readonly ChainCalls notifiers
    """NotifierChain: the memory notifiers."""
    cdef readonly object events
    """Events: listeners to uevents and to the kernel log."""
    cdef list listeners                  # the events' own list, for a quick test whether it is empty
    cdef list pending_events             # (kind, text) of events to deliver when the machine is consistent
    cdef readonly object online_page_callback
    """The callable that frees pages which go online, or None for generic_online_page."""
    cdef object alloc_hook, free_hook    # arch_alloc_page and arch_free_page, or None
    cdef list oom_notifiers              # callables that free pages when an allocation finds none
    cdef bint in_oom                     # they are running: their own allocations do not call them
    cdef bint changing                   # a notifier is being asked: no hot-plug call may begin
    cdef readonly tuple going_offline
    """(start_pfn, nr_pages) that offline_pages works on, or None."""

    # settings
    cdef int auto_online                 # MMOP_*: what add_memory does with new blocks
    cdef bint auto_movable               # the online policy is auto-movable, not contig-zones
    cdef int64_t auto_movable_percent    # memory_hotplug.auto_movable_ratio, in percent
    cdef public bint auto_movable_numa_aware
    """Whether the policy "auto-movable" looks at each node by itself (bool; 5.15). It can be set."""
    cdef int policy_zone                 # the highest kernel zone that the zonelists have been built with
    cdef int nr_possible_nodes           # nodes that there may ever be; 0: those that are there
    cdef uint64_t kept_flags             # KPF_* of the pages that the online_page_callback keeps back
    cdef bint calls_back_by_array        # it is called with an array of blocks, not with each
    cdef bint fixed_room                 # planes were made for all of max_memory

    # C copies of the rules and the geometry
    cdef bint zone_at_online, walks_system_ram, blocks_unaware
    cdef bint watermarks_at_mark, aligned, grow_before_notify, shrink_spans, always_notify_online, min_free_kbytes_follows
    cdef bint watermark_by_order, totalhigh_shrinks, nodes_lose_memory
    cdef int pageblock_order
    cdef int block_shift                 # log2 of the sections of a memory block
    cdef int movable_type, hotplug_type  # numbers of two zone types
    cdef int online_order                # what order=None means

    # counters
    cdef uint64_t pages_onlined, pages_offlined, pages_migrated, balloon_migrated, zonelist_builds
    cdef uint64_t high_offlined          # highmem pages that went offline and are still in totalhigh_pages (2.6.25)
    cdef object __weakref__

    # The one method: it puts the table of C functions before the fields, so that a new field moves none of Memory's.
    # The lock, for a call that changes which memory is there; HotplugError EBUSY from inside a notifier
    cdef Held mem_hotplug_begin(self, str what)


# For one step that changes pages: signal handlers and forks wait where per-CPU lists, which are Python code, have a part in it
cdef Held hold_step(Machine mem)
# until make_machine, and when that fails: a machine without memory whose calls raise RuntimeError
cdef int forget_all(Machine mem, object nothing=*) except -1
cdef Held make_machine(Machine mem, uint64_t room)
cdef int add_group(Machine mem, tuple added) except -1
cdef uint64_t rounded_room(Machine mem, uint64_t nr_pages) except 0
cdef int room_for(Machine mem, uint64_t end_pfn) except -1
cdef int queue_event(Machine mem, str kind, str text) except -1
cdef int flush_events(Machine mem) except -1
cdef int deliver_events(Machine mem, list happened) except -1    # (kind, text) each, now
cdef int count_sections(Machine mem) except -1
cdef int reset_counters(Machine mem) except -1
cdef uint64_t totalram_pages(Machine mem) noexcept nogil
cdef uint64_t totalhigh_pages(Machine mem) noexcept nogil
cdef uint64_t node_present_pages(Machine mem, int nid) noexcept nogil


cdef inline bint populated_zone(Machine mem, int nid, int type) noexcept nogil:
    """Has a zone of node `nid`, which may not be there, present pages?"""
    return 0 <= nid < mem.zones.table.nr_nodes and zone_present(&mem.zones.table, zone_number(&mem.zones.table, nid, type)) > 0


cdef inline bint has_owner(Machine mem, uint64_t pfn) noexcept nogil:
    """Is the page one of MovablePages?"""
    return mem.owned is not None and pfn < mem.owned.nbits and test_bit(mem.owned.words, pfn)


cdef inline bint is_zone(Machine mem, int zone_nr) noexcept nogil:
    return 0 <= zone_nr < nr_zones(&mem.zones.table)
