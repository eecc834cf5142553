"""Settings of a running machine: the sysctls of vm and the module parameters of memory_hotplug."""

from fastonline.hotplug.machine cimport Machine

cdef int recompute_watermarks(Machine mem) except -1
cdef int set_min_free_kbytes(Machine mem, object kbytes) except -1
cdef tuple lowmem_reserve_ratio(Machine mem)
cdef int set_lowmem_reserve_ratio(Machine mem, object ratios) except -1
cdef int set_watermark_scale_factor(Machine mem, object factor) except -1
cdef int set_transparent_hugepage(Machine mem, object word, bint possible=*) except -1
cdef dict nr_cpus_of(Machine mem)
cdef int set_nr_cpus(Machine mem, object cpus) except -1
