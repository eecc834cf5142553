"""Both engines and the slow reference agree on random walks over the whole API."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import fastonline as fo
from fastonline.testing.geometries import SMALL_64, SMALL_64K, SMALL_BORDERS, SMALL_BORDERS_PAE, SMALL_ORDER_7, SMALL_PAE
from fastonline.testing.reference import Reference
from fastonline.testing.walk import Walk, first_difference

# 2.6.25 with memory blocks of several sections, which came with 2.6.39: what is known of a block there is its own state only.
UNAWARE = replace(fo.LINUX_2_6_25, large_blocks=True)

WALKS = [
    (SMALL_64, fo.LINUX_6_12, 1, 80),
    (SMALL_64, fo.LINUX_6_12, 2, 40),
    (SMALL_64, fo.LINUX_6_12, 4, 40),
    (SMALL_64, fo.LINUX_6_1, 1, 40),
    (SMALL_64, fo.LINUX_2_6_25, 1, 60),
    (SMALL_64, UNAWARE, 2, 30),
    (SMALL_PAE, fo.LINUX_2_6_25, 1, 60),
    (SMALL_PAE, fo.LINUX_6_1, 2, 30),
    (SMALL_ORDER_7, fo.LINUX_6_12, 1, 60),
    (SMALL_ORDER_7, fo.LINUX_2_6_25, 1, 30),
    (SMALL_64K, fo.LINUX_6_12, 1, 6),
    (SMALL_BORDERS, fo.LINUX_6_12, 1, 40),
    (SMALL_BORDERS, fo.LINUX_2_6_25, 1, 30),
    (SMALL_BORDERS_PAE, fo.LINUX_2_6_25, 1, 40),
    (SMALL_BORDERS_PAE, fo.LINUX_6_1, 2, 20),
]


@pytest.mark.parametrize("geometry, rules, sections, examples", WALKS, ids=[f"{g.name}-{r.name}-{n}" for g, r, n, _ in WALKS])
def test_engines_and_reference_agree(geometry, rules, sections, examples):
    """sections: of a memory block."""
    walk = type(f"{geometry.name}_{rules.name}_{sections}", (Walk,), {
        "geometry": geometry, "kernel": rules, "sections_per_block": sections})
    run_state_machine_as_test(walk, settings=settings(max_examples=examples, stateful_step_count=30))


def test_a_machine_of_ones_own_walks_along():
    """The reference stands for a user's machine: expect it to agree with itself."""
    class WithAnother(Walk):
        def subjects(self, boot):
            return [Reference(self.geometry, self.kernel, boot // self.geometry.page_size)]

        def check(self, subject):
            assert subject.buddyinfo() == self.ref.buddyinfo()

    run_state_machine_as_test(WithAnother, settings=settings(max_examples=10, stateful_step_count=30, database=None))


class Forgetful(Reference):
    """A machine with a fault: the last page of what is added is not there."""

    def add_memory(self, start, nr, nid=0):
        super().add_memory(start, nr, nid)
        del self.state[max(self.state)]


def test_a_fault_in_a_machine_of_ones_own_is_found():
    """Expect the walk to fail for a machine that is wrong, so that it can fail at all."""
    class WithFault(Walk):
        def subjects(self, boot):
            return [Forgetful(self.geometry, self.kernel, boot // self.geometry.page_size)]

        def check(self, subject):
            assert np.array_equal(subject.page_states(0, self.geometry.max_pfn), self.ref.page_states(0, self.geometry.max_pfn))

    with pytest.raises(AssertionError):
        run_state_machine_as_test(WithFault, settings=settings(
            max_examples=50, stateful_step_count=30, database=None, phases=[Phase.generate]))


def test_first_difference_names_the_page():
    mem = fo.Memory(SMALL_64, boot="1M")
    ref = Reference(SMALL_64, fo.LINUX_6_12, 256)
    assert first_difference(mem, ref) is None
    mem.alloc_contig_range(7, 1)
    assert first_difference(mem, ref)[0] == 7
