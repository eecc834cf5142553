"""A profile of several processes. Differences between processes do not show in the repeats of one.

Caches are indexed by physical addresses, so where a process's pages lie decides which of them push each other out. Huge pages
are contiguous and leave little to chance. Small pages lie where the kernel found them: on the same machine one process onlines
by struct_page at 0.66 ns a page, the next at 0.75, each with a spread of 2 %, and every one at 0.65 with huge pages.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from fastonline.cost.pool import Pool
from fastonline.cost.profile import Profile, profile, ratios, summary


def profile_processes(
    processes: int, progress: Callable[[Iterable[int]], Iterable[int]] = iter, **arguments: Any
) -> Profile:
    """Run cost.profile.profile in so many new `processes`, one after the other; return one profile.

    arguments: of `profile`, which gets no progress: that is called with the list of processes. A script that calls this needs
    `if __name__ == "__main__"`, as for multiprocessing. Where `processes` is above 1, the Profile differs from `profile`'s:

    - the rows' times, ns and ns_per_page are of all repeats of all processes. between is {"min": (low, high), "median": (low,
      high)}, ns a page: the lowest and highest least time and median of a process.
    - huge_bytes has a number for each process. Counts, phases and memset are the first one's.

    ValueError unless processes is at least 1.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, not {processes}")
    results = []
    for _ in progress(list(range(processes))):
        pool = Pool(1)
        try:
            results.append(pool.submit(partial(profile, **arguments)).result())
        finally:
            pool.kill()
    merged: Profile = results[0]
    for kind in ("rows", "calls"):
        for row, *others in zip(*(result[kind] for result in results), strict=True):
            each = [one["ns_per_page"] for one in (row, *others)]
            row["between"] = {
                name: (min(ns[name] for ns in each), max(ns[name] for ns in each)) for name in ("min", "median")
            }
            row["times"] = [ns for one in (row, *others) for ns in one["times"]]
            row["ns"] = summary(row["times"])
            row["ns_per_page"] = summary([ns / row["pages"] for ns in row["times"]])
            row["pages_per_second"] = row["pages"] * 1e9 / max(row["ns"]["min"], 1)
    merged["ratios"] = ratios(merged["rows"] + merged["calls"])
    merged["huge_bytes"] = [nr_bytes for result in results for nr_bytes in result["huge_bytes"]]
    return merged
