import numpy as np

from cpython.exc cimport PyErr_CheckSignals

from fastonline.core.buffer cimport data_of
from fastonline.core.lock cimport PyThreadState
from fastonline.core.pageflags cimport PG_buddy, PG_offline, PG_prepared, PG_reserved, PG_tail
from fastonline.core.types cimport uint8_t
from fastonline.hotplug.arguments cimport check_range
from fastonline.hotplug.interruptible cimport pages_between_signals

from fastonline.core.pageflags import (
    FLAG_NAMES, KPF_BUDDY, KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL, KPF_DIRTY, KPF_NOPAGE, KPF_OFFLINE, KPF_OWNER_PRIVATE,
    KPF_RESERVED,
)

__all__ = ["Flags"]


class Flags:
    """The page flags of a machine: ``flags["PG_reserved"]`` is a read-only uint64 array with pfn i at word i/64, bit i%64.

    With the bitmap engine the array is the plane itself, without a copy. It follows the machine until memory grows beyond the
    room reserved (give ``max_memory`` to reserve all of it). With the struct_page engine it is a copy. view: the engine's
    function that returns the array."""

    __slots__ = ("_view",)

    def __init__(self, view):
        self._view = view

    def __repr__(self):
        return f"<Flags {', '.join(FLAG_NAMES)}>"

    def __getitem__(self, name):
        if name not in FLAG_NAMES:
            raise KeyError(f"unknown page flag {name!r} (expected {', '.join(FLAG_NAMES)})")
        return self._view(name)

    def __iter__(self):
        return iter(FLAG_NAMES)

    def __len__(self):
        return len(FLAG_NAMES)

    def keys(self):
        """Return the names of the flags."""
        return list(FLAG_NAMES)


cdef object page_states(Machine mem, uint64_t start, uint64_t nr):
    """Return an (nr,) uint8 array of PG_* masks, 0 where there is no page."""
    cdef uint64_t there, at = 0, part
    cdef uint8_t *out
    cdef PyThreadState *thread
    check_range(mem, start, nr, "page_states")
    states = np.zeros(nr, np.uint8)
    out = <uint8_t *>data_of(states)
    there = min(nr, mem.pages.nr_pages - min(start, mem.pages.nr_pages))
    while at < there:
        part = min(there - at, pages_between_signals(mem))
        thread = mem.lock.let_go(part * (mem.pages.page_bits + 8))
        mem.pages.states(start + at, part, out + at)
        mem.lock.take_back(thread)
        at += part
        if at < there:
            PyErr_CheckSignals()
    return states


cdef object kpageflags(Machine mem, uint64_t start, uint64_t nr):
    """Return an (nr,) uint64 array of KPF_* masks (stable_page_flags): NOPAGE in offline sections, RESERVED for holes and
    waiting pages of online ones; since 6.11 waiting pages of added memory are OFFLINE. Pages that a callback keeps also have
    its kept_flags. A memmap on memory is OWNER_PRIVATE (PageVmemmapSelfHosted)."""
    cdef int next_state
    cdef uint64_t waiting = KPF_OFFLINE if mem.rules.waits_offline else KPF_RESERVED
    cdef uint64_t shift = mem.sections.pfn_section_shift, section, first, pages
    if mem.kept_flags & KPF_DIRTY:
        waiting = 0          # virtio_mem_set_fake_offline clears PG_reserved
    shown = np.zeros((2, 256), np.uint64)        # of a page's state, where memory was added and where it is early
    for flag, kpf_flag in (
        (PG_buddy, KPF_BUDDY), (PG_reserved, KPF_RESERVED), (PG_offline, KPF_OFFLINE), (PG_tail, KPF_COMPOUND_TAIL),
    ):
        shown[:, np.arange(256) & flag != 0] = kpf_flag
    shown[0, np.arange(256) & PG_reserved != 0] = waiting | mem.kept_flags
    states = page_states(mem, start, nr)
    kpf = np.zeros(nr, np.uint64)
    sections = {
        section: slice(max(section << shift, start) - start, min(section + 1 << shift, start + nr) - start)
        for section in range(start >> shift, (start + nr + (1 << shift) - 1) >> shift)
    }
    for section, own in sections.items():
        kpf[own] = shown[int(mem.sections.early_section_nr(section))][states[own]]
    next_state = mem.pages.state(start + nr) if start + nr < mem.pages.nr_pages else 0
    tail_follows = np.append(states[1:], np.uint8(next_state)) & PG_tail != 0
    kpf[(states == PG_prepared) & tail_follows] = KPF_COMPOUND_HEAD
    for section, ((first, pages), *_) in mem.memmap_of.items():
        if section << mem.sections.pfn_section_shift == first and first < start + nr and start < first + pages:
            own = slice(max(first, start) - start, min(first + pages, start + nr) - start)
            kpf[own] = KPF_OWNER_PRIVATE if mem.rules.waits_offline else KPF_OWNER_PRIVATE | KPF_RESERVED
    for section, own in sections.items():
        if not mem.sections.online_section_nr(section):
            kpf[own] = KPF_NOPAGE
    return kpf
