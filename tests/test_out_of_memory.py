"""Every allocation of a call fails once: MemoryError, or the call goes on without it, and the machine is as before or done.

NumPy itself crashes where the object of a new view or array cannot be had. In calls that make many (copy, growth, moving pages)
NumPy's functions raise MemoryError in their turn instead; tests/test_crashes.py has some with a limit of the address space.
"""

import functools
import itertools
import os
import pickle

import numpy as np
import numpy.ma  # noqa: F401 - np.unique imports it when it is first called, not while functions are replaced
import pytest
from conftest import SMALL_64, snapshot
from in_process import in_process

import fastonline as fo
from fastonline.core.pageflags import PAGE_IN_USE, PG_offline, PG_tail
from fastonline.drivers.virtio_balloon import VirtioBalloon
from fastonline.hotplug.pcp import PerCpuPages

testcapi = pytest.importorskip("_testcapi", reason="this Python has no hooks for its allocator")

S = 256


def machine(engine):
    mem = fo.Memory(SMALL_64, boot="1M", engine=engine)
    mem.add_memory(1024, 3 * S)
    mem.online_pages(1024, S)
    mem.prepare_online_pages(1280, S)
    owner = fo.MovablePages(mem)
    owner.alloc(200)
    return mem, owner


CALLS = {
    "add_memory": lambda mem, owner: mem.add_memory(2048, S),
    "add_memory that goes online": lambda mem, owner: (setattr(mem, "auto_online_blocks", "online"), mem.add_memory(2048, S)),
    "remove_memory": lambda mem, owner: mem.remove_memory(1536, S),
    "prepare_online_pages": lambda mem, owner: mem.prepare_online_pages(1536, S),
    "online_pages": lambda mem, owner: mem.online_pages(1536, S),
    "mark_pages_onlined": lambda mem, owner: mem.mark_pages_onlined(1280, S),
    "mark_pfns_onlined": lambda mem, owner: mem.mark_pfns_onlined(range(1280, 1300)),
    "offline_pages": lambda mem, owner: mem.offline_pages(1280, S),
    "alloc_pages": lambda mem, owner: mem.alloc_pages(3),
    "set_page_reserved": lambda mem, owner: mem.set_page_reserved(0, 3),
    "owner.alloc": lambda mem, owner: owner.alloc(100),
    "owner.free": lambda mem, owner: owner.free(),
    # zoneinfo() is not among them: CPython 3.12 and 3.13 crash when memory runs out in a generator expression
    "stats": lambda mem, owner: mem.stats(),
}


def state_of(mem):
    """All of it, but for bytes_touched: what was written and taken back was written."""
    state = snapshot(mem)
    del state["stats"]["bytes_touched"]
    return state


def in_use(mem):
    states = np.concatenate([mem.page_states(first, nr) for first, nr in mem.sections.spans()])
    return int(np.count_nonzero((states & ~np.uint8(PG_tail)) == PAGE_IN_USE))


@pytest.mark.parametrize("call", CALLS)
def test_each_allocation_fails_once(engine, call):
    def work():
        mem, owner = machine(engine)
        before, owned = snapshot(mem), len(owner)
        for nr in range(2000):
            testcapi.set_nomemory(nr, nr + 1)
            failed = False
            try:
                CALLS[call](mem, owner)
            except MemoryError:
                failed = True
            except fo.HotplugError as e:      # what else the call makes of it
                failed = "nowhere to move" in str(e)
            finally:
                testcapi.remove_mem_hooks()
            mem.validate()
            if failed and snapshot(mem)["spans"] == before["spans"] and "owner" not in call and "move" not in call:
                assert {k: v for k, v in snapshot(mem).items() if k != "stats"} == {
                    k: v for k, v in before.items() if k != "stats"
                }, nr
            if "alloc_pages" not in call:
                assert in_use(mem) == len(owner), f"allocation {nr}: {in_use(mem)} pages in use, {len(owner)} owned"
            if not failed:
                return
            if len(owner) != owned or snapshot(mem)["spans"] != before["spans"]:
                mem, owner = machine(engine)
        raise AssertionError("it never comes to its end")

    assert in_process(work) == ""


# -- NumPy's own allocations

FUNCTIONS = ("arange", "argsort", "array", "ascontiguousarray", "concatenate", "cumsum", "diff", "empty", "flatnonzero",
             "frombuffer", "full", "isin", "lexsort", "nonzero", "ones", "repeat", "searchsorted", "unique", "unpackbits",
             "zeros")


class Failing:
    """While it is entered, the nr-th call of a function that makes an array raises MemoryError."""

    def __init__(self, nr):
        self.left = nr
        self.failed = False

    def __enter__(self):
        self.real = {name: getattr(np, name) for name in FUNCTIONS}
        for name, real in self.real.items():
            setattr(np, name, functools.partial(self.call, real))

    def __exit__(self, *exc):
        for name, real in self.real.items():
            setattr(np, name, real)

    def call(self, real, *args, **more):
        self.left -= 1
        if self.left == -1:
            self.failed = True
            raise MemoryError("the test's")
        return real(*args, **more)


