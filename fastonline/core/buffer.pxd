"""Where the data of an array lies, for code that needs no more of it: a typed memoryview adds 200 KB to each module."""

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer


cdef inline void *data_of(object array) except? NULL:
    """The address of the data of a C-contiguous array. The caller checks the dtype and keeps the array alive."""
    cdef Py_buffer buffer
    cdef void *data
    PyObject_GetBuffer(array, &buffer, PyBUF_SIMPLE)
    data = buffer.buf
    PyBuffer_Release(&buffer)
    return data
