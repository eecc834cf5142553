"""Python code that once ended the process in a signal, hung it or corrupted a machine: each in a process of its own."""

import contextlib
import gc
import pickle
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL_64, snapshot
from in_process import in_process, raised_in_process

import fastonline as fo
from fastonline.core.bitmap import Bitmap
from fastonline.core.bitmap_engine import BitmapEngine
from fastonline.core.engine import Engine
from fastonline.core.lock import Held, MachineLock
from fastonline.core.pageflags import PAGE_IN_USE
from fastonline.core.sections import Sections
from fastonline.core.structpage import StructPageEngine
from fastonline.cost import phases
from fastonline.cost.counters import Counters
from fastonline.drivers.virtio_balloon import VirtioBalloon
from fastonline.hotplug.watermarks import zone_batchsize
from fastonline.hotplug.zones import Node, Zone, Zones

S = 256
REFUSED = {"TypeError", "ValueError", "OverflowError", "IndexError", "KeyError", "MemoryError", "HotplugError"}


def machine(**given):
    mem = fo.Memory(SMALL_64, boot="1M", **given)
    mem.add_memory(1024, 2 * S)
    mem.online_pages(1024, S)
    return mem


class Index:
    """An int that is another one each time it is asked."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def __index__(self):
        return self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0]

    __int__ = __index__

    def __eq__(self, other):
        return True

    __hash__ = None


# What must be refused, and what may also give an answer.
MUST_RAISE, MAY_ANSWER = REFUSED, REFUSED | {""}

NUMBERS = {
    "has_memory of a negative node": (lambda: machine().zones.has_memory(-(2**31)), MAY_ANSWER),
    "has_memory of a far node": (lambda: machine().zones.has_memory(2**31 - 1), MAY_ANSWER),
    "has_memory of a changing node": (lambda: machine().zones.has_memory(Index(0, 2**30)), MAY_ANSWER),
    "has_normal_memory of a negative node": (lambda: machine().zones.has_normal_memory(-(2**20)), MAY_ANSWER),
    "threads of a node": (lambda: Node(machine().zones, -(2**31)).threads, MAY_ANSWER),
    "span of a node": (lambda: Node(machine().zones, 2**30).start_pfn, MUST_RAISE),
    "a zone of another node": (lambda: machine().alloc_pages(zone=Zone(machine().zones, 0, 2**30, "DMA")), MUST_RAISE),
    "span of a zone": (lambda: Zone(machine().zones, 2**30, 0, "Normal").start_pfn, MUST_RAISE),
    "watermarks of a zone": (lambda: Zone(machine().zones, -1, 0, "Normal").low, MUST_RAISE),
    "lists of a zone": (lambda: Zone(machine().zones, 10**6, 0, "Normal").nr_free, MUST_RAISE),
    "per-CPU lists of a zone": (lambda: Zone(machine().zones, 10**6, 0, "Normal").pcp_batch, MUST_RAISE),
    "zone of a changing node": (lambda: machine().zones[Index(0, 10**6), "Normal"].start_pfn, MAY_ANSWER),
    "missing_runs past the room": (lambda: machine().sections.missing_runs(0, 2**50), MAY_ANSWER),
    "missing_runs of a wrapping range": (lambda: machine().sections.missing_runs(2**64 - 1, 2**64 - 1), MAY_ANSWER),
    "partial_section_nr of a changing number": (lambda: machine().sections.partial_section_nr(Index(0, 2**40)), MAY_ANSWER),
    "sections of a wrapping range": (lambda: Sections(8, 4).set_online(2**63, 2**63, True), MUST_RAISE),
    "sections of a wrapping range of pages": (lambda: Sections(8, 4).add(2**64 - 1, 2), MUST_RAISE),
    "removed sections": (lambda: Sections(8, 4).remove(3, 2**64 - 2), MUST_RAISE),
    "sections too many": (lambda: Sections(8, 2**60), MUST_RAISE),
    "sections with a shift of 64": (lambda: Sections(64, 4), MUST_RAISE),
    "sections with a negative shift": (lambda: Sections(-1, 4).add(0, 1), MUST_RAISE),
    "a bitmap of nearly 2^64 bits": (lambda: Bitmap(2**64 - 63), MUST_RAISE),
    "a bitmap of 2^63 bits": (lambda: Bitmap(2**63), MUST_RAISE),
    "bits at the end of 64 bits": (lambda: Bitmap(200).set(2**64 - 1, 1), MUST_RAISE),
    "the weight of a wrapping range": (lambda: Bitmap(200).weight(2**64 - 10, 11), MUST_RAISE),
    "bits set beyond the end": (lambda: Bitmap(200).set_bits(199, [1, 1]), MUST_RAISE),
    "an engine of 2^64 pages": (lambda: StructPageEngine(2**64 - 8192, 10, 2), MUST_RAISE),
    "an engine with an order of 64": (lambda: Engine(8192, 64, 2), MUST_RAISE),
    "an engine without areas": (lambda: BitmapEngine(8192, 10, 0), MUST_RAISE),
    "an engine with negative areas": (lambda: BitmapEngine(8192, 10, -1), MUST_RAISE),
    "an engine of a part of a block": (lambda: BitmapEngine(100, 10, 2), MUST_RAISE),
    "counters of no area": (lambda: BitmapEngine(8192, 10, 2).area_counters(2), MUST_RAISE),
    "zones of too many nodes": (lambda: Zones(SMALL_64, fo.LINUX_6_12, BitmapEngine(8192, 10, 1), 65), MUST_RAISE),
    "zones of no node": (lambda: Zones(SMALL_64, fo.LINUX_6_12, BitmapEngine(8192, 10, 1), -(2**31)), MUST_RAISE),
    "a geometry with five zones": (
        lambda: fo.Memory(
            replace(fo.X86_64, zone_limits=tuple((f"Z{i}", None if i == 4 else i << 30) for i in range(5)), hotplug_zone="Z4")
        ),
        MUST_RAISE,
    ),
    "a geometry with forty zones": (
        lambda: fo.Memory(
            replace(
                fo.X86_64, zone_limits=tuple((f"Z{i}", None if i == 39 else i << 30) for i in range(40)), hotplug_zone="Z39"
            )
        ),
        MUST_RAISE,
    ),
    "a geometry with a zone twice": (
        lambda: replace(fo.X86_64, zone_limits=(("Normal", 1 << 30), ("Normal", None))),
        MUST_RAISE,
    ),
    "a geometry with a zone Movable": (
        lambda: replace(fo.X86_64, zone_limits=(("Movable", 1 << 30), ("Normal", None))),
        MUST_RAISE,
    ),
    "a geometry of tiny pages": (lambda: fo.Memory(replace(fo.X86_64, page_shift=9), boot="1G").zoneinfo(), MUST_RAISE),
    "a geometry of huge numbers": (lambda: replace(fo.X86_64, max_physmem_bits=10**9), MUST_RAISE),
    "a geometry of fractions": (lambda: replace(fo.X86_64, section_size_bits=27.5), MUST_RAISE),
    "a geometry of truths": (lambda: replace(fo.X86_64, pageblock_order=True), MUST_RAISE),
    "a batch size with pages of no bytes": (lambda: zone_batchsize(1024, 0, 1 << 20), MUST_RAISE),
    "a clock read for ever": (lambda: phases.calibrate(2**32 - 1), MUST_RAISE),
    "a clock read never": (lambda: phases.calibrate(0), MUST_RAISE),
    "timing of a wrapping range": (lambda: phases.time_ascending(machine(), 2**64 - 1, 2), MUST_RAISE),
    "timing of pages beyond the end": (lambda: phases.time_in_order(machine(), np.array([2**63], np.uint64)), MAY_ANSWER),
    "timing of no pages": (lambda: phases.time_in_order(machine(), np.empty(0, np.uint64)), MAY_ANSWER),
    "timing with an order of 64": (lambda: phases.time_range_call(machine(), 1280, S, 64), MUST_RAISE),
}


@pytest.mark.parametrize("work, expected", NUMBERS.values(), ids=NUMBERS.keys())
def test_numbers(work, expected):
    assert raised_in_process(work) in expected


CLASSES = (Bitmap, Sections, Engine, BitmapEngine, StructPageEngine, Zones, MachineLock, Held, Counters)
ARGUMENTS = (
    (),
    (None,),
    (None, None),
    (None, None, None),
    (None, None, None, None),
    (SMALL_64, fo.LINUX_6_12, None, 1),
    (8192,),
    (8192, 10),
    (8192, None, 2),
    (8192, 10, 2, None),
    (True,),
    (1.5,),
    ("8192",),
    (-1, 4),
    (8, 1.5),
)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_objects_that_were_never_made(kind):
    """Make the object with each of the arguments, by calling and by __new__ alone, and look at all it has. Expect
    exceptions."""

    def work():
        for args in ARGUMENTS:
            for make in (kind, partial(kind.__new__, kind)):
                try:
                    made = make(*args)
                except Exception as e:
                    assert isinstance(e, OSError) or type(e).__name__ in REFUSED, repr(e)
                    continue
                for name in dir(made):
                    try:
                        value = getattr(made, name)
                        if name not in ("__class__", "__init_subclass__", "__subclasshook__", "__new__"):
                            value()
                    except Exception:
                        pass

    assert in_process(work) == ""


READ_ONLY = {
    "Bitmap.view": lambda: Bitmap(1000).view(),
    "flags": lambda: machine().flags["PG_buddy"],
    "flags of descriptors": lambda: machine(engine="struct_page").flags["PG_buddy"],
}


@pytest.mark.parametrize("make", READ_ONLY.values(), ids=READ_ONLY.keys())
def test_views_that_nobody_can_write(make):
    """Expect neither the view nor anything that it is a view of to become writeable."""
    view = make()
    while isinstance(view, (np.ndarray, memoryview)):
        if isinstance(view, np.ndarray):
            with pytest.raises(ValueError):
                view[0] = 1
            with pytest.raises(ValueError):
                view.flags.writeable = True
            view = view.base
        else:
            assert view.readonly
            view = view.obj
    with pytest.raises((BufferError, TypeError, ValueError)):
        np.frombuffer(view, np.uint64)[0] = 1


# -- machines

def not_made(subclass):
    """A Memory whose __init__ never came to its end."""
    if subclass is None:
        return fo.Memory.__new__(fo.Memory)

    class Careless(fo.Memory):
        def __init__(self):
            if subclass == "swallows":
                with contextlib.suppress(ValueError):
                    super().__init__(SMALL_64, boot="no size")

    return Careless()


UNMADE_CALLS = {
    "validate": lambda mem: mem.validate(),
    "add_memory": lambda mem: mem.add_memory(0, S),
    "text": lambda mem: mem.add_memory("1M", "1M"),
    "alloc_pages": lambda mem: mem.alloc_pages(),
    "mark": lambda mem: mem.mark_pages_onlined(0),
    "free_pages": lambda mem: mem.free_pages(0),
    "flags": lambda mem: mem.flags["PG_buddy"],
    "copy": lambda mem: mem.copy(),
    "stats": lambda mem: mem.stats(),
    "min_free_kbytes": lambda mem: setattr(mem, "min_free_kbytes", 1),
    "zone_of": lambda mem: mem.zone_of(0),
    "totalram_pages": lambda mem: mem.totalram_pages,
    "page_states": lambda mem: mem.page_states(0, 1),
}


@pytest.mark.parametrize("call", UNMADE_CALLS)
@pytest.mark.parametrize("subclass", [None, "never calls it", "swallows"])
def test_a_memory_that_was_never_made(subclass, call):
    assert raised_in_process(lambda: UNMADE_CALLS[call](not_made(subclass))) == "RuntimeError"


def test_a_memory_is_made_once(engine):
    """Expect a second __init__ to be refused, one after a failed one to work."""
    mem = machine(engine=engine)
    with pytest.raises(RuntimeError):
        mem.__init__(SMALL_64, boot="2M")
    mem.validate()
    other = not_made("swallows")
    fo.Memory.__init__(other, SMALL_64, boot="1M", engine=engine)
    other.validate()
    assert other.alloc_pages() >= 0


def test_a_memmap_larger_than_the_ram(engine):
    """Bytes taken for pages: 512 Mi pages of descriptors are 32 GiB, of 46 bits 4 PiB. Expect MemoryError before any is
    written."""

    def work():
        import resource

        mem = fo.Memory(fo.X86_64, engine="struct_page")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for start, nr in ((1 << 30, 1 << 31), (0, 1 << 33)):
            with pytest.raises(MemoryError):
                mem.add_memory(start, nr)
        with pytest.raises(MemoryError):
            fo.Memory(fo.X86_64, boot="4T", engine="struct_page")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
        mem.add_memory(0, fo.X86_64.pages_per_section)
        mem.validate()

    assert in_process(work) == ""


def test_ranges_as_text(engine):
    mem = fo.Memory(fo.X86_64, engine=engine)
    mem.add_memory("1G", "512M")
    assert mem.online_pages("1G", "512M") == 1 << 17
    mem.offline_pages("1G", "512M")
    mem.remove_memory("1G", "512M")
    for start, nr in (("1G", "x"), ("1G", "1000"), ("-1G", "1G"), (b"1G", "1G")):
        with pytest.raises((TypeError, ValueError)):
            mem.add_memory(start, nr)
    with pytest.raises(fo.HotplugError, match="EINVAL"):    # a fraction is rounded down: 1M is no whole block
        mem.add_memory("1G", "1.00001M")
    mem.validate()


ACCEPTED_ONCE = {
    "online_type 99": (lambda mem: mem.online_pages(1280, S, online_type=99), ValueError),
    "online_type 0": (lambda mem: mem.online_pages(1280, S, online_type=0), ValueError),
    "online_type 1.5": (lambda mem: mem.prepare_online_pages(1280, S, online_type=1.5), TypeError),
    "online_type True": (lambda mem: mem.online_pages(1280, S, online_type=True), TypeError),
    "threads 1.5": (lambda mem: mem.add_memory(2048, S, threads=1.5), TypeError),
    "threads True": (lambda mem: mem.add_memory(2048, S, threads=True), TypeError),
    "nid 1.5": (lambda mem: mem.add_memory(2048, S, nid=1.5), TypeError),
    "a group of anything": (lambda mem: mem.add_memory(2048, S, group="virtio0"), TypeError),
    "a group of no pages": (lambda mem: mem.add_memory(2048, S, group=("virtio0", 0)), ValueError),
    "a name of bytes": (lambda mem: mem.add_memory(2048, S, name=b"System RAM"), TypeError),
    "sections changed by hand": (lambda mem: mem.sections.remove(4, 1), ValueError),
    "sections added by hand": (lambda mem: mem.sections.add(2048, S), ValueError),
    "a section's bit by hand": (lambda mem: mem.sections.prepared.set(6), ValueError),
    "the words of a bitmap": (lambda mem: mem.sections.online.array.__setitem__(0, 0), ValueError),
    "the map of subsections": (lambda mem: mem.sections.subsection_map.__setitem__(0, 0), ValueError),
}


@pytest.mark.parametrize("call, expected", ACCEPTED_ONCE.values(), ids=ACCEPTED_ONCE.keys())
def test_values_that_were_accepted(engine, call, expected):
    mem = machine(engine=engine)
    before = snapshot(mem)
    with pytest.raises(expected):
        call(mem)
    assert snapshot(mem) == before
    mem.validate()


def test_unaligned_arrays(engine):
    """An array that begins at an odd address. Expect its pfns to be taken as any others'."""
    mem = machine(engine=engine)
    for dtype in (np.uint32, np.uint64, np.int64):
        pfns = np.zeros(4 * np.dtype(dtype).itemsize + 1, np.uint8)[1:].view(dtype)
        pfns[:] = mem.alloc_pages_bulk(4)
        mem.free_pfns(pfns)
    mem.validate()