class Guest:
    """A machine, a program's pages and a balloon's."""

    def __init__(self, engine, directory, pcp=False):
        self.mem, self.owner = machine(engine)
        self.mem.online_pages(1536, S)
        self.mem.mark_pages_onlined(1280, S)
        self.heard = []
        self.mem.events.listen(lambda kind, text: self.heard.append(text))
        if pcp:
            self.mem.pcp = PerCpuPages(self.mem)
        self.balloon = VirtioBalloon(self.mem)
        self.balloon.inflate(30)
        self.owner.alloc(100)
        self.path = os.path.join(directory, "saved")

    def saved(self):
        """Put the machine into a file and into bytes."""
        self.mem.save(self.path)
        self.pickled = pickle.dumps(self.mem)

    def owned(self):
        kept = 0
        if self.mem.pcp is not None:
            kept = sum(self.mem.pcp.count(z.nr) + self.mem.pcp.free_pages(z.nr) - z.free_pages for z in self.mem.zones.values())
        return len(self.owner) + kept


LARGE = {
    "copy": lambda guest: guest.mem.copy().validate(),
    "pickle.dumps": lambda guest: pickle.dumps(guest.mem),
    "pickle.loads": lambda guest: pickle.loads(guest.pickled).validate(),
    "save": lambda guest: guest.mem.save(guest.path),
    "load": lambda guest: fo.load(guest.path).validate(),
    "a node": lambda guest: guest.mem.add_memory(2048, S, nid=7),
    "moving pages": lambda guest: guest.mem.offline_pages(1024, S),
    "a block": lambda guest: guest.mem.blocks.remove(1280, S),
    "owner.alloc": lambda guest: guest.owner.alloc(100),
    "owner.free_at": lambda guest: guest.owner.free_at([3, 1, 2]),
    "owner.free": lambda guest: guest.owner.free(),
    "arch_alloc_page": lambda guest: (setattr(guest.mem, "arch_alloc_page", lambda pfns, order: None),
                                      guest.mem.free_pages(guest.mem.alloc_pages())),
    "inflate": lambda guest: guest.balloon.inflate(40),
    "deflate": lambda guest: guest.balloon.deflate(20),
    "texts": lambda guest: (guest.mem.zoneinfo(), guest.mem.lsmem(), guest.mem.kpageflags(0, 512)),
}
ALL_OR_NOTHING = {"copy", "pickle.dumps", "pickle.loads", "save", "load", "a node", "texts"}


@pytest.mark.parametrize("call, pcp", [(call, pcp) for call in LARGE for pcp in (False, True)])
def test_each_array_fails_once(engine, call, pcp, tmp_path):
    """Expect MemoryError, every page with its owner, and where the call moves no page the machine as it was."""
    def work():
        guest = Guest(engine, tmp_path, pcp)
        guest.saved()
        for nr in range(2000):
            before, failing = state_of(guest.mem), Failing(nr)
            try:
                with failing:
                    LARGE[call](guest)
            except MemoryError:
                assert failing.failed
            guest.mem.validate()
            assert in_use(guest.mem) == guest.owned(), f"call {nr}: {in_use(guest.mem)} in use, {guest.owned()} owned"
            states = np.concatenate([guest.mem.page_states(pfn, count) for pfn, count in guest.mem.sections.spans()])
            offline = int(np.count_nonzero(states & PG_offline))
            assert offline == len(guest.balloon), f"call {nr}: {offline} pages offline, {len(guest.balloon)} in the balloon"
            if not failing.failed:
                return
            if call in ALL_OR_NOTHING:
                assert state_of(guest.mem) == before, f"call {nr}"
            else:
                guest = Guest(engine, tmp_path, pcp)
        raise AssertionError("it never comes to its end")

    text = in_process(work, 120)
    assert text == "", text


@pytest.mark.parametrize("nid", [0, 9])
def test_each_array_fails_once_as_the_machine_grows(engine, nid):
    """Memory that there is no room for yet, on a node that is there and on one that is not. Expect the machine as it was."""
    def work():
        mem = fo.Memory(fo.X86_64, boot="256M", engine=engine)
        mem.events.listen(lambda kind, text: None)
        before, done = state_of(mem), False
        for nr in itertools.count():
            failing = Failing(nr)
            try:
                with failing:
                    mem.add_memory(1 << 22, fo.X86_64.pages_per_section, nid)
                done = True
            except MemoryError:
                assert failing.failed
            mem.validate()
            if done:
                return
            assert state_of(mem) == before, f"call {nr}"

    text = in_process(work, 120)
    assert text == "", text
