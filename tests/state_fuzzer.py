"""Mutates the state of saved machines, seals it with a right checksum and loads it: what test_fuzz_state.py runs in processes.

    python tests/state_fuzzer.py ENGINE FIRST END PROGRESS_FILE

Each input is one number, and the same number is the same input. What it finds is printed, a line a finding; the number that is
being tried stands in the progress file, so that the parent knows it when this process dies.
"""

import contextlib
import copy
import mmap
import os
import pickle
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from dataclasses import asdict

import numpy as np
from conftest import SMALL_64, SMALL_PAE

import fastonline as fo
from fastonline.hotplug import savefile
from fastonline.hotplug.sysctl import read_lowmem_reserve_ratio

S = 256
NUMBERS = (
    -(1 << 63), -(1 << 31), -4096, -1, 0, 1, 2, 3, 5, 6, 7, 13, 16, 31, 32, 63, 64, 255, 256, 257, 1023, 4096, 0x7FFF, 0xFFFF,
    (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 52, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 200,
)
OTHERS = (None, True, False, 0.5, -1.5, float("nan"), float("inf"), "", "7", "Normal", "Movable", "x" * 100, "\0", "\n", [], {},
          [0], [[]], {"array": 0}, [1, 2, 3])
DTYPES = (np.uint8, np.uint16, np.uint32, np.uint64, np.int16, np.int64)
REFUSALS = (fo.HotplugError, ValueError, TypeError, OverflowError, MemoryError, KeyError, IndexError)
MOST_SECONDS = 5.0      # of a processor
MOST_MEBIBYTES = 256
HUNG = 15               # seconds of a processor, until the next multiple of 256: the process ends in SIGPROF


# -- machines that states are taken from

def small(engine):
    return fo.Memory(SMALL_64, boot="1M", engine=engine)


def busy(engine):
    """Two nodes, all states of pages, blocks of several sizes in use."""
    mem = fo.Memory(SMALL_64, boot="2M", engine=engine, rules=fo.LINUX_6_1)
    mem.add_memory(1024, 2 * S, 1)
    mem.prepare_online_pages(1024, S, fo.MMOP_ONLINE_MOVABLE)
    mem.mark_pages_onlined(1024, 100)
    mem.add_memory(2048, S)
    mem.online_pages(2048, S)
    mem.set_page_offline(mem.alloc_pages(0, "DMA32"))
    for order in (0, 1, 3, 5):
        mem.alloc_pages(order)
    mem.min_free_kbytes = 300
    mem.auto_online_blocks = "online"
    return mem


def old(engine):
    """2.6.25, 32 bits: HighMem, spans that stay."""
    mem = fo.Memory(SMALL_PAE, boot="1M", engine=engine, rules=fo.LINUX_2_6_25)
    mem.add_memory(1024, 2 * S)
    mem.prepare_online_pages(1024, S)
    mem.mark_pages_onlined(1024, 33)
    mem.add_memory(2048, S)
    mem.online_pages(2048, S)
    mem.offline_pages(2048, S)
    return mem


def with_memmaps(engine):
    """The memmaps of what was added lie on it, or in a kernel zone."""
    mem = fo.Memory(SMALL_64, boot="2M", engine=engine, memmap="on_memory")
    mem.policy = "auto-movable"
    mem.add_memory(1024, S)
    mem.online_pages(1024, S)
    mem.add_memory(2048, 2 * S)
    mem.add_memory(3072, S, group=("virtio0", S))
    return mem


MACHINES = (small, busy, old, with_memmaps)


# -- mutations

def leaves(value, path=()):
    """Paths to everything in a tree."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from leaves(item, (*path, at))
    yield path


def hostile(rng, value):
    """Something in the place of a value."""
    kind = rng.random()
    if isinstance(value, np.ndarray):
        return hostile_array(rng, value)
    if isinstance(value, list):
        return hostile_list(rng, value)
    if isinstance(value, dict):
        if value and kind < 0.5:
            gone = rng.choice(list(value))
            return {key: item for key, item in value.items() if key != gone}
        return rng.choice(OTHERS)
    if isinstance(value, int) and not isinstance(value, bool) and kind < 0.45:
        return value + rng.choice((-1, 1, 2, -2, 64, -64, S, -S, 4096, -4096, value, -2 * value))
    return rng.choice(NUMBERS) if kind < 0.85 else rng.choice(OTHERS)


def hostile_list(rng, value):
    kind = rng.randrange(6)
    at = rng.randrange(len(value) + 1)
    if kind == 0:
        return value[:at]
    if kind == 1:
        return value[:at] + value[at + 1 :]
    if kind == 2:
        return value[:at] + value[at : at + 1] * 2 + value[at + 1 :]
    if kind == 3:
        return value[:at] + [rng.choice(NUMBERS + OTHERS)] + value[at:]
    if kind == 4:
        return value[:at] + rng.sample(value[at:], len(value) - at)
    return value * rng.choice((2, 10, 1000)) if len(value) < 100 else value * 2


def hostile_array(rng, value):
    kind = rng.random()
    value = value.copy()
    if kind < 0.8 and value.size:
        flat = value.reshape(-1)
        for _ in range(rng.choice((1, 1, 1, 2, 4, 64))):
            at = rng.randrange(flat.size)
            bits = 8 * flat.itemsize
            how = rng.randrange(6)
            if how == 0:
                flat[at] = flat.dtype.type(np.uint64(rng.getrandbits(64) & ((1 << bits) - 1)).astype(flat.dtype))
            elif how == 1:
                flat[at] ^= flat.dtype.type(np.uint64(1 << rng.randrange(bits)).astype(flat.dtype))
            elif how == 2:
                flat[at] = flat[rng.randrange(flat.size)]
            elif how == 3:
                flat[at] = 0
            elif how == 4:
                flat[at] = np.uint64((1 << bits) - 1).astype(flat.dtype)
            else:
                flat[at] = np.uint64(rng.choice(NUMBERS) & ((1 << bits) - 1)).astype(flat.dtype)
        return value
    if kind < 0.85:
        return value.astype(rng.choice(DTYPES))
    if kind < 0.9:
        return value.reshape(-1)[: rng.randrange(value.size + 1)]
    if kind < 0.94:
        return np.concatenate([value.reshape(-1), value.reshape(-1)])
    if kind < 0.97 and value.size:
        return rng.sample(value.reshape(-1).tolist(), min(value.size, 64))
    return rng.choice(NUMBERS + OTHERS)


def descriptor(rng, value, page_bytes):
    """One field of a page descriptor or list head, changed where it hurts: flags, links, order, counts."""
    value = value.copy()
    width = 4 if page_bytes == 32 else 8
    row = value[rng.randrange(len(value))]
    at = rng.randrange(page_bytes // 4) * 4 if rng.random() < 0.2 else rng.randrange(page_bytes // width) * width
    size = min(width, page_bytes - at)
    number = rng.choice((*NUMBERS, rng.randrange(1 << 13), 8192 + rng.randrange(4096), rng.randrange(32), 18, 16, 17, 24))
    row[at : at + size] = np.frombuffer(struct.pack("<Q", number & ((1 << 64) - 1))[:size], np.uint8)
    return value


def mutated(rng, template):
    """The template's state with one to three things in it changed."""
    state = copy.copy(template.state)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        part = rng.choice(list(state))
        same = state[part] is template.state[part]
        path = rng.choice(template.paths[part] if same else list(leaves(state[part], (part,))))
        where = state
        for key in path[:-1]:       # copy on the way down: the template stays
            where[key] = copy.copy(where[key])
            where = where[key]
        value = where[path[-1]]
        if (
            isinstance(value, np.ndarray)
            and value.ndim == 2
            and value.shape[1] in (32, 56, 64)
            and rng.random() < 0.8
            and len(value)
        ):
            where[path[-1]] = descriptor(rng, value, value.shape[1])
        else:
            where[path[-1]] = hostile(rng, value)
    return state


# -- what is done with a machine that was loaded

LOOKS = (
    fo.Memory.buddyinfo, fo.Memory.zoneinfo, fo.Memory.pagetypeinfo, fo.Memory.lsmem, fo.Memory.stats,
    read_lowmem_reserve_ratio,
    lambda mem: [(block.state, block.node, block.valid_zones) for block in mem.blocks.values()],
    lambda mem: [mem.zones.has_memory(nid) for nid in mem.nodes],
    lambda mem: mem.resources.text(),
)


def exercise(rng, mem):
    """Look at the machine, which load has validated, and change it in many ways; what it refuses is fine."""
    pages = []
    end = min(mem.max_pfn, 1 << 20)

    def where():
        return rng.choice((0, 1024, 2048, 3072, rng.randrange(16) * S, rng.randrange(end)))

    def nr():
        return rng.choice((1, 33, S, 2 * S))

    def alloc():
        order = rng.randrange(7)
        pages.append((mem.alloc_pages(order, rng.choice((None, "DMA", "Normal", "Movable"))), order))

    def mark_some():
        start = where()
        mem.mark_pfns_onlined(range(start, start + 40))

    calls = (
        alloc,
        lambda: mem.free_pages(*pages.pop()) if pages else None,
        lambda: mem.free_pfns(mem.alloc_pages_bulk(rng.randrange(100))),
        lambda: mem.add_memory(where(), nr(), rng.randrange(3)),
        lambda: mem.remove_memory(where(), nr()),
        lambda: mem.prepare_online_pages(where(), nr()),
        lambda: mem.mark_pages_onlined(where(), nr()),
        lambda: mem.online_pages(where(), nr(), rng.choice((fo.MMOP_ONLINE, fo.MMOP_ONLINE_MOVABLE, fo.MMOP_ONLINE_KERNEL))),
        lambda: mem.offline_pages(where(), nr()),
        mark_some,
        lambda: mem.alloc_contig_range(where(), nr()),
        lambda: mem.set_page_offline(where(), nr()),
        lambda: mem.clear_page_offline(where(), nr()),
        lambda: mem.set_page_reserved(where(), nr()),
        lambda: mem.page_states(where(), nr()),
        lambda: mem.kpageflags(where(), nr()),
        lambda: mem.zone_of(where()),
        lambda: setattr(mem, "nr_cpus", rng.randrange(1, 9)),
        lambda: setattr(mem, "min_free_kbytes", rng.randrange(1 << 12)),
        lambda: setattr(mem, "watermark_scale_factor", rng.randrange(1, 1000)),
        lambda: setattr(mem, "lowmem_reserve_ratio", [rng.randrange(300) for _ in mem.lowmem_reserve_ratio]),
        lambda: setattr(mem, "policy", rng.choice(("auto-movable", "contig-zones"))),
        lambda: mem.blocks[rng.randrange(16)].online("online"),
        lambda: mem.blocks[rng.randrange(16)].offline(),
        lambda: mem.resources.find_resource(1 << 20, 1 << 20),
    )
    for look in rng.sample(LOOKS, 2):
        look(mem)
    for call in rng.choices(calls, k=12):
        with contextlib.suppress(REFUSALS):
            call()
    rng.choice(LOOKS)(mem)
    mem.validate()
    if rng.random() < 0.2:
        again = pickle.loads(pickle.dumps(mem)) if rng.random() < 0.2 else mem.copy()
        again.validate()


# -- inputs

def revived(value):
    """What loading makes of a part of a state. ValueError for what it refuses."""
    if not isinstance(value, (dict, list)):
        return value
    try:
        return savefile._revive(value, iter(()))
    except (KeyError, TypeError, ValueError, OverflowError, StopIteration) as e:
        raise ValueError(f"{e}") from None


class Template:
    """The state of a machine: as a tree that can be changed, and each part of it as loading makes it."""

    def __init__(self, make, engine):
        self.name = make.__name__
        path = tempfile.mktemp()
        make(engine).save(path)
        self.state = savefile.load(path)
        os.unlink(path)
        self.state["geometry"] = {"Geometry": jsonable(asdict(self.state["geometry"]))}
        self.state["rules"] = {"Rules": jsonable(asdict(self.state["rules"]))}
        self.parts = {part: revived(value) for part, value in self.state.items()}
        self.paths = {part: list(leaves(value, (part,))) for part, value in self.state.items()}
        self.saved = pickle.dumps(self.state)

    def load(self, state):
        """The machine that loading makes of a changed state: what fo.load does behind the reading of the file."""
        return fo.Memory._restore(
            {part: self.parts[part] if value is self.state[part] else revived(value) for part, value in state.items()}
        )


def jsonable(value):
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    return [jsonable(item) for item in value] if isinstance(value, (list, tuple)) else value


def attempt(nr, templates, path):
    """One input: None, or what was found, in a line. How far it got: 0 refused, 1 loaded. One in 32 goes through a file, where
    most of the time goes otherwise."""
    rng = random.Random(nr)
    template = rng.choice(templates)
    state = mutated(rng, template)
    through = path if nr % 32 == 0 else ""
    try:
        if through:
            savefile.save(path, state)
            mem = fo.load(path)
        else:
            mem = template.load(state)
    except (ValueError, MemoryError) as e:
        text = str(e)
        if "\n" in text or not isinstance(e, MemoryError) and through not in text:
            return 0, f"{template.name}: load says {text[:200]!r}"
        return 0, None
    exercise(rng, mem)
    return 1, None


def run(engine, first, end, progress):
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, resource.RLIM_INFINITY))
    templates = [Template(make, engine) for make in MACHINES]
    directory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with open(progress, "r+b") as file, tempfile.TemporaryDirectory(dir=directory) as where:
        shown = mmap.mmap(file.fileno(), 16)
        path = os.path.join(where, "machine")
        loaded, used, began = 0, resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        signal.setitimer(signal.ITIMER_PROF, HUNG)
        for nr in range(first, end):
            shown[:8] = struct.pack("<Q", nr)
            try:
                got, found = attempt(nr, templates, path)
                loaded += got
            except BaseException as e:
                at = traceback.extract_tb(e.__traceback__)[-1]
                found = f"{type(e).__name__}: {str(e)[:200]!r} at {os.path.basename(at.filename)}:{at.lineno}"
            if nr % 256 == 255:
                signal.setitimer(signal.ITIMER_PROF, HUNG)
            if nr % 256 == 255 or time.perf_counter() - began > MOST_SECONDS:     # getrusage takes a millisecond
                before, used, began = used, resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
                seconds = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
                mebibytes = (used.ru_maxrss - before.ru_maxrss) >> 10
                if found is None and (seconds > MOST_SECONDS or mebibytes > MOST_MEBIBYTES):
                    found = f"this one and those since the last multiple of 256 took {seconds:.1f} s and {mebibytes} MiB"
            shown[8:] = struct.pack("<Q", loaded)
            if found is not None:
                print(f"input {nr}: {found}", flush=True)
        for template in templates:
            if pickle.dumps(template.state) != template.saved:
                print(f"the state of {template.name} was changed by a machine that was made of it")
        shown[:8] = struct.pack("<Q", end)


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
