"""linux/tree.py: sysfs trees, sosreports, and the texts of them."""

import re
import shutil
from pathlib import Path

import pytest

import fastonline as fo
from fastonline.lines import TextError
from fastonline.linux.sources import read_source
from fastonline.linux.tree import parse_lsmem, parse_pagetypeinfo, read_tree

DATA = Path(__file__).parent / "data"
CAPTURED = DATA / "linux-6.18-24g"
BLOCK = 32768


def exported(tmp_path, mem):
    """The tree and the texts of a machine, as a kernel would show them."""
    fo.export_sysfs(mem, tmp_path)
    proc = tmp_path / "proc" / "sys" / "vm"
    proc.mkdir(parents=True)
    (proc / "min_free_kbytes").write_text(f"{mem.min_free_kbytes}\n")
    for name in ("zoneinfo", "buddyinfo", "pagetypeinfo"):
        (tmp_path / "proc" / name).write_text(getattr(mem, name)())
    (tmp_path / "proc" / "iomem").write_text(mem.resources.text())
    return tmp_path


def used(engine):
    mem = fo.Memory(fo.X86_64, boot="512M", rules=fo.LINUX_6_1, engine=engine)
    mem.add_memory(32 * BLOCK, 5 * BLOCK)
    mem.add_memory(48 * BLOCK, 2 * BLOCK, nid=1)
    mem.blocks[33].online("online_movable")
    mem.blocks[35].online()
    mem.blocks[48].online()
    pages = mem.alloc_pages_bulk(5000)
    mem.free_pfns(pages[::3])
    return mem


def test_what_is_exported_is_read_again(engine, tmp_path):
    """Zones, blocks, watermarks and free blocks by order exactly; which pages are free is said to be unknown."""
    mem = used(engine)
    snapshot = read_tree(exported(tmp_path, mem))
    again = snapshot.machine(engine, fo.LINUX_6_1)
    again.validate()
    assert again.buddyinfo() == mem.buddyinfo() and again.zoneinfo() == mem.zoneinfo() and again.lsmem() == mem.lsmem()
    assert [(nr, block.node, block.valid_zones) for nr, block in again.blocks.items()] \
        == [(nr, block.node, block.valid_zones) for nr, block in mem.blocks.items()]
    assert again.min_free_kbytes == mem.min_free_kbytes
    assert snapshot.assumptions \
        == [f"{tmp_path}: free pages are laid out to match buddyinfo; which pages are free is not known"]


@pytest.mark.parametrize("missing", ["iomem", "buddyinfo", "zoneinfo", "pagetypeinfo"])
def test_texts_that_are_missing(engine, tmp_path, missing):
    """buddyinfo follows from pagetypeinfo; without iomem and zoneinfo the blocks tell."""
    mem = used(engine)
    (exported(tmp_path, mem) / "proc" / missing).unlink()
    again = read_tree(tmp_path).machine(engine, fo.LINUX_6_1)
    again.validate()
    assert again.buddyinfo() == mem.buddyinfo() and again.lsmem() == mem.lsmem()


def test_the_texts_of_a_real_kernel(tmp_path):
    """zoneinfo, buddyinfo and iomem side by side, in a directory inside the one that is named."""
    inside = tmp_path / "report"
    inside.mkdir()
    for name in ("zoneinfo", "buddyinfo", "iomem"):
        shutil.copy(CAPTURED / name, inside)
    snapshot, captured = read_tree(tmp_path), fo.Capture.load(CAPTURED).machine()
    mem = snapshot.machine()
    mem.validate()
    assert mem.buddyinfo() == captured.buddyinfo() and mem.zoneinfo() == captured.zoneinfo()
    with pytest.raises(ValueError, match="it has no memory blocks"):
        snapshot.lsmem()


SOS_LSMEM = """RANGE                                 SIZE  STATE REMOVABLE  ZONES NODE BLOCK
0x0000000000000000-0x0000000007ffffff 128M online       yes   None    0     0
0x0000000008000000-0x000000000fffffff 128M online        no  DMA32    0     1
0x0000000100000000-0x0000000107ffffff 128M online       yes Normal    1    32
0x0000000108000000-0x000000010fffffff 128M offline          Normal/Movable 1 33

Memory block size:       128M
Total online memory:     384M
Total offline memory:    128M
"""


def test_a_sosreport(engine, tmp_path):
    """Blocks as `lsmem -a` printed them, the architecture from uname; pagetypeinfo in place of buddyinfo."""
    report = tmp_path / "sosreport-host-2026"
    (report / "sos_commands/memory").mkdir(parents=True)
    (report / "sos_commands/kernel").mkdir()
    (report / "sos_commands/memory/lsmem_-a_-o_RANGE_SIZE_STATE_REMOVABLE_ZONES_NODE_BLOCK").write_text(SOS_LSMEM)
    (report / "sos_commands/kernel/uname_-a").write_text("Linux host 6.1.0 #1 SMP x86_64 GNU/Linux\n")
    (report / "sos_commands/kernel/sysctl_-a").write_text("vm.max_map_count = 65530\nvm.min_free_kbytes = 4321\n")
    (report / "proc").mkdir()
    (report / "proc/buddyinfo").write_text("")      # sos could not read it
    mem = fo.Memory(fo.X86_64, boot="256M", rules=fo.LINUX_6_1, engine=engine)
    mem.add_memory(32 * BLOCK, 2 * BLOCK, nid=1)
    mem.blocks[32].online()
    mem.alloc_pages_bulk(100)
    for name in ("zoneinfo", "pagetypeinfo"):
        (report / "proc" / name).write_text(getattr(mem, name)())
    snapshot = read_tree(tmp_path)
    assert [(block.nr, block.state, block.removable, block.nid) for block in snapshot.blocks] \
        == [(0, "online", 1, 0), (1, "online", 0, 0), (32, "online", 1, 1), (33, "offline", 1, 1)]
    assert snapshot.blocks[3].valid_zones == ("Normal", "Movable")
    again = snapshot.machine(engine, fo.LINUX_6_1)
    assert again.buddyinfo() == mem.buddyinfo() and again.min_free_kbytes == 4321
    assert list(again.nodes) == [0, 1]


