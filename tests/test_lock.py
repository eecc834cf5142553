"""core/lock.pyx: holders that end, that wait for each other, and that do not live through a fork."""

import ctypes
import errno
import signal
import sys
import threading
from types import SimpleNamespace

import pytest
from in_process import in_child

import fastonline as fo
from fastonline import capi
from fastonline.core.lock import Held, MachineLock
from fastonline.hotplug.interruptible import uninterrupted

S = 256


class Api(ctypes.Structure):
    _fields_ = [
        ("abi", ctypes.c_int),
        ("memory", ctypes.c_void_p),
        ("own", ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)),
    ]


@pytest.fixture(scope="module")
def own():
    """own(mem): the Held that Memory.own gives a client of the C API."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return Api.from_address(pointer(capi._C_API, b"fastonline.capi._C_API")).own


def owned_by_a_thread(own, mem, until):
    """A thread that takes the machine with own() and keeps it until the event is set; returns when it has it."""
    taken = threading.Event()

    def work():
        held = own(mem)
        taken.set()
        until.wait()
        del held

    thread = threading.Thread(target=work)
    thread.start()
    taken.wait()
    return thread


def test_a_thread_that_ended_with_the_machine(make_machine, own):
    """Expect EOWNERDEAD for whoever asks for the machine, a fork to go on, and the machine back when its Held goes."""
    mem, kept = make_machine(), []
    thread = threading.Thread(target=lambda: kept.append(own(mem)))
    thread.start()
    thread.join()
    for call in (mem.stats, mem.alloc_pages, lambda: mem.add_memory(1024, S)):
        with pytest.raises(fo.HotplugError) as caught:
            call()
        assert caught.value.errno == errno.EOWNERDEAD
    assert in_child(lambda: None)
    kept.clear()
    mem.free_pages(mem.alloc_pages())
    mem.validate()


def test_a_thread_with_the_ident_of_one_that_ended(make_machine, own):
    """New threads get the ident of the owner that has ended. Expect EOWNERDEAD in them, too."""
    mem, kept, heard = make_machine(), [], []
    thread = threading.Thread(target=lambda: kept.append(own(mem)))
    thread.start()
    thread.join()

    def ask():
        with pytest.raises(fo.HotplugError) as caught:
            mem.alloc_pages()
        heard.append((threading.get_ident() == thread.ident, caught.value.errno))

    for _ in range(20):
        asking = threading.Thread(target=ask)
        asking.start()
        asking.join()
        if heard[-1][0]:
            break
    assert {number for _, number in heard} == {errno.EOWNERDEAD}
    kept.clear()
    mem.validate()


def test_a_fork_does_not_wait_for_an_owner(make_machine, own):
    """Fork while another thread owns the machine. Expect EOWNERDEAD in the child, for good, and other machines to work
    there."""
    mem, other, until = make_machine(), make_machine(), threading.Event()
    thread = owned_by_a_thread(own, mem, until)

    def child():
        for _ in range(2):
            with pytest.raises(fo.HotplugError, match="EOWNERDEAD"):
                mem.alloc_pages()
        other.validate()

    assert in_child(child)
    until.set()
    thread.join()
    mem.validate()


def test_an_owner_forks(make_machine, own):
    """Expect the machine to be the child's too, and free there when its Held goes."""
    mem = make_machine()
    held = own(mem)

    def child():
        nonlocal held
        with pytest.raises(fo.HotplugError, match="EBUSY"):
            mem.alloc_pages()
        del held
        mem.alloc_pages()
        mem.validate()

    assert in_child(child)
    with pytest.raises(fo.HotplugError, match="EBUSY"):
        mem.alloc_pages()
    del held
    mem.validate()


def test_two_notifiers_that_call_each_others_machine(make_machine):
    """Each thread holds its machine and calls the other's. Expect EDEADLK in one of them, and both machines whole."""
    machines, both, refused = [make_machine(), make_machine()], threading.Barrier(2), []

    def work(mine, other):
        def notifier(action, notice):
            if action == fo.MEM_GOING_ONLINE:
                both.wait()
                try:
                    other.set_page_reserved(0, 1)
                except fo.HotplugError as e:
                    refused.append(e.errno)

        mine.add_memory(1024, S)
        mine.notifiers.register(notifier)
        mine.online_pages(1024, S)

    threads = [threading.Thread(target=work, args=pair) for pair in (machines, machines[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == [errno.EDEADLK]
    for mem in machines:
        mem.validate()


def test_three_machines_in_a_circle(make_machine):
    machines, all_of_them, refused = [make_machine() for _ in range(3)], threading.Barrier(3), []

    def work(i):
        mine, other = machines[i], machines[(i + 1) % 3]

        def notifier(action, notice):
            if action == fo.MEM_GOING_ONLINE:
                all_of_them.wait()
                try:
                    other.stats()
                except fo.HotplugError as e:
                    refused.append(e.errno)

        mine.add_memory(1024, S)
        mine.notifiers.register(notifier)
        mine.online_pages(1024, S)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == [errno.EDEADLK]


def test_a_signal_comes_through_to_a_waiter(make_machine, own):
    """The main thread waits for a machine that another owns. Expect a raising handler to get it out."""
    mem, until = make_machine(), threading.Event()
    thread = owned_by_a_thread(own, mem, until)

    def handler(signum, frame):
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(InterruptedError):
            mem.stats()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        until.set()
        thread.join()
    mem.validate()


def test_made_by_hand():
    """Expect a Held of nothing and a lock of no machine to do nothing."""
    assert Held() is not None and MachineLock() is not None
    with pytest.raises(TypeError):
        Held().__reduce__()


@uninterrupted
def step_with_a_listener(driver, log):
    """A signal comes in the step, in its callback, which sets another handler, and in the step again."""
    def listener(action, notice):
        log.append("callback")
        signal.raise_signal(signal.SIGUSR1)
        log.append("callback goes on")
        signal.signal(signal.SIGUSR1, lambda signum, frame: log.append("other handler"))

    log.append("step")
    signal.raise_signal(signal.SIGUSR1)
    log.append("step goes on")
    with driver.mem.notifiers.registered(listener):
        driver.mem.mark_pages_onlined(1024)
    signal.raise_signal(signal.SIGUSR1)
    log.append("end")


def signals_of_a_step(mem):
    log = []
    signal.signal(signal.SIGUSR1, lambda signum, frame: log.append("handler"))
    try:
        step_with_a_listener(SimpleNamespace(mem=mem), log)
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    return log


def test_which_signals_are_held_back(make_machine):
    """Expect handlers to run when the step calls back or ends, also one that the callback has set; the same in a child whose
    main thread is another one, the one that forked."""
    mem, came = make_machine(), []
    mem.add_memory(1024, S)
    mem.prepare_online_pages(1024, S)
    expected = ["step", "step goes on", "handler", "callback", "handler", "callback goes on", "end", "other handler"]

    def child():
        if signals_of_a_step(mem) != expected:
            sys.exit(1)

    thread = threading.Thread(target=lambda: came.append(in_child(child)))
    thread.start()
    thread.join()
    assert came == [True]
    assert signals_of_a_step(mem) == expected
