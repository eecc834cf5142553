__all__ = ["ChainCalls"]


cdef class ChainCalls:
    """What a notifier chain counts: calls of the chain, by whoever tells it. An empty chain is counted without being called."""
