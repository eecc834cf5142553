"""How fast and how large guests grow: the drivers, their host, and the runs of `fastonline compare`."""

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import numpy as np
from paths import least_of, per

import fastonline as fo
from fastonline.cost.compare import run_one
from fastonline.cost.phases import time_call
from fastonline.cost.pool import Pool, dask_executor, keep_memory
from fastonline.cost.scenario import scenario
from fastonline.cost.strategies import STRATEGIES
from fastonline.cost.sweep import grid, summary, sweep
from fastonline.drivers.hypervisor import Domain, Host, ResidentDomain
from fastonline.drivers.virtio_balloon import VirtioBalloonDriver
from fastonline.drivers.xen import XEN_3_1, XenBalloon

BIG_GUEST = """
import sys, time
from fastonline.cost.compare import run_one
from fastonline.cost.scenario import Scenario
gib = 1 << 30
sizes = [16, 24, 32, 40, 48, 56, 60, 64, 60, 56, 48, 40, 32, 24, 16, 8]
steps = tuple((60.0 * (i + 1), size * gib) for i, size in enumerate(sizes))
big = Scenario("big", 8 * gib, 128 * gib, ((0.0, 8 * gib), *steps), maximum=64 * gib)
start = time.process_time()
run_one(big, sys.argv[1])
print(time.process_time() - start)
# ru_maxrss has what the parent had
print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def one_run(repeat):
    """ns of a run of `thread` by split, as a sweep makes one after the other."""
    thread = scenario("thread")
    keep_memory(True)
    found = least_of(repeat, lambda: run_one(thread, "split"))
    keep_memory(False)
    return found


def xen_section(repeat):
    """ns of a section of 2.6.25 that XEN_3_1 adds, onlines page by page into its balloon, and populates page by page."""
    made = []

    def reset():
        mem = fo.Memory(fo.X86_32_PAE, boot="1G", rules=fo.LINUX_2_6_25, max_memory="2G")
        made[:] = [XenBalloon(mem, Domain(Host("2G"), "1G"), XEN_3_1, batch=1)]
        made[0].set_target("1.5G")
    return least_of(repeat, lambda: made[0].work(0.0), reset)


def reporting(repeat):
    """ns of a look for free blocks that finds nothing new, 4 GiB guest."""
    driver = VirtioBalloonDriver(fo.Memory(fo.X86_64, boot="4G"), ResidentDomain(Host("8G")), reporting=True)
    driver.report_free_pages()
    return least_of(repeat, driver.report_free_pages)


def host(repeat):
    """{what: ns} of a host of 64 GiB: to be made, and to give 2 MiB."""
    large = Host("64G")
    Domain(large, "8G")
    return {"made": least_of(repeat, lambda: Host("64G")), "2 MiB": least_of(repeat, lambda: large.take(1, 0, 9))}


def touch(repeat, size_gib=19):
    """ns a page of the first touch of so many GiB."""
    pfns, made = np.arange(size_gib << 18), []

    def reset():
        made[:] = [ResidentDomain(Host(f"{size_gib + 5}G"))]
    return per(pfns.size, least_of(repeat, lambda: made[0].touch(pfns), reset))


def big_guests(repeat):
    """{strategy: (least s of CPU, most MiB)} of a 64 GiB guest with 8 steps up and 8 down, each in a process of its own."""
    found = {}
    for name in STRATEGIES:
        lines = [subprocess.run([sys.executable, "-c", BIG_GUEST, name], capture_output=True, check=True).stdout.split()
                 for _ in range(repeat)]
        found[name] = min(float(line[0]) for line in lines), max(float(line[1]) for line in lines)
    return found


@contextmanager
def processes(workers):
    """The pool of so many processes that `fastonline sweep --jobs` makes."""
    pool = Pool(workers, keep=True)
    yield pool
    pool.close()


@contextmanager
def dask(workers):
    """An executor on a Dask cluster of so many processes; ImportError without distributed."""
    from distributed import LocalCluster
    with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster, \
            dask_executor(cluster.scheduler_address) as (executor, _):
        yield executor


@contextmanager
def all_processors():
    """Processes that begin here may use every processor, also where this one stays on one (peers.pin)."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count()))
    yield
    os.sched_setaffinity(0, own)


def swept(runs, workers, executors=processes):
    """ns a run of one sweep of the 1 GiB guest of `thread` by split, in so many processes. executors: processes, or dask."""
    points = grid(scenario("thread"), {"workload.in_use": [0.5, 0.9]}, ["split"], seeds=runs // 2)
    with tempfile.TemporaryDirectory() as folder, all_processors(), executors(workers) as executor:
        path = os.path.join(folder, "runs.jsonl")
        ns = time_call(sweep, (points, executor, path, workers))[0] / runs
        assert all(group.errors == 0 for group in summary(path))
        return {"min": ns, "median": ns}
