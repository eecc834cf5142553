"""What single pages are asked, the allocator's calls, and the resource that a driver adds as memory."""

from fastonline.hotplug.machine cimport Machine


cdef class Pages(Machine):
    cdef object _section(self, object pfn)
