"""The counter of a notifier chain, where compiled code can reach it."""

from fastonline.core.types cimport uint64_t


cdef class ChainCalls:
    cdef readonly uint64_t calls
