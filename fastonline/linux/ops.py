"""The ops of a recording, applied to a guest."""

from __future__ import annotations

import errno
import re
from typing import Any

from fastonline.errors import HotplugError
from fastonline.hotplug.migrate import movable_pages
from fastonline.linux.guest import Guest
from fastonline.rules import SYSCTLS

PIPE_DEF_BUFFERS = 16
"""Pages that a pipe holds at most (fs/pipe.c): vmsplice pins so many of a region."""
_READ_ONLY = (("block_size_bytes",), ("valid_zones", "phys_index", "phys_device", "removable"))
"""Files that are read-only: of the directory memory, and of a memory block's."""


class CannotReplay(Exception):
    """A step cannot be replayed; the message says why."""


def run(guest: Guest, op: dict[str, Any]) -> str | int | None:
    """Do one op: 0 or the name of the error; None for what the machine refused, so that the kernel never saw it."""
    if op.get("rejected"):
        return None
    _follow(guest, op)
    try:
        return _OP[op["op"]](guest, op)
    except HotplugError as e:
        if e.errno == errno.EINTR and "block" in op:
            guest.interrupted(op["block"] * guest.mem.pages_per_block, guest.mem.pages_per_block)
        return errno.errorcode[e.errno]


def _follow(guest, op):
    """Where an op takes a block of a kernel zone offline and was recorded to succeed, or to fail with EBUSY, make it do so:
    only the kernel's own pages, of which nothing was recorded, decide that. A remark says when they had to be moved."""
    mem = guest.mem
    if op["op"] not in ("write_state", "write_online", "write_file", "remove_memory"):
        return
    if op["op"] == "write_file":
        directory, _, name = op["path"].rpartition("/")
        found = re.fullmatch(r"memory(0|[1-9]\d{0,17})", directory) if name in ("state", "online") else None
        blocks, word = [int(found[1])] if found else [], op["text"]
    else:
        blocks, word = [op["block"]] if "block" in op else [], op.get("word", op.get("value", ""))
    if op["op"] == "remove_memory":
        size = mem.pages_per_block * mem.geometry.page_size
        blocks = [nr for nr in mem.blocks if op["start"] <= nr * size < op["start"] + op["size"]]
    elif word.removesuffix("\n") not in ("offline", "0"):
        return
    kernel = [mem.blocks[nr] for nr in blocks if nr in mem.blocks and mem.blocks[nr].state == "online"
              and mem.blocks[nr].valid_zones not in ("Movable", "none")]
    held = [block for block in kernel if len(guest.kernel_pages(block.start_pfn, block.nr_pages))]
    if op.get("errno") == 0 and held:
        for block in held:
            guest.evict(block.start_pfn, block.nr_pages)
        guest.remarks.append((f"errno of {op['op']}", "EBUSY", 0))
    elif op.get("errno") == "EBUSY" and kernel and not held:
        guest.hold(kernel[-1].start_pfn, kernel[-1].nr_pages)
        guest.remarks.append((f"errno of {op['op']}", 0, "EBUSY"))


def _add_memory(guest, op):
    if op.get("start") is None:
        raise CannotReplay("the address of the memory was not recorded")
    dimm, answer = (op["start"], op["size"], op["nid"]), None
    slot = next(nr for nr in range(len(guest.slots) + 1) if nr not in guest.slots)
    guest.slots[slot] = dimm
    whole_container = guest.mem.rules.retries_refused_dimms      # slot by slot
    for nr, other in sorted(guest.slots.items()):
        if nr == slot or whole_container and other in guest.refused_dimms:
            try:
                _add_dimm(guest, *other)
                if nr != slot:
                    guest.refused_dimms.remove(other)
            except HotplugError as e:
                if nr == slot:
                    answer = e
    if whole_container:
        guest.mem.events.uevent("online@container/PNP0A06:04")
    if answer is not None:
        guest.refused_dimms.append(dimm)
        raise answer
    return 0


