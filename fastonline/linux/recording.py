"""Recordings of real kernels (memory-hotplug-recording/1) and their replay against a Memory.

A recording is the state of a machine, then steps: what was done, and what the kernel showed afterwards. `Recording.machine`
makes the machine of the start, `Recording.replay` does every step to it and compares. What is predicted comes from the machine
alone; a recorded state is only looked at to compare.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from types import SimpleNamespace
from typing import Any

from fastonline.files import read_text
from fastonline.geometry import X86_64
from fastonline.hotplug.layout import lay_out
from fastonline.hotplug.memory import THP_MIN_BYTES, Memory
from fastonline.hotplug.sysctl import read_lowmem_reserve_ratio
from fastonline.linux.compare import Step, compare
from fastonline.linux.guest import Guest
from fastonline.linux.ops import OPS, CannotReplay, run
from fastonline.linux.prediction import predict, vmstat
from fastonline.rules import LINUX_6_1, LINUX_6_12

FORMAT = "memory-hotplug-recording/1"

_STEP: dict[str, Any] = {"errno": (int, str), "uevents": list, "kmsg": list, "state": dict}


class RecordingError(ValueError):
    """A file that is no recording: one line that names the file, and the step where it is a step's fault."""


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
        try:
            text = read_text(path)
        except ValueError as e:
            raise RecordingError(str(e)) from None
        try:
            data = json.loads(text)
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
                if not isinstance(op, dict) or not isinstance(op.get("op"), str) or op["op"] not in OPS:
                    raise RecordingError(f"{where}: unknown op {op.get('op') if isinstance(op, dict) else op!r}")
                for key, kind in OPS[op["op"]].items():
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
        mem.possible_nodes = data["machine"].get("nodes", 1)
        if initial["mem_total_kb"] << 10 >= THP_MIN_BYTES:
            mem.zones.set_transparent_hugepage(params.get("transparent_hugepage", "never"))
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
            read_lowmem_reserve_ratio(mem)      # every complete capture ends with a read of it
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
        del seen[:], guest.allocated[:]
        before = vmstat(guest)
        answers, reason = [], ""
        for op in recorded.get("ops", [recorded]):
            try:
                answers.append(run(guest, op))
            except CannotReplay as e:
                reason = reason or str(e)
                answers.append(0)
            guest.retry()
        guest.settle(any(recorded[key] is not None for key in ("state", "uevents", "kmsg")))
        heard.append(tuple([text for kind, text in seen if kind == which] for which in ("uevent", "kmsg")))
        step = Step(
            index, _name(recorded), next(filter(None, answers), None if set(answers) == {None} else 0),
            *heard[index], predict(guest), recorded, replayed=not reason, reason=reason,
        )
        counters = {name: count - before[name] for name, count in vmstat(guest).items()}
        compare(step, heard, answers if "ops" in recorded else [], counters, guest)
        if recorded["state"] is not None and not recorded["state"].get("partial"):
            read_lowmem_reserve_ratio(mem)
        return step


def _name(step):
    """The op of a step, or its ops."""
    return "+".join(op["op"] for op in step.get("ops", [step]))


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
