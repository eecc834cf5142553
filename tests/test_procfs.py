"""hotplug/procfs.py: the kernel's and util-linux's own texts, to the byte."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import fastonline as fo
from fastonline.hotplug import procfs
from fastonline.linux.sources import read_source

CAPTURED = Path(__file__).parent / "data" / "linux-6.18-24g"
INPUTS = CAPTURED.parent / "inputs"
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


def zone_text(mem, name):
    """What zoneinfo prints of a zone of node 0, without its first line."""
    return re.search(rf"^Node 0, zone +{name}\n((?: .*\n)*)", mem.zoneinfo(), re.M)[1]


@pytest.mark.parametrize("rules, before, after", [
    (fo.LINUX_6_1, "boost    0", "managed  32768\n        cma      0"),
    (fo.LINUX_6_12, "boost    0", "managed  32768\n        cma      0"),
    (fo.LINUX_2_6_25, None, None),
], ids=["6.1", "6.12", "2.6.25"])
def test_zoneinfo(engine, rules, before, after):
    """The lines that the kernel of those rules has: zoneinfo_show_print. 2.6.25 lists no empty zone."""
    mem = machine(engine, rules)
    zone = mem.zones["Normal"]
    promo = f"        promo    {2 * zone.high - zone.low}\n" if rules is fo.LINUX_6_12 else ""
    assert zone_text(mem, "Normal") == (
        "  pages free     32767\n"
        + (f"        {before}\n" if before else "")
        + f"        min      {zone.min}\n"
        f"        low      {zone.low}\n"
        f"        high     {zone.high}\n"
        + promo + ("" if before else "        scanned  0 (a: 0 i: 0)\n")
        + "        spanned  32768\n"
        "        present  32768\n"
        + (f"        {after}\n" if after else "")
        + f"        protection: ({', '.join(map(str, zone.protection))})\n"
        f"  start_pfn:{' ' * (11 if before else 9)}1048576\n"
    )
    names = re.findall(r"^Node 0, zone +(\w+)$", mem.zoneinfo(), re.M)
    if rules is fo.LINUX_2_6_25:
        assert names == ["DMA", "DMA32", "Normal"]
    else:
        assert names == ["DMA", "DMA32", "Normal", "Movable", "Device"]
        assert "spanned  0" in zone_text(mem, "Movable") and "start_pfn" not in zone_text(mem, "Movable")


def test_boost_is_printed_as_the_kernel_does(engine):
    """Read from a kernel with a boost. Expect min, low, high and promo to include it, and the machine's to be without."""
    text = (INPUTS / "z05_boost.zoneinfo").read_text()
    mem = read_source(INPUTS / "z05_boost.zoneinfo").machine(engine)
    assert (mem.zones["DMA32"].min, mem.zones["DMA32"].watermark_boost) == (8192, 5120)
    for line in re.search(r"DMA32\n(.*?)        spanned", text, re.S)[1].splitlines()[1:]:
        assert line in zone_text(mem, "DMA32").splitlines()


def test_pagetypeinfo(engine):
    lines = machine(engine).pagetypeinfo().splitlines()
    assert lines[:3] == ["Page block order: 9", "Pages per block:  512", ""]
    assert lines[3] == "Free pages count per migrate type at order  " + "".join(f"{order:6d} " for order in range(11))
    assert lines[5] == "Node    0, zone      DMA, type      Movable " + "     0 " * 10 + "     4 "
    assert any(line.startswith("Node 0, zone   Normal ") and line.split()[5] == "64" for line in lines)


def pageblocks(mem):
    """{zone: pageblocks} of the last table of pagetypeinfo, all of them Movable."""
    lines = mem.pagetypeinfo().split("Number of blocks type")[1].splitlines()
    column = lines[0].split().index("Movable")
    return {line.split()[3]: int(line.split()[4 + column]) for line in lines[1:]}


def test_pageblocks_of_zones_that_overlap(engine):
    """Four blocks of 128 MiB, kernel, movable, kernel, movable. Expect 64 each: pages of another zone do not count."""
    mem = fo.Memory(fo.X86_64, boot="1G", engine=engine)
    mem.add_memory(1 << 20, 4 * BLOCK)
    for i in range(4):
        mem.online_pages((1 << 20) + i * BLOCK, BLOCK, (fo.MMOP_ONLINE_KERNEL, fo.MMOP_ONLINE_MOVABLE)[i % 2])
    assert pageblocks(mem) == {"DMA": 8, "DMA32": 504, "Normal": 128, "Movable": 128}
    mem.offline_pages((1 << 20) + 2 * BLOCK, BLOCK)
    assert pageblocks(mem)["Normal"] == 64      # its span shrinks to the first block
    mem.online_pages((1 << 20) + 2 * BLOCK, BLOCK, fo.MMOP_ONLINE_KERNEL)
    mem.offline_pages((1 << 20) + BLOCK, BLOCK)
    assert pageblocks(mem) == {"DMA": 8, "DMA32": 504, "Normal": 128, "Movable": 64}


