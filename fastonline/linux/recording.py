"""Recordings of real kernels (memory-hotplug-recording/1) and their replay against a Memory.

A recording is the state of a machine, then steps: what was done, and what the kernel showed afterwards. `Recording.machine`
makes the machine of the start, `Recording.replay` does every step to it and compares. What is predicted comes from the machine
alone; a recorded state is only looked at to compare.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from os import PathLike
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastonline.core.pageflags import KPF_BUDDY, KPF_NOPAGE, KPF_OFFLINE, KPF_RESERVED
from fastonline.errors import HotplugError
from fastonline.geometry import X86_64
from fastonline.hotplug.layout import lay_out
from fastonline.hotplug.memory import Memory
from fastonline.hotplug.migrate import movable_pages
from fastonline.linux.guest import Guest
from fastonline.linux.sysfs import node_states
from fastonline.rules import INT_MAX, LINUX_6_1, LINUX_6_12

FORMAT = "memory-hotplug-recording/1"
NOISE = 64
"""Pages that a kernel zone's free pages may be off by, the guest's own allocations (FORMAT.md: "within about 64 pages"). How
many of its pages lie on per-CPU lists is not compared ("pcp_count not at all"): a zone that is off by more, but not when those
are counted too, is no difference, and is remarked."""
NOISE_MOVABLE = 10
"""Pages that Movable's free and per-CPU pages together may be off by in 6.12 (FORMAT.md: "within 10 pages"). In 6.1 its free
blocks are compared exactly, order by order; `free` is a counter that a CPU's part is missing from, up to the zone's
stat_threshold."""
LOG = ("Fallback order for Node ", "Built ", "Policy zone: ", "min_free_kbytes is not updated to ", "virtio_mem ", "Block size [",
       "memory memory")
"""Beginnings of the lines of the log that are compared."""
KINDS = ("NOPAGE", "BUDDY", "OFFLINE", "RESERVED", "NONE")
"""What a page is: not there, free, given back to the host, not the allocator's, in use."""

_ZONE_FIELDS = ("start_pfn", "spanned", "present", "managed", "min", "low", "high", "protection", "pcp_batch", "pcp_high_min",
                "pcp_high_max", "stat_threshold")
_STEP: dict[str, Any] = {"errno": (int, str), "uevents": list, "kmsg": list, "state": dict}
_SYSCTLS = {
    "min_free_kbytes": (0, INT_MAX), "watermark_scale_factor": (1, 3000), "lowmem_reserve_ratio": (-INT_MAX - 1, INT_MAX)
}
"""Of sysctls that there is a model of, the least and the most that may be written (vm_table, 6.1)."""
_READ_ONLY = ("valid_zones", "phys_index", "phys_device", "removable", "block_size_bytes")


class RecordingError(ValueError):
    """A file that is no recording: one line that names the file, and the step where it is a step's fault."""


class CannotReplay(Exception):
    """A step that there is no model for: why."""


@dataclass
class Step:
    """One step, replayed. `recorded` is the recording's own dict of it, `predicted` a state in the recording's schema."""

    index: int
    op: str
    errno: str | int | None
    """0 or the name of the predicted error; None for what the kernel never saw."""
    uevents: list[str]
    kmsg: list[str]
    predicted: dict[str, Any]
    recorded: dict[str, Any]
    differences: list[tuple[str, Any, Any]] = field(default_factory=list)
    """(what, predicted, recorded) of everything that is compared and not alike."""
    compared: int = 0
    """Values compared."""
    remarks: list[tuple[str, Any, Any]] = field(default_factory=list)
    """(zone, predicted, recorded) of kernel zones whose pages lie on per-CPU lists instead of being free, or the other way
    round: {"free", "pcp_count"} each."""
    replayed: bool = True
    reason: str = ""
    """Why it could not be replayed."""


def _rules(kernel):
    """The preset of a version such as 6.1.192."""
    numbers = re.match(r"(\d+)\.(\d+)", kernel)
    if not numbers or tuple(map(int, numbers.groups())) < (6, 1):
        raise RecordingError(f"there are no rules for kernel {kernel!r}")
    return LINUX_6_12 if tuple(map(int, numbers.groups())) >= (6, 8) else LINUX_6_1


def _span(line):
    """(first byte, size, name) of a line of iomem."""
    found = re.fullmatch(r"(?:  )*0x([0-9a-f]+)-0x([0-9a-f]+) (.+)", line)
    if not found:
        raise RecordingError(f"{line!r} is no line of iomem")
    first, last = int(found[1], 16), int(found[2], 16)
    return first, last + 1 - first, found[3]


