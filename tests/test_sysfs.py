"""linux/sysfs.py: the tree that the real lsmem reads."""

import json
import os
import re
import shutil
import subprocess

import pytest

import fastonline as fo

BLOCK = 32768
needs_lsmem = pytest.mark.skipif(shutil.which("lsmem") is None, reason="util-linux is not here")


def machine(engine):
    mem = fo.Memory(fo.X86_64, "512M", engine=engine)
    mem.add_memory(32 * BLOCK, 5 * BLOCK)
    mem.add_memory(48 * BLOCK, 2 * BLOCK, nid=1)
    mem.blocks[33].online("online_movable")
    mem.blocks[35].online()
    mem.blocks[48].online()
    return mem


def lsmem(directory, *options):
    return subprocess.run(
        ["lsmem", "--sysroot", str(directory), *options],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"LC_ALL": "C"},
    ).stdout


@needs_lsmem
@pytest.mark.parametrize("make", [
    machine,
    lambda engine: fo.Memory(fo.X86_64, "128M", engine=engine),
    lambda engine: fo.Memory(fo.X86_64, "2G", engine=engine, memory_block_size="512M"),
    lambda engine: fo.Memory(fo.X86_64, "10368M", engine=engine),
    lambda engine: fo.Memory(fo.ARM64_64K, "100.5G", engine=engine),      # totals wider than their column
    lambda engine: fo.Memory(fo.X86_32_PAE, "1G", engine=engine, rules=fo.LINUX_2_6_25),
])
def test_lsmem_prints_the_same(tmp_path, engine, make):
    mem = make(engine)
    fo.export_sysfs(mem, tmp_path)
    version = subprocess.run(["lsmem", "--version"], capture_output=True, text=True, check=True).stdout
    assert lsmem(tmp_path) == mem.lsmem(re.search(r"\d+\.\d+", version)[0])


@needs_lsmem
def test_lsmem_shows_the_machine(tmp_path, engine):
    fo.export_sysfs(machine(engine), tmp_path)
    rows = json.loads(lsmem(tmp_path, "-J", "-a", "-o", "+ZONES,NODE"))["memory"]
    shown = {row["block"]: (row["state"], row["zones"], row["node"]) for row in rows}
    assert shown["0"] == ("online", "None", 0)
    assert shown["33"] == ("online", "Movable", 0) and shown["35"] == ("online", "Normal", 0)
    assert shown["48"] == ("online", "Normal", 1) and shown["49"] == ("offline", "Normal/Movable", 1)
    assert len(rows) == 11


def test_an_old_tree_is_not_mixed_in(tmp_path, engine):
    mem = machine(engine)
    assert fo.export_sysfs(mem, tmp_path / "a" / "b") == tmp_path / "a" / "b"
    with pytest.raises(FileExistsError):
        fo.export_sysfs(mem, tmp_path / "a" / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        fo.export_sysfs(mem, tmp_path / "file")


def test_sets_of_nodes(tmp_path, engine):
    """RECORDED 6: ranges, as 0-1; node 3 has memory in Movable alone, node 2's is not online."""
    mem = machine(engine)
    mem.add_memory(64 * BLOCK, BLOCK, nid=3)
    mem.add_memory(80 * BLOCK, BLOCK, nid=2)
    mem.blocks[64].online("online_movable")
    fo.export_sysfs(mem, tmp_path)
    node = tmp_path / "sys" / "devices" / "system" / "node"
    texts = {name: (node / name).read_text() for name in ("online", "has_memory", "has_normal_memory")}
    assert texts == {"online": "0-3\n", "has_memory": "0-1,3\n", "has_normal_memory": "0-1\n"}
    mem = fo.Memory(fo.X86_64, engine=engine)
    assert not mem.zones.has_memory(0) and not mem.zones.has_normal_memory(0) and not mem.zones.has_normal_memory(9)