# -- threads

def test_an_array_that_changes_while_it_is_used(engine):
    """Another thread writes wild pfns into the array of a batch. Expect an error or the pages that were there, and no crash."""
    def work():
        section = fo.X86_64.pages_per_section
        mem = fo.Memory(fo.X86_64, boot="512M", engine=engine)
        pfns, stop = mem.alloc_pages_bulk(2 * section), threading.Event()
        good = pfns.copy()

        def spoil():
            while not stop.is_set():
                pfns[section] = 1 << 50
                pfns[section] = good[section]

        thread = threading.Thread(target=spoil)
        thread.start()
        for _ in range(30):
            try:
                mem.free_pfns(pfns)
                pfns[:] = good
                for pfn, nr in ((int(good.min()), len(good)),):
                    mem.alloc_contig_range(pfn, nr)
            except (ValueError, fo.HotplugError):
                pass
        stop.set()
        thread.join()
        mem.validate()

    assert in_process(work) == ""


def test_memory_grows_while_another_thread_allocates(engine):
    def work():
        sys.setswitchinterval(1e-6)
        section = fo.X86_64.pages_per_section

        def allocate(mem, stop, held):
            while not stop.is_set():
                held.append(mem.alloc_pages())
                if len(held) > 100:
                    mem.free_pages(held.pop())

        for _ in range(10):
            mem, stop, held = fo.Memory(fo.X86_64, boot="256M", engine=engine), threading.Event(), []
            thread = threading.Thread(target=allocate, args=(mem, stop, held))
            thread.start()
            for nr in range(2, 40, 3):
                mem.add_memory(nr * section, section)
            stop.set()
            thread.join()
            mem.validate()
            assert len(set(held)) == len(held) == np.count_nonzero(mem.page_states(0, 2 * section) == PAGE_IN_USE)

    assert in_process(work) == ""


