"""What the paths of bench/ cost, counted: no path may become costlier without somebody seeing it. No time is looked at.

Each path is counted in one call that is warmed up: Python functions that it calls, bytes of memory that it takes meanwhile for
a page that it handles, and bytes of state that it writes for a page. All limits are what was counted, rounded up; lower one
when a path becomes cheaper.
"""

import gc
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import fastonline as fo
from fastonline.cost.phases import words_searched

NR = 1 << 16        # pages of a path that handles many
START = 1 << 18


def functions_called(call):
    """How many calls of Python functions one call makes, itself not counted."""
    count = 0

    def note(frame, event, argument):
        nonlocal count
        count += event == "call"
    gc.disable()      # pytest and hypothesis have Python functions called by a collection, which would be counted
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count - 1


def memory_taken(call):
    """The most bytes that one call has at once beyond what there was before, NumPy's arrays included; the integers of this
    function too, when a collection has just emptied the interpreter's free lists."""
    tracemalloc.start()
    try:
        call()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


class Paths:
    """A machine of one zone whose pages a path may take, and the paths: each leaves the machine as it was."""

    def __init__(self, engine, tmp_path):
        self.mem = mem = fo.Memory(fo.X86_64, boot="1G", engine=engine, max_memory="4G")
        mem.add_memory(START, NR)
        self.random = START + np.random.default_rng(1).permutation(NR)
        self.zone = mem.zones["DMA32"]
        self.file = tmp_path / "machine"
        mem.save(self.file)

    def alloc_and_free(self):
        self.mem.free_pages(self.mem.alloc_pages())

    def alloc_and_free_by_name(self):
        self.mem.free_pages(self.mem.alloc_pages(zone="DMA32"))

    def alloc_and_free_by_zone(self):
        self.mem.free_pages(self.mem.alloc_pages(zone=self.zone))

    def zone_by_name(self):
        self.mem.zones["DMA32"]

    def free_pages(self):
        return self.zone.free_pages

    def stats(self):
        self.mem.stats()

    def buddyinfo(self):
        self.mem.buddyinfo()

    def bulk(self):
        self.mem.free_pfns(self.mem.alloc_pages_bulk(NR, zone="DMA32"))

    def range(self):
        self.mem.online_pages(START, NR)
        self.mem.offline_pages(START, NR)

    def batches(self):
        self.mem.prepare_online_pages(START, NR)
        for at in range(0, NR, 512):
            self.mem.mark_pfns_onlined(self.random[at : at + 512])
        self.mem.offline_pages(START, NR)

    def cycle(self):
        self.mem.remove_memory(START, NR)
        self.mem.add_memory(START, NR)
        self.mem.online_pages(START, NR)
        self.mem.offline_pages(START, NR)

    def one_by_one(self):
        self.mem.prepare_online_pages(START, NR)
        for pfn in range(START, START + 256):
            self.mem.mark_pages_onlined(pfn)
        self.mem.offline_pages(START, NR)

    def listener(self):
        listener = self.mem.notifiers.register(listen)
        self.one_by_one()
        self.mem.notifiers.unregister(listener)

    def other_listener(self):
        listener = self.mem.notifiers.register(listen, actions=fo.MEM_GOING_OFFLINE)
        self.one_by_one()
        self.mem.notifiers.unregister(listener)

    def migration(self):
        self.mem.online_pages(START, NR, fo.MMOP_ONLINE_MOVABLE)
        owner = fo.MovablePages(self.mem)
        owner.alloc(NR)
        self.mem.offline_pages(START, NR)
        owner.free()

    def validate(self):
        self.mem.validate()

    def copy(self):
        self.mem.copy()

    def save(self):
        self.mem.save(self.file)

    def load(self):
        fo.load(self.file)

    def create(self):
        fo.Memory(fo.X86_64, boot="64M", engine=self.mem.engine)


def listen(action, notice):
    return fo.NOTIFY_OK


