"""Captures: a Memory in the state of a real kernel, exactly; damaged files; the running kernel, and one made of files."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import fastonline as fo
from fastonline.linux import live
from fastonline.linux.capture import matches_kernel, predict_online
from fastonline.linux.proctext import format_block, parse_blocks, parse_buddyinfo, parse_iomem, parse_zoneinfo
from fastonline.linux.tree import read_tree

CAPTURED = Path(__file__).parent / "data" / "linux-6.18-24g"
ZONES = [(0, "DMA"), (0, "DMA32"), (0, "Normal")]
SECTION = 32768


@pytest.fixture(scope="module")
def captured():
    return fo.Capture.load(CAPTURED)


@pytest.fixture(scope="module")
def kernel(captured, engine):
    """The captured kernel on one engine, for tests that only look."""
    return captured.machine(engine)


# -- the real kernel

def test_free_blocks_are_the_kernels(kernel, captured):
    assert kernel.buddyinfo() == (CAPTURED / "buddyinfo").read_text()
    assert matches_kernel(kernel, captured) == dict.fromkeys(ZONES, True)
    kernel.validate()


def test_zones_are_the_kernels(kernel):
    known = parse_zoneinfo((CAPTURED / "zoneinfo").read_text())
    assert set(known) == set(kernel.zones.keys())
    for key, zone in known.items():
        mine = kernel.zones[key]
        for name in ("start_pfn", "spanned_pages", "present_pages", "managed_pages", "min", "low", "high"):
            assert getattr(mine, name) == getattr(zone, name), f"{name} of {key}"
        assert mine.protection == tuple(zone.protection[other] for other in kernel.zones.names)
    assert kernel.totalram_pages == sum(zone.managed_pages for zone in known.values())
    assert (kernel.nodes[0].start_pfn, kernel.nodes[0].spanned_pages) == (1, 0x640000 - 1)


def test_the_least_min_free_kbytes_gives_the_kernels_watermarks(captured):
    """The directory has no vm.min_free_kbytes. From the one that is worked out the watermarks follow anew."""
    mem = captured.machine()
    before = [(zone.min, zone.low, zone.high) for zone in mem.zones.values()]
    mem.min_free_kbytes = captured.min_free_kbytes
    assert [(zone.min, zone.low, zone.high) for zone in mem.zones.values()] == before


def test_every_page_is_what_the_page_map_says(kernel, captured):
    """Reserved and free pages one for one; holes inside sections are Reserved and not prepared; PG_offline are the pages that a
    balloon holds, on the one run without a flag that is long enough."""
    end = captured.nr_pages
    flags = np.repeat(captured.flags, captured.length.astype(np.int64))
    ram = np.zeros(end, bool)
    for start, nr in parse_iomem(captured.iomem, captured.page_size):
        ram[start : start + nr] = True
    states = kernel.page_states(0, end)
    kpf = kernel.kpageflags(0, end)
    for bit in (10, 20, 32):
        one = np.uint64(1 << bit)
        assert np.array_equal(kpf & one != 0, flags & one != 0), f"KPF bit {bit}"
    assert np.array_equal(states & 0b10000 != 0, ram)       # PG_prepared
    offline = np.flatnonzero(states & 0b00100)
    assert (offline[0], len(offline), offline[-1]) == (0x238000, 4227072, 0x640000 - 1)


def test_blocks_are_the_kernels(kernel):
    known = parse_blocks((CAPTURED / "blocks").read_text())
    assert [(nr, block.state, block.removable) for nr, block in kernel.blocks.items()] \
        == [(block.nr, block.state, block.removable) for block in known]
    assert {nr: block.valid_zones for nr, block in kernel.blocks.items()} \
        == {block.nr: " ".join(block.valid_zones) for block in known}


def test_lsmem_agrees_with_util_linux(kernel):
    rows = [line.split() for line in kernel.lsmem().splitlines() if line.startswith("0x")]
    theirs = json.loads((CAPTURED / "lsmem.json").read_text())["memory"]
    assert [(row[0], row[1], row[2], row[4]) for row in rows] \
        == [(row["range"], row["size"], row["state"], row["block"]) for row in theirs]


def test_a_directory_without_blocks(tmp_path, captured):
    """A kernel without memory hot-plug. Expect the RAM to tell."""
    shutil.copytree(CAPTURED, tmp_path / "capture", copy_function=shutil.copyfile)
    for name in ("blocks", "block_size_bytes"):
        (tmp_path / "capture" / name).unlink()
    assert fo.Capture.load(tmp_path / "capture").machine().buddyinfo() == captured.buddyinfo


def test_lsmem_shows_what_each_block_said(captured):
    """Before 5.7 removable files differ. Expect the captured ones, not those that the machine's rules have."""
    blocks = captured.blocks.replace("memory1 online DMA32 1", "memory1 online DMA32 0")
    text = replace(captured, blocks=blocks).lsmem()
    assert [row.split()[3:] for row in text.splitlines() if row.startswith("0x")] \
        == [["yes", "0"], ["no", "1"], ["yes", "2-23"], ["yes", "32-199"]]
    assert captured.lsmem() == captured.machine().lsmem()
    with pytest.raises(ValueError, match="no memory hot-plug"):
        replace(captured, blocks="").lsmem()


