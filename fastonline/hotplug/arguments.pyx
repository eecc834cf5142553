import errno
from collections.abc import Iterable

import numpy as np
from numpy import ndarray

from libc.errno cimport EINVAL, ENOMEM

from fastonline.core.bitmap cimport find_next_bit
from fastonline.core.buffer cimport (
    NPY_ARRAY_ALIGNED, NPY_LONG, NPY_LONGLONG, NPY_UINT, NPY_ULONG, NPY_ULONGLONG, numpy_array,
)
from fastonline.core.engine cimport BATCH_CHANGED, BATCH_NO_MEMORY, BATCH_OK, BATCH_OUT_OF_RANGE, pfn_at
from fastonline.core.numbers cimport as_number, as_uint64
from fastonline.core.lock cimport PyThreadState, settle
from fastonline.core.threads cimport MAX_THREADS
from fastonline.core.types cimport uint32_t
from fastonline.hotplug.machine cimport has_owner
from fastonline.hotplug.types cimport MAX_NUMNODES, MMOP_ONLINE, MMOP_ONLINE_MOVABLE

from fastonline.core.ram import array_of
from fastonline.errors import HotplugError, is_number, pfn_range
from fastonline.geometry import as_geometry, format_size, pages_of_size
from fastonline.rules import as_rules

ENGINES = ("bitmap", "struct_page")
MEMMAPS = ("kernel", "on_memory")

__all__ = ["ENGINES", "MEMMAPS"]


# -- a machine

cdef list set_arguments(
    Machine mem, object geometry, object boot, object rules, object engine, object max_memory, object memory_block_size,
    object memmap
):
    """Set what Memory() is given; the ranges of boot memory: (start_pfn, nr_pages, nid, reserved pages), ascending."""
    cdef list ranges
    geometry, rules = as_geometry(geometry), as_rules(rules)
    if engine not in ENGINES:
        raise ValueError(f"invalid engine {engine!r} (expected 'bitmap' or 'struct_page')")
    mem.geometry = geometry
    mem.rules = rules
    mem.engine = engine
    mem.max_pfn = geometry.max_pfn
    if max_memory is not None:
        mem.max_pfn = pages_of_size(max_memory, geometry.page_size, "max_memory")
        if not 0 < mem.max_pfn <= geometry.max_pfn:
            raise ValueError(
                f"max_memory {max_memory!r} is not between one page and the "
                f"{format_size(geometry.max_pfn * geometry.page_size)} "
                f"that {geometry.name} can address"
            )
    ranges = boot_ranges(mem, boot)
    mem.pages_per_block = pages_of_block(geometry, rules, memory_block_size, ranges[len(ranges) - 1] if ranges else (0, 0))
    if memmap is not None and memmap not in MEMMAPS:
        raise ValueError(f"invalid memmap {memmap!r} (expected None, 'kernel' or 'on_memory')")
    if memmap == "on_memory" and not rules.memmap_on_memory:
        raise ValueError(f"memmap 'on_memory': no memmap_on_memory before 5.13, the rules are Linux {rules.name}'s")
    mem.memmap = memmap
    return ranges


cdef list boot_ranges(Machine mem, object boot):
    """The ranges that `boot` means: a size from pfn 0 on, or tuples of a range each. ValueError where they are misplaced."""
    if boot is None:
        return []
    if isinstance(boot, str) or is_number(boot):
        pages = pages_of_size(boot, mem.geometry.page_size, "boot")
        if pages > mem.max_pfn:
            raise ValueError(
                f"boot memory of {boot!r} is more than the {format_size(mem.max_pfn * mem.geometry.page_size)} there can be"
            )
        return [(0, pages, 0, 0)] if pages else []
    ranges, last = [], 0
    if not isinstance(boot, Iterable):
        raise TypeError(f"boot must be a size or ranges (start_pfn, nr_pages[, nid[, reserved]]), not {boot!r}")
    for given in sorted([tuple(part) for part in boot]):
        if not 2 <= len(given) <= 4:
            raise ValueError(f"a range of boot memory must be (start_pfn, nr_pages[, nid[, reserved]]), not {given!r}")
        start, nr, nid, reserved = (*given, 0, 0)[:4]
        start, nr = as_uint64(start, "start_pfn"), as_uint64(nr, "nr_pages")
        nid = as_number(nid, "nid", 0, MAX_NUMNODES - 1)
        reserved = as_number(reserved, "reserved", 0, max(nr, 1))
        if start < last or nr == 0 or start + nr > mem.max_pfn:
            raise ValueError(f"boot memory {given!r} is empty, overlaps another range or goes past pfn {mem.max_pfn:#x}")
        last = start + nr
        ranges.append((start, nr, nid, reserved))
    return ranges


