"""The paths around the headline ones: what a program that embeds a machine meets first. Each function gives lines of
targets.py; goals are those of the project."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from contenders import SECTION

import fastonline as fo
from fastonline.cost.phases import time_alloc, time_call, time_calls, time_turnover
from fastonline.cost.profile import summary

BATCHES = {1: 80, 16: 9, 64: 5, 256: 4, 512: 3.5, 1024: 3}     # ns a page by size of a random batch


def least_of(repeat, call, reset=None):
    """Summary of `repeat` times, ns, of one call each, which reset() precedes untimed. A first one does not count."""
    times = []
    for _ in range(1 + repeat):
        if reset is not None:
            reset()
        times.append(time_call(call, ())[0])
    return summary(times[1:])


def full_guest(engine, nr_pages):
    """A machine of one zone whose memory is all in use, and the zone."""
    mem = fo.Memory(fo.X86_64, engine=engine, max_memory=nr_pages * 4096)
    mem.add_memory(0, nr_pages)
    mem.online_pages(0, nr_pages)
    mem.alloc_contig_range(0, nr_pages)
    return mem, mem.zone_of(0)


def turnover(engine, n, repeat):
    """ns a pair: a guest of 2^n pages, eight of them free, frees a random page and allocates one, C API."""
    mem, zone = full_guest(engine, 1 << n)
    pfns = np.random.default_rng(2008).permutation(1 << n)
    mem.free_pfns(pfns[-8:])
    held, times = pfns[: 1 << 14].tolist(), []
    for _ in range(1 + repeat):
        ns, pairs = time_turnover(mem, zone.nr, held)
        times.append(ns / pairs)
    return summary(times[1:])


def pair(engine, repeat, calls=1 << 14):
    """ns of freeing the only page in use and allocating one, the same again, C API: blocks merge and split up to the largest
    order."""
    mem = fo.Memory(fo.X86_64, boot="4G", engine=engine)
    held, times = [mem.alloc_pages(zone="DMA32")] * calls, []
    for _ in range(1 + repeat):
        times.append(time_turnover(mem, mem.zones["DMA32"].nr, held)[0] / calls)
    assert held == held[:1] * calls
    return summary(times[1:])


def far_block(n, order, repeat):
    """ns of an allocation, C API: the only block of the order is the last of 2^n pages, and single pages at the low end were
    freed just before."""
    mem, zone = full_guest("bitmap", 1 << n)
    far, times = (1 << n) - (1 << order), []
    mem.free_pfns(np.arange(far, 1 << n))
    for _ in range(16 * repeat):
        for pfn in range(0, 8, 2):
            mem.free_pages(pfn)
        ns, pfn = time_alloc(mem, zone.nr, order)
        assert pfn == far
        times.append(ns)
        mem.free_pages(far, order)
        for pfn in range(0, 8, 2):
            mem.alloc_contig_range(pfn, 1)
    return summary(times)


def half_free(repeat):
    """ns a page of alloc_pages_bulk, bitmap engine, on a machine with half of its pages free at random."""
    mem, zone = full_guest("bitmap", 2 * SECTION)
    mem.free_pfns(np.random.default_rng(2008).permutation(2 * SECTION)[:SECTION])
    got = []

    def reset():
        if got:
            mem.free_pfns(got.pop())
    return per(SECTION, least_of(repeat, lambda: got.append(mem.alloc_pages_bulk(SECTION, zone=zone)), reset))


def per(nr, found):
    """A summary of so many, of one."""
    return {key: ns / nr for key, ns in found.items()}


def batches(size, repeat):
    """{call: ns a page}, bitmap engine, of random batches of so many pages: mark_pfns_onlined, free_pfns, set_pfns_reserved,
    and alloc_pages_bulk, whose pages come as they are found."""
    nr = max(size, 1 << 14)
    mem = fo.Memory(fo.X86_64, engine="bitmap", max_memory=SECTION * 4096)
    mem.add_memory(0, SECTION)
    pfns = np.random.default_rng(2008).permutation(SECTION)[:nr].astype(np.uint64)
    parts = [pfns[i : i + size] for i in range(0, nr, size)]
    found = {name: [] for name in ("mark_pfns_onlined", "alloc_pages_bulk", "free_pfns", "set_pfns_reserved")}

    for _ in range(1 + repeat):
        mem.prepare_online_pages(0, SECTION)
        ns = {"mark_pfns_onlined": time_calls(mem.mark_pfns_onlined, parts)[0]}
        ns["alloc_pages_bulk"] = time_call(each, (mem.alloc_pages_bulk, [size] * (nr // size)))[0]
        ns["free_pfns"] = time_call(each, (mem.free_pfns, parts))[0]
        mem.alloc_pages_bulk(nr)
        ns["set_pfns_reserved"] = time_call(each, (mem.set_pfns_reserved, parts))[0]
        mem.offline_pages(0, SECTION)
        for name, value in ns.items():
            found[name].append(value / nr)
    return {name: summary(times[1:]) for name, times in found.items()}


def each(call, parts):
    for part in parts:
        call(part)


def one_zone_by_name(repeat, calls=1000):
    """ns of alloc_pages(zone="DMA32"), the loop that calls it included."""
    mem = fo.Memory(fo.X86_64, boot="4G")
    got = []

    def reset():
        if got:
            mem.free_pfns(got)
        got.clear()

    def run():
        alloc, append = mem.alloc_pages, got.append
        for _ in range(calls):
            append(alloc(zone="DMA32"))
    return per(calls, least_of(repeat, run, reset))


def cycle(repeat):
    """ns of offline, remove, add and online of 128 MiB."""
    mem = fo.Memory(fo.X86_64, boot="1G")
    start, nr = 1 << 19, fo.X86_64.pages_per_section
    mem.add_memory(start, nr)
    mem.online_pages(start, nr)

    def run():
        mem.offline_pages(start, nr)
        mem.remove_memory(start, nr)
        mem.add_memory(start, nr)
        mem.online_pages(start, nr)
    return least_of(10 * repeat, run)


def whole_machine(engine, size, repeat):
    """{"copy", "save", "load": ns} of a machine of `size`, and "validate", ns a page."""
    mem = fo.Memory(fo.X86_64, boot=size, engine=engine)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "machine"
        found = {"copy": least_of(repeat, mem.copy), "save": least_of(repeat, lambda: mem.save(path)),
                 "load": least_of(repeat, lambda: fo.load(path))}
    found["validate"] = per(mem.totalram_pages, least_of(repeat, mem.validate))
    return found


def listener(repeat):
    """ns a page of mark_pages_onlined page by page, 2.6.25, with one listener."""
    mem = fo.Memory(fo.X86_32_PAE, boot="1G", rules=fo.LINUX_2_6_25)
    start, nr = 1 << 18, fo.X86_32_PAE.pages_per_section
    mem.add_memory(start, nr)
    mem.notifiers.register(lambda action, notice: fo.NOTIFY_OK)
    pfns, ready = list(range(start, start + 2048)), []

    def reset():
        if ready:
            mem.offline_pages(start, nr)
        ready[:] = [True]
        mem.prepare_online_pages(start, nr)
    return per(len(pfns), least_of(repeat, lambda: time_calls(mem.mark_pages_onlined, pfns), reset))


def importing(repeat):
    """ns of CPU time that `import fastonline` takes after NumPy's, with its bytecode written, as pip does."""
    code = "import time, numpy; t = time.process_time_ns(); import fastonline; print(time.process_time_ns() - t)"
    with tempfile.TemporaryDirectory() as folder:
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environ["PYTHONPYCACHEPREFIX"] = folder
        command = [sys.executable, "-c", code]
        runs = [subprocess.run(command, env=environ, capture_output=True, check=True) for _ in range(1 + repeat)]
    return summary([int(run.stdout) for run in runs[1:]])
