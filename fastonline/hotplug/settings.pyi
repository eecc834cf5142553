from collections.abc import Callable, Mapping
from typing import SupportsIndex, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastonline.hotplug.pages import Pages
from fastonline.hotplug.pcp import PerCpuPages

__all__ = ["Settings"]

_C = TypeVar("_C", bound=Callable[[], object])

class Settings(Pages):
    policy: str
    pcp: PerCpuPages | None
    auto_movable_ratio: int
    possible_nodes: int
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
    arch_alloc_page: Callable[[NDArray[np.int64], int], NDArray[np.int64] | None] | None
    arch_free_page: Callable[[NDArray[np.int64], int], object] | None
    def register_oom_notifier(self, callback: _C) -> _C: ...
    def unregister_oom_notifier(self, callback: Callable[[], object]) -> None: ...
