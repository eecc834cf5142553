"""Who works on a machine: one thread at a time, with or without the GIL.

All state of a machine is protected by the GIL, and by its MachineLock where that is not enough: a call of several steps holds
the lock, over its callbacks too (mem_hotplug_begin), and a step that lasts lets go of the GIL meanwhile, `busy` set. A call of
one short step under the GIL needs no lock: it settles, which costs one test, and waits only while somebody is busy.
"""

from fastonline.core.types cimport uint64_t

cdef extern from "Python.h":
    ctypedef struct PyThreadState

cdef extern from "pythread.h":
    ctypedef void *PyThread_type_lock

cdef enum:
    LASTING = 8388608            # bits of state that a step must touch for it to let go of the GIL: 1 MiB, some 100 us


cdef class Held:                 # the lock is released when this goes
    cdef MachineLock lock
    cdef bint alone              # of hold_alone


cdef class MachineLock:
    cdef unsigned long owner     # ident of the thread that holds it, 0: nobody
    cdef int depth               # how many Helds it has
    cdef int busy                # its holder is in the midst of a step that nobody may see
    cdef unsigned long forks     # of this process, when it was taken
    cdef int waiters
    cdef bint posted             # a waiter is being woken
    cdef PyThread_type_lock wake # what waiters block on, made for the first

    cdef Held hold(self)         # HotplugError EBUSY for a signal handler in the midst of the same machine's step
    cdef Held hold_alone(self)   # hold, and busy all the while: the thread works on the machine without the GIL as it likes
    cdef int wait(self) except -1
    cdef PyThreadState *let_go(self, uint64_t nr_bits) noexcept      # NULL: not worth it, the GIL is kept
    cdef void take_back(self, PyThreadState *thread) noexcept


cdef inline int settle(MachineLock lock) except -1:
    """Go on when nobody is in the midst of a step; until the GIL is let go of nobody will be."""
    if lock.busy:
        lock.hold()
    return 0
