"""What copy, pickle and save carry of a machine: plain values and arrays."""

from fastonline.hotplug.machine cimport Machine

cdef dict machine_state(Machine mem)
cdef int restore_machine(Machine mem, object state) except -1
cdef object owned(object value)
