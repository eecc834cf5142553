"""Every pair of public operations of one machine from two threads: nothing crashes, the machine is valid, a page has one owner.

FASTONLINE_THREAD_SECONDS=600 takes so long in all; FASTONLINE_FUZZ_SEED replays a run as far as threads can be replayed.
"""

import contextlib
import itertools
import os
import pickle
import random
import sys
import threading
import time

import numpy as np
import pytest
from in_process import in_process

import fastonline as fo
from fastonline.drivers.virtio_balloon import VirtioBalloon
from fastonline.hotplug.pcp import PerCpuPages

SECONDS = float(os.environ.get("FASTONLINE_THREAD_SECONDS", "8"))
SEED = int(os.environ.get("FASTONLINE_FUZZ_SEED", "1"))
LONG = SECONDS > 100
S = fo.X86_64.pages_per_section
IN_USE, TAIL = 16, 8
# What one thread's operation finds when the other was there first.
REFUSALS = (fo.HotplugError, KeyError, MemoryError, ValueError)


class Worker:
    """One thread's view of the machine: the pages that it owns, and its chances."""

    def __init__(self, mem, seed, path):
        self.mem, self.rng, self.path = mem, random.Random(seed), path
        self.blocks = []                    # (first pfn, order) that it has allocated
        self.movable = fo.MovablePages(mem)
        self.balloon = None
        self.failed = None

    def section(self):
        return self.rng.choice((2, 3, 4)) * S

    def take(self):
        """A block of its own, or ValueError."""
        if not self.blocks:
            raise ValueError("it owns no page")
        return self.blocks.pop(self.rng.randrange(len(self.blocks)))

    def singles(self, most=50):
        """Single pages of its own."""
        mine = [pfn for pfn, order in self.blocks if order == 0][:most]
        if not mine:
            raise ValueError("it owns no page")
        self.blocks = [block for block in self.blocks if block[1] or block[0] not in mine]
        return mine


def alloc(w):
    order = w.rng.choice((0, 0, 0, 2, 10))
    w.blocks.append((w.mem.alloc_pages(order), order))


def free(w):
    w.mem.free_pages(*w.take())


def alloc_bulk(w):
    order = w.rng.choice((0, 0, 3))
    w.blocks += [(pfn, order) for pfn in w.mem.alloc_pages_bulk(w.rng.choice((1, 100, 3000)), order).tolist()]


def free_batch(w):
    w.mem.free_pfns(np.array(w.singles(3000)))


def alloc_contig(w):
    start = w.rng.randrange(2 * S - 64)
    w.mem.alloc_contig_range(start, 64)
    w.blocks += [(pfn, 0) for pfn in range(start, start + 64)]


def add_remove(w):
    start = w.section()
    w.mem.add_memory(start, S, threads=w.rng.choice((1, 2)))
    w.mem.remove_memory(start, S)


def grow(w):
    """Room for memory that is further away each time."""
    start = w.rng.randrange(8, 4000) * S
    w.mem.add_memory(start, S, w.rng.choice((0, 1, 5)))
    w.mem.remove_memory(start, S)


def online_offline(w):
    start = w.section()
    w.mem.online_pages(start, S, w.rng.choice((1, 2, 3)))
    w.mem.offline_pages(start, S)


def phases(w):
    start = w.section()
    w.mem.prepare_online_pages(start, S)
    w.mem.mark_pages_onlined(start)
    w.mem.mark_pfns_onlined(np.arange(start, start + 3000))
    w.mem.mark_pages_onlined(start, S, order=0)


def all_the_way(w):
    start = w.section()
    w.mem.add_memory(start, S)
    w.mem.online_pages(start, S)
    w.mem.offline_pages(start, S)
    w.mem.remove_memory(start, S)


def reserve(w):
    """Its own pages become Reserved and go online again."""
    pfn, order = w.take()
    w.mem.set_page_reserved(pfn, 1 << order)
    w.mem.mark_pages_onlined(pfn, 1 << order)


def offline_flags(w):
    pfns = w.singles()
    w.mem.set_pfns_offline(pfns)
    w.mem.clear_pfns_offline(pfns)
    w.mem.set_pfns_offline(pfns)
    w.mem.free_reserved_pfns(pfns)


