"""Page migration: owners of movable pages, and moving pages out of a range (do_migrate_range, mm/memory_hotplug.c)."""

import errno
import warnings

import numpy as np

from libc.string cimport memmove

from fastonline.core.bitmap cimport Bitmap, bitmap_set, clear_bit, read_only, set_bit
from fastonline.core.buffer cimport data_of
from fastonline.core.engine cimport pfn_batch
from fastonline.core.lock cimport Held
from fastonline.core.numbers cimport as_number, as_uint64
from fastonline.core.pageflags cimport PAGE_IN_USE, PAGE_OFFLINE, PG_buddy, PG_tail
from fastonline.core.types cimport int64_t, uint64_t
from fastonline.core.undo cimport Undo, undo_step
from fastonline.hotplug.arguments cimport as_batch, as_pfn_array, check_present, find_owned
from fastonline.hotplug.machine cimport Machine, deliver_events, has_owner, hold_step
from fastonline.hotplug.page_alloc cimport PageLists, alloc_contig_range, lists_of, undo_isolate
from fastonline.hotplug.page_ops cimport LONG_RUN, all_are, set_pfns_offline
from fastonline.hotplug.page_views cimport page_states
from fastonline.hotplug.zone_ranges cimport page_zone

from fastonline.core.ram import array_of
from fastonline.core.runs import range_list, runs
from fastonline.core.undo import Undo
from fastonline.errors import HotplugError, pfn_range
from fastonline.hotplug.zonelists import movable_zonelist

