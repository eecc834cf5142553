from fastonline.hotplug.machine import Machine

__all__ = ["undo_isolate_page_range"]

def undo_isolate_page_range(mem: Machine, start_pfn: int, nr_pages: int) -> None: ...