def test_ranges_of_lsmem(engine):
    mem = used(engine)
    blocks, size = parse_lsmem(mem.lsmem())
    assert size == BLOCK << 12
    assert [(block.nr, block.state) for block in blocks] == [(nr, block.state) for nr, block in mem.blocks.items()]


LSMEM_JSON = """{
   "memory": [
      {
         "range": "0x0000000000000000-0x0000000007ffffff",
         "size": "128M", "state": "online", "removable": true, "node": 0, "zones": "DMA32", "block": "0"
      },{
         "range": "0x0000000100000000-0x000000010fffffff",
         "size": "256M", "state": "offline", "removable": false, "node": 1, "zones": "Normal/Movable", "block": "32-33"
      }
   ]
}
"""


def test_json_of_lsmem(tmp_path):
    """The same as from a table; with fewer columns, as without -o; the JSON of the captured kernel."""
    blocks, size = parse_lsmem(LSMEM_JSON)
    assert size == BLOCK << 12 and [(block.nr, block.state, block.removable, block.nid) for block in blocks] \
        == [(0, "online", 1, 0), (32, "offline", 0, 1), (33, "offline", 0, 1)]
    assert blocks[2].valid_zones == ("Normal", "Movable")
    blocks, _ = parse_lsmem(re.sub(r', "node": \d, "zones": "\S+"', "", LSMEM_JSON))
    assert [(block.nr, block.nid, block.valid_zones) for block in blocks] == [(nr, 0, ("none",)) for nr in (0, 32, 33)]
    captured = read_source(CAPTURED / "lsmem.json")
    assert captured.lsmem() == fo.Capture.load(CAPTURED).lsmem()


@pytest.mark.parametrize("edit, message", [
    (lambda text: text[:100], ":5: not what lsmem --json prints: "),
    (lambda text: text.replace('"block": "0"', '"block": {}'), ":4: not what lsmem --json prints"),
    (lambda text: text.replace("0x0000000100000000-", "0x0000000100000001-"), ":7: not whole memory blocks of 0x8000000"),
    (lambda text: text.replace('"memory": [', '"memory": [7, '), ":1: not what lsmem --json prints"),
    (lambda text: text.replace("10fffffff", "ffffffffffff10fffffff"), ":7: more than 524288 memory blocks"),
])
def test_json_that_lsmem_does_not_print(edit, message):
    with pytest.raises(TextError, match=f"^lsmem{message}"):
        parse_lsmem(edit(LSMEM_JSON))


def test_counts_that_pagetypeinfo_cuts_short():
    text = ("Node    0, zone   Normal, type    Unmovable      1      2 >100000\n"
            "Node    0, zone   Normal, type      Movable      3      0      1\n")
    assert parse_pagetypeinfo(text) == {(0, "Normal"): (4, 2, 100001)}


@pytest.mark.parametrize("name, content, message", [
    ("sys/devices/system/memory/block_size_bytes", "many\n", "block_size_bytes:1: not a size in hexadecimal"),
    ("sys/devices/system/memory/block_size_bytes", "0\n", "block_size_bytes:1: a memory block cannot have 0 bytes"),
    ("proc/zoneinfo", "x\n", "zoneinfo:1: no zone found"),
    ("proc/buddyinfo", "Node 0, zone Normal 1\nx\n", "buddyinfo:2: 'x' is not a zone"),
    ("proc/iomem", "x\n", "iomem:1: 'x' is not a resource"),
])
def test_errors_name_file_and_line(engine, tmp_path, name, content, message):
    (exported(tmp_path, used(engine)) / name).write_text(content)
    with pytest.raises(TextError, match=f"^{tmp_path}/.*{message}"):
        read_tree(tmp_path)


def test_what_cannot_be_used_is_said(engine, tmp_path):
    """Hidden addresses, and an invalid state: lsmem prints `?`."""
    exported(tmp_path, used(engine))
    (tmp_path / "proc/iomem").write_text("00000000-00000000 : System RAM\n")
    (tmp_path / "sys/devices/system/memory/memory34/state").write_text("ERROR-UNKNOWN-9\n")
    snapshot = read_tree(tmp_path)
    hidden, state = snapshot.notes
    assert "the addresses are hidden" in hidden and "is not a state" in state
    assert " ? " in snapshot.lsmem()
    snapshot.machine(engine).validate()
