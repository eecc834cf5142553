from operator import index

from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact

from fastonline.errors import is_number

__all__ = []


cdef uint64_t as_uint64(object value, str what) except? 0xFFFFFFFFFFFFFFFF:
    """A pfn or a count as C has it."""
    cdef uint64_t number
    cdef long long small
    cdef int overflow = 0
    if PyLong_CheckExact(value):
        # without a try block, which saves and restores the exception that is being handled
        small = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow == 0 and small >= 0:
            return small
    else:
        if not is_number(value):
            raise TypeError(f"{what} must be an int, not {value!r}")
        value = index(value)
    try:
        number = value
    except OverflowError:
        if value < 0:
            raise ValueError(f"{what} cannot be negative: {value}") from None
        raise OverflowError(f"{what} does not fit into 64 bits: {value:#x}") from None
    return number


cdef uint64_t as_number(object value, str what, uint64_t lowest, uint64_t highest) except? 0xFFFFFFFFFFFFFFFF:
    cdef uint64_t number = as_uint64(value, what)
    if not lowest <= number <= highest:
        raise ValueError(f"{what} {value} is not between {lowest} and {highest}")
    return number


cdef int as_range(object start, object nr, uint64_t end, str what, object error, uint64_t *first, uint64_t *count) except -1:
    for value in (start, nr):
        if not PyLong_CheckExact(value) and not is_number(value):
            raise TypeError(f"{what} must be ints, not {value!r}")
    start, nr = index(start), index(nr)
    if not 0 <= start <= start + nr <= end:
        raise error(f"{what} {start} to {start + nr} are not within 0 to {end}")
    first[0] = start
    count[0] = nr
    return 0
