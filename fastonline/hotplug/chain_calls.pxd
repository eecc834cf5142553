"""The calls of a notifier chain, where compiled code can reach them."""

from fastonline.core.types cimport uint64_t

cdef enum:                       # as in hotplug/notifier.py
    NOTIFY_DONE = 0x0000
    NOTIFY_OK = 0x0001
    NOTIFY_STOP_MASK = 0x8000
    MEM_ONLINE = 1
    MEM_GOING_OFFLINE = 2
    MEM_OFFLINE = 4
    MEM_GOING_ONLINE = 8
    MEM_CANCEL_ONLINE = 16
    MEM_CANCEL_OFFLINE = 32
    MEM_PREPARE_ONLINE = 64
    MEM_FINISH_OFFLINE = 128
    ALL_ACTIONS = 255
    NO_NODE = -1


cdef class ChainCalls:
    cdef readonly uint64_t calls
    """How often the chain has been called (int)."""
    cdef tuple callbacks         # (callback, priority, actions) in the order of their calling; a change makes another tuple
    cdef readonly int heard
    """The actions that a callback hears (int): MEM_ONLINE | MEM_OFFLINE, say."""

    cdef void set_callbacks(self, tuple callbacks) noexcept
    cdef int call_all(self, int action, object notice) except -1         # tell
