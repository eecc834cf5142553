"""Hostile bytes and hostile arguments: whatever comes in, nothing but the documented errors comes out.

Valid files are mutated by a seeded mutator (bytes, numbers, cuts, JSON values, nesting, checksums made right again), and calls
are made with arguments of every kind. Each test has a number of inputs; FASTONLINE_FUZZ_SECONDS=600 goes on for so long;
FASTONLINE_FUZZ_SEED replays a run. The seed and the count of inputs are printed.
"""

import contextlib
import json
import os
import random
import time

import numpy as np
import pytest
from conftest import SMALL_64, snapshot

import fastonline as fo
from fastonline.drivers.table import read_targets

SECONDS = float(os.environ.get("FASTONLINE_FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("FASTONLINE_FUZZ_SEED", "1"))
REFUSALS = (ValueError, TypeError, OverflowError, OSError, MemoryError)
NUMBERS = (-1, 0, 1, 2, 63, 64, 255, 256, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 200)
VALUES = (*NUMBERS, None, True, 0.5, float("inf"), float("nan"), "", "7", "\0", "Normal", b"\xff", [], {}, (), [1, [2]], object)


def inputs(capsys, name, least):
    """A generator of random.Random, one an input, until there were so many and the time is up; then their number is printed."""
    end, nr = time.monotonic() + SECONDS, 0
    while nr < least or time.monotonic() < end:
        yield random.Random(f"{SEED}-{name}-{nr}")
        nr += 1
    with capsys.disabled():
        print(f"\n{name}: {nr} inputs from seed {SEED}")


def mutated(rng, data):
    """Bytes, changed in one to four places, or cut, or with a part of them doubled."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            del data[at : at + rng.randint(1, 16)]
        elif kind == 2:
            data[at:at] = data[at : at + rng.randint(1, 64)]
        elif kind == 3:
            data[at : at + 1] = rng.randbytes(rng.randint(1, 8))
        else:
            data[at : at + rng.randint(0, 4)] = str(rng.choice(NUMBERS)).encode()
    return bytes(data)


def mutated_json(rng, value):
    """The same tree with one value in it replaced, dropped, or nested deep."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: mutated_json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.random() < 0.1:
            return value[:at] + value[at + rng.randint(0, 1) :] + value[at : at + 1]
        return value[:at] + [mutated_json(rng, value[at])] + value[at + 1 :]
    if rng.random() < 0.05:
        deep = value
        for _ in range(200):
            deep = [deep]
        return deep
    if isinstance(value, int) and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 64, -4096))
    return rng.choice([v for v in VALUES if isinstance(v, (int, str, float, list, dict, type(None)))])


@pytest.fixture(scope="module")
def recording(request):
    return (request.path.parent / "data" / "recordings" / "S1.json").read_bytes()


def test_a_recording(in_memory, capsys, recording):
    tree, path = json.loads(recording), in_memory / "recording.json"
    for rng in inputs(capsys, "Recording.load", 2000):
        path.write_bytes(json.dumps(mutated_json(rng, tree)).encode() if rng.random() < 0.7 else mutated(rng, recording))
        try:
            fo.Recording.load(path).machine().validate()
        except REFUSALS as e:
            assert "recording.json" in str(e), repr(e)


def test_a_capture(in_memory, capsys, request):
    source, where = request.path.parent / "data" / "linux-6.18-24g", in_memory / "capture"
    files = {file.name: file.read_bytes() for file in source.iterdir()}
    where.mkdir()
    for rng in inputs(capsys, "Capture.load", 400):
        hurt = rng.choice(sorted(files))
        for name, data in files.items():
            (where / name).write_bytes(mutated(rng, data) if name == hurt else data)
        try:
            loaded = fo.Capture.load(where)
        except REFUSALS as e:
            assert "capture" in str(e), repr(e)
            continue
        try:
            loaded.machine().validate()
        except ValueError as e:
            assert str(e) and "\n" not in str(e)


def test_sizes_and_series(in_memory, capsys):
    path = in_memory / "series.csv"
    for rng in inputs(capsys, "sizes and series", 16000):
        for text in (mutated(rng, b"512M").decode("latin-1"), rng.choice(VALUES)):
            with contextlib.suppress(REFUSALS):
                assert fo.parse_size(text) >= 0
        path.write_bytes(mutated(rng, b"0,1G\n10,512M\n20.5,2G\n"))
        try:
            assert read_targets(path)
        except REFUSALS as e:
            assert "series.csv" in str(e), repr(e)


CALLS = (
    "add_memory",
    "remove_memory",
    "prepare_online_pages",
    "mark_pages_onlined",
    "online_pages",
    "offline_pages",
    "set_page_reserved",
    "set_page_offline",
    "clear_page_offline",
    "alloc_contig_range",
    "page_states",
    "kpageflags",
    "alloc_pages",
    "alloc_pages_bulk",
    "free_pages",
    "free_pfns",
    "mark_pfns_onlined",
    "set_pfns_reserved",
    "set_pfns_offline",
    "clear_pfns_offline",
    "free_reserved_pfns",
    "generic_online_page",
    "page_flags",
    "zone_of",
)


def argument(rng):
    kind = rng.random()
    if kind < 0.5:
        return rng.choice((rng.randrange(4096), rng.randrange(16) * 256, 256, 1))
    if kind < 0.7:
        return np.array([rng.randrange(4096) for _ in range(rng.randrange(5))]).astype(rng.choice("bHiIqQf"))
    return rng.choice(VALUES)


def test_calls(capsys, engine):
    for nr, rng in enumerate(inputs(capsys, f"calls, {engine}", 10000)):
        if nr % 200 == 0:
            mem = fo.Memory(SMALL_64, boot="2M", engine=engine)
            before = snapshot(mem)
        call, args = rng.choice(CALLS), [argument(rng) for _ in range(rng.choice((1, 2, 2, 2, 3)))]
        try:
            getattr(mem, call)(*args)
            before = snapshot(mem)
        except (*REFUSALS, KeyError, IndexError):
            assert snapshot(mem) == before, (call, args)
        mem.validate()
