import numpy as np

__all__ = ["array_of", "available_bytes"]

# So many bytes are written between two looks at what is available.
cdef enum:
    BETWEEN_LOOKS = 268435456

cdef uint64_t unseen = 0         # bytes written since the last look


def available_bytes():
    """Bytes that can be written before the system runs out of memory (int), as far as is known: MemAvailable and
    SwapFree of /proc/meminfo, and what the control group of a container leaves. 2^63 if unknown."""
    available = 1 << 63
    try:
        with open("/proc/meminfo") as file:
            known = {line.partition(":")[0]: 1024 * int(line.partition(":")[2].split()[0]) for line in file}
        available = known["MemAvailable"] + known.get("SwapFree", 0)      # MemAvailable: 3.14
    except (KeyError, IndexError, OSError, ValueError):
        pass
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            with open(limit) as most, open(used) as now:
                available = min(available, max(0, int(most.read()) - int(now.read())))
        except (OSError, ValueError):
            pass
    return available


cdef int check_ram(uint64_t nr_bytes) except -1:
    global unseen
    if nr_bytes < <uint64_t>BETWEEN_LOOKS - unseen:
        unseen += nr_bytes
        return 0
    available = available_bytes()
    if nr_bytes > available:
        raise MemoryError(f"{nr_bytes} bytes cannot be written: {available} bytes of memory are available")
    unseen = 0
    return 0


def array_of(values, dtype=None):
    """Return ``np.asarray(values, dtype)``. MemoryError if the array needs more memory than there is: a range of 2^40 elements
    is a small object itself."""
    if isinstance(values, np.ndarray):
        return np.asarray(values, dtype)
    try:
        length = len(values)
    except TypeError:
        length = 0
    except OverflowError:
        length = 1 << 63
    # numpy.arange divides doubles to find its length: exact as far as this
    if isinstance(values, range) and -(1 << 52) <= values.start <= 1 << 52 and -(1 << 52) <= values.stop <= 1 << 52:
        check_ram(8 * length)
        return np.arange(values.start, values.stop, values.step, np.int64).astype(dtype or np.int64, copy=False)
    check_ram(min((48 if isinstance(values, range) else 8) * length, 1 << 63))     # NumPy makes a list of int of a range
    return np.asarray(values, dtype)
