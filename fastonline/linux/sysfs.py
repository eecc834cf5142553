"""The tree below /sys that util-linux reads: ``lsmem --sysroot DIR`` shows a machine that `export_sysfs` has written."""

import errno
import os
import secrets
import shutil
from contextlib import suppress
from typing import TypeVar

from fastonline.core.runs import range_list
from fastonline.core.undo import Undo
from fastonline.errors import expect
from fastonline.hotplug.memory import Memory
from fastonline.hotplug.procfs import memmap_on_memory

P = TypeVar("P", str, os.PathLike[str])


def export_sysfs(mem: Memory, directory: P) -> P:
    """Write DIR/sys/devices/system/memory and .../node of a machine, in the kernel's own formats (drivers/base/memory.c), and
    the parameter memmap_on_memory below DIR/sys/module where that kernel has it.

    mem: Memory. directory: DIR, made when it is not there. Returns the directory. FileExistsError when it has a `sys` already;
    OSError for what cannot be written. The tree is there as a whole, or not at all when anything fails.
    """
    expect(mem, Memory, "mem")
    root = os.path.join(directory, "sys")
    if os.path.lexists(root):
        raise FileExistsError(errno.EEXIST, "the directory has a tree already: remove it or give another", root)
    missing = _missing_directories(directory)
    beside = os.path.join(directory, f".{secrets.token_hex(8)}")
    try:
        with Undo() as undo:
            for path in reversed(missing):
                undo.add(_remove_empty, path)
                os.mkdir(path)
            undo.add(shutil.rmtree, beside, True)
            _write_tree(mem, beside)
            os.rename(beside, root)
    except OSError as e:
        e.filename, e.filename2 = os.fspath(directory), None
        raise
    return directory


def _missing_directories(path):
    """The directories that os.makedirs(path) would make, the innermost first."""
    missing = []
    while path and not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing


def _remove_empty(path):
    with suppress(OSError):
        os.rmdir(path)


def _write_tree(mem, root):
    system = os.path.join(root, "devices", "system")
    memory, node = os.path.join(system, "memory"), os.path.join(system, "node")
    os.makedirs(memory)
    os.makedirs(node)
    _write(memory, "block_size_bytes", f"{mem.pages_per_block * mem.geometry.page_size:x}")
    _write(memory, "auto_online_blocks", mem.auto_online_blocks)
    for name, text in node_states(mem).items():
        _write(node, name, text)
    if (mode := memmap_on_memory(mem)) is not None:
        parameters = os.path.join(root, "module", "memory_hotplug", "parameters")
        os.makedirs(parameters)
        _write(parameters, "memmap_on_memory", mode)
    for nid in mem.nodes:
        os.mkdir(os.path.join(node, f"node{nid}"))
    for nr, block in mem.blocks.items():
        path = os.path.join(memory, f"memory{nr}")
        os.mkdir(path)
        for name, text in (
            ("state", block.state), ("online", "0" if block.state == "offline" else "1"), ("phys_index", block.phys_index),
            ("phys_device", "0"), ("removable", str(block.removable)), ("valid_zones", block.valid_zones),
        ):
            _write(path, name, text)
        os.symlink(os.path.join("..", "..", "node", f"node{block.node}"), os.path.join(path, f"node{block.node}"))
        os.symlink(
            os.path.join("..", "..", "memory", f"memory{nr}"), os.path.join(node, f"node{block.node}", f"memory{nr}")
        )


def node_states(mem: Memory) -> dict[str, str]:
    """{file below /sys/devices/system/node: its text} of the sets of nodes that a machine knows (drivers/base/node.c)."""
    nodes = list(mem.nodes)
    return {
        "online": range_list(nodes),
        "has_memory": range_list(nid for nid in nodes if mem.zones.has_memory(nid)),
        "has_normal_memory": range_list(nid for nid in nodes if mem.zones.has_normal_memory(nid)),
    }


def _write(directory, name, text):
    with open(os.path.join(directory, name), "w") as file:
        file.write(text + "\n")
