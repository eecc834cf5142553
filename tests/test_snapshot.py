"""linux/snapshot.py: what a tree says, and the machine that it shows."""

from pathlib import Path

import pytest
from test_tree import exported, used

import fastonline as fo
from fastonline.linux.tree import read_tree

DATA = Path(__file__).parent / "data"
BLOCK = 32768


def test_lsmem_of_a_tree():
    """Blocks of 256 MiB, some not removable, online ones with two zones. Expect what lsmem --sysroot prints."""
    snapshot = read_tree(DATA / "inputs" / "l01_tree")
    assert snapshot.lsmem() == (DATA / "inputs" / "l01_lsmem_expected.txt").read_text()
    assert snapshot.lsmem("2.41").splitlines()[-1] == "Total offline memory:             512M"


def test_a_machine_of_a_tree(engine):
    """Without zoneinfo the zones are those that the blocks name, and all pages are free."""
    mem = read_tree(DATA / "inputs" / "l01_tree").machine(engine)
    mem.validate()
    assert [block.state for block in mem.blocks.values()] == ["online", "online", "online", "offline", "online", "offline"]
    assert mem.zones["DMA"].present_pages == 3 * 65536 and mem.zones["Normal"].present_pages == 65536


def test_texts_that_do_not_fit_together(engine, tmp_path):
    exported(tmp_path, used(engine))
    text = (tmp_path / "proc/zoneinfo").read_text()
    (tmp_path / "proc/zoneinfo").write_text(text.replace("present  126976", "present  926976"))
    with pytest.raises(ValueError, match=f"^{tmp_path}: zone DMA32 of node 0 has 926976 present pages"):
        read_tree(tmp_path).machine(engine)


@pytest.mark.parametrize("edit, message", [
    (lambda text: text + text.splitlines()[0].replace("Node 0", "Node 3") + "\n", "zone DMA of node 3 is missing in zoneinfo"),
    (lambda text: "\n".join(text.splitlines()[:-1]) + "\n", "zone Normal of node 1 is missing in buddyinfo"),
])
def test_zones_of_one_text_alone(engine, tmp_path, edit, message):
    """A foreign line, and a buddyinfo that is cut. Expect no machine that leaves them out without a word."""
    exported(tmp_path, used(engine))
    text = (tmp_path / "proc/buddyinfo").read_text()
    (tmp_path / "proc/buddyinfo").write_text(edit(text))
    with pytest.raises(ValueError, match=f"^{tmp_path}: {message}"):
        read_tree(tmp_path).machine(engine)


def test_other_architectures(tmp_path):
    """64 KiB pages by the orders of arm64, and one without a geometry: its lsmem is shown, no machine is made."""
    (tmp_path / "zoneinfo").write_text(fo.Memory(fo.ARM64_64K, boot="2G").zoneinfo())
    (tmp_path / "buddyinfo").write_text(fo.Memory(fo.ARM64_64K, boot="2G").buddyinfo())
    (tmp_path / "uname").write_text("Linux host 6.1.0 #1 SMP Thu Nov 26 2026 aarch64 aarch64 aarch64 GNU/Linux\n")
    snapshot = read_tree(tmp_path)
    assert snapshot.page_size == 65536
    assert snapshot.machine().buddyinfo() == snapshot.buddyinfo()
    (tmp_path / "uname").write_text("Linux host 6.1.0 #1 SMP Thu Nov 26 2026 mips64 GNU/Linux\n")
    with pytest.raises(ValueError, match=f"^{tmp_path}: no geometry for mips64 with pages of 4096 bytes"):
        read_tree(tmp_path).machine()


def test_a_zone_inside_the_span_of_another(engine, tmp_path):
    """Kernel, movable, kernel, and nothing but zoneinfo and buddyinfo. Expect Movable to be where its span is."""
    mem = fo.Memory(fo.X86_64, boot="256M", rules=fo.LINUX_6_1, engine=engine)
    mem.add_memory(32 * BLOCK, 3 * BLOCK)
    for nr, word in ((32, "online_kernel"), (33, "online_movable"), (34, "online_kernel")):
        mem.blocks[nr].online(word)
    for name in ("zoneinfo", "buddyinfo"):
        (tmp_path / name).write_text(getattr(mem, name)())
    again = read_tree(tmp_path).machine(engine, fo.LINUX_6_1)
    again.validate()
    assert again.zoneinfo() == mem.zoneinfo() and again.buddyinfo() == mem.buddyinfo()
    assert [again.zone_of(nr * BLOCK).name for nr in (32, 33, 34)] == ["Normal", "Movable", "Normal"]
