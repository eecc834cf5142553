"""Moving pages out of a range: who owns movable pages, and where they may go (do_migrate_range, mm/memory_hotplug.c)."""

import errno

import numpy as np

from fastonline.errors import HotplugError, pfn_range


class MovablePages:
    """Single movable pages in use that belong together: the memory of a process, or of a balloon.

    mem.page_owners holds it while it has pages. pfns: int64 array, in the order of their allocation. on_move: called with two
    arrays, old and new pfns, whenever some of them have moved. offline: the pages are PG_offline, given back to the host.
    """

    balloon = False
    """Their moving counts as a balloon's (balloon_migrate)."""
    offline = False
    pinned = 0
    """So many of its first pages are held by a device or a pipe: offline_pages tries to move them, and cannot."""

    def __init__(self, mem, on_move=None):
        self._mem = mem
        self._on_move = on_move
        self.pfns = np.empty(0, np.int64)

    def __len__(self):
        return len(self.pfns)

    def alloc(self, nr, nid=0):
        """Take so many pages as a program on a CPU of that node gets them. All or nothing: MemoryError."""
        pfns = alloc_movable(self._mem, nr, self._mem.movable_zonelist(nid))
        if len(pfns) < nr:
            free_movable(self._mem, pfns)
            raise MemoryError(f"{nr} movable pages were asked for, {len(pfns)} can be had")
        self.adopt(pfns)

    def adopt(self, pfns):
        """Own pages that are in use already."""
        self.pfns = np.concatenate((self.pfns, np.asarray(pfns, np.int64)))
        if len(self.pfns) and self not in self._mem.page_owners:
            self._mem.page_owners.append(self)

    def give(self, nr):
        """Stop owning the `nr` pages that came last, newest first; their pfns."""
        at = len(self.pfns) - nr
        if nr < 0 or at < 0:
            raise ValueError(f"{nr} pages of {len(self.pfns)}")
        given, self.pfns = self.pfns[at:][::-1], self.pfns[:at]
        if not len(self.pfns) and self in self._mem.page_owners:
            self._mem.page_owners.remove(self)
        return given

    def free(self):
        """Free all of them, first page first."""
        free_movable(self._mem, self.give(len(self.pfns))[::-1])

    def within(self, start_pfn, nr_pages):
        """Indices of its pages in the range."""
        return np.flatnonzero((self.pfns >= start_pfn) & (self.pfns < start_pfn + nr_pages))

    def moved(self, indices, new):
        """Pages have moved."""
        old = self.pfns[indices]
        self.pfns[indices] = new
        if self._on_move is not None:
            self._on_move(old, new)


def alloc_movable(mem, nr, zonelist):
    """Up to `nr` movable pages from these zones, as a process gets them: int64 array."""
    if mem.pcp is not None:
        return mem.pcp.alloc(nr, zonelist)
    got = [np.empty(0, np.int64)]
    for z in zonelist:
        zone = mem.zones[divmod(z, mem.zones.nr_types)[0], mem.zones.names[z % mem.zones.nr_types]]
        take = min(nr, zone.free_pages)
        got.append(mem.alloc_pages_bulk(take, 0, zone))
        nr -= take
        if not nr:
            break
    return np.concatenate(got)


def free_movable(mem, pfns):
    """Give them back."""
    if not len(pfns):
        return
    if mem.pcp is not None:
        mem.pcp.free(pfns)
    else:
        mem.free_pfns(pfns)


def movable_pages(mem, start_pfn, nr_pages):
    """The pages in use of the range that can be moved: int64 array."""
    return np.concatenate([np.empty(0, np.int64)] + [
        owner.pfns[owner.within(start_pfn, nr_pages)] for owner in mem.page_owners if not owner.offline
    ])


def migrate_range(mem, start_pfn, nr_pages, leave_node=True):
    """Move every page that has an owner out of the range; True when there was one. Meanwhile nothing is allocated from it.

    Pages of kernel zones go to kernel zones, those of Movable to any; on a machine with memory on other nodes they go there
    only when leave_node is set (RECORDED.md 14). HotplugError EINTR where they do not all fit: those that moved stay moved,
    the range's free pages are free again; so too when an owner's callback raises. Moved pages are in use in the range until
    the caller takes it, so that nobody gets them.
    """
    leaving = [(owner, owner.within(start_pfn, nr_pages)) for owner in mem.page_owners]
    leaving = [(owner, indices) for owner, indices in leaving if len(indices)]
    if not leaving:
        return False
    zone = mem.zone_of(start_pfn)
    others = [nid for nid in mem.nodes if nid != zone.nid and mem.zones.has_memory(nid)]
    highest = "Movable" if zone.name in ("Movable", "HighMem") else zone.name
    zonelist = mem.movable_zonelist(zone.nid, (others if leave_node else mem.nodes) or [zone.nid], highest)
    emptied, missing = [isolate(mem, start_pfn, nr_pages)], 0
    try:
        for owner, indices in leaving:
            # in the order of their addresses, as scan_movable_pages finds them
            indices = indices[np.argsort(owner.pfns[indices], kind="stable")]
            missing += int(np.count_nonzero(indices < owner.pinned))
            indices = indices[indices >= owner.pinned]
            new = alloc_movable(mem, len(indices), zonelist)
            moved = indices[: len(new)]
            missing += len(indices) - len(new)
            old = owner.pfns[moved]
            if owner.offline:
                for pfn, nr in runs(new):
                    mem.set_page_offline(pfn, nr)
                for pfn, nr in runs(old):
                    mem.clear_page_offline(pfn, nr)
            emptied.append(old)
            mem.count_migrated(len(new), owner.balloon)
            owner.moved(moved, new)
        if missing:
            raise HotplugError.of(
                errno.EINTR, f"{missing} pages of {pfn_range(start_pfn, nr_pages)} have nowhere to move to: the kernel would try on"
            )
    except BaseException:
        mem.free_pfns(np.concatenate(emptied))
        raise
    return True


def isolate(mem, start_pfn, nr_pages):
    """Take the free pages of a range, so that nobody else gets them: their pfns."""
    free = mem.free_pages_within(start_pfn, nr_pages)
    for pfn, nr in runs(free):
        mem.alloc_contig_range(pfn, nr)
    return free


def runs(pfns):
    """(first, how many) of each run of consecutive numbers in an array, sorted."""
    pfns = np.sort(pfns)
    if not len(pfns):
        return []
    cuts = np.flatnonzero(np.diff(pfns) != 1) + 1
    return [(int(part[0]), len(part)) for part in np.split(pfns, cuts)]
