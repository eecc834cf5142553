"""What copy, pickle and save carry of a machine: plain values and arrays."""

from fastonline.core.lock cimport Held
from fastonline.hotplug.machine cimport Machine

cdef dict machine_state(Machine mem)
cdef Held restore_machine(Machine mem, object state)
cdef object owned(object value)
