import errno

import numpy as np

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EINVAL
from libc.string cimport memcmp

from fastonline.core.bitmap cimport test_bit
from fastonline.core.borders cimport part_end, part_start
from fastonline.core.engine cimport pfn_at, pfn_batch
from fastonline.core.lock cimport PyThreadState
from fastonline.core.numbers cimport as_uint64
from fastonline.core.pageflags cimport PAGE_WAITING, PG_buddy, PG_offline, PG_prepared, PG_reserved
from fastonline.core.types cimport NO_AREA, area_t
from fastonline.core.undo cimport Undo, undo_step
from fastonline.hotplug.arguments cimport as_batch, as_online_type, as_pfn_array, check_pfn, check_present, gather, try_gather
from fastonline.hotplug.chain_calls cimport (
    MEM_CANCEL_ONLINE, MEM_FINISH_OFFLINE, MEM_GOING_ONLINE, MEM_ONLINE, MEM_PREPARE_ONLINE,
)
from fastonline.hotplug.interruptible cimport ONLINE, PREPARE, walk_range
from fastonline.hotplug.machine cimport flush_events
from fastonline.hotplug.memmap cimport memmaps_on_memory, without_memmap_pages, without_memmaps
from fastonline.hotplug.notices cimport (
    block_notice, make_notice, memory_notify, memory_notify_cancel, memory_notify_going, notice_of_mark, status_change_nid,
    status_change_nid_normal,
)
from fastonline.hotplug.page_alloc cimport lists_of
from fastonline.hotplug.page_views cimport page_states
from fastonline.hotplug.section_states cimport (
    all_waiting_sections, batch_outside_prepared, block_is_online, count_onlined, note_prepared_alike, online_batch,
    outside_prepared, range_went_online, section_went_offline, section_went_online,
)
from fastonline.hotplug.sysctl cimport recompute_watermarks
from fastonline.hotplug.types cimport zone_present, zone_type
from fastonline.hotplug.watermarks cimport refresh
from fastonline.hotplug.zone_ranges cimport (
    adjust_present_page_count, enters_empty_zone, move_pfn_range_to_zone, page_zone, zone_for_pfn_range,
)
from fastonline.hotplug.zonelists cimport build_all_zonelists, listed_nodes

from fastonline.core.runs import equal_runs
from fastonline.errors import HotplugError, pfn_range

__all__ = ["memory_block_online"]


# -- phase 1

cdef class Joined:
    """A record of what prepare has done; leave_zone_again and unprepare undo it."""
    cdef uint64_t start, nr      # the range
    cdef list fresh              # runs (start_pfn, nr_pages) of it that were not prepared before
    cdef int prepared            # so many of them are now
    cdef bint counted            # and are present in their zone
    cdef bint in_zone            # the range has joined
    cdef int z                   # the zone
    cdef bytes areas             # the areas of the range as they were
    cdef uint64_t[4] before      # the spans of zone and node as they were,
    cdef uint64_t[4] after       # and as joining the zone has left them


cdef int prepare_online_pages(Machine mem, uint64_t start, uint64_t nr, int online_type) except -1:
    """Add the range to a zone, call the notifiers, and make its pages wait. A failure changes nothing."""
    cdef Undo undo = Undo.__new__(Undo)
    try:
        prepare(mem, start, nr, online_type, undo)
    except BaseException:
        undo.roll_back()
        raise
    return 0


