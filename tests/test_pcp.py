"""hotplug/pcp: a change of the per-CPU lists happens as a whole, or not at all.

Arrays cannot be had because a NumPy function raises MemoryError: NumPy itself crashes when CPython's allocator fails inside it.
"""

import numpy as np
import pytest
from conftest import snapshot
from test_out_of_memory import Failing

import fastonline as fo
from fastonline.core.pageflags import FLAG_NAMES
from fastonline.hotplug.migrate import MovablePages
from fastonline.hotplug.pcp import PerCpuPages
from fastonline.hotplug.pcp_zone import MOVABLE, RECLAIMABLE
from fastonline.hotplug.zonelists import movable_zonelist

BLOCK = fo.X86_64.pages_per_section
PG_BUDDY = 1 << FLAG_NAMES.index("PG_buddy")


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
            lists[z] = {name: getattr(zone, name) for name in zone.__slots__ if name not in ("huge_order", "tunes_itself")}
            lists[z]["lists"] = [list(pages) for pages in zone.lists if pages]
            lists[z]["pageblocks"] = {base: free.tolist() for base, free in zone.pageblocks._free.items()}
            lists[z]["reclaimable"] = set(zone.pageblocks._reclaimable)
        machine = snapshot(self.mem)
        for work in ("bytes_touched", "allocations", "frees", "merges", "splits"):
            del machine["stats"][work]
        lists = {z: found for z, found in lists.items() if any(found.values())}
        return machine, lists, list(self.pcp.empty_slabs), np.flatnonzero(self.pcp._listed).tolist()


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


MOVABLE_PFN = 16 * BLOCK      # the first page of added memory, in zone Movable
REFUSED = {
    "a free page": lambda guest: guest.pcp.free([free_page(guest)]),
    "a page on a list": lambda guest: guest.pcp.free([guest.listed]),
    "a page twice": lambda guest: guest.pcp.free([guest.pages[0], guest.pages[0]]),
    "a page with an owner": lambda guest: guest.pcp.free(guest.owner.pfns[:1]),
    "a Reserved page": lambda guest: guest.pcp.free([guest.reserved]),
    "an offline page": lambda guest: guest.pcp.free([guest.offline]),
    "a page past the end": lambda guest: guest.pcp.free([1 << 40]),
    "a negative page": lambda guest: guest.pcp.free([-1]),
    "pages in two dimensions": lambda guest: guest.pcp.free([guest.pages[:2]]),
    "a kernel page that is free": lambda guest: guest.pcp.free_kernel(free_kernel_page(guest)),
    "a kernel page on a list": lambda guest: guest.pcp.free_kernel(guest.listed),
    "a kernel page in no memory": lambda guest: guest.pcp.free_kernel(1 << 40),
    "a negative kernel page": lambda guest: guest.pcp.free_kernel(-8, 3),
    "a crooked kernel block": lambda guest: guest.pcp.free_kernel(guest.kernel[4] + 1, 4),
    "a kernel block of a list": lambda guest: guest.pcp.free_kernel(guest.listed & ~7, 3),
    "a kernel block of no order": lambda guest: guest.pcp.free_kernel(guest.kernel[0], 11),
    "a huge page of free pages": lambda guest: guest.pcp.free_huge(free_page(guest) & ~511),
    "a huge page on a list": lambda guest: guest.pcp.free_huge(guest.listed_huge),
    "a crooked huge page": lambda guest: guest.pcp.free_huge(guest.huge[0] + 1),
    "a free page to put": lambda guest: guest.pcp.put(guest.mem.zones["Movable"], [free_page(guest)], 100),
    "a page on a list to put": lambda guest: guest.pcp.put(guest.mem.zones["Movable"], [guest.listed], 100),
    "a page of another zone to put": lambda guest: guest.pcp.put(guest.mem.zones["DMA32"], guest.pages[:2], 100),
    "a negative high to put": lambda guest: guest.pcp.put(guest.mem.zones["Movable"], guest.pages[:2], -1),
    "a page in use to take": lambda guest: guest.pcp.take_page(int(guest.pages[0])),
    "a negative number of pages": lambda guest: guest.pcp.alloc(-1, guest.zonelist),
    "pages of no zone": lambda guest: guest.pcp.alloc(1, [999]),
    "a zone there is not to drain": lambda guest: guest.pcp.disable(999),
    "a zone there is not to enable": lambda guest: guest.pcp.enable(-1),
    "a zone there is not to count": lambda guest: guest.pcp.count(999),
}
NOT_NUMBERS = {
    "fractions": lambda guest: guest.pcp.free([1.5]),
    "nothing": lambda guest: guest.pcp.free([None]),
    "a generator": lambda guest: guest.pcp.free(object()),
    "a fraction of a kernel page": lambda guest: guest.pcp.free_kernel(1.0),
    "no kernel page": lambda guest: guest.pcp.free_kernel(None),
    "no huge page": lambda guest: guest.pcp.free_huge("0x200"),
    "words to put": lambda guest: guest.pcp.put(guest.mem.zones["Movable"], ["a"], 100),
    "no high to put": lambda guest: guest.pcp.put(guest.mem.zones["Movable"], guest.pages[:2], None),
    "no number of pages": lambda guest: guest.pcp.alloc(None, guest.zonelist),
}


