"""Captures: a Memory in the state of a real kernel, exactly; damaged files."""

import errno
import json
import os
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import fastonline as fo
from fastonline.core.pageflags import PAGE_FREE, PAGE_IN_USE, PG_buddy, PG_offline, PG_prepared
from fastonline.linux.capture import matches_kernel, predict_online
from fastonline.linux.proctext import format_block, parse_blocks, parse_buddyinfo, parse_iomem, parse_zoneinfo

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
    assert np.array_equal(states & PG_prepared != 0, ram)
    offline = np.flatnonzero(states & PG_offline)
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
    assert captured.lsmem() == captured.machine(rules="6.12").lsmem()
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


def test_a_map_of_pages_that_no_memory_has(captured):
    """2^34 pages on LRU lists behind the memory. Expect the machine as before, for as much memory as before."""
    tracemalloc.start()
    try:
        mem = captured.machine(movable=True)
        most = tracemalloc.get_traced_memory()[1]
        behind = np.uint64(captured.nr_pages)
        longer = replace(
            captured, start=np.append(captured.start, behind), length=np.append(captured.length, np.uint64(1 << 34)),
            flags=np.append(captured.flags, np.uint64(1 << 5)),
        )
        tracemalloc.reset_peak()
        again = longer.machine(movable=True)
        assert tracemalloc.get_traced_memory()[1] < 2 * most
    finally:
        tracemalloc.stop()
    assert [owner.pfns.tolist() for owner in again.page_owners] == [owner.pfns.tolist() for owner in mem.page_owners]


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


# -- maps that no machine can be in

def zone_with(name="DMA32", start_pfn=0x1000, spanned_pages=0x7000, runs=((0x1000, 0x7000, PAGE_IN_USE),)):
    starts, lengths, states = zip(*runs, strict=True)
    return SimpleNamespace(
        nid=0, name=name, start_pfn=start_pfn, spanned_pages=spanned_pages, min=0, low=0, high=0, protection={},
        runs=(np.array(starts, np.uint64), np.array(lengths, np.uint64), np.array(states, np.uint8)),
    )


@pytest.mark.parametrize("zones, wrong", [
    ([zone_with(name="HighMem")], "has no zone HighMem"),
    ([zone_with(runs=((0x2000, 0x1000, PAGE_IN_USE), (0x1000, 0x1000, PAGE_IN_USE)))], "not in order"),
    ([zone_with(runs=((0x1000, 0x1000, PAGE_IN_USE), (0x1fff, 0x1000, PAGE_IN_USE)))], "not in order"),
    ([zone_with(start_pfn=0x2000)], "leaves the zone's span"),
    ([zone_with(spanned_pages=0x6fff)], "leaves the zone's span"),
    ([zone_with(runs=((0x1000, 0x1000, PAGE_FREE), (0x2000, 1, PG_buddy)))], "neither waiting, free, in use nor offline"),
    ([zone_with(spanned_pages=0x9000, runs=((0x1000, 0x9000, PAGE_IN_USE),))], "has no section"),
    ([zone_with(), zone_with(name="Normal")], "in two zones"),
    ([zone_with(runs=((0x1000, 0x10, PAGE_IN_USE),)), zone_with(name="Normal", runs=((0x1010, 0x10, PAGE_IN_USE),))],
     "in two zones"),
    ([], "is in a zone.s page map"),
])
def test_impossible_maps(engine, zones, wrong):
    with pytest.raises(ValueError, match=wrong):
        fo.Memory.from_page_map(fo.X86_64, [(0, SECTION, 0, True)], [(0, SECTION)], zones, 1000, engine=engine)


def test_a_map_is_checked_without_ram_too(engine):
    """A section and no line of /proc/iomem. Expect a ValueError, not a machine whose validate() fails."""
    with pytest.raises(ValueError, match="no RAM in /proc/iomem"):
        fo.Memory.from_page_map(fo.X86_64, [(0, SECTION, 0, True)], [], [zone_with()], 1000, engine=engine)
    fo.Memory.from_page_map(fo.X86_64, [], [], [], 1000, engine=engine).validate()


def test_a_map_of_generators(engine):
    parts = [(0, SECTION, 0, True)], [(0, SECTION)], [zone_with()]
    mem, again = (fo.Memory.from_page_map(fo.X86_64, *map(kind, parts), 1000, engine=engine) for kind in (list, iter))
    assert again.zoneinfo() == mem.zoneinfo() and again.buddyinfo() == mem.buddyinfo()


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
