"""Recordings of real kernels (memory-hotplug-recording/1) and their replay against a Memory.

A recording is the state of a machine, then steps: what was done, and what the kernel showed afterwards. `Recording.machine`
makes the machine of the start, `Recording.replay` does every step to it and compares. What is predicted comes from the machine
alone; a recorded state is only looked at to compare. Two things that no recording determines are taken from it and named in a
remark: whether the kernel's own pages hold a block of a kernel zone (ops.py), and a watermark boost that is in force.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any

from fastonline.files import read_text
from fastonline.hotplug.memory import Memory
from fastonline.hotplug.sysctl import read_lowmem_reserve_ratio
from fastonline.linux.compare import Step, compare, compare_reread
from fastonline.linux.guest import Guest
from fastonline.linux.ops import OPS, CannotReplay, run
from fastonline.linux.prediction import predict, vmstat
from fastonline.linux.start import start_machine

FORMAT = "memory-hotplug-recording/1"

_STEP: dict[str, Any] = {"errno": (int, str), "uevents": list, "kmsg": list, "state": dict}


class RecordingError(ValueError):
    """A file is not a valid recording. The message is one line that names the file, and the line or the step."""


class Recording:
    """The recording of one run of a real kernel. data: the contents of its JSON file. path: of that file, for messages."""

    def __init__(self, data: dict[str, Any], path: object = "recording") -> None:
        self.path = str(path)
        self.data = data
        self.name = data["name"]
        self.kernel = data["kernel"]
        self.steps = data["steps"]

    def __repr__(self) -> str:
        return f"<Recording {self.name} kernel={self.kernel} steps={len(self.steps)}>"

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Recording:
        """Read the recording in the file `path`. RecordingError, one line naming the file and the line or the step, for what is
        none; OSError."""
        try:
            text = read_text(path)
        except ValueError as e:
            raise RecordingError(str(e)) from None
        try:
            data = json.loads(text)
        except json.JSONDecodeError as e:
            raise RecordingError(f"{path}:{e.lineno}: not a recording, or truncated: {e.msg}") from None
        except (ValueError, RecursionError) as e:      # a number, or brackets, without end
            raise RecordingError(f"{path}:1: not a recording: {e}") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise RecordingError(f"{path}:1: not a recording of format {FORMAT}")
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
                    raise RecordingError(f"{where}: {key!r} must be a list of str")
            first = step.get("covers_from")
            if first is not None and not (isinstance(first, int) and 0 <= first <= index):
                raise RecordingError(f"{where}: 'covers_from' must name an earlier step, not {first!r}")
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
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            MemoryError,
            OSError,
            RecursionError,
            TypeError,
            ValueError,
        ) as e:
            text = " ".join(str(e).split())
            raise RecordingError(f"{self.path}: {where}: {type(e).__name__}: {text[:200]}") from None

    def machine(self, engine: str = "struct_page") -> Memory:
        """The Memory of the recording's start. engine: struct_page keeps the kernel's free lists: pages are found where the
        kernel finds them. bitmap has none; the order is worked out, and after long use other parts of a block may be the free
        ones. RecordingError for a start that cannot be."""
        with self._reading("initial"):
            if not self.data.get("block_size"):
                raise RecordingError(self._no_blocks())
            return start_machine(self.data, engine)

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
        """Do one step. seen: the list that the machine's events go to. heard: (uevents, log) of the steps so far."""
        mem = guest.mem
        del seen[:]
        guest.begin_step()
        before = vmstat(guest)
        answers, reason = [], ""
        for op in recorded.get("ops", [recorded]):
            try:
                answers.append(run(guest, op))
            except CannotReplay as e:
                reason = reason or str(e)
                answers.append(0)
            guest.retry()
        guest.finish_step(any(recorded[key] is not None for key in ("state", "uevents", "kmsg")))
        heard.append(tuple([text for kind, text in seen if kind == which] for which in ("uevent", "kmsg")))
        step = Step(
            index, _name(recorded), next(filter(None, answers), None if set(answers) == {None} else 0),
            *heard[index], predict(guest), recorded, replayed=not reason, reason=reason,
        )
        counters = {name: count - before[name] for name, count in vmstat(guest).items()}
        compare(step, heard, answers if "ops" in recorded else [], counters, guest)
        if recorded["state"] is not None:
            if not recorded["state"].get("partial"):
                read_lowmem_reserve_ratio(mem)
                compare_reread(step, predict(guest), guest)
            guest.take_boost(recorded["state"].get("zones", {}))
        return step


def _name(step):
    """Return the ops of a step in words."""
    return "+".join(op["op"] for op in step.get("ops", [step]))
