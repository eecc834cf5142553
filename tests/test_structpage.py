"""core/structpage: descriptors of the kernel's size, lists that hold together, and a check that finds where they do not."""

import numpy as np
import pytest
from conftest import SMALL_64, SMALL_PAE
from hypothesis import given, strategies as st

import fastonline as fo
from fastonline.core.audit import audit_pages
from fastonline.core.pageflags import PAGE_FREE
from fastonline.core.structpage import StructPageEngine
from fastonline.hotplug.invariants import check_engine

NR_HEADS = 8192


@pytest.mark.parametrize("page_bytes", [32, 56, 64])
def test_descriptors_of_the_kernels_sizes(page_bytes):
    """KERNEL.md 4.3. Expect one row a page behind those of the list heads, and no check to complain of an empty engine."""
    engine = StructPageEngine(8192, 10, 3, page_bytes)
    assert engine.array.shape == (NR_HEADS + 8192, page_bytes)
    audit_pages(engine, [], 13)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="48"):
        StructPageEngine(8192, 10, 3, 48)


@pytest.mark.parametrize(
    "geometry, rules", [(SMALL_PAE, fo.LINUX_2_6_25), (SMALL_64, fo.LINUX_2_6_25), (SMALL_64, fo.LINUX_6_12)]
)
@given(seed=st.integers(0, 1 << 32))
def test_lists_hold_together(geometry, rules, seed):
    """Free, allocate and free again at random, in each size of descriptor. Expect every list whole after each."""
    mem = fo.Memory(geometry, boot="1M", rules=rules, engine="struct_page")
    random = np.random.default_rng(seed)
    held = []
    for _ in range(40):
        if held and random.random() < 0.5:
            mem.free_pages(*held.pop(random.integers(len(held))))
        else:
            order = int(random.integers(4))
            held.append((mem.alloc_pages(order), order))
        check_engine(mem)
    (_, (before,)), (_, (after,)) = mem.__reduce__(), mem.copy().__reduce__()
    for name in ("states", "lengths", "blocks"):
        assert np.array_equal(before["planes"][name], after["planes"][name]), name
    for pfn, order in held:
        mem.free_pages(pfn, order)
    mem.validate()


@pytest.mark.parametrize("geometry, rules", [(SMALL_PAE, fo.LINUX_2_6_25), (SMALL_64, fo.LINUX_6_12)])
def test_ranges_that_begin_and_end_inside_free_blocks(geometry, rules):
    """Read the pages at once, one by one and in parts. Expect the same states: one descriptor tells of a whole free block."""
    mem = fo.Memory(geometry, boot="1M", rules=rules, engine="struct_page")
    for order in (0, 3, 1):
        mem.alloc_pages(order)
    nr = mem.totalram_pages
    states = mem.page_states(0, nr)
    assert np.array_equal(states, np.concatenate([mem.page_states(pfn, 1) for pfn in range(nr)]))
    for start in range(0, nr, 7):
        assert np.array_equal(mem.page_states(start, min(nr - start, 61)), states[start : start + 61])
    assert int((states == PAGE_FREE).sum()) == nr - 11


@pytest.mark.parametrize("change", [
    lambda planes: planes["blocks"].__setitem__(0, 1 << 40),
    lambda planes: planes["blocks"].__setitem__(0, planes["blocks"][1]),
    lambda planes: planes["blocks"].__setitem__(0, planes["blocks"][0] + 1),
    lambda planes: planes.update(blocks=planes["blocks"][:-1]),
    lambda planes: planes.update(blocks=planes["blocks"].astype(float)),
    lambda planes: planes["lengths"].__setitem__(0, -1),
    lambda planes: planes["lengths"].__setitem__(0, 1 << 62),
    lambda planes: planes["lengths"].__setitem__(slice(None), np.roll(planes["lengths"], 1)),
    lambda planes: planes["states"][0].__setitem__(5, 0xFF),
    lambda planes: planes["states"].__setitem__(0, planes["states"][0][:-1]),
    lambda planes: planes["states"].__setitem__(0, None),
    lambda planes: planes.pop("states"),
], ids=["past the end", "twice", "inside a block", "too few", "float", "negative", "too many", "of another order", "no state",
        "too short", "no array", "missing"])
@pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_12])
def test_invalid_states_are_refused(rules, change):
    """Change one value of what a machine is saved as. Expect it to be refused, and no crash."""
    mem = fo.Memory(SMALL_64, boot="1M", rules=rules, engine="struct_page")
    mem.alloc_pages()
    restore, (state,) = mem.__reduce__()
    change(state["planes"])
    with pytest.raises(ValueError):
        restore(state)
