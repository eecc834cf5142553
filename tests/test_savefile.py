"""hotplug/savefile.py: a machine in one file, written atomically and checked on load (foreign files: test_arguments.py)."""

import os
import stat
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import fastonline as fo
from fastonline.hotplug import savefile


def test_saving_is_atomic(varied, tmp_path):
    """A save that fails leaves the old file and nothing beside it."""
    path = tmp_path / "machine"
    varied.save(path)
    data = path.read_bytes()
    os.chmod(path, 0o644)
    varied.online_pages(1280, 256)
    varied.save(path)
    assert path.read_bytes() != data
    assert os.listdir(tmp_path) == ["machine"]
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError):
        varied.save(tmp_path / "directory")
    assert sorted(os.listdir(tmp_path)) == ["directory", "machine"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("left, right", ["[]", ('{"a":', "}")], ids=["lists", "tables"])
@pytest.mark.parametrize("depth", [100, 600, 900, 100_000])
def test_a_header_of_brackets(tmp_path, left, right, depth):
    """Its checksum is right. Expect one line for any depth, also one that JSON can have and a walk through it cannot."""
    header = b'{"x":' + left.encode() * depth + b"0" + right.encode() * depth + b"}"
    data = savefile._magic("machine") + len(header).to_bytes(8, "little") + header
    path = tmp_path / "machine"
    path.write_bytes(data + zlib.crc32(data).to_bytes(4, "little"))
    with pytest.raises(ValueError, match=f"^{path}: "):
        fo.load(path)


# -- out of memory

SAVE_AND_LOAD = """
import resource, sys
import fastonline as fo
from fastonline.geometry import X86_64
import faulthandler; faulthandler.enable()
path, engine, room = sys.argv[1], sys.argv[2], int(sys.argv[3])
varied = fo.Memory(X86_64, "64M" if engine == "struct_page" else "32G", engine=engine)
before = varied.buddyinfo(), varied.zoneinfo(), varied.stats()
varied.save(path)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
for call in (lambda: varied.save(path), lambda: fo.load(path), varied.copy, varied.validate):
    try:
        call()
        print("done")
    except MemoryError as e:
        print("MemoryError")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
varied.validate()
assert (varied.buddyinfo(), varied.zoneinfo(), varied.stats()) == before
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