def test_pageblocks_are_counted_from_the_zones_first_page():
    """The captured kernel printed 8 (DMA begins at pfn 1), 1528 (no section between 3 and 4 GiB) and 10752."""
    mem = fo.Capture.load(CAPTURED).machine()
    assert pageblocks(mem) == {"DMA": 8, "DMA32": 1528, "Normal": 10752}


def test_pageblocks_of_a_span_that_is_not_whole_pageblocks(engine):
    """258008 pages from pfn 4096 on, where HighMem begins inside a block. Expect 504, the last one partial."""
    geometry = replace(fo.X86_64, zone_limits=(("DMA", 1 << 24), ("DMA32", 1 << 32), ("Normal", None)))
    mem = fo.Memory(geometry, boot=(4096 + 258008) << 12, engine=engine)
    assert pageblocks(mem) == {"DMA": 8, "DMA32": 504}


def test_pagetypeinfo_of_2_6_25(engine):
    lines = machine(engine, fo.LINUX_2_6_25).pagetypeinfo().splitlines()
    assert [line.split()[5] for line in lines[4:9]] == ["Unmovable", "Reclaimable", "Movable", "Reserve", "Isolate"]
    assert "Number of blocks type    Unmovable  Reclaimable      Movable      Reserve      Isolate " in lines


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


def installed_style():
    """The version of the lsmem that is installed here."""
    if not shutil.which("lsmem"):
        pytest.skip("there is no lsmem here")
    text = subprocess.run(["lsmem", "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"\d+\.\d+", text)[0]


def test_lsmem_styles(engine):
    """util-linux 2.38 to 2.40, 2.41, and 2.42 on: labels, the width of SIZE, the line on memmap_on_memory."""
    mem = machine(engine)
    old, wide, new = (mem.lsmem(style) for style in procfs.LSMEM_STYLES)
    assert mem.lsmem("2.40.4") == old == mem.lsmem() and mem.lsmem("2.41.5") == wide
    assert wide == old.replace("size:       128M", "size:                128M").replace(
        "memory:     640M", "memory:              640M").replace("memory:    128M", "memory:             128M")
    assert new.splitlines()[0] == "RANGE                                 SIZE   STATE REMOVABLE BLOCK"
    assert new.splitlines()[1] == "0x0000000000000000-0x000000001fffffff 512M  online       yes   0-3"
    assert new.splitlines()[-1] == "Memmap on memory parameter:         no"
    with pytest.raises(ValueError, match=r"^unknown lsmem style '1\.9' \(expected a version of util-linux from 2.38 on"):
        mem.lsmem("1.9")


def test_removable_before_5_7_depends_on_the_block(engine):
    """is_mem_section_removable. Expect 0 for the block with a page in use, and for lsmem a row of its own."""
    mem = fo.Memory(fo.X86_64, boot="512M", rules=fo.LINUX_2_6_25, engine=engine)
    pfn = mem.alloc_pages(0, "DMA32")
    held = pfn // BLOCK
    assert [block.removable for block in mem.blocks.values()] == [int(nr != held) for nr in range(4)]
    owner = fo.MovablePages(mem)
    owner.adopt([pfn])
    assert all(block.removable for block in mem.blocks.values())
    owner.give(1)
    
    assert [word for word, _ in re.findall(r"online +(yes|no) +(\S+)", mem.lsmem())].count("no") == 1


def test_lsmem_is_what_util_linux_prints(engine, tmp_path):
    """Expect the same text from the real lsmem of a sysfs-like tree, for a machine of several ranges and sizes."""
    style = installed_style()
    mem = machine(engine)
    mem.add_memory(1 << 24, 9 * BLOCK)
    mem.online_pages(1 << 24, 9 * BLOCK, fo.MMOP_ONLINE_MOVABLE)
    memory = tmp_path / "sys" / "devices" / "system" / "memory"
    for nr, block in mem.blocks.items():
        (memory / f"memory{nr}").mkdir(parents=True)
        for name in ("state", "phys_index", "removable", "valid_zones"):
            (memory / f"memory{nr}" / name).write_text(f"{getattr(block, name)}\n")
    (memory / "block_size_bytes").write_text(f"{mem.geometry.section_size:x}\n")
    environ = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    real = subprocess.run(["lsmem", "--sysroot", str(tmp_path)], capture_output=True, text=True, env=environ)
    assert real.returncode == 0, real.stderr
    assert procfs.lsmem_text(
        [(nr, block.state, block.removable) for nr, block in mem.blocks.items()], mem.geometry.section_size, style
    ) == real.stdout


def test_pcp_batch(engine):
    mem = machine(engine)
    assert [mem.zones[name].pcp_batch for name in ("DMA", "DMA32", "Normal", "Movable")] == [1, 31, 7, 0]
