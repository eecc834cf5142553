"""Provenance of a measurement: program, machine, compiler and date."""

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from fastonline import __version__
from fastonline.cost.phases import built

_CPU_KEYS = ("model name", "cpu model", "Processor")
_PACKAGE = Path(__file__).resolve().parents[1]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() in _CPU_KEYS)
    return next(named, platform.processor() or platform.machine())


def _commit() -> str | None:
    """The commit of the source tree that the package is imported from, with "+" when files differ from it; None elsewhere."""
    if not (_PACKAGE.parent / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(_PACKAGE.parent), "describe", "--always", "--dirty=+", "--exclude=*"],
            capture_output=True, text=True, timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _huge_pages() -> str | None:
    """The host's setting of transparent huge pages: "always", "madvise" or "never"; None where there is none."""
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return None
    return text.partition("[")[2].partition("]")[0] or None


def huge_bytes() -> int | None:
    """Return how much of this process's memory lies on huge pages, in bytes; None where the kernel does not say."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("AnonHugePages:")), None)


def _constant() -> dict[str, Any]:
    return {
        "fastonline": __version__, "commit": _commit(), "python": platform.python_version(), "numpy": np.__version__, **built(),
        "cpu": _cpu(), "cpus": os.cpu_count(), "kernel": platform.release(),
    }


def provenance(**more: Any) -> dict[str, Any]:
    """Return what a reader needs to judge a figure, as a plain dict.

    Keys: "fastonline" (version), "commit" (str or None), "python", "numpy", "cython", "compiler", "variant" ("AVX2" or "plain":
    which instructions the kernels use), "cpu", "cpus", "kernel", "huge_pages" (the host's setting), "date" (ISO 8601, UTC), and
    whatever `more` adds, such as a seed.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {**_constant(), "huge_pages": _huge_pages(), "date": now, **more}


def one_line(origin: dict[str, Any]) -> str:
    """Return `origin`, a dict from `provenance`, in one line: for the corner of a plot."""
    commit = f" {origin['commit']}" if origin.get("commit") else ""
    return f"fastonline {origin['fastonline']}{commit}, {origin['cpu']}, Linux {origin['kernel']}, {origin['date'][:10]}"
