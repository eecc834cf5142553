# A balloon that gives pages back in random order, without Python.
from fastonline.hotplug.memory cimport ALL_ZONES, COUNT_FREE_PAGES, Memory
from libc.stdint cimport int64_t, uint64_t


cdef int64_t inflate_and_deflate(Memory mem, uint64_t start, uint64_t nr, int zone) noexcept nogil:
    cdef uint64_t i, pfn = 0
    cdef int64_t page, onlined = 0
    for i in range(nr):                      # nr a power of two: every page once
        pfn = (pfn * 5 + 12345) & (nr - 1)
        onlined += mem.online_page(start + pfn)     # 1: it went online; 0: was not Reserved; < 0: an errno
    for i in range(nr // 2):
        page = mem.alloc_page(zone, 0)
        if page < 0 or mem.free_page(page, 0) < 0:
            return page
    return onlined


def run(Memory mem not None, uint64_t start, uint64_t nr):
    """(pages that went online, pages free)."""
    cdef int zone
    cdef int64_t onlined, free
    mem.prepare_online_pages(start, nr)
    held = mem.own()                         # other threads wait until this function returns
    zone = mem.page_zone(start)
    with nogil:
        onlined = inflate_and_deflate(mem, start, nr, zone)
        free = mem.counter(ALL_ZONES, COUNT_FREE_PAGES, 0)
    return onlined, free
