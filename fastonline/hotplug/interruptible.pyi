from collections.abc import Callable
from typing import TypeVar

__all__ = ["exclusive", "uninterrupted"]

_M = TypeVar("_M", bound=Callable[..., object])

def exclusive(method: _M) -> _M: ...
def uninterrupted(method: _M) -> _M: ...
