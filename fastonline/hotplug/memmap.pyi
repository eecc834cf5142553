from fastonline.hotplug.machine import Machine

__all__ = ["replace_memmap"]

def replace_memmap(mem: Machine, section_nr: int, piece: int, pfn: int) -> None: ...
