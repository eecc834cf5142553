"""hotplug/savefile.py: a machine in one file, written atomically and checked on load (foreign files: test_arguments.py)."""

import os
import pickle
import stat
import subprocess
import sys
from copy import copy, deepcopy
from pathlib import Path

import pytest
from conftest import SMALL_64, SMALL_64K, snapshot

import fastonline as fo


@pytest.fixture
def mem(make_machine):
    mem = make_machine(boot="3M", rules=fo.LINUX_6_1)
    mem.add_memory(1024, 512, 1)
    mem.prepare_online_pages(1024, 256, fo.MMOP_ONLINE_MOVABLE)
    mem.mark_pages_onlined(1024, 100)
    mem.alloc_pages_bulk(9)
    mem.set_page_offline(mem.alloc_pages(0, "DMA32"))
    mem.min_free_kbytes = 300
    return mem


def saved(mem, tmp_path):
    mem.save(tmp_path / "machine")
    return fo.load(tmp_path / "machine")


@pytest.mark.parametrize(
    "through",
    [
        saved,
        lambda mem, _: mem.copy(),
        lambda mem, _: pickle.loads(pickle.dumps(mem)),
        lambda mem, _: copy(mem),
        lambda mem, _: deepcopy(mem),
    ],
    ids=["save", "copy", "pickle", "copy.copy", "copy.deepcopy"],
)
def test_a_copy_is_the_same_and_goes_on_alone(mem, through, tmp_path):
    """Expect the copy to be equal in all one can see, to go on in the same way, and the original to stay as it was."""
    mem.notifiers.register(lambda action, notice: fo.NOTIFY_BAD)
    before = snapshot(mem)
    other = through(mem, tmp_path)
    other.validate()
    assert snapshot(other) == before
    assert (other.geometry, other.rules, other.engine, other.max_pfn) == (mem.geometry, mem.rules, mem.engine, mem.max_pfn)
    assert len(other.notifiers) == 0
    pages = other.alloc_pages_bulk(50)
    assert other.mark_pages_onlined(1024, 256) == 156
    other.online_pages(1280, 256)
    assert snapshot(mem) == before
    assert mem.alloc_pages_bulk(50).tolist() == pages.tolist()


def test_saving_is_atomic(mem, tmp_path):
    """A save that fails leaves the old file and nothing beside it."""
    path = tmp_path / "machine"
    mem.save(path)
    data = path.read_bytes()
    os.chmod(path, 0o644)
    mem.online_pages(1280, 256)
    mem.save(path)
    assert path.read_bytes() != data
    assert os.listdir(tmp_path) == ["machine"]
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError):
        mem.save(tmp_path / "directory")
    assert sorted(os.listdir(tmp_path)) == ["directory", "machine"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_empty_and_sparse_machines(engine, tmp_path):
    for geometry, start in ((SMALL_64, None), (SMALL_64, 15 * 256), (SMALL_64K, 2 * 8192)):
        mem = fo.Memory(geometry, engine=engine)
        if start is not None:
            mem.add_memory(start, geometry.pages_per_section)
            mem.online_pages(start, geometry.pages_per_section)
        other = saved(mem, tmp_path)
        other.validate()
        assert snapshot(other) == snapshot(mem)


# -- out of memory

SAVE_AND_LOAD = """
import resource, sys
import fastonline as fo
from fastonline.geometry import X86_64
import faulthandler; faulthandler.enable()
path, engine, room = sys.argv[1], sys.argv[2], int(sys.argv[3])
mem = fo.Memory(X86_64, "64M" if engine == "struct_page" else "32G", engine=engine)
before = mem.buddyinfo(), mem.zoneinfo(), mem.stats()
mem.save(path)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
for call in (lambda: mem.save(path), lambda: fo.load(path), mem.copy, mem.validate):
    try:
        call()
        print("done")
    except MemoryError as e:
        print("MemoryError")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
mem.validate()
assert (mem.buddyinfo(), mem.zoneinfo(), mem.stats()) == before
fo.load(path).validate()
"""


@pytest.mark.parametrize("room", [0, 1 << 16, 1 << 19, 1 << 21, 1 << 22, 1 << 23, 1 << 24, 1 << 27])
def test_out_of_memory(engine, tmp_path, room):
    """No more address space than so many bytes: a MemoryError, the machine and the file as they were."""
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(fo.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    }
    done = subprocess.run(
        [sys.executable, "-c", SAVE_AND_LOAD, tmp_path / "m", engine, str(room)], capture_output=True, text=True, env=environ
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"done", "MemoryError"} and len(done.stdout.split()) == 4
    assert os.listdir(tmp_path) == ["m"]
    assert room or "MemoryError" in done.stdout
