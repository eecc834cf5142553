import errno
import os

from libc.errno cimport errno as c_errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

__all__ = ["ADVICE", "Counters", "HARDWARE", "SOFTWARE", "explain", "scaled"]

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)
cdef extern from "<sys/syscall.h>" nogil:
    long SYS_perf_event_open
cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)
cdef extern from "<linux/perf_event.h>" nogil:
    enum:
        PERF_TYPE_HARDWARE
        PERF_TYPE_SOFTWARE
        PERF_COUNT_HW_CPU_CYCLES
        PERF_COUNT_HW_INSTRUCTIONS
        PERF_COUNT_HW_CACHE_MISSES
        PERF_COUNT_HW_BRANCH_MISSES
        PERF_COUNT_SW_TASK_CLOCK
        PERF_COUNT_SW_PAGE_FAULTS
        PERF_FORMAT_GROUP
        PERF_FORMAT_TOTAL_TIME_ENABLED
        PERF_FORMAT_TOTAL_TIME_RUNNING
        PERF_FLAG_FD_CLOEXEC
        PERF_EVENT_IOC_ENABLE
        PERF_EVENT_IOC_DISABLE
        PERF_IOC_FLAG_GROUP
    struct perf_event_attr:
        uint32_t type
        uint32_t size
        uint64_t config
        uint64_t read_format
        uint64_t disabled
        uint64_t exclude_kernel
        uint64_t exclude_hv

# (type, config) of each event by name (perf_event_open(2))
HARDWARE = {
    "cycles": (PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES),
    "instructions": (PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS),
    "cache misses": (PERF_TYPE_HARDWARE, PERF_COUNT_HW_CACHE_MISSES),
    "branch misses": (PERF_TYPE_HARDWARE, PERF_COUNT_HW_BRANCH_MISSES),
}
SOFTWARE = {
    "task clock": (PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK),
    "page faults": (PERF_TYPE_SOFTWARE, PERF_COUNT_SW_PAGE_FAULTS),
}

# What refused an event, and what to do about it.
ADVICE = {
    errno.ENOENT: "this machine has no such counters; most virtual machines show their guest none",
    errno.ENODEV: "this processor has no such counters",
    errno.EOPNOTSUPP: "this processor has no such counters",
    errno.EACCES: "not permitted; root may lower /proc/sys/kernel/perf_event_paranoid to 2 or less, or grant CAP_PERFMON",
    errno.EPERM: "not permitted; root may lower /proc/sys/kernel/perf_event_paranoid to 2 or less, grant CAP_PERFMON, or "
                 "let the container's seccomp filter pass perf_event_open",
    errno.ENOSYS: "this kernel has no perf events (CONFIG_PERF_EVENTS), or a sandbox hides them",
    errno.EMFILE: "too many open files (ulimit -n)",
}


cdef int event_open(uint32_t kind, uint64_t config, int leader) noexcept nogil:
    """perf_event_open for this thread on any processor, user space only; the leader starts stopped. A file, or -errno."""
    cdef perf_event_attr attr
    cdef long fd
    memset(&attr, 0, sizeof(attr))
    attr.size = sizeof(attr)
    attr.type = kind
    attr.config = config
    attr.read_format = PERF_FORMAT_GROUP | PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING
    attr.disabled = leader < 0
    attr.exclude_kernel = 1
    attr.exclude_hv = 1
    fd = syscall(SYS_perf_event_open, &attr, 0, -1, leader, <unsigned long>PERF_FLAG_FD_CLOEXEC)
    return fd if fd >= 0 else -c_errno


def explain(int number):
    """Why counters cannot be opened: one line for `number`, an errno (positive) of perf_event_open(2)."""
    return f"{errno.errorcode.get(number, number)}: {ADVICE.get(number, os.strerror(number))}"


def scaled(count, enabled, running):
    """A count as if its events had been counted all of the `enabled` ns and not only for `running` of them: the kernel shares
    too few counters out in turn. 0 if never."""
    return count * enabled / running if running else 0


cdef class Counters:
    """A group of perf events of the calling thread, in user space, all counted over the same stretch of time.

    events: dict of name -> (type, config), HARDWARE unless given. `events` are the names that could be opened, `missing` is
    {name: reason} of the others, `empty` what counting an empty call counts, which is taken off every count. OSError with the
    first one's errno and reason when there is none. Close it, or use `with`.
    """

    cdef readonly list events
    """Names of the events that are counted."""
    cdef readonly dict missing
    """{name: reason} of the events that cannot be counted."""
    cdef readonly dict empty
    """{name: count} of an empty call, which is taken off every count."""
    cdef list fds
    cdef int leader

    def __cinit__(self, dict events not None=HARDWARE):
        cdef int fd, first = 0
        self.events, self.missing, self.fds, self.leader = [], {}, [], -1
        for name, (kind, config) in events.items():
            fd = event_open(kind, config, self.leader)
            if fd < 0:
                first = first or -fd
                self.missing[name] = explain(-fd)
                continue
            if self.leader < 0:
                self.leader = fd
            self.fds.append(fd)
            self.events.append(name)
        if self.leader < 0:
            raise OSError(first or errno.EINVAL, explain(first or errno.EINVAL))
        self.calibrate(_nothing, ())

    def calibrate(self, function, tuple args):
        """Take off from now on what a call of this function with these args, which does nothing, counts: the least of
        100."""
        self.empty = dict.fromkeys(self.events, 0)
        runs = [self.count(function, args)[1] for _ in range(100)]
        self.empty = {name: min([run[name] for run in runs]) for name in self.events}

    def close(self):
        """Give the files back; counting afterwards raises ValueError."""
        self.leader = -1
        while self.fds:
            os.close(self.fds.pop())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __dealloc__(self):
        if self.fds is not None:
            self.close()

    def read(self):
        """(ns enabled, ns running, raw count of each event) since the group was opened."""
        words = memoryview(os.read(self.leader, 8 * (3 + len(self.events)))).cast("Q").tolist()
        return words[1], words[2], words[3:]

    def count(self, function, tuple args):
        """(result, {event: count}, share) of one call function(*args): counted from just before it to just after, less what an
        empty call counts.

        share: of the call, how much the events were really being counted for, 0 to 1; below 1 the counts are scaled up by it,
        at 0 they are 0 and say nothing. What other threads do is not counted.
        """
        cdef int leader = self.leader
        if leader < 0:
            raise ValueError("these counters are closed")
        enabled, running, before = self.read()
        ioctl(leader, PERF_EVENT_IOC_ENABLE, PERF_IOC_FLAG_GROUP)
        try:
            result = function(*args)
        finally:
            ioctl(leader, PERF_EVENT_IOC_DISABLE, PERF_IOC_FLAG_GROUP)
        enabled_now, running_now, after = self.read()
        enabled, running = enabled_now - enabled, running_now - running
        counts = {
            name: max(scaled(b - a, enabled, running) - self.empty[name], 0)
            for name, a, b in zip(self.events, before, after, strict=True)
        }
        return result, counts, running / enabled if enabled else 0.0


def _nothing():
    return None
