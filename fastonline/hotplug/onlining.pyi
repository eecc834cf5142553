from fastonline.hotplug.machine import Machine

__all__ = ["memory_block_online"]

def memory_block_online(mem: Machine, start: int, nr: int, online_type: int) -> int: ...
