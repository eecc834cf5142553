"""A guest that is plugged 512 MiB and unplugs what nobody uses."""

import fastonline as fo

mem = fo.Memory(fo.X86_64, boot="1G")
mem.add_memory(0x40000, 0x20000)
assert mem.online_pages(0x40000, 0x20000, fo.MMOP_ONLINE_MOVABLE) == 0x20000
pfns = mem.alloc_pages_bulk(1000, zone="Movable")
try:
    mem.offline_pages(0x40000, 0x8000)
except fo.HotplugError as e:
    print(e.strerror)
mem.free_pfns(pfns)
mem.offline_pages(0x40000, 0x20000)
mem.remove_memory(0x40000, 0x20000)
print(mem.totalram_pages, "pages")
