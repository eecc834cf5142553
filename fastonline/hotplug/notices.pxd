"""The notifications of a hot-plug call."""

from fastonline.core.types cimport int64_t, uint64_t
from fastonline.hotplug.machine cimport Machine

cdef object make_notice(Machine mem, uint64_t start, uint64_t nr, uint64_t onlined, int nid, int nid_normal)
cdef object notice_of_mark(uint64_t start, uint64_t nr, uint64_t onlined, int nid)
cdef object block_notice(Machine mem, uint64_t start, uint64_t nr)
cdef int memory_notify(Machine mem, int action, object notice) except -1
cdef int memory_notify_cancel(Machine mem, tuple what) except -1
cdef int memory_notify_going(Machine mem, int going, object notice, str what) except -1
cdef int status_change_nid_normal(Machine mem, int z, uint64_t added) noexcept nogil
cdef int lost_nid_normal(Machine mem, int z, uint64_t nr) noexcept nogil
cdef int64_t up_to_normal(Machine mem, int z) noexcept nogil
cdef int status_change_nid(Machine mem, uint64_t start) noexcept
