"""core/lock.pyx: many threads on one machine and on many, signals, forks. Nothing here asserts a time."""

import multiprocessing
import signal
import sys
import threading
from functools import partial

import numpy as np
import pytest
from conftest import snapshot
from in_process import in_child

import fastonline as fo
from fastonline.core.pageflags import PAGE_FREE, PAGE_WAITING
from fastonline.hotplug.invariants import check_engine

SECTION = fo.X86_64.pages_per_section
LARGE = {"bitmap": 1 << 25, "struct_page": 1 << 19}     # pages: several parts of a walk
FIRST = 1 << 28


@pytest.fixture(autouse=True)
def switching_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(*works):
    """Run all at once; the first exception of any is raised."""
    raised, barrier = [], threading.Barrier(len(works))

    def run(work):
        barrier.wait()
        try:
            work()
        except BaseException as e:
            raised.append(e)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def test_disjoint_sections_go_online_whole(engine):
    """Eight threads add, online, offline and remove sections of their own, with a notifier that lets others run.

    Expect every call to succeed and the end to be that of one thread.
    """
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine, max_memory="8G")
    told = []
    mem.notifiers.register(lambda action, notice: told.append(action))

    def work(first):
        for _ in range(3):
            mem.add_memory(first, SECTION)
            assert mem.online_pages(first, SECTION) == SECTION
            mem.offline_pages(first, SECTION)
            assert mem.online_pages(first, SECTION) == SECTION
            mem.offline_pages(first, SECTION)
            mem.remove_memory(first, SECTION)
        mem.add_memory(first, SECTION)
        assert mem.online_pages(first, SECTION) == SECTION

    in_threads(*[lambda n=n: work((n + 2) * SECTION) for n in range(8)])
    mem.validate()
    assert mem.totalram_pages == 9 * SECTION
    assert mem.stats()["pages_onlined"] == 8 * 7 * SECTION
    assert mem.stats()["pages_offlined"] == 8 * 6 * SECTION
    assert len(told) == mem.stats()["notifications"] == 8 * 26


def test_pages_batches_and_allocations_are_counted_exactly(engine):
    """Threads mark page by page and in batches, allocate and free, and look, while others walk ranges without the GIL."""
    large = LARGE[engine] // 4
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine)
    mem.add_memory(FIRST, 2 * SECTION)
    mem.prepare_online_pages(FIRST, 2 * SECTION)
    mem.add_memory(FIRST + 4 * SECTION, large)

    def pages():
        assert sum(mem.mark_pages_onlined(pfn) for pfn in range(FIRST, FIRST + SECTION)) == SECTION

    def batches():
        pfns = np.random.default_rng(1).permutation(np.arange(FIRST + SECTION, FIRST + 2 * SECTION))
        assert sum(mem.mark_pfns_onlined(pfns[i : i + 512]) for i in range(0, SECTION, 512)) == SECTION

    def ranges():
        for _ in range(3):
            assert mem.online_pages(FIRST + 4 * SECTION, large) == large
            mem.offline_pages(FIRST + 4 * SECTION, large)

    def allocations():
        for _ in range(300):
            got = mem.alloc_pages_bulk(64, zone="DMA32")
            one = mem.alloc_pages(zone="DMA32")
            mem.free_pfns(got)
            mem.free_pages(one)

    def looks():
        for _ in range(100):
            assert mem.totalram_pages >= SECTION
            assert sum(mem.zones["DMA32"].nr_free) > 0
            states = mem.page_states(FIRST, SECTION)
            assert set(np.unique(states)) <= {PAGE_WAITING, PAGE_FREE}

    in_threads(pages, batches, ranges, allocations, looks)
    mem.validate()
    stats = mem.stats()
    assert mem.totalram_pages == 3 * SECTION
    assert stats["pages_onlined"] == 2 * SECTION + 3 * large
    assert stats["pages_offlined"] == 3 * large
    assert stats["allocations"][0] == stats["frees"][0] - 2 * SECTION == 300 * 65


def test_large_batches_without_the_gil(engine):
    """Two threads mark, free and allocate large batches. Expect no page lost, none twice."""
    nr = 2 * SECTION
    mem = fo.Memory(fo.X86_64, engine=engine)
    mem.add_memory(0, 2 * nr)
    mem.prepare_online_pages(0, 2 * nr)

    def work(seed):
        pfns = np.random.default_rng(seed).permutation(np.arange(seed * nr, (seed + 1) * nr))
        assert mem.mark_pfns_onlined(pfns) == nr
        for _ in range(3):
            mem.free_pfns(mem.alloc_pages_bulk(nr))

    in_threads(lambda: work(0), lambda: work(1))
    mem.validate()
    assert mem.totalram_pages == 2 * nr
    taken = []
    in_threads(lambda: taken.append(mem.alloc_pages_bulk(nr)), lambda: taken.append(mem.alloc_pages_bulk(nr)))
    assert np.unique(np.concatenate(taken)).size == 2 * nr


