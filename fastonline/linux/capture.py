"""The page map and the zones of a real kernel at one moment: read, kept in a file, and made into a Memory.

/proc/kpageflags gives the state of a page: BUDDY is free, RESERVED is waiting, OFFLINE is with the host. All others are in use,
as single pages. A hypervisor's balloon may hold pages without any flag; the zone then manages fewer pages than are present and
neither reserved nor offline. That many pages, of the longest runs without a flag, are taken for the balloon's, so that
managed_pages is the kernel's. Which pages are free determines the free blocks. They must be those of buddyinfo.
"""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastonline.core.pageflags import KPF_BUDDY, KPF_NOPAGE, KPF_OFFLINE, KPF_RESERVED, PAGE_IN_USE
from fastonline.files import read_arrays
from fastonline.geometry import Geometry, parse_size
from fastonline.hotplug import savefile
from fastonline.hotplug.memory import Memory
from fastonline.hotplug.migrate import MovablePages
from fastonline.hotplug.procfs import lsmem_text
from fastonline.lines import TextError, read
from fastonline.linux.heads import mapped_pages, marks_heads_only, whole_blocks
from fastonline.linux.live import read_kernel
from fastonline.linux.proctext import (
    ZoneKey,
    least_min_free_kbytes,
    parse_blocks,
    parse_buddyinfo,
    parse_iomem,
    parse_zoneinfo,
    rules_of_zoneinfo,
)
from fastonline.linux.ranges import (
    Memory as MemoryRanges,
    ends,
    geometry_of,
    meet,
    memory_of,
    sections_of,
    with_zone_starts,
    zone_memory,
)
from fastonline.linux.states import MappedZone, clipped, decode_kpageflags, managed, states_of
from fastonline.rules import LINUX_6_12, Rules

_KPF_LRU = 1 << 5

_KINDS: dict[str, type] = {
    "start": np.ndarray, "length": np.ndarray, "flags": np.ndarray,
    "buddyinfo": str, "zoneinfo": str, "iomem": str, "blocks": str, "block_size_bytes": int, "page_size": int, "arch": str,
    "release": str, "min_free_kbytes": int, "quiet": dict,
}


