import numpy as np

from fastonline.core.sections cimport Sections
from fastonline.core.pageflags cimport PG_buddy, PG_offline, PG_prepared
from fastonline.hotplug.machine cimport has_owner
from fastonline.hotplug.types cimport (
    MMOP_OFFLINE, MMOP_ONLINE_MOVABLE, nr_zones, zone as struct_zone, zone_area, zone_nid, zone_present, zone_type,
)
from fastonline.hotplug.zone_ranges cimport page_zone

from fastonline.core.audit import audit_pages
from fastonline.hotplug.resources import check_tree
from fastonline.rules import INT_MAX, SYSCTLS

__all__ = ["check_engine", "check_machine", "check_saved"]

_MOST = 1 << 62      # no count of pages comes near to it, and sums of some do not overflow


def check_machine(Machine mem not None):
    """Check every invariant of a machine from scratch. AssertionError with the first that is broken."""
    areas, tallies = check_engine(mem)
    numbers = section_numbers(mem)
    check_sections(mem, numbers, tallies)
    check_node_ids(mem, numbers)
    check_zones(mem, areas)
    check_nodes(mem)
    check_resources(mem, numbers)
    check_memmaps(mem)
    check_groups(mem)
    check_owners(mem)
    check_settings(mem)


def check_engine(Machine mem not None):
    """Check that every page is in a state that there is, and that the engine's counters, free blocks and lists are those that
    the pages make up. Returns audit_pages' tallies of areas and sections. AssertionError with the first that is broken."""
    cdef int area
    _held = mem.lock.hold_still()
    areas, tallies = audit_pages(mem.pages, mem.sections.spans(), mem.sections.pfn_section_shift)
    for area in range(mem.pages.nr_areas):
        counts = mem.pages.counters(area)
        if counts["nr_free"].tolist() != areas["nr_free"][area].tolist():
            raise AssertionError(
                f"{area_name(mem, area)}: nr_free is {counts['nr_free'].tolist()}, the pages make up "
                f"{areas['nr_free'][area].tolist()}"
            )
        if counts["managed"] != areas["managed"][area]:
            raise AssertionError(f"{area_name(mem, area)}: managed is {counts['managed']}, the pages make up "
                f"{areas['managed'][area]}")
        for name in ("merges", "splits", "frees", "allocs"):
            if not all([0 <= count < _MOST for count in counts[name].tolist()]):
                raise AssertionError(f"{area_name(mem, area)}: {name} is {counts[name].tolist()}")
    return areas, tallies


cdef str area_name(Machine mem, int area):
    if not 0 < area <= nr_zones(&mem.zones.table):
        return f"area {area}"
    return f"zone {mem.zones.names[zone_type(&mem.zones.table, area - 1)]} of node {zone_nid(&mem.zones.table, area - 1)}"


cdef object section_numbers(Machine mem):
    """The numbers of the present sections, ascending: int64 array."""
    return np.concatenate([np.empty(0, np.int64)] + [np.arange(first, first + nr) for first, nr in mem.sections.runs()])


cdef object bits(object bitmap, object numbers):
    """Those bits of a Bitmap: bool array."""
    return (bitmap.array[numbers >> 6] >> (numbers & 63).astype(np.uint64) & np.uint64(1)).astype(bool)


cdef int check_sections(Machine mem, object numbers, object tallies) except -1:
    """The planes of sections say what their pages do."""
    cdef Sections sections = mem.sections
    present = sections.present.array
    for name in ("online", "early", "prepared", "fully_prepared"):
        astray = np.flatnonzero(getattr(sections, name).array & ~present)
        if len(astray):
            raise AssertionError(f"a section of {64 * int(astray[0])} and the 63 behind it is {name} and not present")
    prepared, managed = tallies["prepared"], tallies["managed"]
    online = bits(sections.online, numbers)
    for what, wrong in (
        ("is online, nothing in it is", online & (prepared == 0)),
        ("is not online, pages of it are", ~online & (managed > 0)),
        ("is not marked as having prepared pages, or has none", bits(sections.prepared, numbers) != (prepared > 0)),
        ("is not marked as fully prepared, or is not", bits(sections.fully_prepared,
            numbers) != (prepared == sections.pages_per_section)),
        ("has no memory", sections.subsection_map[numbers] == 0),
    ):
        if wrong.any():
            raise AssertionError(f"section {numbers[wrong][0]} {what}")
    return check_blocks(mem, numbers[online])