cdef object pages_of_block(object geometry, object rules, object memory_block_size, object last):
    if memory_block_size is None:
        return geometry.pages_per_section
    if memory_block_size == "auto":
        return probed_block_pages(geometry, rules, (last[0] + last[1]) * geometry.page_size)
    pages = pages_of_size(memory_block_size, geometry.page_size, "memory_block_size")
    sections = pages // geometry.pages_per_section
    if pages % geometry.pages_per_section or not sections or sections & (sections - 1) or pages > geometry.max_pfn:
        raise ValueError(
            f"memory_block_size {memory_block_size!r} is not 1, 2, 4, 8... sections of {format_size(geometry.section_size)}"
        )
    if sections > 1 and not rules.large_blocks:
        raise ValueError(
            f"memory_block_size {memory_block_size!r}: a memory block of Linux {rules.name} is one section, "
            f"{format_size(geometry.section_size)}"
        )
    return pages


cdef object probed_block_pages(object geometry, object rules, object end):
    """probe_memory_block_size (arch/x86/mm/init_64.c, as in a guest): a section below 64 GiB of boot memory, then the largest
    size up to 2 GiB that divides its end. Other architectures, and 2.6.25: a section."""
    size = geometry.section_size
    if geometry.name == "X86_64" and rules.large_blocks and end >= 64 << 30:
        size = 2 << 30
        while size > geometry.section_size and end % size:
            size >>= 1
    return size // geometry.page_size


# -- numbers

cdef uint64_t as_pages(Machine mem, object value, str what) except? 0xFFFFFFFFFFFFFFFF:
    """A pfn or a count of pages; text is a size, such as "512M"."""
    if not isinstance(value, str):
        return as_uint64(value, what)
    if value.strip().isdigit():
        raise TypeError(f"{what} must be an int, or text with a unit such as '512M', not {value!r}")
    settle(mem.lock)
    return pages_of_size(value, mem.geometry.page_size, what)


cdef tuple as_group(object group):
    """(name, unit_pages) of a dynamic memory group."""
    if not isinstance(group, tuple) or len(group) != 2 or not isinstance(group[0], str):
        raise TypeError(f"a dynamic memory group must be (name, unit_pages), not {group!r}")
    return group[0], <object>as_number(group[1], "unit_pages", 1, <uint64_t>1 << 52)


cdef int as_threads(object threads) except -1:
    if threads is 1:
        return 1
    if is_number(threads) and not 1 <= threads <= MAX_THREADS:
        raise ValueError(f"threads {threads} is not between 1 and {MAX_THREADS}")
    return as_number(threads, "threads", 1, MAX_THREADS)


cdef int as_online_type(object online_type) except -1:
    """MMOP_ONLINE, MMOP_ONLINE_KERNEL or MMOP_ONLINE_MOVABLE."""
    return as_number(online_type, "online_type", MMOP_ONLINE, MMOP_ONLINE_MOVABLE)


cdef int as_order(object value, int max_order) except -1:
    cdef uint64_t order = as_uint64(value, "order")
    if order > <uint64_t>max_order:
        raise ValueError(f"invalid order {value} (expected 0 to {max_order}, MAX_PAGE_ORDER)")
    return <int>order


cdef object as_pfn_array(object pfns):
    """One-dimensional, contiguous, aligned, uint32, uint64 or int64. (Negative ones are out of range, as huge ones are.)"""
    array = array_of(pfns)
    if array.ndim != 1:
        raise ValueError(f"pfns must be an array of one dimension, not {array.ndim}")
    if array.size == 0:
        return np.empty(0, np.uint64)
    if array.dtype.kind not in "iu":
        if array.dtype == object and all([isinstance(pfn, int) for pfn in array]):
            for pfn in array:
                as_uint64(pfn, "a pfn")
        raise TypeError(f"pfns must be integers, not {array.dtype}: {array[:3].tolist()!r}...")
    if array.dtype != np.uint32:
        array = array.astype(np.uint64 if array.dtype.kind == "u" else np.int64, copy=False)
    array = np.ascontiguousarray(array)
    return array if array.flags.aligned else array.copy()


cdef bint points_into(pfn_batch *batch, object array) noexcept:
    """Make the batch the data of an array, if that is of a width and order that a batch can have."""
    cdef numpy_array *given = <numpy_array *><void *>array
    cdef int kind, size
    if type(array) is not ndarray or given.nd != 1 or not given.flags & NPY_ARRAY_ALIGNED or given.dtype.byteorder != c"=":
        return False
    kind = given.dtype.type_num
    size = sizeof(int) if kind == NPY_UINT else sizeof(long) if kind in (NPY_LONG, NPY_ULONG) \
        else sizeof(long long) if kind in (NPY_LONGLONG, NPY_ULONGLONG) else 0
    if given.shape[0] > 1 and given.strides[0] != size:
        return False
    batch[0] = pfn_batch(NULL, NULL, given.shape[0], 0, 0, False)
    if size == 8:
        batch.pfns64 = <const uint64_t *>given.data
    elif size == 4 and kind != NPY_LONG:
        batch.pfns32 = <const uint32_t *>given.data
    else:
        return False
    return True


