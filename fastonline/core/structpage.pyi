from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

from fastonline.core.engine import Engine

__all__ = ["PAGE_BYTES", "StructPageEngine"]

PAGE_BYTES: tuple[int, ...]

@disjoint_base
class StructPageEngine(Engine):
    @property
    def page_bytes(self) -> int: ...
    @property
    def lifo(self) -> bool: ...
    @property
    def array(self) -> NDArray[np.uint8]: ...
    def __new__(cls, nr_pages: int, max_order: int, nr_areas: int, page_bytes: int = 64, lifo: bool = False) -> Self: ...
    def bytes_touched(self) -> int: ...
    def set_touched(self, nr_bytes: int) -> None: ...
    def view(self, flag: str) -> NDArray[np.uint64]: ...