# path: Python functions, bytes of memory at once, bytes of state written; of the last two one for each engine
LIMITS = {
    "alloc_and_free": (0, (128, 128), (16, 1824)),
    "alloc_and_free_by_name": (0, (128, 128), (16, 1824)),
    "alloc_and_free_by_zone": (0, (128, 128), (16, 1824)),
    "zone_by_name": (0, (128, 128), (0, 0)),
    "free_pages": (0, (128, 128), (0, 0)),
    "stats": (0, (2000, 2000), (0, 0)),
    "buddyinfo": (4, (2000, 2000), (0, 0)),
    "bulk": (0, (9 * NR, 9 * NR), (NR // 4, 320 * NR)),
    "range": (0, (1000, 10000), (NR * 7 // 8 + 200, 193 * NR)),
    "batches": (0, (1000, 10000), (17 * NR, 289 * NR)),
    "cycle": (0, (1000, 10000), (NR * 9 // 8 + 200, 321 * NR)),
    "one_by_one": (0, (1000, 10000), (NR * 3 // 4, 129 * NR)),
    "listener": (256 + 9, (1000, 10000), (NR * 3 // 4, 129 * NR)),
    "other_listener": (6, (1000, 10000), (NR * 3 // 4, 129 * NR)),
    "migration": (60, (110 * NR, 110 * NR), (NR * 13 // 8, 740 * NR)),
    "validate": (120, (10000, 10000), (0, 0)),
    "copy": (105, (13 * NR, 8 * NR), (0, 0)),
    "save": (1100, (60000, 6 * NR), (0, 0)),
    "load": (650, (17 * NR, 8 * NR), (0, 0)),
    "create": (30, (50000, 2700000), (0, 0)),
}


@pytest.mark.parametrize("path", [name for name in vars(Paths) if not name.startswith("_")])
def test_no_path_becomes_costlier(engine, path, tmp_path):
    paths = Paths(engine, tmp_path)
    call, at = getattr(paths, path), engine == "struct_page"
    functions, memory, written = LIMITS[path]
    call()
    # the lesser of two: once in 256 MiB of written pages, whoever wrote them, a call looks at how much memory there is
    assert min(functions_called(call) for _ in range(2)) <= functions
    assert memory_taken(call) <= memory[at]
    before = paths.mem.stats()["bytes_touched"]
    call()
    assert paths.mem.stats()["bytes_touched"] - before <= written[at]


def test_what_is_counted():
    """The counters count: a Python function is one call, an array is its bytes."""
    assert functions_called(lambda: listen(1, 2)) == 1 and functions_called(lambda: len("x")) == 0
    assert 80000 <= memory_taken(lambda: np.zeros(10000)) < 82000


@pytest.mark.parametrize("nr_pages", [1 << 15, 1 << 18, 1 << 22])
def test_turnover_of_a_full_guest_looks_at_few_words(nr_pages):
    """Free a random page, allocate one, with eight pages free. Expect a word of each level (one more for 64 times the pages)
    and the words of one group, whatever the size."""
    levels = next(n for n in range(1, 9) if 64 ** n >= nr_pages >> 10)
    mem = fo.Memory(fo.X86_64, max_memory=nr_pages * 4096)
    mem.add_memory(0, nr_pages)
    mem.online_pages(0, nr_pages)
    zone = mem.zone_of(0)
    mem.alloc_contig_range(0, nr_pages)
    held = np.random.default_rng(3).permutation(nr_pages)[:1000].tolist()
    mem.free_pfns(sorted(set(range(1008)).difference(held))[:8])
    for i, pfn in enumerate(held):
        mem.free_pages(pfn)
        before = words_searched(mem)
        held[i] = mem.alloc_pages(0, zone)
        assert 0 < words_searched(mem) - before <= levels + 16


def test_an_import_loads_few_modules():
    """What Memory needs and what that takes from the standard library; nothing of drivers, cli or plots."""
    code = "import numpy, sys; before = set(sys.modules); import fastonline; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert sum(name.startswith("fastonline") for name in loaded) <= 59, loaded
    assert sum(not name.startswith("fastonline") for name in loaded) <= 12, loaded
    assert not any(name.startswith(("fastonline.cli", "fastonline.cost", "matplotlib", "scipy")) for name in loaded), loaded
