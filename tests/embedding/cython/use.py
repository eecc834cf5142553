import simulator

import fastonline as fo

mem = fo.Memory(fo.X86_64, boot="1G")
mem.add_memory(0x40000, 0x8000)
print(*simulator.run(mem, 0x40000, 0x8000))
mem.validate()
