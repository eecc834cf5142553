from fastonline.hotplug.machine import Machine

__all__ = ["memory_block_online"]

def memory_block_online(mem: Machine, start_pfn: int, nr_pages: int, online_type: int) -> int: ...
