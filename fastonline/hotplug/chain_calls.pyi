from typing_extensions import disjoint_base

__all__ = ["ChainCalls"]

@disjoint_base
class ChainCalls:
    @property
    def calls(self) -> int: ...
    def count(self) -> None: ...
