"""Results with named fields that are dictionaries too: ``mem.stats().merges`` and ``mem.stats()["merges"]`` are one value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any


class Record(dict[str, Any]):
    """A dictionary whose keys are attributes as well.

    A subclass annotates its keys. json.dumps, csv and pickle take a record as the dictionary that it is.
    """

    __slots__ = ()

    if not TYPE_CHECKING:       # a type checker goes by the annotations alone

        def __getattr__(self, name):
            try:
                return self[name]
            except KeyError:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None

    def __dir__(self) -> Iterable[str]:
        return sorted({*super().__dir__(), *self})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    def as_dict(self) -> dict[str, Any]:
        """Return the values as plain dictionaries and lists, named tuples too. They share nothing with the record."""
        return {name: _plain(value) for name, value in self.items()}


def _plain(value):
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value._asdict() if hasattr(value, "_asdict") else value
