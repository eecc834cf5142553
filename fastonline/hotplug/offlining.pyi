from fastonline.hotplug.machine import Machine

__all__ = ["check_unused"]

def check_unused(mem: Machine, start: int, nr: int) -> int: ...