def test_the_callback_is_replaced_while_pages_go_online(engine):
    """Another thread sets and restores a raising callback. Expect each online_pages done or refused."""
    def work():
        mem, stop = machine(engine=engine), threading.Event()

        def raising(pfn, order):
            raise ZeroDivisionError

        def replace():
            while not stop.is_set():
                with mem.set_online_page_callback(raising):
                    pass

        thread = threading.Thread(target=replace)
        thread.start()
        for _ in range(300):
            try:
                mem.online_pages(1280, S)
                mem.offline_pages(1280, S)
            except ZeroDivisionError:
                pass
        stop.set()
        thread.join()
        mem.validate()

    assert in_process(work) == ""


# -- callbacks

@pytest.mark.parametrize("rules", [fo.LINUX_6_12, fo.LINUX_2_6_25], ids=["6.12", "2.6.25"])
def test_a_callback_onlines_another_block_and_raises(engine, rules):
    """Expect the refused block as it was before, and the other one online with its zone."""
    mem = fo.Memory(SMALL_64, boot="1M", engine=engine, rules=rules)
    mem.add_memory(1024, 2 * S)

    def callback(pfn, order):
        mem.generic_online_page(pfn, order)
        mem.restore_online_page_callback(callback)
        mem.online_pages(1280, S)
        raise ZeroDivisionError

    mem.set_online_page_callback(callback)
    with pytest.raises(ZeroDivisionError):
        mem.online_pages(1024, S)
    mem.validate()
    assert not mem.sections.online_section_nr(4) and mem.sections.online_section_nr(5)
    assert (mem.zones["Normal"].present_pages, mem.zones["Normal"].free_pages) == (S, S)
    assert len(mem.alloc_pages_bulk(S, zone="Normal")) == S
    assert mem.online_pages(1024, S) == S
    mem.validate()


