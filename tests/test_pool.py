"""cost/pool.py: workers that die, and the executors that run a sweep."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import Future

import pytest
from test_sweep import lines, points

from fastonline.cost import sweep as module
from fastonline.cost.pool import Pool, _begin_worker
from fastonline.cost.scenario import Scenario
from fastonline.cost.sweep import run_chunk, sweep

TINY = Scenario.from_dict({
    "name": "tiny", "boot": "256M", "maximum": "384M", "host": "512M", "steps": [[10, "384M"], [20, "256M"]], "end": 30,
    "workload": {"in_use": 0.5}, "costs": {"table": "free"},
})


SETS = {"host": ["384M", "512M"], "workload.in_use": [0.25, 0.5]}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "runs.jsonl"
    assert sweep(points(), None, path) == 16
    return lines(path)


class Dying:
    """An executor whose workers die on the first submissions, or on one key for ever."""

    def __init__(self, times=0, key=None):
        self.times, self.key, self.died = times, key, 0

    def submit(self, fn, /, *args):
        future = Future()
        if self.died < self.times or any(task[1] == self.key for task in args[0]):
            self.died += 1
            future.set_exception(RuntimeError("the worker is gone"))
        else:
            future.set_result(fn(*args))
        return future


def test_a_worker_that_dies_is_tried_again(expected, tmp_path):
    dying = Dying(times=2)
    assert sweep(points(), dying, tmp_path / "runs") == 16 and lines(tmp_path / "runs") == expected and dying.died == 2


def test_a_run_that_always_kills_its_worker_becomes_an_error(expected, tmp_path):
    key = "host=384M,workload.in_use=0.25,strategy=kvm,seed=1"
    dying = Dying(key=key)
    sweep(points(), dying, tmp_path / "runs", 2)
    failed = [row for row in map(json.loads, lines(tmp_path / "runs")) if "error" in row]
    assert [row["key"] for row in failed] == [key] and "died 3 times" in failed[0]["error"] and 3 <= dying.died <= 4
    assert len(lines(tmp_path / "runs")) == 16


def kill_itself(tasks, version):
    """run_chunk, but a process that sees a marked key dies."""
    if any("strategy=kvm,seed=1" in task[1] and "in_use=0.25" in task[1] for task in tasks):
        os.kill(os.getpid(), signal.SIGKILL)
    return run_chunk(tasks, version)


def test_a_pool_outlives_its_workers(expected, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "run_chunk", kill_itself)
    pool = Pool(2)
    try:
        sweep(points(), pool, tmp_path / "runs", 2)
    finally:
        pool.kill()
    rows = [json.loads(line) for line in lines(tmp_path / "runs")]
    assert len(rows) == 16 and sum("error" in row for row in rows) == 2
    assert {line for line in lines(tmp_path / "runs") if b'"error"' not in line} <= set(expected)


def test_a_script_without_a_main_guard_ends_with_a_reason(tmp_path):
    """Each worker imports the script, which starts workers again. Expect one RuntimeError, not a retry for every run."""
    script = tmp_path / "script.py"
    script.write_text("from fastonline.cost.pool import Pool\nPool(2)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    # what the workers and their helpers print may come later
    assert "\nRuntimeError: the worker processes do not start; a script has to" in done.stderr


def begin_without_a_parent():
    os.getppid = lambda: 1
    _begin_worker(False)
    signal.pause()


def test_a_worker_whose_parent_ended_first():
    """The parent is killed while a worker starts, before the worker has asked to be told. Expect it to end itself."""
    worker = multiprocessing.get_context("fork").Process(target=begin_without_a_parent)
    worker.start()
    worker.join(60)
    ended = worker.exitcode
    worker.kill()
    assert ended == 1


FAULTS = """
import resource
import numpy as np
from fastonline.cost.pool import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(1 << 17)      # 256 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
keep_memory(True)
faults()
print(faults())
keep_memory(False)
print(faults())
"""


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="the C library is not glibc")
def test_a_worker_keeps_memory_while_it_is_told_to():
    """20 arrays of 1 MiB with Dask's MALLOC_TRIM_THRESHOLD_. Expect a page fault for each page of each, except while the
    process keeps its memory."""
    done = subprocess.run([sys.executable, "-c", FAULTS], env={**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"},
                          capture_output=True, text=True, check=True)
    before, kept, after = map(int, done.stdout.split())
    assert kept < 512 < before / 4 and after > 2048


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="the C library is not glibc")
def test_a_process_is_no_slower_after_it_kept_memory():
    """The same without MALLOC_TRIM_THRESHOLD_, where glibc adapts its limits. Expect as few page faults afterwards."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=environ, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[2]) < 1024
