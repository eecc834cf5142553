from functools import wraps

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.string cimport memcpy

from fastonline.core.buddy cimport buddy_pool
from fastonline.core.lock cimport LONG_STEP_BITS, PyThreadState
from fastonline.core.ram cimport check_ram
from fastonline.core.threads cimport in_threads, range_step
from fastonline.core.types cimport pfn_t

__all__ = ["exclusive", "uninterrupted"]


cdef Machine machine_of(object self):
    mem = self._mem if hasattr(self, "_mem") else self.mem
    if mem is None:
        raise TypeError(f"{type(self).__name__} has no Memory")
    return mem


def exclusive(method):
    """Decorate a method of several steps of an object with a Memory, its `_mem` or `mem`: other threads' calls wait until it
    returns."""
    @wraps(method)
    @cython.binding(True)       # a method, with a name of its own
    def call(self, *args, **kwargs):
        _held = machine_of(self).lock.hold()
        return method(self, *args, **kwargs)
    return call


def uninterrupted(method):
    """Decorate as exclusive does, and hold back signal handlers and forks as well. An exception from a handler is raised before
    the method begins or after it has returned. Handlers may run in callbacks of notifiers, events and on_move."""
    @wraps(method)
    @cython.binding(True)
    def call(self, *args, **kwargs):
        _held = machine_of(self).lock.hold_uninterrupted()
        return method(self, *args, **kwargs)
    return call


cdef void take_step(Machine mem, int step, uint64_t start, uint64_t nr, int order) noexcept nogil:
    if step == INIT:
        mem.pages.init_pages(start, nr)
    elif step == PREPARE:
        mem.pages.prepare_pages(start, nr)
    elif step == ONLINE:
        mem.pages.online_range(start, nr, order, True)


cdef void take_step_back(Machine mem, int step, uint64_t start, uint64_t nr) noexcept nogil:
    if step == INIT:
        mem.pages.forget_pages(start, nr)
    elif step == PREPARE:
        mem.pages.unprepare_pages(start, nr)
    elif step == ONLINE:
        mem.pages.reserve_range(start, nr)


cdef void shared_step(Machine mem, int step, pfn_t start, uint64_t nr) noexcept nogil:
    take_step(mem, step, start, nr, 0)


cdef int walk_range(Machine mem, int step, uint64_t start, uint64_t nr, int order, int threads=1) except -1:
    """Take a range, all of whose pages are alike, one step further: added, prepared or online. Nobody sees a part of it.

    A large range is walked part by part without the GIL; in between signals are looked at. When a handler raises (Ctrl-C), the
    parts are taken back, with their counters, and nothing has changed. Several threads share a part of a step whose pages have
    nothing to do with each other (INIT).
    """
    cdef uint64_t at = start, end = start + nr, part, part_pages = pages_between_signals(mem) * threads
    cdef bytes counts
    cdef PyThreadState *thread
    if step == INIT:
        check_ram(nr * mem.pages.page_bits >> 3)
    if nr * mem.pages.page_bits < LONG_STEP_BITS:
        take_step(mem, step, start, nr, order)
        return 0
    counts = PyBytes_FromStringAndSize(<char *>mem.pages.areas, mem.pages.nr_areas * sizeof(buddy_pool))
    mem.lock.busy += 1
    try:
        while at < end:
            part = min(end, (at + part_pages) >> MAX_MAX_ORDER << MAX_MAX_ORDER) - at
            thread = mem.lock.let_go(part * mem.pages.page_bits)
            if threads == 1:
                take_step(mem, step, at, part, order)
            else:
                mem.pages.shared = True
                in_threads(<range_step>shared_step, <void *>mem, step, at, part, 1 << MAX_MAX_ORDER, threads)
                mem.pages.shared = False
            mem.lock.take_back(thread)
            at += part
            if at < end:
                PyErr_CheckSignals()
    except BaseException:
        take_step_back(mem, step, start, at - start)
        memcpy(mem.pages.areas, <const char *>counts, mem.pages.nr_areas * sizeof(buddy_pool))
        raise
    finally:
        mem.lock.busy -= 1
    return 0
