"""The RAM of this computer. The kernel maps state without reserving it, so a step that needs too much must be refused here,
before the OOM killer ends the process."""

from fastonline.core.types cimport uint64_t

# MemoryError when so many bytes more cannot be written
cdef int check_ram(uint64_t nr_bytes) except -1
