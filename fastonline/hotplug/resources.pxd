"""The tree of /proc/iomem. What is not declared here Python may call; only the machine makes and removes RAM."""


cdef class Siblings:
    cdef list pieces                 # lists of Resource, ascending
    cdef list firsts                 # the first of each piece

    cdef list meeting(self, object start, object end)
    cdef int add(self, Resource resource) except -1
    cdef int remove(self, Resource resource) except -1


cdef class Resource:
    cdef readonly object start
    """First byte (int)."""
    cdef readonly object end
    """First byte after the range (int)."""
    cdef readonly str name
    """What /proc/iomem calls the range."""
    cdef readonly bint is_ram
    """Whether the range is System RAM."""
    cdef Siblings inside

    cdef Resource conflict(self, object start, object end)
    cdef int adopt(self, object tree) except -1


cdef class Resources:
    cdef int _shift
    cdef Resource _root

    cdef list _ram(self)
    cdef tuple _place(self, object start, object end)
    cdef Resource _request(self, object start, object size, str name, bint merge, bint is_ram)
    cdef int register(self, object start_pfn, object nr_pages, object name, bint merge) except -1
    cdef int load(self, object start, object size, str name) except -1
    cdef list cuts(self, object start_pfn, object nr_pages)
    cdef int _find_cuts(self, Resource parent, object start, object end, list found) except -1
    cdef int cut(self, list cuts) except -1
    cdef int _ram_within(self, Resource parent, object start_pfn, object end_pfn, list found) except -1
