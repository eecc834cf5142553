"""fastonline: memory onlined the way Linux does it, in user space, at the speed of the memory bus."""

from fastonline.capi import get_include
from fastonline.errors import HotplugError
from fastonline.geometry import ARM64_4K, ARM64_64K, S390X, X86_32_PAE, X86_64, Geometry, parse_size
from fastonline.hotplug.blocks import MMOP_OFFLINE, MMOP_ONLINE, MMOP_ONLINE_KERNEL, MMOP_ONLINE_MOVABLE
from fastonline.hotplug.memory import Memory, load
from fastonline.hotplug.migrate import MovablePages
from fastonline.hotplug.notifier import (
    MEM_CANCEL_OFFLINE,
    MEM_CANCEL_ONLINE,
    MEM_GOING_OFFLINE,
    MEM_GOING_ONLINE,
    MEM_OFFLINE,
    MEM_ONLINE,
    NOTIFY_BAD,
    NOTIFY_DONE,
    NOTIFY_OK,
    NOTIFY_STOP,
    MemoryNotify,
)
from fastonline.linux.capture import Capture
from fastonline.linux.recording import Recording, RecordingError
from fastonline.linux.sysfs import export_sysfs
from fastonline.rules import LINUX_2_6_25, LINUX_6_1, LINUX_6_12, Rules

__version__ = "0.1.0"

__all__ = [
    "ARM64_4K", "ARM64_64K", "S390X", "X86_32_PAE", "X86_64", "Geometry", "parse_size",
    "LINUX_2_6_25", "LINUX_6_1", "LINUX_6_12", "Rules",
    "Capture", "HotplugError", "Memory", "MovablePages", "Recording", "RecordingError", "export_sysfs", "get_include", "load",
    "MEM_CANCEL_OFFLINE", "MEM_CANCEL_ONLINE", "MEM_GOING_OFFLINE", "MEM_GOING_ONLINE", "MEM_OFFLINE", "MEM_ONLINE",
    "MMOP_OFFLINE", "MMOP_ONLINE", "MMOP_ONLINE_KERNEL", "MMOP_ONLINE_MOVABLE",
    "NOTIFY_BAD", "NOTIFY_DONE", "NOTIFY_OK", "NOTIFY_STOP", "MemoryNotify",
]
