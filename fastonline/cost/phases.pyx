from libc.stdint cimport uint32_t
from libc.string cimport memset

import numpy as np

from fastonline.core.bitmap_engine cimport BitmapEngine, bitmap_online_page, bitmap_online_quickly
from fastonline.core.buffer cimport data_of
from fastonline.core.engine cimport Engine
from fastonline.core.numbers cimport as_number, as_uint64
from fastonline.core.pageflags cimport PG_prepared, PG_reserved
from fastonline.core.types cimport MAX_MAX_ORDER, word_t
from fastonline.hotplug.arguments cimport check_present
from fastonline.hotplug.section_states cimport count_onlined, range_went_online
from fastonline.hotplug.watermarks cimport init_per_zone_wmark_min, refresh

from fastonline.hotplug.notifier import MEM_GOING_ONLINE, MEM_ONLINE, NOTIFY_OK, MemoryNotify, NotifierChain

__all__ = [
    "PHASES", "built", "calibrate", "time_alloc", "time_ascending", "time_call", "time_calls", "time_in_order", "time_memset",
    "time_notify", "time_pages", "time_range", "time_range_call", "time_turnover", "words_searched",
]

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    enum:
        CLOCK_MONOTONIC_RAW
    int clock_gettime(int clock, timespec *out)

cdef extern from *:
    """
    #if defined(__clang__)
    #define FASTONLINE_COMPILER __VERSION__
    #else
    #define FASTONLINE_COMPILER "gcc " __VERSION__
    #endif
    #if defined(__x86_64__)
    #define FASTONLINE_AVX2 (__builtin_cpu_init(), __builtin_cpu_supports("avx2"))
    #else
    #define FASTONLINE_AVX2 0
    #endif
    """
    const char *FASTONLINE_COMPILER
    const char *CYTHON_ABI
    bint FASTONLINE_AVX2


def built():
    """Return how the extensions were built: {"compiler", "cython", "variant"}, all str. variant is "AVX2" when the kernels'
    AVX2 bodies run on this processor, else "plain"."""
    return {
        "compiler": FASTONLINE_COMPILER.decode(), "cython": CYTHON_ABI.decode().replace("_", "."),
        "variant": "AVX2" if FASTONLINE_AVX2 else "plain",
    }


# The phases of onlining in the order in which they happen, but for the notices, which come before and after the rest.
PHASES = ("prepare", "flags", "buddy", "accounting", "watermarks", "notify")

cdef int64_t clock_cost = 0


cdef int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC_RAW, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef int64_t since(int64_t start) noexcept nogil:
    cdef int64_t passed = now() - start - clock_cost
    return passed if passed > 0 else 0


def calibrate(readings=10000):
    """Measure what one reading of the clock costs, to be taken off from now on: the least of `readings` (1 to 1000000), in ns
    (int64_t)."""
    global clock_cost
    cdef int64_t least = 1 << 40, start, passed
    cdef uint32_t _, count = as_number(readings, "readings", 1, 1000000)
    with nogil:
        for _ in range(count):
            start = now()
            passed = now() - start
            if passed < least:
                least = passed
    clock_cost = least
    return least


calibrate()


# -- whole calls

def time_call(function, tuple args):
    """(ns, result) of one call of a Python function with these args."""
    cdef int64_t start = now()
    result = function(*args)
    return since(start), result


def time_calls(function, list arguments):
    """(ns, sum of the results) of a series of calls of a function, with one of the arguments each."""
    cdef int64_t start = now()
    total = 0
    for argument in arguments:
        total += function(argument)
    return since(start), total


cdef int64_t ascending(Memory mem, pfn_t start_pfn, uint64_t nr_pages, uint64_t *onlined) noexcept nogil:
    cdef int64_t start = now()
    cdef uint64_t done = 0
    cdef pfn_t pfn
    for pfn in range(start_pfn, start_pfn + nr_pages):
        done += mem.online_page(pfn) == 1
    onlined[0] = done
    return since(start)


