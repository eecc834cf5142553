"""The place of the page descriptors of added memory: none, pages of the kernel, or the memory itself."""

from fastonline.core.types cimport uint64_t
from fastonline.hotplug.machine cimport Machine


cdef inline bint memmaps_on_memory(Machine mem) noexcept:
    """Can a block have its page descriptors on itself?"""
    return mem.memmap is not None and mem.memmap == "on_memory"

cdef int alloc_memmap(Machine mem, uint64_t start, uint64_t nr, list runs, int nid, bint driver) except -1
cdef int check_memmap(Machine mem, uint64_t first, uint64_t nr) except -1
cdef int free_memmap(Machine mem, uint64_t first, uint64_t nr) except -1
cdef uint64_t memmap_within(Machine mem, uint64_t start) except? 0xFFFFFFFFFFFFFFFF
cdef list without_memmaps(Machine mem, uint64_t start, uint64_t nr)
cdef object without_memmap_pages(Machine mem, object array)
