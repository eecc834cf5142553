__all__ = ["ENGINES", "MEMMAPS"]

ENGINES: tuple[str, ...]
MEMMAPS: tuple[str, ...]