def test_different_machines_share_nothing(engine):
    def work():
        mem = fo.Memory(fo.X86_64, boot="256M", engine=engine)
        for _ in range(10):
            mem.free_pfns(mem.alloc_pages_bulk(2 * SECTION))
            assert snapshot(mem.copy()) == snapshot(mem)
        mem.validate()

    in_threads(*[work] * 4)


def test_a_call_waits_for_another_threads_hot_plug_call_and_not_for_its_own(make_machine):
    """While a notifier is asked, another thread's hot-plug call waits, its pages come and go; the notifier's own gets EBUSY."""
    mem = make_machine(boot="1M", rules=fo.LINUX_6_1)
    mem.add_memory(1024, 512)
    order, asked, other = (
        [],
        threading.Event(),
        threading.Thread(
            target=lambda: (
                asked.wait(),
                mem.free_pages(mem.alloc_pages()),
                order.append("page"),
                mem.online_pages(1280, 256),
                order.append("other"),
            )
        ),
    )
    other.start()

    def notifier(action, notice):
        if action == fo.MEM_GOING_ONLINE and notice.start_pfn == 1024:
            asked.set()
            other.join(0.05)
            with pytest.raises(fo.HotplugError, match="EBUSY"):
                mem.add_memory(2048, 256)
            order.append("notifier")

    mem.notifiers.register(notifier)
    assert mem.online_pages(1024, 256) == 256
    other.join()
    assert order == ["page", "notifier", "other"]
    mem.validate()


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupt():
    """interrupt(work, seconds): run work, with a signal after so many seconds whose handler raises. True when it came in
    time."""

    def interrupted(work, seconds):
        def handler(signum, frame):
            raise Interrupted

        before = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                work()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupted:
            return True
        finally:
            signal.signal(signal.SIGALRM, before)
        return False

    return interrupted


def shape(mem):
    """What an interrupted call must leave as it was."""
    zones = [(key, z.start_pfn, z.spanned_pages, z.present_pages, z.managed_pages, z.nr_free) for key, z in mem.zones.items()]
    return zones, mem.stats(), mem.sections.spans(), list(mem.nodes), list(mem.resources), mem.groups


@pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_12], ids=lambda rules: rules.name)
@pytest.mark.parametrize("threads", [2, 3, 64])
def test_threads_of_a_call_leave_what_one_leaves(engine, rules, threads):
    nr = LARGE[engine] + 5 * SECTION
    alone = fo.Memory(fo.X86_64, boot="128M", engine=engine, rules=rules)
    alone.add_memory(FIRST, nr)
    shared = fo.Memory(fo.X86_64, boot="128M", engine=engine, rules=rules)
    shared.add_memory(FIRST, nr, threads=threads)
    assert shape(shared) == shape(alone)
    assert np.array_equal(shared.page_states(FIRST, nr), alone.page_states(FIRST, nr))
    assert shared.online_pages(FIRST, nr) == nr
    check_engine(shared)


@pytest.mark.parametrize("threads", [0, -1, 65])
def test_no_such_number_of_threads(make_machine, threads):
    mem = make_machine()
    before = shape(mem)
    with pytest.raises(ValueError, match=f"threads {threads} is not between 1 and 64"):
        mem.add_memory(1024, 256, threads=threads)
    assert shape(mem) == before


@pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_12], ids=lambda rules: rules.name)
@pytest.mark.parametrize("call", ["add_memory", "prepare_online_pages", "mark_pages_onlined", "online_pages"])
def test_a_signal_that_raises_takes_a_lasting_call_back(engine, rules, call, interrupt):
    """Interrupt the call sooner and sooner. Expect nothing changed each time, and the call to succeed afterwards."""
    nr = LARGE[engine] * 2
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine, rules=rules)
    if call != "add_memory":
        mem.add_memory(FIRST, nr)
    if call == "mark_pages_onlined":
        mem.prepare_online_pages(FIRST, nr)
    told = []
    whole = mem.copy()
    getattr(whole, call)(FIRST, nr)
    seconds, times = 0.02, 0
    while times < 2 and seconds > 1e-5:
        other = mem.copy()
        if call == "prepare_online_pages":
            other.notifiers.register(lambda action, notice: told.append(action))
        before = shape(other)
        del told[:]
        seconds /= 1.5
        if interrupt(partial(getattr(other, call), FIRST, nr), seconds):
            after = shape(other)
            for name in ("notifications", "bytes_touched"):     # these were
                del before[1][name], after[1][name]
            if after != before:     # too late, it came when the call was done
                assert after[0] == shape(whole)[0] and after[2:] == shape(whole)[2:]
                continue
            # the signal may come before the chain has called this one, which then hears of the end alone (1.3)
            assert told.count(fo.MEM_GOING_ONLINE) <= told.count(fo.MEM_CANCEL_ONLINE)
            assert not other.sections.online_section_nr(FIRST // SECTION)
            states = other.page_states(FIRST, nr)
            assert (states == states[0]).all()
            times += 1
    getattr(mem, call)(FIRST, nr)
    mem.validate() if engine == "struct_page" else check_engine(mem)


def test_ctrl_c_leaves_a_valid_machine():
    """A thread raises SIGINT while the main thread onlines again and again: KeyboardInterrupt, all or nothing."""
    nr = LARGE["struct_page"] * 2
    mem = fo.Memory(fo.X86_64, boot="128M", engine="struct_page")
    mem.add_memory(FIRST, nr)
    timer = threading.Timer(0.05, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            mem.online_pages(FIRST, nr)
            mem.offline_pages(FIRST, nr)
    timer.join()
    mem.validate()
    assert mem.totalram_pages in (SECTION, SECTION + nr)


def test_a_signal_handler_in_the_midst_of_a_call_gets_ebusy(engine):
    nr = LARGE[engine] * 2
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine)
    seen = []

    def handler(signum, frame):
        try:
            seen.append(mem.alloc_pages())
        except fo.HotplugError as e:
            seen.append(e)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        mem.add_memory(FIRST, nr)
        mem.online_pages(FIRST, nr)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    for got in seen:
        if not isinstance(got, fo.HotplugError):
            mem.free_pages(got)
    assert mem.totalram_pages == SECTION + nr
    check_engine(mem)


def test_a_fork_during_lasting_calls_leaves_a_usable_machine(engine):
    """Fork while two threads walk ranges without the GIL. Expect each child's machine whole, and nobody's lock held."""
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine)
    nr = LARGE[engine] // 4
    mem.add_memory(FIRST, 2 * nr)
    stop = threading.Event()

    def work(start):
        while not stop.is_set():
            mem.online_pages(start, nr)
            mem.offline_pages(start, nr)

    threads = [threading.Thread(target=work, args=(FIRST + n * nr,)) for n in range(2)]
    for thread in threads:
        thread.start()

    def child():
        check_engine(mem)
        mem.add_memory(1 << 20, SECTION)
        assert mem.online_pages(1 << 20, SECTION) == SECTION
        in_threads(lambda: mem.alloc_pages_bulk(1000), lambda: mem.alloc_pages_bulk(1000))
        check_engine(mem)

    try:
        assert all([in_child(child) for _ in range(5)])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    check_engine(mem)
    assert mem.totalram_pages == SECTION


def test_a_fork_inside_a_callback(make_machine):
    """The thread that forks holds the machine in the child too; others wait until its call is over."""
    mem = make_machine(boot="1M")
    mem.add_memory(1024, 256)
    done = []

    def child():
        with pytest.raises(fo.HotplugError, match="EBUSY"):
            mem.add_memory(2048, 256)
        other = threading.Thread(target=lambda: mem.set_page_reserved(0))
        other.start()
        other.join(0.05)
        assert other.is_alive()

    mem.notifiers.register(lambda action, notice: action == fo.MEM_GOING_ONLINE and done.append(in_child(child)))
    mem.online_pages(1024, 256)
    assert done and all(done)


def online_one(mem):
    mem.online_pages(1024, 256)
    mem.validate()
    return mem


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(make_machine, method):
    mem = make_machine(boot="1M")
    mem.add_memory(1024, 256)
    with multiprocessing.get_context(method).Pool(2) as pool:
        there = pool.map(online_one, [mem, mem])
    assert mem.zones["Normal"].nr_free == make_machine(boot="1M").zones["Normal"].nr_free
    online_one(mem)
    assert all(other.buddyinfo() == mem.buddyinfo() for other in there)
