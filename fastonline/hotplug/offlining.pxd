"""Memory goes offline: offline_pages (mm/memory_hotplug.c)."""

from fastonline.core.types cimport uint64_t
from fastonline.hotplug.machine cimport Machine

cdef int offline_pages(Machine mem, uint64_t start, uint64_t nr) except -1
cdef int refuse_used(Machine mem, uint64_t start, uint64_t nr, bint report=*) except -1
