"""core/audit: every page counted once, against a slow count, and each kind of page that cannot be is found."""

import contextlib
import ctypes
import gc

import numpy as np
import pytest
from conftest import SMALL_64, SMALL_64K, SMALL_ORDER_7, SMALL_PAE
from hypothesis import given, settings, strategies as st

import fastonline as fo
from fastonline.core.audit import audit_pages
from fastonline.core.engine import Engine
from fastonline.core.pageflags import FLAG_NAMES

RESERVED, BUDDY, OFFLINE, TAIL, PREPARED = (1 << FLAG_NAMES.index(name) for name in FLAG_NAMES)
NR_HEADS = 8192


def engine_of(mem):
    """The engine of a machine, which it shows to nobody."""
    return next(part for part in gc.get_referents(mem) if isinstance(part, Engine))


def descriptors(mem):
    """The pages' descriptors, (pages, bytes each), which the engine lets nobody else write."""
    array = engine_of(mem).array
    writable = (ctypes.c_uint8 * array.nbytes).from_address(array.ctypes.data)
    return np.frombuffer(writable, np.uint8).reshape(array.shape)[NR_HEADS:]


def count_free_blocks(free, max_order):
    """Free blocks of each order, one bool a page: every aligned run is looked for."""
    counts, taken = [], np.zeros(len(free), bool)
    for order in range(max_order, -1, -1):
        size = 1 << order
        whole = free.reshape(-1, size).all(axis=1) & ~taken.reshape(-1, size).any(axis=1)
        taken |= np.repeat(whole, size)
        counts.append(int(whole.sum()))
    return counts[::-1]


@pytest.mark.parametrize("geometry, rules", [
    (SMALL_64, fo.LINUX_6_12), (SMALL_PAE, fo.LINUX_2_6_25), (SMALL_ORDER_7, fo.LINUX_6_1), (SMALL_64K, fo.LINUX_6_12),
    (SMALL_64, fo.LINUX_2_6_25),
], ids=lambda value: value.name)
@settings(max_examples=10)
@given(seed=st.integers(0, 1 << 32))
def test_tallies_are_those_of_a_slow_count(engine, geometry, rules, seed):
    unit = geometry.pages_per_section
    mem = fo.Memory(geometry, boot=2 * unit * geometry.page_size, engine=engine, rules=rules)
    random = np.random.default_rng(seed)
    mem.add_memory(2 * unit, unit)
    mem.prepare_online_pages(2 * unit, unit)
    mem.mark_pages_onlined(2 * unit + int(random.integers(unit // 2)), int(random.integers(1, unit // 2)))
    got = mem.alloc_pages_bulk(int(random.integers(1, mem.totalram_pages)))
    mem.free_pfns(random.permutation(got)[: len(got) // 2])
    for order in range(4):
        with contextlib.suppress(MemoryError):
            mem.alloc_pages(order)
    mem.validate()
    spans = mem.sections.spans()
    areas, sections = audit_pages(engine_of(mem), spans, geometry.pfn_section_shift)
    states = np.concatenate([mem.page_states(start, nr) for start, nr in spans])
    pfns = np.concatenate([np.arange(start, start + nr) for start, nr in spans])
    where = np.repeat(
        [-1 if (zone := mem.zone_of(int(pfn))) is None else zone.nr for pfn in pfns[:: 1 << geometry.max_page_order]],
        1 << geometry.max_page_order,
    )
    given = (states & (PREPARED | RESERVED | OFFLINE)) == PREPARED
    for zone in mem.zones.values():
        own, tally = where == zone.nr, areas[zone.nr + 1]
        assert tally["prepared"] == np.count_nonzero(own & (states & PREPARED != 0))
        assert tally["managed"] == np.count_nonzero(own & given)
        assert tally["nr_free"][: geometry.max_page_order + 1].tolist() == count_free_blocks(
            own & (states & BUDDY != 0), geometry.max_page_order
        )
        if tally["prepared"]:
            there = pfns[own & (states & PREPARED != 0)]
            assert (tally["first"], tally["last"]) == (there[0], there[-1])
    assert sections["prepared"].tolist() == np.add.reduceat(states & PREPARED != 0, range(0, len(states), unit)).tolist()
    assert sections["managed"].tolist() == np.add.reduceat(given, range(0, len(states), unit)).tolist()


def altered(mem, change):
    """A machine of the same state but for what change(its planes) does."""
    restore, (state,) = mem.__reduce__()
    change(state["planes"])
    return restore(state)


PLANES = {RESERVED: "reserved", BUDDY: "free", OFFLINE: "offline", TAIL: "tail", PREPARED: "prepared"}


@pytest.mark.parametrize("state", [s for s in range(32) if s not in (1, 17, 18, 16, 24, 20)], ids=hex)
def test_states_that_there_are_not(state):
    def set_page(planes):
        for flag, name in PLANES.items():
            word = planes[name][0][2:3]
            word[:] = word & ~np.uint64(1 << 5) | np.uint64((state & flag != 0) << 5)

    with pytest.raises(ValueError, match="page 0x85 is in no state"):
        altered(fo.Memory(SMALL_64, boot="1M"), set_page)


@pytest.mark.parametrize("word", [1, 3], ids=["the first of a block", "and the next"])
def test_tails_without_a_head(word):
    mem = fo.Memory(SMALL_64, boot="1M")
    mem.alloc_contig_range(128, 64)
    with pytest.raises(ValueError, match="page 0x80 is a tail"):
        altered(mem, lambda planes: planes["tail"][0].__setitem__(2, word))
    altered(mem, lambda planes: planes["tail"][0].__setitem__(2, 2)).validate()


FIELDS = {
    32: ["flags", ("refcount", "i4"), "order", "mapping", "index", ("mapcount", "i4"), "next", "prev"],
    56: ["flags", ("refcount", "i4"), ("mapcount", "i4"), "order", "mapping", "index", "next", "prev"],
    64: ["flags", "next", "prev", "mapping", "index", "order", ("mapcount", "i4"), ("refcount", "i4"), "memcg_data"],
}


@pytest.mark.parametrize(
    "geometry, rules",
    [(SMALL_PAE, fo.LINUX_2_6_25), (SMALL_64, fo.LINUX_2_6_25), (SMALL_64, fo.LINUX_6_12)],
    ids=["32", "56", "64"],
)
@pytest.mark.parametrize("field, value", [
    ("flags", 0), ("flags", 3), ("flags", 0x100 | PREPARED), ("flags", PREPARED | BUDDY), ("flags", PREPARED | TAIL),
    ("refcount", 1), ("order", 5), ("order", 7), ("order", 1 << 20), ("next", 0), ("next", 1 << 30), ("next", NR_HEADS + 64),
    ("prev", 1), ("prev", NR_HEADS + 4095),
])
@pytest.mark.parametrize("pfn", [0, 3, 64, 128], ids=["head", "inside", "second head", "third head"])
def test_descriptors_that_cannot_be(geometry, rules, field, value, pfn):
    """One field of one descriptor, at the head of a free block and inside it. Expect it to be found, or to mean nothing."""
    mem = fo.Memory(geometry, boot="1M", rules=rules, engine="struct_page")
    pages = descriptors(mem)
    size = pages.shape[1]
    wide = "u4" if size == 32 else "u8"
    row = pages.view(np.dtype([(name, wide) if isinstance(name, str) else name for name in FIELDS[size]])).reshape(-1)[pfn]
    heads = row["flags"] & BUDDY
    means = row[field] != value and (heads or field not in ("next", "prev", "order"))
    row[field] = value
    try:
        mem.validate()
        assert not means
    except AssertionError:
        assert means
