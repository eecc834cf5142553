"""What a hot-plug call tells the memory notifiers."""

from fastonline.core.types cimport uint64_t
from fastonline.hotplug.machine cimport Machine

cdef object make_notice(Machine mem, uint64_t start, uint64_t nr, uint64_t onlined, int nid)
cdef int ask_notifiers(Machine mem, object going, object cancel, object notice, str what) except -1
cdef int status_change_nid(Machine mem, uint64_t start) noexcept
