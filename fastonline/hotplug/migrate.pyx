"""Page migration: owners of movable pages, and moving pages out of a range (do_migrate_range, mm/memory_hotplug.c)."""

import errno

import numpy as np

from fastonline.core.buffer cimport data_of
from fastonline.core.lock cimport Held
from fastonline.core.pageflags cimport PAGE_IN_USE, PG_buddy, PG_offline, PG_prepared, PG_tail
from fastonline.core.types cimport int64_t, uint64_t
from fastonline.core.undo cimport Undo, undo_step
from fastonline.hotplug.arguments cimport as_pfn_array, check_present
from fastonline.hotplug.machine cimport Machine, tell_listeners
from fastonline.hotplug.page_alloc cimport alloc_contig_range, free_block, undo_isolate

from fastonline.core.runs import range_list, runs
from fastonline.core.undo import Undo
from fastonline.errors import HotplugError, pfn_range
from fastonline.hotplug.zonelists import movable_zonelist

__all__ = [
    "CLUSTER", "RATELIMIT_BURST", "MovablePages", "alloc_movable", "first_unmovable", "free_movable", "isolate",
    "migrate_range",
    "movable_pages", "put_back",
]

# Compiled, so that no signal handler runs between a page's being taken and its owner's knowing: the interpreter calls handlers
# in Python code only. NumPy has functions that are Python code, or that call handlers themselves (np.array of a list): what
# undoes something, or calls such a function in the middle of a step, holds signals back (MachineLock.hold_uninterrupted).

cdef Machine as_machine(object of):
    """TypeError for what is not a Memory; None would pass for one in compiled code."""
    if of is None:
        raise TypeError("expected a fastonline.Memory, not None")
    return of


cdef Held step(object of):
    """The lock of a machine for one step that changes it: no handler comes where the per-CPU lists have a part in it."""
    cdef Machine mem = as_machine(of)
    return mem.lock.hold() if mem.per_cpu_pages is None else mem.lock.hold_uninterrupted()


CLUSTER = 32
"""COMPACT_CLUSTER_MAX: pages that alloc_contig_range isolates at a time."""

RATELIMIT_BURST = 10
"""DEFAULT_RATELIMIT_BURST: pages that do_migrate_range logs in five seconds."""


