"""hotplug/pcp: a change of the per-CPU lists happens as a whole, or not at all.

Arrays cannot be had because a NumPy function raises MemoryError: NumPy itself crashes when CPython's allocator fails inside it.
"""

import numpy as np
import pytest
from conftest import snapshot
from test_out_of_memory import Failing

import fastonline as fo
from fastonline.hotplug.pcp import RECLAIMABLE, PerCpuPages
from fastonline.hotplug.zonelists import movable_zonelist

BLOCK = fo.X86_64.pages_per_section


class Guest:
    """A guest whose lists hold pages of each kind: from programs, the kernel, and a huge page."""

    def __init__(self, engine, rules):
        self.mem = fo.Memory(fo.X86_64, boot="128M", rules=rules, engine=engine)
        self.mem.add_memory(16 * BLOCK, 2 * BLOCK)
        self.mem.online_pages(16 * BLOCK, 2 * BLOCK, fo.MMOP_ONLINE_MOVABLE)
        self.pcp = self.mem.pcp = PerCpuPages(self.mem)
        self.zonelist = movable_zonelist(self.mem, 0)
        self.pages = self.pcp.alloc(300, self.zonelist)
        self.kernel = [self.pcp.alloc_kernel(order, kind=kind) for order in (0, 3, 4) for kind in (0, RECLAIMABLE)]
        self.huge = [self.pcp.alloc_huge(self.zonelist) for _ in range(2)]
        self.pcp.free_huge(self.huge.pop())
        self.pcp.free(self.pages[:100])
        self.pages = self.pages[100:]
        self.pcp.empty_slabs = [(self.pcp.alloc_kernel(0), 0), (self.pcp.alloc_kernel(3), 3)]
        self.slabs = list(self.pcp.empty_slabs)

    def state(self):
        """The machine and its lists. The buddy allocator's work stays counted when it is undone."""
        lists = {}
        for z, zone in self.pcp._zones.items():
            lists[z] = {name: getattr(zone, name) for name in zone.__slots__}
            lists[z]["lists"] = [list(pages) for pages in zone.lists]
            lists[z]["pool"] = {base: free.tolist() for base, free in zone.pool.items()}
            lists[z]["reclaimable"] = set(zone.reclaimable)
        machine = snapshot(self.mem)
        for work in ("bytes_touched", "allocations", "frees", "merges", "splits"):
            del machine["stats"][work]
        return machine, {z: found for z, found in lists.items() if any(found.values())}, list(self.pcp.empty_slabs)


CALLS = {
    "alloc": lambda guest: guest.pcp.alloc(5000, guest.zonelist),
    "free": lambda guest: guest.pcp.free(guest.pages[::-1]),
    "alloc_kernel": lambda guest: guest.pcp.alloc_kernel(2),
    "alloc_kernel of a new pageblock": lambda guest: guest.pcp.alloc_kernel(9, kind=RECLAIMABLE),
    "free_kernel": lambda guest: guest.pcp.free_kernel(guest.kernel[4], 4),
    "alloc_huge": lambda guest: guest.pcp.alloc_huge(guest.zonelist),
    "free_huge": lambda guest: guest.pcp.free_huge(guest.huge[0]),
    "drain": lambda guest: guest.pcp.drain(guest.mem.zones["Movable"].nr),
    "disable": lambda guest: guest.pcp.disable(guest.mem.zones["DMA32"].nr),
    "release": lambda guest: guest.pcp.release(0, 32 * BLOCK),
    "shrink_slabs": lambda guest: guest.pcp.shrink_slabs(),
    "evict": lambda guest: guest.pcp.evict(16 * BLOCK, 2 * BLOCK, np.sort(guest.pages)),
    "background_work": lambda guest: guest.pcp.background_work(),
}


@pytest.mark.parametrize("rules", [fo.LINUX_6_1, fo.LINUX_6_12], ids=["6.1", "6.12"])
@pytest.mark.parametrize("call", CALLS)
def test_an_array_that_cannot_be_had_changes_nothing(engine, rules, call):
    guest = Guest(engine, rules)
    for nr in range(2000):
        before, failing = guest.state(), Failing(nr)
        try:
            with failing:
                CALLS[call](guest)
        except MemoryError:
            assert failing.failed
            assert guest.state() == before, f"array {nr}"
        else:
            break
    else:
        raise AssertionError("the call never succeeds")
    guest.mem.validate()


def test_a_callback_cannot_change_the_lists_that_are_being_changed(engine):
    """arch_free_page frees more pages. Expect EBUSY out of both calls, and nothing changed."""
    guest = Guest(engine, fo.LINUX_6_12)
    before = guest.state()
    guest.mem.arch_free_page = lambda pfn, order: guest.pcp.free(guest.pages[:10])
    with pytest.raises(fo.HotplugError, match="EBUSY: drain|EBUSY: free"):
        guest.pcp.drain(guest.mem.zones["Movable"].nr)
    guest.mem.arch_free_page = None
    assert guest.state()[1:] == before[1:]
    guest.mem.validate()
