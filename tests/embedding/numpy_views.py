"""The flags of a machine as NumPy sees them: no copy, read-only, alive as long as they are referenced."""

import numpy as np

import fastonline as fo

mem = fo.Memory(fo.X86_64, boot="1G", max_memory="4G")    # with max_memory the views are the machine's for good
free = mem.flags["PG_buddy"]                              # uint64, pfn i at word i/64, bit i%64
assert not free.flags.writeable


def count(words):
    """Ones in an array of words."""
    return np.unpackbits(words.view(np.uint8)).sum(dtype=np.int64)


before = count(free)
mem.alloc_pages_bulk(1000)
assert before - count(free) == 1000      # the same words, a moment later

del mem                                                   # the view keeps what it shows
print(count(free), "pages free of", free.size * 64)