class MovablePages:
    """Movable pages of one owner, such as a process or a balloon. offline_pages may migrate them.

    mem: their Memory; its page_owners lists this owner while it has pages. pfns: int64 array, in the order of allocation.
    on_move: called with two arrays, old and new pfns, after some of them have moved.
    """

    balloon = False
    """Whether their migration counts as a balloon's (balloon_migrate)."""
    pinned = 0
    """How many of the first pages are pinned by a device or a pipe. offline_pages cannot migrate them."""
    mapped = True
    """Whether a program maps them."""

    def __init__(self, mem, on_move=None):
        if on_move is not None and not callable(on_move):
            raise TypeError(f"on_move must be callable, not {on_move!r}")
        self._mem = as_machine(mem)
        self._on_move = on_move
        self._room = self.pfns = np.empty(0, np.int64)     # pfns is the first part of the room
        self._offline = False

    @property
    def offline(self):
        """Whether the pages are PG_offline, given back to the host."""
        return self._offline

    def __repr__(self):
        return f"<{type(self).__name__} pages={len(self.pfns)} offline={self.offline}>"

    def __len__(self):
        return len(self.pfns)

    def alloc(self, nr, nid=0):
        """Allocate `nr` pages, as for a program on node `nid`. All or nothing: MemoryError. ValueError if the owner has
        offline pages."""
        if self.offline:
            raise ValueError("an owner of offline pages cannot allocate pages that are in use")
        _held = step(self._mem)
        with Undo() as undo:
            pfns = alloc_movable(self._mem, nr, movable_zonelist(self._mem, nid))
            (<Undo>undo).note(<undo_step>free_again, self._mem, pfns)
            if len(pfns) < nr:
                raise MemoryError(f"cannot allocate {nr} movable pages: {len(pfns)} are available")
            self.extend(pfns)

    def adopt(self, pfns):
        """Become the owner of pages in use, or of offline pages where `offline`. pfns: one-dimensional integer array. TypeError
        if they are not integers. ValueError, and no change, for a page in another state or one that has an owner."""
        cdef Machine mem = self._mem
        cdef uint64_t pfn
        cdef int want = PG_prepared | PG_offline if self.offline else PG_prepared
        _held = step(mem)
        array = as_pfn_array(pfns)
        for pfn in array.tolist():
            if pfn >= mem.pages.nr_pages or mem.pages.state(pfn) != want:
                raise ValueError(f"cannot adopt page {pfn:#x}: it is not {'offline' if self.offline else 'in use'}")
        array = array.astype(np.int64)
        owned = np.sort(np.concatenate([array, *[owner.pfns for owner in mem.owners]]))
        twice = owned[1:][owned[1:] == owned[: len(owned) - 1]]
        if len(twice):
            raise ValueError(f"cannot adopt page {int(twice[0]):#x}: it has an owner")
        self.extend(array)

    def extend(self, pfns):
        """Become the owner of pages that were allocated just now. Unlike `adopt` this checks nothing. pfns: int64 array."""
        nr, more = len(self.pfns), len(pfns)
        if self.pfns.base is not self._room or nr + more > len(self._room):
            room = np.empty(nr + more + (nr >> 1), np.int64)
            room[:nr] = self.pfns
            self._room = room
        self._room[nr : nr + more] = pfns
        self._own(self._room[: nr + more])

    def _own(self, pfns):
        """Set the pages of this owner."""
        cdef list owners = (<Machine>self._mem).owners
        self.pfns = pfns
        if not len(pfns) and self in owners:
            owners.remove(self)
        elif len(pfns) and self not in owners:
            owners.append(self)

    def give(self, nr):
        """Give up the last `nr` pages, newest first, without freeing them. Returns their pfns, (nr,) int64. ValueError if there
        are fewer."""
        at = len(self.pfns) - nr
        if nr < 0 or at < 0:
            raise ValueError(f"cannot give {nr} pages: the owner has {len(self.pfns)}")
        given = self.pfns[at:][::-1].copy()
        self._own(self.pfns[:at])
        return given

    def free(self):
        """Free all of them, first page first."""
        _held = step(self._mem)
        none = self.pfns[:0]
        free_movable(self._mem, self.pfns)
        self._own(none)

    def free_at(self, indices):
        """Free the pages at these indices into pfns, in that order. All or nothing: IndexError for an index out of range,
        ValueError for a repeated one."""
        indices = np.asarray(indices, np.int64)
        _held = step(self._mem)
        keep = np.ones(len(self.pfns), bool)
        keep[indices] = False
        if len(self.pfns) - np.count_nonzero(keep) < len(indices):
            raise ValueError("a page is given twice")
        kept = self.pfns[keep]
        free_movable(self._mem, self.pfns[indices])
        self._own(kept)

    def within(self, start_pfn, nr_pages):
        """Return the indices into pfns of the pages in the range start_pfn, nr_pages, an int64 array."""
        return np.flatnonzero((self.pfns >= start_pfn) & (self.pfns < start_pfn + nr_pages))

    def moved(self, indices, new):
        """Record that the pages at these indices into pfns moved to `new` (an int64 array of the same length)."""
        old = self.pfns[indices]
        self.pfns[indices] = new
        self.tell_moved(old, new)

    def tell_moved(self, old, new):
        """Call on_move with the pfns before and after a move, `old` and `new` (int64 arrays)."""
        if self._on_move is not None:
            as_machine(self._mem).lock.call_back(self._on_move, (old, new))