@dataclass(eq=False)
class Capture:
    """The page map and the texts of one kernel at one moment.

    The map is run-length encoded, from pfn 0 on without gaps.

    - start: (n,) first pfn of each run.
    - length: (n,) pages of each run.
    - flags: (n,) what /proc/kpageflags has for each page of the run: KPF_* bits.
    - buddyinfo: the text of /proc/buddyinfo; each zone's line is of the moment its part of the map was read.
    - zoneinfo: the text of /proc/zoneinfo.
    - iomem: the System RAM lines of /proc/iomem.
    - blocks: Memory blocks as proctext.parse_blocks reads them; "" in a kernel without memory hot-plug.
    - block_size_bytes: of a memory block; 0 in a kernel without memory hot-plug.
    - page_size: bytes.
    - arch: uname -m.
    - release: uname -r; "" when it was not captured.
    - min_free_kbytes: vm.min_free_kbytes.
    - quiet: was the zone's line in buddyinfo the same before and after its part of the map was read? Only of such zones are the
      free blocks that follow from the map sure to be those of buddyinfo; and a zone may change and change back in between.
    """

    start: NDArray[np.uint64]
    length: NDArray[np.uint64]
    flags: NDArray[np.uint64]
    buddyinfo: str
    zoneinfo: str
    iomem: str
    blocks: str
    block_size_bytes: int
    page_size: int
    arch: str
    release: str
    min_free_kbytes: int
    quiet: dict[ZoneKey, bool]

    def __repr__(self) -> str:
        kernel = f"{self.release} {self.arch}".strip()
        return f"<Capture {kernel} pages={self.nr_pages:#x} runs={len(self.start)} quiet={self.all_quiet}>"

    @property
    def nr_pages(self) -> int:
        """The number of pages in the map."""
        return int(self.start[-1] + self.length[-1])

    @property
    def all_quiet(self) -> bool:
        """Whether all zones were quiet."""
        return all(self.quiet.values())

    @property
    def geometry(self) -> Geometry:
        """The preset of the machine's architecture and page size, with as many orders as buddyinfo has columns."""
        return geometry_of(self.arch, self.page_size, len(next(iter(parse_buddyinfo(self.buddyinfo).values()))))

    notes: ClassVar[list[str]] = []

    @property
    def assumptions(self) -> list[str]:
        """A line for each zone whose free blocks may not be those of buddyinfo."""
        return [
            f"page map and buddyinfo may differ in node {nid} zone {name}: pages came and went meanwhile"
            for (nid, name), quiet in self.quiet.items() if not quiet
        ]

    # -- from where, to where

    @classmethod
    def live(cls, attempts: int = 5, root: str | os.PathLike[str] = "/") -> "Capture":
        """Capture the running kernel. Each zone is read up to `attempts` times, until it was quiet; `quiet` says whether it
        was.

        PermissionError saying which right is missing; OSError when the kernel does not show what is needed. root: where /proc
        and /sys are.
        """
        return cls(**read_kernel(Path(root), attempts))._checked("the running kernel")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Capture":
        """A capture from the file that save wrote, or from a directory of a quiet moment: pages.npz (start, length, flags), and
        the kernel's texts each in a file of its name: buddyinfo, zoneinfo, iomem, and blocks and block_size_bytes if it has
        memory blocks. arch, release and page_size may be there, else it is an x86_64 with pages of 4096 bytes. Before 4.6 page
        maps mark only the first page of a free block (832fc1de01ae): kpagecount (uint64 a page) may be needed then.

        ValueError naming the path for one that is something else, truncated or altered; OSError when it cannot be read.
        """
        known = _read_directory(Path(path)) if os.path.isdir(path) else _read_file(path)
        return cls(**known)._checked(path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the capture to the file `path`, atomically and with a checksum. OSError when it cannot be written."""
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        state["quiet"] = [[nid, name, quiet] for (nid, name), quiet in self.quiet.items()]
        if self.nr_pages < 1 << 32:
            state |= {"start": self.start.astype(np.uint32), "length": self.length.astype(np.uint32)}
        savefile.save(path, state, "capture")

    def _checked(self, path: object) -> "Capture":
        """Return the capture itself if its parts are valid and fit together."""
        try:
            for name, kind in _KINDS.items():
                if not isinstance(getattr(self, name), kind) or isinstance(getattr(self, name), bool):
                    raise ValueError(f"{name} is {type(getattr(self, name)).__name__}")
            self.start, self.length, self.flags = _page_map(self.start, self.length, self.flags)
            geometry = self.geometry
            buddy, zones = parse_buddyinfo(self.buddyinfo), parse_zoneinfo(self.zoneinfo)
            if marks_heads_only((self.start, self.length, self.flags), zones, buddy):
                raise ValueError("the page map marks only the first page of free blocks (a kernel before 4.6)")
            if set(buddy) != set(self.quiet) or set(buddy) != {key for key, zone in zones.items() if zone.present_pages}:
                raise ValueError("buddyinfo and zoneinfo have different zones")
            if not 0 <= self.min_free_kbytes < 1 << 40:
                raise ValueError(f"min_free_kbytes is {self.min_free_kbytes}")
            if not 0 <= self.block_size_bytes < 1 << 40 or self.block_size_bytes % geometry.section_size \
                    or (self.blocks and not self.block_size_bytes):
                raise ValueError(f"a block of {self.block_size_bytes} bytes is not whole sections of {geometry.section_size}")
            self._parts()
        except ValueError as e:
            raise ValueError(f"{path}: not a capture: {e}") from None
        return self

    # -- what it becomes

    def machine(self, engine: str = "bitmap", rules: Rules | str = LINUX_6_12, movable: bool = False) -> Memory:
        """Return a Memory in the state of the kernel: zones, spans, watermarks, reserves, free blocks and managed_pages.

        engine, rules: the Memory's, whose zoneinfo() has the lines of the captured text. movable: pages on LRU lists have an
        owner, so that offline_pages moves them; else no page in use can move. present_pages is the zone's System RAM in iomem,
        which is what the kernel counts. Online memory counts as boot memory (early), offline blocks as added. Since 6.11
        pages that wait to be onlined look like pages given back to the host. They count as such, except those of virtio-mem.
        ValueError when map and texts cannot be of one kernel.
        """
        rules = rules_of_zoneinfo(rules, self.zoneinfo)
        sections, ram, zones = self._parts()
        geometry = with_zone_starts(self.geometry, zones)
        mem = Memory.from_page_map(geometry, sections, ram, zones, self.min_free_kbytes, rules, engine)
        if movable:
            MovablePages(mem).adopt(self._lru_pfns(mem))
        return mem

    def lsmem(self, style: str = "2.38") -> str:
        """Return what util-linux's lsmem of version `style` printed of the captured blocks. Before 5.7 blocks of one row had
        equal `removable` files too. ValueError in a kernel without memory hot-plug."""
        if not self.blocks:
            raise ValueError("no memory blocks: the kernel has no memory hot-plug")
        rows = [(block.nr, block.state, block.removable) for block in parse_blocks(self.blocks)]
        return lsmem_text(rows, self.block_size_bytes, style)

    def page_flags(self, pfn: int) -> str:
        """Return the flags of a page in /proc/kpageflags, by name: "lru|mmap|anon" or "no flag". IndexError past the end."""
        if not 0 <= pfn < self.nr_pages:
            raise IndexError(f"page {pfn:#x} is not in the page map, which has {self.nr_pages:#x} pages")
        return decode_kpageflags(int(self.flags[np.searchsorted(self.start, np.uint64(pfn), "right") - 1]))

    def _lru_pfns(self, mem: Memory) -> NDArray[np.int64]:
        """Pages in use on LRU lists, which the kernel takes for movable (has_unmovable_pages, 6.12)."""
        flags = self.flags & np.uint64(_KPF_LRU | KPF_BUDDY | KPF_NOPAGE | KPF_RESERVED | KPF_OFFLINE) == _KPF_LRU
        lru = zip(self.start[flags].tolist(), (self.start + self.length)[flags].tolist(), strict=True)
        pfns = [np.empty(0, np.int64)]
        for start, end in meet(list(lru), ends(mem.sections.spans())):      # a map may claim any pages, without memory
            pfns.append(start + np.flatnonzero(mem.page_states(start, end - start) == PAGE_IN_USE))
        return np.concatenate(pfns)

    def _parts(self) -> tuple[list[tuple[int, int, int, bool]], list[tuple[int, int]], list[MappedZone]]:
        """sections, ram and zones as Memory.from_page_map takes them."""
        memory, ram, runs, zones = self._memory(), ends(self._ram), states_of(self.start, self.length, self.flags), []
        for zone in parse_zoneinfo(self.zoneinfo).values():
            if zone.present_pages:
                inside = meet(zone_memory(memory, zone), ram)
                zones.append(MappedZone(**vars(zone), runs=managed(clipped(runs, inside), zone)))
        return sections_of(memory, ram), self._ram, zones

    @property
    def _ram(self) -> list[tuple[int, int]]:
        return parse_iomem(self.iomem, self.page_size)

    @property
    def hotplug_pfn(self) -> int:
        """The first pfn after all memory at which a memory block may begin."""
        last = max((end for _, end, _, _ in self._memory()), default=0)
        unit = max(self.block_size_bytes, self.geometry.section_size) // self.page_size
        return -(-last // unit) * unit

    def _memory(self) -> MemoryRanges:
        """The memory of the blocks; without blocks, the RAM."""
        if self.blocks:
            return memory_of(parse_blocks(self.blocks), self.block_size_bytes // self.page_size)
        return [(start, end, 0, frozenset({"none"})) for start, end in ends(self._ram)]


def matches_kernel(mem: Memory, capture: Capture) -> dict[ZoneKey, bool]:
    """Return, for each zone of the capture, whether the machine's free blocks match the kernel's buddyinfo."""
    kernel = parse_buddyinfo(capture.buddyinfo)
    return {key: key in mem.zones and mem.zones[key].nr_free == counts for key, counts in kernel.items()}


def predict_online(
    capture: Capture, size: int | str = "512M", engine: str = "bitmap", rules: Rules | str = LINUX_6_12
) -> Memory:
    """Return the captured machine after memory was added after its end and onlined.

    The memmap that a kernel takes from a zone when memory is added (2 MiB for 128 MiB, KERNEL.md 7.2) is not taken here, and
    nobody allocates from the new pages at once. HotplugError EINVAL unless the range is whole memory blocks.
    """
    mem = capture.machine(engine, rules)
    start, nr_pages = capture.hotplug_pfn, parse_size(size) // capture.page_size
    mem.add_memory(start, nr_pages)
    mem.online_pages(start, nr_pages)
    return mem


# -- files

def _read_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    state = savefile.load(path, "capture")
    try:
        if set(state) != set(_KINDS):
            raise ValueError("it has unknown parts")
        return state | {"quiet": {(int(nid), str(name)): bool(quiet) for nid, name, quiet in state["quiet"]}}
    except (TypeError, ValueError) as e:
        raise ValueError(f"{path}: not a capture that fastonline saved: {e}") from None


def _read_directory(path: Path) -> dict[str, Any]:
    """The fields of a Capture from a directory of texts. ValueError naming the directory, or the file and line in it."""
    def text(name: str, default: str | None = None) -> str:
        if not (path / name).exists():
            if default is None:
                raise ValueError(f"{path}: not a capture: it has no {name}")
            return default
        return read(path / name)

    def number(name: str, default: str | None = None, base: int = 10) -> int:
        try:
            return int(text(name, default), base)
        except ValueError:
            raise TextError(path / name, 1, "not a number") from None

    page_map = _read_runs(path)
    page_size = number("page_size", "4096")
    buddyinfo, zoneinfo, iomem, blocks = text("buddyinfo"), text("zoneinfo"), text("iomem"), text("blocks", "")
    zones, free = parse_zoneinfo(zoneinfo, str(path / "zoneinfo")), parse_buddyinfo(buddyinfo, str(path / "buddyinfo"))
    parse_blocks(blocks, str(path / "blocks"))
    if page_size > 0:
        parse_iomem(iomem, page_size, str(path / "iomem"))
    if marks_heads_only(page_map, zones, free):
        try:
            mapped = mapped_pages(path / "kpagecount", page_map) if (path / "kpagecount").exists() else None
            page_map = whole_blocks(page_map, zones, free, mapped)
        except ValueError as e:
            raise ValueError(f"{path}: not a capture: {e}") from None
    return {
        **dict(zip(("start", "length", "flags"), page_map, strict=True)),
        "buddyinfo": buddyinfo,
        "zoneinfo": zoneinfo,
        "iomem": iomem,
        "blocks": blocks,
        "block_size_bytes": number("block_size_bytes", "0", 16),
        "page_size": page_size,
        "arch": text("arch", "x86_64").strip(),
        "release": text("release", "").strip(),
        "min_free_kbytes": least_min_free_kbytes(zones.values(), page_size),
        "quiet": dict.fromkeys(free, True),
    }


def _read_runs(path: Path) -> tuple[Any, Any, Any]:
    """start, length and flags from pages.npz of a directory."""
    if not (path / "pages.npz").exists():
        raise ValueError(f"{path}: not a capture: it has no pages.npz")
    try:
        return _page_map(*read_arrays(path / "pages.npz", ("start", "length", "flags")))
    except ValueError as e:
        raise ValueError(f"{path}: not a capture: {e}") from None


def _page_map(*runs: Any) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """The arrays of a page map as uint64. ValueError for other arrays."""
    if any(array.ndim != 1 or array.dtype.kind != "u" or array.shape != runs[0].shape for array in runs):
        raise ValueError("the page map must be three unsigned integer arrays of equal length")
    start, length, flags = (array.astype(np.uint64) for array in runs)
    ends = start + length
    if not len(ends) or start[0] != 0 or np.any(ends <= start) or np.any(ends[:-1] != start[1:]):
        raise ValueError("the page map has gaps or overlaps")
    if ends[-1] > 1 << 52:
        raise ValueError(f"the page map has {ends[-1]:#x} pages, more than 64 bits address")
    return start, length, flags
