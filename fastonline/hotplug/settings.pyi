from collections.abc import Mapping
from typing import SupportsIndex

from fastonline.hotplug.machine import Machine

__all__ = ["Settings"]

class Settings(Machine):
    policy: str
    auto_online_blocks: str
    lowmem_reserve_ratio: tuple[int, ...]
    watermark_scale_factor: int
    transparent_hugepage: str
    @property
    def nr_cpus(self) -> int: ...
    @nr_cpus.setter
    def nr_cpus(self, nr: SupportsIndex | Mapping[int, int]) -> None: ...
    def init_per_zone_wmark_min(self) -> None: ...
    min_free_kbytes: int
