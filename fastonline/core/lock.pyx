cimport cython
from cpython.exc cimport PyErr_CheckSignals

import _signal
import errno
import os
import threading

from fastonline.errors import HotplugError

__all__ = ["Held", "MachineLock"]

cdef extern from "Python.h":
    PyThreadState *PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState *)
    ctypedef object (*c_function "PyCFunction")(object module, object argument)
    c_function PyCFunction_GetFunction(object) except NULL
    int PyCFunction_GetFlags(object) except -1
    int METH_O

cdef extern from "pythread.h":
    ctypedef enum PyLockStatus:
        PY_LOCK_FAILURE
        PY_LOCK_ACQUIRED
        PY_LOCK_INTR
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock)
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock, long long, int) nogil
    void PyThread_release_lock(PyThread_type_lock)
    unsigned long PyThread_get_thread_ident()
    unsigned long PyThread_get_thread_native_id()

cdef extern from *:
    """
    #include <errno.h>
    #include <signal.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    static int fo_thread_is_gone(unsigned long native)
    {
    #ifdef SYS_tgkill
        return syscall(SYS_tgkill, (long)getpid(), (long)native, 0L) != 0 && errno == ESRCH;
    #else
        return 0;
    #endif
    }
    """
    bint thread_is_gone "fo_thread_is_gone"(unsigned long native)

cdef extern from *:
    """
    /* Python calls its handlers wherever bytecode runs in the main thread, soon after the C handler has noted a signal. While
       another C handler is in place that only counts, none is called; the signal is raised again in the end. */
    #define FO_NSIG 65
    static __thread int fo_steps;              /* uninterrupted steps that this thread is in */
    static __thread int fo_holds;              /* it holds signals back */
    static volatile sig_atomic_t fo_came[FO_NSIG];
    static struct sigaction fo_before[FO_NSIG];
    static char fo_held[FO_NSIG];
    static void fo_note(int number) { fo_came[number] = 1; }
    static void fo_hold_signal(int number)
    {
        struct sigaction note;
        if (number >= FO_NSIG || fo_held[number] || sigaction(number, NULL, &fo_before[number]) != 0)
            return;
        note = fo_before[number];
        note.sa_handler = fo_note;
        note.sa_flags &= ~SA_SIGINFO;
        fo_held[number] = sigaction(number, &note, NULL) == 0;
    }
    static void fo_let_signals_in(void)
    {
        struct sigaction now;
        int number;
        for (number = 1; number < FO_NSIG; number++) {
            if (!fo_held[number])
                continue;
            fo_held[number] = 0;
            /* a handler that was set meanwhile stays */
            if (sigaction(number, NULL, &now) == 0 && now.sa_handler == fo_note)
                sigaction(number, &fo_before[number], NULL);
            if (fo_came[number]) {
                fo_came[number] = 0;
                raise(number);
            }
        }
    }
    """
    int steps "fo_steps"
    bint holds "fo_holds"
    void hold_signal "fo_hold_signal"(int number)
    void let_signals_in "fo_let_signals_in"()

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int)

# How often a waiter checks that the holder is still alive.
cdef enum:
    LOOK_AFTER_US = 100000

# A fork copies all memory in an instant: no step may be half done then, and only the thread that forks lives on in the child.
# A thread that has taken a machine with own() is not waited for, nobody knows how long that would be: its machine is
# unusable in the child.
cdef int lasting = 0             # steps that run without the GIL now or are uninterrupted, in all machines
cdef int forking = 0             # while it is set no step lets go of the GIL
cdef unsigned long forks = 0     # this process is the child of so many
cdef unsigned long survivor = 0  # the thread that lived through the last of them

cdef list SIGNALS = sorted(_signal.valid_signals())

# called as a C function, because a step asks for the handler of every signal
cdef c_function getsignal = PyCFunction_GetFunction(_signal.getsignal)
if PyCFunction_GetFlags(_signal.getsignal) != METH_O:
    raise ImportError("signal.getsignal is not a C function of one argument")

cdef unsigned long main_thread = threading.main_thread().ident

cdef dict waits_for = {}         # thread -> the MachineLock that it waits for


def _before_fork():
    global forking
    forking += 1
    while lasting > steps:
        with nogil:
            usleep(50)


def _after_fork_in_parent():
    global forking
    forking -= 1


def _after_fork_in_child():
    global forking, forks, survivor, main_thread
    forking = 0
    forks += 1
    survivor = main_thread = PyThread_get_thread_ident()
    waits_for.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


@cython.final
@cython.freelist(16)
cdef class Held:
    def __dealloc__(self):
        cdef MachineLock lock = self.lock
        if lock is None or self.taken != lock.taken:
            return
        if self.uninterrupted:
            lock.uninterrupted -= 1
            let_in(1)
        lock.busy -= self.busy
        lock.still -= self.still
        lock.depth -= 1
        if self.busy > self.still:
            lock.native = 0
        if lock.depth == 0:
            lock.owner = 0
            if lock.waiters and not lock.posted:
                lock.posted = True
                PyThread_release_lock(lock.wake)


