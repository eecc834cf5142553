"""Who works on a machine: one thread at a time, with or without the GIL.

All state of a machine is protected by the GIL, and by its MachineLock where that is not enough: a call of several steps holds
the lock, over its callbacks too (mem_hotplug_begin), and a step that lasts lets go of the GIL meanwhile, `busy` set. A call of
one short step under the GIL needs no lock: it settles, which costs one test, and waits only while somebody is busy.

Errors of whoever asks for the lock: HotplugError EBUSY for a signal handler in the midst of the same machine's step, EDEADLK
where waiting would never end (two threads that hold one machine each and call the other's), EOWNERDEAD when the thread that
took the machine with own() has ended, or did not live through a fork.

A step that calls Python code (NumPy has much of it) takes the machine with hold_uninterrupted: a signal handler that raised
in the middle of it would leave it half done, and so would a fork. Both wait until the step ends, or calls a user's callback.
"""

from fastonline.core.types cimport uint64_t

cdef extern from "Python.h":
    ctypedef struct PyThreadState

cdef extern from "pythread.h":
    ctypedef void *PyThread_type_lock

cdef enum:
    LONG_STEP_BITS = 8388608     # bits of state that a step must touch for it to let go of the GIL: 1 MiB, some 100 us


cdef class Held:                 # the lock is released when this goes
    cdef MachineLock lock
    cdef int busy, still         # what it has added to the lock's
    cdef bint uninterrupted      # it holds back signal handlers and forks
    cdef unsigned long taken     # the lock's, when it was made


cdef class MachineLock:
    cdef unsigned long owner     # ident of the thread that holds it, 0: nobody
    cdef unsigned long native    # its thread id for the kernel, when it holds the lock alone; else 0
    cdef int depth               # how many Helds it has
    cdef int busy                # reasons why other threads wait even with a call of one step
    cdef int still               # of them, those that do not concern the holder itself
    cdef int uninterrupted       # Helds that hold back signal handlers and forks
    cdef bint unusable           # of an object that was never made
    cdef unsigned long taken     # how often it was taken from a holder that is gone
    cdef unsigned long forks     # of this process, when it was taken
    cdef int waiters
    cdef bint posted             # a waiter is being woken
    cdef PyThread_type_lock wake  # what waiters block on, made for the first

    cdef Held hold(self)         # other threads' calls of several steps wait
    cdef Held hold_still(self)   # and those of one step too: the machine stands still but for what this thread does
    # and this thread's own calls get EBUSY: the holder may work on the machine without the GIL
    cdef Held hold_alone(self)
    # as hold_still, and no signal handler and no fork comes before it goes; handlers that are due run first
    cdef Held hold_uninterrupted(self)
    # Call a user's callback from an uninterrupted step: signal handlers and forks may come while it runs. What a handler raises
    # then is raised here, and the step is uninterrupted again all the same
    cdef object call_back(self, object callback, tuple args)
    cdef int wait(self) except -1
    cdef PyThreadState *let_go(self, uint64_t nr_bits) noexcept      # NULL: not worth it, the GIL is kept
    cdef void take_back(self, PyThreadState *thread) noexcept


cdef inline int settle(MachineLock lock) except -1:
    """Go on when nobody is in the midst of a step; until the GIL is let go of nobody will be."""
    if lock.busy:
        lock.hold()
    return 0


cdef MachineLock unusable_lock()     # the lock of an object that was never made: hold() raises RuntimeError
