"""The output of `page-types -l`: the flags of every page of a kernel (tools/mm/page-types.c)."""

from __future__ import annotations

import os
import re
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from fastonline.core.pageflags import KPF_BUDDY, KPF_NOPAGE, KPF_OFFLINE, KPF_RESERVED
from fastonline.geometry import Geometry
from fastonline.hotplug.memory import Memory
from fastonline.lines import TextError, shown, stream
from fastonline.linux.proctext import ZoneInfo
from fastonline.linux.ranges import Ranges, check_size, geometry_of, meet
from fastonline.linux.states import MappedZone, clipped, merged, states_of
from fastonline.rules import LINUX_6_12, Rules

_HEADER = re.compile(r"(?:(voffset|foffset)\s+)?offset\s+(?:(len)\s+)?flags")
_LINE = re.compile(r"([0-9a-f]{1,13})\s+(?:([0-9a-f]{1,13})\s+)?([A-Za-z_:0-9]{10,64})")
_LETTERS = {"B": KPF_BUDDY, "n": KPF_NOPAGE, "o": KPF_OFFLINE, "r": KPF_RESERVED}
_OTHER = 1 << 5      # KPF_LRU: in use, one flag or another


class PageTypes:
    """A page map without the kernel's texts. source: the file. start, length, flags: runs, as a Capture has them, with gaps
    where no page was listed."""

    def __init__(
        self, source: str, start: NDArray[np.uint64], length: NDArray[np.uint64], flags: NDArray[np.uint64]
    ) -> None:
        self.source, self.start, self.length, self.flags = source, start, length, flags
        self.notes: list[str] = []
        self.assumptions = [f"{source}: the file has no zones: they are those of x86_64, all memory is of node 0"]

    def __repr__(self) -> str:
        return f"<PageTypes {self.source} runs={len(self.start)}>"

    def machine(self, engine: str = "bitmap", rules: Rules | str = LINUX_6_12) -> Memory:
        """A Memory with these pages free, reserved and in use; its zones end where those of x86_64 do, and its watermarks are
        what that kernel computes. ValueError for a map that no machine has."""
        try:
            mem = machine_of_map(geometry_of("x86_64", 4096), self.start, self.length, self.flags, engine, rules)
            if not mem.totalram_pages:
                raise ValueError("it lists no page frames")
        except ValueError as e:
            raise ValueError(f"{self.source}: {e}") from None
        return mem


def machine_of_map(
    geometry: Geometry, start: NDArray[np.uint64], length: NDArray[np.uint64], flags: NDArray[np.uint64], engine: str,
    rules: Rules | str,
) -> Memory:
    """A Memory of runs of pages with their KPF_* flags, in the geometry's zones, all on node 0; watermarks as a kernel computes
    them for so much memory."""
    runs = states_of(start, length, flags)
    frames: Ranges = []
    for first, end in zip(runs[0].tolist(), runs[1].tolist(), strict=True):
        if frames and frames[-1][1] == first:
            frames[-1] = (frames[-1][0], end)
        else:
            frames.append((first, end))
    check_size(sum(end - first for first, end in frames), frames[-1][1] if frames else 0)
    zones, low = [], 0
    for name, limit in geometry.zone_limits:
        high = geometry.max_pfn if limit is None else limit // geometry.page_size
        inside = meet(frames, [(low, high)])
        low = high
        if inside:
            present = sum(end - first for first, end in inside)
            info = ZoneInfo(
                nid=0, name=name, free_pages=0, min=0, low=0, high=0, spanned_pages=inside[-1][1] - inside[0][0],
                present_pages=present, managed_pages=present, protection={}, start_pfn=inside[0][0],
            )
            zones.append(MappedZone(**vars(info), runs=merged(clipped(runs, inside))))
    mem = Memory.from_page_map(
        geometry, [(first, end - first, 0, True) for first, end in frames], [(first, end - first) for first, end in frames],
        zones, 0, rules, engine,
    )
    mem.min_free_kbytes = isqrt(16 * (geometry.page_size >> 10) * mem.totalram_pages)
    return mem


def is_page_types(lines: list[str]) -> bool:
    """Return whether these first lines of a file begin such a list."""
    return any(_HEADER.fullmatch(line.strip()) for line in lines[:5])


def read_page_types(path: str | os.PathLike[str]) -> PageTypes:
    """The list that `page-types -l` or `-L` printed into `path`. TextError, OSError."""
    runs: list[tuple[int, int, int]] = []
    header, end, nr = None, 0, 0
    for nr, line in stream(path):
        bare = line.strip()
        if header is None:
            header = _HEADER.fullmatch(bare)
            if header and header[1]:
                raise TextError(path, nr, "the list is of one process or file (expected page-types -l without -p and -f)")
            continue
        if not bare or bare.startswith("flags"):      # the summary follows
            break
        match = _LINE.fullmatch(bare)
        if match is None or bool(match[2]) != bool(header[2]):
            raise TextError(path, nr, f"{shown(line)} is not a run of pages")
        start, length = int(match[1], 16), int(match[2] or "1", 16)
        if start < end or not length:
            raise TextError(path, nr, f"page {start:#x} is out of order")
        end = start + length
        letters = match[3].replace("_", "")
        flags = sum(_LETTERS[letter] for letter in set(letters) if letter in _LETTERS) or _OTHER * bool(letters)
        if runs and sum(runs[-1][:2]) == start and runs[-1][2] == flags:
            runs[-1] = (runs[-1][0], runs[-1][1] + length, flags)
        else:
            runs.append((start, length, flags))
    if header is None:
        raise TextError(path, max(nr, 1), "no list of page-types -l found")
    if not runs:
        raise TextError(path, nr, "the list has no pages")
    return PageTypes(str(path), *(np.array(column, np.uint64) for column in zip(*runs, strict=True)))
