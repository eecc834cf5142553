"""cost/caches.py: the sizes of the caches, and emptying them."""

import re

from fastonline.cost.caches import Eviction, cache_sizes


def test_caches():
    sizes = cache_sizes()
    assert all(re.fullmatch(r"L\d+d?", name) and size > 0 for name, size in sizes.items())
    eviction = Eviction()
    eviction.evict()
    eviction.evict()
