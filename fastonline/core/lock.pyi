from typing import final

__all__ = ["Held", "MachineLock"]

@final
class Held: ...

@final
class MachineLock: ...
