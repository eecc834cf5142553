"""Steps that signals may interrupt, and steps that they may not.

Large ranges are walked without the GIL, by several threads where asked for, and taken back when a signal handler raises.
"""

from fastonline.core.types cimport MAX_MAX_ORDER, uint64_t
from fastonline.hotplug.machine cimport Machine

cdef enum:                       # what walk_range does to a range, all of whose pages are alike
    INIT = 0                     # absent -> added
    PREPARE = 1                  # added -> waiting
    ONLINE = 2                   # waiting -> free

cdef enum:
    BITS_BETWEEN_SIGNALS = 134217728     # of state, that a step goes over without looking at signals: 16 MiB


cdef inline uint64_t pages_between_signals(Machine mem) noexcept nogil:
    """Pages that a range is walked in at a time: some milliseconds, whole blocks of every order."""
    return (BITS_BETWEEN_SIGNALS // mem.pages.page_bits) >> MAX_MAX_ORDER << MAX_MAX_ORDER

cdef int walk_range(Machine mem, int step, uint64_t start, uint64_t nr, int order, int threads=*) except -1
