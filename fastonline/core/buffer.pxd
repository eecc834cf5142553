"""The address of an array's data, for code that needs no more: a typed memoryview adds 200 KB to each module."""

from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer


cdef extern from *:
    """
    /* How an array and its dtype begin. What is compiled against NumPy reads these fields in place (PyArrayObject_fields and
       PyArray_Descr, ndarraytypes.h), so they stay where they are. */
    typedef struct { PyObject_HEAD PyTypeObject *typeobj; char kind, type, byteorder, flags; int type_num; } fo_dtype;
    typedef struct {
        PyObject_HEAD char *data; int nd; Py_ssize_t *shape, *strides; PyObject *base; fo_dtype *dtype; int flags;
    } fo_array;
    """
    ctypedef struct numpy_dtype "fo_dtype":
        char byteorder
        int type_num
    ctypedef struct numpy_array "fo_array":
        void *data
        int nd
        Py_ssize_t *shape
        Py_ssize_t *strides
        numpy_dtype *dtype
        int flags

cdef enum:                       # type_num, NPY_TYPES
    NPY_UINT = 6
    NPY_LONG = 7
    NPY_ULONG = 8
    NPY_LONGLONG = 9
    NPY_ULONGLONG = 10
    NPY_ARRAY_ALIGNED = 0x100    # of flags


cdef inline void *data_of(object array) except? NULL:
    """The address of the data of a C-contiguous array. The caller checks the dtype and keeps the array alive."""
    cdef Py_buffer buffer
    cdef void *data
    PyObject_GetBuffer(array, &buffer, PyBUF_SIMPLE)
    data = buffer.buf
    PyBuffer_Release(&buffer)
    return data
