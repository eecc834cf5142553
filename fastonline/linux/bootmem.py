"""Ranges of boot memory, read from dmesg or /proc/iomem."""

from __future__ import annotations

import os
import re

from fastonline.lines import TextError, stream, without_prefix
from fastonline.linux.proctext import AddressesHidden

_NODE = re.compile(r"\s*node +(\d{1,4}): \[mem (0x[0-9a-f]{1,16})-(0x[0-9a-f]{1,16})\]")
_OLD_NODE = re.compile(r" +(\d{1,4}): (0x[0-9a-f]{1,16}) -> (0x[0-9a-f]{1,16})$")
_E820 = re.compile(r"\s*BIOS-e820: \[mem (0x[0-9a-f]{1,16})-(0x[0-9a-f]{1,16})\] usable")
_OLD_E820 = re.compile(r"\s*BIOS-e820: ([0-9a-f]{16}) - ([0-9a-f]{16}) \(usable\)")
_IOMEM = re.compile(r"\s*([0-9a-f]{1,16})-([0-9a-f]{1,16}) : (.*)")


def shows_boot_ranges(line: str) -> bool:
    """Return whether this line of a text names a range of RAM."""
    bare, iomem = without_prefix(line), _IOMEM.fullmatch(line)
    ram = iomem is not None and iomem[3].startswith("System RAM")
    return ram or any(pattern.match(bare) is not None for pattern in (_NODE, _E820, _OLD_E820))


def read_boot_ranges(path: str | os.PathLike[str], page_size: int = 4096) -> list[tuple[int, int, int]]:
    """(start_pfn, nr_pages, nid) of the RAM that the log of a boot, or the text of /proc/iomem in the file `path`, shows: whole
    pages, ascending.

    Memory takes the list as `boot`. Of a log the lines behind "Early memory node ranges" count (free_area_init, all
    architectures), else those of the BIOS-e820 map that are usable, all of node 0. page_size: bytes. TextError where there is
    neither, where ranges overlap, or where addresses are hidden; OSError.
    """
    kinds: dict[str, list[tuple[int, int, int, int]]] = {"nodes": [], "e820": [], "iomem": []}
    hidden, early, nr = 0, False, 0
    for nr, line in stream(path):
        bare = without_prefix(line)
        if bare.lower().startswith(("early memory", "early_node_map")):      # the latter up to 3.1
            early, kinds["nodes"] = True, []
        elif "BIOS-provided physical RAM map" in bare:      # another boot in the same log
            kinds["e820"] = []
        elif early and (match := _NODE.match(bare)):
            kinds["nodes"].append((int(match[2], 16), int(match[3], 16) + 1, int(match[1]), nr))
        elif early and (match := _OLD_NODE.match(bare)):
            kinds["nodes"].append((int(match[2], 16) * page_size, int(match[3], 16) * page_size, int(match[1]), nr))
        elif match := _E820.match(bare):
            kinds["e820"].append((int(match[1], 16), int(match[2], 16) + 1, 0, nr))
        elif match := _OLD_E820.match(bare):
            kinds["e820"].append((int(match[1], 16), int(match[2], 16), 0, nr))
        elif (match := _IOMEM.fullmatch(line)) and match[3].startswith("System RAM"):
            kinds["iomem"].append((int(match[1], 16), int(match[2], 16) + 1, 0, nr))
            hidden = hidden or (nr if int(match[2], 16) == 0 else 0)
    found = next((ranges for ranges in kinds.values() if ranges), None)
    if found is None:
        raise TextError(path, max(nr, 1), "neither memory ranges of a boot log nor System RAM of iomem found")
    if hidden:
        raise AddressesHidden(str(path), hidden, "the addresses are hidden (all 0): reading them takes CAP_SYS_ADMIN")
    ranges: list[tuple[int, int, int]] = []
    last = 0
    for first, end, nid, line_nr in sorted(found):
        start, stop = -(-first // page_size), end // page_size
        if first < last:
            raise TextError(path, line_nr, f"the range from {first:#x} on overlaps another one")
        last = end
        if ranges and ranges[-1][2] == nid and sum(ranges[-1][:2]) == start < stop:
            ranges[-1] = (ranges[-1][0], stop - ranges[-1][0], nid)
        elif start < stop:
            ranges.append((start, stop - start, nid))
    if not ranges:
        raise TextError(path, found[0][3], f"no range has a whole page of {page_size} bytes")
    return ranges