cdef int prepare(Machine mem, uint64_t start, uint64_t nr, int online_type, Undo undo) except -1:
    """prepare_online_pages for a caller that can undo it."""
    cdef uint64_t pfn, run
    cdef Joined joined = Joined.__new__(Joined)
    cdef int z
    joined.start, joined.nr, joined.fresh = start, nr, [(start, nr)]
    check_preparable(mem, start, nr)
    z = zone_for_pfn_range(mem, start, nr, mem.nid_of[start >> mem.sections.pfn_section_shift], online_type)
    check_zone(mem, start, nr, z)
    notice = None
    if mem.notifiers.heard & (MEM_GOING_ONLINE | MEM_CANCEL_ONLINE):
        notice = make_notice(mem, start, nr, 0, status_change_nid(mem, start), status_change_nid_normal(mem, z, 0))
    note_areas(mem, start, nr, joined)
    undo.note(<undo_step>leave_zone_again, mem, joined)
    if mem.grow_before_notify:
        join_zone(mem, start, nr, z, joined)
    undo.note(<undo_step>memory_notify_cancel, mem, None if notice is None else (MEM_CANCEL_ONLINE, notice))
    memory_notify_going(mem, MEM_GOING_ONLINE, notice, "onlining")
    undo.note(<undo_step>unprepare, mem, joined)
    if mem.walks_system_ram:
        joined.fresh = [part for pfn, run in mem.resources.within(start, nr) for part in unprepared_runs(mem, pfn, run)]
    for pfn, run in joined.fresh:
        walk_range(mem, PREPARE, pfn, run, 0)
        joined.prepared += 1
    if not joined.in_zone:
        join_zone(mem, start, nr, z, joined)
    adjust_present_runs(mem, joined.fresh, 1)
    for pfn, run in joined.fresh:
        note_prepared_alike(mem, pfn, run, True)
    joined.counted = True
    return 0


cdef int note_areas(Machine mem, uint64_t start, uint64_t nr, Joined joined) except -1:
    cdef int shift = mem.pages.borders.shift
    cdef uint64_t first = start >> shift, count = ((start + nr - 1) >> shift) + 1 - first
    joined.areas = PyBytes_FromStringAndSize(<char *>&mem.pages.area_of[first], count * sizeof(area_t))
    return 0


cdef void join_zone(Machine mem, uint64_t start, uint64_t nr, int z, Joined joined) noexcept:
    """move_pfn_range_to_zone. Record what leave_zone_again has to undo."""
    joined.in_zone = True
    joined.z = z
    mem.zones.spans(z, joined.before)
    move_pfn_range_to_zone(mem, start, nr, z)
    mem.zones.spans(z, joined.after)


cdef int leave_zone_again(Machine mem, Joined joined) except -1:
    """Undo join_zone for a range whose pages are no longer prepared. Later changes of the zone by other calls stay."""
    cdef int z = joined.z
    cdef bytes areas = joined.areas
    cdef const area_t *before = <const area_t *><const char *>areas
    cdef uint64_t[4] now
    cdef int shift = mem.pages.borders.shift
    cdef uint64_t pfn = joined.start, first, stop
    if not joined.in_zone:
        return 0
    while pfn < joined.start + joined.nr:
        first, stop = part_start(&mem.pages.borders, pfn), part_end(&mem.pages.borders, pfn)
        if before[(pfn >> shift) - (joined.start >> shift)] == NO_AREA \
                and mem.pages.weigh(PG_prepared, first, stop - first) == 0:
            mem.pages.assign_area(first, stop - first, NO_AREA)
        pfn = stop
    mem.zones.spans(z, now)
    if memcmp(now, joined.after, sizeof(now)) == 0:
        mem.zones.set_spans(z, joined.before)
    else:
        mem.zones.shrink_span(z, joined.start, joined.nr)
    return 0


cdef int unprepare(Machine mem, Joined joined) except -1:
    """Make waiting pages unprepared again. If a callback has changed some of them, the pages stay prepared and the range
    stays in its zone."""
    cdef uint64_t pfn, run
    cdef list done = joined.fresh[: joined.prepared]
    for pfn, run in done:
        if not mem.pages.all_waiting(pfn, run):
            joined.in_zone = False
            return 0
    for pfn, run in done:
        mem.pages.unprepare_pages(pfn, run)
        if joined.counted:
            note_prepared_alike(mem, pfn, run, False)
    if joined.counted:
        adjust_present_runs(mem, done, -1)
    return 0


