from fastonline.hotplug.machine import Machine

__all__ = ["section_nid"]

def section_nid(mem: Machine, section_nr: int) -> int: ...
