"""The calls of a notifier chain, where compiled code can reach them."""

from fastonline.core.types cimport uint64_t

cdef enum:                       # as in hotplug/notifier.py
    NOTIFY_DONE = 0x0000
    NOTIFY_OK = 0x0001
    NOTIFY_STOP_MASK = 0x8000
    MEM_ONLINE = 1
    NO_NODE = -1


cdef class ChainCalls:
    cdef readonly uint64_t calls
    """How often the chain has been called (int)."""
    cdef tuple callbacks         # (callback, priority) in the order of their calling; a change makes another tuple

    cdef int call_all(self, object action, object notice) except -1      # tell
