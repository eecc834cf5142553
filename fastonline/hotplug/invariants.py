"""Every invariant of a machine, checked from scratch in NumPy: what Memory.validate does."""

import numpy as np

from fastonline.core.pageflags import FLAG_NAMES

_BIT = {name: 1 << i for i, name in enumerate(FLAG_NAMES)}
_RESERVED, _BUDDY, _OFFLINE, _TAIL, _PREPARED = (_BIT[name] for name in FLAG_NAMES)
_STATES = {
    "added": _RESERVED,
    "waiting": _RESERVED | _PREPARED,
    "free": _BUDDY | _PREPARED,
    "in use": _PREPARED,
    "in use, inside an allocation": _PREPARED | _TAIL,
    "offline": _OFFLINE | _PREPARED,
}


def count_free_blocks(free, max_order):
    """Free blocks of each order, from one bool a page (whole blocks of the largest order): list of ints."""
    full, runs = free, []
    for _ in range(max_order + 1):
        runs.append(int(np.count_nonzero(full)))
        full = full[0::2] & full[1::2]
    return [runs[k] - 2 * runs[k + 1] for k in range(max_order)] + [runs[max_order]]


def check_machine(mem):
    """AssertionError with the first invariant that is broken."""
    max_order, per_block = mem.geometry.max_page_order, 1 << mem.geometry.max_page_order
    zones = {zone.nr: zone for zone in mem.zones.values()}
    nr_free = {nr: np.zeros(max_order + 1, np.int64) for nr in zones}
    managed = dict.fromkeys(zones, 0)
    prepared = dict.fromkeys(zones, 0)
    for start, nr in mem.sections.spans():
        for pfn in range(start, start + nr, mem.geometry.pages_per_section):
            _check_section(mem, pfn, zones, nr_free, managed, prepared, max_order, per_block)
    for nr, zone in zones.items():
        assert list(zone.nr_free) == nr_free[nr].tolist(), (
            f"{zone.name}: nr_free is {list(zone.nr_free)}, the planes have {nr_free[nr].tolist()}"
        )
        assert zone.managed_pages == managed[nr], f"{zone.name}: managed is {zone.managed_pages}, the planes have {managed[nr]}"
        present = managed[nr] if mem.rules.present_at_online else prepared[nr]
        assert zone.present_pages == present, f"{zone.name}: present is {zone.present_pages}, the planes have {present}"
        assert zone.spanned_pages >= prepared[nr], f"{zone.name}: {prepared[nr]} pages in a span of {zone.spanned_pages}"
    for nid, node in mem.nodes.items():
        spans = [(z.start_pfn, z.start_pfn + z.spanned_pages) for z in node.zones if z.spanned_pages]
        if spans:
            end = node.start_pfn + node.spanned_pages
            assert node.start_pfn <= min(s for s, _ in spans), f"node {nid} begins after one of its zones"
            assert end >= max(e for _, e in spans), f"node {nid} ends before one of its zones"


def _check_section(mem, pfn, zones, nr_free, managed, prepared, max_order, per_block):
    states = mem.page_states(pfn, mem.geometry.pages_per_section)
    for state in np.unique(states):
        assert state in _STATES.values(), f"a page of section {pfn // len(states)} is in no state there is: {state:#x}"
    if not np.any(states & _PREPARED):
        assert not mem.sections.online_section_nr(pfn // len(states)), f"section {pfn // len(states)} is online, nothing in it is"
        return
    free = (states & _BUDDY) != 0
    given = (states & (_PREPARED | _RESERVED | _OFFLINE)) == _PREPARED
    there = (states & _PREPARED) != 0
    tails = np.flatnonzero(states & _TAIL)
    before = tails[tails > 0] - 1
    assert np.all(states[before] & (0xFF ^ _TAIL) == _PREPARED), f"section {pfn // len(states)}: a tail follows no allocation"
    if np.any(given):
        assert mem.sections.online_section_nr(pfn // len(states)), f"section {pfn // len(states)} is not online, pages of it are"
    for at in range(0, len(states), per_block):
        part = slice(at, at + per_block)
        if not there[part].any():
            continue
        zone = mem.zone_of(pfn + at)
        assert zone is not None, f"pages at {pfn + at:#x} are prepared and in no zone"
        pages = np.flatnonzero(there[part])
        first, last = pfn + at + int(pages[0]), pfn + at + int(pages[-1])
        assert zone.start_pfn <= first and last < zone.start_pfn + zone.spanned_pages, (
            f"pages {first:#x}-{last:#x} lie outside the span of their zone {zone.name}"
        )
        if free[part].any():
            nr_free[zone.nr] += count_free_blocks(free[part], max_order)
        managed[zone.nr] += int(np.count_nonzero(given[part]))
        prepared[zone.nr] += len(pages)
