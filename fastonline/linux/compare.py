"""Comparison of a replayed step with its recording: which values, and how exactly (tests/data/recordings/README.md)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastonline.hotplug.pcp_zone import SCALE_MAX
from fastonline.linux.guest import Guest
from fastonline.linux.prediction import KPF, flag_names, known_flags, page_flags

NOISE = 64
"""Pages that a kernel zone's free pages may be off by: the guest itself allocates there. The split between free and per-CPU
pages is not compared. A zone whose free pages alone are off by more gets a remark, not a difference, when both together are
within it."""
NOISE_BLOCKS = 16
"""Free blocks of one order that a kernel zone may be off by: NOISE pages in blocks of four or more. Of single pages and pairs
there may be NOISE pages."""
NOISE_MOVABLE = 10
"""Pages that Movable's free and per-CPU pages together may be off by in 6.12. In 6.1 its free
blocks are compared exactly, order by order; `free` is a counter that a CPU's part is missing from, up to the zone's
stat_threshold."""
LOG = ("Fallback order for Node ", "Built ", "Policy zone: ", "min_free_kbytes is not updated to ", "virtio_mem ",
       "Block size [", "memory memory", "khugepaged: raising ", "migrating pfn ", "page: ", "page dumped because: ",
       "page allocation failure: ", "init (1): drop_caches: ", "synth uevent: ", "Memory failure: ")
"""Prefixes of the log lines that are modelled."""
NOT_COMPARED = (
    "in kernel zones: how many pages lie on per-CPU lists (a zone that differs only in that is remarked), which page is used "
    "by whom, and which page map entry is a slab, a page table or on a list",
    "in Movable of 6.12: which free pages lie on per-CPU lists",
    "6.12, while a balloon holds pages of several kernel zones whose split is off by less than a refill: these zones' "
    "watermarks",
    "pcp_high where the kernel tunes it itself (6.7 and later)",
    "whether the kernel's own pages keep a block of a kernel zone from going offline, or a virtio-mem device from shrinking: "
    "where it differs it is remarked, and the recording followed",
    "flags of a page besides those of linux/prediction.py: LRU, ACTIVE, REFERENCED and others that change by themselves",
    "lines of the log that there is no model of, among them what follows a page allocation failure",
    "how long anything takes, and how often a failing migration is tried again until a signal",
)
"""Values of a recording that are not compared, or cannot be predicted."""
_ZONE_FIELDS = ("start_pfn", "spanned", "present", "managed", "min", "low", "high", "protection", "pcp_batch", "pcp_high_min",
                "pcp_high_max", "stat_threshold")
_CONCERNS = (
    ("pages", "page flags"), ("errno", "errno"), ("uevents", "uevents"), ("kmsg", "log"), ("plugged_size", "sizes"),
    ("landed|region", "places"), ("pgmigrate|balloon_", "counters"), ("nr_free", "free blocks"), ("free", "free pages"),
    ("pcp_|stat_threshold", "per-CPU lists"), (" (min|low|high|protection)$|min_free_kbytes|lowmem", "watermarks"),
    ("start_pfn|spanned|present|managed|zones|mem_total|pageblocks", "zones"), ("iomem", "iomem"),
    ("memory\\d|blocks", "blocks"),
)


def concern(what: str) -> str:
    """Return what a difference of that name concerns, in a word or two."""
    return next((name for pattern, name in _CONCERNS if re.search(pattern, what)), "settings")


_OFFLINE, _FREE = np.uint64(1 << KPF["OFFLINE"]), np.uint64(1 << KPF["BUDDY"])


def _mask(flags):
    """Flags joined by | as a number."""
    return sum(1 << KPF[name] for name in flags.split("|") if name in KPF)


_FIXED = np.array([_mask(flags) for flags in ("NOPAGE", "RESERVED", "OWNER_PRIVATE", "RESERVED|OWNER_PRIVATE",
                                             "DIRTY|OFFLINE")], np.uint64)
"""Flags of pages that never belong to the allocator or a balloon."""


@dataclass(repr=False)
class Step:
    """A replayed step. `recorded` is the step in the recording, `predicted` a state in the same schema."""

    index: int
    op: str
    errno: str | int | None
    """The name of the predicted error, or 0. None: the request never reached the kernel."""
    uevents: list[str]
    kmsg: list[str]
    predicted: dict[str, Any]
    recorded: dict[str, Any]
    differences: list[tuple[str, Any, Any]] = field(default_factory=list)
    """(what, predicted, recorded) of each value that differs."""
    compared: int = 0
    """The number of values compared."""
    remarks: list[tuple[str, Any, Any]] = field(default_factory=list)
    """(what, predicted, recorded) of what a recording does not determine, where the two differ: {"free", "pcp_count"} of kernel
    zones whose pages lie on per-CPU lists instead of being free, or the other way round; an outcome that the kernel's own pages
    decide, in which the recording was followed; which of them was in the way."""
    replayed: bool = True
    reason: str = ""
    """Why the step could not be replayed."""

    def __repr__(self) -> str:
        if not self.replayed:
            return f"<Step {self.index} {self.op} not replayed: {self.reason}>"
        return f"<Step {self.index} {self.op} errno={self.errno} compared={self.compared} differences={len(self.differences)}>"


def compare(
    step: Step, heard: list[tuple[list[str], list[str]]], found: list[Any], counters: dict[str, int], guest: Guest
) -> None:
    """Compare a step with what was recorded of it. heard: (uevents, log) of the steps so far; found: the errno of each of its
    ops, where it has several; counters: what those of /proc/vmstat have grown by."""
    recorded, check = step.recorded, _checker(step)
    step.remarks += guest.remarks
    if step.replayed and not guest.remarks:
        if recorded["errno"] is not None:
            check("errno", step.errno, recorded["errno"])
        for i, answer in enumerate(found):
            if recorded["ops"][i].get("errno") is not None:
                check(f"errno of op {i}", answer, recorded["ops"][i]["errno"])
    first = step.index if recorded.get("covers_from") is None else recorded["covers_from"]
    if recorded["uevents"] is not None:
        check("uevents", [text for i in range(first, step.index + 1) for text in heard[i][0]], recorded["uevents"])
    if recorded["kmsg"] is not None:
        _compare_log(check, step, [line for i in range(first, step.index + 1) for line in heard[i][1]])
    for name, count in (recorded.get("counters") or {}).items():
        if name == "pgmigrate_fail":
            # so many in every round of a loop that ends with a signal
            check(name, guest.failing * max(1, count // max(1, guest.failing)), count)
        elif name in counters:
            check(name, counters[name], count, NOISE if guest.ran_out and name == "pgmigrate_success" else 0)
    for op in recorded.get("ops", [recorded]):
        if op.get("plugged_size") is not None and step.replayed and not guest.remarks:
            check("plugged_size", guest.virtio_mem.devices[op["device"]].plugged_size, op["plugged_size"])
    landed = [op.get("landed") for op in recorded.get("ops", [recorded]) if op["op"] == "alloc"]
    for real, region in zip(landed, guest.allocated, strict=False):
        if real and step.replayed:
            _compare_landed(check, real, region, guest)
    if isinstance(recorded.get("pages"), list):      # a pin has a number of that name
        _compare_pages(check, recorded, guest)
    elif recorded.get("page_counts") and recorded.get("pages_range"):
        first_pfn, end_pfn = recorded["pages_range"]
        offline = int(np.count_nonzero(page_flags(guest, first_pfn, end_pfn - first_pfn) & _OFFLINE))
        check("pages OFFLINE", offline,
              sum(nr for flags, nr in recorded["page_counts"].items() if "OFFLINE" in flags.split("|")))
    if recorded["state"] is not None:
        _compare_states(check, step, step.predicted, recorded["state"], guest)
    for op in recorded.get("ops", [recorded]):
        if op["op"] == "read" and isinstance(op.get("value"), dict):
            _compare_read(check, op, step.predicted, guest)


def _checker(step, where=""):
    """check(what, predicted, recorded, noise): compare two values, which may be off by `noise`, and note the difference."""
    def check(what, predicted, real, noise=0):
        step.compared += 1
        if predicted != real if not noise else abs(predicted - real) > noise:
            step.differences.append((where + (f"{what} (within {noise})" if noise else what), predicted, real))
    return check


def compare_reread(step: Step, predicted: dict[str, Any], guest: Guest) -> None:
    """Compare what a second capture showed with nothing done in between: all that differed from the first, and the protection
    of every zone, which the first has recomputed. predicted: the state now."""
    reread, state = step.recorded.get("reread"), step.recorded["state"]
    if reread is None:
        return
    zones = {name: {"protection": zone["protection"]} for name, zone in state["zones"].items() if "protection" in zone}
    for name, zone in reread.get("zones", {}).items():
        # free pages are compared together with those on lists, so both are there or neither
        known = {key: state["zones"][name][key] for key in ("free", "pcp_count") if key in state["zones"][name]}
        zones.setdefault(name, {}).update((known if known.keys() & zone.keys() else {}) | zone)
    _compare_states(_checker(step, "reread "), step, predicted, {"partial": True} | reread | {"zones": zones}, guest)


def _compare_log(check, step, ours):
    """The log, as far as there is a model of it. What the kernel's own page that is in the way looks like is remarked; of a
    loop that a signal ends its first round is compared."""
    real = [re.sub(r"^\S+: (?=page allocation failure)|,cpuset=.*", "", line) for line in step.recorded["kmsg"]]
    lines = []
    for log in (ours, real):
        kept, dumped = [], []
        for at, line in enumerate(log):
            if line.startswith("page: ") and log[at + 1 : at + 2] == ["page dumped because: unmovable page"]:
                dumped.append(line)
            elif line.startswith(LOG):
                kept.append(line)
        lines.append((kept, dumped))
    (ours, our_dumps), (real, real_dumps) = lines
    if step.recorded.get("kmsg_cut") or step.recorded["errno"] == "EINTR":
        ours, real = ours[: len(real)], real[: len(ours)]
    check("kmsg", ours, real)
    if our_dumps != real_dumps:
        step.remarks.append(("the page in the way", our_dumps, real_dumps))


def _compare_states(check, step, predicted, real, guest):
    tunes_itself = guest.mem.rules.pcp_auto_tunes      # pcp_high moves, so do its pages
    noise = _kernel_zone_noise(guest)
    for key in ("min_free_kbytes", "mem_total_kb", "lowmem_reserve_ratio", "auto_online_blocks", "nodes", "iomem"):
        if key in real:
            check(key, predicted[key], real[key])
    if "zones" in real:
        if not real.get("partial"):
            check("zones", sorted(predicted["zones"]), sorted(real["zones"]))
        loose = guest.split_loosely and guest.inflated > guest.deflated
        shifted_any = loose and any(zone.get("managed") != predicted["zones"][name]["managed"]
                                    for name, zone in real["zones"].items() if name in predicted["zones"] and "managed" in zone)
        if loose and not real.get("partial"):
            check("managed of all zones", *(
                sum(zone["managed"] for zone in state["zones"].values()) for state in (predicted, real)))
        for name, zone in real["zones"].items():
            ours = predicted["zones"].get(name)
            if ours is None:
                continue
            # a balloon's split between kernel zones is as loose as any request's, and watermarks follow from managed
            shifted = loose and "managed" in zone and not name.endswith("/Movable") and ours["managed"] != zone["managed"]
            if shifted:
                check(f"{name} managed", ours["managed"], zone["managed"], noise)
            for key in _ZONE_FIELDS:
                if key in zone and not (loose and key in ("min", "low", "high", "protection") and shifted_any) \
                        and not (shifted and key == "managed"):
                    value = zone[key] - zone.get("boost", 0) if key in ("min", "low", "high") else zone[key]
                    check(f"{name} {key}", ours.get(key), value)
            if "pcp_high" in zone and not tunes_itself:
                check(f"{name} pcp_high", ours["pcp_high"], zone["pcp_high"])
            if "pageblocks" in zone:
                check(f"{name} pageblocks", ours["pageblocks"], sum(zone["pageblocks"].values()))
            if "free" not in zone:
                continue
            movable = name.endswith("/Movable")
            with_lists = [z["free"] + z["pcp_count"] for z in (ours, zone)] if "pcp_count" in zone else None
            if movable and tunes_itself:      # its lists may hold nearly all, and pass it on at any time
                if with_lists:
                    check(f"{name} free + pcp_count", *with_lists, NOISE if guest.ran_out else NOISE_MOVABLE)
            elif movable and (guest.ran_out or guest.huge_pages):
                check(f"{name} free", ours["free"], zone["free"], NOISE)
            elif movable:
                if "nr_free" in zone:
                    check(f"{name} nr_free", ours["nr_free"], zone["nr_free"])
                check(f"{name} free", ours["free"], zone["free"], zone.get("stat_threshold", 0))      # read later
            elif guest.unknown:
                continue
            elif with_lists and abs(ours["free"] - zone["free"]) > noise >= abs(with_lists[0] - with_lists[1]):
                step.compared += 1
                step.remarks.append((name, *({key: z[key] for key in ("free", "pcp_count")} for z in (ours, zone))))
            else:
                check(f"{name} free", ours["free"], zone["free"], noise)
                if "nr_free" in zone and not guest.split_loosely:
                    for order, nr in enumerate(zone["nr_free"]):
                        check(f"{name} nr_free[{order}]", ours["nr_free"][order], nr, max(NOISE >> order, NOISE_BLOCKS))
        if guest.split_loosely and not real.get("partial") and not guest.unknown:
            check("free + pcp_count of kernel zones", *(
                sum(zone["free"] + zone["pcp_count"] for name, zone in state["zones"].items() if not name.endswith("/Movable"))
                for state in (predicted, real)
            ), NOISE)
    if "blocks" in real:
        first, last = real.get("blocks_range", (0, float("inf")))
        ours = {nr: block for nr, block in predicted["blocks"].items() if first <= int(nr) <= last}
        check("blocks", sorted(ours, key=int), sorted(real["blocks"], key=int))
        for nr, block in real["blocks"].items():
            if nr in ours:
                keys = [key for key in ("state", "valid_zones", "node") if key in block]
                check(f"memory{nr}", {key: ours[nr][key] for key in keys}, {key: block[key] for key in keys})


def _kernel_zone_noise(guest):
    """Pages that a kernel zone may be off by: since 6.7 one refill of a per-CPU list decides in which zone many are, once
    several had to serve one request (nr_pcp_alloc)."""
    if not guest.split_loosely:
        return NOISE
    return NOISE + (max(zone.pcp_batch for zone in guest.mem.zones.values()) << SCALE_MAX)


def _compare_pages(check, recorded, guest):
    """The page map. Of blocks that are offline, and of Movable in 6.1, each page. Of others how many pages have which flags:
    block by block in Movable, in a kernel zone all blocks together; but what does not change hands, each page."""
    mem, per_block = guest.mem, guest.mem.pages_per_block
    first, end = recorded["pages_range"]
    masks = known_flags(np.array([_mask(flags) for _, _, flags in recorded["pages"]], np.uint64))
    real = np.repeat(masks, [nr for _, nr, _ in recorded["pages"]])
    ours = page_flags(guest, first, end - first)
    tunes_itself = mem.rules.pcp_auto_tunes
    # where a mapping begins in its first huge page is not recorded: it may have one more or less
    huge = 2 << mem.geometry.pageblock_order if guest.huge_pages else 0
    together = {}      # kernel zone -> counts of ours and of the recorded pages
    for block in range(-(-first // per_block), end // per_block):
        at = slice(block * per_block - first, (block + 1) * per_block - first)
        zone = mem.zone_of(block * per_block)
        movable = zone is not None and zone.name == "Movable"
        if zone is None or movable and not (tunes_itself or guest.ran_out or huge):
            counts = _counts(ours[at]), _counts(real[at])
            check(f"memory{block} pages", *counts)
            if counts[0] == counts[1]:
                check(f"memory{block} pages elsewhere", int(np.count_nonzero(ours[at] != real[at])), 0)
            continue
        fixed = [np.where(np.isin(flags[at], _FIXED), flags[at], 0) for flags in (ours, real)]
        check(f"memory{block} pages", *({name: n for name, n in _counts(flags).items() if name != "NONE"} for flags in fixed))
        check(f"memory{block} pages elsewhere", int(np.count_nonzero(fixed[0] != fixed[1])), 0)
        counts = [_counts(np.where(flags[at] & _FREE, 0, flags[at])[~np.isin(flags[at], _FIXED)]) for flags in (ours, real)]
        if movable:
            _check_counts(check, f"memory{block}", counts, (NOISE if guest.ran_out else NOISE_MOVABLE) + huge)
        elif not guest.unknown:
            together.setdefault(f"{zone.nid}/{zone.name}", []).append(counts)
    for name, pairs in together.items():
        sums = [{kind: sum(pair[i].get(kind, 0) for pair in pairs) for kind in {k for pair in pairs for k in pair[i]}}
                for i in (0, 1)]
        _check_counts(check, name, sums, _kernel_zone_noise(guest) + huge)


def _check_counts(check, where, counts, noise):
    """{flags: pages} twice. Free pages and the kernel's count as one kind: pages on per-CPU lists are among the latter."""
    for kind in sorted({*counts[0], *counts[1]}):
        what = "free or the kernel's" if kind == "NONE" else kind
        check(f"{where} pages {what}", counts[0].get(kind, 0), counts[1].get(kind, 0), noise)


