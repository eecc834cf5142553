"""The settings of a machine, as Python sees them: the sysctls of vm and the parameters of memory_hotplug."""

from fastonline.hotplug.pages cimport Pages


cdef class Settings(Pages):
    pass