cdef int64_t in_order(Memory mem, const uint64_t *pfns, uint64_t nr_pages, uint64_t *onlined) noexcept nogil:
    cdef int64_t start = now()
    cdef uint64_t done = 0, i
    for i in range(nr_pages):
        done += mem.online_page(pfns[i]) == 1
    onlined[0] = done
    return since(start)


def time_ascending(Memory mem not None, start_pfn, nr_pages):
    """(ns, pages that went online) of one Memory.online_page after the other, at C level and without the GIL, over the range
    start_pfn, nr_pages of mem (prepared, room made)."""
    cdef uint64_t onlined = 0, start = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
    cdef int64_t passed
    _held = mem.lock.hold()
    check_present(mem, start, nr, "time_ascending")
    _alone = mem.own()
    with nogil:
        passed = ascending(mem, start, nr, &onlined)
    return passed, onlined


cdef object checked_array(object array, object dtype, str name):
    """The array, if it is one that C can walk: TypeError for no array, ValueError for a wrong dtype, shape or layout."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, not {array!r}")
    if array.dtype != dtype or array.ndim != 1 or not array.flags.c_contiguous:
        raise ValueError(f"{name} must be a contiguous array of one dimension of {np.dtype(dtype)}")
    return array


def time_in_order(Memory mem not None, pfns):
    """As time_ascending, of mem, for an array of pfns (uint64, contiguous) in its order."""
    cdef object own = checked_array(pfns, np.uint64, "pfns").copy()      # another thread may change the caller's meanwhile
    cdef const uint64_t *order = <const uint64_t *>data_of(own)
    cdef uint64_t onlined = 0, nr = own.size
    cdef int64_t passed
    _alone = mem.own()
    with nogil:
        passed = in_order(mem, order, nr, &onlined)
    return passed, onlined


def time_range_call(Memory mem not None, start_pfn, nr_pages, order=-1):
    """(ns, pages that went online) of one mem.online_range(start_pfn, nr_pages, order) at C level and without the GIL: the
    kernel part of a whole range."""
    cdef uint64_t first = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
    cdef int block = -1 if order == -1 else <int>as_number(order, "order", 0, MAX_MAX_ORDER)
    cdef int64_t start, passed, onlined
    _alone = mem.own()
    with nogil:
        start = now()
        onlined = mem.online_range(first, nr, block)
        passed = since(start)
    return passed, onlined


def time_turnover(Memory mem not None, zone_nr, pfns):
    """(ns, pairs) of freeing a page and allocating one from zone zone_nr (Zone.nr) of mem, at C level and without the GIL, for
    each of the pages in use `pfns`, a list, which gets the pages allocated instead. ValueError when one is not in use, or the
    zone has no page."""
    cdef int zone = <int>as_number(zone_nr, "zone_nr", 0, (1 << 31) - 1)
    held = np.array(pfns, np.int64)
    cdef int64_t *p = <int64_t *>data_of(held)
    cdef int64_t start, passed, pfn = 0
    cdef Py_ssize_t i, nr = len(held)
    _alone = mem.own()
    with nogil:
        start = now()
        for i in range(nr):
            if mem.free_page(p[i], 0) < 0:
                pfn = -1
                break
            pfn = mem.alloc_page(zone, 0)
            if pfn < 0:
                break
            p[i] = pfn
        passed = since(start)
    if pfn < 0:
        raise ValueError(f"{p[i]} is not a page in use, or zone {zone} has no page")
    pfns[:] = held.tolist()
    return passed, nr


def time_alloc(Memory mem not None, zone_nr, order):
    """(ns, pfn) of one mem.alloc_page(zone_nr, order) at C level; pfn is -ENOMEM where there is no block of the order."""
    cdef int zone = <int>as_number(zone_nr, "zone_nr", 0, (1 << 31) - 1)
    cdef int block = <int>as_number(order, "order", 0, MAX_MAX_ORDER)
    cdef int64_t start, passed, pfn
    _alone = mem.own()
    with nogil:
        start = now()
        pfn = mem.alloc_page(zone, block)
        passed = since(start)
    return passed, pfn


def time_memset(room):
    """(ns, bytes) of one memset over an array `room` (uint8, contiguous): what merely writing so many bytes costs."""
    cdef void *data = data_of(checked_array(room, np.uint8, "room"))
    cdef size_t nr_bytes = room.size
    cdef int64_t start, passed
    if not room.flags.writeable:
        raise ValueError("room is read-only")
    with nogil:
        start = now()
        memset(data, 0xff, nr_bytes)
        passed = since(start)
    return passed, nr_bytes


def words_searched(Memory mem not None):
    """Words that the allocations of mem have looked at to find their blocks, those of the summary and of the free pages (int);
    0 for the struct_page engine, which looks at list heads only."""
    return mem.planes.searched if mem.planes is not None else 0


# -- phases

def time_notify(start_pfn, nr_pages):
    """ns of what one listener adds to online_pages(start_pfn, nr_pages): both notices made, and the chain called for
    GOING_ONLINE and ONLINE."""
    cdef int64_t start
    chain = NotifierChain()
    chain.register(_listen)
    start = now()
    chain.call(MEM_GOING_ONLINE, MemoryNotify(start_pfn, nr_pages, 0, -1))
    chain.tell(MEM_ONLINE, MemoryNotify(start_pfn, nr_pages, nr_pages, -1))
    return since(start)


def _listen(action, notice):
    return NOTIFY_OK


cdef int check_added(Memory mem, uint64_t start_pfn, uint64_t nr_pages) except -1:
    """The engine checks nothing, so that what is not wholly added and unprepared must not reach it."""
    check_present(mem, start_pfn, nr_pages, "timing")
    if mem.pages.weigh(PG_prepared, start_pfn, nr_pages) or mem.pages.weigh(PG_reserved, start_pfn, nr_pages) != nr_pages:
        raise ValueError(f"the {nr_pages} pages from {start_pfn:#x} are not all added and unprepared")
    return 0


cdef int64_t flags_only(Engine pages, BitmapEngine planes, const uint64_t *pfns, uint64_t nr) noexcept nogil:
    """ns of what Memory.online_page does to the flags of each page: if it is waiting, it is Reserved no more."""
    cdef int64_t start = now()
    cdef uint64_t i, w
    cdef word_t bit
    if planes is None:
        for i in range(nr):
            pages.clear_reserved(pfns[i], 1)
    else:
        for i in range(nr):
            w, bit = pfns[i] >> 6, (<word_t>1) << (pfns[i] & 63)
            if planes.flags.prepared[w] & planes.flags.reserved[w] & bit:
                planes.flags.reserved[w] &= ~bit
    return since(start)


cdef int64_t flags_and_buddy(Engine pages, BitmapEngine planes, const uint64_t *pfns, uint64_t nr) noexcept nogil:
    """ns of all that Memory.online_page lets the engine do: flags_only, and the page goes into the buddy allocator."""
    cdef int64_t start = now()
    cdef uint64_t i
    if planes is None:
        for i in range(nr):
            pages.online_page(pfns[i])
    else:
        for i in range(nr):
            if not bitmap_online_quickly(planes, pfns[i]):
                bitmap_online_page(planes, pfns[i])
    return since(start)


cdef object recompute_watermarks(Memory mem):
    """ns of one recomputation as the rules have it when pages go online."""
    cdef int64_t start = now()
    if mem.watermarks_at_mark:
        mem.zones.table.stale = True
        refresh(&mem.zones.table)
    else:
        init_per_zone_wmark_min(&mem.zones.table)
    return since(start)


def time_range(Memory mem not None, start_pfn, nr_pages, order):
    """Online a whole added range of mem twice, once in pieces and once by the real calls; return {step: ns}.

    start_pfn, nr_pages: unsigned long, a range that is added and not prepared (else ValueError, HotplugError); it is prepared
    and online afterwards. order: the largest block handed to the allocator at a time. Steps: "prepare" is prepare_online_pages;
    "flags" and "engine" are the flags alone, and the flags and the buddy allocator; "total" is mark_pages_onlined as a whole;
    "watermarks" is one recomputation; "notify" is what one listener adds. `cost.profile.parts` turns them into PHASES.
    """
    cdef uint64_t first = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages")
    cdef int block = as_number(order, "order", 0, mem.pages.max_order)
    cdef Engine pages
    cdef int64_t prepare, flags, engine, total, start
    _held = mem.lock.hold()
    check_added(mem, first, nr)
    mem.prepare_online_pages(first, nr)
    pages = mem.pages
    alone = mem.own()
    with nogil:
        start = now()
        pages.clear_reserved(first, nr)
        flags = since(start)
        pages.free_range(first, nr, block)
        engine = since(start)
        pages.account(first, nr)
        count_onlined(mem, first, nr, nr)
    alone = None
    mem.offline_pages(first, nr)
    prepare, _ = time_call(mem.prepare_online_pages, (first, nr))
    total, _ = time_call(mem.mark_pages_onlined, (first, nr, block))
    range_went_online(mem, first, nr)
    return {"prepare": prepare, "flags": flags, "engine": engine, "total": total,
            "watermarks": recompute_watermarks(mem), "notify": time_notify(start_pfn, nr_pages)}


def time_pages(Memory mem not None, start_pfn, nr_pages, pfns):
    """Online an added range of mem page by page three times, each time with more of the real path; return {step: ns}.

    start_pfn, nr_pages: as for time_range. pfns: uint64, contiguous: those of the range, each once. Steps as for time_range,
    page by page at C level: "flags" and "engine" run that part of Memory.online_page alone, "total" is Memory.online_page.
    "notify" is None: pages that go online at C level send no notification. "watermarks" is None where no mark asks for them.
    """
    cdef uint64_t first = as_uint64(start_pfn, "start_pfn"), nr = as_uint64(nr_pages, "nr_pages"), onlined = 0
    cdef object own = checked_array(pfns, np.uint64, "pfns").copy()      # another thread may change the caller's meanwhile
    cdef const uint64_t *each = <const uint64_t *>data_of(own)
    cdef Engine pages
    cdef BitmapEngine planes
    cdef int64_t prepare, flags, engine, total
    _held = mem.lock.hold()
    check_added(mem, first, nr)
    if not np.array_equal(np.sort(own), np.arange(first, first + nr, dtype=np.uint64)):
        raise ValueError(f"the pfns must be the {nr} pages from {first:#x}, each once")
    mem.prepare_online_pages(first, nr)
    pages, planes = mem.pages, mem.planes
    alone = mem.own()
    with nogil:
        flags = flags_only(pages, planes, each, nr)
        pages.free_range(first, nr, 0)
        pages.account(first, nr)
        count_onlined(mem, first, nr, nr)
    alone = None
    mem.offline_pages(first, nr)
    mem.prepare_online_pages(first, nr)
    alone = mem.own()
    with nogil:
        engine = flags_and_buddy(pages, planes, each, nr)
        count_onlined(mem, first, nr, nr)
    alone = None
    mem.offline_pages(first, nr)
    prepare, _ = time_call(mem.prepare_online_pages, (first, nr))
    alone = mem.own()
    with nogil:
        total = in_order(mem, each, nr, &onlined)
    alone = None
    if onlined != nr:
        raise AssertionError(f"{onlined} of {nr} pages went online")
    return {"prepare": prepare, "flags": flags, "engine": engine, "total": total,
            "watermarks": recompute_watermarks(mem) if mem.watermarks_at_mark else None, "notify": None}
