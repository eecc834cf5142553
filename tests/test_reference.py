"""testing/reference.py: the slow machine that both engines are held against; a fault in it is found."""

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from fastonline.testing.reference import Reference
from fastonline.testing.walk import Walk


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