cdef int check_preparable(Machine mem, uint64_t start, uint64_t nr) except -1:
    """Check that the range is present and, if the rules require it, aligned, without holes and not prepared."""
    cdef uint64_t unit = <uint64_t>1 << mem.sections.pfn_section_shift
    check_present(mem, start, nr, "onlining")
    if mem.aligned and (start & ((<uint64_t>1 << mem.pageblock_order) - 1) or (start + nr) % unit):
        raise HotplugError.of(
            errno.EINVAL,
            f"onlining of {pfn_range(start, nr)}: it must begin at a pageblock (2^{mem.pageblock_order} "
            f"pages) and end with a section ({unit:#x} pages)",
        )
    if mem.walks_system_ram:
        return 0
    if not mem.sections.none_in(mem.sections.prepared, start, nr) and mem.pages.weigh(PG_prepared, start, nr):
        raise HotplugError.of(errno.EINVAL, f"onlining of {pfn_range(start, nr)}: prepared or online already")
    # a section has holes if boot memory ends inside it, or add_memory took a part of it
    if (not mem.aligned or not mem.sections.none_in(mem.sections.early, start, nr)) and \
            sum([part for _, part in mem.resources.within(start, nr)]) != nr:
        raise HotplugError.of(errno.EINVAL, f"onlining of {pfn_range(start, nr)}: part of it is not present")
    return 0


cdef int check_zone(Machine mem, uint64_t start, uint64_t nr, int z) except -1:
    """Check that no buddy block would lie in two zones."""
    cdef int there = page_zone(mem, start)
    if mem.zone_at_online and there >= 0 and there != z:
        raise HotplugError.of(
            errno.EINVAL,
            f"onlining of {pfn_range(start, nr)}: the buddy block at its start lies in zone "
            f"{mem.zones.names[zone_type(&mem.zones.table, there)]} already, and a block lies in one zone",
        )
    return 0


cdef int adjust_present_runs(Machine mem, list runs, int sign) except -1:
    """Add (sign 1) or subtract (-1) the pages of these runs (start_pfn, nr_pages) as present pages of their zones."""
    cdef uint64_t pfn, nr, part
    for pfn, nr in runs:
        while nr:
            part = mem.pages.area_run(pfn, pfn + nr)
            adjust_present_page_count(mem, pfn, sign * <int64_t>part, page_zone(mem, pfn))
            pfn += part
            nr -= part
    return 0


cdef list unprepared_runs(Machine mem, uint64_t start, uint64_t nr):
    """Return the runs (start_pfn, nr_pages) of the range that are not prepared."""
    if mem.pages.weigh(PG_prepared, start, nr) == 0:
        return [(start, nr)]
    prepared = page_states(mem, start, nr) & PG_prepared
    return [(start + first, count) for first, count in equal_runs(prepared) if not prepared[first]]


# -- phase 2

cdef int64_t mark_pages_onlined(Machine mem, uint64_t start, uint64_t nr, int order) except -1:
    """Put the waiting pages of a range online, then notify and log."""
    cdef int64_t done, outside
    cdef int nid
    cdef bint was_empty
    check_present(mem, start, nr, "mark_pages_onlined")
    outside = outside_prepared(mem, start, nr)
    if outside >= 0:
        raise HotplugError.of(
            errno.EINVAL,
            f"mark_pages_onlined of {pfn_range(start, nr)}: section {outside} is not prepared (call prepare_online_pages)",
        )
    nid = status_change_nid(mem, start)
    was_empty = enters_empty_zone(mem, start)
    done = online_waiting_pages(mem, start, nr, order)
    notify_mark(mem, start, nr, done, nid, was_empty)
    return done


cdef int64_t online_waiting_pages(Machine mem, uint64_t start, uint64_t nr, int order) except -1:
    """online_pages_range: put the waiting pages of a range online, in blocks of at most `order`. Return how many did."""
    cdef int64_t done = 0
    cdef uint64_t pfn, run
    cdef PyThreadState *thread
    cdef list runs = without_memmaps(mem, start, nr) if memmaps_on_memory(mem) else None
    if mem.online_page_callback is not None:
        return call_back(mem, [(start, nr)] if runs is None else runs, order)
    if runs is None and nr == 1:
        done = mem.pages.online_page(start) == 1
    elif runs is None and all_waiting_sections(mem, start, nr):
        walk_range(mem, ONLINE, start, nr, order)
        done = nr
    else:
        for pfn, run in [(start, nr)] if runs is None else runs:
            thread = mem.lock.let_go(run * mem.pages.page_bits)
            done += mem.pages.online_range(pfn, run, order, False)
            mem.lock.take_back(thread)
    count_onlined(mem, start, nr, done)
    return done


