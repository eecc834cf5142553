from typing import Any

from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["array_of", "available_bytes"]

def array_of(values: ArrayLike, dtype: DTypeLike | None = None) -> NDArray[Any]: ...
def available_bytes() -> int: ...
