"""linux/bootmem.py: ranges of boot memory from dmesg and /proc/iomem."""

from pathlib import Path

import pytest

import fastonline as fo
from fastonline.lines import TextError
from fastonline.linux.bootmem import read_boot_ranges
from fastonline.linux.sources import read_source

E820 = """[    0.000000] BIOS-provided physical RAM map:
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
[    0.000000] BIOS-e820: [mem 0x000000000009fc00-0x000000000009ffff] reserved
[    0.000000] BIOS-e820: [mem 0x0000000000100000-0x000000003ffdefff] usable
"""
NODES = """[    0.012000] Early memory node ranges
[    0.012001]   node   0: [mem 0x0000000000001000-0x000000000009efff]
[    0.012002]   node   0: [mem 0x0000000000100000-0x000000001fffffff]
[    0.012003]   node   1: [mem 0x0000000020000000-0x000000003ffdefff]
[    0.012004] Initmem setup node 0 [mem 0x0000000000001000-0x000000001fffffff]
"""


def ranges(tmp_path, text, page_size=4096):
    (tmp_path / "log").write_text(text)
    return read_boot_ranges(tmp_path / "log", page_size)


def test_nodes_come_before_e820(tmp_path):
    assert ranges(tmp_path, E820 + NODES) == [(1, 0x9e, 0), (0x100, 0x1ff00, 0), (0x20000, 0x1ffdf, 1)]


def test_e820_alone(tmp_path):
    """Usable whole pages only."""
    assert ranges(tmp_path, E820) == [(0, 0x9f, 0), (0x100, 0x3fedf, 0)]


def test_a_log_of_two_boots(tmp_path):
    """Expect the last one."""
    assert ranges(tmp_path, E820 + NODES + E820 + NODES.replace("3ffdefff", "2fffffff"))[-1] == (0x20000, 0x10000, 1)


def test_old_kernels(tmp_path):
    """2.6.25: end addresses and page frames behind the last one."""
    assert ranges(tmp_path, " BIOS-e820: 0000000000000000 - 000000000009f800 (usable)\n") == [(0, 0x9f, 0)]
    text = "early_node_map[2] active PFN ranges\n    0: 0x00000001 -> 0x0000009f\n    0: 0x00000100 -> 0x0003ffe0\n"
    assert ranges(tmp_path, text) == [(1, 0x9e, 0), (0x100, 0x3fee0, 0)]


def test_arm64_does_not_begin_at_0(tmp_path):
    text = "Early memory node ranges\n  node   0: [mem 0x0000000040000000-0x000000007fffffff]\n"
    assert ranges(tmp_path, text, 65536) == [(0x4000, 0x4000, 0)]


def test_iomem(tmp_path):
    captured = Path(__file__).parent / "data" / "linux-6.18-24g" / "iomem"
    assert ranges(tmp_path, captured.read_text()) == [(1, 0x9e, 0), (0x100, 0xbff00, 0), (0x100000, 0x540000, 0)]


def test_a_guest_that_boots_with_them(engine, tmp_path):
    """Two nodes and a hole. Expect the zones' present pages to be the ranges'."""
    mem = fo.Memory(fo.X86_64, boot=ranges(tmp_path, NODES), engine=engine)
    mem.validate()
    assert sum(zone.present_pages for zone in mem.zones.values()) == 0x9e + 0x1ff00 + 0x1ffdf
    assert [node.present_pages for node in mem.nodes.values()] == [0x9e + 0x1ff00, 0x1ffdf]
    assert read_source(tmp_path / "log").machine(engine).zoneinfo() == mem.zoneinfo()


@pytest.mark.parametrize("text, message", [
    ("", ":1: neither memory ranges"),
    ("00000000-00000000 : System RAM\n", ":1: the addresses are hidden"),
    ("# part of a page\n00000010-00000fff : System RAM\n", ":2: no range has a whole page of 4096 bytes"),
    (NODES.replace("0x0000000020000000", "0x0000000010000000"), ":4: the range from 0x10000000 on overlaps"),
])
def test_errors_name_the_line(tmp_path, text, message):
    with pytest.raises(TextError, match=f"^{tmp_path}/log{message}"):
        ranges(tmp_path, text)
