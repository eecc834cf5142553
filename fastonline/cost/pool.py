"""Executors for a sweep: a pool of processes that outlives its workers' deaths, and a Dask cluster."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import fastonline

DASK_TIMEOUT = 10.0     # s to reach a scheduler
PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3      # mallopt(3)
KEPT = 32 << 20     # bytes, the most that glibc allows for M_MMAP_THRESHOLD


class Pool:
    """A pool of `jobs` processes; when a worker dies, the next submit starts a new pool. Its workers end with their parent, and
    leave Ctrl-C to it. keep: they call keep_memory. RuntimeError if the workers do not start."""

    def __init__(self, jobs: int, keep: bool = False) -> None:
        self._jobs = jobs
        self._keep = keep
        self._pool = self._start()

    def _start(self):
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self._jobs, context, initializer=_begin_worker, initargs=(self._keep,))
        try:
            first, *_ = [pool.submit(os.getpid) for _ in range(self._jobs)]
            first.result()
        except BrokenExecutor:
            raise RuntimeError("the worker processes do not start; a script has to start them under "
                               "`if __name__ == '__main__':`, since each imports the script") from None
        return pool

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Call fn(*args) in a worker. Returns a Future."""
        try:
            return self._pool.submit(fn, *args)
        except BrokenExecutor:
            self._pool.shutdown(wait=False)
            self._pool = self._start()
            return self._pool.submit(fn, *args)

    def close(self) -> None:
        """Let the workers finish, and end them."""
        self._pool.shutdown(cancel_futures=True)

    def kill(self) -> None:
        """End the workers at once."""
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        self._pool.shutdown(cancel_futures=True)


def _begin_worker(keep):
    if keep:
        keep_memory(True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError, AttributeError):      # another system than Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:      # it ended before prctl: no signal will come
        os._exit(1)


def keep_memory(keep: bool) -> None:
    """From now on this process keeps freed memory, up to KEPT bytes, for its next arrays. keep False: what it keeps goes back,
    and MALLOC_TRIM_THRESHOLD_ holds again; without it the limits stay, since glibc raises them by itself as arrays are freed.

    What goes back to the kernel between two runs costs page faults, a third of a run's time where Dask starts workers with a
    MALLOC_TRIM_THRESHOLD_. Nothing happens without glibc.
    """
    trim = None if keep else os.environ.get("MALLOC_TRIM_THRESHOLD_")
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT if trim is None else 128 << 10)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT if trim is None else int(trim))
        if not keep:
            libc.malloc_trim(0)


@contextmanager
def dask_executor(address: str) -> Iterator[tuple[Any, int]]:
    """(executor, workers) of the Dask cluster whose scheduler is at `address`.

    ImportError without distributed; OSError when the scheduler cannot be reached in DASK_TIMEOUT seconds; ValueError naming the
    worker without fastonline, or with another version, and for a cluster without workers.
    """
    try:
        import distributed
    except ImportError as e:
        raise ImportError("a Dask cluster needs distributed: pip install 'fastonline[dask]'") from e
    try:
        client = distributed.Client(address, timeout=DASK_TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as e:
        raise OSError(f"no Dask scheduler at {address}: {e}") from None
    with client:
        # eval is the one function that a worker without fastonline can be sent
        versions = client.run(eval, "__import__('fastonline').__version__", on_error="return")
        if not versions:
            raise ValueError(f"the cluster at {address} has no workers")
        for worker, version in versions.items():
            if isinstance(version, BaseException):
                raise ValueError(f"worker {worker} has no fastonline: {type(version).__name__}: {version}")
            if version != fastonline.__version__:
                raise ValueError(f"worker {worker} has fastonline {version}, not {fastonline.__version__}")
        threads = sum(client.nthreads().values())
        client.run(keep_memory, True)
        yield client.get_executor(pure=False), threads
        client.run(keep_memory, False)
