"""The virtio balloon: pages that the guest lends to the host (drivers/virtio/virtio_balloon.c of 6.1, KERNEL.md 5.4)."""

from fastonline.hotplug.memory import Memory
from fastonline.hotplug.migrate import MovablePages, alloc_movable, free_movable, runs

PAGES_PER_ARRAY = 256
"""Pages of one message to the host (VIRTIO_BALLOON_ARRAY_PFNS_MAX)."""


class BalloonPages(MovablePages):
    """What is in the balloon: PG_offline, not managed, and movable (balloon_compaction.c)."""

    offline = True


class VirtioBalloon:
    """A balloon in a machine; ``inflate`` and ``deflate`` by pages. Watermarks are not recomputed by either."""

    def __init__(self, mem: Memory) -> None:
        self._mem = mem
        self.pages = BalloonPages(mem)

    def __len__(self) -> int:
        return len(self.pages)

    def inflate(self, nr_pages: int) -> int:
        """fill_balloon until it holds so many more: movable single pages, wherever a process would get them from. Returns how
        many it got; fewer when the machine has no more to give."""
        if nr_pages < 0:
            raise ValueError(f"{nr_pages} pages")
        got = 0
        while got < nr_pages:
            pfns = alloc_movable(self._mem, min(PAGES_PER_ARRAY, nr_pages - got), self._mem.movable_zonelist(0))
            for pfn, nr in runs(pfns):
                self._mem.set_page_offline(pfn, nr)
            self.pages.adopt(pfns)
            got += len(pfns)
            if not len(pfns):
                break
        return got

    def deflate(self, nr_pages: int) -> int:
        """leak_balloon: give back so many, those that came last first; how many there were."""
        left = min(nr_pages, len(self.pages))
        given = left
        while left:
            pfns = self.pages.give(min(PAGES_PER_ARRAY, left))
            for pfn, nr in runs(pfns):
                self._mem.clear_page_offline(pfn, nr)
            free_movable(self._mem, pfns)
            left -= len(pfns)
        return given

    def set_target(self, nr_pages: int) -> int:
        """Inflate or deflate until the balloon holds `nr_pages`; the pages it holds then."""
        if nr_pages < 0:
            raise ValueError(f"a balloon cannot hold {nr_pages} pages")
        if nr_pages > len(self):
            self.inflate(nr_pages - len(self))
        else:
            self.deflate(len(self) - nr_pages)
        return len(self)
