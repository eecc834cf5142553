"""The C API, called through its capsule with the types that fastonline.h gives; struct, header and memory.pxd are one list."""

import ctypes
import errno
import hashlib
import itertools
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL_64, snapshot
from in_process import in_process

import fastonline as fo
from fastonline import capi
from fastonline.core.pageflags import PAGE_IN_USE

S = 256                     # pages of a section
HEADER = (Path(fo.get_include()) / "fastonline.h").read_text()
CONTRACT = (Path(fo.__file__).parent / "hotplug" / "memory.pxd").read_text()
TYPES = {
    "int": ctypes.c_int, "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64, "PyObject *": ctypes.py_object,
    "fastonline_memory *": ctypes.c_void_p, "const uint64_t *": ctypes.POINTER(ctypes.c_uint64),
    "int64_t *": ctypes.POINTER(ctypes.c_int64),
}


def members():
    """[(name, type returned, [types taken])] of the header's struct, in its order."""
    struct = re.search(r"typedef struct fastonline_api \{(.*?)\n\} fastonline_api;", HEADER, re.S)[1]
    found = []
    for returned, name, args in re.findall(r"^    (\w+ \*?)\(\*(\w+)\)\((.*?)\);", struct, re.M):
        found.append((name, returned.strip(), [re.sub(r"\w+$", "", arg).strip() for arg in args.split(", ")]))
    assert len(found) == struct.count("(*")
    return found


def constants(text, prefix):
    return {name.removeprefix("FASTONLINE_"): int(value)
            for name, value in re.findall(rf"^ +({prefix}\w*) = (-?\d+)", text, re.M) if name != "FASTONLINE_ABI"}


class Api(ctypes.Structure):
    _fields_ = [("abi", ctypes.c_int)] + [
        (name, (ctypes.PYFUNCTYPE if name in ("memory", "own") else ctypes.CFUNCTYPE)(TYPES[returned], *map(TYPES.get, taken)))
        for name, returned, taken in members()
    ]


GET = ctypes.PYFUNCTYPE(ctypes.POINTER(Api), ctypes.py_object, ctypes.c_char_p)
API = GET(("PyCapsule_GetPointer", ctypes.pythonapi))(capi._C_API, b"fastonline.capi._C_API").contents
COUNT = constants(HEADER, "FASTONLINE_COUNT_")


def pfns(*numbers):
    return (ctypes.c_uint64 * len(numbers))(*numbers), len(numbers)


@pytest.fixture
def mem(make_machine):
    """1 MiB of boot memory, one section prepared at page 1024, the next one only added."""
    mem = make_machine()
    mem.add_memory(1024, 2 * S)
    mem.prepare_online_pages(1024, S)
    return mem


@pytest.fixture
def handle(mem):
    return API.memory(mem)


def test_struct_header_and_pxd_are_one_list():
    pxd = {}
    for returned, name, args in re.findall(r"^    cdef (\w+) (\w+)\(self(?:, )?(.*?)\) noexcept nogil$",
                                           CONTRACT, re.M):
        types = [re.sub(r"\w+$", "", arg).strip().replace("pfn_t", "uint64_t") for arg in args.split(", ")]
        pxd[name] = (returned, types)
    header = {name: (returned, taken[1:]) for name, returned, taken in members() if name not in ("memory", "own")}
    assert pxd == header and len(header) == 10


def layout():
    """What a compiled client relies on: the C methods of a Memory in their order, and the header without its comments."""
    machine = (Path(fo.__file__).parent / "hotplug" / "machine.pxd").read_text()
    methods = re.findall(r"^    cdef [^#\n]*\(self.*", machine + CONTRACT, re.M)
    enums = re.findall(r"^    [A-Z_]+ = -?\d+", CONTRACT, re.M)
    header = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.S)
    return re.sub(r"\s+", " ", " ".join(methods + enums) + header)


def test_a_new_layout_has_a_new_number():
    """When this fails, a client compiled before would call the wrong function: count FASTONLINE_ABI up in memory.pxd and
    fastonline.h, and put the new layout's digest here under the new number."""
    digests = {2: "23016099dbf11e99"}
    assert digests.get(capi.ABI) == hashlib.sha256(layout().encode()).hexdigest()[:16]