cdef int check_blocks(Machine mem, object online) except -1:
    """The state of each memory block is what its online sections, whose numbers these are, make of it."""
    states = mem.block_online.bits(0, mem.block_online.nbits).astype(bool)
    able = np.zeros(len(states), bool)
    able[online >> mem.block_shift] = True
    astray = np.flatnonzero(states & ~able)
    if len(astray):
        raise AssertionError(f"memory{astray[0]} is online, no section of it is")
    astray = np.flatnonzero(able & ~states)
    if len(astray) and not mem.rules.blocks_unaware:
        raise AssertionError(f"memory{astray[0]} is offline, a section of it is online")
    return 0


cdef int check_node_ids(Machine mem, object numbers) except -1:
    """Every section is of a node that is there, and each node counts its own."""
    cdef int nid, count
    nids = mem.nids[numbers]
    wrong = (nids < 0) | (nids >= mem.zones.table.nr_nodes)
    if wrong.any():
        raise AssertionError(f"section {numbers[wrong][0]} is on node {nids[wrong][0]}, which does not exist")
    for nid, count in enumerate(np.bincount(nids, minlength=mem.zones.table.nr_nodes).tolist()):
        if mem.zones.table.nodes[nid].nr_sections != <uint64_t>count:
            raise AssertionError(f"node {nid} has {mem.zones.table.nodes[nid].nr_sections} sections, and {count} are of it")
        if count and not mem.zones.table.nodes[nid].online:
            raise AssertionError(f"node {nid} has {count} sections but does not exist")
    return 0


cdef int check_zones(Machine mem, object areas) except -1:
    """Spans and counters hold what is prepared."""
    cdef struct_zone *zone
    cdef int z, i, types = mem.zones.table.nr_types
    for z in range(nr_zones(&mem.zones.table)):
        zone = &mem.zones.table.zones[z]
        tally = areas[zone_area(z)]
        name = area_name(mem, zone_area(z))
        if zone.start_pfn > mem.max_pfn or zone.spanned_pages > mem.max_pfn - zone.start_pfn:
            raise AssertionError(f"{name}: its span of {zone.spanned_pages:#x} pages at {zone.start_pfn:#x} passes the end of "
                f"memory")
        if tally["prepared"]:
            if not mem.zones.table.nodes[zone_nid(&mem.zones.table, z)].online:
                raise AssertionError(f"{name} has pages but its node does not exist")
            if tally["first"] < zone.start_pfn or tally["last"] >= zone.start_pfn + zone.spanned_pages:
                raise AssertionError(f"pages {tally['first']:#x}-{tally['last']:#x} lie outside the span of {name}")
        present = tally["managed"] + offline_pages(mem, z) if mem.rules.present_at_online else tally["prepared"]
        if zone_present(&mem.zones.table, z) != present:
            raise AssertionError(f"{name}: present is {zone_present(&mem.zones.table, z)}, the pages make up {present}")
        values = [zone.min, zone.low, zone.high, zone.pcp_batch, zone.pcp_high, zone.pageset_batch, zone.pageset_high,
                  zone.pcp_high_max, zone.stat_threshold, zone.boost] + [zone.protection[i] for i in range(types)]
        if not all([0 <= value < _MOST for value in values]):
            raise AssertionError(f"{name}: invalid watermark, reserve or list size: {values}")
    return 0


