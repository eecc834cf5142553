import errno

from fastonline.core.engine cimport pfn_at, run_at
from fastonline.core.pageflags cimport (
    PAGE_IN_USE, PAGE_OFFLINE, PAGE_WAITING, PG_buddy, PG_offline, PG_prepared, PG_reserved, PG_tail,
)
from fastonline.core.types cimport int64_t
from fastonline.hotplug.arguments cimport check_present, find_owned, find_owned_in, gather
from fastonline.hotplug.section_states cimport online_batch
from fastonline.hotplug.watermarks cimport refresh
from fastonline.hotplug.zone_ranges cimport count_offline

from fastonline.core.pageflags import decode_page_flags
from fastonline.errors import HotplugError

__all__ = []

cdef dict STATE_NAMES = {PAGE_IN_USE: "in use", PAGE_OFFLINE: "PG_offline"}


# -- ranges

cdef uint64_t set_page_reserved(Machine mem, uint64_t start, uint64_t nr) except? 0xFFFFFFFFFFFFFFFF:
    check_present(mem, start, nr, "set_page_reserved")
    refuse_owned(find_owned(mem, start, nr))
    refresh(&mem.zones.table)
    count_offline(mem, start, nr, -1)
    return mem.pages.reserve_range(start, nr)


cdef int refuse_owned(int64_t pfn) except -1:
    """EBUSY naming the page that find_owned or find_owned_in has found, if it has."""
    if pfn >= 0:
        raise HotplugError.of(errno.EBUSY, f"page {pfn:#x} has an owner")
    return 0


cdef int set_page_offline(Machine mem, uint64_t start, uint64_t nr, bint offline) except -1:
    """Give pages in use to the host; or, with `offline` 0, take them back."""
    cdef uint64_t pfn
    cdef int64_t owned
    cdef int want = PAGE_IN_USE if offline else PAGE_OFFLINE
    check_present(mem, start, nr, "set_page_offline" if offline else "clear_page_offline")
    for pfn in range(start, start + (0 if all_are(mem.pages, start, nr, want) else nr)):
        if mem.pages.state(pfn) & ~PG_tail != want:
            raise ValueError(f"page {pfn:#x} is not {STATE_NAMES[want]}: {decode_page_flags(mem.pages.state(pfn))}")
    owned = find_owned(mem, start, nr)
    if owned >= 0:
        raise ValueError(f"page {owned:#x} has an owner")
    refresh(&mem.zones.table)
    change_offline(mem, start, nr, offline)
    return 0


cdef bint all_are(Engine pages, uint64_t start, uint64_t nr, int want) noexcept nogil:
    """Whether every page of a range is in this state: in use (tail pages too), waiting or offline."""
    return (
        pages.weigh(PG_prepared, start, nr) == nr
        and pages.weigh(PG_reserved, start, nr) == (nr if want & PG_reserved else 0)
        and pages.weigh(PG_offline, start, nr) == (nr if want & PG_offline else 0)
        and pages.weigh(PG_buddy, start, nr) == 0
    )


cdef void change_offline(Machine mem, uint64_t start, uint64_t nr, bint offline) noexcept nogil:
    if offline:
        mem.pages.set_offline(start, nr)
        count_offline(mem, start, nr, 1)
    else:
        count_offline(mem, start, nr, -1)
        mem.pages.clear_offline(start, nr)


# -- arrays of pfns: what a driver that keeps pages back does batch by batch

cdef uint64_t set_pfns_reserved(Machine mem, object array, pfn_batch *batch) except? 0xFFFFFFFFFFFFFFFF:
    cdef uint64_t i = 0, run
    if batch.nr == 0:
        return 0
    batch.one_by_one = True
    gather(mem, batch, array)
    if mem.sections.missing(batch.first, batch.end - batch.first) != <uint64_t>-1:
        while i < batch.nr:
            run = run_at(batch, i)
            check_present(mem, pfn_at(batch, i), run, "set_pfns_reserved")
            i += run
    refuse_owned(find_owned_in(mem, batch))
    refresh(&mem.zones.table)
    i = 0
    while i < batch.nr and mem.zones.table.present_is_managed:
        run = run_at(batch, i)
        count_offline(mem, pfn_at(batch, i), run, -1)
        i += run
    return mem.pages.reserve_batch(batch)


cdef int set_pfns_offline(Machine mem, object array, pfn_batch *batch, bint offline) except -1:
    """set_page_offline for each of them."""
    cdef uint64_t i = 0, run
    cdef int want = PAGE_IN_USE if offline else PAGE_OFFLINE
    if take_batch(mem, batch, "set_pfns_offline" if offline else "clear_pfns_offline", array, want, want, STATE_NAMES[want]):
        while i < batch.nr:
            run = run_at(batch, i)
            change_offline(mem, pfn_at(batch, i), run, offline)
            i += run
    return 0


cdef int free_reserved_pfns(Machine mem, object array, pfn_batch *batch) except -1:
    """Pages given back to the host are waiting first, then all of them go online. Where they were present all along, nothing is
    recomputed."""
    cdef uint64_t i = 0, run
    cdef bint waiting = False
    if take_batch(mem, batch, "free_reserved_pfns", array, PAGE_WAITING, PAGE_OFFLINE,
                  "Reserved in a prepared range, or PG_offline"):
        while i < batch.nr:
            run = run_at(batch, i)
            waiting |= mem.pages.weigh(PG_offline, pfn_at(batch, i), run) < run
            if mem.pages.weigh(PG_offline, pfn_at(batch, i), run):
                count_offline(mem, pfn_at(batch, i), run, -1)
                mem.pages.reserve_range(pfn_at(batch, i), run)
            i += run
        online_batch(mem, batch)
        mem.zones.table.stale &= waiting
    return 0


cdef int64_t find_other(Engine pages, const pfn_batch *batch, uint64_t first, uint64_t nr, int want, int other) noexcept nogil:
    """The index of the first page in neither state among `nr` pages of a batch from the index `first` on, or -1."""
    cdef uint64_t i
    cdef int state
    for i in range(first, first + nr):
        state = pages.state(pfn_at(batch, i)) & ~PG_tail
        if state != want and state != other:
            return i
    return -1


cdef int take_batch(Machine mem, pfn_batch *batch, str what, object array, int want, int other, str name) except -1:
    """Gather an array of pages each of which has one of two states, and bring the watermarks up to date; 0: it is empty. An
    error leaves nothing gathered."""
    cdef Engine pages = mem.pages
    cdef pfn_batch given
    cdef uint64_t i = 0, run, pfn
    cdef int64_t bad = -1
    if batch.nr == 0:
        return 0
    batch.one_by_one = True
    try:
        gather(mem, batch, array)
    except HotplugError as e:
        raise ValueError(e.strerror) from None
    given = batch[0]        # what is local stays in registers
    while i < given.nr and bad < 0:
        run = run_at(&given, i)
        pfn = pfn_at(&given, i)
        if run < LONG_RUN or not (all_are(pages, pfn, run, want) or all_are(pages, pfn, run, other)):
            bad = find_other(pages, &given, i, run, want, other)
        i += run
    if bad >= 0:
        pfn = pfn_at(batch, bad)
        raise ValueError(f"{what}: pfns[{bad}] = {pfn:#x} is not {name}: {decode_page_flags(pages.state(pfn))}")
    bad = find_owned_in(mem, batch)
    if bad >= 0:
        raise ValueError(f"{what}: page {bad:#x} has an owner")
    refresh(&mem.zones.table)
    return 1
