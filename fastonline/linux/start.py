"""The machine that a recording begins with, made from its `initial` state."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from fastonline.geometry import X86_64
from fastonline.hotplug.layout import lay_out
from fastonline.hotplug.memory import THP_MIN_BYTES, Memory
from fastonline.rules import by_name

_MOST_PAGES = 1 << 23
"""The most pages of a machine that was recorded, 32 GiB: a line of iomem can claim any number, and each has a descriptor."""


def start_machine(data: dict[str, Any], engine: str) -> Memory:
    """The Memory of the start of a recording, whose JSON is `data`. What is not as the format has it raises any of the usual
    errors."""
    kernel, initial, params = data["kernel"], data["initial"], data["params"]
    if data["page_size"] != X86_64.page_size:
        raise ValueError(f"pages of {data['page_size']} bytes are not replayed")
    rules = replace(by_name(kernel), watermark_scale_factor=params.get("watermark_scale_factor", 10))
    page, per_block = data["page_size"], data["block_size"] // data["page_size"]
    zones = {(int(key.split("/")[0]), key.split("/")[1]): zone for key, zone in initial["zones"].items()}
    blocks = {int(nr): block for nr, block in initial["blocks"].items()}
    lines = [_span(line) for line in initial["iomem"]]
    sections: list[tuple[int, int, int, bool]] = []
    of_zone: dict[tuple[int, str], list[tuple[int, int]]] = {key: [] for key in zones}
    for first, size, name in lines:
        if not name.startswith("System RAM"):
            continue
        start, end = -(-first // page), (first + size) // page
        while start < end:
            stop = min(end, (start // per_block + 1) * per_block)
            block = blocks[start // per_block]
            online = block["state"] != "offline"
            sections.append((start, stop - start, block["node"], online))
            for first_pfn, nr, key in _by_zone(start, stop, block, zones) if online else ():
                of_zone[key].append((first_pfn, nr))
            start = stop
    if (pages := sum(nr for _, nr, _, _ in sections)) > _MOST_PAGES:
        raise ValueError(f"a machine of {pages} pages: a recording has at most {_MOST_PAGES}")
    mem = Memory.from_page_map(
        X86_64, sections, lines, [_start_zone(key, zone, of_zone[key], zones) for key, zone in zones.items()],
        initial["min_free_kbytes"], rules, engine, params.get("min_free_kbytes", -1), memory_block_size=data["block_size"],
        memmap="on_memory" if params.get("memmap_on_memory") else "kernel",
    )
    mem.nr_cpus = data["machine"].get("cpus", 1)
    mem.possible_nodes = data["machine"].get("nodes", 1)
    if initial["mem_total_kb"] << 10 >= THP_MIN_BYTES:
        mem.zones.set_transparent_hugepage(params.get("transparent_hugepage", "never"))
    if params.get("online_policy"):
        mem.policy = params["online_policy"]
    mem.auto_movable_ratio = params.get("auto_movable_ratio", mem.auto_movable_ratio)
    mem.auto_movable_numa_aware = bool(params.get("auto_movable_numa_aware", mem.auto_movable_numa_aware))
    mem.auto_online_blocks = initial["auto_online_blocks"]
    if list(mem.lowmem_reserve_ratio) != initial["lowmem_reserve_ratio"]:
        mem.lowmem_reserve_ratio = initial["lowmem_reserve_ratio"]
    mem.validate()
    return mem


def _start_zone(key, zone, ranges, zones):
    """A zone as from_page_map takes it. Which of its pages were free is not known: lay_out says where."""
    boost = zone.get("boost", 0)
    names = [name for nid, name in zones if nid == key[0]]
    return SimpleNamespace(
        nid=key[0], name=key[1], start_pfn=zone["start_pfn"], spanned_pages=zone["spanned"],
        min=zone["min"] - boost, low=zone["low"] - boost, high=zone["high"] - boost,
        protection=dict(zip(names, zone["protection"], strict=True)),
        runs=lay_out(ranges, zone["managed"], zone["nr_free"], X86_64.max_page_order),
    )


def _by_zone(start, stop, block, zones):
    """(start, pages, (nid, zone)) of the parts of a block: one zone, or as the zones' spans have it."""
    nid, name = block["node"], block["valid_zones"]
    if (nid, name) in zones:
        return [(start, stop - start, (nid, name))]
    parts = []
    for (node, zone), state in zones.items():
        first, end = max(start, state["start_pfn"]), min(stop, state["start_pfn"] + state["spanned"])
        if node == nid and first < end:
            parts.append((first, end - first, (nid, zone)))
    return sorted(parts)


def _span(line):
    """(first byte, size, name) of a line of iomem."""
    found = re.fullmatch(r"(?:  )*0x([0-9a-f]+)-0x([0-9a-f]+) (.+)", line)
    if not found:
        raise ValueError(f"{line!r} is not a line of iomem")
    first, last = int(found[1], 16), int(found[2], 16)
    return first, last + 1 - first, found[3]