@cython.final
cdef class MachineLock:
    """The recursive lock of a machine. A thread holds it."""

    def __dealloc__(self):
        if self.wake != NULL:
            PyThread_free_lock(self.wake)

    cdef Held hold(self):
        cdef unsigned long me = PyThread_get_thread_ident()
        cdef Held held
        if self.owner != me or self.forks != forks:
            if self.unusable:
                raise RuntimeError("__init__ was not called, or it failed")
            if self.owner != 0:
                self.wait()
            if self.owner != me:
                self.owner = me
                self.forks = forks
        if self.busy > self.still:
            if self.native and self.native != PyThread_get_thread_native_id():      # a new thread may have an old one's ident
                raise owner_ended()
            raise HotplugError.of(
                errno.EBUSY,
                "this thread is working on this machine already (a signal handler or a user of the C API called it)",
            )
        held = Held.__new__(Held)
        held.lock = self
        held.taken = self.taken
        self.depth += 1
        return held

    cdef Held hold_still(self):
        cdef Held held = self.hold()
        held.busy = held.still = 1
        self.busy += 1
        self.still += 1
        return held

    cdef Held hold_alone(self):
        cdef Held held = self.hold()
        held.busy = 1
        self.busy += 1
        self.native = PyThread_get_thread_native_id()
        return held

    cdef Held hold_uninterrupted(self):
        cdef Held held = self.hold_still()
        held.uninterrupted = True
        self.uninterrupted += 1
        shut_out(1)
        return held

    cdef object call_back(self, object callback, tuple args):
        cdef int nr = self.uninterrupted
        self.uninterrupted = 0
        self.busy -= nr
        self.still -= nr
        let_in(nr)
        try:
            return callback(*args)
        finally:
            self.uninterrupted += nr
            self.busy += nr
            self.still += nr
            shut_out(nr)

    cdef int wait(self) except -1:
        """Wait until no other thread holds it. A holder that did not survive a fork is dropped, unless it had the machine
        alone."""
        cdef PyLockStatus status
        cdef unsigned long me = PyThread_get_thread_ident()
        while self.owner != 0:
            if self.forks != forks:
                if self.owner == survivor:
                    self.forks = forks
                    if self.native:
                        self.native = os.getpid()
                    if self.owner == me:
                        return 0
                elif self.native:
                    raise HotplugError.of(errno.EOWNERDEAD, "the thread that owned this machine did not survive a fork")
                else:
                    self.owner = 0
                    self.depth = self.busy = self.still = 0
                    self.taken += 1
                continue
            if waits_in_a_circle(self, me):
                raise HotplugError.of(
                    errno.EDEADLK,
                    "the thread that holds this machine waits for one that this thread holds; call several machines in the "
                    "same order",
                )
            if self.wake == NULL:
                self.wake = PyThread_allocate_lock()
                if self.wake == NULL:
                    raise MemoryError("cannot allocate a lock")
                PyThread_acquire_lock_timed(self.wake, 0, 0)
            waits_for[me] = self
            self.waiters += 1
            with nogil:
                status = PyThread_acquire_lock_timed(self.wake, LOOK_AFTER_US, 1)
            self.waiters -= 1
            waits_for.pop(me, None)
            if status == PY_LOCK_ACQUIRED:
                self.posted = False
            elif status == PY_LOCK_INTR:
                PyErr_CheckSignals()
            elif self.native and thread_is_gone(self.native):
                raise owner_ended()
        return 0

    cdef PyThreadState *let_go(self, uint64_t nr_bits) noexcept:
        global lasting
        if nr_bits < LONG_STEP_BITS or forking:
            return NULL
        self.busy += 1
        lasting += 1
        return PyEval_SaveThread()

    cdef void take_back(self, PyThreadState *thread) noexcept:
        global lasting
        if thread != NULL:
            PyEval_RestoreThread(thread)
            self.busy -= 1
            lasting -= 1


cdef object owner_ended():
    return HotplugError.of(errno.EOWNERDEAD, "the thread that owned this machine ended without releasing it")


cdef int shut_out(int nr) except -1:
    """This thread is in `nr` more uninterrupted steps. What a handler raises that was due already comes out; the steps count
    all the same."""
    global lasting, steps, holds
    if nr == 0:
        return 0
    lasting += nr
    steps += nr
    if steps == nr and main_thread == PyThread_get_thread_ident():
        holds = True
        for number in SIGNALS:
            if callable(getsignal(_signal, number)):
                hold_signal(number)
        PyErr_CheckSignals()
    return 0


cdef void let_in(int nr) noexcept:
    """The inverse of shut_out: signals that came meanwhile come now."""
    global lasting, steps, holds
    lasting -= nr
    steps -= nr
    if steps == 0 and holds:
        holds = False
        let_signals_in()


cdef bint waits_in_a_circle(MachineLock lock, unsigned long me):
    """Does the holder of the lock wait, itself or by way of others, for a lock that this thread holds?"""
    while lock is not None and lock.owner != 0 and lock.forks == forks:
        if lock.owner == me:
            return True
        lock = waits_for.get(lock.owner)
    return False


cdef MachineLock unusable_lock():
    cdef MachineLock lock = MachineLock.__new__(MachineLock)
    lock.unusable = True
    lock.busy = 1
    return lock