def callback(w):
    with w.mem.set_online_page_callback(lambda pfn, order: w.mem.generic_online_page(pfn, order)):
        start = w.section()
        w.mem.online_pages(start, S)
        w.mem.offline_pages(start, S)


def raising_callback(w):
    start, given = w.section(), []

    def give(pfn, order):
        given.append(pfn)
        if len(given) > 5:
            raise ValueError
        w.mem.generic_online_page(pfn, order)

    with w.mem.set_online_page_callback(give):
        w.mem.online_pages(start, S)


def veto(w):
    chain = w.mem.notifiers
    notifier = chain.register(lambda action, notice: fo.NOTIFY_BAD if action == fo.MEM_GOING_ONLINE else None)
    try:
        w.mem.online_pages(w.section(), S)
    finally:
        chain.unregister(notifier)


def listen(w):
    heard = []
    listener = w.mem.events.listen(lambda kind, text: heard.append(w.mem.totalram_pages))
    try:
        w.mem.online_pages(w.section(), S)
    finally:
        w.mem.events.ignore(listener)


def movable(w):
    w.movable.alloc(w.rng.choice((1, 500)))
    if w.rng.random() < 0.5:
        w.movable.free()


def owned(w):
    """Its own pages come to MovablePages and go from them."""
    w.movable.adopt(w.singles())
    w.blocks += [(pfn, 0) for pfn in w.movable.give(20).tolist()]


def balloon(w):
    w.balloon = w.balloon or VirtioBalloon(w.mem, deflate_on_oom=True)      # its pages are in use
    w.balloon.inflate(w.rng.choice((1, 300)))
    w.balloon.deflate(200)


def hooks(w):
    """The allocator's callbacks, which look at the machine."""
    w.mem.arch_alloc_page = lambda pfns, order: w.mem.pfn_valid(int(pfns[0])) and None
    w.mem.arch_free_page = lambda pfns, order: w.mem.page_flags(int(pfns[0])) and None
    oom = w.mem.register_oom_notifier(lambda: w.mem.totalram_pages and None)
    try:
        alloc_bulk(w)
        free(w)
        w.mem.alloc_pages_bulk(1 << 20)
    finally:
        w.mem.arch_alloc_page = w.mem.arch_free_page = None
        w.mem.unregister_oom_notifier(oom)


def lists(w):
    """Per-CPU lists come and go. What is on them is nobody's."""
    pcp = w.mem.pcp = PerCpuPages(w.mem)
    w.movable.alloc(50)
    w.movable.free()
    pcp.count(1), pcp.free_pages(1), pcp.nr_free(1), pcp.away(0, S)
    w.mem.pcp = None


