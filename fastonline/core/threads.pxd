"""A step over a range of pages, taken by several threads of the C library that know nothing of Python."""

from fastonline.core.types cimport pfn_t, uint64_t

cdef enum:
    MAX_THREADS = 64

ctypedef void (*range_step)(void *what, int step, pfn_t start, uint64_t nr) noexcept nogil

# run(what, step, ...) over pieces of [start, start + nr), each a multiple of `unit` pages but the last; returns when all are
# done
cdef void in_threads(range_step run, void *what, int step, pfn_t start, uint64_t nr, uint64_t unit, int threads) noexcept nogil
