__all__ = ["ChainCalls"]


cdef class ChainCalls:
    """Counts the calls of a notifier chain, those of an empty chain too."""

    def count(self):
        """One call more."""
        self.calls += 1
