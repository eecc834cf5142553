"""Plain values, as TOML and JSON have them: read by key, each with an error that names its key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastonline.errors import invalid_name

Reader = Callable[[Any], Any]


class KeyProblem(ValueError):
    """A key is unknown, or its value is wrong. key: its dotted name, "" for the whole. message: what is wrong."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}" if key else message)
        self.key = key
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return KeyProblem, (self.key, self.message)


def read_table(values: Any, readers: Mapping[str, Reader]) -> dict[str, Any]:
    """{key: readers[key](value)} of a table of plain `values`. KeyProblem for an unknown key and for what a reader refuses."""
    if not isinstance(values, Mapping):
        raise TypeError(f"expected a table, not {values!r}")
    given = {}
    for key, value in values.items():
        if key not in readers:
            raise KeyProblem(key, str(invalid_name("key", key, readers)))
        try:
            given[key] = readers[key](value)
        except KeyProblem as e:
            raise KeyProblem(f"{key}.{e.key}".rstrip("."), e.message) from None
        except (TypeError, ValueError, OverflowError) as e:
            raise KeyProblem(key, str(e)) from None
    return given


def text(value: Any) -> str:
    """A `value` that is text; else TypeError."""
    if not isinstance(value, str):
        raise TypeError(f"expected text, not {value!r}")
    return value


def integer(value: Any) -> int:
    """A `value` that is a whole number; else TypeError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected a whole number, not {value!r}")
    return value


def number(value: Any) -> float:
    """A `value` that is a number; else TypeError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected a number, not {value!r}")
    return float(value)


def truth(value: Any) -> bool:
    """A `value` that is true or false; else TypeError."""
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, not {value!r}")
    return value


def optional(reader: Reader) -> Reader:
    """A reader that lets None pass and gives anything else to `reader`."""
    return lambda value: None if value is None else reader(value)


def pairs(second: Reader) -> Reader:
    """A reader of a list of pairs, [time in s, something that `second` reads]."""
    def read(value: Any) -> tuple[tuple[float, Any], ...]:
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"expected a list of pairs, not {value!r}")
        for nr, pair in enumerate(value, 1):
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise TypeError(f"entry {nr} is {pair!r}, expected a time and a size")
        return tuple((number(time), second(rest)) for time, rest in value)
    return read


def check_times(times: Iterable[float], distinct: bool = False) -> None:
    """ValueError unless `times` (s) are finite, from 0 on, and never go back; distinct: nor stay."""
    before = -1.0
    for time in times:
        if not 0 <= time < float("inf"):
            raise ValueError(f"{time:g} is not a time from 0 s on")
        if time < before:
            raise ValueError(f"{time:g} s comes after {before:g} s")
        if distinct and time == before:
            raise ValueError(f"two at {time:g} s")
        before = time
