from typing import Any, Final

ABI: Final[int]
_C_API: Any

def get_include() -> str: ...
