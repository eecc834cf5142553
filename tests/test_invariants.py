"""hotplug/invariants: what validate() finds, whatever made it so; under python -O too."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastonline as fo
from fastonline.hotplug.migrate import MovablePages

S = 256


@pytest.fixture
def mem(make_machine):
    mem = make_machine(boot="2M", memmap="kernel")
    mem.add_memory(1024, 2 * S, 1)
    mem.online_pages(1024, S)
    mem.validate()
    return mem


def test_other_resources_are_none_of_validates_business(mem):
    mem.resources.request(2048 << 12, 4096, "PCI Bus 0000:00")
    mem.validate()


def overwrite(owner, index, pfn):
    """Put a pfn into an owner's array, as stray C code would: Python cannot."""
    at = owner.pfns.ctypes.data + 8 * index
    ctypes.c_int64.from_address(at).value = pfn


@pytest.mark.parametrize("pfn, message", [
    (lambda mem, owners: mem.alloc_pages(), "page {:#x} has an owner, and is not marked so"),
    (lambda mem, owners: 0, "page {:#x} has an owner, and is not in use"),
    (lambda mem, owners: int(owners[1].pfns[1]), "page {:#x} has two owners"),
    (lambda mem, owners: 1 << 40, "page {:#x} has an owner, and is not in use"),
])
def test_owners_of_pages_that_are_not_theirs(mem, pfn, message):
    owners = MovablePages(mem), MovablePages(mem)
    for owner in owners:
        owner.alloc(3)
    mem.validate()
    page = pfn(mem, owners)
    overwrite(owners[0], 2, page)
    with pytest.raises(AssertionError, match=message.format(page)):
        mem.validate()


def changed(part, *path, value):
    """A change of one value of a state."""
    def change(state):
        where = state[part] if path else state
        for key in path[:-1]:
            where = where[key]
        where[path[-1] if path else part] = value
    return change


STATES = {
    "a section of a node that is not there": (lambda state: state["nids"][1].__setitem__(0, 7), "nodes"),
    "a section that is online and empty": (
        lambda state: state["online"][1].__setitem__(1, 1),
        "section 5 is online, nothing in it is",
    ),
    "a section that is offline and not empty": (lambda state: state["online"][1].__setitem__(0, 0), "section 4 is not online"),
    "an area that there is not": (lambda state: state["area_of"][0].__setitem__(0, 300), "area 300"),
    "pages of the wrong zone": (lambda state: state["area_of"][0].__setitem__(0, 2), "zone|area"),
    "counters of free blocks": (lambda state: state["areas"]["nr_free"].__setitem__((1, 3), 9), "zone DMA of node 0: nr_free"),
    "counters of an area of no zone": (lambda state: state["areas"]["nr_free"].__setitem__((0, 0), 1), "area 0: nr_free"),
    "a negative count": (lambda state: state["areas"]["frees"].__setitem__((1, 0), -1), "frees|negative"),
    "a span that is too short": (changed("zones", "zones", value=None), None),
    "no CPU": (lambda state: state["zones"]["nodes"].__setitem__(0, (True, True, 0, 512, 0)), "nr_cpus"),
    "a node that is gone": (lambda state: state["zones"]["nodes"].__setitem__(1, (False, True, 1024, 256, 0)), "node"),
    "auto_online": (changed("hotplug", value=[9, False, 301, True, 2]), "auto_online"),
    "a policy zone that there is not": (changed("hotplug", value=[0, False, 301, True, 99]), "policy zone"),
    "a memmap where no memory is": (changed("memmaps", value=[[4, 4000, 4]]), "memmap of section 4"),
    "a memmap of no section": (changed("memmaps", value=[[9, 0, 4]]), "section 9 is not present"),
    "a range where no memory is": (changed("groups", value=[(2048, 256, None)]), "added at 0x800"),
    "a range that begins before its RAM": (
        lambda state: state["resources"].append([1025 << 12, *state["resources"].pop()[1:]]),
        "a range of 512 pages was added at 0x400, where no memory is",
    ),
    "a range beyond memory": (changed("groups", value=[(1024, 1 << 60, None)]), "pages of a range"),
    "a group of no pages": (changed("groups", value=[(1024, 256, ("x", 0))]), "unit of a group"),
    "a resource outside its parent": (
        changed("resources", value=[[0, 4096, "x", [[0, 8192, "y", [], False]], False]]),
        "not inside",
    ),
    "RAM without sections": (
        lambda state: state["resources"].append([2048 << 12, 2048 + S << 12, "System RAM", [], True]),
        "RAM at pages 0x800-0x8ff, and some of it has no section",
    ),
    "sections without RAM": (lambda state: state["resources"].pop(), "section 4 has no RAM in /proc/iomem"),
    "resources that overlap": (
        changed("resources", value=[[0, 4096, "x", [], False], [0, 4096, "y", [], False]]),
        "out of order",
    ),
    "no geometry": (changed("geometry", value={}), None),
    "no engine": (changed("engine", value="x"), "engine"),
}


@pytest.mark.parametrize("what", STATES)
def test_states_that_are_refused(mem, what):
    change, message = STATES[what]
    restore, (state,) = mem.__reduce__()
    restore(state).validate()
    change(state)
    with pytest.raises(ValueError, match=message):
        restore(state)


PROGRAM = """
import ctypes, fastonline as fo
assert False, "asserts are on"
from fastonline.geometry import X86_64
mem = fo.Memory(X86_64, "256M", engine={engine!r})
owner = fo.MovablePages(mem)
owner.alloc(1)
ctypes.c_int64.from_address(owner.pfns.ctypes.data).value = 1 << 40
try:
    mem.validate()
except AssertionError as e:
    print("found:", e)
restore, (state,) = fo.Memory(X86_64, "256M", engine={engine!r}).__reduce__()
state["areas"]["nr_free"][1, 0] = 5
try:
    restore(state)
except ValueError as e:
    print("refused:", e)
"""


def test_without_asserts(engine):
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(fo.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    }
    done = subprocess.run(
        [sys.executable, "-O", "-c", PROGRAM.format(engine=engine)], capture_output=True, text=True, env=environ
    )
    assert done.stderr == "" and "found: page 0x10000000000 has an owner" in done.stdout and "refused: " in done.stdout, done