def alloc_movable(mem, nr, zonelist):
    """Allocate up to `nr` movable pages from these zones, as for a process. Returns an int64 array."""
    _held = step(mem)
    if mem.pcp is not None:
        return mem.pcp.alloc(nr, zonelist)
    pfns, got = np.empty(nr, np.int64), 0
    with Undo() as undo:      # another thread may take a zone's last pages
        for z in zonelist:
            zone = mem.zones.numbered(z)
            take = min(nr - got, zone.free_pages)
            fresh = mem.alloc_pages_bulk(take, 0, zone)
            (<Undo>undo).note(<undo_step>free_again, mem, fresh)
            pfns[got : got + take] = fresh
            got += take
            if got == nr:
                break
        return pfns[:got]


cdef int free_again(object mem, object pfns) except -1:
    free_movable(mem, pfns)
    return 0


def free_movable(mem, pfns):
    """Free pages of alloc_movable."""
    if not len(pfns):
        return
    _held = step(mem)
    if mem.pcp is not None:
        mem.pcp.free(pfns)
    else:
        mem.free_pfns(pfns)


def movable_pages(mem, start_pfn, nr_pages):
    """Return the pages in use of the range that can be migrated, an int64 array."""
    return np.concatenate([np.empty(0, np.int64)] + [
        owner.pfns[owner.within(start_pfn, nr_pages)] for owner in mem.page_owners if not owner.offline
    ])


def first_unmovable(mem, start_pfn, nr_pages):
    """Return the first page in use of the range that has no owner, or None (has_unmovable_pages, 6.1)."""
    in_use = (mem.page_states(start_pfn, nr_pages) & ~np.uint8(PG_tail)) == PAGE_IN_USE
    in_use[movable_pages(mem, start_pfn, nr_pages) - start_pfn] = False
    return start_pfn + int(in_use.argmax()) if in_use.any() else None


