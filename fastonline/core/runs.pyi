from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

__all__ = ["equal_runs", "range_list", "runs"]

def equal_runs(values: NDArray[Any]) -> list[tuple[int, int]]: ...
def range_list(numbers: Iterable[int]) -> str: ...
def runs(numbers: NDArray[Any] | Iterable[int]) -> list[tuple[int, int]]: ...
