"""The invariants of a machine between any two calls: Memory.validate."""

from fastonline.core.types cimport int64_t, uint64_t
from fastonline.hotplug.machine cimport Machine
