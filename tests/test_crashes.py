"""Python code that once ended the process in a signal, hung it or corrupted a machine: each in a process of its own."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL_64
from in_process import in_process, raised_in_process

import fastonline as fo
from fastonline.core.bitmap import Bitmap
from fastonline.core.bitmap_engine import BitmapEngine
from fastonline.core.engine import Engine
from fastonline.core.lock import Held, MachineLock
from fastonline.core.sections import Sections
from fastonline.core.structpage import StructPageEngine
from fastonline.cost import phases
from fastonline.cost.counters import Counters
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
    "has_memory of a negative node": (lambda: machine().zones.has_memory(-2**31), MAY_ANSWER),
    "has_memory of a far node": (lambda: machine().zones.has_memory(2**31 - 1), MAY_ANSWER),
    "has_memory of a changing node": (lambda: machine().zones.has_memory(Index(0, 2**30)), MAY_ANSWER),
    "has_normal_memory of a negative node": (lambda: machine().zones.has_normal_memory(-2**20), MAY_ANSWER),
    "threads of a node": (lambda: Node(machine().zones, -2**31).threads, MAY_ANSWER),
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
    "zones of no node": (lambda: Zones(SMALL_64, fo.LINUX_6_12, BitmapEngine(8192, 10, 1), -2**31), MUST_RAISE),
    "a geometry with five zones": (lambda: fo.Memory(replace(
        fo.X86_64, zone_limits=tuple((f"Z{i}", None if i == 4 else i << 30) for i in range(5)), hotplug_zone="Z4")), MUST_RAISE),
    "a geometry with forty zones": (lambda: fo.Memory(replace(
        fo.X86_64, zone_limits=tuple((f"Z{i}", None if i == 39 else i << 30) for i in range(40)), hotplug_zone="Z39")), MUST_RAISE),
    "a geometry with a zone twice": (lambda: replace(
        fo.X86_64, zone_limits=(("Normal", 1 << 30), ("Normal", None))), MUST_RAISE),
    "a geometry with a zone Movable": (lambda: replace(
        fo.X86_64, zone_limits=(("Movable", 1 << 30), ("Normal", None))), MUST_RAISE),
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
    (), (None,), (None, None), (None, None, None), (None, None, None, None), (SMALL_64, fo.LINUX_6_12, None, 1), (8192,), (8192, 10),
    (8192, None, 2), (8192, 10, 2, None), (True,), (1.5,), ("8192",), (-1, 4), (8, 1.5),
)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_objects_that_were_never_made(kind):
    """Make the object with each of the arguments, by calling and by __new__ alone, and look at all it has. Expect exceptions."""
    def work():
        for args in ARGUMENTS:
            for make in (lambda: kind(*args), lambda: kind.__new__(kind, *args)):
                try:
                    made = make()
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
