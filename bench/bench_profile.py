"""The rows of `fastonline profile` on the same machines: a name means here what it means there. One section of 512 MiB.

Left out is "whole, C API": it takes less time than the clock of pytest-benchmark resolves. `profile` reads its clock in C.
"""

from functools import lru_cache

import pytest

import fastonline as fo
from fastonline.cost.phases import time_call
from fastonline.cost.profile import BATCH, C_API, LIFECYCLE, LISTENER, WORKLOADS, Bench
from fastonline.hotplug.memory import ENGINES

KINDS = [(fo.X86_64, fo.LINUX_6_12), (fo.X86_32_PAE, fo.LINUX_2_6_25), (fo.ARM64_64K, fo.LINUX_6_12)]
ROWS = ["whole", *(name for name in WORKLOADS if name != C_API), LISTENER, *LIFECYCLE]
SLOW = ("random", f"batches of {BATCH}", "one batch", LISTENER, LIFECYCLE[0])


@lru_cache(maxsize=1)
def machine(geometry, rules, engine):
    """One machine at a time; the parameters come in this order."""
    return Bench(geometry, (512 << 20) // geometry.page_size, rules, engine)


@pytest.mark.parametrize("workload", ROWS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("geometry", "rules"), KINDS, ids=[f"{geometry.name}-{rules.name}" for geometry, rules in KINDS])
def bench_workload(measure, benchmark, geometry, rules, engine, workload):
    bench = machine(geometry, rules, engine)
    if workload == "whole":
        workload = f"whole, order {geometry.max_page_order if rules.online_order is None else rules.online_order}"
    benchmark.group = f"profile: {geometry.name}, {rules.name}, {workload}"
    used = False

    def ready():
        nonlocal used
        if used:
            bench.put_back(workload)
        stopwatch, args = bench.timer(bench.make_ready(workload), workload)
        used = True
        # around a single call of Python the stopwatch does nothing that pytest-benchmark does not
        return (args if stopwatch is time_call else (stopwatch, args)), {}

    done = measure(lambda call, args: call(*args), bench.pages(workload), ready, 5 if workload in SLOW else 20)
    bench.put_back(workload)
    assert (done[1] if isinstance(done, tuple) else done) in (bench.pages(workload), None)
