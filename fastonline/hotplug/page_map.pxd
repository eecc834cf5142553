"""Machines that are not empty at first: with boot memory, or in the states that a map of their pages shows."""

from fastonline.hotplug.machine cimport Machine

cdef int boot_memory(Machine mem, list ranges) except -1
cdef int load_page_map(
    Machine mem, object sections, object ram, object zones, object min_free_kbytes, object user_min_free_kbytes
) except -1
