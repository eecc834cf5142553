"""Every allocation of a call fails once: MemoryError, or the call goes on without it, and the machine is as before or done.

NumPy itself crashes where the object of a new view or array cannot be had, so that calls that make many (copy, growth, moving
pages) are not among these; tests/test_crashes.py has them with a limit of the address space.
"""
import numpy as np
import pytest
from conftest import SMALL_64, snapshot
from in_process import in_process

import fastonline as fo

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
    "stats": lambda mem, owner: (mem.stats(), mem.zoneinfo()),
}


def in_use(mem):
    states = np.concatenate([mem.page_states(first, nr) for first, nr in mem.sections.spans()])
    return int(np.count_nonzero((states & 0b10111) == 16))


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
