"""What this computer can give: state is mapped without a reserve, so that no one else refuses what the OOM killer would end."""

from fastonline.core.types cimport uint64_t

# MemoryError when so many bytes more cannot be written
cdef int check_ram(uint64_t nr_bytes) except -1
