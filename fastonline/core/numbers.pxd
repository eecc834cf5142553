"""Numbers that Python passes, checked once, at the border: behind it they are C integers in their range."""

from fastonline.core.types cimport uint64_t

# TypeError for a float, a bool or text; ValueError for a negative number, OverflowError for one that does not fit
cdef uint64_t as_uint64(object value, str what) except? 0xFFFFFFFFFFFFFFFF
# the same, and ValueError unless lowest <= value <= highest
cdef uint64_t as_number(object value, str what, uint64_t lowest, uint64_t highest) except? 0xFFFFFFFFFFFFFFFF
# a range of [0, end), which goes to first and count; `error` (IndexError, ValueError) for one that leaves it
cdef int as_range(object start, object nr, uint64_t end, str what, object error, uint64_t *first, uint64_t *count) except -1
