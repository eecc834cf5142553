"""testing/walk.py: random walks, of a machine of one's own too, and the first page that differs."""

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

import fastonline as fo
from fastonline.testing.geometries import SMALL_64
from fastonline.testing.reference import Reference
from fastonline.testing.walk import Walk, first_difference


def test_a_machine_of_ones_own_walks_along():
    """The reference stands for a user's machine: expect it to agree with itself."""
    class WithAnother(Walk):
        def subjects(self, boot):
            return [Reference(self.geometry, self.kernel, boot // self.geometry.page_size)]

        def check(self, subject):
            assert subject.buddyinfo() == self.ref.buddyinfo()

    run_state_machine_as_test(WithAnother, settings=settings(max_examples=10, stateful_step_count=30, database=None))


def test_first_difference_names_the_page():
    mem = fo.Memory(SMALL_64, boot="1M")
    ref = Reference(SMALL_64, fo.LINUX_6_12, 256)
    assert first_difference(mem, ref) is None
    mem.alloc_contig_range(7, 1)
    assert first_difference(mem, ref)[0] == 7
