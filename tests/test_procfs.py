"""hotplug/procfs.py: the kernel's and util-linux's own texts, to the byte."""

import re
import shutil
import subprocess

import pytest

import fastonline as fo

BLOCK = 32768


def machine(engine, rules=fo.LINUX_6_1):
    mem = fo.Memory(fo.X86_64, boot="512M", rules=rules, engine=engine)
    mem.add_memory(1 << 20, 2 * BLOCK)
    mem.online_pages(1 << 20, BLOCK)
    mem.alloc_pages(0, "Normal")
    return mem


def test_buddyinfo(engine):
    """`Node %d, zone %8s ` then `%6lu ` an order: note the trailing space. Empty zones are left out."""
    assert machine(engine).buddyinfo() == (
        "Node 0, zone      DMA      0      0      0      0      0      0      0      0      0      0      4 \n"
        "Node 0, zone    DMA32      0      0      0      0      0      0      0      0      0      0    124 \n"
        "Node 0, zone   Normal      1      1      1      1      1      1      1      1      1      1     31 \n"
    )


def test_zoneinfo(engine):
    mem = machine(engine)
    zone = mem.zones["Normal"]
    text = mem.zoneinfo()
    assert (
        "Node 0, zone   Normal\n"
        "  pages free     32767\n"
        f"        min      {zone.min}\n"
        f"        low      {zone.low}\n"
        f"        high     {zone.high}\n"
        "        spanned  32768\n"
        "        present  32768\n"
        "        managed  32768\n"
        "        protection: (0, 0, 0, 0, 0)\n"
        "  start_pfn:           1048576\n"
    ) in text
    assert re.findall(r"^Node 0, zone +(\w+)$", text, re.M) == ["DMA", "DMA32", "Normal", "Movable", "Device"]
    movable = text.split("zone  Movable\n")[1].split("Node")[0]
    assert "spanned  0" in movable and "start_pfn" not in movable


def test_pagetypeinfo(engine):
    lines = machine(engine).pagetypeinfo().splitlines()
    assert lines[:3] == ["Page block order: 9", "Pages per block:  512", ""]
    assert lines[3] == "Free pages count per migrate type at order  " + "".join(f"{order:6d} " for order in range(11))
    assert lines[5] == "Node    0, zone      DMA, type      Movable " + "     0 " * 10 + "     4 "
    assert any(line.startswith("Node 0, zone   Normal ") and line.split()[5] == "64" for line in lines)


def test_lsmem(engine):
    """util-linux's columns; ranges are inclusive, blocks alike are one row."""
    assert machine(engine).lsmem() == (
        "RANGE                                  SIZE   STATE REMOVABLE BLOCK\n"
        "0x0000000000000000-0x000000001fffffff  512M  online       yes   0-3\n"
        "0x0000000100000000-0x0000000107ffffff  128M  online       yes    32\n"
        "0x0000000108000000-0x000000010fffffff  128M offline              33\n"
        "\n"
        "Memory block size:       128M\n"
        "Total online memory:     640M\n"
        "Total offline memory:    128M\n"
    )
    assert "0B" in fo.Memory(fo.X86_64, boot="128M").lsmem()


def test_lsmem_is_what_util_linux_prints(engine, tmp_path):
    """Expect the same text from the real lsmem of a sysfs-like tree, for a machine of several ranges and sizes."""
    if not shutil.which("lsmem"):
        pytest.skip("there is no lsmem here")
    mem = machine(engine)
    mem.add_memory(1 << 24, 9 * BLOCK)
    mem.online_pages(1 << 24, 9 * BLOCK, fo.MMOP_ONLINE_MOVABLE)
    memory = tmp_path / "sys" / "devices" / "system" / "memory"
    for nr, block in mem.blocks.items():
        (memory / f"memory{nr}").mkdir(parents=True)
        for name in ("state", "phys_index", "removable", "valid_zones"):
            (memory / f"memory{nr}" / name).write_text(f"{getattr(block, name)}\n")
    (memory / "block_size_bytes").write_text(f"{mem.geometry.section_size:x}\n")
    real = subprocess.run(["lsmem", "--sysroot", str(tmp_path)], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"})
    assert real.returncode == 0, real.stderr
    assert mem.lsmem() == real.stdout


def test_pcp_batch(engine):
    mem = machine(engine)
    assert [mem.zones[name].pcp_batch for name in ("DMA", "DMA32", "Normal", "Movable")] == [1, 31, 7, 0]