cdef uint64_t offline_pages(Machine mem, int z) except? 0xFFFFFFFFFFFFFFFF:
    """PG_offline pages of a zone."""
    cdef uint64_t pfn, end, run, offline = 0
    for pfn, nr in mem.sections.spans():
        end = pfn + <uint64_t>nr
        while pfn < end:
            run = mem.pages.area_run(pfn, end)
            if page_zone(mem, pfn) == z:
                offline += mem.pages.weigh(PG_offline, pfn, run)
            pfn += run
    return offline


cdef int check_nodes(Machine mem) except -1:
    """A node spans its zones."""
    if not mem.zones.table.nodes[0].online:
        raise AssertionError("node 0 does not exist")
    for nid, node in mem.nodes.items():
        spans = [(zone.start_pfn, zone.start_pfn + zone.spanned_pages) for zone in node.zones if zone.spanned_pages]
        if spans and node.start_pfn > min([start for start, _ in spans]):
            raise AssertionError(f"node {nid} begins after one of its zones")
        if spans and node.start_pfn + node.spanned_pages < max([end for _, end in spans]):
            raise AssertionError(f"node {nid} ends before one of its zones")
        if node.start_pfn > mem.max_pfn or node.spanned_pages > mem.max_pfn - node.start_pfn:
            raise AssertionError(f"node {nid} passes the end of memory")
    return 0


cdef int check_resources(Machine mem, object numbers) except -1:
    """/proc/iomem is a tree, all of its RAM has sections, and each section has some RAM."""
    try:
        check_tree(mem.resources.tree())
    except (TypeError, ValueError) as e:
        raise AssertionError(f"/proc/iomem: {e}") from None
    shift = mem.sections.pfn_section_shift
    ram = np.array([span for span in mem.resources if span[0] < span[1]], object).reshape(-1, 2)
    first = np.array([start >> shift for start, _ in ram], np.uint64).astype(np.int64)
    last = np.array([(end - 1) >> shift for _, end in ram], np.uint64).astype(np.int64)
    # of ascending numbers that hold first and last, all between are there when they lie as far apart
    at = np.searchsorted(numbers, first)
    there = at + (last - first)
    wrong = there >= len(numbers)
    wrong[~wrong] |= (numbers[at[~wrong]] != first[~wrong]) | (numbers[there[~wrong]] != last[~wrong])
    if wrong.any():
        start, end = ram[wrong][0]
        raise AssertionError(f"/proc/iomem has RAM at pages {start:#x}-{end - 1:#x}, and some of it has no section")
    covered = np.zeros(len(numbers) + 1, np.int64)
    np.add.at(covered, at, 1)
    np.add.at(covered, there + 1, -1)
    bare = np.cumsum(covered[: len(numbers)]) <= 0
    if bare.any():
        raise AssertionError(f"section {numbers[bare][0]} has no RAM in /proc/iomem")
    return 0


cdef int check_memmaps(Machine mem) except -1:
    """What holds page descriptors is a block of pages of another section, or the first pages of its own memory block. (Who
    frees pages that are not his may have freed a memmap: remove_memory looks.)"""
    cdef uint64_t pfn, nr
    cdef int order
    for section, pieces in mem.memmap_of.items():
        if not mem.sections.present_section_nr(section):
            raise AssertionError(f"section {section} is not present and has a memmap")
        for piece in pieces:
            pfn, nr = piece
            order = int(nr).bit_length() - 1
            if nr == 0 or mem.sections.missing(pfn, nr) != <uint64_t>-1 or pfn >= mem.pages.nr_pages - nr + 1:
                raise AssertionError(f"the memmap of section {section} lies at {pfn:#x}, where no memory is")
            if pfn >> mem.sections.pfn_section_shift == section:
                if pfn % mem.pages_per_block or nr >= mem.pages_per_block or len(pieces) > 1:
                    raise AssertionError(f"section {section} holds its own memmap at {pfn:#x}, which is not at its start")
            elif nr != <uint64_t>1 << order or order > mem.pages.max_order or pfn & (nr - 1):
                raise AssertionError(f"the memmap of section {section} at {pfn:#x} is not a block of {nr} pages")
    return 0