cdef int notify_mark(Machine mem, uint64_t start, uint64_t nr, int64_t done, int nid, bint was_empty) except -1:
    """Log a mark and call the notifiers."""
    mem.zones.table.recomputed += mem.watermarks_at_mark
    if was_empty:
        build_all_zonelists(mem, listed_nodes(mem))
    try:
        flush_events(mem)
    finally:
        if done:
            memory_notify(mem, MEM_ONLINE, notice_of_mark(start, nr, done, nid) if mem.notifiers.heard & MEM_ONLINE else None)
    return 0


cdef int64_t call_back(Machine mem, object ranges, int order) except -1:
    """Hand every aligned block of waiting pages of the (start_pfn, nr_pages) ranges to the online_page_callback; how many
    pages went online, which generic_online_page has counted. When the callback raises, the pages that went online wait again,
    except those that were allocated meanwhile, and the exception goes on; counts of frees and merges stay."""
    cdef uint64_t pfn, nr, end, stop
    cdef int64_t done = 0
    cdef int block
    cdef bint stale = mem.zones.table.stale
    cdef dict offline = {}
    cdef bint by_array = mem.calls_back_by_array
    callback, given = mem.online_page_callback, []
    with Undo() as undo:
        (<Undo>undo).note(<undo_step>wait_again, mem, (given, offline, stale))
        for pfn, nr in ranges:
            note_offline_sections(mem, pfn, nr, offline)
            end = pfn + nr
            while pfn < end:
                block = waiting_block(mem, pfn, end, order)
                if block < 0:
                    pfn += 1
                    continue
                stop = pfn + (<uint64_t>1 << block)
                while by_array and stop < end and waiting_block(mem, stop, end, order) == block:
                    stop += <uint64_t>1 << block
                given.append((pfn, stop - pfn))
                mem.lock.call_back(callback, (np.arange(pfn, stop, 1 << block, np.int64) if by_array else pfn, block))
                while pfn < stop:
                    done += online_of_block(mem, pfn, 1 << block)
                    pfn += <uint64_t>1 << block
    mem.zones.table.stale |= mem.watermarks_at_mark
    return done


cdef int waiting_block(Machine mem, uint64_t pfn, uint64_t end, int order) noexcept nogil:
    """The order, at most `order`, of the aligned block of waiting pages before `end` that begins at a page; -1: it does not
    wait."""
    cdef int block = 0
    if mem.pages.state(pfn) != PAGE_WAITING:
        return -1
    while block < order and not pfn & ((<uint64_t>2 << block) - 1) and pfn + (<uint64_t>2 << block) <= end \
            and mem.pages.all_waiting(pfn, <uint64_t>2 << block):
        block += 1
    return block


cdef uint64_t online_of_block(Machine mem, uint64_t pfn, uint64_t nr) noexcept nogil:
    """The pages of a block that are online, if all of it is prepared."""
    if mem.pages.weigh(PG_prepared, pfn, nr) < nr:
        return 0
    return nr - mem.pages.weigh(PG_reserved, pfn, nr) - mem.pages.weigh(PG_offline, pfn, nr)


cdef int wait_again(Machine mem, tuple what) except -1:
    """Undo call_back. `what`: the blocks given to the callback, which sections were offline, and whether the
    watermarks were stale."""
    cdef uint64_t pfn, size
    given, offline, stale = what
    for pfn, size in given:
        mem.pages_onlined -= reserve_free_pages(mem, pfn, size)
    for section, had_memory in offline.items():
        section_went_back(mem, section, had_memory)
    # watermarks that were computed from these pages meanwhile are computed again
    mem.zones.table.stale = mem.watermarks_at_mark and (stale or not mem.zones.table.stale)
    return 0


cdef int note_offline_sections(Machine mem, uint64_t start, uint64_t nr, dict offline) except -1:
    """Return {section: whether its node has memory} for the offline sections of a range."""
    cdef uint64_t section
    for section in range(start >> mem.sections.pfn_section_shift, ((start + nr - 1) >> mem.sections.pfn_section_shift) + 1):
        if not test_bit(mem.sections.online.words, section):
            offline[section] = bool(mem.zones.table.nodes[mem.nid_of[section]].has_memory)
    return 0