def test_a_callback_allocates_what_it_onlined_and_raises(engine):
    """Expect the page to stay its owner's, and the rest of its block to wait."""
    mem = fo.Memory(SMALL_64, boot="1M", engine=engine)
    mem.add_memory(1024, S)
    taken = []

    def callback(pfn, order):
        mem.generic_online_page(pfn, order)
        taken.append(mem.alloc_pages(zone="Normal"))
        raise ZeroDivisionError

    with mem.set_online_page_callback(callback), pytest.raises(ZeroDivisionError):
        mem.online_pages(1024, S)
    mem.validate()
    assert mem.page_flags(taken[0]) == "PG_prepared" and mem.zones["Normal"].managed_pages == 1
    mem.free_pages(taken[0])
    assert mem.mark_pages_onlined(1024, S) == S - 1
    mem.validate()


# -- memory

@pytest.mark.parametrize("call", ["add_far", "add_node", "copy", "bulk"])
def test_out_of_memory_changes_nothing(engine, call):
    """A limit of the address space just above what is in use. Expect MemoryError, and the machine as it was."""
    def work():
        import resource

        mem = fo.Memory(fo.X86_64, boot="256M", engine=engine)
        calls = {
            "add_far": lambda: mem.add_memory((1 << 34) - (1 << 15), 1 << 15),
            "add_node": lambda: mem.add_memory((1 << 33), 1 << 15, nid=63),
            "copy": lambda: [mem.copy() for _ in range(10000)],
            "bulk": lambda: [
                mem.alloc_pages_bulk(1 << 15) if not mem.free_pfns(held) else 0 for held in [np.empty(0, np.int64)] * 10
            ],
        }
        before = snapshot(mem)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        unlimited = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, ((pages << 12) + (8 << 20), unlimited))
        with contextlib.suppress(MemoryError):
            calls[call]()
        resource.setrlimit(resource.RLIMIT_AS, (unlimited, unlimited))
        gc.collect()
        if call != "bulk":
            assert snapshot(mem) == before
        mem.validate()

    assert in_process(work) == ""


def test_cycles_do_not_grow(engine):
    """Expect as many objects and sections after many cycles of one section as after a few."""
    mem = fo.Memory(SMALL_64, boot="1M", engine=engine)

    def cycles(nr):
        for _ in range(nr):
            mem.add_memory(2048, S)
            mem.online_pages(2048, S)
            mem.offline_pages(2048, S)
            mem.remove_memory(2048, S)
        gc.collect()
        return sys.getallocatedblocks(), len(pickle.dumps(mem))

    cycles(100)
    before, size = cycles(100)
    after, still = cycles(5000)
    assert after - before < 100 and abs(still - size) < 50      # a count may take some bytes more
    mem.validate()


class NoMachine(fo.Memory):
    def __new__(cls, *args, **kwargs):
        return None


def balloon_without_machine():
    balloon = VirtioBalloon(machine())
    balloon._mem = None
    balloon.deflate(5)


@pytest.mark.parametrize("call", [
    balloon_without_machine, lambda: NoMachine.from_page_map(SMALL_64, [], [], [], 0),
    lambda: NoMachine._restore(machine().__reduce__()[1][0]).validate(),
])
def test_none_where_a_machine_is_expected(call):
    assert raised_in_process(call) in MAY_ANSWER
