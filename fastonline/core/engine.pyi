from typing import Any

import numpy as np
from numpy.typing import NDArray

COUNTERS: tuple[str, ...]

class Engine:
    nr_pages: int
    max_order: int
    nr_areas: int
    area_array: NDArray[np.uint16]
    def __init__(self, nr_pages: int, max_order: int, nr_areas: int, *args: Any) -> None: ...
    def bytes_touched(self) -> int: ...
    def set_touched(self, nr_bytes: int) -> None: ...
    def area_counters(self, area: int) -> dict[str, Any]: ...
    def set_area_counters(self, area: int, counts: dict[str, Any]) -> None: ...