def _counts(flags):
    """{names of flags: pages that have them}."""
    return {
        flag_names(mask): nr for mask, nr in zip(*(part.tolist() for part in np.unique(flags, return_counts=True)), strict=True)
    }


def _compare_landed(check, landed, region, guest):
    """Compare the first places of a program's memory."""
    ours = region.landed
    check("landed pages", ours["pages"], landed["pages"])
    all_exact = _compare_places(check, "landed in", ours["per_block"], landed["per_block"], guest)
    for key in ("lowest_pfn", "highest_pfn"):
        if all_exact and key in landed:
            check(f"landed {key}", ours.get(key), landed[key])


def _compare_places(check, what, ours, real, guest):
    """Compare the places of a program's pages, {block: pages}: by block in Movable, by zone in a kernel zone, since a recording
    does not have the pages that boot took there. Returns whether every count was compared exactly."""
    mem, places, all_exact = guest.mem, {}, True
    for i, per_block in enumerate((ours, real)):
        for block, nr in per_block.items():
            first = int(block) * mem.pages_per_block
            # the zone of the block's end: block 0 is for the most part not DMA
            zone = mem.zone_of(first + mem.pages_per_block - 1) or mem.zone_of(first)
            place = f"memory{block}" if zone is None or zone.name == "Movable" else f"{zone.nid}/{zone.name}"
            places.setdefault(place, [0, 0])[i] += nr
    for place, (nr, real_nr) in sorted(places.items()):
        noise = _kernel_zone_noise(guest) if "/" in place else NOISE_MOVABLE if mem.rules.pcp_auto_tunes else 0
        check(f"{what} {place}", nr, real_nr, noise)
        all_exact = all_exact and not noise
    return all_exact


def _compare_read(check, op, predicted, guest):
    """Values read from the guest during the step: where a region's pages lie, and the nodes, their blocks and threads."""
    mem, value = guest.mem, op["value"]
    region = re.fullmatch(r"user pages of region (\S+)", op.get("what", ""))
    if region:
        found = [ours for name, ours in guest.regions.items() if str(name) == region[1]]
        if found:
            _compare_places(check, f"region {region[1]} in", found[0].per_block(), value, guest)
        return
    ours = predicted["nodes"] | {
        "nodes": [f"node{nid}" for nid in mem.nodes],
        "threads": sorted(name for node in mem.nodes.values() for name in node.threads),
    } | {f"node{nid}_blocks": [nr for nr, block in predicted["blocks"].items() if block["node"] == nid] for nid in mem.nodes}
    for key, real in value.items():
        if key in ours:
            check(key, ours[key], real)
