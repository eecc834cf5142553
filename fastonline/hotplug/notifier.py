"""The memory notifier chain: callbacks that hear of onlining and may veto it (kernel/notifier.c, drivers/base/memory.c)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from fastonline.hotplug.chain_calls import ChainCalls

NOTIFY_DONE = 0x0000
NOTIFY_OK = 0x0001
NOTIFY_STOP_MASK = 0x8000
NOTIFY_BAD = NOTIFY_STOP_MASK | 0x0002
NOTIFY_STOP = NOTIFY_STOP_MASK | NOTIFY_OK

MEM_ONLINE = 1 << 0
MEM_GOING_OFFLINE = 1 << 1
MEM_OFFLINE = 1 << 2
MEM_GOING_ONLINE = 1 << 3
MEM_CANCEL_ONLINE = 1 << 4
MEM_CANCEL_OFFLINE = 1 << 5
MEM_PREPARE_ONLINE = 1 << 6
MEM_FINISH_OFFLINE = 1 << 7

NO_NODE = -1


def notifier_to_errno(ret: int) -> int:
    """Return the errno (positive) of a notifier's return value: EPERM for NOTIFY_BAD, 0 for DONE, OK and STOP."""
    ret &= ~NOTIFY_STOP_MASK
    return ret - 1 if ret > NOTIFY_OK else 0


def notifier_from_errno(errno: int) -> int:
    """Return the value that stops the chain with this errno (positive). 0 gives NOTIFY_OK, as since 2.6.36."""
    return NOTIFY_STOP_MASK | (NOTIFY_OK + errno) if errno else NOTIFY_OK


class MemoryNotify(NamedTuple):
    """struct memory_notify, with the precise count that the 2008 thread asked for.

    - start_pfn: int, the first pfn of the range.
    - nr_pages: pages of the range. An array of pfns has one notice, from its lowest pfn to its highest.
    - onlined: pages that went online, in MEM_ONLINE; 0 before.
    - status_change_nid: the node that gets its first memory or loses its last, else -1.
    - status_change_nid_normal: the same for memory up to zone Normal; -1 under rules without it. Both are -1 when node changes
      have a notifier chain of their own (Rules.node_notifier).
    - altmap_start_pfn, altmap_nr_pages: the page descriptors that a memory block has on itself, in MEM_PREPARE_ONLINE and
      MEM_FINISH_OFFLINE; else 0 (c5f1e2d18909, 6.9).
    """

    start_pfn: int
    nr_pages: int
    onlined: int
    status_change_nid: int
    status_change_nid_normal: int = NO_NODE
    altmap_start_pfn: int = 0
    altmap_nr_pages: int = 0


NotifierCallback = Callable[[int, MemoryNotify], int | None]
"""callback(action, notice): one of MEM_*, and the range; it returns None or NOTIFY_*."""

C = TypeVar("C", bound=NotifierCallback)


class NotifierChain(ChainCalls):
    """Memory notifiers by descending priority; equal priorities in the order of registration (notifier_chain_register, 2.6.25).

    An action is MEM_GOING_ONLINE, MEM_ONLINE, MEM_CANCEL_ONLINE, MEM_GOING_OFFLINE, MEM_OFFLINE or MEM_CANCEL_OFFLINE. A memory
    block also sends MEM_PREPARE_ONLINE first and MEM_FINISH_OFFLINE last since 6.9. A notice is a MemoryNotify. ``calls``
    counts the calls of the chain since the machine was made, those of an empty chain too (memory_notify).
    """

    def __repr__(self) -> str:
        return f"<NotifierChain callbacks={len(self)} calls={self.calls}>"

    @contextmanager
    def registered(self, callback: C, priority: int = 0, actions: int | None = None) -> Iterator[C]:
        """Register `callback` with `priority` and `actions` for a with block: ``with mem.notifiers.registered(callback):``."""
        self.register(callback, priority, actions)
        try:
            yield callback
        finally:
            self.unregister(callback)


class RestoringCallback:
    """Restores the online_page_callback when a with block ends."""

    __slots__ = ("_mem", "_callback")

    def __init__(self, mem, callback):
        self._mem = mem
        self._callback = callback

    def __enter__(self):
        return self._callback

    def __exit__(self, *exc):
        self._mem.restore_online_page_callback(self._callback)
