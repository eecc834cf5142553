"""Questions about single pages, the allocator's calls, and adding a resource as memory."""

from fastonline.hotplug.machine cimport Machine


cdef class Pages(Machine):
    cdef object _section(self, object pfn)