cdef object as_batch(object pfns, pfn_batch *batch):
    """The batch of any array of pfns, not yet gathered. The caller keeps what is returned while it uses the batch."""
    if not points_into(batch, pfns):
        pfns = as_pfn_array(pfns)
        points_into(batch, pfns)
    return pfns


# -- ranges

cdef int check_range(Machine mem, uint64_t start, uint64_t nr, str what) except -1:
    if nr == 0:
        raise HotplugError.of(errno.EINVAL, f"{what} of zero pages at pfn {start:#x}")
    if nr > mem.max_pfn or start > mem.max_pfn - nr:
        raise HotplugError.of(
            errno.EINVAL, f"{what} of {pfn_range(int(start), int(nr))}: memory ends at pfn {mem.max_pfn:#x}"
        )
    return 0


cdef int check_present(Machine mem, uint64_t start, uint64_t nr, str what) except -1:
    cdef uint64_t section
    check_range(mem, start, nr, what)
    section = mem.sections.missing(start, nr)
    if section != <uint64_t>-1:
        raise HotplugError.of(
            errno.EINVAL, f"{what} of {pfn_range(start, nr)}: section {section} is not present (call add_memory first)"
        )
    return 0


cdef int check_pfn(Machine mem, object pfn, str what) except -1:
    """ValueError for a pfn that is negative or past the end of memory."""
    if not 0 <= pfn < mem.max_pfn:
        raise ValueError(f"{what} = {pfn if pfn < 0 else hex(pfn)} is out of range: memory ends at pfn {mem.max_pfn:#x}")
    return 0


# -- batches

cdef int64_t find_owned(Machine mem, uint64_t start, uint64_t nr) noexcept nogil:
    """The first page of a range that MovablePages own, or -1."""
    cdef uint64_t end, pfn
    if mem.owned is None or start >= mem.owned.nbits:
        return -1
    end = start + min(nr, mem.owned.nbits - start)
    pfn = find_next_bit(mem.owned.words, end, start)
    return pfn if pfn < end else -1


cdef int64_t find_owned_in(Machine mem, const pfn_batch *batch) noexcept nogil:
    """The first page of a batch that MovablePages own, or -1."""
    cdef uint64_t i
    if mem.owned is not None:
        for i in range(batch.nr):
            if has_owner(mem, pfn_at(batch, i)):
                return pfn_at(batch, i)
    return -1


cdef int gather(Machine mem, pfn_batch *batch, object array) except -1:
    """Gather the batch of an array (as_batch), which is not empty, or say which pfn is wrong; nothing is gathered then."""
    cdef uint64_t bad = 0
    cdef int why
    cdef PyThreadState *thread
    thread = mem.lock.let_go(batch.nr * (mem.pages.page_bits + 64))
    why = mem.pages.gather(batch, &bad)
    mem.lock.take_back(thread)
    if why == BATCH_OK:
        return 0
    if why == BATCH_NO_MEMORY:
        raise MemoryError(f"cannot allocate a batch of {batch.nr} pages")
    if why == BATCH_CHANGED:
        raise ValueError("the array of pfns changed while it was read")
    pfn = int(array[bad])
    if why == BATCH_OUT_OF_RANGE:
        check_pfn(mem, pfn, f"pfns[{bad}]")
        # past the room made so far, where no section has been added; a pfn past the end of memory is a worse mistake
        for i in np.flatnonzero((array < 0) | (array >= mem.max_pfn))[:1].tolist():
            check_pfn(mem, int(array[i]), f"pfns[{i}]")
        raise HotplugError.of(errno.EINVAL, f"pfns[{bad}] = {pfn:#x}: its section is not present")
    raise ValueError(f"pfns[{bad}] = {pfn:#x} is given twice")


cdef int try_gather(Machine mem, const uint64_t *pfns, uint64_t nr, pfn_batch *batch) noexcept nogil:
    """Gather pages for a call of the C API: 1, or nothing is gathered: 0 where there are none, -ENOMEM or -EINVAL."""
    cdef uint64_t bad
    cdef int why
    if nr == 0:
        return 0
    batch[0] = pfn_batch(NULL, pfns, nr, 0, 0, False)
    why = mem.pages.gather(batch, &bad)
    return 1 if why == BATCH_OK else -ENOMEM if why == BATCH_NO_MEMORY else -EINVAL