__all__ = [
    "CLUSTER", "RATELIMIT_BURST", "MovablePages", "first_unmovable", "isolate", "migrate_range", "movable_pages", "put_back",
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
    return hold_step(as_machine(of))


CLUSTER = 32
"""COMPACT_CLUSTER_MAX: pages that alloc_contig_range isolates at a time."""

RATELIMIT_BURST = 10
"""DEFAULT_RATELIMIT_BURST: pages that do_migrate_range logs in five seconds."""


cdef class MovablePages:
    """MovablePages(mem, on_move=None, offline=False)
--

Movable pages of one owner, such as a process or a balloon. offline_pages may migrate them.

    mem: their Memory. It keeps the owner in page_owners while the owner has pages: a program that drops its last reference
    frees nothing, as a process goes on when nobody watches it. `free` frees the pages, also by
    ``for owner in mem.page_owners: owner.free()``. on_move: called with two int64 arrays, old and new pfns, after some pages
    have moved. offline: whether the pages are PG_offline. Nobody else can free, reserve or give away a page that has an owner.

    These can be set, also in a subclass: balloon, whether their migration counts as a balloon's (balloon_migrate); pinned, how
    many of the first pages are pinned by a device or a pipe, so that offline_pages cannot migrate them; mapped, whether a
    program maps them.
    """
    cdef Machine machine
    cdef object on_move, key         # key: in the machine's owners, an int that takes no memory later
    cdef object room                 # pfns is its first part, an int64 array
    cdef int64_t nr
    cdef readonly bint offline
    """Whether the pages are PG_offline, given back to the host."""
    cdef dict __dict__
    cdef object __weakref__

    balloon = False
    pinned = 0
    mapped = True

    def __cinit__(self, *args, **kwargs):
        self.room, self.key = np.empty(0, np.int64), id(self)

    def __init__(self, mem, on_move=None, offline=False):
        if self.machine is not None:
            raise RuntimeError("__init__ was called already (make another owner instead)")
        if on_move is not None and not callable(on_move):
            raise TypeError(f"on_move must be callable, not {on_move!r}")
        self.machine = as_machine(mem)
        self.on_move = on_move
        self.offline = offline

    @property
    def pfns(self):
        """The pages in the order of allocation, a read-only int64 array."""
        return read_only(self.room[: self.nr])

    def __repr__(self):
        return f"<{type(self).__name__} pages={self.nr} offline={self.offline}>"

    def __len__(self):
        return self.nr

    def alloc(self, nr, nid=0):
        """Allocate `nr` pages, as for a program on node `nid`. All or nothing: MemoryError. ValueError if the owner has
        offline pages."""
        cdef uint64_t want = as_uint64(nr, "nr")
        if self.offline:
            raise ValueError("an owner of offline pages cannot allocate pages that are in use")
        _held = step(self.machine)
        lists = lists_of(self.machine)
        with Undo() as undo:
            pfns = alloc_movable(lists, want, movable_zonelist(self.machine, nid))
            (<Undo>undo).note(<undo_step>free_again, lists, pfns)
            if <uint64_t>len(pfns) < want:
                raise MemoryError(f"cannot allocate {want} movable pages: {len(pfns)} are available")
            self.append(pfns)

    def adopt(self, pfns):
        """Become the owner of single pages in use, or of offline pages where `offline`. pfns: one-dimensional integer array.
        TypeError if they are not integers. ValueError, and no change, for a page in another state or one that has an owner."""
        _held = step(self.machine)
        self.append(as_pfn_array(pfns).astype(np.int64))

    def extend(self, pfns):
        """The old name of `adopt` for pages that were allocated just now; pfns: as there. It warns with DeprecationWarning. The
        next release drops it."""
        warnings.warn("MovablePages.extend is now adopt", DeprecationWarning, stacklevel=2)
        self.adopt(pfns)

    cdef int append(self, object pfns) except -1:
        """Own more pages, an int64 array, or ValueError."""
        cdef int64_t more = len(pfns)
        cdef const int64_t *numbers
        if not more:
            return 0
        if self.nr + more > <int64_t>len(self.room):
            room = np.empty(self.nr + more + (self.nr >> 1), np.int64)
            room[: self.nr] = self.room[: self.nr]
            self.room = room
        self.room[self.nr : self.nr + more] = pfns
        numbers = <const int64_t *>data_of(self.room)
        self.machine.owners[self.key] = self
        try:
            claim(self.machine, numbers + self.nr, more, self.offline)
        except BaseException:
            if self.nr == 0:
                self.machine.owners.pop(self.key)
            raise
        self.nr += more
        return 0

    cdef object first(self, int64_t nr):
        """Keep only the first `nr` pages. Returns the others, which have no owner then."""
        gone = self.room[nr : self.nr].copy()
        clear_owned(self.machine, gone)
        self.nr = nr
        if nr == 0:
            self.machine.owners.pop(self.key, None)
        return gone

    def give(self, nr):
        """Give up the last `nr` pages, newest first, without freeing them. Returns their pfns, (nr,) int64. ValueError if there
        are fewer."""
        cdef int64_t many = as_number(nr, "nr", 0, 1 << 62)
        if many > self.nr:
            raise ValueError(f"cannot give {many} pages: the owner has {self.nr}")
        _held = step(self.machine)
        given = np.ascontiguousarray(self.room[self.nr - many : self.nr][::-1])
        self.first(self.nr - many)
        return given

    def free(self):
        """Free all of them, first page first."""
        _held = step(self.machine)
        with Undo() as undo:
            pfns = self.first(0)
            (<Undo>undo).note(<undo_step>own_again, self, pfns)
            lists_of(self.machine).free(pfns)

    def free_at(self, indices, ordered=True):
        """Free the pages at these indices into pfns, in that order. ordered: the others stay in the order of allocation; if
        False, the last of them take the free places, which is faster. All or nothing: IndexError for an index out of range,
        ValueError for a repeated one."""
        cdef bint in_order = ordered
        indices = as_indices(indices)
        _held = step(self.machine)
        freed = self.room[: self.nr][indices]
        places = np.sort(np.where(indices < 0, indices + self.nr, indices))
        if not np.diff(places).all():
            raise ValueError("a page is given twice")
        with Undo() as undo:
            close_gaps(self, places, in_order)
            clear_owned(self.machine, freed)
            (<Undo>undo).note(<undo_step>own_among_others, self, (indices, places, freed, self.nr, in_order))
            if self.nr == 0:
                self.machine.owners.pop(self.key, None)
            lists_of(self.machine).free(freed)

    def within(self, start_pfn, nr_pages):
        """Return the indices into pfns of the pages in the range start_pfn, nr_pages, an int64 array."""
        return self.indices_within(start_pfn, nr_pages)

    cdef object indices_within(self, object start_pfn, object nr_pages):
        pfns = self.room[: self.nr]
        return np.flatnonzero((pfns >= start_pfn) & (pfns < start_pfn + nr_pages))

    def moved(self, indices, new):
        """Record that the pages at these indices into pfns moved to `new`, pages in use without an owner (an integer array of
        the same length). The old pages stay in use. Errors as adopt and free_at."""
        indices, new = as_indices(indices), as_pfn_array(new).astype(np.int64)
        _held = step(self.machine)
        old = self.room[: self.nr][indices]
        if len(old) != len(new) or len(np.unique(old)) < len(old):
            raise ValueError(f"{len(new)} pages cannot take the place of {len(np.unique(old))}")
        with Undo() as undo:
            claim(self.machine, <const int64_t *>data_of(new), len(new), self.offline)
            (<Undo>undo).note(<undo_step>clear_owned, self.machine, new)
            clear_owned(self.machine, old)
            (<Undo>undo).note(<undo_step>set_owned, self.machine, old)
            self.room[: self.nr][indices] = new
        self.tell_moved(old, new)

    def tell_moved(self, old, new):
        """Call on_move with the pfns before and after a move, `old` and `new` (int64 arrays)."""
        if self.on_move is not None:
            as_machine(self.machine).lock.call_back(self.on_move, (old, new))


cdef int own_again(MovablePages owner, object pfns) except -1:
    """Undo `first` (an undo_step)."""
    owner.append(pfns)
    return 0


cdef int close_gaps(MovablePages owner, object places, bint ordered) except -1:
    """The pages behind these places, an ascending int64 array, move to the front; if not `ordered`, the last pages fill
    them."""
    cdef const int64_t *gaps = <const int64_t *>data_of(places)
    cdef int64_t *room = <int64_t *>data_of(owner.room)
    cdef int64_t nr = len(places), i, end
    if ordered:
        for i in range(nr):
            end = gaps[i + 1] if i + 1 < nr else owner.nr
            memmove(room + gaps[i] - i, room + gaps[i] + 1, (end - gaps[i] - 1) * sizeof(int64_t))
    else:
        for i in range(nr):
            room[gaps[nr - 1 - i]] = room[owner.nr - 1 - i]
    owner.nr -= nr
    return 0


cdef int own_among_others(MovablePages owner, tuple what) except -1:
    """Undo free_at (an undo_step): its pages are at their indices again, or at the end if a callback changed the owner since.
    what: (indices, the same ascending, pages, how many stayed, ordered)."""
    indices, places, pages, stayed, ordered = what
    cdef const int64_t *gaps = <const int64_t *>data_of(places)
    cdef int64_t *room = <int64_t *>data_of(owner.room)
    cdef int64_t nr = len(pages), whole = owner.nr + nr, i, end
    if owner.nr != stayed:
        return owner.append(pages)
    if ordered:
        for i in range(nr - 1, -1, -1):
            end = gaps[i + 1] if i + 1 < nr else whole
            memmove(room + gaps[i] + 1, room + gaps[i] - i, (end - gaps[i] - 1) * sizeof(int64_t))
    else:
        for i in range(nr):
            room[owner.nr + i] = room[gaps[i]]
    owner.room[:whole][indices] = pages
    set_owned(owner.machine, pages)
    owner.nr = whole
    owner.machine.owners[owner.key] = owner
    return 0


cdef object as_indices(object indices):
    array = np.array(array_of(indices, np.int64))     # a copy: a hook or another thread may change the caller's
    if array.ndim != 1:
        raise ValueError(f"indices must be one-dimensional, not {array.ndim}-dimensional")
    return array


cdef int make_room(Machine mem) except -1:
    """Make room for a bit for each page."""
    if mem.owned is None:
        mem.owned = Bitmap(mem.pages.nr_pages)
    elif mem.owned.nbits < mem.pages.nr_pages:
        mem.owned.grow(mem.pages.nr_pages, [(0, mem.owned.nbits)])
    return 0


cdef int claim(Machine mem, const int64_t *pfns, int64_t nr, bint offline) except -1:
    """Note that pages get an owner. ValueError, and no change, if one has an owner or is in another state."""
    cdef int64_t i = 0, at, pfn, stop, end = mem.pages.nr_pages
    cdef int want = PAGE_OFFLINE if offline else PAGE_IN_USE
    make_room(mem)
    while i < nr:
        pfn, stop = pfns[i], i + 1
        while stop < nr and 0 <= pfn < end and pfns[stop] == pfn + stop - i:
            stop += 1
        if stop - i >= LONG_RUN and pfn <= end - (stop - i) and find_owned(mem, pfn, stop - i) < 0 \
                and all_are(mem.pages, pfn, stop - i, want) \
                and mem.pages.weigh(PG_tail, pfn, min(stop - i + 1, end - pfn)) == 0:
            bitmap_set(mem.owned.words, pfn, stop - i)
            i = stop
        while i < stop:
            pfn = pfns[i]
            if not (0 <= pfn < end and not has_owner(mem, pfn)
                    and (mem.pages.state(pfn) == want if offline else mem.pages.freeable(pfn, 0))):
                what = "it has an owner" if has_owner(mem, pfn) else \
                    f"it is not {'offline' if offline else 'a single page in use'}"
                for at in range(i):
                    clear_bit(mem.owned.words, pfns[at])
                raise ValueError(f"cannot adopt page {pfn:#x}: {what}")
            set_bit(mem.owned.words, pfn)
            i += 1
    return 0


cdef int set_owned(Machine mem, object pfns) except -1:
    """Note that pages, an int64 array, have an owner (an undo_step). Nothing is checked."""
    cdef const int64_t *numbers = <const int64_t *>data_of(pfns)
    cdef int64_t i
    for i in range(<int64_t>len(pfns)):
        set_bit(mem.owned.words, numbers[i])
    return 0


cdef int clear_owned(Machine mem, object pfns) except -1:
    """Note that pages, an int64 array, have no owner (an undo_step)."""
    cdef const int64_t *numbers = <const int64_t *>data_of(pfns)
    cdef int64_t i
    for i in range(<int64_t>len(pfns)):
        clear_bit(mem.owned.words, numbers[i])
    return 0


cdef object alloc_movable(PageLists lists, uint64_t nr, list zonelist):
    """Up to `nr` pages from the lists, whose class may be anybody's."""
    pfns = lists.alloc(nr, zonelist)
    if not isinstance(pfns, np.ndarray) or pfns.dtype != np.int64 or pfns.ndim != 1 or <uint64_t>len(pfns) > nr:
        raise TypeError(f"pcp.alloc must return an int64 array of up to {nr} pages")
    return pfns


cdef int free_again(PageLists lists, object pfns) except -1:
    lists.free(pfns)
    return 0


def movable_pages(Machine mem not None, start_pfn, nr_pages):
    """Return the pages in use of the range that can be migrated, an int64 array."""
    return np.concatenate([np.empty(0, np.int64)] + [
        owner.pfns[owner.within(start_pfn, nr_pages)] for owner in list(mem.owners.values()) if not owner.offline
    ])


cdef object pages_in_use(Machine mem, object start_pfn, object nr_pages):
    """Which pages of the range are in use, (nr_pages,) bool."""
    return (page_states(mem, start_pfn, nr_pages) & ~np.uint8(PG_tail)) == PAGE_IN_USE


def first_unmovable(Machine mem not None, start_pfn, nr_pages):
    """Return the first page in use of the range that has no owner, or None (has_unmovable_pages, 6.1)."""
    _held = mem.lock.hold()
    in_use = pages_in_use(mem, start_pfn, nr_pages)
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
    cdef MovablePages owner
    leaving = []
    for owner in list(mem.owners.values()):
        if len(indices := owner.indices_within(start_pfn, nr_pages)):
            pinned = as_number(owner.pinned, "pinned", 0, 1 << 62)
            leaving.append((owner, indices, pinned, bool(owner.balloon), bool(owner.mapped)))
    if not leaving:
        return np.empty(0, np.int64)
    make_room(mem)
    pfns = np.concatenate([(<MovablePages>one[0]).room[one[1]] for one in leaving])
    whose = np.repeat(np.arange(len(leaving)), [len(indices) for _, indices, *_ in leaving])
    index = np.concatenate([indices for _, indices, *_ in leaving])
    held = np.concatenate([indices < pinned for _, indices, pinned, *_ in leaving])
    order = np.argsort(pfns, kind="stable")
    if contig:
        order = np.concatenate([order[at : at + CLUSTER][::-1] for at in range(0, len(order), CLUSTER)])
    elif mem.rules.migrates_from_the_end:
        order = order[::-1]
    stuck = pfns[order][held[order]]
    stuck_mapped = [leaving[i][4] for i in whose[order][held[order]][:RATELIMIT_BURST].tolist()]
    order = order[~held[order]]
    wanted = len(order)
    zone = mem.zones.numbered(page_zone(mem, start_pfn))
    nodes = mem.zones.online_nodes()
    if not contig:
        nodes = [nid for nid in nodes if nid != zone.nid and mem.zones.has_memory(nid)] or [zone.nid]
    highest = "Movable" if zone.name in ("Movable", "HighMem") else "Normal"
    zonelist = movable_zonelist(mem, zone.nid, nodes, highest)
    log = []
    cdef Isolated isolated = Isolated(start_pfn, nr_pages)
    cdef Targets to = Targets(lists_of(mem), wanted)
    cdef int64_t start = start_pfn, at, got
    cdef const char *moves
    cdef const int64_t *leaves
    with Undo() as undo:
        (<Undo>undo).note(<undo_step>log_failure, mem, log)
        (<Undo>undo).note(<undo_step>put_isolated_back, mem, isolated)
        isolate_pages(mem, isolated)
        (<Undo>undo).note(<undo_step>free_unowned, mem, to)
        to.pfns = new = alloc_movable(to.lists, wanted, zonelist)
        got = len(new)
        order = order[:got]
        moved = []
        for i, (owner, _, _, balloon, _) in enumerate(leaving):
            own = whose[order] == i
            if not own.any():
                continue
            old, targets, moving = pfns[order[own]], new[own], index[order[own]]
            moves, leaves = <const char *>data_of(own), <const int64_t *>data_of(old)
            if owner.offline:
                swap_offline(mem, old, targets)
            set_owned(mem, targets)
            owner.room[moving] = targets
            for at in range(got):
                to.is_owned[at] |= moves[at]
            for at in range(<int64_t>len(old)):
                isolated.is_taken[leaves[at] - start] = True
            mem.pages_migrated += len(old)
            mem.balloon_migrated += len(old) if balloon else 0
            moved.append((owner, old, targets))
        notify_owners(mem, isolated, moved)
        if len(order) < len(pfns):
            # those that are held get a page to move to, and give it back
            to.lists.free(alloc_movable(to.lists, len(stuck), zonelist))
            log += failure_log(stuck, stuck_mapped, nodes if len(order) < wanted else (), highest)
            what = f"{len(pfns) - len(order)} pages of {pfn_range(start_pfn, nr_pages)}"
            if contig or not mem.rules.offline_times_out:
                raise HotplugError.of(errno.EINTR, f"{what} cannot be migrated: no free pages (the kernel would keep trying)")
            if len(order) < wanted:
                raise HotplugError.of(errno.ENOMEM, f"{what} cannot be migrated: no free pages")
            raise HotplugError.of(errno.EAGAIN, f"{what} are pinned: timed out")
        # pages that another thread allocated before the isolation stay that thread's
        used = pages_in_use(mem, start_pfn, nr_pages)
        used &= ~isolated.taken
        if used.any():
            other = start_pfn + int(used.argmax())
            raise HotplugError.of(errno.EBUSY, f"{pfn_range(start_pfn, nr_pages)}: page {other:#x} is in use")
        return isolated.pfns()


cdef int notify_owners(Machine mem, Isolated isolated, list moved) except -1:
    """Call on_move of each owner. What one of them raises is raised after the last call. Meanwhile nobody can free the pages
    of the range: they have an owner."""
    taken = isolated.pfns()
    set_owned(mem, taken)
    raised = None
    for owner, old, new in moved:
        try:
            owner.tell_moved(old, new)
        except BaseException as e:
            raised = e if raised is None else raised
    clear_owned(mem, taken)
    if raised is not None:
        raise raised
    return 0


cdef int swap_offline(Machine mem, object old, object new) except -1:
    """Give the new pages of an owner to the host in place of the old ones."""
    cdef pfn_batch batch
    with Undo() as undo:
        set_pfns_offline(mem, as_batch(new, &batch), &batch, True)
        (<Undo>undo).note(<undo_step>clear_offline, mem, new)
        (<Undo>undo).note(<undo_step>set_owned, mem, old)
        clear_owned(mem, old)
        clear_offline(mem, old)
    return 0


cdef int clear_offline(Machine mem, object pfns) except -1:
    cdef pfn_batch batch
    return set_pfns_offline(mem, as_batch(pfns, &batch), &batch, False)


cdef class Targets:
    """The pages that others move to. Which of them have an owner is noted in a byte each: undoing takes no memory."""
    cdef PageLists lists      # where they come from
    cdef object pfns, owned
    cdef char *is_owned

    def __cinit__(self, lists, nr):
        self.lists = lists
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
            clear_bit(mem.owned.words, numbers[i])
            numbers[nr] = numbers[i]
            nr += 1
    to.lists.give_back(to.pfns, nr)
    return 0


cdef int log_failure(Machine mem, list lines) except -1:
    if lines:
        deliver_events(mem, [("kmsg", line) for line in lines])
    return 0


def failure_log(stuck, stuck_mapped, nodes, highest):
    """Return the kernel's log lines for pages that cannot move: the first pinned pages, and whether a program maps each
    (do_migrate_range), and the nodes without room (warn_alloc)."""
    lines = []
    if nodes:
        mode, flags = (0x144CCA, "GFP_HIGHUSER_MOVABLE") if highest == "Movable" else (0x144CC8, "GFP_USER|__GFP_MOVABLE")
        lines.append(f"page allocation failure: order:0, mode:{mode:#x}({flags}|__GFP_RETRY_MAYFAIL|__GFP_COMP), "
                     f"nodemask={range_list(nodes)}")
    for pfn, mapped in zip(stuck[:RATELIMIT_BURST].tolist(), stuck_mapped, strict=True):
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
    """Take the free pages of a range and note which they are."""
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
    lists = lists_of(mem)
    while first < isolated.nr:
        end = first
        while end < isolated.nr and isolated.is_taken[end]:
            if has_owner(mem, isolated.start + end):       # the one that it had before
                clear_bit(mem.owned.words, isolated.start + end)
            end += 1
        if end > first:
            undo_isolate(mem, isolated.start + first, end - first)
            lists.at_tail(isolated.start + first, end - first)
        first = end + 1
    return 0


def put_back(Machine mem not None, pfns):
    """Undo isolate, and free the pages that were emptied meanwhile. All go to the tail of the free lists."""
    _held = mem.lock.hold_uninterrupted()
    lists = lists_of(mem)
    for pfn, nr in runs(pfns):
        undo_isolate(mem, pfn, nr)
        lists.at_tail(pfn, nr)
