"""Views of the pages: their flags as bit planes, masks and text, and as /proc/kpageflags shows them."""

from fastonline.core.types cimport uint64_t
from fastonline.hotplug.machine cimport Machine

cdef object page_states(Machine mem, uint64_t start, uint64_t nr)
cdef object kpageflags(Machine mem, uint64_t start, uint64_t nr)
