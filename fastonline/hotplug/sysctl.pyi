from fastonline.hotplug.machine import Machine

__all__ = ["read_lowmem_reserve_ratio"]

def read_lowmem_reserve_ratio(mem: Machine) -> tuple[int, ...]: ...
