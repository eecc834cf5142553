"""What a hot-plug call tells user space: uevents and lines of the kernel's log, in the kernel's order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Listener = Callable[[str, str], object]
"""callback(kind, text)"""

C = TypeVar("C", bound=Listener)


class Events:
    """``mem.events.listen(callback)``: ``callback(kind, text)`` is called with "uevent" and text such as ``online@memory32``,
    or "kmsg" and a line of the log. Nobody listens at first, and then nothing is put together either.

    A listener finds the machine whole, and may call it. Each is told of all, whatever it raises; an exception comes out of the
    call when that is done as far as the kernel would go, notifiers and auto_online_blocks included; of several, one. So an
    add_memory that raises it has added the memory.
    """

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        """The callbacks, in the order of their calling; the same list for good."""

    def __repr__(self) -> str:
        return f"<Events listeners={len(self.listeners)}>"

    def listen(self, callback: C) -> C:
        """Call `callback` from now on. Returns it, so that it serves as a decorator. TypeError when it cannot be called."""
        if not callable(callback):
            raise TypeError(f"a listener must be callable, not {callback!r}")
        self.listeners.append(callback)
        return callback

    def ignore(self, callback: Listener) -> None:
        """Stop calling `callback`; ValueError when it does not listen."""
        if callback not in self.listeners:
            raise ValueError(f"{callback!r} is not a listener")
        self.listeners.remove(callback)

    def uevent(self, text: str) -> None:
        """Tell of a uevent, its `text` ``action@device``."""
        self.tell([("uevent", text)])

    def log(self, text: str) -> None:
        """Tell of a line of the kernel's log, its `text`."""
        self.tell([("kmsg", text)])

    def tell(self, happened: list[tuple[str, str]]) -> None:
        """Tell of all that has `happened`, (kind, text) each."""
        raised = None
        for kind, text in happened:
            for callback in list(self.listeners):
                try:
                    callback(kind, text)
                except Exception as e:
                    raised = raised or e
        if raised is not None:
            raise raised
