"""Each kind of callback doing each thing that it could do, to its own machine and to another, and then returning or raising.

Expect both machines to be valid afterwards, to give out every free page, and to take their memory back.
"""

import contextlib
import gc
import os

import numpy as np
import pytest
from conftest import SMALL_64, SMALL_PAE
from in_process import in_process

import fastonline as fo
from fastonline.hotplug.migrate import put_back

S = 256
OTHER, ONLINE, ADDED, FREE = 1024, 1280, 1536, 2048      # first pfns: online with owned pages, online, added, nothing there


class Raised(Exception):
    pass


def machine(engine, rules, geometry):
    mem = fo.Memory(geometry, boot="1M", engine=engine, rules=rules)
    mem.add_memory(OTHER, 4 * S)
    mem.online_pages(OTHER, 2 * S)
    return mem


# What a callback does to a machine.
DEEDS = {
    "nothing": lambda mem: None,
    "online_another_block": lambda mem: mem.online_pages(ADDED + S, S),
    "online_the_same_block": lambda mem: mem.online_pages(ADDED, S),
    "prepare": lambda mem: mem.prepare_online_pages(ADDED + S, S),
    "prepare_the_same": lambda mem: mem.prepare_online_pages(ADDED, S),
    "mark_the_same": lambda mem: mem.mark_pages_onlined(ADDED, S),
    "mark_one_page": lambda mem: mem.mark_pages_onlined(ADDED + 7),
    "mark_pfns": lambda mem: mem.mark_pfns_onlined(np.arange(ADDED, ADDED + S)),
    "generic_online_page": lambda mem: mem.generic_online_page(ADDED, 3),
    "offline_another_block": lambda mem: mem.offline_pages(ONLINE, S),
    "offline_the_same_block": lambda mem: mem.offline_pages(OTHER, S),
    "add": lambda mem: mem.add_memory(FREE, S),
    "add_far_away": lambda mem: mem.add_memory(3840, S, nid=3),
    "remove_another_block": lambda mem: mem.remove_memory(ADDED + S, S),
    "remove_the_same_block": lambda mem: mem.remove_memory(ADDED, S),
    "offline_and_remove": lambda mem: (mem.offline_pages(ONLINE, S), mem.remove_memory(ONLINE, S)),
    "alloc": lambda mem: mem.alloc_pages(),
    "alloc_all": lambda mem: mem.alloc_pages_bulk(sum(zone.free_pages for zone in mem.zones.values())),
    "alloc_and_free": lambda mem: mem.free_pages(mem.alloc_pages(3), 3),
    "alloc_contig": lambda mem: mem.alloc_contig_range(ONLINE, 10),
    "free_pfns": lambda mem: mem.free_pfns(mem.alloc_pages_bulk(20)),
    "set_page_reserved": lambda mem: mem.set_page_reserved(ONLINE, 20),
    "reserve_the_same": lambda mem: mem.set_page_reserved(ADDED, S),
    "give_to_the_host": lambda mem: mem.set_pfns_offline(mem.alloc_pages_bulk(3)),
    "free_reserved": lambda mem: mem.free_reserved_pfns([ADDED + 1]),
    "put_back": lambda mem: put_back(mem, np.array([OTHER])),
    "copy": lambda mem: mem.copy().validate(),
    "save": lambda mem: mem.save(os.devnull),
    "validate": lambda mem: mem.validate(),
    "look": lambda mem: (mem.zoneinfo(), mem.lsmem(), mem.stats(), mem.page_states(0, 2048), mem.kpageflags(0, 2048)),
    "init_again": lambda mem: mem.__init__(SMALL_64, boot="2M"),
    "set_callback": lambda mem: mem.set_online_page_callback(lambda pfn, order: None),
    "drop_callback": lambda mem: mem.restore_online_page_callback(mem.online_page_callback),
    "unregister_all": lambda mem: mem.notifiers.chain.clear(),
    "register_more": lambda mem: mem.notifiers.register(lambda action, notice: fo.NOTIFY_BAD),
    "ignore_all": lambda mem: mem.events.listeners.clear(),
    "forget_owners": lambda mem: mem.page_owners.clear(),
    "sysctls": lambda mem: (
        setattr(mem, "min_free_kbytes", 512),
        setattr(mem, "nr_cpus", 8),
        setattr(mem, "policy", "auto-movable"),
    ),
    "auto_online": lambda mem: setattr(mem, "auto_online_blocks", "online"),
    "collect": lambda mem: gc.collect(),
}


