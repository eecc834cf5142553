"""The steps of a change so far, each with its inverse: a change happens as a whole, or not at all."""

from cpython.object cimport PyObject

cdef enum:
    FEW_STEPS = 4      # so many need no memory of their own

# Undo one step of the change of `of`, mostly a machine. `what` is what the step has to know.
ctypedef int (*undo_step)(object of, object what) except -1

cdef struct Step:
    undo_step undo
    PyObject *of
    PyObject *what


cdef class Undo:
    cdef Step[FEW_STEPS] few
    cdef Step *steps
    cdef int nr, room

    cdef void forget_last(self) noexcept

    cdef int note(self, undo_step undo, object of, object what) except -1
    cdef int roll_back(self) except -1
