"""Real signals at random times in every long call: it is finished or undone when the handler's exception comes out.

FASTONLINE_SIGNAL_SECONDS=60 takes so long for each call; FASTONLINE_FUZZ_SEED is where the times come from.
"""

import collections
import contextlib
import functools
import itertools
import math
import os
import pickle
import random
import signal
import statistics
import time

import numpy as np
import pytest
from conftest import SMALL_64
from in_process import in_process

import fastonline as fo
from fastonline.core.pageflags import PAGE_WAITING
from fastonline.hotplug.pcp import PerCpuPages

SEED = os.environ.get("FASTONLINE_FUZZ_SEED", "1")
LONG = os.environ.get("FASTONLINE_SIGNAL_SECONDS")
SECONDS = float(LONG or 0.2)
HITS = math.inf if LONG else 250
AHEAD, STEP = 1e-5, 1e-6
S = SMALL_64.pages_per_section
FIRST, PAGES = 1024, 8 * S
IN_USE, TAIL = 16, 8


class Interrupted(BaseException):
    """No Exception, as KeyboardInterrupt is none."""


class Guest:
    """A machine and the pages that somebody owns."""

    def __init__(self, engine, rules=fo.LINUX_6_12, pcp=False, listening=False, memmap=None, directory="."):
        self.mem = fo.Memory(SMALL_64, boot="1M", engine=engine, rules=rules, memmap=memmap)
        self.mem.add_memory(FIRST, PAGES)
        self.mem.online_pages(FIRST, 4 * S)
        if pcp:
            self.mem.pcp = PerCpuPages(self.mem)
        if listening:
            self.mem.notifiers.register(lambda action, notice: None)
            self.mem.events.listen(lambda kind, text: None)
        self.owner = fo.MovablePages(self.mem, on_move=lambda old, new: None)
        self.blocks = [], []     # (first pfn, order) of each, and a None for each of the last that is free again
        self.path = os.path.join(directory, "saved")

    def owned(self):
        memmaps = sum(nr for pieces in self.mem.memmaps.values() for _, nr in pieces)
        blocks, freed = self.blocks
        return len(self.owner) + memmaps + sum(1 << order for _, order in blocks[: len(blocks) - len(freed)])

    def in_use(self):
        states = np.concatenate([self.mem.page_states(first, nr) for first, nr in self.mem.sections.spans()])
        return int(np.count_nonzero((states & (0xFF ^ TAIL)) == IN_USE))


