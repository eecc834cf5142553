"""Rules: how kernel versions differ, as data. The docstring of Rules names the kernel functions and commits."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastonline.errors import invalid_name, is_number

INT_MAX = 0x7FFFFFFF
SYSCTLS = {
    "min_free_kbytes": (0, INT_MAX), "watermark_scale_factor": (1, 3000), "lowmem_reserve_ratio": (-INT_MAX - 1, INT_MAX),
}
"""The modelled sysctls under vm with the smallest and the largest value that may be written (vm_table, 6.1)."""
ZONEINFO_LINES = {
    "boost", "min", "low", "high", "promo", "scanned", "scanned (a: i:)", "node_scanned", "spanned", "present", "managed",
    "cma",
}


def _is_pairs(value: object) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and is_number(item[1]) for item in value
    )


_IS: dict[Any, Callable[[Any], bool]] = {
    bool: lambda value: isinstance(value, bool),
    int: is_number,
    int | None: lambda value: value is None or is_number(value),
    str: lambda value: isinstance(value, str),
    tuple[int, int]: lambda value: isinstance(value, tuple) and len(value) == 2 and all(map(is_number, value)),
    tuple[str, ...]: lambda value: isinstance(value, tuple) and all(isinstance(item, str) for item in value),
    tuple[tuple[str, int], ...]: _is_pairs,
}
"""{type of a field of Rules: function that says whether a value is of that type}"""


@dataclass(frozen=True, repr=False)
class Rules:
    """The differences between kernel versions. Use a preset, or change one with ``dataclasses.replace``.

    - name: the kernel's version, such as "6.12".
    - online_order: largest block online_pages hands to the allocator: 0 in 2.6.25 (online_page), None = MAX_PAGE_ORDER since
      5.1.
    - present_at_online: present_pages grows by what went online (2.6.25), not by the whole range when it is prepared (6.1).
    - grow_before_notify: spans grow before MEM_GOING_ONLINE and shrink back on a veto (move_pfn_range_to_zone, 4.13); 2.6.25
      notifies first.
    - shrink_spans: offlining shrinks zone and node spans (remove_pfn_range_from_zone); 2.6.25 never does.
    - aligned: add_memory takes whole memory blocks, online/offline_pages aligned ranges, else EINVAL; 2.6.25 widens to
      sections.
    - always_notify_online: online_pages sends MEM_ONLINE even when no page went online (6.1).
    - watermark_pages: the counter watermarks and reserves are computed from: "present" (2.6.25) or "managed" (3.9 and later).
    - watermarks_at_mark: every mark recomputes the watermarks (2.6.25: setup_per_zone_pages_min), not only whole
      online/offline_pages.
    - watermarks_at_offline: offline_pages recomputes the watermarks (since 2.6.31).
    - watermark_scale_factor: low and high lie at least this many 10000ths of the zone above min (4.6). 0: there is no such
      rule.
    - totalhigh_shrinks: offline_pages subtracts its pages from totalhigh_pages too. 2.6.25 subtracts them from totalram_pages
      alone.
    - movable_has_min: ZONE_MOVABLE is left out of lowmem and gets a min of managed/1024 between 32 and 128
      ("mm/min_free_kbytes: modify min_free_kbytes calculation rules", 2023: 6.8 has it, 6.1 has not).
    - min_free_kbytes_max: upper clamp of min_free_kbytes: 65536 (2.6.25), 262144 (ee8eb9a5fe86, 5.8).
    - min_free_kbytes_follows: onlining and offlining recompute min_free_kbytes and lowmem_reserve (2.6.38). 2.6.25 computes
      them only at boot.
    - lowmem_reserve_ratio: sysctl_lowmem_reserve_ratio by zone; a zone that is not named has 0, no reserve.
    - batch_cap_bytes: zone_batchsize() starts from pages/1024, at most this many bytes.
    - pcp_follows: per-CPU lists get a new batch and high whenever the watermarks are computed (2.6.32: zone_pcp_update); in
      2.6.25 they stay as boot made them, batch 1 and high 0 in a zone that was empty then.
    - zone_device: there is a zone Device behind Movable (CONFIG_ZONE_DEVICE).
    - zonelists_follow: zonelists are rebuilt for a new node and when a zone loses its last page (6.1). 2.6.25 rebuilds them
      only when an empty zone gets pages.
    - lifo: every freed block goes to the head of its list (2.6.25). In 6.1 onlined blocks go to the tail.
    - struct_page_bytes: sizeof(struct page) on 32-bit and 64-bit kernels.
    - memmap_on_memory: a memmap can lie on the memory that it describes (5.13).
    - memmap_per_block: memmap_on_memory works for ranges of any number of memory blocks (6b8f0798b85a, 6.8). Before, only for
      ranges of one.
    - node_threads: the kernel threads of a node with memory, their names without its number: kswapd_run, and kcompactd_run
      (4.6).
    - skips_memoryless: zonelists leave out nodes without memory, the node's own zonelist too (6.7). A node that lost its last
      memory stays in them until they are built again. Before 6.7 a node always falls back to itself first.
    - nodes_lose_memory: a node whose last memory goes offline leaves N_MEMORY, and its threads stop (2.6.33).
    - blocks_unaware: sysfs does not see pages onlined by mark_pages_onlined. A block reads online only after online_pages of
      all of it. It can go online only when all of its pages are Reserved, else EBUSY (memory_block_action, 2.6.25).
    - offline_times_out: offline_pages gives up on pages that cannot move (2.6.25): ENOMEM after five tries without room for
      them (do_migrate_range), EAGAIN after its timeout while they are held. 6.1 retries until a signal (EINTR).
    - migrates_from_the_end: offline_pages moves the last page of the range first, since isolate_folio_to_list puts each page
      at the head of its list (6f1833b8208c, 6.12). Before, it moves the first page first.
    - watermark_by_order: a request of order n also needs half of the watermark in blocks above order 0, a quarter above order
      1, and so on (__zone_watermark_ok until 97a16fc82a7c, 4.4).
    - waits_offline: pages of added memory are PageOffline until they go online (503b158fc30f, 6.11); before, Reserved.
    - has_thp: there are transparent huge pages, and khugepaged (2.6.38).
    - lists_possible_nodes: zonelists are built and logged for every possible node, online or not (5.18).
    - block_notices: memory blocks send MEM_PREPARE_ONLINE and MEM_FINISH_OFFLINE (c5f1e2d18909, 6.9).
    - node_notifier: node changes have a notifier chain of their own; memory notices do not report them (6.18 has it, 6.8 does
      not).
    - zoneinfo_lines: what /proc/zoneinfo prints of a zone between its free pages and its protection, in order: `managed` since
      3.9, `cma` since 5.12, `boost` since 5.16 (a6ea8b5b9f1c), `promo` since 6.12 (528afe6b9605); older ones have `scanned`,
      those from 4.8 to 4.11 `node_scanned`.
    - zoneinfo_empty: /proc/zoneinfo lists zones without memory too (4.12).
    - migrate_types: the names in /proc/pagetypeinfo (migratetype_names).
    - removable_constant: memoryN/removable always reads 1 (53cdc1cb29e8, March 2020). Before, it says whether the block's
      pages can be moved.
    - exact_words: sysfs compares whole words, with at most one trailing newline (6.1), not their first letters (2.6.25).
    - zone_at_online: the zone of added memory is chosen when it goes online (zone_for_pfn_range; f1dd2cd13c4b, 4.13). Before,
      add_memory chooses it: the geometry's hotplug_zone.
    - pagetypeinfo_online: /proc/pagetypeinfo counts pageblocks of online sections only (pfn_to_online_page, 4.13);
      before, all that have page descriptors (pfn_valid).
    - empty_zones_reserve: a zone without pages has a lowmem_reserve too (2.6.25); today it has none
      (setup_per_zone_lowmem_reserve, 6.1).
    - walks_system_ram: online_pages walks the System RAM of its range and skips what is prepared or online
      (walk_memory_resource, 2.6.25); 6.1 has no such walk, and a range with holes or with prepared pages is EINVAL.
    - large_blocks: a memory block may be several sections (memory_block_size_bytes, 2.6.39).
    - checks_pluggable: adding a range outside of the pluggable range is E2BIG (register_memory_resource, 6.1).
    - nr_migrate_types: MIGRATE_TYPES. build_all_zonelists groups pages by mobility when there are at least so many pageblocks.
    - zone_contiguous: onlining or offlining a range scans its zone for holes (set_zone_contiguous, 4.6).
    - pcp_high_from_low: the high of a zone's per-CPU lists is its low watermark divided by the CPUs (b92ca18e8ca5, 5.14).
      Before, it is six batches.
    - pcp_auto_tunes: high and batch of per-CPU lists adapt to the rate of allocations and frees (90b41691b988, 6.7).
    - munmap_reverses: munmap frees each batch of gathered pages in reverse order (release_pages until 6.8).
    - retries_refused_dimms: when a memory device is added, ACPI also retries the devices that it refused before (6.12).
    - memory_failure: single pages can be taken offline (soft_offline_page, CONFIG_MEMORY_FAILURE). The recorded 6.1 kernels
      are built without it.

    Raises ValueError for numbers and combinations that no kernel has.
    """

    name: str
    online_order: int | None
    present_at_online: bool
    grow_before_notify: bool
    shrink_spans: bool
    aligned: bool
    always_notify_online: bool
    watermark_pages: str
    watermarks_at_mark: bool
    watermarks_at_offline: bool
    watermark_scale_factor: int
    totalhigh_shrinks: bool
    movable_has_min: bool
    min_free_kbytes_max: int
    min_free_kbytes_follows: bool
    lowmem_reserve_ratio: tuple[tuple[str, int], ...]
    batch_cap_bytes: int
    pcp_follows: bool
    zone_device: bool
    zonelists_follow: bool
    lifo: bool
    struct_page_bytes: tuple[int, int]
    memmap_on_memory: bool
    memmap_per_block: bool
    node_threads: tuple[str, ...]
    nodes_lose_memory: bool
    skips_memoryless: bool
    blocks_unaware: bool
    offline_times_out: bool
    migrates_from_the_end: bool
    watermark_by_order: bool
    waits_offline: bool
    has_thp: bool
    lists_possible_nodes: bool
    block_notices: bool
    node_notifier: bool
    exact_words: bool
    zoneinfo_lines: tuple[str, ...]
    zoneinfo_empty: bool
    migrate_types: tuple[str, ...]
    removable_constant: bool
    zone_at_online: bool
    pagetypeinfo_online: bool
    empty_zones_reserve: bool
    walks_system_ram: bool
    large_blocks: bool
    checks_pluggable: bool
    nr_migrate_types: int
    zone_contiguous: bool
    pcp_high_from_low: bool
    pcp_auto_tunes: bool
    munmap_reverses: bool
    retries_refused_dimms: bool
    memory_failure: bool

    def __post_init__(self) -> None:
        for field, kind in Rules.__annotations__.items():
            value = getattr(self, field)
            if not _IS[kind](value):
                raise TypeError(f"rules {self.name!r:.40}: {field} must be {kind}, not {value!r:.80}")
        if not self.name.isprintable():
            raise ValueError(f"the name {self.name!r:.80} of rules cannot be printed")
        limits = {
            "online_order": 63,
            "watermark_scale_factor": SYSCTLS["watermark_scale_factor"][1],
            "min_free_kbytes_max": SYSCTLS["min_free_kbytes"][1],
            "batch_cap_bytes": INT_MAX,
            "nr_migrate_types": 64,
        }
        for name, most in limits.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                raise ValueError(f"rules {self.name}: {name} is {value}, not between 0 and {most}")
        if self.watermark_pages not in ("present", "managed"):
            raise ValueError(f"rules {self.name}: watermark_pages is {self.watermark_pages!r}, not 'present' or 'managed'")
        if not all(0 <= ratio <= INT_MAX for _, ratio in self.lowmem_reserve_ratio):
            raise ValueError(f"rules {self.name}: lowmem_reserve_ratio is {self.lowmem_reserve_ratio}")
        if not all(1 <= size <= 4096 for size in self.struct_page_bytes):
            raise ValueError(f"rules {self.name}: struct_page_bytes is {self.struct_page_bytes}")
        if not set(self.zoneinfo_lines) <= ZONEINFO_LINES:
            raise ValueError(f"rules {self.name}: zoneinfo_lines is {self.zoneinfo_lines}")

        if self.memmap_per_block and not self.memmap_on_memory:
            raise ValueError(f"rules {self.name}: memmap_per_block needs memmap_on_memory")

    def __repr__(self) -> str:
        # on one line: help() shows it as the default of arguments
        return f"<Rules {self.name}>"


_RATIOS_2_6_25 = (("DMA", 256), ("DMA32", 256), ("Normal", 32), ("HighMem", 32))
_RATIOS = (("DMA", 256), ("DMA32", 256), ("Normal", 32))

LINUX_2_6_25 = Rules(
    name="2.6.25",
    online_order=0,
    present_at_online=True,
    grow_before_notify=False,
    shrink_spans=False,
    aligned=False,
    always_notify_online=False,
    watermark_pages="present",
    watermarks_at_mark=True,
    watermarks_at_offline=False,
    watermark_scale_factor=0,
    totalhigh_shrinks=False,
    movable_has_min=False,
    min_free_kbytes_max=65536,
    min_free_kbytes_follows=False,
    lowmem_reserve_ratio=_RATIOS_2_6_25,
    batch_cap_bytes=512 << 10,
    pcp_follows=False,
    zone_device=False,
    zonelists_follow=False,
    lifo=True,
    struct_page_bytes=(32, 56),
    memmap_on_memory=False,
    memmap_per_block=False,
    node_threads=("kswapd",),
    nodes_lose_memory=False,
    skips_memoryless=False,
    blocks_unaware=True,
    offline_times_out=True,
    migrates_from_the_end=False,
    watermark_by_order=True,
    waits_offline=False,
    has_thp=False,
    lists_possible_nodes=False,
    block_notices=False,
    node_notifier=False,
    exact_words=False,
    zoneinfo_lines=("min", "low", "high", "scanned (a: i:)", "spanned", "present"),
    zoneinfo_empty=False,
    migrate_types=("Unmovable", "Reclaimable", "Movable", "Reserve", "Isolate"),
    removable_constant=False,
    zone_at_online=False,
    pagetypeinfo_online=False,
    empty_zones_reserve=True,
    walks_system_ram=True,
    large_blocks=False,
    checks_pluggable=False,
    nr_migrate_types=5,
    zone_contiguous=False,
    pcp_high_from_low=False,
    pcp_auto_tunes=False,
    munmap_reverses=True,
    retries_refused_dimms=False,
    memory_failure=False,
)

LINUX_6_1 = Rules(
    name="6.1",
    online_order=None,
    present_at_online=False,
    grow_before_notify=True,
    shrink_spans=True,
    aligned=True,
    always_notify_online=True,
    watermark_pages="managed",
    watermarks_at_mark=False,
    watermarks_at_offline=True,
    watermark_scale_factor=10,
    totalhigh_shrinks=True,
    movable_has_min=False,
    min_free_kbytes_max=262144,
    min_free_kbytes_follows=True,
    lowmem_reserve_ratio=_RATIOS,
    batch_cap_bytes=1 << 20,
    pcp_follows=True,
    zone_device=True,
    zonelists_follow=True,
    lifo=False,
    struct_page_bytes=(32, 64),
    memmap_on_memory=True,
    memmap_per_block=False,
    node_threads=("kcompactd", "kswapd"),
    nodes_lose_memory=True,
    skips_memoryless=False,
    blocks_unaware=False,
    offline_times_out=False,
    migrates_from_the_end=False,
    watermark_by_order=False,
    waits_offline=False,
    has_thp=True,
    lists_possible_nodes=True,
    block_notices=False,
    node_notifier=False,
    exact_words=True,
    zoneinfo_lines=("boost", "min", "low", "high", "spanned", "present", "managed", "cma"),
    zoneinfo_empty=True,
    migrate_types=("Unmovable", "Movable", "Reclaimable", "HighAtomic", "Isolate"),
    removable_constant=True,
    zone_at_online=True,
    pagetypeinfo_online=True,
    empty_zones_reserve=False,
    walks_system_ram=False,
    large_blocks=True,
    checks_pluggable=True,
    nr_migrate_types=6,
    zone_contiguous=True,
    pcp_high_from_low=True,
    pcp_auto_tunes=False,
    munmap_reverses=True,
    retries_refused_dimms=False,
    memory_failure=False,
)

LINUX_6_12 = Rules(
    **{
        **LINUX_6_1.__dict__,
        "name": "6.12",
        "movable_has_min": True,
        "memmap_per_block": True,
        "skips_memoryless": True,
        "migrates_from_the_end": True,
        "waits_offline": True,
        "block_notices": True,
        "pcp_auto_tunes": True,
        "munmap_reverses": False,
        "retries_refused_dimms": True,
        "memory_failure": True,
        "zoneinfo_lines": ("boost", "min", "low", "high", "promo", "spanned", "present", "managed", "cma"),
    }
)

LINUX_6_18 = Rules(**{**LINUX_6_12.__dict__, "name": "6.18", "node_notifier": True})

PRESETS = {rules.name: rules for rules in (LINUX_2_6_25, LINUX_6_1, LINUX_6_12, LINUX_6_18)}

_VERSION = r"(?ai)(?:linux[-_ ]?)?v?(\d{1,4})[._](\d{1,4})(?:[._](\d{1,4}))?(?:[-+._~].*)?"


def _version(name: str) -> tuple[int, ...] | None:
    """(2, 6, 25) or (6, 12) of the text of a version; the third number counts in 2.6 alone. None: it is not one."""
    found = re.fullmatch(_VERSION, name.strip())
    if found is None:
        return None
    numbers = tuple(int(number) for number in found.groups() if number is not None)
    return numbers if numbers[:2] == (2, 6) else numbers[:2]


def by_name(name: str) -> Rules:
    """Return the preset for a kernel version as people type it: "6.12", "v6.12", "6.12.3", "6.1.0-13-amd64", "LINUX_6_12".

    A version from 6.1 on without a preset gets the newest preset that is not newer: "6.2" to "6.11" get LINUX_6_1, "6.13" to
    "6.17" LINUX_6_12, all later ones LINUX_6_18. "2.6.26" hotplugs memory as 2.6.25 does and gets LINUX_2_6_25. There are no
    rules for the versions between 2.6.26 and 6.1.

    TypeError if `name` is not text, ValueError for an unknown version.
    """
    if not isinstance(name, str):
        raise TypeError(f"a kernel version is text such as '6.12', not {name!r:.80}")
    version = _version(name)
    if version is not None:
        if (2, 6, 25) <= version <= (2, 6, 26):
            return LINUX_2_6_25
        for rules in (LINUX_6_18, LINUX_6_12, LINUX_6_1):
            if version >= (_version(rules.name) or ()):
                return rules
    raise invalid_name("rules", name, ["2.6.25", "2.6.26", "6.1", "6.12", "6.18", "or another version from 6.1 on"])


def as_rules(rules: Rules | str) -> Rules:
    """Return `rules`, or the preset for the kernel version that it names. TypeError for anything else, ValueError for an
    unknown version."""
    found = by_name(rules) if isinstance(rules, str) else rules
    if not isinstance(found, Rules):
        raise TypeError(f"rules are a Rules such as fastonline.LINUX_6_12 or a kernel version, not {rules!r}")
    return found