def test_offline_and_online_again(captured, engine):
    """A block of free memory leaves and comes back: nothing but 32 blocks of order 10 goes, and the same come again."""
    mem = captured.machine(engine)
    before, zone = mem.buddyinfo(), mem.zones["DMA32"]
    counts = zone.nr_free
    start = 10 * SECTION
    mem.offline_pages(start, SECTION)
    mem.validate()
    assert zone.nr_free == (*counts[:10], counts[10] - 32)
    assert (zone.present_pages, zone.spanned_pages) == (782336 - SECTION, 1044480)
    assert mem.online_pages(start, SECTION) == SECTION
    mem.validate()
    assert mem.buddyinfo() == before


def test_refused_as_the_kernel_refuses(captured, engine):
    """KERNEL.md 7.7: boot block 0 with its holes is EINVAL, a block with pages in use EBUSY."""
    mem = captured.machine(engine)
    for block, code in ((0, errno.EINVAL), (32, errno.EBUSY)):
        with pytest.raises(fo.HotplugError) as refused:
            mem.offline_pages(block * SECTION, SECTION)
        assert refused.value.errno == code
    with pytest.raises(fo.HotplugError) as refused:
        mem.add_memory(0x640000 - SECTION, SECTION)
    assert refused.value.errno == errno.EEXIST
    assert mem.buddyinfo() == captured.buddyinfo


def test_allocate_and_free_give_back_the_kernels_blocks(captured, engine):
    mem = captured.machine(engine)
    pages = mem.alloc_pages_bulk(5000, zone="Normal")
    large = [mem.alloc_pages(10) for _ in range(5)]
    mem.validate()
    for pfn in large:
        mem.free_pages(pfn, 10)
    mem.free_pfns(pages)
    mem.validate()
    assert mem.buddyinfo() == captured.buddyinfo


def test_predict_online(captured, engine):
    """KERNEL.md 7.3: a block of 128 MiB is 32 more free blocks of order 10 in its zone, and nothing else."""
    mem = predict_online(captured, "512M", engine)
    counts = parse_buddyinfo(captured.buddyinfo)
    counts[0, "Normal"] = (*counts[0, "Normal"][:10], counts[0, "Normal"][10] + 4 * 32)
    assert parse_buddyinfo(mem.buddyinfo()) == counts
    assert matches_kernel(mem, captured) == {(0, "DMA"): True, (0, "DMA32"): True, (0, "Normal"): False}
    assert captured.hotplug_pfn == 0x640000
    assert mem.zones["Normal"].present_pages == 5505024 + 4 * SECTION
    mem.validate()
    with pytest.raises(fo.HotplugError, match="not whole memory blocks"):
        predict_online(captured, "100M", engine)


def test_under_other_rules(captured, engine):
    """2.6.25 counts a page as present once it went online; what the host has back is present and not managed."""
    mem = captured.machine(engine, fo.LINUX_2_6_25)
    assert mem.buddyinfo() == captured.buddyinfo
    assert mem.zones["Normal"].managed_pages == 1277952
    assert mem.zones["Normal"].present_pages == captured.machine(engine).zones["Normal"].present_pages
    mem.validate()


