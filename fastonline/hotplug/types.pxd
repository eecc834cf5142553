"""The structs that the kernels of the hot-plug floor share."""

from fastonline.core.buddy cimport buddy_pool
from fastonline.core.types cimport area_t, int64_t, pfn_t, uint64_t

cdef enum:
    MAX_NR_ZONES = 6
    MAX_NUMNODES = 64
    MOST_NODES = 1024       # possible nodes, which need not exist (CONFIG_NODES_SHIFT up to 10)

cdef enum:                       # what onlining is asked for (include/linux/memory_hotplug.h); blocks.py has them for Python
    MMOP_OFFLINE = 0
    MMOP_ONLINE = 1
    MMOP_ONLINE_KERNEL = 2
    MMOP_ONLINE_MOVABLE = 3

cdef struct zone:
    pfn_t start_pfn
    uint64_t spanned_pages       # end - start
    uint64_t present_pages       # KERNEL.md 3.2: whole ranges; in 2.6.25 the PG_offline pages, which a balloon leaves present
    uint64_t present_early       # of them, there at boot
    int64_t min, low, high       # watermarks, in pages
    int64_t boost                # watermark_boost: pages above all of them until kswapd has run
    int64_t pcp_batch, pcp_high  # of the zone's per-CPU lists
    int64_t pageset_batch, pageset_high      # as of the last time the watermarks were computed, of an empty zone too
    int64_t pcp_high_max         # how far pcp_high may grow since 6.7, an eighth of the zone; as pageset_high
    int64_t stat_threshold       # pages that a CPU's counters may be off by
    int64_t protection[MAX_NR_ZONES]     # lowmem_reserve

cdef struct pgdat:
    bint online                  # the node is known (node_online_map)
    int64_t nr_cpus              # CPUs of the node
    bint has_memory              # some of its memory went online (N_MEMORY), and its kernel threads run
    pfn_t start_pfn
    uint64_t spanned_pages
    uint64_t nr_sections         # present sections that belong to it

cdef struct zone_table:          # zones by number: zone_number
    zone *zones
    pgdat *nodes
    buddy_pool *areas             # the engine's: areas[zone_area(z)] holds the zone's free blocks and managed_pages
    int nr_types
    int nr_nodes                 # nodes there is room for
    int normal                   # number of the highest kernel zone below highmem (GFP_USER's)
    bint is_highmem[MAX_NR_ZONES]
    bint is_movable[MAX_NR_ZONES]
    int64_t ratio[MAX_NR_ZONES]  # lowmem_reserve_ratio
    bint present_is_managed      # 2.6.25: a page is present once it went online, and stays so in a balloon
    bint by_present              # watermarks from present_pages (2.6.25), not managed_pages
    bint empty_zones_reserve     # a zone without pages has a lowmem_reserve too (2.6.25)
    bint movable_has_min
    bint pcp_auto_tunes          # pcp_high may grow to pcp_high_max (6.7)
    bint pcp_high_from_low
    int64_t scale_factor
    int64_t min_free_max
    int64_t batch_cap            # pages: where zone_batchsize stops growing
    bint pcp_follows             # per-CPU lists go by the pages of now, not by those of boot (2.6.25)
    int64_t nr_cpus              # CPUs of all nodes
    int64_t page_kb
    int64_t pageblock_pages      # pageblock_nr_pages
    bint khugepaged              # it runs, and wants min_free_kbytes raised
    int64_t raised_from          # what khugepaged raised min_free_kbytes from when it was last computed, or -1
    int64_t min_free_kbytes
    int64_t user_min_free_kbytes  # as written to the sysctl; -1: never
    bint stale                   # 2.6.25: pages were marked since the watermarks were computed
    bint scans_pageblocks        # recomputing walks every pageblock that a zone spans (setup_zone_migrate_reserve)
    uint64_t recomputed          # times that the kernel would have computed the watermarks
    uint64_t counted             # of them, those whose pageblocks are in `scanned`
    uint64_t scanned             # pageblocks that they walked

cdef inline int zone_number(const zone_table *t, int nid, int type) noexcept nogil:
    return nid * t.nr_types + type

cdef inline int nr_zones(const zone_table *t) noexcept nogil:
    return t.nr_nodes * t.nr_types

cdef inline int zone_nid(const zone_table *t, int z) noexcept nogil:
    return z // t.nr_types

cdef inline int zone_type(const zone_table *t, int z) noexcept nogil:
    return z % t.nr_types

cdef inline area_t zone_area(int z) noexcept nogil:      # the engine's area of a zone
    return z + 1

cdef inline uint64_t zone_managed(const zone_table *t, int z) noexcept nogil:
    return t.areas[zone_area(z)].managed

cdef inline uint64_t zone_present(const zone_table *t, int z) noexcept nogil:
    return t.zones[z].present_pages + (t.areas[zone_area(z)].managed if t.present_is_managed else 0)