cdef uint64_t reserve_free_pages(Machine mem, uint64_t start, uint64_t nr) noexcept nogil:
    """Make the free pages of a range wait again. Return how many."""
    cdef uint64_t pfn, reserved = 0
    for pfn in range(start, start + nr):
        if mem.pages.state(pfn) & PG_buddy:
            reserved += mem.pages.reserve_range(pfn, 1)
    return reserved


cdef void section_went_back(Machine mem, uint64_t section, bint had_memory) noexcept nogil:
    """Undo section_went_online for a section that was offline, unless a page of it stays online. had_memory: whether the
    node had memory before."""
    cdef uint64_t shift = mem.sections.pfn_section_shift, pfn, other
    cdef int nid = mem.nid_of[section]
    for pfn in range(section << shift, (section + 1) << shift):
        if mem.pages.state(pfn) & (PG_prepared | PG_reserved) == PG_prepared:
            return
    section_went_offline(mem, section)
    if had_memory:
        return
    for other in range(mem.sections.nr_sections):
        if test_bit(mem.sections.online.words, other) and mem.nid_of[other] == nid:
            return
    mem.zones.table.nodes[nid].has_memory = False


cdef int64_t generic_online_page(Machine mem, uint64_t start, int order) except -1:
    """Put a block of waiting pages online. Return how many went online."""
    cdef uint64_t size = <uint64_t>1 << order, pfn, run
    cdef int64_t done = 0
    check_present(mem, start, size, "generic_online_page")
    lists_of(mem).at_tail(start, size)
    for pfn, run in without_memmaps(mem, start, size) if memmaps_on_memory(mem) else ((start, size),):
        done += mem.pages.online_range(pfn, run, order, False)
    count_onlined(mem, start, size, done)
    return done


cdef int64_t mark_pfns_onlined(Machine mem, object array, pfn_batch *batch) except -1:
    """Put any pages online, in the order of the array that the batch was made from."""
    cdef int64_t outside, done
    cdef uint64_t i
    cdef int nid
    cdef bint was_empty
    cdef PyThreadState *thread
    if memmaps_on_memory(mem):
        array = as_batch(without_memmap_pages(mem, as_pfn_array(array)), batch)
    if batch.nr == 0:
        return 0
    batch.one_by_one = mem.online_page_callback is not None
    gather(mem, batch, array)
    outside = batch_outside_prepared(mem, batch)
    if outside >= 0:
        mem.pages.ungather(batch)
        check_pfn(mem, batch.end - 1, "a pfn")
        raise HotplugError.of(errno.EINVAL, f"mark_pfns_onlined: the section of pfn {outside:#x} is not present or not "
            f"prepared")
    nid = status_change_nid(mem, batch.first)
    was_empty = enters_empty_zone(mem, batch.first)
    if mem.online_page_callback is not None:
        done = call_back(mem, [(pfn_at(batch, i), 1) for i in range(batch.nr)], 0)
    else:
        thread = mem.lock.let_go(batch.nr * (mem.pages.page_bits + 64))
        done = online_batch(mem, batch)
        mem.lock.take_back(thread)
    notify_mark(mem, batch.first, batch.end - batch.first, done, nid, was_empty)
    return done


cdef int64_t online_range(Machine mem, uint64_t start, uint64_t nr, int order) noexcept nogil:
    """The waiting pages of a range go online without notifications; return how many did, or -EINVAL when some of it is not
    there, not prepared, or the order is too large. order -1: as the rules say."""
    cdef int64_t done
    if nr == 0 or nr > mem.pages.nr_pages or start > mem.pages.nr_pages - nr \
            or mem.sections.missing(start, nr) != <uint64_t>-1 or outside_prepared(mem, start, nr) >= 0 \
            or order > mem.pages.max_order:
        return -EINVAL
    done = mem.pages.online_range(start, nr, mem.online_order if order < 0 else order, all_waiting_sections(mem, start, nr))
    count_onlined(mem, start, nr, done)
    return done