def _add_dimm(guest, start, size, nid):
    mem, page = guest.mem, guest.mem.geometry.page_size
    if start % (mem.pages_per_block * page) or size % (mem.pages_per_block * page):
        block = mem.pages_per_block * page
        mem.events.log(f"Block size [{block:#x}] unaligned hotplug range: start {start:#x}, size {size:#x}")
        raise HotplugError.of(errno.EINVAL, f"add_memory of {size:#x} bytes at {start:#x}")
    mem.add_memory(start // page, size // page, nid)


def _remove_memory(guest, op):
    page = guest.mem.geometry.page_size
    slots = [nr for nr, dimm in guest.slots.items() if dimm[:2] == (op["start"], op["size"])]
    refused = [dimm for dimm in guest.refused_dimms if dimm[:2] == (op["start"], op["size"])]
    if refused:
        guest.refused_dimms.remove(refused[0])      # no driver is bound to it: it goes
    else:
        guest.mem.blocks.remove(op["start"] // page, op["size"] // page)
    for nr in slots:
        del guest.slots[nr]
    return 0


def _block(guest, op):
    guest.look()
    if op["block"] not in guest.mem.blocks:
        raise HotplugError.of(errno.ENOENT, f"memory{op['block']}")
    return guest.mem.blocks[op["block"]]


def _write_state(guest, op):
    _block(guest, op).write_state(op["word"])
    return 0


def _write_online(guest, op):
    _block(guest, op).write_online(op["value"])
    return 0


def _auto_online_blocks(guest, op):
    if op["word"]:
        guest.mem.auto_online_blocks = op["word"]
    return 0


def _write_file(guest, op):
    """Write to a file below /sys/devices/system/memory."""
    directory, _, name = op["path"].rpartition("/")
    if directory:
        found = re.fullmatch(r"memory(0|[1-9]\d{0,17})", directory)
        if not found or int(found[1]) not in guest.mem.blocks:
            return "ENOENT"
        block = {"block": int(found[1])}
        if name == "state":
            return _write_state(guest, block | {"word": op["text"]})
        if name == "online":
            return _write_online(guest, block | {"value": op["text"]})
        if name == "uevent" and op["text"]:
            action = op["text"].removesuffix("\n")
            if action not in ("add", "remove", "change", "move", "online", "offline", "bind", "unbind"):
                guest.mem.events.log(f"synth uevent: /devices/system/memory/{directory}: unknown uevent action string")
                guest.mem.events.log(f"memory {directory}: uevent: failed to send synthetic uevent: -22")
                return "EINVAL"
            guest.synthetic_uevent(f"{action}@{directory}")
            return 0
    elif name == "auto_online_blocks":
        return _auto_online_blocks(guest, {"word": op["text"]})
    if name in _READ_ONLY[bool(directory)]:
        return "EACCES"
    if name == "probe" or name in _READ_ONLY[not directory]:
        return "ENOENT"
    if name in ("soft_offline_page", "hard_offline_page"):
        return _offline_page(guest, op)
    if name == "uevent" and not op["text"]:
        return 0       # sysfs_kf_write calls no store method for an empty write
    raise CannotReplay(f"there is no model of the file {op['path']}")


def _number(text):
    """The int that the kernel makes of text, decimal, 0x... or 0... (kstrtol, base 0); None if the text is not a number."""
    found = re.fullmatch(r"([+-]?)(0[xX][0-9a-fA-F]{1,99}|0[0-7]{0,99}|[1-9][0-9]{0,99})", text)
    if not found:
        return None
    octal = found[2].isdecimal() and found[2].startswith("0")
    return (-1 if found[1] == "-" else 1) * int(found[2], 8 if octal else 0)


def _offline_page(guest, op):
    """soft_offline_page_store, hard_offline_page_store (6.12; the 6.1 of the recordings has no CONFIG_MEMORY_FAILURE). A free
    page is taken off the buddy allocator, a program's moves elsewhere first; one that the kernel uses stays."""
    mem = guest.mem
    if not mem.rules.memory_failure:
        return "ENOENT"
    if not op["text"]:
        return 0
    address = _number(op["text"].partition("\0")[0].removesuffix("\n"))
    if address is None or not 0 <= address < 1 << 64:
        return "EINVAL"
    pfn = address >> mem.geometry.page_shift
    block = pfn // mem.pages_per_block
    if block not in mem.blocks:
        return "ENXIO"
    if mem.blocks[block].state == "offline":
        if op["path"] == "soft_offline_page":
            return "EIO"
        raise CannotReplay(f"there is no model of the file {op['path']} for such a page")
    free, movable = mem.pcp.is_free(pfn), len(movable_pages(mem, pfn, 1)) > 0
    if op["path"] == "soft_offline_page":
        if free:
            mem.pcp.take_page(pfn)
            return 0
        if not movable:
            mem.events.log(f"Memory failure: {pfn:#x}: unhandlable page.")
            return "EIO"
        if guest.move_and_keep(pfn):
            return 0
    elif not free and not movable:
        return "EBUSY"      # the kernel's own: MF_IGNORED
    raise CannotReplay(f"there is no model of the file {op['path']} for such a page")


def _sysctl(guest, op):
    mem, name = guest.mem, op["name"].removeprefix("vm.")
    least, most = SYSCTLS.get(name, (None, None))
    if least is None:
        raise CannotReplay(f"there is no model of the sysctl {op['name']}")
    numbers = [_number(part) for part in op["value"].split()]
    if not numbers or None in numbers or not least <= min(numbers) <= max(numbers) <= most:      # proc_dointvec_minmax
        return "EINVAL"
    if name == "lowmem_reserve_ratio":
        # what is below 1 becomes 0, and is off (lowmem_reserve_ratio_sysctl_handler)
        mem.lowmem_reserve_ratio = [max(0, number) for number in numbers[: mem.zones.nr_types]]
    else:
        setattr(mem, name, numbers[0])
    return 0


def _balloon(guest, op):
    nr = op["inflate_pages"]
    done = guest.inflate(nr) if nr >= 0 else guest.deflate(-nr)
    if done != abs(nr):
        raise CannotReplay(f"{done} of {abs(nr)} pages could be had")
    return 0


def _virtio_mem(guest, op):
    if op["device"] not in guest.virtio_mem.devices:
        raise CannotReplay(f"there is no device {op['device']}")
    try:
        guest.request(op["device"], op["requested_size"], op.get("plugged_size"))
    except ValueError as e:
        raise CannotReplay(str(e)) from None
    return 0


def _alloc(guest, op):
    page = guest.mem.geometry.page_size
    region = op["region"]
    if region in guest.regions:      # the program numbers its regions itself
        region = next(number for number in range(len(guest.regions) + 1) if number not in guest.regions)
    try:
        guest.alloc(region, -(-op["bytes"] // page))
    except (MemoryError, ValueError) as e:
        raise CannotReplay(str(e)) from None
    return 0


def _free(guest, op):
    if op["region"] not in guest.regions:
        raise CannotReplay(f"region {op['region']} was not allocated")
    guest.free(op["region"])
    return 0


def _pin(guest, op):
    if op["region"] not in guest.regions:
        raise CannotReplay(f"region {op['region']} was not allocated")
    pages = guest.regions[op["region"]].pages
    # a list called pages is the step's page map
    held = next((op[key] for key in ("held", "pages") if isinstance(op.get(key), int)), PIPE_DEF_BUFFERS)
    if held < 0:
        raise ValueError(f"{held} pages cannot be held")
    pages.pinned = min(held, len(pages))
    return 0


def _unpin(guest, op):
    if op["region"] not in guest.regions and op["region"] not in guest.pinned:
        raise CannotReplay(f"region {op['region']} was not allocated")
    guest.unpin(op["region"])
    return 0


def _mlock(guest, op):
    if op["region"] in guest.regions:
        guest.mlock(op["region"])
    return 0


def _nothing(guest, op):
    return 0


def _load(guest, op):
    if op.get("bytes") is None:
        guest.unknown = True
        raise CannotReplay(
            "the load has no bytes: what slabs and page tables took of the kernel zones was not recorded, and how many "
            "pages are free there is not compared from here on"
        )
    nr_pages = -(-op["bytes"] // guest.mem.geometry.page_size)
    try:
        if op.get("kind") == "kernel":
            guest.kernel_memory(nr_pages)
        else:
            guest.page_cache(nr_pages)
    except MemoryError as e:
        raise CannotReplay(str(e)) from None
    return 0


def _drop_caches(guest, op):
    guest.mem.events.log("init (1): drop_caches: 3")
    guest.drop_caches()
    return 0


def _other(guest, op):
    raise CannotReplay(op["text"])


_OP = {
    "add_memory": _add_memory, "remove_memory": _remove_memory, "write_state": _write_state, "write_online": _write_online,
    "auto_online_blocks": _auto_online_blocks, "write_file": _write_file, "sysctl": _sysctl, "balloon": _balloon,
    "virtio_mem": _virtio_mem, "alloc": _alloc, "mlock": _mlock, "free": _free, "pin": _pin, "unpin": _unpin, "load": _load,
    "drop_caches": _drop_caches, "idle": _nothing, "read": _nothing, "other": _other,
}
OPS: dict[str, dict[str, Any]] = {
    "add_memory": {"start": (int, type(None)), "size": int, "nid": int}, "remove_memory": {"start": int, "size": int},
    "write_state": {"block": int, "word": str}, "write_online": {"block": int, "value": str},
    "auto_online_blocks": {"word": str},
    "write_file": {"path": str, "text": str}, "sysctl": {"name": str, "value": str}, "balloon": {"inflate_pages": int},
    "virtio_mem": {"device": str, "requested_size": int}, "alloc": {"region": (int, str), "bytes": int},
    "mlock": {"region": (int, str)}, "free": {"region": (int, str)}, "pin": {"region": (int, str)},
    "unpin": {"region": (int, str)},
    "load": {}, "drop_caches": {}, "idle": {}, "read": {}, "other": {"text": str},
}
