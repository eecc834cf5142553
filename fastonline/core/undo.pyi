from collections.abc import Callable
from types import TracebackType
from typing import Self

from typing_extensions import disjoint_base

__all__ = ["Undo"]

@disjoint_base
class Undo:
    def __new__(cls) -> Self: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...
    def add(self, function: Callable[..., object], *args: object) -> None: ...