class Recording:
    """One run of a real kernel. data: the dict that its JSON file holds; path: of that file, for messages."""

    def __init__(self, data: dict[str, Any], path: object = "recording") -> None:
        self.path = str(path)
        self.data = data
        self.name = data["name"]
        self.kernel = data["kernel"]
        self.steps = data["steps"]

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Recording:
        """Read the recording in the file `path`. RecordingError, one line naming the file (and the step), for what is none;
        OSError."""
        with open(path, "rb") as file:
            raw = file.read()
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as e:
            raise RecordingError(f"{path}: no recording, or a truncated one: {e}") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise RecordingError(f"{path}: not a recording of format {FORMAT}")
        wanted = {"name": str, "kernel": str, "machine": dict, "page_size": int, "params": dict, "initial": dict, "steps": list}
        for key, kind in wanted.items():
            if not isinstance(data.get(key), kind):
                raise RecordingError(f"{path}: a recording has {key!r}, {'text' if kind is str else f'a {kind.__name__}'}")
        for index, step in enumerate(data["steps"]):
            where = f"{path}: step {index}"
            if not isinstance(step, dict) or not isinstance(step.get("ops", [{}]), list) or step.get("ops") == []:
                raise RecordingError(f"{where}: not a step")
            for key, kinds in _STEP.items():
                if key not in step:
                    raise RecordingError(f"{where}: it has no {key!r}")
                if step[key] is not None and not isinstance(step[key], kinds):
                    raise RecordingError(f"{where}: {key!r} is not {str(step[key])[:80]!r}")
                if kinds is list and not all(isinstance(text, str) for text in step[key] or ()):
                    raise RecordingError(f"{where}: {key!r} is a list of texts")
            first = step.get("covers_from")
            if first is not None and not (isinstance(first, int) and 0 <= first <= index):
                raise RecordingError(f"{where}: 'covers_from' is no step before it: {first!r}")
            for op in step.get("ops", [step]):
                if not isinstance(op, dict) or not isinstance(op.get("op"), str) or op["op"] not in _OPS:
                    raise RecordingError(f"{where}: unknown op {op.get('op') if isinstance(op, dict) else op!r}")
                for key, kind in _OPS[op["op"]].items():
                    if isinstance(op.get(key), bool) or not isinstance(op.get(key), kind):
                        raise RecordingError(f"{where}: op {op['op']} needs {key!r}, not {op.get(key)!r}")
        return cls(data, path)

    def _no_blocks(self):
        return f"kernel {self.kernel} on {self.data.get('arch')} has no memory blocks, and there is no model of its memory"

    @contextmanager
    def _reading(self, where):
        """Whatever a part of the file that is not as the format has it leads to is a RecordingError of one line."""
        try:
            yield
        except RecordingError as e:
            raise RecordingError(f"{self.path}: {where}: {e}") from None
        except (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RecursionError, TypeError, ValueError) as e:
            text = " ".join(str(e).split())
            raise RecordingError(f"{self.path}: {where}: {type(e).__name__}: {text[:200]}") from None

    def machine(self, engine: str = "struct_page") -> Memory:
        """The Memory of the recording's start. engine: struct_page keeps the kernel's free lists: pages are found where the kernel
        finds them. bitmap has none; the order is worked out, and after long use other parts of a block may be the free ones.
        RecordingError for a start that cannot be."""
        with self._reading("initial"):
            return self._machine(engine)

    def _machine(self, engine):
        data, initial, params = self.data, self.data["initial"], self.data["params"]
        if not data.get("block_size"):
            raise RecordingError(self._no_blocks())
        if data["page_size"] != X86_64.page_size:
            raise RecordingError(f"pages of {data['page_size']} bytes are not replayed")
        rules = replace(_rules(self.kernel), watermark_scale_factor=params.get("watermark_scale_factor", 10))
        page, per_block = data["page_size"], data["block_size"] // data["page_size"]
        zones = {(int(key.split("/")[0]), key.split("/")[1]): zone for key, zone in initial["zones"].items()}
        blocks = {int(nr): block for nr, block in initial["blocks"].items()}
        lines = [_span(line) for line in initial["iomem"]]
        sections, of_zone = [], {key: [] for key in zones}
        for first, size, name in lines:
            if not name.startswith("System RAM"):
                continue
            start, end = -(-first // page), (first + size) // page
            while start < end:
                stop = min(end, (start // per_block + 1) * per_block)
                block = blocks[start // per_block]
                online = block["state"] != "offline"
                sections.append((start, stop - start, block["node"], online))
                for first_pfn, nr, key in self._by_zone(start, stop, block, zones) if online else ():
                    of_zone[key].append((first_pfn, nr))
                start = stop
        mem = Memory.from_page_map(
            X86_64, sections, (), [self._zone(key, zone, of_zone[key], zones) for key, zone in zones.items()],
            initial["min_free_kbytes"], rules, engine, params.get("min_free_kbytes", -1), memory_block_size=data["block_size"],
            memmap="on_memory" if params.get("memmap_on_memory") else "kernel",
        )
        mem.nr_cpus = data["machine"].get("cpus", 1)
        for first, size, name in lines:
            mem.resources.request(first, size, name)
        if params.get("online_policy"):
            mem.policy = params["online_policy"]
        mem.auto_movable_ratio = params.get("auto_movable_ratio", mem.auto_movable_ratio)
        mem.auto_movable_numa_aware = bool(params.get("auto_movable_numa_aware", mem.auto_movable_numa_aware))
        mem.auto_online_blocks = initial["auto_online_blocks"]
        if list(mem.lowmem_reserve_ratio) != initial["lowmem_reserve_ratio"]:
            mem.lowmem_reserve_ratio = initial["lowmem_reserve_ratio"]
        return mem

    @staticmethod
    def _zone(key, zone, ranges, zones):
        """A zone as from_page_map takes it. Which of its pages were free is not known: lay_out says where."""
        boost = zone.get("boost", 0)
        names = [name for nid, name in zones if nid == key[0]]
        return SimpleNamespace(
            nid=key[0], name=key[1], start_pfn=zone["start_pfn"], spanned_pages=zone["spanned"],
            min=zone["min"] - boost, low=zone["low"] - boost, high=zone["high"] - boost,
            protection=dict(zip(names, zone["protection"], strict=True)),
            runs=lay_out(ranges, zone["managed"], zone["nr_free"], X86_64.max_page_order),
        )

    @staticmethod
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

    def guest(self, engine: str = "struct_page") -> Guest:
        """A running machine of the recording's start, on `engine`: its Memory, drivers and programs."""
        mem = self.machine(engine)
        with self._reading("initial"):
            guest = Guest(mem)
            for key, zone in self.data["initial"]["zones"].items():
                if zone["present"]:
                    guest.booted(int(key.split("/")[0]), key.split("/")[1], zone["pcp_count"], zone["pcp_high"])
            for device in self.data["machine"].get("virtio_mem", []):
                guest.add_virtio_mem(
                    device["device"], device["start"], device["max_size"], device["block_size"], device.get("nid", 0)
                )
            mem.read_lowmem_reserve_ratio()      # every complete capture ends with a read of it
            return guest

    def replay(self, engine: str = "struct_page") -> Iterator[Step]:
        """Do every step on a machine with `engine`, yielding a Step each. RecordingError where a step is not as the format has
        it."""
        if not self.data.get("block_size"):
            for index, recorded in enumerate(self.steps):
                yield Step(index, _name(recorded), None, [], [], {}, recorded, replayed=False, reason=self._no_blocks())
            return
        guest = self.guest(engine)
        seen: list[tuple[str, str]] = []
        heard: list[tuple[list[str], list[str]]] = []
        guest.mem.events.listen(lambda kind, text: seen.append((kind, text)))
        for index, recorded in enumerate(self.steps):
            with self._reading(f"step {index}"):
                step = self._replay(index, recorded, guest, seen, heard)
            yield step

    def _replay(self, index, recorded, guest, seen, heard):
        """Do one step. seen: where what the machine says is heard. heard: (uevents, log) of the steps so far."""
        mem = guest.mem
        del seen[:]
        before = _counters(guest)
        answers, reason = [], ""
        for op in recorded.get("ops", [recorded]):
            try:
                answers.append(_run(guest, op))
            except CannotReplay as e:
                reason = reason or str(e)
                answers.append(0)
            guest.retry()
        guest.settle()
        heard.append(tuple([text for kind, text in seen if kind == which] for which in ("uevent", "kmsg")))
        step = Step(
            index, _name(recorded), next(filter(None, answers), None if set(answers) == {None} else 0),
            *heard[index], predict(guest), recorded, replayed=not reason, reason=reason,
        )
        counters = {name: count - before[name] for name, count in _counters(guest).items()}
        self._compare(step, heard, answers if "ops" in recorded else [], counters, guest)
        if recorded["state"] is not None and not recorded["state"].get("partial"):
            mem.read_lowmem_reserve_ratio()
        return step

    def _compare(self, step, heard, found, counters, guest):
        recorded = step.recorded

        def check(what, predicted, real, noise=0):
            step.compared += 1
            if predicted != real if not noise else abs(predicted - real) > noise:
                step.differences.append((f"{what} (within {noise})" if noise else what, predicted, real))

        if recorded["errno"] is not None and step.replayed:
            check("errno", step.errno, recorded["errno"])
        for i, answer in enumerate(found):
            if step.replayed and recorded["ops"][i].get("errno") is not None:
                check(f"errno of op {i}", answer, recorded["ops"][i]["errno"])
        first = step.index if recorded.get("covers_from") is None else recorded["covers_from"]
        if recorded["uevents"] is not None:
            check("uevents", [text for i in range(first, step.index + 1) for text in heard[i][0]], recorded["uevents"])
        if recorded["kmsg"] is not None:
            real = [line for line in recorded["kmsg"] if line.startswith(LOG)]
            ours = [line for i in range(first, step.index + 1) for line in heard[i][1] if line.startswith(LOG)]
            check("kmsg", ours[: len(real)] if recorded.get("kmsg_cut") else ours, real)
        for name, count in (recorded.get("counters") or {}).items():
            if name in counters:
                check(name, counters[name], count)
        for op in recorded.get("ops", [recorded]):
            if op.get("plugged_size") is not None and step.replayed:
                check("plugged_size", guest.virtio_mem.devices[op["device"]].plugged_size, op["plugged_size"])
            if op.get("landed") and op["region"] in guest.regions:
                _compare_landed(check, op["landed"], guest.regions[op["region"]], guest.mem)
        if isinstance(recorded.get("pages"), list):      # a pin has a number of that name
            _compare_pages(check, recorded, guest)
        elif recorded.get("page_counts") and recorded.get("pages_range"):
            first_pfn, end_pfn = recorded["pages_range"]
            ours = int(np.count_nonzero(page_kinds(guest, first_pfn, end_pfn - first_pfn) == KINDS.index("OFFLINE")))
            check("pages OFFLINE", ours, sum(nr for flags, nr in recorded["page_counts"].items() if "OFFLINE" in flags.split("|")))
        if recorded["state"] is not None:
            _compare_states(check, step, guest)
        for op in recorded.get("ops", [recorded]):
            if op["op"] == "read" and isinstance(op.get("value"), dict):
                _compare_read(check, op, step.predicted, guest)


def _compare_states(check, step, guest):
    predicted, real = step.predicted, step.recorded["state"]
    tunes_itself = guest.mem.rules.movable_has_min      # 6.12: pcp_high moves, so do its pages
    for key in ("min_free_kbytes", "mem_total_kb", "lowmem_reserve_ratio", "auto_online_blocks", "nodes", "iomem"):
        if key in real:
            check(key, predicted[key], real[key])
    if "zones" in real:
        if not real.get("partial"):
            check("zones", sorted(predicted["zones"]), sorted(real["zones"]))
        for name, zone in real["zones"].items():
            ours = predicted["zones"].get(name)
            if ours is None:
                continue
            for key in _ZONE_FIELDS:
                if key in zone:
                    value = zone[key] - zone.get("boost", 0) if key in ("min", "low", "high") else zone[key]
                    check(f"{name} {key}", ours.get(key), value)
            if "pcp_high" in zone and not tunes_itself:
                check(f"{name} pcp_high", ours["pcp_high"], zone["pcp_high"])
            if "free" not in zone:
                continue
            movable = name.endswith("/Movable")
            with_lists = [z["free"] + z["pcp_count"] for z in (ours, zone)] if "pcp_count" in zone else None
            if movable and tunes_itself:      # its lists may hold nearly all, and pass it on at any time
                if with_lists:
                    check(f"{name} free + pcp_count", *with_lists, NOISE_MOVABLE)
            elif movable:
                if "nr_free" in zone:
                    check(f"{name} nr_free", ours["nr_free"], zone["nr_free"])
                check(f"{name} free", ours["free"], zone["free"], zone.get("stat_threshold", 0))      # read later
            elif guest.unknown:
                pass
            elif with_lists and abs(ours["free"] - zone["free"]) > NOISE >= abs(with_lists[0] - with_lists[1]):
                step.compared += 1
                step.remarks.append((name, *({key: z[key] for key in ("free", "pcp_count")} for z in (ours, zone))))
            else:
                check(f"{name} free", ours["free"], zone["free"], NOISE)
    if "blocks" in real:
        first, last = real.get("blocks_range", (0, float("inf")))
        ours = {nr: block for nr, block in predicted["blocks"].items() if first <= int(nr) <= last}
        check("blocks", sorted(ours, key=int), sorted(real["blocks"], key=int))
        for nr, block in real["blocks"].items():
            if nr in ours:
                keys = [key for key in ("state", "valid_zones", "node") if key in block]
                check(f"memory{nr}", {key: ours[nr][key] for key in keys}, {key: block[key] for key in keys})


def _compare_pages(check, recorded, guest):
    """The page map, block by block: which pages are there, free and given back to the host. In Movable and offline blocks each
    page; in kernel zones, where the guest allocates too, how many of them are there."""
    mem, per_block = guest.mem, guest.mem.pages_per_block
    first, end = recorded["pages_range"]
    real = np.repeat(
        [KINDS.index(next((kind for kind in KINDS if kind in flags.split("|")), "NONE")) for _, _, flags in recorded["pages"]],
        [nr for _, nr, _ in recorded["pages"]],
    )
    ours = page_kinds(guest, first, end - first)
    for block in range(-(-first // per_block), end // per_block):
        at = slice(block * per_block - first, (block + 1) * per_block - first)
        zone = mem.zone_of(block * per_block)
        exact = zone is None or zone.name == "Movable" and not mem.rules.movable_has_min
        skipped = () if exact else ("BUDDY", "NONE")
        counts = [
            {kind: int(n) for kind, n in zip(KINDS, np.bincount(kinds[at], minlength=len(KINDS)), strict=True)
             if n and kind not in skipped}
            for kinds in (ours, real)
        ]
        check(f"memory{block} pages", *counts)
        if exact and counts[0] == counts[1]:
            check(f"memory{block} pages elsewhere", int(np.count_nonzero(ours[at] != real[at])), 0)


def page_kinds(guest: Guest, start_pfn: int, nr_pages: int) -> NDArray[np.int64]:
    """(nr_pages,) int: which of KINDS each page is, as far as a Memory can tell."""
    there = max(0, min(nr_pages, guest.mem.max_pfn - start_pfn))
    flags = np.full(nr_pages, np.uint64(KPF_NOPAGE))
    flags[:there] = guest.mem.kpageflags(start_pfn, there) if there else 0
    kinds = np.full(nr_pages, KINDS.index("NONE"))
    for bit, kind in ((KPF_BUDDY, "BUDDY"), (KPF_RESERVED, "RESERVED"), (KPF_OFFLINE, "OFFLINE"), (KPF_NOPAGE, "NOPAGE")):
        kinds[flags & np.uint64(bit) != 0] = KINDS.index(kind)
    for device in guest.virtio_mem.devices.values():
        for block in device.plugged:      # what never was plugged waits, as PageOffline pages do
            at = slice(max(0, block * guest.mem.pages_per_block - start_pfn),
                       max(0, (block + 1) * guest.mem.pages_per_block - start_pfn))
            kinds[at][kinds[at] == KINDS.index("RESERVED")] = KINDS.index("OFFLINE")
    return kinds


def _compare_landed(check, landed, region, mem):
    """Where a program's memory lay at first."""
    ours = region.landed
    check("landed pages", ours["pages"], landed["pages"])
    all_exact = _compare_per_block(check, "landed in", ours["per_block"], landed["per_block"], mem)
    for key in ("lowest_pfn", "highest_pfn"):
        if all_exact and key in landed:
            check(f"landed {key}", ours.get(key), landed[key])


def _compare_per_block(check, what, ours, real, mem):
    """How many pages of a program lie in which memory block, {block: pages}: in Movable exactly, in kernel zones within the
    noise. Were all exact?"""
    all_exact = True
    for block in sorted({*ours, *real}, key=int):
        zone = mem.zone_of(int(block) * mem.pages_per_block)
        noise = NOISE if zone is None or zone.name != "Movable" else NOISE_MOVABLE if mem.rules.movable_has_min else 0
        check(f"{what} memory{block}", ours.get(block, 0), real.get(block, 0), noise)
        all_exact = all_exact and not noise
    return all_exact


def _compare_read(check, op, predicted, guest):
    """What somebody read meanwhile: where a region's pages lie now, and the nodes, their blocks and kernel threads."""
    mem, value = guest.mem, op["value"]
    region = re.fullmatch(r"user pages of region (\S+)", op.get("what", ""))
    if region:
        found = [ours for name, ours in guest.regions.items() if str(name) == region[1]]
        if found:
            _compare_per_block(check, f"region {region[1]} in", found[0].per_block(), value, mem)
        return
    ours = predicted["nodes"] | {
        "nodes": [f"node{nid}" for nid in mem.nodes],
        "threads": sorted(name for node in mem.nodes.values() for name in node.threads),
    } | {f"node{nid}_blocks": [nr for nr, block in predicted["blocks"].items() if block["node"] == nid] for nid in mem.nodes}
    for key, real in value.items():
        if key in ours:
            check(key, ours[key], real)


def predict(guest: Guest) -> dict[str, Any]:
    """The state of a machine in the schema of a recording."""
    mem = guest.mem
    zones = {}
    for zone in mem.zones.values():
        zones[f"{zone.nid}/{zone.name}"] = {
            "start_pfn": zone.start_pfn, "spanned": zone.spanned_pages, "present": zone.present_pages,
            "managed": zone.managed_pages, "free": mem.pcp.free_pages(zone.nr), "min": zone.min, "low": zone.low, "high": zone.high,
            "protection": list(zone.protection), "nr_free": mem.pcp.nr_free(zone.nr), "pcp_count": mem.pcp.count(zone.nr),
            "pcp_batch": zone.pcp_batch, "pcp_high": zone.pcp_high,
        }
        if zone.populated:
            zones[f"{zone.nid}/{zone.name}"]["stat_threshold"] = zone.stat_threshold
        if mem.rules.movable_has_min:      # 6.12
            zones[f"{zone.nid}/{zone.name}"] |= {"pcp_high_min": zone.pcp_high, "pcp_high_max": zone.pcp_high_max}
    return {
        "min_free_kbytes": mem.min_free_kbytes,
        "mem_total_kb": mem.totalram_pages * mem.geometry.page_size // 1024,
        "lowmem_reserve_ratio": list(mem.lowmem_reserve_ratio),
        "auto_online_blocks": mem.auto_online_blocks,
        "nodes": node_states(mem),
        "zones": zones,
        "blocks": {str(nr): {"state": b.state, "valid_zones": b.valid_zones, "node": b.node} for nr, b in mem.blocks.items()},
        "iomem": [f"{'  ' * depth}{r.start:#x}-{r.end - 1:#x} {r.name}" for depth, r in mem.resources.walk()],
    }


def _counters(guest):
    """The counters of /proc/vmstat that a Memory keeps."""
    stats = guest.mem.stats()
    return {
        "pgmigrate_success": stats["pages_migrated"], "balloon_migrate": stats["balloon_migrated"],
        "balloon_inflate": guest.inflated, "balloon_deflate": guest.deflated,
    }


# -- the ops

def _name(step):
    """The op of a step, or its ops."""
    return "+".join(op["op"] for op in step.get("ops", [step]))


def _run(guest, op):
    """Do one op: 0 or the name of the error."""
    try:
        return _OP[op["op"]](guest, op)
    except HotplugError as e:
        return errno.errorcode[e.errno]


def _add_memory(guest, op):
    if op.get("rejected"):
        return None        # the machine refused: the kernel never saw it
    if op.get("start") is None:
        raise CannotReplay("the address of the memory was not recorded")
    dimm, refused = (op["start"], op["size"]), list(guest.refused_dimms)
    try:
        _add_dimm(guest, *dimm, op["nid"])
    except HotplugError:
        guest.refused_dimms.append(dimm)
        raise
    finally:
        if guest.mem.rules.movable_has_min:      # 6.12 looks at the whole container, and at what it has refused before
            guest.mem.events.uevent("online@container/PNP0A06:04")
            for start, size in refused:
                with suppress(HotplugError):
                    _add_dimm(guest, start, size, op["nid"])
    return 0


def _add_dimm(guest, start, size, nid):
    mem, page = guest.mem, guest.mem.geometry.page_size
    if start % (mem.pages_per_block * page) or size % (mem.pages_per_block * page):
        mem.events.log(f"Block size [{mem.pages_per_block * page:#x}] unaligned hotplug range: start {start:#x}, size {size:#x}")
        raise HotplugError.of(errno.EINVAL, f"add_memory of {size:#x} bytes at {start:#x}")
    mem.add_memory(start // page, size // page, nid)


def _remove_memory(guest, op):
    dimm, page = (op["start"], op["size"]), guest.mem.geometry.page_size
    if dimm in guest.refused_dimms:
        guest.refused_dimms.remove(dimm)      # no driver is bound to it: it goes
    else:
        guest.mem.blocks.remove(op["start"] // page, op["size"] // page)
    return 0


def _block(guest, op):
    guest.look()
    if op["block"] not in guest.mem.blocks:
        raise HotplugError.of(errno.ENOENT, f"memory{op['block']}")
    return guest.mem.blocks[op["block"]]


def _write_state(guest, op):
    _block(guest, op).write_state(op["word"])
    return 0


def _write_online(guest, op):
    _block(guest, op).write_online(op["value"])
    return 0


def _auto_online_blocks(guest, op):
    if op["word"]:
        guest.mem.auto_online_blocks = op["word"]
    return 0


def _write_file(guest, op):
    """Writing to a file below /sys/devices/system/memory."""
    directory, _, name = op["path"].rpartition("/")
    if directory:
        found = re.fullmatch(r"memory(\d+)", directory)
        if not found or int(found[1]) not in guest.mem.blocks:
            return "ENOENT"
        block = {"block": int(found[1])}
        if name == "state":
            return _write_state(guest, block | {"word": op["text"]})
        if name == "online":
            return _write_online(guest, block | {"value": op["text"]})
        if name == "uevent" and op["text"]:
            action = op["text"].removesuffix("\n")
            if action not in ("add", "remove", "change", "move", "online", "offline", "bind", "unbind"):
                return "EINVAL"
            guest.mem.events.uevent(f"{action}@{directory}")
            return 0
    elif name == "auto_online_blocks":
        return _auto_online_blocks(guest, {"word": op["text"]})
    if name in _READ_ONLY:
        return "EACCES"
    if name == "probe":
        return "ENOENT"
    if name in ("soft_offline_page", "hard_offline_page"):
        return _offline_page(guest, op)
    if name == "uevent" and not op["text"]:
        return 0       # sysfs_kf_write asks nobody about an empty write
    raise CannotReplay(f"there is no model of the file {op['path']}")


def _number(text):
    """The int that the kernel makes of text, decimal, 0x... or 0... (kstrtol, base 0); None for what is none."""
    found = re.fullmatch(r"([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)", text)
    if not found:
        return None
    octal = found[2].isdecimal() and found[2].startswith("0")
    return (-1 if found[1] == "-" else 1) * int(found[2], 8 if octal else 0)


def _offline_page(guest, op):
    """soft_offline_page_store, hard_offline_page_store (6.12; the 6.1 of the recordings has no CONFIG_MEMORY_FAILURE)."""
    mem = guest.mem
    if not mem.rules.movable_has_min:
        return "ENOENT"
    if not op["text"]:
        return 0
    address = _number(op["text"].partition("\0")[0].removesuffix("\n"))
    if address is None or not 0 <= address < 1 << 64:
        return "EINVAL"
    pfn = address >> mem.geometry.page_shift
    block = pfn // mem.pages_per_block
    if block not in mem.blocks:
        return "ENXIO"
    free = mem.blocks[block].state == "offline" or "PG_buddy" in mem.page_flags(pfn)
    if op["path"] == "soft_offline_page" and free:
        return "EIO"
    if op["path"] == "hard_offline_page" and not free and not len(movable_pages(mem, pfn, 1)):
        return "EBUSY"      # the kernel's own: MF_IGNORED
    raise CannotReplay(f"there is no model of the file {op['path']} for such a page")


def _sysctl(guest, op):
    mem, name = guest.mem, op["name"].removeprefix("vm.")
    least, most = _SYSCTLS.get(name, (None, None))
    if least is None:
        raise CannotReplay(f"there is no model of the sysctl {op['name']}")
    numbers = [_number(part) for part in op["value"].split()]
    if not numbers or None in numbers or not least <= min(numbers) <= max(numbers) <= most:      # proc_dointvec_minmax
        return "EINVAL"
    if name == "lowmem_reserve_ratio":
        # what is below 1 becomes 0, and is off (lowmem_reserve_ratio_sysctl_handler)
        mem.lowmem_reserve_ratio = [max(0, number) for number in numbers[: mem.zones.nr_types]]
    else:
        setattr(mem, name, numbers[0])
    return 0


def _balloon(guest, op):
    nr = op["inflate_pages"]
    done = guest.inflate(nr) if nr >= 0 else guest.deflate(-nr)
    if done != abs(nr):
        raise CannotReplay(f"{done} of {abs(nr)} pages could be had")
    return 0


def _virtio_mem(guest, op):
    if op["device"] not in guest.virtio_mem.devices:
        raise CannotReplay(f"there is no device {op['device']}")
    try:
        guest.request(op["device"], op["requested_size"])
    except ValueError as e:
        raise CannotReplay(str(e)) from None
    return 0


def _alloc(guest, op):
    page = guest.mem.geometry.page_size
    try:
        guest.alloc(op["region"], -(-op["bytes"] // page))
    except (MemoryError, ValueError) as e:
        raise CannotReplay(str(e)) from None
    return 0


def _free(guest, op):
    if op["region"] not in guest.regions:
        raise CannotReplay(f"region {op['region']} was not allocated")
    guest.free(op["region"])
    return 0


def _pin(guest, op):
    if op["region"] not in guest.regions:
        raise CannotReplay(f"region {op['region']} was not allocated")
    pages = guest.regions[op["region"]].pages
    pages.pinned = min(op.get("pages") or len(pages), len(pages))
    return 0


def _unpin(guest, op):
    if op["region"] not in guest.regions and op["region"] not in guest.pinned:
        raise CannotReplay(f"region {op['region']} was not allocated")
    guest.unpin(op["region"])
    return 0


def _nothing(guest, op):
    return 0


def _load(guest, op):
    if op.get("bytes") is None:
        guest.unknown = True
        raise CannotReplay(
            "the load has no bytes: what slabs and page tables took of the kernel zones was not recorded, and how many "
            "pages are free there is not compared from here on"
        )
    try:
        guest.page_cache(-(-op["bytes"] // guest.mem.geometry.page_size))
    except MemoryError as e:
        raise CannotReplay(str(e)) from None
    return 0


def _drop_caches(guest, op):
    guest.drop_caches()
    return 0


def _other(guest, op):
    raise CannotReplay(op["text"])


_OP = {
    "add_memory": _add_memory, "remove_memory": _remove_memory, "write_state": _write_state, "write_online": _write_online,
    "auto_online_blocks": _auto_online_blocks, "write_file": _write_file, "sysctl": _sysctl, "balloon": _balloon,
    "virtio_mem": _virtio_mem, "alloc": _alloc, "mlock": _nothing, "free": _free, "pin": _pin, "unpin": _unpin, "load": _load,
    "drop_caches": _drop_caches, "idle": _nothing, "read": _nothing, "other": _other,
}
_OPS: dict[str, dict[str, Any]] = {
    "add_memory": {"start": (int, type(None)), "size": int, "nid": int}, "remove_memory": {"start": int, "size": int},
    "write_state": {"block": int, "word": str}, "write_online": {"block": int, "value": str}, "auto_online_blocks": {"word": str},
    "write_file": {"path": str, "text": str}, "sysctl": {"name": str, "value": str}, "balloon": {"inflate_pages": int},
    "virtio_mem": {"device": str, "requested_size": int}, "alloc": {"region": (int, str), "bytes": int},
    "mlock": {"region": (int, str)}, "free": {"region": (int, str)}, "pin": {"region": (int, str)}, "unpin": {"region": (int, str)},
    "load": {}, "drop_caches": {}, "idle": {}, "read": {}, "other": {"text": str},
}


# -- for the command line

def _verdict(step):
    """What the command line says of a step."""
    text = "; ".join(f"{what}: predicted {ours}, recorded {real}" for what, ours, real in step.differences) or "ok"
    for name, ours, real in step.remarks:
        text += (f"; {name}: {ours['free']} pages free and {ours['pcp_count']} on per-CPU lists predicted, "
                 f"{real['free']} and {real['pcp_count']} recorded")
    return text + ("" if step.replayed else f" (not replayed: {step.reason})")


def replay_files(
    paths: Iterable[str | PathLike[str]], engine: str = "struct_page", as_json: bool = False
) -> Iterator[tuple[str, int]]:
    """What `fastonline replay FILE...` prints: yields (line, differences) a step, and a last line of totals.

    RecordingError (exit status 2) for a file that is no recording, OSError for one that cannot be read."""
    recordings = [Recording.load(path) for path in paths]
    total, values, remarks, unreplayed, steps = 0, 0, 0, 0, 0
    for recording in recordings:
        for step in recording.replay(engine):
            total += len(step.differences)
            values += step.compared
            remarks += len(step.remarks)
            unreplayed += not step.replayed
            steps += 1
            if as_json:
                line = json.dumps({
                    "recording": recording.name, "step": step.index, "op": step.op, "errno": step.errno,
                    "uevents": step.uevents, "kmsg": step.kmsg, "replayed": step.replayed, "reason": step.reason,
                    "compared": step.compared, "differences": step.differences, "remarks": step.remarks,
                    "predicted": step.predicted,
                })
            else:
                line = f"{recording.name} step {step.index} {step.op}: {_verdict(step)}"
            yield line, len(step.differences)
    if not as_json:
        yield (f"{len(recordings)} recordings, {steps} steps, {values} values compared, {remarks} remarks, "
               f"{total} differences, {unreplayed} steps not replayed"), 0


