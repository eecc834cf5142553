"""offline_pages of a range whose pages are all in use and movable: each moves to a range of the same size."""

import numpy as np
import pytest
from bench_scale import few, sizes

import fastonline as fo
from fastonline.hotplug.memory import ENGINES
from fastonline.hotplug.migrate import MovablePages

START = 1 << 23


class Mover:
    """A machine with two movable ranges. All pages of one are in use; taking that one offline moves them to the other."""

    def __init__(self, engine, nr_pages):
        self.nr_pages = nr_pages
        self.full, self.empty = START, START + nr_pages
        self.mem = fo.Memory(fo.X86_64, boot="1G", engine=engine)
        self.mem.add_memory(START, 2 * nr_pages)
        self.mem.online_pages(self.full, nr_pages, fo.MMOP_ONLINE_MOVABLE)
        self.owner = MovablePages(self.mem)
        self.owner.alloc(nr_pages)
        assert np.array_equal(np.sort(self.owner.pfns), np.arange(START, START + nr_pages))
        self.mem.online_pages(self.empty, nr_pages, fo.MMOP_ONLINE_MOVABLE)
        self.rounds = 0

    def ready(self):
        """The empty range is online; it went offline in the round before."""
        if self.rounds:
            self.mem.online_pages(self.empty, self.nr_pages, fo.MMOP_ONLINE_MOVABLE)

    def offline(self):
        self.mem.offline_pages(self.full, self.nr_pages)
        self.full, self.empty = self.empty, self.full
        self.rounds += 1


@pytest.mark.benchmark(group="offline_pages, pages to migrate")
@pytest.mark.parametrize("nr_pages", sizes(15, 17, 20, large=(22,)))
@pytest.mark.parametrize("engine", ENGINES)
def bench_migrate(measure, engine, nr_pages):
    mover = Mover(engine, nr_pages)
    measure(mover.offline, nr_pages, mover.ready, few(nr_pages))
    assert mover.mem.stats()["pages_migrated"] == mover.rounds * nr_pages
    assert np.array_equal(np.sort(mover.owner.pfns), np.arange(mover.full, mover.full + nr_pages))
    mover.mem.validate()
