import simulator

import fastonline as fo

mem = fo.Memory(fo.X86_64, boot="1G")
mem.add_memory(0x40000, 0x8000)
mem.prepare_online_pages(0x40000, 0x8000, fo.MMOP_ONLINE_MOVABLE)
print(*simulator.run(mem, 0x40000, 0x8000, 50_000))
mem.validate()
