"""The lock of a machine.

The GIL protects the state of a machine, and the MachineLock where the GIL is not enough. A call of several steps holds the
lock, in its callbacks too (mem_hotplug_begin). A long step sets `busy` and releases the GIL. A call of one short step under
the GIL needs no lock: it calls settle(), one load and branch unless another thread is inside a long step.

Taking the lock raises HotplugError EBUSY in a signal handler during a step of the same machine, EDEADLK when waiting would
never end (two threads that hold one machine each and call the other's), EOWNERDEAD when the thread that took the machine with
own() has ended, or is not the one that forked.

A step that calls Python code, such as much of NumPy, takes the machine with hold_uninterrupted: a fork, or a signal handler
that raises, would leave the step half done. Both wait until the step ends or calls a user's callback.
"""

from fastonline.core.types cimport uint64_t

cdef extern from "Python.h":
    ctypedef struct PyThreadState

cdef extern from "pythread.h":
    ctypedef void *PyThread_type_lock

cdef enum:
    LONG_STEP_BITS = 8388608     # a step that touches this many bits of state releases the GIL: 1 MiB, about 100 us


cdef class Held:                 # the lock is released when this is deallocated
    cdef MachineLock lock
    cdef int busy, still         # its share of the lock's counters
    cdef bint uninterrupted      # it holds back signal handlers and forks
    cdef unsigned long taken     # the lock's, when it was made


cdef class MachineLock:
    cdef unsigned long owner     # ident of the thread that holds it, or 0
    cdef unsigned long native    # its thread id for the kernel, when it holds the lock alone; else 0
    cdef int depth               # how many Helds it has
    cdef int busy                # Helds for which other threads' calls of one step wait, too
    cdef int still               # of them, those that do not affect the holder itself
    cdef int uninterrupted       # Helds that hold back signal handlers and forks
    cdef bint unusable           # of an object that was never made
    cdef unsigned long taken     # how often it was taken from a dead holder
    cdef unsigned long forks     # of this process, when it was taken
    cdef int waiters
    cdef bint posted             # a waiter is being woken
    cdef PyThread_type_lock wake  # what waiters block on, made for the first

    cdef Held hold(self)         # other threads' calls of several steps wait
    cdef Held hold_still(self)   # and their calls of one step: only this thread changes the machine
    # and this thread's own calls raise EBUSY: the holder may work on the machine without the GIL
    cdef Held hold_alone(self)
    # as hold_still; signal handlers and forks wait until it is released. Pending handlers run first
    cdef Held hold_uninterrupted(self)
    # Call a user's callback from an uninterrupted step. Signal handlers and forks may run during the callback; an exception of
    # a handler is raised here, and the step is uninterrupted again
    cdef object call_back(self, object callback, tuple args)
    cdef int wait(self) except -1
    cdef PyThreadState *let_go(self, uint64_t nr_bits) noexcept      # NULL: the step is short, the GIL is kept
    cdef void take_back(self, PyThreadState *thread) noexcept


cdef inline int settle(MachineLock lock) except -1:
    """Wait until no other thread is inside a long step. None can begin one before the GIL is released."""
    if lock.busy:
        lock.hold()
    return 0


cdef MachineLock unusable_lock()     # the lock of an object whose __init__ has not run: hold() raises RuntimeError
