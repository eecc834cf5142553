"""Simulate Linux memory hotplug, and measure what each step costs.

Memory is one machine; load reads one that Memory.save wrote. A Geometry says what the machine looks like: X86_32_PAE, X86_64,
ARM64_4K, ARM64_16K, ARM64_64K, S390X, PPC64LE_64K, RISCV64 or LOONGARCH64_16K. Rules say which kernel it mirrors: LINUX_2_6_25,
LINUX_6_1, LINUX_6_12 or LINUX_6_18. parse_size reads sizes such as "512M". x86_boot_ranges lays out the boot memory of a guest.
A call that the kernel would refuse raises HotplugError.

MMOP_OFFLINE, MMOP_ONLINE, MMOP_ONLINE_KERNEL and MMOP_ONLINE_MOVABLE (int) say what a memory block is to become.

mem.notifiers calls callback(action, notice). action (int): MEM_GOING_ONLINE and MEM_GOING_OFFLINE may be vetoed;
MEM_CANCEL_ONLINE and MEM_CANCEL_OFFLINE follow a veto, MEM_ONLINE and MEM_OFFLINE success;
of memory blocks, since 6.9, MEM_PREPARE_ONLINE comes first and MEM_FINISH_OFFLINE last. notice: MemoryNotify. The callback
returns None or NOTIFY_OK, NOTIFY_DONE (not interested), NOTIFY_BAD (a veto) or NOTIFY_STOP (the rest is not called).

MovablePages are pages in use that offline_pages may move. Capture is the state of a real kernel. Recording is what one did,
step by step; RecordingError reports a file that is not a recording. export_sysfs writes the tree that lsmem --sysroot reads.

To be imported by name: fastonline.hotplug.questions (what can go offline, what can be added, how small the machine gets),
fastonline.linux.sources.read_source (a machine from any file that shows one), fastonline.drivers (balloons and their host),
fastonline.cost (profile, compare, sweep), fastonline.testing. For Cython: cimport fastonline.hotplug.memory and
fastonline.core. For C and C++: fastonline.h in get_include().
"""

from typing import TYPE_CHECKING

from fastonline import ctrl_c  # noqa: F401  (first: the other imports take time)
from fastonline.capi import get_include
from fastonline.errors import HotplugError
from fastonline.geometry import (
    ARM64_4K,
    ARM64_16K,
    ARM64_64K,
    LOONGARCH64_16K,
    PPC64LE_64K,
    RISCV64,
    S390X,
    X86_32_PAE,
    X86_64,
    Geometry,
    parse_size,
    x86_boot_ranges,
)
from fastonline.hotplug.blocks import MMOP_OFFLINE, MMOP_ONLINE, MMOP_ONLINE_KERNEL, MMOP_ONLINE_MOVABLE
from fastonline.hotplug.memory import Memory, load
from fastonline.hotplug.migrate import MovablePages
from fastonline.hotplug.notifier import (
    MEM_CANCEL_OFFLINE,
    MEM_CANCEL_ONLINE,
    MEM_FINISH_OFFLINE,
    MEM_GOING_OFFLINE,
    MEM_GOING_ONLINE,
    MEM_OFFLINE,
    MEM_ONLINE,
    MEM_PREPARE_ONLINE,
    NOTIFY_BAD,
    NOTIFY_DONE,
    NOTIFY_OK,
    NOTIFY_STOP,
    MemoryNotify,
)
from fastonline.rules import LINUX_2_6_25, LINUX_6_1, LINUX_6_12, LINUX_6_18, Rules

if TYPE_CHECKING:
    from fastonline.linux.capture import Capture
    from fastonline.linux.recording import Recording, RecordingError
    from fastonline.linux.sysfs import export_sysfs

__version__ = "0.1.0"

__all__ = [
    "ARM64_4K", "ARM64_16K", "ARM64_64K", "LOONGARCH64_16K", "PPC64LE_64K", "RISCV64", "S390X", "X86_32_PAE", "X86_64",
    "Geometry", "parse_size", "x86_boot_ranges",
    "LINUX_2_6_25", "LINUX_6_1", "LINUX_6_12", "LINUX_6_18", "Rules",
    "Capture", "HotplugError", "Memory", "MovablePages", "Recording", "RecordingError", "export_sysfs", "get_include", "load",
    "MEM_CANCEL_OFFLINE", "MEM_CANCEL_ONLINE", "MEM_FINISH_OFFLINE", "MEM_GOING_OFFLINE", "MEM_GOING_ONLINE", "MEM_OFFLINE",
    "MEM_ONLINE", "MEM_PREPARE_ONLINE",
    "MMOP_OFFLINE", "MMOP_ONLINE", "MMOP_ONLINE_KERNEL", "MMOP_ONLINE_MOVABLE",
    "NOTIFY_BAD", "NOTIFY_DONE", "NOTIFY_OK", "NOTIFY_STOP", "MemoryNotify",
]

# What reads and writes files of real kernels is imported when it is asked for: it takes half the time of the import.
_LAZY = {"Capture": "capture", "Recording": "recording", "RecordingError": "recording", "export_sysfs": "sysfs"}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(f"fastonline.linux.{_LAZY[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({name for name in globals() if name.startswith("__")}.union(__all__))
