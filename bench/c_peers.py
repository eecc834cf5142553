"""Peers in C: sources that lie outside of this tree, compiled with peer_NAME.c, the few functions that peers.py calls."""

import ctypes
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent

PEERS = {
    "linux64": ("FASTONLINE_BASELINE", ["."], [], []),
    "llfree_c": ("FASTONLINE_LLFREE", ["include", "src", "std"], ["src/*.c"], ["-std=gnu2x", "-DSTD", "-DNO_LOG", "-pthread"]),
}
"""name: the environment variable with its directory; below that, where its headers are, what to compile; flags."""

POINTER = ctypes.c_void_p
U64 = ctypes.c_uint64
FUNCTIONS = {
    "setup": (ctypes.c_int, U64), "reset": (None,), "online_range": (U64, U64, U64), "online_pfns": (U64, POINTER, U64),
    "alloc": (U64, POINTER, U64), "free": (U64, POINTER, U64), "take_range": (U64, U64, U64), "free_pages": (U64,),
    "state_bytes": (U64,),
}
"""What peer_NAME.c defines, each with the prefix peer_: result and arguments. Counts of pages are what was done."""


class Missing(Exception):
    """Why a peer is not here."""


def build(name, directory):
    """The peer as a loaded library, at -O3 -march=native: it gets the best that the compiler has for this machine."""
    _, headers, sources, flags = PEERS[name]
    base = Path(directory).resolve()
    found = [str(path) for pattern in sources for path in sorted(base.glob(pattern))]
    if not base.is_dir() or (sources and not found):
        raise Missing(f"{directory}: no sources there")
    with tempfile.TemporaryDirectory() as out:
        library = Path(out) / f"{name}.so"
        command = [
            *shlex.split(os.environ.get("CC", "cc")), "-O3", "-march=native", "-w", "-shared", "-fPIC", *flags,
            *(f"-I{base / header}" for header in headers), str(HERE / f"peer_{name}.c"), *found, "-o", str(library),
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise Missing(f"no C compiler {command[0]!r}") from None
        except subprocess.CalledProcessError as e:
            first = next((line for line in e.stderr.splitlines() if "error" in line), e.stderr.strip())
            raise Missing(f"does not compile: {first}") from None
        return ctypes.CDLL(str(library))


class CPeer:
    """A peer as a contender; every page is waiting after reset()."""

    first = 0

    def __init__(self, name, nr_pages):
        variable = PEERS[name][0]
        if not os.environ.get(variable):
            raise Missing(f"{variable} does not say where its sources are")
        library = build(name, os.environ[variable])
        self.name = name
        self.nr_pages = nr_pages
        self.calls = {}
        for function, (result, *arguments) in FUNCTIONS.items():
            call = library[f"peer_{function}"]
            call.restype, call.argtypes = result, arguments
            self.calls[function] = call
        if self.calls["setup"](nr_pages):
            raise Missing(f"it has no room for {nr_pages} pages")
        self.room = np.zeros(nr_pages, np.uint32)
        self.reset = self.calls["reset"]
        self.online_range = self.calls["online_range"]
        self.take_range = self.calls["take_range"]
        self.free_pages = self.calls["free_pages"]
        self.state_bytes = self.calls["state_bytes"]
        self.reset()

    def online_pfns(self, pfns):
        return self.calls["online_pfns"](pfns.ctypes.data, pfns.size)

    def alloc(self, nr):
        return self.room[: self.calls["alloc"](self.room.ctypes.data, nr)]

    def free(self, pfns):
        return self.calls["free"](pfns.ctypes.data, pfns.size)

    def pfns(self, array):
        """The pfns as this contender likes them."""
        return array.astype(np.uint32)
