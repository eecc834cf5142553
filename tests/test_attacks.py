"""Every public method and attribute of every class that holds a machine, called with hostile values.

Each class is attacked in a process of its own. Expect exceptions, no signal, no hang, and a machine that is valid afterwards.
FASTONLINE_ATTACKS=100000 makes so many calls for each class; FASTONLINE_FUZZ_SEED replays a run.
"""

import inspect
import mmap
import os
import random

import numpy as np
import pytest
from conftest import SMALL_64
from in_process import in_process

import fastonline as fo
from fastonline.core.bitmap import Bitmap
from fastonline.core.bitmap_engine import BitmapEngine
from fastonline.core.sections import Sections
from fastonline.core.structpage import StructPageEngine

CALLS = int(os.environ.get("FASTONLINE_ATTACKS", "1000"))
SEED = int(os.environ.get("FASTONLINE_FUZZ_SEED", "1"))
S = 256


def unaligned(dtype, nr):
    array = np.zeros(nr * np.dtype(dtype).itemsize + 1, np.uint8)[1:].view(dtype)
    array[:] = np.arange(nr)
    return array


def read_only(array):
    array.flags.writeable = False
    return array


class Twice:
    """An int that is another one the second time."""

    def __init__(self):
        self.asked = 0

    def __index__(self):
        self.asked += 1
        return 0 if self.asked == 1 else 2**40

    __int__ = __index__


class Raises:
    def __index__(self):
        raise ZeroDivisionError

    __int__ = __len__ = __iter__ = __eq__ = __hash__ = __call__ = __index__


NUMBERS = (
    0,
    1,
    2,
    5,
    S,
    1024,
    1280,
    1536,
    4095,
    4096,
    -1,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**31),
    -(2**63),
    10**30,
)
OTHERS = (
    None,
    True,
    1.5,
    float("nan"),
    "x",
    "Normal",
    "1M",
    "PG_buddy",
    "online",
    b"",
    b"x",
    (),
    [],
    {},
    (0, "Normal"),
    (2**31, "Normal"),
    [5, 2**64 - 1],
    [[1]],
    [None],
    object,
    len,
    Ellipsis,
)
MADE = (
    Twice,
    Raises,
    lambda: unaligned(np.uint64, 4),
    lambda: unaligned(np.uint32, 4),
    lambda: read_only(np.arange(4)),
    lambda: np.arange(4.0),
    lambda: np.arange(2**63, 2**63 + 4, dtype=np.uint64),
    lambda: np.arange(4)[::-1],
    lambda: np.zeros((2, 2), np.int64),
    lambda: np.arange(1024, 1280),
    lambda: np.full(4, -1),
    lambda: np.array([1, "x"], object),
    lambda: np.arange(1100, 1110, dtype=">u4"),
    lambda: np.uint64(2**64 - 1),
    lambda: np.bool_(True),
    lambda: np.datetime64(5, "s"),
    lambda: range(2**40),
)


def value(rng):
    kind = rng.random()
    if kind < 0.6:
        return rng.choice(NUMBERS)
    return rng.choice(OTHERS) if kind < 0.85 else rng.choice(MADE)()


def machine(engine):
    mem = fo.Memory(SMALL_64, boot="1M", engine=engine)
    mem.add_memory(1024, 3 * S)
    mem.online_pages(1024, S)
    mem.prepare_online_pages(1280, S)
    mem.alloc_pages(3)
    return mem


ATTACKED = {
    "Memory": lambda mem: mem,
    "Zones": lambda mem: mem.zones,
    "Zone": lambda mem: mem.zones["Normal"],
    "Node": lambda mem: mem.nodes[0],
    "Sections": lambda mem: mem.sections,
    "Bitmap": lambda mem: mem.sections.online,
    "Flags": lambda mem: mem.flags,
    "Blocks": lambda mem: mem.blocks,
    "Block": lambda mem: mem.blocks[4],
    "Resources": lambda mem: mem.resources,
    "Resource": lambda mem: mem.resources.walk()[0][1],
    "NotifierChain": lambda mem: mem.notifiers,
    "Events": lambda mem: mem.events,
    "MovablePages": lambda mem: fo.MovablePages(mem),
    "own Bitmap": lambda mem: Bitmap(1000),
    "own Sections": lambda mem: Sections(8, 40),
    "BitmapEngine": lambda mem: BitmapEngine(1 << 13, 10, 3),
    "StructPageEngine": lambda mem: StructPageEngine(1 << 13, 10, 3),
    "unmade Memory": lambda mem: fo.Memory.__new__(fo.Memory),
}
DUNDERS = (
    "__getitem__",
    "__setitem__",
    "__contains__",
    "__len__",
    "__iter__",
    "__repr__",
    "__init__",
    "__setstate__",
    "__getstate__",
    "__reduce__",
    "__reduce_ex__",
    "__copy__",
    "__deepcopy__",
    "__call__",
    "__eq__",
    "__hash__",
    "__dir__",
    "__enter__",
    "__exit__",
)
# A listener or callback that is no function stays registered and is refused when it is called: that is not what is tested here.
LEFT_OUT = {"save": "writes a file", "_own": "what a constructor does",
            "register": "keeps what it is given", "listen": "keeps what it is given"}


def members(made):
    names = [name for name in dir(type(made)) if not name.startswith("__") and name not in LEFT_OUT]
    return names + [name for name in DUNDERS if hasattr(made, name)]


def attack(make, engine, seed, calls, note):
    """Make so many hostile calls. Returns how many members there are, and how many calls returned."""
    rng = random.Random(seed)
    mem, made, returned = machine(engine), None, 0
    names = members(make(mem))
    for nr in range(calls):
        if nr % 100 == 0:
            mem = machine(engine)
            made = make(mem)
        name = names[nr % len(names)]
        args = [value(rng) for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4)))]
        note(f"{name}{tuple(args)!r}" if not any(isinstance(arg, Raises) for arg in args) else name)
        try:
            member = getattr(made, name)
            if callable(member):
                answer = member(*args)
                if inspect.isgenerator(answer) or hasattr(answer, "__next__"):
                    list(zip(answer, range(1000), strict=False))
            elif args:
                setattr(made, name, args[0])
            returned += 1
        except Exception:
            pass
        if name in ("pcp", "_mem", "_zones"):
            mem, made = machine(engine), None
            made = make(mem)
        elif nr % 10 == 9:
            mem.validate()
    mem.validate()
    return len(names), returned


@pytest.mark.parametrize("name", ATTACKED)
def test_hostile_values(engine, name, capsys):
    last = mmap.mmap(-1, 4096)      # shared with the child: what it was at when it ended

    def note(text):
        last.seek(0)
        last.write(text.encode("utf-8", "replace")[:4000].ljust(4000))

    def work():
        found, returned = attack(ATTACKED[name], engine, f"{SEED}-{name}", CALLS, note)
        note(f"{name} on {engine}: {found} members, {CALLS} calls, {returned} returned")

    try:
        failed = in_process(work, 60 + CALLS // 50)
    except AssertionError as e:
        failed = str(e)
    text = last[:].decode("utf-8", "replace").rstrip("\0 ")
    assert failed == "", f"{failed} at {text}"
    if CALLS > 5000:
        with capsys.disabled():
            print("\n" + text)
