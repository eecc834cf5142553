from fastonline.errors import is_number

__all__ = ["ChainCalls"]

cdef class ChainCalls:
    """The callbacks of a notifier chain. ``calls`` counts the calls of the chain, those of an empty one too."""

    def __cinit__(self):
        self.callbacks = ()

    def __len__(self):
        return len(self.callbacks)

    @property
    def chain(self):
        """(callback, priority) in the order of their calling: a list of its own."""
        return [(callback, priority) for callback, priority, _ in self.callbacks]

    def register(self, callback, priority=0, actions=None):
        """Register ``callback(action, notice)``. It returns None or NOTIFY_*; an exception is a veto too.

        priority: int, highest first. actions: int, those that the callback hears, such as MEM_ONLINE | MEM_OFFLINE; None: all.
        An action that nobody hears costs nothing. Returns the callback, so that `register` works as a decorator. TypeError if
        it is not callable, or priority or actions are not an int; OverflowError for a priority that no C int holds; ValueError
        for actions that are not of MEM_*.
        """
        cdef int rank
        if not callable(callback):
            raise TypeError(f"a memory notifier must be callable, not {callback!r}")
        if not is_number(priority):
            raise TypeError(f"priority must be an int, not {priority!r:.80}")
        rank = priority
        if actions is None:
            actions = ALL_ACTIONS
        elif not is_number(actions):
            raise TypeError(f"actions must be an int, not {actions!r:.80}")
        elif not 0 < actions <= ALL_ACTIONS:
            raise ValueError(f"invalid actions {actions:#x} (expected MEM_* or several of them)")
        before, at = self.callbacks, 0
        while at < len(before) and before[at][1] >= rank:
            at += 1
        self.set_callbacks((*before[:at], (callback, rank, int(actions)), *before[at:]))
        return callback

    def unregister(self, callback):
        """Remove `callback`. ValueError (in the kernel: ENOENT) if it was not registered."""
        before = self.callbacks
        for i, (other, *_) in enumerate(before):
            if other == callback:
                self.set_callbacks(before[:i] + before[i + 1 :])
                return
        raise ValueError(f"{callback!r} is not registered with this chain")

    cdef void set_callbacks(self, tuple callbacks) noexcept:
        self.callbacks = callbacks
        self.heard = 0
        for entry in callbacks:
            self.heard |= <int>(<tuple>entry)[2]

    def call(self, int action, notice):
        """Call the chain with `action` and `notice` until a callback sets NOTIFY_STOP_MASK. Returns the value of the last
        callback called (notifier_call_chain, 2.6.25). One that does not hear the action counts as NOTIFY_OK, which kernel
        drivers return for actions that they ignore."""
        ret = NOTIFY_DONE
        self.calls += 1
        for callback, _, actions in self.callbacks:
            if not <int>actions & action:
                ret = NOTIFY_OK
                continue
            answer = callback(action, notice)
            ret = NOTIFY_OK if answer is None else answer
            if ret & NOTIFY_STOP_MASK:
                break
        return ret

    def tell(self, int action, notice):
        """Call the chain with `action` and `notice` for an event that cannot be vetoed. Every callback runs, whatever the
        others raise; then the first exception is raised. NOTIFY_STOP_MASK ends the chain."""
        self.call_all(action, notice)

    cdef int call_all(self, int action, object notice) except -1:
        raised = None
        self.calls += 1
        for entry in self.callbacks:
            if not <int>(<tuple>entry)[2] & action:
                continue
            try:
                ret = (<tuple>entry)[0](action, notice)
            except Exception as e:
                raised = raised or e
                continue
            if ret is not None and ret & NOTIFY_STOP_MASK:
                break
        if raised is not None:
            raise raised
        return 0
