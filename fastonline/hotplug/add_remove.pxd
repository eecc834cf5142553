"""Memory appears and disappears: add_memory and remove_memory (mm/memory_hotplug.c)."""

from fastonline.core.types cimport uint64_t
from fastonline.hotplug.machine cimport Machine

cdef int add_memory(Machine mem, uint64_t start, uint64_t nr, uint64_t nid, object name, bint merge, int threads,
                    object group) except -1
cdef int remove_memory(Machine mem, uint64_t start, uint64_t nr) except -1