def migrate_range(Machine mem not None, start_pfn, nr_pages, contig=False):
    """Move every page with an owner out of the range, from which nothing is allocated meanwhile. Returns an int64 array of the
    pages of the range that are in use now without an owner: the caller keeps them or puts them back. Empty if nothing moved.

    offline_pages moves pages by ascending address, since 6.12 by descending (do_migrate_range), and only to other nodes if
    these have memory (new_migration_target). contig: as alloc_contig_range, COMPACT_CLUSTER_MAX pages at a time, each cluster
    in reverse (isolate_migratepages_block), to any node. Pages of Movable go to any zone, pages of kernel zones to kernel zones
    (alloc_migration_target, 6.1).

    HotplugError EINTR when pages do not fit or are pinned; under 2.6.25 ENOMEM or EAGAIN (Rules.offline_times_out). Pages that
    moved stay moved; the free pages of the range become free again. The same holds when a callback of an owner raises.
    """
    _held = mem.lock.hold_uninterrupted()
    leaving = [(owner, indices) for owner in mem.owners if len(indices := owner.within(start_pfn, nr_pages))]
    if not leaving:
        return np.empty(0, np.int64)
    pfns = np.concatenate([owner.pfns[indices] for owner, indices in leaving])
    whose = np.repeat(np.arange(len(leaving)), [len(indices) for _, indices in leaving])
    index = np.concatenate([indices for _, indices in leaving])
    held = np.concatenate([indices < owner.pinned for owner, indices in leaving])
    order = np.argsort(pfns, kind="stable")
    if contig:
        order = np.concatenate([order[at : at + CLUSTER][::-1] for at in range(0, len(order), CLUSTER)])
    elif mem.rules.migrates_from_the_end:
        order = order[::-1]
    stuck = pfns[order][held[order]]
    order = order[~held[order]]
    wanted = len(order)
    zone = mem.zone_of(start_pfn)
    nodes = list(mem.nodes)
    if not contig:
        nodes = [nid for nid in nodes if nid != zone.nid and mem.zones.has_memory(nid)] or [zone.nid]
    highest = "Movable" if zone.name in ("Movable", "HighMem") else "Normal"
    log = []
    cdef Isolated isolated = Isolated(start_pfn, nr_pages)
    cdef Targets to = Targets(wanted)
    cdef int64_t start = start_pfn, at, got
    with Undo() as undo:
        (<Undo>undo).note(<undo_step>log_failure, mem, log)
        (<Undo>undo).note(<undo_step>put_isolated_back, mem, isolated)
        isolate_pages(mem, isolated)
        (<Undo>undo).note(<undo_step>free_unowned, mem, to)
        to.pfns = new = alloc_movable(mem, wanted, movable_zonelist(mem, zone.nid, nodes, highest))
        got = len(new)
        order = order[:got]
        for i, (owner, _) in enumerate(leaving):
            own = whose[order] == i
            if not own.any():
                continue
            old, targets, moving = pfns[order[own]], new[own], index[order[own]]
            if owner.offline:
                swap_offline(mem, old, targets)
            owner.pfns[moving] = targets
            for at in range(got):
                to.is_owned[at] |= (<const char *>data_of(own))[at]
            for at in range(<int64_t>len(old)):
                isolated.is_taken[(<const int64_t *>data_of(old))[at] - start] = True
            mem.pages_migrated += len(old)
            mem.balloon_migrated += len(old) if owner.balloon else 0
            owner.tell_moved(old, targets)
        if len(order) < len(pfns):
            # those that are held get a page to move to, and give it back
            free_movable(mem, alloc_movable(mem, len(stuck), movable_zonelist(mem, zone.nid, nodes, highest)))
            log += failure_log(stuck, leaving, nodes if len(order) < wanted else (), highest)
            what = f"{len(pfns) - len(order)} pages of {pfn_range(start_pfn, nr_pages)}"
            if contig or not mem.rules.offline_times_out:
                raise HotplugError.of(errno.EINTR, f"{what} cannot be migrated: no free pages (the kernel would keep trying)")
            if len(order) < wanted:
                raise HotplugError.of(errno.ENOMEM, f"{what} cannot be migrated: no free pages")
            raise HotplugError.of(errno.EAGAIN, f"{what} are pinned: timed out")
        # pages that another thread allocated before the isolation stay that thread's
        used = (mem.page_states(start_pfn, nr_pages) & ~np.uint8(PG_tail)) == PAGE_IN_USE
        used &= ~isolated.taken
        if used.any():
            other = start_pfn + int(used.argmax())
            raise HotplugError.of(errno.EBUSY, f"{pfn_range(start_pfn, nr_pages)}: page {other:#x} is in use")
        return isolated.pfns()


cdef int swap_offline(Machine mem, object old, object new) except -1:
    """Give the new pages of an owner to the host in place of the old ones."""
    with Undo() as undo:
        mem.set_pfns_offline(new)
        (<Undo>undo).note(<undo_step>clear_offline, mem, new)
        mem.clear_pfns_offline(old)
    return 0


cdef int clear_offline(object mem, object pfns) except -1:
    mem.clear_pfns_offline(pfns)
    return 0


cdef class Targets:
    """The pages that others move to. Which of them have an owner is noted in a byte each: undoing takes no memory."""
    cdef object pfns, owned
    cdef char *is_owned

    def __cinit__(self, nr):
        self.owned = np.zeros(nr, bool)
        self.is_owned = <char *>data_of(self.owned)


cdef int free_unowned(Machine mem, Targets to) except -1:
    """Free the pages without an owner, those of owners after the one whose callback raised (an undo_step)."""
    if to.pfns is None:
        return 0
    cdef int64_t *numbers = <int64_t *>data_of(to.pfns)
    cdef int64_t i, nr = 0
    for i in range(<int64_t>len(to.pfns)):
        if not to.is_owned[i]:
            numbers[nr] = numbers[i]
            nr += 1
    if mem.per_cpu_pages is not None:
        free_movable(mem, to.pfns[:nr])
        return 0
    for i in range(nr):
        free_block(mem, numbers[i], 0)
    return 0