def words(w):
    block = w.mem.blocks[w.section() // S]
    block.online(w.rng.choice(("online", "online_kernel", "online_movable")))
    block.offline()


def page_flags(w):
    """Its own pages, one at a time, are PG_offline and then free."""
    pfn, order = w.take()
    w.mem.set_page_offline(pfn, 1 << order)
    w.mem.clear_page_offline(pfn, 1 << order)
    w.blocks += [(at, 0) for at in range(pfn, pfn + (1 << order))]


def read_one(w):
    """What is told of one page, one range and the whole."""
    pfn = w.rng.randrange(6 * S)
    w.mem.pfn_valid(pfn), w.mem.PageHighMem(pfn), w.mem.page_flags(pfn)
    w.mem.pfn_to_online_page(pfn)
    _ = w.mem.groups, w.mem.memmaps, w.mem.page_owners, w.mem.going_offline, w.mem.possible_nodes
    w.mem.summary(), w.mem.resources.text(), w.mem.resources.find_resource(S << 12, 1 << 40), list(w.mem.resources)


def sysctls(w):
    w.mem.min_free_kbytes = w.rng.randrange(4096)
    w.mem.nr_cpus = w.rng.randrange(1, 64)
    w.mem.lowmem_reserve_ratio = (256, 256, 32)
    w.mem.policy = w.rng.choice(("contig-zones", "auto-movable"))


def look(w):
    w.mem.page_states(0, 5 * S)
    w.mem.kpageflags(S, S)
    w.mem.stats()
    for zone in w.mem.zones.values():
        assert zone.free_pages >= 0 and zone.low >= 0
    w.mem.zone_of(S), w.mem.flags["PG_buddy"][5], w.mem.totalram_pages, w.mem.nodes, w.mem.sections.spans()


def read_texts(w):
    w.mem.buddyinfo(), w.mem.zoneinfo(), w.mem.pagetypeinfo(), w.mem.lsmem(), repr(w.mem)
    for block in w.mem.blocks.values():
        _ = block.state, block.start_pfn


def validate(w):
    w.mem.validate()


def copy(w):
    w.mem.copy().validate()


def pickled(w):
    pickle.loads(pickle.dumps(w.mem)).validate()


def saved(w):
    w.mem.save(w.path)
    fo.load(w.path).validate()


OPERATIONS = (
    alloc,
    free,
    alloc_bulk,
    free_batch,
    alloc_contig,
    add_remove,
    grow,
    online_offline,
    phases,
    all_the_way,
    reserve,
    offline_flags,
    callback,
    raising_callback,
    veto,
    listen,
    movable,
    owned,
    balloon,
    hooks,
    lists,
    words,
    page_flags,
    read_one,
    sysctls,
    look,
    read_texts,
    validate,
    copy,
    pickled,
    saved,
)


NEED_PAGES = (free, free_batch, reserve, offline_flags, page_flags, owned)


def pages_of(blocks):
    """Arrays of all pages of blocks (first pfn, order)."""
    for order in {order for _, order in blocks}:
        yield np.add.outer([pfn for pfn, of in blocks if of == order], np.arange(1 << order)).ravel()


def run_pair(engine, operations, seconds, seed, directory):
    """Two threads repeat one operation each, with allocations in between. AssertionError when a machine is not whole."""
    mem = fo.Memory(fo.X86_64, boot="256M", engine=engine)
    mem.add_memory(2 * S, S)
    mem.add_memory(3 * S, S)
    mem.online_pages(3 * S, S)
    workers = [Worker(mem, f"{seed}-{i}", os.path.join(directory, f"saved{i}")) for i in range(2)]
    start, end = threading.Barrier(2), time.monotonic() + seconds

    def work(worker, operation):
        start.wait()
        try:
            for nr in itertools.count():
                with contextlib.suppress(REFUSALS):
                    (alloc if nr % 3 == 0 and operation in NEED_PAGES else operation)(worker)
                if time.monotonic() > end:
                    break
        except BaseException as e:
            worker.failed = e

    threads = [threading.Thread(target=work, args=pair) for pair in zip(workers, operations, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker in workers:
        if worker.failed is not None:
            raise worker.failed
    mem.validate()
    owned = [pages for worker in workers for pages in pages_of(worker.blocks)]
    owned += [worker.movable.pfns for worker in workers]
    owned += [worker.balloon.pages.pfns for worker in workers if worker.balloon]
    owned = np.sort(np.concatenate(owned))
    assert np.all(np.diff(owned) != 0), "a page has two owners"
    states = np.concatenate([mem.page_states(first, nr) for first, nr in mem.sections.spans()])
    in_use = int(np.count_nonzero((states & (0xFF ^ TAIL)) == IN_USE))
    return len(owned), in_use


# What these take from their owner when the other thread is in the midst of it is nobody's for a while, or for good.
LOSES_PAGES = {reserve, offline_flags, page_flags, owned, hooks, lists}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_pairs(engine, operation, tmp_path, capsys):
    """One operation with each of the others, each pair on a machine of its own."""
    pairs = [(operation, other) for other in OPERATIONS[OPERATIONS.index(operation) :]]
    each = SECONDS / len(OPERATIONS) / (len(OPERATIONS) + 1)

    def work():
        sys.setswitchinterval(1e-5)
        for pair in pairs:
            names = " with ".join(other.__name__ for other in pair)
            try:
                owned, in_use = run_pair(engine, pair, each, f"{SEED}-{names}", tmp_path)
            except BaseException as e:
                raise AssertionError(f"{names}: {e!r}") from e
            if not LOSES_PAGES & set(pair):
                assert owned == in_use, f"{names}: {owned} pages are owned, {in_use} in use"

    assert in_process(work, 60 + int(20 * each * len(pairs))) == ""