def check_saved(Machine mem not None):
    """Check what a state that was saved must have too: no memmap lies in free pages, or in another's. AssertionError naming
    one that does."""
    cdef uint64_t pfn, nr
    taken = set()
    for section, pieces in mem.memmap_of.items():
        for piece in pieces:
            pfn, nr = piece
            if pfn in taken:
                raise AssertionError(f"two memmaps lie at {pfn:#x}")
            taken.add(pfn)
            if any([mem.pages.state(page) & PG_buddy for page in range(pfn, pfn + nr)]):
                raise AssertionError(f"the memmap of section {section} at {pfn:#x} lies in free pages")


cdef int check_groups(Machine mem) except -1:
    """Check that each range of one add_memory begins in RAM, and that no two begin at the same page."""
    starts = set()
    for start, nr, group in mem.groups:
        if not 0 < nr <= mem.max_pfn - start or not mem.resources.within(start, 1):
            raise AssertionError(f"a range of {nr} pages was added at {start:#x}, where no memory is")
        if start in starts:
            raise AssertionError(f"two ranges were added at {start:#x}")
        starts.add(start)
        check_group(mem, group)
    return 0


cdef int check_group(Machine mem, object group) except -1:
    if group is not None:
        name, unit = group
        if not isinstance(name, str) or not 0 < unit <= mem.max_pfn:
            raise AssertionError(f"a dynamic memory group must be a name and pages, not {group!r}")
    return 0


cdef int check_owners(Machine mem) except -1:
    """Check that pages of owners are in use or offline, and have one owner each."""
    cdef uint64_t pfn
    owned = [np.asarray(owner.pfns) for owner in mem.owners.values()]
    if not owned:
        return 0
    pfns = np.sort(np.concatenate(owned))
    twice = np.flatnonzero(pfns[1:] == pfns[: len(pfns) - 1])
    if len(twice):
        raise AssertionError(f"page {int(pfns[twice[0]]):#x} has two owners")
    for owner, pages in zip(mem.owners.values(), owned):
        want = PG_prepared | PG_offline if owner.offline else PG_prepared
        for pfn in pages.tolist():
            if pfn >= mem.pages.nr_pages or mem.pages.state(pfn) != want:
                raise AssertionError(f"page {pfn:#x} has an owner, and is not {'offline' if owner.offline else 'in use'}")
            if not has_owner(mem, pfn):
                raise AssertionError(f"page {pfn:#x} has an owner, and is not marked so")
    return 0


cdef int check_settings(Machine mem) except -1:
    """Check that settings of sysfs and sysctl have valid values."""
    cdef int i
    cdef int64_t most = INT_MAX
    if not 0 <= mem.policy_zone < mem.movable_type or not MMOP_OFFLINE <= mem.auto_online <= MMOP_ONLINE_MOVABLE:
        raise AssertionError(f"the policy zone is {mem.policy_zone}, auto_online_blocks {mem.auto_online}")
    if not 1 <= mem.zones.table.nr_cpus <= most or not 0 <= mem.zones.table.min_free_kbytes <= most \
            or not -1 <= mem.zones.table.user_min_free_kbytes <= most \
            or not 0 <= mem.zones.table.scale_factor <= SYSCTLS["watermark_scale_factor"][1]:
        raise AssertionError(
            f"{mem.zones.table.nr_cpus} CPUs, min_free_kbytes {mem.zones.table.min_free_kbytes}, "
            f"set to {mem.zones.table.user_min_free_kbytes}, watermark_scale_factor {mem.zones.table.scale_factor}"
        )
    for i in range(mem.zones.table.nr_types):
        if mem.zones.table.ratio[i] < 0:
            raise AssertionError(f"lowmem_reserve_ratio of {mem.zones.names[i]} is {mem.zones.table.ratio[i]}")
    if max(mem.pages_onlined, mem.pages_offlined, mem.pages_migrated, mem.balloon_migrated,
            mem.high_offlined) >= <uint64_t>_MOST:
        raise AssertionError("a page counter exceeds any number of pages")
    return 0