cdef int log_failure(Machine mem, list lines) except -1:
    if lines:
        tell_listeners(mem, [("kmsg", line) for line in lines])
    return 0


def failure_log(stuck, leaving, nodes, highest):
    """Return the kernel's log lines for pages that cannot move: the first pinned page (do_migrate_range), and the nodes without
    room (warn_alloc)."""
    lines = []
    if nodes:
        mode, flags = (0x144CCA, "GFP_HIGHUSER_MOVABLE") if highest == "Movable" else (0x144CC8, "GFP_USER|__GFP_MOVABLE")
        lines.append(f"page allocation failure: order:0, mode:{mode:#x}({flags}|__GFP_RETRY_MAYFAIL|__GFP_COMP), "
                     f"nodemask={range_list(nodes)}")
    for pfn in stuck[:RATELIMIT_BURST].tolist():
        mapped = any([owner.mapped for owner, indices in leaving if pfn in owner.pfns[indices]])
        lines += [f"migrating pfn {pfn:x} failed ret:16", f"page: refcount:{2 + mapped} mapcount:{int(mapped)} pfn:{pfn:#x}",
                  "page dumped because: migration failure"]
    return lines


cdef class Isolated:
    """The isolated pages of a range, a byte for each page, so that undoing needs no memory."""
    cdef uint64_t start, nr
    cdef object taken
    cdef char *is_taken

    def __cinit__(self, start, nr):
        self.start, self.nr, self.taken = start, nr, np.zeros(nr, bool)
        self.is_taken = <char *>data_of(self.taken)

    cdef object pfns(self):
        return np.flatnonzero(self.taken) + self.start


def isolate(Machine mem not None, start_pfn, nr_pages):
    """Allocate the free pages of a range, so that nothing else can. Returns their pfns."""
    _held = mem.lock.hold_uninterrupted()
    cdef uint64_t start = start_pfn, nr = nr_pages
    check_present(mem, start, nr, "isolate")
    isolated = Isolated(start, nr)
    with Undo() as undo:
        (<Undo>undo).note(<undo_step>put_isolated_back, mem, isolated)
        isolate_pages(mem, isolated)
        return isolated.pfns()


cdef int isolate_pages(Machine mem, Isolated isolated) except -1:
    """Take the free pages of a range and mark them as taken."""
    cdef uint64_t first = 0, end, i, start = isolated.start, nr = isolated.nr
    while first < nr:
        end = first
        while end < nr and mem.pages.state(start + end) & PG_buddy:
            end += 1
        if end > first:
            alloc_contig_range(mem, start + first, end - first)
        for i in range(first, end):
            isolated.is_taken[i] = True
        first = end + 1
    return 0


cdef int put_isolated_back(Machine mem, Isolated isolated) except -1:
    """Undo isolate_pages, and free the pages that were emptied meanwhile (an undo_step). All go to the tail of the free
    lists."""
    cdef uint64_t first = 0, end
    while first < isolated.nr:
        end = first
        while end < isolated.nr and isolated.is_taken[end]:
            end += 1
        if end > first:
            undo_isolate(mem, isolated.start + first, end - first)
        first = end + 1
    if mem.per_cpu_pages is not None:
        mem.per_cpu_pages.at_tail(isolated.pfns())
    return 0


def put_back(Machine mem not None, pfns):
    """Undo isolate, and free the pages that were emptied meanwhile. All go to the tail of the free lists."""
    _held = mem.lock.hold_uninterrupted()
    if mem.per_cpu_pages is not None:
        mem.per_cpu_pages.at_tail(pfns)
    for pfn, nr in runs(pfns):
        undo_isolate(mem, pfn, nr)
