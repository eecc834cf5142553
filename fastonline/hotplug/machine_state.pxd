"""The state of a machine as plain values and arrays, for copy, pickle and save."""

from fastonline.core.lock cimport Held
from fastonline.hotplug.machine cimport Machine

cdef dict machine_state(Machine mem)
cdef Held restore_machine(Machine mem, object state)
cdef object owned(object value)
