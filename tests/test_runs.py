"""core/runs: numbers that follow one upon the other, equal neighbours, ones and zeros of a plane."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fastonline.core.runs import equal_runs, range_list, run_starts, runs
from fastonline.core.sections import Sections


@given(st.sets(st.integers(0, 40)), st.booleans())
def test_runs(numbers, as_array):
    """Expect every number in one run, runs ascending, and a gap between two of them."""
    found = runs(np.array(sorted(numbers, reverse=True), np.int64) if as_array else numbers)
    assert [number for first, nr in found for number in range(first, first + nr)] == sorted(numbers)
    assert all(first + nr < after for (first, nr), (after, _) in zip(found, found[1:], strict=False))


def test_runs_of_a_number_given_twice():
    assert runs([4, 4, 5]) == [(4, 1), (4, 2)]


@given(st.lists(st.integers(0, 2), max_size=40))
def test_equal_runs(values):
    """Expect runs that cover the array, each of one value, neighbours of different ones."""
    array = np.array(values, np.uint8)
    found = equal_runs(array)
    assert [value for first, nr in found for value in [values[first]] * nr] == values
    assert [first for first, _ in found] == [sum(nr for _, nr in found[:i]) for i in range(len(found))]
    assert all(values[first - 1] != values[first] for first, _ in found[1:])


@given(st.sets(st.integers(0, 199)), st.integers(0, 200), st.integers(0, 200))
def test_ones_and_zeros_of_a_plane(present, a, b):
    """Sections are a plane, across words of 64 bits: the present ones, and those of a range that are missing."""
    sections, first, end = Sections(8, 200), min(a, b), max(a, b)
    for nr in present:
        sections.add(nr << 8, 1)
    assert sections.runs() == runs(present)
    assert sections.missing_runs(first, end - first) == runs(set(range(first, end)) - present)


@pytest.mark.parametrize("lead", [0, 1, 63, 64, 4000])
@pytest.mark.parametrize("length", [4095, 4096, 4097, 4159, 4160, 4161, 4224, 8192, 8256, 8300])
def test_long_runs_of_a_plane(lead, length):
    """A run of ones longer than the 64 words of one look, between zeros, then as long a one of zeros. Expect their ends."""
    sections = Sections(8, lead + 2 * length + 70)
    for first, nr in ((lead, length), (lead + 2 * length, 5)):
        sections.add(first << 8, nr << 8)
    assert sections.runs() == [(lead, length), (lead + 2 * length, 5)]
    assert sections.missing_runs(lead + 1, 2 * length) == [(lead + length, length)]
    assert sections.missing_runs(lead, length) == [] and sections.missing_runs(lead, length + 1) == [(lead + length, 1)]
    assert sections.missing_runs(lead + length, length) == [(lead + length, length)]


@pytest.mark.parametrize("gap", [0, 63, 64, 100, 4095, 4096, 4159, 4160, 4161, 8191])
def test_one_zero_between_many_ones(gap):
    """And one one between many zeros. Expect both to be found."""
    sections = Sections(8, 9000)
    sections.add(gap << 8, 1 << 8)
    assert sections.runs() == [(gap, 1)]
    sections = Sections(8, 9000)
    sections.add(0, gap << 8)
    sections.add(gap + 1 << 8, 8999 - gap << 8)
    assert sections.missing_runs(0, 9000) == [(gap, 1)]


@pytest.mark.parametrize("numbers, text", [((), ""), ((0,), "0"), ((0, 1), "0-1"), ((0, 1, 3, 7, 8, 9), "0-1,3,7-9")])
def test_range_list(numbers, text):
    """has_memory of a machine whose second node comes: 0, then 0-1."""
    assert range_list(numbers) == text


def test_where_runs_begin():
    values = np.array([3, 3, 3, 5, 5, 3])
    assert run_starts(values).tolist() == [0, 3, 5]
    assert run_starts(values, np.array([False, True, False, True, False])).tolist() == [0, 2, 3, 4, 5]
    assert run_starts(values[:1]).tolist() == [0] and run_starts(values[:0]).tolist() == []
