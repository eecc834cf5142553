"""The running kernel, read: its page map a zone at a time, each in a quiet moment if there is one, and its own texts.

Sources: fs/proc/page.c (kpageflags, one uint64 a page frame), mm/vmstat.c, drivers/base/memory.c, 6.18.
"""

import errno
import os
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastonline.core.runs import run_starts
from fastonline.files import open_regular
from fastonline.lines import read
from fastonline.linux.heads import mapped_pages, marks_heads_only, whole_blocks
from fastonline.linux.proctext import (
    AddressesHidden,
    MemoryBlock,
    ZoneInfo,
    ZoneKey,
    format_block,
    parse_buddyinfo,
    parse_iomem,
    parse_zoneinfo,
)

_CHUNK_PAGES = 1 << 16      # a read of 512 KiB stays in the cache until it is turned into runs


def read_kernel(root: Path, attempts: int) -> dict[str, Any]:
    """All fields of a Capture. A window of the page map (a zone, or zones that overlap) is read up to `attempts` times, until
    buddyinfo says the same of its zones before and after."""
    if attempts < 1:
        raise ValueError(f"attempts must be at least 1, not {attempts}")
    zoneinfo = read(root / "proc/zoneinfo")
    page_size = os.sysconf("SC_PAGE_SIZE")
    iomem = "".join(
        line.strip() + "\n" for line in read(root / "proc/iomem").splitlines() if " : System RAM" in line
    )
    lines: dict[ZoneKey, str] = {}
    quiet: dict[ZoneKey, bool] = {}
    parts = []
    end_pfn = 0
    with _open_kpageflags(root / "proc/kpageflags") as kpageflags:
        try:
            hidden = not parse_iomem(iomem, page_size)
        except AddressesHidden:
            hidden = True
        if hidden:
            raise PermissionError(
                errno.EPERM, "addresses are hidden: reading them takes the capability CAP_SYS_ADMIN", str(root / "proc/iomem")
            )
        for start, end, zones in _windows(parse_zoneinfo(zoneinfo)):
            for attempt in range(attempts):
                before = _buddy_lines(root)
                first, flags, end_pfn = _read_runs(kpageflags.fileno(), start, end)
                after = _buddy_lines(root)
                lines |= {key: before[key] for key in zones}
                quiet |= {key: before[key] == after.get(key) for key in zones}
                if all(quiet[key] for key in zones):
                    break
                time.sleep(0.01 * attempt)      # other activity may end soon
            parts.append((first, flags))
    start_pfn = np.concatenate([first for first, _ in parts])
    page_map = start_pfn, np.diff(start_pfn, append=np.uint64(end_pfn)), np.concatenate([flags for _, flags in parts])
    buddyinfo = "".join(lines.get(key, "") for key in before)
    known = parse_zoneinfo(zoneinfo), parse_buddyinfo(buddyinfo)
    if marks_heads_only(page_map, *known):
        page_map = whole_blocks(page_map, *known, mapped_pages(root / "proc/kpagecount", page_map))
    uname = os.uname()
    return {
        **dict(zip(("start", "length", "flags"), page_map, strict=True)),
        "buddyinfo": buddyinfo,
        "zoneinfo": zoneinfo,
        "iomem": iomem,
        **_read_blocks(root / "sys/devices/system/memory"),
        "page_size": page_size,
        "arch": uname.machine,
        "release": uname.release,
        "min_free_kbytes": int(read(root / "proc/sys/vm/min_free_kbytes")),
        "quiet": quiet,
    }


def _open_kpageflags(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except PermissionError as e:
        raise PermissionError(
            e.errno, "only root may read the page map: run as root, with the capability CAP_SYS_ADMIN", str(path)
        ) from None
    except FileNotFoundError as e:
        raise FileNotFoundError(e.errno, "no page map: the kernel has no CONFIG_PROC_PAGE_MONITOR", str(path)) from None


def _windows(zones: dict[ZoneKey, ZoneInfo]) -> list[tuple[int, int | None, list[ZoneKey]]]:
    """(first pfn, end pfn, zones) of the parts the page map is read in: one for each zone, or for several that overlap. Holes
    between them go with the next, what is behind the last (None: to the end of the map) with the last. A zone Device has a
    span, but no pages of the allocator's."""
    found: list[tuple[int, int | None, list[ZoneKey]]] = []
    end = 0
    for zone in sorted((zone for zone in zones.values() if zone.present_pages), key=lambda zone: zone.start_pfn):
        if found and zone.start_pfn < end:
            found[-1][2].append((zone.nid, zone.name))
        else:
            found.append((end, None, [(zone.nid, zone.name)]))
        end = max(end, zone.end_pfn)
        found[-1] = (found[-1][0], end, found[-1][2])
    found[-1] = (found[-1][0], None, found[-1][2])
    return found


def _buddy_lines(root: Path) -> dict[ZoneKey, str]:
    """The line of each zone in buddyinfo."""
    text = read(root / "proc/buddyinfo")
    return dict(zip(parse_buddyinfo(text), text.splitlines(keepends=True), strict=True))


def _read_runs(fd: int, start: int, end: int | None) -> tuple[NDArray[np.uint64], NDArray[np.uint64], int]:
    """Return the runs of the pages of [start, end), and their end, which may be lower: a kernel shows only existing pages."""
    chunk = np.empty(_CHUNK_PAGES, np.uint64)
    firsts, flags, pfn = [], [], start
    while end is None or pfn < end:
        wanted = chunk if end is None else chunk[: end - pfn]
        got = os.preadv(fd, [wanted.data], 8 * pfn) // 8
        if got == 0:
            break
        run = run_starts(wanted[:got])
        firsts.append((run + pfn).astype(np.uint64))
        flags.append(wanted[run])
        pfn += got
    if not firsts:
        return np.empty(0, np.uint64), np.empty(0, np.uint64), start
    return np.concatenate(firsts), np.concatenate(flags), pfn


def _read_blocks(directory: Path) -> dict[str, Any]:
    """The memory blocks, and their size: none, and 0, in a kernel without memory hot-plug."""
    if not (directory / "block_size_bytes").exists():
        return {"blocks": "", "block_size_bytes": 0}
    blocks = []
    for path in directory.glob("memory[0-9]*"):
        nids = [int(node.name[4:]) for node in path.glob("node[0-9]*")]
        blocks.append(MemoryBlock(
            int(path.name[6:]),
            read(path / "state").strip(),
            # not there without CONFIG_MEMORY_HOTREMOVE: the zones' spans then have to tell
            tuple(read(path / "valid_zones").split()) if (path / "valid_zones").exists() else ("none",),
            int(read(path / "removable")),
            nids[0] if nids else 0,
        ))
    blocks.sort(key=lambda block: block.nr)
    return {
        "blocks": "".join(map(format_block, blocks)),
        "block_size_bytes": int(read(directory / "block_size_bytes"), 16),
    }
