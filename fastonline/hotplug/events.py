"""Uevents and kernel log lines of hot-plug calls, in the kernel's order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Listener = Callable[[str, str], object]
"""callback(kind, text)"""

C = TypeVar("C", bound=Listener)


class Events:
    """Calls listeners with uevents and kernel log lines: ``mem.events.listen(callback)``.

    ``callback(kind, text)`` gets "uevent" and text such as ``online@memory32``, or "kmsg" and a line of the log. Without
    listeners no text is made.

    A listener may call the machine, whose state is consistent then. All listeners run; then the first exception is raised. The
    machine has already changed: an add_memory that raises it has added the memory.
    """

    def __init__(self) -> None:
        self._listeners: list[Listener] = []     # the machine looks at it: the same list for good

    def __repr__(self) -> str:
        return f"<Events listeners={len(self._listeners)}>"

    @property
    def listeners(self) -> list[Listener]:
        """The callbacks, in the order of their calling: a list of its own."""
        return list(self._listeners)

    def listen(self, callback: C) -> C:
        """Register `callback`. Returns it, so that `listen` works as a decorator. TypeError if it is not callable."""
        if not callable(callback):
            raise TypeError(f"a listener must be callable, not {callback!r}")
        self._listeners.append(callback)
        return callback

    def ignore(self, callback: Listener) -> None:
        """Remove `callback`. ValueError if it was not registered."""
        if callback not in self._listeners:
            raise ValueError(f"{callback!r} is not a listener")
        self._listeners.remove(callback)

    def uevent(self, text: str) -> None:
        """Send a uevent. text: ``action@device``."""
        self.tell([("uevent", text)])

    def log(self, text: str) -> None:
        """Send a line of the kernel log, `text`."""
        self.tell([("kmsg", text)])

    def tell(self, happened: list[tuple[str, str]]) -> None:
        """Send several events. happened: (kind, text) of each."""
        raised = None
        for kind, text in happened:
            for callback in list(self._listeners):
                try:
                    callback(kind, text)
                except Exception as e:
                    raised = raised or e
        if raised is not None:
            raise raised
