"""Zones and nodes: spans and counters. A zone's free pages and managed_pages are kept by the engine, in its area."""

from fastonline.core.buddy cimport buddy_pool
from fastonline.core.engine cimport Engine
from fastonline.core.types cimport pfn_t, uint64_t
from fastonline.hotplug.types cimport zone, zone_table


cdef class Zones


cdef class Zone:
    cdef Zones zones
    cdef readonly int nr
    """Its number in the machine: nid * Zones.nr_types + type."""
    cdef readonly int nid
    """Its node."""
    cdef readonly str name
    """Its type, such as "Normal"."""

    cdef zone *at(self) noexcept
    cdef zone *fresh(self) except NULL
    cdef buddy_pool *area(self) except NULL


cdef class Zones:
    cdef readonly tuple names
    """The types of zones, lowest first."""
    cdef object machine                  # weak reference to the Machine, for pickle; None without one
    cdef dict types                      # their numbers by name
    cdef tuple node_threads              # names of the kernel threads of a node, without its number
    cdef Engine engine
    cdef zone_table table
    cdef str thp                         # "never", "madvise" or "always"

    cdef dict state(self)
    cdef int restore(self, dict state) except -1
    cdef int zone_nr(self, object nr) except -1
    cdef object zone_at(self, int z)
    cdef int find(self, object key) except -2
    cdef int need(self, object key) except -1
    cdef str unknown(self, object key)
    cdef int node_nr(self, object nid) except -2
    cdef int need_node(self, int nid) except -1
    cdef void grow_span(self, int z, pfn_t start, uint64_t nr) noexcept nogil
    # start and pages of a zone's span, and of its node's
    cdef void spans(self, int z, uint64_t *spans) noexcept nogil
    cdef void set_spans(self, int z, const uint64_t *spans) noexcept nogil
    cdef void shrink_span(self, int z, pfn_t start, uint64_t nr) noexcept nogil