def test_copies_and_saves(captured, tmp_path):
    mem = captured.machine()
    mem.save(tmp_path / "machine")
    for again in (mem.copy(), fo.load(tmp_path / "machine")):
        assert again.buddyinfo() == captured.buddyinfo
        assert again.zoneinfo() == mem.zoneinfo()


# -- files

def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def test_round_trip(captured, tmp_path):
    captured.save(tmp_path / "capture")
    assert os.listdir(tmp_path) == ["capture"]
    again = fo.Capture.load(tmp_path / "capture")
    assert same(again, captured)
    assert again.all_quiet


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """The bytes of a small capture's file."""
    root = tmp_path_factory.mktemp("small")
    write_kernel(root, fo.Memory(fo.X86_64, boot="256M"))
    fo.Capture.live(root=root).save(root / "capture")
    return (root / "capture").read_bytes()


def refused(path):
    with pytest.raises(ValueError) as wrong:
        fo.Capture.load(path)
    assert str(wrong.value).startswith(f"{path}: ") and "\n" not in str(wrong.value)


@settings(deadline=None)
@given(data=st.data())
def test_altered_file(data, small_file, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "altered"
    at = data.draw(st.integers(0, len(small_file) - 1))
    bits = data.draw(st.integers(1, 255))
    path.write_bytes(small_file[:at] + bytes([small_file[at] ^ bits]) + small_file[at + 1 :])
    refused(path)


@settings(deadline=None)
@given(data=st.data())
def test_truncated_file(data, small_file, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "truncated"
    path.write_bytes(small_file[: data.draw(st.integers(0, len(small_file) - 1))])
    refused(path)


def test_foreign_file(tmp_path):
    fo.Memory(fo.X86_64, boot="128M").save(tmp_path / "machine")
    refused(tmp_path / "machine")
    (tmp_path / "text").write_text("not this\n")
    refused(tmp_path / "text")
    refused(tmp_path)       # a directory without a capture
    with pytest.raises(FileNotFoundError):
        fo.Capture.load(tmp_path / "nothing")


def test_a_file_with_a_good_checksum_and_bad_contents(captured, tmp_path):
    """What somebody else's program may write."""
    path = tmp_path / "capture"
    for changes in (
        {"start": captured.start[1:]},
        {"start": captured.start + np.uint64(1)},
        {"flags": captured.flags.astype(np.float64)},
        {"length": captured.length[:-1]},
        {"buddyinfo": captured.buddyinfo[:-30]},
        {"buddyinfo": captured.buddyinfo.replace("DMA32", "Other")},
        {"zoneinfo": captured.zoneinfo.replace("managed  1277952", "managed  9277952")},
        {"zoneinfo": captured.zoneinfo.replace("        high     45\n", "")},
        {"iomem": "all of it\n"},
        {"iomem": ""},
        {"blocks": "memory0 online\n"},
        {"block_size_bytes": 4096},
        {"page_size": 0},
        {"arch": "pdp11"},
        {"min_free_kbytes": -1},
        {"min_free_kbytes": "many"},
        {"quiet": {}},
    ):
        replace(captured, **changes).save(path)
        with pytest.raises(ValueError, match=f"^{path}: not a capture"):
            fo.Capture.load(path)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_altered_directory(data, tmp_path_factory):
    """No checksum guards a directory: what is damaged is refused in one line, or is another machine that is sound."""
    path = tmp_path_factory.getbasetemp() / "directory"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(CAPTURED, path)
    name = data.draw(st.sampled_from(("pages.npz", "buddyinfo", "zoneinfo", "iomem", "blocks", "block_size_bytes")))
    content = (path / name).read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        (path / name).write_bytes(content[:at])
    else:
        (path / name).write_bytes(content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :])
    try:
        mem = fo.Capture.load(path).machine()
    except ValueError as e:
        assert "\n" not in str(e)
    else:
        mem.validate()


# -- a kernel made of files

def write_kernel(root, mem, hide=()):
    """The files of /proc and /sys that a kernel in this state would show; pages in `hide` carry no flag."""
    end = mem.sections.spans()[-1][0] + mem.sections.spans()[-1][1]
    kpf = mem.kpageflags(0, end)
    kpf[list(hide)] = 0
    memory = root / "sys/devices/system/memory"
    for directory in (root / "proc/sys/vm", memory):
        directory.mkdir(parents=True)
    (root / "proc/kpageflags").write_bytes(kpf.tobytes())
    (root / "proc/buddyinfo").write_text(mem.buddyinfo())
    (root / "proc/zoneinfo").write_text(mem.zoneinfo())
    (root / "proc/sys/vm/min_free_kbytes").write_text(f"{mem.min_free_kbytes}\n")
    size = mem.geometry.page_size
    (root / "proc/iomem").write_text(
        "".join(f"{start * size:08x}-{end * size - 1:08x} : System RAM\n" for start, end in mem.resources)
        + "fec00000-fec003ff : IOAPIC 0\n"
    )
    (memory / "block_size_bytes").write_text(f"{mem.geometry.section_size:x}\n")
    for nr, block in mem.blocks.items():
        (memory / f"memory{nr}" / f"node{block.node}").mkdir(parents=True)
        for name in ("state", "valid_zones", "removable"):
            (memory / f"memory{nr}" / name).write_text(f"{getattr(block, name)}\n")


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
    assert np.flatnonzero(states & 0b00100).tolist() == list(range(77, 4077))


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


# -- maps that no machine can be in

def zone_with(name="DMA32", start_pfn=0x1000, spanned_pages=0x7000, runs=((0x1000, 0x7000, 0b10000),)):
    starts, lengths, states = zip(*runs, strict=True)
    return SimpleNamespace(
        nid=0, name=name, start_pfn=start_pfn, spanned_pages=spanned_pages, min=0, low=0, high=0, protection={},
        runs=(np.array(starts, np.uint64), np.array(lengths, np.uint64), np.array(states, np.uint8)),
    )


@pytest.mark.parametrize("zones, wrong", [
    ([zone_with(name="HighMem")], "has no zone HighMem"),
    ([zone_with(runs=((0x2000, 0x1000, 0b10000), (0x1000, 0x1000, 0b10000)))], "not in order"),
    ([zone_with(runs=((0x1000, 0x1000, 0b10000), (0x1fff, 0x1000, 0b10000)))], "not in order"),
    ([zone_with(start_pfn=0x2000)], "leaves the zone's span"),
    ([zone_with(spanned_pages=0x6fff)], "leaves the zone's span"),
    ([zone_with(runs=((0x1000, 0x1000, 0b10010), (0x2000, 1, 0b00010)))], "neither waiting, free, in use nor offline"),
    ([zone_with(spanned_pages=0x9000, runs=((0x1000, 0x9000, 0b10000),))], "has no section"),
    ([zone_with(), zone_with(name="Normal")], "in two zones"),
    ([zone_with(runs=((0x1000, 0x10, 0b10000),)), zone_with(name="Normal", runs=((0x1010, 0x10, 0b10000),))], "in two zones"),
    ([], "is in a zone.s page map"),
])
def test_impossible_maps(engine, zones, wrong):
    with pytest.raises(ValueError, match=wrong):
        fo.Memory.from_page_map(fo.X86_64, [(0, SECTION, 0, True)], [(0, SECTION)], zones, 1000, engine=engine)


def test_sections_past_the_end(engine):
    with pytest.raises(ValueError, match="ends at pfn 0x400000000"):
        fo.Memory.from_page_map(fo.X86_64, [(1 << 34, SECTION, 0, True)], [], [], 1000, engine=engine)


# -- texts

def test_block_lines():
    text = "memory0 online none 1\nmemory32 offline Normal Movable 1 3\n"
    first, second = parse_blocks(text)
    assert (first.nid, second.nid, second.valid_zones) == (0, 3, ("Normal", "Movable"))
    assert format_block(second) == "memory32 offline Normal Movable 1 3\n"


def test_iomem_counts_whole_pages_of_ram_only():
    text = (
        "00001000-0009fbff : System RAM\n000a0000-000bffff : PCI Bus\n100000000-13fffffff : System RAM\n"
        "140000000-1bfffffff : virtio0\n  180000000-1bfffffff : System RAM (virtio_mem)\n"
    )
    assert parse_iomem(text, 4096) == [(1, 0x9e), (0x100000, 0x40000), (0x180000, 0x40000)]


# -- the running kernel

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
