cimport cython
from cpython.exc cimport PyErr_CheckSignals

import errno
import os

from fastonline.errors import HotplugError

__all__ = ["Held", "MachineLock"]

cdef extern from "Python.h":
    PyThreadState *PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState *)

cdef extern from "pythread.h":
    ctypedef enum PyLockStatus:
        PY_LOCK_INTR
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock)
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock, long long, int) nogil
    void PyThread_release_lock(PyThread_type_lock)
    unsigned long PyThread_get_thread_ident()

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int)

# A fork copies all memory in an instant: no step may be half done then, and only the thread that forks lives on in the child.
cdef int lasting = 0             # steps that run without the GIL now, in all machines
cdef int forking = 0             # while it is set no step lets go of the GIL
cdef unsigned long forks = 0     # this process is the child of so many
cdef unsigned long survivor = 0  # the thread that lived through the last of them


def _before_fork():
    global forking
    forking += 1
    while lasting:
        with nogil:
            usleep(50)


def _after_fork_in_parent():
    global forking
    forking -= 1


def _after_fork_in_child():
    global forking, forks, survivor
    forking = 0
    forks += 1
    survivor = PyThread_get_thread_ident()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


@cython.final
@cython.freelist(16)
cdef class Held:
    def __dealloc__(self):
        cdef MachineLock lock = self.lock
        lock.depth -= 1
        if lock.depth == 0:
            lock.owner = 0
            if lock.waiters and not lock.posted:
                lock.posted = True
                PyThread_release_lock(lock.wake)


@cython.final
cdef class MachineLock:
    """One machine's lock: recursive, held by a thread."""

    def __dealloc__(self):
        if self.wake != NULL:
            PyThread_free_lock(self.wake)

    cdef Held hold(self):
        cdef unsigned long me = PyThread_get_thread_ident()
        cdef Held held
        if self.owner != me or self.forks != forks:
            if self.owner != 0:
                self.wait()
            self.owner = me
            self.forks = forks
        elif self.busy:
            raise HotplugError.of(errno.EBUSY, "a signal handler came in the midst of a call that works on this machine")
        held = Held.__new__(Held)
        held.lock = self
        self.depth += 1
        return held

    cdef int wait(self) except -1:
        """Until nobody else holds it. A holder that did not live through a fork is forgotten."""
        cdef PyLockStatus status
        while self.owner != 0:
            if self.forks != forks:
                if self.owner == survivor:
                    self.forks = forks
                    if self.owner == PyThread_get_thread_ident():
                        return 0
                else:
                    self.owner = 0
                    self.depth = 0
                    self.busy = 0
                continue
            if self.wake == NULL:
                self.wake = PyThread_allocate_lock()
                if self.wake == NULL:
                    raise MemoryError("no memory for a lock to wait at")
                PyThread_acquire_lock_timed(self.wake, 0, 0)
            self.waiters += 1
            with nogil:
                status = PyThread_acquire_lock_timed(self.wake, -1, 1)
            self.waiters -= 1
            if status == PY_LOCK_INTR:
                PyErr_CheckSignals()
            else:
                self.posted = False
        return 0

    cdef PyThreadState *let_go(self, uint64_t nr_bits) noexcept:
        global lasting
        if nr_bits < LASTING or forking:
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
