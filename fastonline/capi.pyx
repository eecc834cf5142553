"""The C API: a capsule with the C functions of Memory, as include/fastonline.h declares them."""

import os

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New

from fastonline.core.types cimport int64_t, uint64_t
from fastonline.hotplug.memory cimport FASTONLINE_ABI, Memory

__all__ = ["ABI", "get_include"]

# The compiler holds each function below against the member that it is assigned to.
cdef extern from "fastonline.h" nogil:
    const char *FASTONLINE_CAPSULE
    ctypedef struct fastonline_memory:
        pass
    ctypedef struct fastonline_api:
        int abi
        fastonline_memory *(*memory)(object) except NULL
        object (*own)(object)
        int (*online_page)(fastonline_memory *, uint64_t) noexcept nogil
        int64_t (*online_range)(fastonline_memory *, uint64_t, uint64_t, int) noexcept nogil
        int64_t (*online_batch)(fastonline_memory *, const uint64_t *, uint64_t) noexcept nogil
        int64_t (*alloc_page)(fastonline_memory *, int, int) noexcept nogil
        int64_t (*alloc_bulk)(fastonline_memory *, int, int, uint64_t, int64_t *) noexcept nogil
        int (*free_page)(fastonline_memory *, uint64_t, int) noexcept nogil
        int64_t (*free_batch)(fastonline_memory *, const uint64_t *, uint64_t) noexcept nogil
        int (*page_state)(fastonline_memory *, uint64_t) noexcept nogil
        int (*page_zone)(fastonline_memory *, uint64_t) noexcept nogil
        int64_t (*counter)(fastonline_memory *, int, int, int) noexcept nogil


cdef fastonline_memory *memory(object mem) except NULL:
    if not isinstance(mem, Memory):
        raise TypeError(f"expected a fastonline.Memory, not {mem!r}")
    return <fastonline_memory *><PyObject *>mem

cdef object own(object mem):
    memory(mem)
    return (<Memory>mem).own()

cdef int online_page(fastonline_memory *mem, uint64_t pfn) noexcept nogil:
    return (<Memory>mem).online_page(pfn)

cdef int64_t online_range(fastonline_memory *mem, uint64_t start_pfn, uint64_t nr_pages, int order) noexcept nogil:
    return (<Memory>mem).online_range(start_pfn, nr_pages, order)

cdef int64_t online_batch(fastonline_memory *mem, const uint64_t *pfns, uint64_t nr) noexcept nogil:
    return (<Memory>mem).online_batch(pfns, nr)

cdef int64_t alloc_page(fastonline_memory *mem, int zone_nr, int order) noexcept nogil:
    return (<Memory>mem).alloc_page(zone_nr, order)

cdef int64_t alloc_bulk(fastonline_memory *mem, int zone_nr, int order, uint64_t nr, int64_t *out) noexcept nogil:
    return (<Memory>mem).alloc_bulk(zone_nr, order, nr, out)

cdef int free_page(fastonline_memory *mem, uint64_t pfn, int order) noexcept nogil:
    return (<Memory>mem).free_page(pfn, order)

cdef int64_t free_batch(fastonline_memory *mem, const uint64_t *pfns, uint64_t nr) noexcept nogil:
    return (<Memory>mem).free_batch(pfns, nr)

cdef int page_state(fastonline_memory *mem, uint64_t pfn) noexcept nogil:
    return (<Memory>mem).page_state(pfn)

cdef int page_zone(fastonline_memory *mem, uint64_t pfn) noexcept nogil:
    return (<Memory>mem).page_zone(pfn)

cdef int64_t counter(fastonline_memory *mem, int zone_nr, int which, int order) noexcept nogil:
    return (<Memory>mem).counter(zone_nr, which, order)


cdef fastonline_api api
api.abi = FASTONLINE_ABI
api.memory = memory
api.own = own
api.online_page = online_page
api.online_range = online_range
api.online_batch = online_batch
api.alloc_page = alloc_page
api.alloc_bulk = alloc_bulk
api.free_page = free_page
api.free_batch = free_batch
api.page_state = page_state
api.page_zone = page_zone
api.counter = counter

ABI = FASTONLINE_ABI
_C_API = PyCapsule_New(&api, FASTONLINE_CAPSULE, NULL)


def get_include():
    """Return the directory of fastonline.h (str), for the -I of a C or C++ compiler."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")