def is_online(guest, start):
    return guest.mem.sections.online_section_nr(start // S)


# Each takes a guest from where it is to somewhere else, and works from where an interrupted one has left it.

def add_and_remove(guest):
    if guest.mem.sections.present_section_nr(15):
        guest.mem.remove_memory(15 * S, S)
    guest.mem.add_memory(15 * S, S)


def online_and_offline(guest):
    start = FIRST + 4 * S
    if is_online(guest, start):
        guest.mem.offline_pages(start, 2 * S)
    guest.mem.online_pages(start, 2 * S)


def by_phases(guest):
    start = FIRST + 6 * S
    if is_online(guest, start):
        guest.mem.offline_pages(start, S)
    elif np.all(guest.mem.page_states(start, S) == PAGE_WAITING):
        guest.mem.mark_pfns_onlined(np.arange(start, start + S))
    else:
        guest.mem.prepare_online_pages(start, S)


def movable(guest):
    guest.owner.free()      # what an interrupted one has left
    guest.owner.alloc(500)
    guest.owner.free_at(np.arange(0, len(guest.owner), 3))
    guest.owner.free()


def move(guest):
    """Pages move from a range that goes offline to the others."""
    start = FIRST + 2 * S
    if not is_online(guest, start):
        guest.mem.online_pages(start, 2 * S)
    if len(guest.owner) < 300:
        guest.owner.alloc(300)
    guest.mem.offline_pages(start, 2 * S)


def removed_by_blocks(guest):
    if 15 in guest.mem.blocks:
        guest.mem.blocks.remove(15 * S, S)
    guest.mem.add_memory(15 * S, S)
    guest.mem.blocks[15].online()


def take(guest, alloc, orders):
    """Own what alloc(order) gives. It is all C, so that no handler comes before a block has its owner."""
    guest.blocks[0].extend(zip(map(alloc, orders), orders, strict=True))


def give_back(guest, free):
    """free(pfn, order) all blocks, the last first, and C as well: one None is noted for each that is free."""
    blocks, freed = guest.blocks
    freed.extend(itertools.starmap(free, blocks[: len(blocks) - len(freed)][::-1]))
    guest.blocks = [], []


def by_gfp(guest):
    """Blocks of several orders with a gfp, freed again."""
    give_back(guest, guest.mem.free_pages)
    take(guest, functools.partial(guest.mem.alloc_pages, gfp="GFP_KERNEL"), (0, 3, 0, 1))
    take(guest, functools.partial(guest.mem.alloc_pages, gfp="GFP_HIGHUSER_MOVABLE"), (5, 0, 2))


def kernel_pages(guest):
    """Unmovable pages from the per-CPU lists, a huge page, and slabs that are empty."""
    pcp = guest.mem.pcp
    give_back(guest, pcp.free_kernel)
    take(guest, pcp.alloc_kernel, (0, 1, 3, 0, 0, 2))
    for z in range(len(guest.mem.zones)):
        pcp.drain(z)
    pcp.background_work()


def settings(guest):
    """Each sysctl that computes watermarks."""
    guest.mem.transparent_hugepage = "always" if guest.mem.transparent_hugepage == "never" else "never"
    guest.mem.min_free_kbytes = 512
    guest.mem.nr_cpus = 3 - guest.mem.nr_cpus
    guest.mem.init_per_zone_wmark_min()


def look(guest):
    guest.mem.validate()
    guest.mem.copy().validate()
    pickle.loads(pickle.dumps(guest.mem)).validate()
    guest.mem.zoneinfo(), guest.mem.lsmem(), guest.mem.kpageflags(0, FIRST)


def saved(guest):
    guest.mem.save(guest.path)
    fo.load(guest.path).validate()


CALLS = (add_and_remove, online_and_offline, by_phases, movable, move, removed_by_blocks, by_gfp, settings, look, saved)


def lateness():
    """How long after its time a timer's signal comes here, in seconds: the median of a few."""
    came, late = [], []
    signal.signal(signal.SIGALRM, lambda signum, frame: came.append(time.perf_counter()))
    for _ in range(15):
        due = time.perf_counter() + AHEAD
        signal.setitimer(signal.ITIMER_REAL, AHEAD)
        while not came:
            pass
        late.append(came.pop() - due)
    return statistics.median(late)


def interrupt_again_and_again(work, guest, hits, seconds, seed):
    """How many times the signal came out of the work: until there are so many hits, or the processor has spent some seconds.

    A timer's signal comes later than most calls end. So the timer is set first, and the work begins when the signal is as far
    away as chance wants it. AssertionError where pages are in use and not owned after a call.
    """
    rng, late = random.Random(seed), lateness()

    def handler(signum, frame):
        raise Interrupted

    signal.signal(signal.SIGALRM, handler)
    began = time.perf_counter()
    work(guest)
    took = collections.deque([time.perf_counter() - began], maxlen=8)      # a call's length depends on what the last one left
    end, interrupted = time.process_time() + seconds, 0
    while interrupted < hits and time.process_time() < end:
        within = rng.random() * rng.choice(took) * 1.2
        ahead = max(within - late, AHEAD)
        began = None
        try:
            start = time.perf_counter() + ahead + late - within
            signal.setitimer(signal.ITIMER_REAL, ahead)
            try:
                while time.perf_counter() < start:
                    pass
                began = time.perf_counter()
                work(guest)
                took.append(time.perf_counter() - began)
                late += STEP * (within < took[-1])
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupted:
            if began is None:
                late -= STEP
                continue
            interrupted += 1
        with contextlib.suppress(Interrupted):      # a late signal comes out where Python takes the GIL again
            time.sleep(0)
        guest.mem.validate()
        assert guest.in_use() == guest.owned() + kept_by_lists(guest.mem), (
            f"in use and nobody's after {interrupted} interruptions"
        )
    return interrupted


def kept_by_lists(mem):
    """Pages that are in use as the engine sees them and on a per-CPU list, or free in a pageblock of unmovable ones."""
    if mem.pcp is None:
        return 0
    zones = mem.zones.values()
    return sum(mem.pcp.count(zone.nr) + mem.pcp.free_pages(zone.nr) - zone.free_pages for zone in zones)


def check_interrupted(engine, work, given, tmp_path):
    def run():
        guest, seed = Guest(engine, directory=tmp_path, **given), f"{SEED} {work.__name__} {given}"
        interrupt_again_and_again(work, guest, HITS, SECONDS, seed)

    assert in_process(run, 60 + int(2 * SECONDS)) == ""


@pytest.mark.parametrize("work", CALLS, ids=lambda work: work.__name__)
@pytest.mark.parametrize("given", [{}, {"rules": fo.LINUX_2_6_25}, {"listening": True}], ids=["6.12", "2.6.25", "listening"])
def test_an_interrupted_call_is_finished_or_undone(engine, work, given, tmp_path):
    if work is settings and "rules" in given:
        pytest.skip("2.6.25 has no transparent huge pages")
    check_interrupted(engine, work, given, tmp_path)


@pytest.mark.parametrize("work", [w for w in CALLS if w not in (by_phases, settings, saved)] + [kernel_pages],
                         ids=lambda work: work.__name__)
@pytest.mark.parametrize("rules", [fo.LINUX_6_1, fo.LINUX_6_12], ids=["6.1", "6.12"])
def test_an_interrupted_call_with_per_cpu_lists(engine, work, rules, tmp_path):
    """The per-CPU lists' code is Python. Expect the same."""
    check_interrupted(engine, work, {"pcp": True, "memmap": "kernel", "rules": rules}, tmp_path)


def test_ctrl_c_comes_out_of_a_call_as_itself(engine):
    """SIGINT itself, in the midst of owners' pages moving. 32 have nowhere to move to. Expect KeyboardInterrupt or EINTR, and
    each page with its owner."""
    def run():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for nr in range(60):
            guest = Guest(engine)
            guest.owner.alloc(800)
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, lambda signum, frame: os.kill(os.getpid(), signal.SIGINT))
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.00005 + nr * 0.00002)
                try:
                    with contextlib.suppress(fo.HotplugError):
                        guest.mem.offline_pages(FIRST + 2 * S, 2 * S)
                    time.sleep(0.002)
                finally:      # in here, where a late signal is expected too
                    signal.setitimer(signal.ITIMER_REAL, 0)
            guest.mem.validate()
            assert guest.in_use() == guest.owned() == 800

    assert in_process(run) == ""
