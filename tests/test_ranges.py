"""linux/ranges.py: ranges of pages that texts tell, against sets of pages, and the preset that fits a kernel."""

import pytest
from hypothesis import given, strategies as st

import fastonline as fo
from fastonline.linux.proctext import MemoryBlock
from fastonline.linux.ranges import check_size, ends, geometry_of, meet, memory_of, page_size_of, sections_of, union, without

RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8)), max_size=6)


def pages(ranges):
    return {pfn for start, end in ranges for pfn in range(start, end)}


@given(RANGES, RANGES)
def test_sets_of_pages(a, b):
    a, b = union(ends(a)), union(ends(b))
    assert all(start < end for start, end in a) and all(end < start for (_, end), (start, _) in zip(a, a[1:], strict=False))
    assert pages(union([*a, *b])) == pages(a) | pages(b)
    assert pages(without(a, b)) == pages(a) - pages(b)
    assert pages(meet(a, b)) == pages(a) & pages(b)


@pytest.mark.parametrize("arch, size, name", [
    ("x86_64", 4096, "X86_64"), ("i686", 4096, "X86_32_PAE"), ("aarch64", 65536, "ARM64_64K"), ("s390x", 4096, "S390X"),
])
def test_presets_of_kernels(arch, size, name):
    assert geometry_of(arch, size) == getattr(fo, name)
    assert geometry_of(arch, size, 9).max_page_order == 8
    assert page_size_of(arch, getattr(fo, name).max_page_order + 1) == size


def test_kernels_without_a_preset():
    with pytest.raises(ValueError, match="no geometry for mips64 with pages of 4096 bytes"):
        geometry_of("mips64", 4096)
    assert page_size_of("mips64", 11) == 4096


def test_blocks_that_are_alike_are_one():
    """Two blocks of Normal, one offline. Expect the offline one whole, of the others what is RAM."""
    blocks = [MemoryBlock(nr, state, zones, 1, 0) for nr, state, zones in (
        (1, "online", ("Normal",)), (2, "online", ("Normal", "Movable")), (3, "offline", ("Normal", "Movable")),
    )]
    memory = memory_of(blocks, 10)
    assert memory == [(10, 30, 0, frozenset(["Normal"])), (30, 40, 0, frozenset())]
    assert sections_of(memory, [(12, 18), (25, 100)]) == [(12, 6, 0, True), (25, 5, 0, True), (30, 10, 0, False)]


def test_no_text_makes_an_endless_machine():
    check_size(1 << 30, 1 << 34)
    for size in ((1 << 30) + 1, 1), (1, (1 << 34) + 1):
        with pytest.raises(ValueError, match="exceed the largest machine"):
            check_size(*size)