def free_page(guest):
    """A page that is free in the buddy allocator."""
    return MOVABLE_PFN + int(np.flatnonzero(guest.mem.page_states(MOVABLE_PFN, 2 * BLOCK) & PG_BUDDY)[-1])


def free_kernel_page(guest):
    """A free page of an Unmovable pageblock."""
    return int(guest.pcp.away(0, 16 * BLOCK)[1][-1])


@pytest.fixture(params=[fo.LINUX_6_1, fo.LINUX_6_12], ids=["6.1", "6.12"])
def full_guest(engine, request):
    """A guest with pages in each state that cannot be freed."""
    guest = Guest(engine, request.param)
    lists = guest.pcp._zone(guest.mem.zones["Movable"].nr).lists
    guest.listed = lists[MOVABLE][0]
    guest.pcp.alloc_huge(guest.zonelist)      # a list gets two at a time
    guest.listed_huge = max(lists[3 * 4 :], key=len)[0]
    guest.owner = MovablePages(guest.mem)
    guest.owner.adopt(guest.pages[-2:])
    guest.reserved, guest.offline = (int(pfn) for pfn in guest.pages[-4:-2])
    guest.mem.set_page_reserved(guest.reserved)
    guest.mem.set_page_offline(guest.offline)
    return guest


@pytest.mark.parametrize("call", [*REFUSED, *NOT_NUMBERS])
def test_what_cannot_be_freed_is_refused(full_guest, call):
    """Expect the error at once, not at the next drain, and nothing changed."""
    before = full_guest.state()
    with pytest.raises(ValueError if call in REFUSED else (TypeError, ValueError)):
        (REFUSED | NOT_NUMBERS)[call](full_guest)
    assert full_guest.state() == before
    for zone in full_guest.mem.zones.values():
        full_guest.pcp.drain(zone.nr)
    full_guest.mem.validate()


def test_every_kind_of_array_can_be_freed(full_guest):
    pages = full_guest.pages[:12]
    for part in (pages[:2].astype(np.uint32), pages[2:4].tolist(), pages[4:8:2], tuple(pages[5:8:2].tolist()),
                 pages[8:10].astype(">i8"), pages[10:12][::-1], np.empty(0), []):
        full_guest.pcp.free(part)
    assert [full_guest.pcp.is_free(int(pfn)) or full_guest.pcp._listed[pfn] for pfn in pages] == [True] * 12
    full_guest.mem.validate()


def test_a_memmap_that_is_no_longer_in_use_is_not_freed(engine):
    """Somebody freed the memmap of a section. Expect EBUSY from remove_memory, with per-CPU lists as without."""
    mem = fo.Memory(fo.X86_64, boot="128M", rules=fo.LINUX_6_12, engine=engine, memmap="kernel")
    mem.pcp = PerCpuPages(mem)
    mem.add_memory(16 * BLOCK, BLOCK)
    ((pfn, nr),) = mem.memmaps[16]
    mem.pcp.free_kernel(pfn, nr.bit_length() - 1)
    with pytest.raises(fo.HotplugError, match="EBUSY: the memmap of section 16"):
        mem.remove_memory(16 * BLOCK, BLOCK)
    assert mem.sections.present_section_nr(16)


def test_lists_of_another_machine(engine):
    mem, other = (fo.Memory(fo.X86_64, boot="128M", engine=engine) for _ in range(2))
    with pytest.raises(ValueError, match="another machine"):
        mem.pcp = PerCpuPages(other)
    with pytest.raises(TypeError):
        PerCpuPages(None)
