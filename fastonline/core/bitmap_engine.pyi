import numpy as np
from numpy.typing import NDArray

from fastonline.core.bitmap import Bitmap
from fastonline.core.engine import Engine

PLANES: tuple[str, ...]

class BitmapEngine(Engine):
    free: Bitmap
    full: Bitmap
    reserved: Bitmap
    offline: Bitmap
    tail: Bitmap
    prepared: Bitmap
    def planes(self, spans: list[tuple[int, int]]) -> dict[str, list[NDArray[np.uint64]]]: ...
    def set_planes(self, spans: list[tuple[int, int]], planes: dict[str, list[NDArray[np.uint64]]]) -> None: ...
    def bytes_touched(self) -> int: ...
    def set_touched(self, nr_bytes: int) -> None: ...
    def check(self) -> None: ...
    def view(self, flag: str) -> NDArray[np.uint64]: ...