def test_constants_are_one_list():
    assert capi.ABI == API.abi == int(re.search(r"#define FASTONLINE_ABI (\d+)", HEADER)[1])
    assert int(re.search(r"FASTONLINE_ABI = (\d+)", CONTRACT)[1]) == capi.ABI
    assert int(re.search(r"cdef int compiled_for_fastonline_abi_(\d+)", CONTRACT)[1]) == capi.ABI
    assert len(COUNT) == 11 and constants(CONTRACT, "COUNT_") == COUNT
    assert constants(CONTRACT, "ALL_ZONES") == constants(HEADER, "FASTONLINE_ALL_ZONES") == {"ALL_ZONES": -1}
    pageflags = (Path(fo.__file__).parent / "core" / "pageflags.pxd").read_text()
    assert constants(HEADER, "FASTONLINE_PG_") == constants(pageflags, "PG_") and len(constants(pageflags, "PG_")) == 5


def test_memory_refuses_what_is_none():
    for call in (API.memory, API.own):
        with pytest.raises(TypeError, match="expected a fastonline.Memory, not 7"):
            call(7)


NUMBERS = {
    "int": (0, 1, -1, 7, 64, -22, 2**31 - 1, -(2**31)),
    "uint64_t": (0, 1, 1024, 2**16 - 1, 2**32, 2**63, 2**64 - 1),
    "const uint64_t *": ((), (0,), (2**64 - 1,), (2**63, 1), (1024, 1024)),
}