class Counted:
    """Does the deed so many times, so that what calls itself comes to an end."""

    def __init__(self, deed, mem, raises, times=3):
        self.deed, self.mem, self.raises, self.left = deed, mem, raises, times

    def __call__(self, *args):
        if self.left > 0:
            self.left -= 1
            with contextlib.suppress(fo.HotplugError, MemoryError, ValueError, RuntimeError, TypeError, OSError):
                self.deed(self.mem)
            if self.raises:
                raise Raised


class Index:
    """An int whose reading does the deed."""

    def __init__(self, number, do):
        self.number, self.do = number, do

    def __index__(self):
        self.do()
        return self.number

    __int__ = __index__


def in_a_notifier(mem, do):
    mem.notifiers.register(lambda action, notice: do())
    mem.online_pages(ADDED, S)
    mem.offline_pages(ADDED, S)


def in_an_online_page_callback(mem, do):
    def callback(pfn, order):
        mem.generic_online_page(pfn, order)
        do()

    mem.set_online_page_callback(callback)
    mem.online_pages(ADDED, S)


def in_a_mark_by_callback(mem, do):
    mem.prepare_online_pages(ADDED, S)

    def callback(pfn, order):
        do()
        mem.generic_online_page(pfn, order)

    mem.set_online_page_callback(callback)
    mem.mark_pfns_onlined(np.arange(ADDED, ADDED + 20))
    mem.mark_pages_onlined(ADDED, S, order=2)


def in_an_owners_callback(mem, do):
    owner = fo.MovablePages(mem, on_move=lambda old, new: do())
    owner.alloc(2 * S)
    mem.offline_pages(OTHER, S)


def in_a_listener(mem, do):
    mem.events.listen(lambda kind, text: do())
    mem.add_memory(FREE + 2 * S, S, nid=1)
    mem.online_pages(ADDED, S)
    mem.blocks[ADDED // S].offline()
    mem.remove_memory(FREE + 2 * S, S)


def in_an_index(mem, do):
    mem.add_memory(Index(FREE + S, do), Index(S, do), Index(1, do))
    mem.online_pages(Index(ADDED, do), Index(S, do), Index(1, do))
    mem.mark_pages_onlined(Index(ADDED, do), Index(1, do), Index(0, do))
    mem.free_pages(Index(mem.alloc_pages(Index(0, do)), do), Index(0, do))
    mem.alloc_pages_bulk(Index(3, do), Index(0, do), zone=(Index(0, do), "DMA"))
    mem.offline_pages(Index(ADDED, do), Index(S, do))


KINDS = (in_a_notifier, in_an_online_page_callback, in_a_mark_by_callback, in_an_owners_callback, in_a_listener, in_an_index)


def still_works(mem):
    """Valid, and its free pages can all be had and given back."""
    mem.validate()
    free = sum(zone.free_pages for zone in mem.zones.values())
    taken = mem.alloc_pages_bulk(free)
    assert len(np.unique(taken)) == free
    mem.validate()
    mem.free_pfns(taken)
    mem.validate()


@pytest.mark.parametrize("rules, geometry", [(fo.LINUX_6_12, SMALL_64), (fo.LINUX_2_6_25, SMALL_PAE)], ids=["6.12", "2.6.25"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_callback_that_does_anything(engine, rules, geometry, kind):
    def work():
        for name, deed in DEEDS.items():
            for raises in (False, True):
                for own in (True, False):
                    mem, other = machine(engine, rules, geometry), machine(engine, rules, geometry)
                    do = Counted(deed, mem if own else other, raises)
                    try:
                        with contextlib.suppress(Raised, fo.HotplugError, ValueError, MemoryError):
                            kind(mem, do)
                        still_works(mem)
                        still_works(other)
                    except BaseException as e:
                        raise AssertionError(f"{name}, raises={raises}, own={own}: {e!r}") from e

    assert in_process(work, 120) == ""
