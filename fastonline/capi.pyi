from typing import Any, Final

__all__ = ["ABI", "get_include"]

ABI: Final[int]
_C_API: Any

def get_include() -> str: ...
