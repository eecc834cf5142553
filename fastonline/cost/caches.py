"""The processor's caches: their sizes, and a way to empty them."""

import os
from pathlib import Path

import numpy as np

_LEVELS = Path("/sys/devices/system/cpu/cpu0/cache")
_ASSUMED = 32 << 20     # where the machine does not tell


def cache_sizes() -> dict[str, int]:
    """Return {"L1d", "L2", "L3"...: bytes} of the data caches that the first CPU uses, smallest first; empty where unknown."""
    found = {}
    for index in sorted(_LEVELS.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction" and size.endswith(("K", "M")):
            found[f"L{level}" + ("d" if kind == "Data" else "")] = int(size[:-1]) << (10 if size.endswith("K") else 20)
    if not found and "SC_LEVEL3_CACHE_SIZE" in os.sysconf_names:
        found = {"L3": os.sysconf("SC_LEVEL3_CACHE_SIZE")}
    return {name: size for name, size in sorted(found.items()) if size > 0}


class Eviction:
    """Empties the caches by reading and writing twice as much as the largest of them holds, at most 256 MiB."""

    def __init__(self) -> None:
        self._size = min(2 * max(cache_sizes().values(), default=_ASSUMED), 256 << 20)
        self._room: np.ndarray | None = None

    def evict(self) -> None:
        """Empty the caches."""
        if self._room is None:
            self._room = np.zeros(self._size // 8, np.uint64)
        self._room += 1