cdef int online_page(Machine mem, uint64_t pfn) noexcept nogil:
    """A waiting page goes online without a notification: 1; 0 when it is not Reserved, -EINVAL when it is not there or not
    prepared."""
    cdef uint64_t section = pfn >> mem.sections.pfn_section_shift
    cdef int done
    if pfn >= mem.pages.nr_pages:
        return -EINVAL
    done = mem.pages.online_page(pfn)
    if done == 1:
        if not test_bit(mem.sections.online.words, section):
            section_went_online(mem, section)
        mem.pages_onlined += 1
    elif done < 0:
        if not test_bit(mem.sections.present.words, section) or outside_prepared(mem, pfn, 1) >= 0:
            return -EINVAL
        done = 0
    if mem.watermarks_at_mark:
        mem.zones.table.stale = True
    return done


cdef int64_t online_pfns(Machine mem, const uint64_t *pfns, uint64_t nr) noexcept nogil:
    """Any pages go online without notifications; return how many did, -EINVAL if one is absent, unprepared or given twice."""
    cdef pfn_batch batch
    cdef int gathered = try_gather(mem, pfns, nr, &batch)
    if gathered <= 0:
        return gathered
    if batch_outside_prepared(mem, &batch) >= 0:
        mem.pages.ungather(&batch)
        return -EINVAL
    return online_batch(mem, &batch)


# -- both

cdef int64_t online_pages(Machine mem, uint64_t start, uint64_t nr, int online_type) except -1:
    """Prepare, put every page online, then update zonelists and watermarks, and notify. A failure changes nothing."""
    cdef int64_t done
    cdef int nid, nid_normal
    cdef bint was_empty
    cdef Undo undo = Undo.__new__(Undo)
    try:
        prepare(mem, start, nr, online_type, undo)
        nid = status_change_nid(mem, start)
        nid_normal = status_change_nid_normal(mem, page_zone(mem, start), nr)
        was_empty = (0 if mem.zones.table.present_is_managed else nr) == zone_present(&mem.zones.table, page_zone(mem, start))
        if mem.per_cpu_pages is not None:      # making plain lists takes a twentieth of the time of onlining a section
            lists_of(mem).at_tail(start, nr)
        done = online_waiting_pages(mem, start, nr, mem.online_order)
    except BaseException:
        undo.roll_back()
        raise
    range_went_online(mem, start, nr)
    if mem.always_notify_online:
        mem.zones.table.nodes[mem.nid_of[start >> mem.sections.pfn_section_shift]].has_memory = True
    if not mem.min_free_kbytes_follows:
        mem.zones.table.stale = True
        mem.zones.table.recomputed += 1
        if not mem.watermarks_at_mark:
            refresh(&mem.zones.table)     # pages that are marked later do not count
    try:
        if was_empty:
            build_all_zonelists(mem, listed_nodes(mem))
    finally:
        if mem.min_free_kbytes_follows:
            recompute_watermarks(mem)
    try:
        flush_events(mem)
    finally:
        if done or mem.always_notify_online:
            notice = make_notice(mem, start, nr, done, nid, nid_normal) if mem.notifiers.heard & MEM_ONLINE else None
            memory_notify(mem, MEM_ONLINE, notice)
    return done


def memory_block_online(Machine mem not None, start_pfn, nr_pages, online_type):
    """online_pages of a memory block, with the notices that blocks send since 6.9. MEM_FINISH_OFFLINE follows a veto or a
    failure."""
    cdef uint64_t start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
    cdef int kind = as_online_type(online_type)
    _held = mem.mem_hotplug_begin("online_pages")
    check_present(mem, start, nr, "online_pages")
    notice = block_notice(mem, start, nr)
    with Undo() as undo:
        if mem.rules.block_notices:
            (<Undo>undo).note(<undo_step>finish_offline, mem, (start // mem.pages_per_block, notice))
            memory_notify_going(mem, MEM_PREPARE_ONLINE, notice, "memory_block_online")
        return online_pages(mem, start, nr, kind)


cdef int finish_offline(Machine mem, tuple what) except -1:
    """MEM_FINISH_OFFLINE, unless the memory block is online; `what`: its number and the notice."""
    return 0 if block_is_online(mem, what[0]) else memory_notify(mem, MEM_FINISH_OFFLINE, what[1])