def test_wrong_numbers(engine):
    """Each function with every combination of numbers that are too large, negative or there twice. Expect an answer, and a
    machine that is whole."""
    def work():
        mem = fo.Memory(SMALL_64, boot="1M", engine=engine)
        mem.add_memory(1024, 2 * S)
        mem.prepare_online_pages(1024, S)
        handle = API.memory(mem)
        for name, _, taken in members():
            if name in ("memory", "own"):
                continue
            batch = "const uint64_t *" in taken
            kinds = ["const uint64_t *"] if batch else [kind for kind in taken if kind in NUMBERS]
            for args in itertools.product(*(NUMBERS[kind] for kind in kinds)):
                if batch:
                    getattr(API, name)(handle, *pfns(*args[0]))
                elif name == "alloc_bulk":
                    out = (ctypes.c_int64 * 512)()
                    getattr(API, name)(handle, *args[:2], args[2] if args[2] > 512 else args[2] // 2, out)
                else:
                    getattr(API, name)(handle, *args)
            mem.validate()

    assert in_process(work) == ""


def test_single_pages(mem, handle):
    normal = mem.zones["Normal"].nr
    assert API.page_state(handle, 1024) == 1 | 16 and API.page_state(handle, 1 << 60) == 0
    assert [API.online_page(handle, pfn) for pfn in (1024, 1024, 1024 + S, 1 << 60)] == [1, 0, -errno.EINVAL, -errno.EINVAL]
    zone = API.page_zone(handle, 1024)
    assert zone == mem.zone_of(1024).nr == normal
    assert API.page_zone(handle, 1024 + S) == API.page_zone(handle, 1 << 60) == -errno.EINVAL
    assert API.alloc_page(handle, zone, 0) == 1024 and API.page_state(handle, 1024) == PAGE_IN_USE
    assert API.alloc_page(handle, zone, 0) == -errno.ENOMEM
    assert API.alloc_page(handle, -1, 0) == API.alloc_page(handle, 1 << 20, 0) == -errno.EINVAL
    assert API.alloc_page(handle, zone, 99) == -errno.EINVAL
    assert [API.free_page(handle, 1024, order) for order in (1, -1, 99, 0, 0)] == [-errno.EINVAL] * 3 + [0, -errno.EINVAL]
    mem.validate()


def test_range_at_once_after_prepare(mem, handle):
    """Expect a range to go online though no Python call has marked a page before, in part online or not."""
    assert API.online_range(handle, 1024 + 3, 10, 0) == 10
    assert API.online_range(handle, 1024, S, -1) == S - 10
    assert API.online_range(handle, 1024, S, -1) == 0
    before = snapshot(mem)
    for start, nr, order in [(1024, 0, 0), (1024, S + 1, 0), (1024, S, 99), (1 << 60, 1, 0), (1024, 1 << 63, 0)]:
        assert API.online_range(handle, start, nr, order) == -errno.EINVAL
    assert snapshot(mem) == before
    mem.validate()


def test_range_of_a_copy(mem):
    twin = mem.copy()
    assert API.online_page(API.memory(twin), 1024) == 1 and API.online_range(API.memory(twin), 1024, S, -1) == S - 1


def test_batches(mem, handle):
    shuffled = np.random.default_rng(1).permutation(np.arange(1024, 1024 + S)).tolist()
    twin = mem.copy()
    assert API.online_batch(handle, *pfns(*shuffled)) == S == twin.mark_pfns_onlined(shuffled)
    assert snapshot(mem) == snapshot(twin)
    assert API.online_batch(handle, None, 0) == API.free_batch(handle, None, 0) == 0
    zone = API.page_zone(handle, 1024)
    out = (ctypes.c_int64 * S)()
    assert API.alloc_bulk(handle, zone, 1, 3, out) == 3
    assert list(out[:3]) == twin.alloc_pages_bulk(3, order=1, zone="Normal").tolist()
    assert API.alloc_bulk(handle, zone, 0, S - 6, out) == S - 6
    assert list(out[: S - 6]) == twin.alloc_pages_bulk(S - 6, zone="Normal").tolist()
    before = snapshot(mem)
    assert before == snapshot(twin)
    assert API.alloc_bulk(handle, zone, 0, 1, out) == -errno.ENOMEM
    assert API.alloc_bulk(handle, -1, 0, 1, out) == API.alloc_bulk(handle, zone, -1, 1, out) == -errno.EINVAL
    one = out[0]
    for wrong in [(one, one), (one, 1 << 60), (one, 1024 + S), (one, out[S - 6 - 1], 3 << 40)]:
        assert API.free_batch(handle, *pfns(*wrong)) == API.online_batch(handle, *pfns(*wrong)) == -errno.EINVAL
    assert snapshot(mem) == before
    assert API.free_batch(handle, *pfns(*out[: S - 6])) == S - 6
    twin.free_pfns(out[: S - 6])
    assert snapshot(mem) == snapshot(twin)
    mem.validate()


def test_counters_are_those_of_python(mem, handle):
    API.online_batch(handle, *pfns(*range(1024, 1024 + 100)))
    mem.alloc_pages(2, zone="Normal")
    stats = mem.stats()
    assert API.counter(handle, -1, COUNT["COUNT_PAGES_ONLINED"], 0) == stats["pages_onlined"] == 100
    assert API.counter(handle, -1, COUNT["COUNT_PAGES_OFFLINED"], 0) == 0
    for name in ("frees", "merges", "splits"):
        assert [API.counter(handle, -1, COUNT[f"COUNT_{name.upper()}"], k) for k in range(7)] == stats[name]
    assert [API.counter(handle, -1, COUNT["COUNT_ALLOCS"], k) for k in range(7)] == stats["allocations"]
    zone = mem.zones["Normal"]
    for name in ("free_pages", "managed_pages", "present_pages", "spanned_pages"):
        assert API.counter(handle, zone.nr, COUNT[f"COUNT_{name.upper()}"], 0) == getattr(zone, name)
    assert [API.counter(handle, zone.nr, COUNT["COUNT_NR_FREE"], k) for k in range(7)] == list(zone.nr_free)[:7]
    assert API.counter(handle, -1, COUNT["COUNT_MANAGED_PAGES"], 0) == mem.totalram_pages
    for zone_nr, which, order in [(-2, 2, 0), (999, 2, 0), (-1, 11, 0), (-1, -1, 0), (-1, 6, 99), (-1, 6, -1), (zone.nr, 0, 0)]:
        assert API.counter(handle, zone_nr, which, order) == -errno.EINVAL


def test_owner_keeps_other_threads_away(mem, handle):
    """Expect calls of other threads to wait, of this one to be refused, and all to go on when the owner is done."""
    held, seen = API.own(mem), []
    others = [threading.Thread(target=lambda: seen.append(mem.alloc_pages())),
              threading.Thread(target=lambda: seen.append(mem.mark_pages_onlined(1024, S)))]
    for other in others:
        other.start()
    assert API.online_range(handle, 1024, S, -1) == S
    others[0].join(0.1)
    assert not seen and all(other.is_alive() for other in others)
    with pytest.raises(fo.HotplugError, match="user of the C API"):
        mem.alloc_pages()
    with pytest.raises(fo.HotplugError, match="EBUSY"):
        API.own(mem)
    del held
    for other in others:
        other.join(10)
    assert len(seen) == 2 and 0 in seen
    mem.validate()


def test_owners_in_turn(mem, handle):
    """Expect no page lost or counted twice when threads online a section page by page, each owning the machine in turn."""
    counts = []

    def work():
        for pfn in range(1024, 1024 + S):
            held = API.own(mem)
            counts.append(API.online_page(handle, pfn))
            del held
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == S == mem.stats()["pages_onlined"] and len(counts) == 4 * S
    mem.validate()
