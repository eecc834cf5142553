"""Sources of a machine: files and directories, recognized by their content."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Protocol

from fastonline.files import open_regular
from fastonline.geometry import X86_64
from fastonline.hotplug import savefile
from fastonline.hotplug.memory import Memory, load
from fastonline.lines import TextError, read, stream, without_prefix
from fastonline.linux.bootmem import read_boot_ranges, shows_boot_ranges
from fastonline.linux.capture import Capture
from fastonline.linux.monitor import is_monitor, read_monitor
from fastonline.linux.oom import is_mem_info, read_mem_info
from fastonline.linux.pagetypes import is_page_types, read_page_types
from fastonline.linux.ranges import check_size
from fastonline.linux.recording import FORMAT
from fastonline.linux.snapshot import Snapshot
from fastonline.linux.trace import is_trace
from fastonline.linux.tree import is_tree, parse_lsmem, parse_pagetypeinfo, read_tree
from fastonline.rules import LINUX_6_12, Rules

_FIRST_LINES = 200


class Source(Protocol):
    """A source from which a machine can be made."""

    @property
    def notes(self) -> list[str]:
        """What could not be used, a line each."""

    @property
    def assumptions(self) -> list[str]:
        """What `machine` takes for granted, a line each."""

    def machine(self, engine: str = "bitmap", rules: Rules | str = LINUX_6_12) -> Memory:
        """Return the Memory. ValueError when no Memory fits the source."""


class Saved:
    """A machine saved by Memory.save. It keeps its engine and rules."""

    notes: list[str] = []
    assumptions: list[str] = []

    def __init__(self, mem: Memory) -> None:
        self._mem = mem

    def machine(self, engine: str = "bitmap", rules: Rules | str = LINUX_6_12) -> Memory:
        """Return the Memory, with the engine and the rules that it was saved with."""
        return self._mem


class BootMemory:
    """The RAM in a boot log or /proc/iomem. All of it is free, as after a boot."""

    notes: list[str] = []

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._ranges = read_boot_ranges(path)
        self.assumptions = [f"{path}: the file has RAM only: all of it is free, in the zones of x86_64"]

    def machine(self, engine: str = "bitmap", rules: Rules | str = LINUX_6_12) -> Memory:
        """Return a Memory with these ranges. ValueError for invalid ranges."""
        try:
            check_size(sum(nr for _, nr, _ in self._ranges), sum(self._ranges[-1][:2]))
            return Memory(X86_64, boot=self._ranges, rules=rules, engine=engine)
        except ValueError as e:
            raise ValueError(f"{self._path}: {e}") from None


def read_source(path: str | os.PathLike[str]) -> Source:
    """Read what shows a machine: a file of Memory.save or Capture.save; a directory with a page map, a /sys tree or a
    sosreport; a log with Mem-Info, of buddyinfo or of zoneinfo; pagetypeinfo; what lsmem or page-types printed; the log of a
    boot; iomem.

    ValueError in one line for anything else, saying what to do with a recording, a trace or a table; OSError.
    """
    if os.path.isdir(path):
        if (Path(path) / "pages.npz").exists():
            return Capture.load(path)
        if is_tree(path):
            return read_tree(path)
        raise ValueError(f"{path}: not a capture: it has no pages.npz and no /sys or /proc files")
    kind = savefile.kind_of(path)
    if kind is not None:
        return Saved(load(path)) if kind == "machine" else Capture.load(path)
    if _is_recording(path):
        raise TextError(path, 1, "a recording of what a kernel did: see fastonline replay")
    try:
        first = [line for _, line in islice(stream(path), _FIRST_LINES)]
    except TextError as e:
        raise ValueError(f"{e}, and neither a saved machine nor a capture") from None
    if is_page_types(first):
        return read_page_types(path)
    if is_trace(first):
        raise TextError(path, 1, "a trace of page allocations: see fastonline replay")
    if any(line.startswith("Free pages count per migrate type") for line in first):
        return Snapshot(source=str(path), free=parse_pagetypeinfo(read(path), str(path)))
    if is_monitor(first):
        return read_monitor(path)
    if any(line.startswith("RANGE ") or line.strip().startswith('"memory":') for line in first[:5]):
        blocks, size = parse_lsmem(read(path), str(path))
        return Snapshot(source=str(path), blocks=blocks, block_size=size)
    if any(map(is_mem_info, first)) or _has_mem_info(path):
        return read_mem_info(path)
    if any(map(shows_boot_ranges, first)):
        return BootMemory(path)
    if len(first) > 1 and all(line.count(",") == first[0].count(",") > 0 for line in first[:2]):
        raise TextError(path, 1, "a table: see fastonline balloon")
    if not first:
        raise TextError(path, 1, "the file is empty")
    raise TextError(path, 1, "neither a saved machine nor a capture, nor a text that shows one")


def names_trace(path: str | os.PathLike[str]) -> bool:
    """Return whether this file is a trace of page allocations. OSError when it cannot be read."""
    try:
        return not _is_recording(path) and is_trace([line for _, line in islice(stream(path), _FIRST_LINES)])
    except TextError:
        return False


def _is_recording(path):
    with open_regular(path) as file:
        head = file.read(4096)
    return head.lstrip()[:1] == b"{" and FORMAT.encode() in head


def _has_mem_info(path):
    return any(without_prefix(line).startswith(("Mem-Info:", "Node 0 DMA free:", "DMA free:", "Normal free:"))
               for _, line in stream(path))
