"""A directory with a kernel's /proc and /sys files: as `lsmem --sysroot` takes it, a sosreport, or the texts side by side."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from fastonline.lines import TextError, numbered, read, shown
from fastonline.linux.proctext import (
    ZONE_NAMES,
    AddressesHidden,
    MemoryBlock,
    ZoneKey,
    parse_buddyinfo,
    parse_iomem,
    parse_zoneinfo,
)
from fastonline.linux.ranges import GEOMETRIES, page_size_of
from fastonline.linux.snapshot import Snapshot

_MEMORY = "sys/devices/system/memory"
_BLOCK = re.compile(r"memory(\d{1,9})")
_ARCHES = {arch: arch for arch, _ in GEOMETRIES} | {"i386": "i686", "i486": "i686", "i586": "i686"}
_PAGETYPE = re.compile(r"Node +(\d{1,4}), zone +(\w+), type +(\w+) +([\d >]+)")
_LSMEM_ZONES = {name: name for name in ZONE_NAMES} | {"None": "none", "Highmem": "HighMem"}
_MAX_BLOCKS = 1 << 19      # a short text can claim any number: 64 TiB of blocks of 128 MiB
_LSMEM = re.compile(r"0x([0-9a-f]{1,16})-0x([0-9a-f]{1,16}) ")


def is_tree(path: str | os.PathLike[str]) -> bool:
    """Return whether the directory is such a tree."""
    return _root(Path(path)) is not None


def read_tree(path: str | os.PathLike[str]) -> Snapshot:
    """The Snapshot of a directory with some of these files, below it or below its only subdirectory:

    sys/devices/system/memory (or that directory itself); proc/zoneinfo, buddyinfo, pagetypeinfo, iomem,
    sys/vm/min_free_kbytes (or the texts side by side); of a sosreport, what `lsmem -a`, `uname -a` and `sysctl -a` printed.

    ValueError naming file and line for a text that is damaged, OSError for one that cannot be read.
    """
    root = _root(Path(path))
    if root is None:
        raise ValueError(f"{path}: it has neither {_MEMORY} nor a zoneinfo or buddyinfo")
    snapshot = Snapshot(source=str(path))
    zoneinfo, buddyinfo, iomem = (_text(root, name) for name in ("zoneinfo", "buddyinfo", "iomem"))
    if zoneinfo:
        snapshot.zones, snapshot.zoneinfo = parse_zoneinfo(*zoneinfo), zoneinfo[0]
    if buddyinfo:
        snapshot.free = parse_buddyinfo(*buddyinfo)
    elif types := _text(root, "pagetypeinfo"):
        snapshot.free = parse_pagetypeinfo(*types)
    _read_architecture(root, snapshot)
    if iomem:
        try:
            snapshot.ram = parse_iomem(iomem[0], snapshot.page_size, iomem[1])
        except AddressesHidden as e:
            snapshot.notes.append(f"{e}: holes in the memory are not known")
    _read_blocks(root, snapshot)
    snapshot.min_free_kbytes = _min_free_kbytes(root)
    parameter = root / "sys/module/memory_hotplug/parameters/memmap_on_memory"
    if parameter.is_file():
        snapshot.memmap_on_memory = read(parameter).strip()
    snapshot.assumptions.append(
        f"{path}: free pages are laid out to match buddyinfo; which pages are free is not known" if snapshot.free else
        f"{path}: there is no buddyinfo: all pages count as free"
    )
    return snapshot


def parse_pagetypeinfo(text: str, name: str = "pagetypeinfo") -> dict[ZoneKey, tuple[int, ...]]:
    """Free blocks of each order of every zone, all migrate types together. Counts that the kernel cut short (">100000") count
    as what they show (pagetypeinfo_showfree_print, 5.5)."""
    found: dict[ZoneKey, tuple[int, ...]] = {}
    nr = 0
    for nr, line in numbered(text):
        if not (match := _PAGETYPE.match(line)):
            continue
        counts = [int(word.lstrip(">") or 0) for word in match[4].split()]
        key = int(match[1]), match[2]
        before = found.setdefault(key, (0,) * len(counts))
        if len(before) != len(counts):
            raise TextError(name, nr, f"{len(counts)} orders, and {len(before)} in the lines before")
        found[key] = tuple(a + b for a, b in zip(before, counts, strict=True))
    if not found:
        raise TextError(name, nr, "no zone found")
    return found


def parse_lsmem(text: str, name: str = "lsmem") -> tuple[list[MemoryBlock], int]:
    """Return (memory blocks, bytes of one) from what `lsmem` printed: its table, with or without -a and -o, or its JSON."""
    columns: list[str] = []
    rows: list[tuple[int, int, int, list[str]]] = []
    size = nr = 0
    if text.lstrip("\ufeff \r\n").startswith("{"):
        rows, size = _json_rows(text.removeprefix("\ufeff"), name)
        columns, text = ["NODE"], ""
    for nr, line in numbered(text):
        if line.startswith("RANGE"):
            columns = line.split()
        elif match := _LSMEM.match(line):
            # cells may be empty, but in the last column; BLOCK and ZONES are recognized by their form
            rows.append((nr, int(match[1], 16), int(match[2], 16) + 1, line.split()[1:]))
        elif line.startswith("Memory block size:"):
            size = _bytes(line.split()[-1])
    if not rows or not columns:
        raise TextError(name, nr, "no table of lsmem found")
    if not size:
        if len(columns) < 5:
            raise TextError(name, rows[0][0], "the size of a memory block is missing")
        size = min(end - start for _, start, end, _ in rows)
    blocks: list[MemoryBlock] = []
    for nr, start, end, words in rows:
        if size <= 0 or start % size or end % size or end <= start or (blocks and start // size <= blocks[-1].nr):
            raise TextError(name, nr, f"not whole memory blocks of {size:#x} bytes, or out of order")
        if len(blocks) + (end - start) // size > _MAX_BLOCKS:
            raise TextError(name, nr, f"more than {_MAX_BLOCKS} memory blocks")
        state, zones, nid = _lsmem_row(words[1:], columns)
        blocks += [MemoryBlock(block, state, zones, int("no" not in words), nid) for block in range(start // size, end // size)]
    return blocks, size


def _json_rows(text: str, name: str) -> tuple[list[tuple[int, int, int, list[str]]], int]:
    """Return the rows of `lsmem --json` as those of a table: (line, start, end, words), and bytes of a memory block."""
    rows: list[tuple[int, int, int, list[str]]] = []
    size, at = 0, 0
    try:
        for row in json.loads(text.rstrip())["memory"]:
            at = text.index(row["range"], at)
            first, last = (int(part, 16) for part in row["range"].split("-"))
            if "block" in row:
                numbers = [int(part) for part in str(row["block"]).split("-")]
                size = size or (last + 1 - first) // (numbers[-1] - numbers[0] + 1)
            words = ["-", row["state"], "yes" if row.get("removable") in (True, "yes") else "no", row.get("zones") or "None"]
            rows.append((text.count("\n", 0, at) + 1, first, last + 1, [*words, str(row.get("node", 0))]))
    except json.JSONDecodeError as e:
        raise TextError(name, e.lineno, f"not what lsmem --json prints: {e.msg}") from None
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise TextError(name, text.count("\n", 0, at) + 1, "not what lsmem --json prints") from None
    return rows, size or min((end - start for _, start, end, _ in rows), default=0)


def _lsmem_row(words: list[str], columns: list[str]) -> tuple[str, tuple[str, ...], int]:
    """(state, zones, nid) of a row of lsmem behind its SIZE. Cells may be empty: they are recognized by what they hold."""
    state = next((word for word in words if word in ("online", "offline", "on->off")), "?")
    zones = next((word for word in words if word.split("/")[0] in _LSMEM_ZONES), "None")
    numbers = [int(word) for word in words if word.isdecimal()]
    nid = 0
    if "NODE" in columns and numbers:
        both = "BLOCK" in columns and len(numbers) > 1
        nid = numbers[int(both and columns.index("NODE") > columns.index("BLOCK"))]
    return {"on->off": "going-offline"}.get(state, state), tuple(_LSMEM_ZONES.get(zone, zone) for zone in zones.split("/")), nid


def _root(path: Path) -> Path | None:
    """The directory with proc and sys: `path`, or the only directory inside it."""
    for root in (path, *_only_directory(path)):
        if (root / _MEMORY).is_dir() or (root / "block_size_bytes").is_file():
            return root
        if _find(root, "zoneinfo") or _find(root, "buddyinfo"):
            return root
    return None


def _only_directory(path: Path) -> list[Path]:
    inside = [entry for entry in os.scandir(path) if entry.is_dir()] if path.is_dir() else []
    return [Path(inside[0].path)] if len(inside) == 1 else []


def _find(root: Path, name: str) -> Path | None:
    return next((file for file in (root / "proc" / name, root / name) if file.is_file()), None)


def _text(root: Path, name: str) -> tuple[str, str] | None:
    """(text, path) of a file of /proc; None where it is missing or empty, as what sos could not read is."""
    path = _find(root, name)
    text = read(path) if path else ""
    return (text, str(path)) if text.strip() else None


def _outputs(root: Path, *patterns: str) -> Iterator[tuple[str, str]]:
    """(text, path) of what commands printed in a sosreport."""
    for pattern in patterns:
        for path in sorted(root.glob(pattern)):
            if path.is_file():
                yield read(path), str(path)


def _read_architecture(root, snapshot):
    """arch and page_size, from uname and from what only some architectures have."""
    for text, _ in _outputs(root, "uname", "sos_commands/kernel/uname_-a", "proc/sys/kernel/arch"):
        words = text.split()
        known = [word for word in words if word in _ARCHES]
        if "GNU/Linux" in words[1:]:
            word = words[words.index("GNU/Linux") - 1]
            snapshot.arch = _ARCHES.get(word, word)
        elif known:
            snapshot.arch = _ARCHES[known[-1]]
    if any(name == "HighMem" for _, name in (*snapshot.zones, *snapshot.free)):
        snapshot.arch = "i686"
    snapshot.page_size = page_size_of(snapshot.arch, len(next(iter(snapshot.free.values()), ())))


def _read_blocks(root, snapshot):
    """The memory blocks: of sysfs, or of what lsmem printed."""
    directory = root / _MEMORY
    if not directory.is_dir():
        directory = root
    if (directory / "block_size_bytes").is_file():
        path = directory / "block_size_bytes"
        try:
            snapshot.block_size = int(read(path).strip(), 16)
        except ValueError:
            raise TextError(path, 1, "not a size in hexadecimal") from None
        if not 4096 <= snapshot.block_size <= 1 << 40:
            raise TextError(path, 1, f"a memory block cannot have {snapshot.block_size} bytes")
        names = [(int(match[1]), entry.path) for entry in os.scandir(directory) if (match := _BLOCK.fullmatch(entry.name))]
        snapshot.blocks = [_block(nr, Path(block), snapshot) for nr, block in sorted(names)]
        return
    for text, path in _outputs(root, "sos_commands/memory/lsmem*", "lsmem"):
        snapshot.blocks, snapshot.block_size = parse_lsmem(text, path)
        return


def _block(nr, directory, snapshot):
    """One memory block; what is missing is as lsmem takes it."""
    def text(name):
        return read(directory / name).strip() if (directory / name).is_file() else ""

    state = text("state")
    if state not in ("online", "offline", "going-offline"):
        snapshot.notes.append(f"{directory / 'state'}:1: {shown(state)} is not a state: the block counts as offline")
    nids = [int(entry.name[4:]) for entry in os.scandir(directory) if re.fullmatch(r"node\d{1,4}", entry.name)]
    return MemoryBlock(nr, state or "?", tuple(text("valid_zones").split()) or ("none",), int(text("removable") == "1"),
                       min(nids, default=0))


def _min_free_kbytes(root):
    path = root / "proc/sys/vm/min_free_kbytes"
    texts = [(f"vm.min_free_kbytes = {read(path)}", path)] if path.is_file() else []
    for text, _ in (*texts, *_outputs(root, "sos_commands/kernel/sysctl_-a")):
        if match := re.search(r"^vm\.min_free_kbytes = (\d{1,9})\b", text, re.M):
            return int(match[1])
    return None


def _bytes(text):
    """What util-linux's size_to_human_string made of a number: 128M, 2G."""
    match = re.fullmatch(r"(\d{1,6})([KMGT]?)B?", text)
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2]] if match else 0
