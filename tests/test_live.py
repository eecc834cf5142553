"""linux/live.py: a capture of the running kernel, and of one made of files."""

import errno
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from test_capture import write_kernel

import fastonline as fo
from fastonline.core.pageflags import PG_offline
from fastonline.linux import live
from fastonline.linux.capture import matches_kernel, predict_online
from fastonline.linux.proctext import parse_zoneinfo
from fastonline.linux.tree import read_tree

SECTION = 32768


def pretend(monkeypatch, arch, page_size):
    """This machine is of another architecture."""
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "made", "6.12.0", "", arch)))
    monkeypatch.setattr(os, "sysconf", lambda name: page_size)


@pytest.fixture
def x86_64(monkeypatch):
    """The kernel made of files is an x86_64 with pages of 4 KiB, whatever this machine is."""
    pretend(monkeypatch, "x86_64", 4096)


def lived_in(rules=fo.LINUX_6_12):
    """Two nodes; a Movable zone amid Normal; an offline block; pages in use, waiting, and with the host."""
    mem = fo.Memory(fo.X86_64, boot="256M", rules=rules)
    for nr in range(32, 40):
        mem.add_memory(nr * SECTION, SECTION, nid=nr // 38)
    for nr in (32, 33, 36, 38):
        mem.online_pages(nr * SECTION, SECTION)
    mem.online_pages(34 * SECTION, SECTION, fo.MMOP_ONLINE_MOVABLE)
    mem.prepare_online_pages(39 * SECTION, SECTION)
    mem.mark_pages_onlined(39 * SECTION, 1000)
    mem.alloc_pages_bulk(3000, zone="DMA32")
    for pfn in mem.alloc_pages_bulk(200, zone="Movable")[::2]:
        mem.free_pages(pfn)
    mem.alloc_contig_range(36 * SECTION + 77, 5000)
    mem.set_page_offline(36 * SECTION + 100, 4000)
    return mem


def assert_same_machine(mine, theirs):
    mine.validate()
    assert mine.buddyinfo() == theirs.buddyinfo()
    assert mine.zoneinfo() == theirs.zoneinfo()
    assert mine.lsmem() == theirs.lsmem()
    assert list(mine.resources) == list(theirs.resources)
    assert mine.min_free_kbytes == theirs.min_free_kbytes
    for nr, block in theirs.blocks.items():
        assert (mine.blocks[nr].node, mine.blocks[nr].valid_zones) == (block.node, block.valid_zones)
    for nid, node in theirs.nodes.items():
        assert (mine.nodes[nid].start_pfn, mine.nodes[nid].spanned_pages) == (node.start_pfn, node.spanned_pages)


def test_a_kernel_captured_is_that_kernel(x86_64, tmp_path, engine):
    """Machine -> /proc and /sys -> capture -> machine gives the machine, page by page."""
    theirs = lived_in(fo.LINUX_6_1)      # whose pages that wait are Reserved
    write_kernel(tmp_path, theirs)
    capture = fo.Capture.live(root=tmp_path)
    assert capture.all_quiet
    assert capture.quiet.keys() == {(0, "DMA"), (0, "DMA32"), (0, "Normal"), (0, "Movable"), (1, "Normal")}
    mine = capture.machine(engine, fo.LINUX_6_1)
    assert_same_machine(mine, theirs)
    for start, nr in theirs.sections.spans():
        assert np.array_equal(mine.page_states(start, nr), theirs.page_states(start, nr))
    # and it goes on as that machine does
    for mem in (mine, theirs):
        mem.online_pages(35 * SECTION, SECTION)
        mem.mark_pages_onlined(39 * SECTION, SECTION)
        mem.online_pages(37 * SECTION, SECTION)
    assert_same_machine(mine, theirs)


def test_zone_device_is_not_read_for(x86_64, tmp_path):
    """Persistent memory: zone Device spans it, has none of the allocator's pages, and no line in buddyinfo."""
    theirs = fo.Memory(fo.X86_64, boot="256M")
    write_kernel(tmp_path, theirs)
    head, device = theirs.zoneinfo().split("Node 0, zone   Device\n")
    device = device.replace("spanned  0", f"spanned  {SECTION}") + f"  start_pfn:           {SECTION}\n"
    (tmp_path / "proc/zoneinfo").write_text(f"{head}Node 0, zone   Device\n{device}")
    capture = fo.Capture.live(root=tmp_path)
    assert parse_zoneinfo(capture.zoneinfo)[0, "Device"].end_pfn == 2 * SECTION
    assert_same_machine(capture.machine(), theirs)


def test_blocks_without_valid_zones(x86_64, tmp_path):
    """A kernel without CONFIG_MEMORY_HOTREMOVE: which zone a page is in follows from the spans."""
    theirs = fo.Memory(fo.X86_64, boot="256M")
    theirs.add_memory(32 * SECTION, 2 * SECTION)
    theirs.online_pages(32 * SECTION, SECTION)
    write_kernel(tmp_path, theirs)
    for path in tmp_path.glob("sys/devices/system/memory/*/valid_zones"):
        path.unlink()
    assert_same_machine(fo.Capture.live(root=tmp_path).machine(), theirs)


@pytest.mark.parametrize("arch, geometry, boot", [
    ("i686", fo.X86_32_PAE, "1G"), ("s390x", fo.S390X, "512M"),
    ("aarch64", fo.ARM64_4K, "512M"), ("aarch64", fo.ARM64_64K, "2G"),
])
@pytest.mark.parametrize("hotplug", [True, False])
def test_other_architectures(monkeypatch, tmp_path, arch, geometry, boot, hotplug):
    """The geometry is found, orders above 10 included; and without memory hot-plug there are no blocks, only iomem."""
    pretend(monkeypatch, arch, geometry.page_size)
    theirs = fo.Memory(geometry, boot=boot)
    theirs.alloc_pages_bulk(1000)
    write_kernel(tmp_path, theirs)
    if not hotplug:
        shutil.rmtree(tmp_path / "sys")
    capture = fo.Capture.live(root=tmp_path)
    assert capture.geometry == geometry
    assert (capture.block_size_bytes > 0) is hotplug
    assert_same_machine(capture.machine(), theirs)
    assert predict_online(capture, geometry.section_size).totalram_pages == theirs.totalram_pages + geometry.pages_per_section


def test_zones_that_meet_inside_a_block(monkeypatch, tmp_path, engine):
    """HighMem of a 32-bit kernel begins at pfn 225278. Expect the capture, and the texts alone, to give the same zones and free
    blocks."""
    pretend(monkeypatch, "i686", 4096)
    geometry = replace(fo.X86_32_PAE, zone_limits=(("DMA", 16 << 20), ("Normal", 225278 << 12), ("HighMem", None)))
    theirs = fo.Memory(geometry, boot="1G", rules=fo.LINUX_6_1, engine=engine)
    theirs.free_pfns(theirs.alloc_pages_bulk(2500)[::2])
    write_kernel(tmp_path, theirs)
    for source in (fo.Capture.live(root=tmp_path), read_tree(tmp_path)):
        mem = source.machine(engine, fo.LINUX_6_1)
        mem.validate()
        assert mem.geometry.zone_borders == (225278,) and mem.buddyinfo() == theirs.buddyinfo()
        assert mem.zones["HighMem"].start_pfn == 225278 and mem.zones["Normal"].present_pages == 221182


def test_balloon_pages_without_a_flag(x86_64, tmp_path):
    """What the zone does not manage is found on the longest run of pages without a flag."""
    theirs = lived_in()
    write_kernel(tmp_path, theirs, hide=range(36 * SECTION + 100, 36 * SECTION + 4100))
    mine = fo.Capture.live(root=tmp_path).machine()
    assert_same_machine(mine, theirs)
    states = mine.page_states(36 * SECTION, SECTION)
    assert np.flatnonzero(states & PG_offline).tolist() == list(range(77, 4077))


def test_offline_pages_that_stay_managed(x86_64, tmp_path):
    """A balloon that may deflate on OOM leaves its pages managed (KERNEL.md 5.4): in use."""
    theirs = lived_in()
    write_kernel(tmp_path, theirs)
    theirs.clear_page_offline(36 * SECTION + 100, 4000)
    (tmp_path / "proc/zoneinfo").write_text(theirs.zoneinfo())
    assert_same_machine(fo.Capture.live(root=tmp_path).machine(), theirs)


def test_quiet_is_told_for_each_zone(x86_64, tmp_path, monkeypatch):
    """Somebody allocates from DMA32 whenever it is read: it is not quiet, DMA is, and the capture says so."""
    theirs = fo.Memory(fo.X86_64, boot="256M")
    write_kernel(tmp_path, theirs)
    read = live._read_runs
    reads = []

    def read_and_disturb(fd, start, end):
        reads.append(start)
        if start:
            theirs.alloc_pages(zone="DMA32")
            (tmp_path / "proc/buddyinfo").write_text(theirs.buddyinfo())
        return read(fd, start, end)

    monkeypatch.setattr(live, "_read_runs", read_and_disturb)
    capture = fo.Capture.live(attempts=3, root=tmp_path)
    assert capture.quiet == {(0, "DMA"): True, (0, "DMA32"): False}
    assert not capture.all_quiet
    assert reads == [0, 4096, 4096, 4096]
    assert matches_kernel(capture.machine(), capture) == {(0, "DMA"): True, (0, "DMA32"): False}
    with pytest.raises(ValueError, match="at least 1"):
        fo.Capture.live(attempts=0)


def test_missing_rights_are_named(x86_64, tmp_path, monkeypatch):
    write_kernel(tmp_path, fo.Memory(fo.X86_64, boot="256M"))
    (tmp_path / "proc/iomem").write_text("00000000-00000000 : System RAM\n")
    with pytest.raises(PermissionError, match="CAP_SYS_ADMIN.*iomem"):
        fo.Capture.live(root=tmp_path)

    real = os.open

    def refuse(path, *args, **more):
        if "kpageflags" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *args, **more)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match="root.*CAP_SYS_ADMIN.*kpageflags"):
        fo.Capture.live(root=tmp_path)
    monkeypatch.undo()
    (tmp_path / "proc/kpageflags").unlink()
    with pytest.raises(FileNotFoundError, match="CONFIG_PROC_PAGE_MONITOR"):
        fo.Capture.live(root=tmp_path)


def test_live():
    """The free blocks that follow from the running kernel's page map are those of its buddyinfo, in every zone that was quiet.
    A zone can change and change back while it is read: one that does not agree is read again."""
    for _ in range(3):
        try:
            capture = fo.Capture.live()
        except (PermissionError, FileNotFoundError) as e:
            pytest.skip(str(e))
        except ValueError as e:
            if "no geometry for" in str(e):
                pytest.skip(str(e))
            raise
        mem = capture.machine()
        mem.validate()
        agrees = matches_kernel(mem, capture)
        known = parse_zoneinfo(capture.zoneinfo)
        assert {key: mem.zones[key].managed_pages for key in agrees} == {key: known[key].managed_pages for key in agrees}
        quiet = [key for key, was in capture.quiet.items() if was]
        if quiet and all(agrees[key] for key in quiet):
            return
    if not quiet:
        pytest.skip(f"no zone was quiet in three captures: {capture.quiet}")
    pytest.fail(f"quiet zones {quiet}, and only these agree with buddyinfo: {[key for key in agrees if agrees[key]]}")
