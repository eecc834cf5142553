"""hotplug/questions.py: answers that change nothing, held against what the machine then does."""

import errno
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL_64, snapshot
from hypothesis import given, settings, strategies as st

import fastonline as fo
from fastonline.hotplug import questions
from fastonline.hotplug.migrate import MovablePages

CAPTURED = Path(__file__).parent / "data" / "linux-6.18-24g"
BLOCK = 32768


def tried(mem, nr):
    """(errno, pages migrated) of offline_pages of a block, done to a copy."""
    copy = mem.copy()
    block = copy.blocks[nr]
    try:
        copy.offline_pages(block.start_pfn, block.nr_pages)
    except fo.HotplugError as e:
        return e.errno
    return 0


def lived_in(engine, rules, seed):
    """A small machine of three zones with pages in use here and there, offline blocks, a hole, and pages that the host has."""
    rng = np.random.default_rng(seed)
    mem = fo.Memory(SMALL_64, boot="1600K", rules=rules, engine=engine)
    mem.add_memory(1024, 8 * 256)
    for nr in range(4, 12):
        if rng.random() < 0.8:
            mem.online_pages(nr * 256, 256, rng.choice([fo.MMOP_ONLINE, fo.MMOP_ONLINE_MOVABLE]))
    for zone in mem.zones.values():
        if zone.free_pages:
            pages = mem.alloc_pages_bulk(int(rng.integers(zone.free_pages)), zone=zone)
            mem.free_pfns(pages[rng.random(len(pages)) < rng.choice([0.5, 0.99, 1.0])])
    return mem


@settings(max_examples=25)
@given(seed=st.integers(0, 1 << 32), rules=st.sampled_from((fo.LINUX_6_12, fo.LINUX_6_1)))
def test_what_can_go_offline_goes_offline(engine, seed, rules):
    """Expect the errno that offline_pages then has, for every block; and nothing changed by asking."""
    mem = lived_in(engine, rules, seed)
    before = snapshot(mem)
    answers = questions.offlineable(mem)
    assert snapshot(mem) == before
    assert [answer.block for answer in answers] == list(mem.blocks)
    for answer in answers:
        assert answer.errno == tried(mem, answer.block), answer
        assert answer.can == (answer.reason == "")


def test_the_first_page_in_the_way(engine):
    """Two pages in use. Expect the lower one, and how many there are."""
    mem = fo.Memory(fo.X86_64, boot="512M", engine=engine)
    mem.add_memory(32 * BLOCK, BLOCK)
    mem.online_pages(32 * BLOCK, BLOCK)
    mem.alloc_contig_range(32 * BLOCK + 100, 1)
    mem.alloc_contig_range(32 * BLOCK + 900, 1)
    answer = questions.why_not_offline(mem, 32)
    assert (answer.pfn, answer.errno, answer.reason) == (32 * BLOCK + 100, errno.EBUSY, "2 pages in use cannot move")
    with pytest.raises(fo.HotplugError, match=f"page {answer.pfn:#x} is in use"):
        mem.offline_pages(32 * BLOCK, BLOCK)
    mem.free_pages(32 * BLOCK + 100)
    assert questions.why_not_offline(mem, 32).reason == "1 page in use cannot move"
    with pytest.raises(KeyError):
        questions.why_not_offline(mem, 33)


def test_holes_and_several_zones(engine):
    """RECORDED 7: boot block 0 is in two zones; a last boot block lacks pages."""
    mem = fo.Memory(fo.X86_64, boot=(3 * BLOCK - 32) << 12, engine=engine)
    first, last = questions.why_not_offline(mem, 0), questions.why_not_offline(mem, 2)
    assert first.reason == "it spans several zones: DMA, DMA32" and first.errno == errno.EINVAL
    assert (last.pfn, last.reason) == (3 * BLOCK - 32, "a hole of 32 pages without memory")


def movable_machine(engine, room):
    """Two Movable blocks; an owner has 1000 pages of the first, and all but `room` pages elsewhere are in use."""
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine)
    mem.add_memory(32 * BLOCK, 2 * BLOCK)
    mem.online_pages(32 * BLOCK, BLOCK, fo.MMOP_ONLINE_MOVABLE)
    mem.alloc_contig_range(32 * BLOCK, 1000)
    owner = MovablePages(mem)
    owner.adopt(np.arange(32 * BLOCK, 32 * BLOCK + 1000))
    mem.online_pages(33 * BLOCK, BLOCK, fo.MMOP_ONLINE_MOVABLE)
    mem.alloc_contig_range(33 * BLOCK, BLOCK - room)
    for zone in mem.zones.values():
        if zone.name != "Movable" and zone.free_pages:
            mem.alloc_pages_bulk(zone.free_pages, zone=zone)
    return mem, owner


def test_pages_that_move(engine):
    mem, _ = movable_machine(engine, 1000)
    answer = questions.why_not_offline(mem, 32)
    assert answer.can and (answer.movable, answer.free) == (1000, BLOCK - 1000)
    mem.offline_pages(32 * BLOCK, BLOCK)


def test_no_room_to_move_to(engine):
    mem, _ = movable_machine(engine, 999)
    answer = questions.why_not_offline(mem, 32)
    assert (answer.errno, answer.reason) == (errno.EINTR, "1000 pages have to move, and there is room for 999")
    with pytest.raises(fo.HotplugError) as refused:
        mem.offline_pages(32 * BLOCK, BLOCK)
    assert refused.value.errno == errno.EINTR


def test_pinned_pages(engine):
    mem, owner = movable_machine(engine, 2000)
    owner.pinned = 16
    answer = questions.why_not_offline(mem, 32)
    assert (answer.errno, answer.pfn, answer.reason) == (errno.EINTR, 32 * BLOCK, "16 pages pinned")


@pytest.mark.parametrize("memmap", [None, "kernel", "on_memory"])
def test_how_much_can_be_added(engine, memmap):
    """Descriptors of a block take 2 MiB from what the kernel zones have above min and lowmem_reserve."""
    mem = fo.Memory(fo.X86_64, boot="128M", memmap=memmap, engine=engine, max_memory="16G")
    growth, before = questions.growable(mem), snapshot(mem)
    rooms = [zone.free_pages - zone.min - zone.protection[2] for zone in mem.zones.values() if zone.populated]
    room = sum(rooms)
    assert growth.ranges == ((BLOCK, (4 << 20) - BLOCK),)
    assert growth.room == room << 12
    if memmap == "on_memory":
        assert growth.memmap == 0
        assert growth.at_once == growth.online_kernel == growth.online_movable == (16 << 30) - (128 << 20)
    else:
        assert growth.memmap == 2 << 20
        # whole pageblocks of each zone, then single pages and a page table for 512 of them
        pageblocks = sum(pages // 512 for pages in rooms)
        assert growth.at_once == growth.online_movable == (pageblocks + (room - 512 * pageblocks) // 513) * (128 << 20)
        assert growth.online_kernel == (16 << 30) - (128 << 20)
    assert snapshot(mem) == before
    mem.add_memory(BLOCK, growth.at_once >> 12)


def test_accepted_ranges(engine):
    """RAM with a gap, a device in it. Expect whole blocks between them, and add_memory to take the first and last of each."""
    mem = fo.Memory(fo.X86_64, boot="256M", engine=engine, max_memory="2G")
    mem.add_memory(6 * BLOCK, BLOCK)
    mem.resources.request((9 * BLOCK << 12) + 4096, 4096, "device")
    ranges = list(questions.acceptable_ranges(mem))
    assert ranges == [(2 * BLOCK, 4 * BLOCK), (7 * BLOCK, 2 * BLOCK), (10 * BLOCK, 6 * BLOCK)]
    inside = {nr for start, pages in ranges for nr in range(start // BLOCK, (start + pages) // BLOCK)}
    for nr in range(16):
        copy = mem.copy()
        if nr in inside:
            copy.add_memory(nr * BLOCK, BLOCK)
        else:
            with pytest.raises(fo.HotplugError):
                copy.add_memory(nr * BLOCK, BLOCK)


def test_how_small_it_gets(engine):
    """1 GiB in Movable with one page in use. Expect each way to keep one unit of it, and the balloon a few pages."""
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine)
    mem.add_memory(32 * BLOCK, 8 * BLOCK)
    mem.online_pages(32 * BLOCK, 8 * BLOCK, fo.MMOP_ONLINE_MOVABLE)
    mem.alloc_pages_bulk(mem.zones["DMA"].free_pages, zone="DMA")
    mem.alloc_pages_bulk(mem.zones["DMA32"].free_pages, zone="DMA32")
    mem.alloc_contig_range(35 * BLOCK + 5000, 1)
    total, found = 9 << 27, {(one.way, one.unit): one for one in questions.shrinkable(mem)}
    assert (found["blocks", 128 << 20].units, found["blocks", 128 << 20].size) == (7, total - (7 << 27))
    for shift in range(21, 31):
        unit = 1 << shift
        assert found["virtio-mem", unit].units == (1 << 30) // unit - 1, unit
        assert found["virtio-mem", unit].size == total - (1 << 30) + unit
    zone = mem.zones["Movable"]
    assert found["balloon", 4096].units == zone.free_pages - zone.min
    assert found["balloon", 4096].size == total - (zone.free_pages - zone.min << 12)


def test_room_bounds_what_is_emptied(engine):
    """Each of 64 pageblocks has 256 movable pages. Expect half of them to be emptied into the others, less min watermarks."""
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine)
    mem.add_memory(32 * BLOCK, BLOCK)
    mem.online_pages(32 * BLOCK, BLOCK, fo.MMOP_ONLINE_MOVABLE)
    for zone in ("DMA", "DMA32"):
        mem.alloc_pages_bulk(mem.zones[zone].free_pages, zone=zone)
    owner = MovablePages(mem)
    for at in range(32 * BLOCK, 33 * BLOCK, 512):
        mem.alloc_contig_range(at, 256)
        owner.adopt(np.arange(at, at + 256))
    huge = {one.size: one for one in questions.huge_pages(mem)}
    spare = sum(zone.free_pages - zone.min for zone in mem.zones.values() if zone.populated)
    assert (huge[2 << 20].now, huge[2 << 20].migrated) == (0, spare // 512)
    assert spare // 512 < 32


def test_huge_pages(engine):
    """2 GiB of which a page in the second one is in use."""
    mem = fo.Memory(fo.X86_64, boot="1G", engine=engine)
    mem.add_memory(32 * BLOCK, 16 * BLOCK)
    mem.online_pages(32 * BLOCK, 16 * BLOCK)
    before = {one.size: one.now for one in questions.huge_pages(mem)}
    mem.alloc_contig_range(45 * BLOCK, 1)
    after = {one.size: one for one in questions.huge_pages(mem)}
    assert before == {2 << 20: 1536, 1 << 30: 2}
    assert {size: one.now for size, one in after.items()} == {size: one.migrated for size, one in after.items()} \
        == {2 << 20: 1535, 1 << 30: 1}


def test_figures_of_host_and_guest(engine):
    """A DIMM half online, a balloon of 1000 pages, 10 pages in use."""
    mem = fo.Memory(fo.X86_64, boot="256M", engine=engine)
    mem.add_memory(32 * BLOCK, 2 * BLOCK)
    mem.online_pages(32 * BLOCK, BLOCK)
    mem.set_pfns_offline(mem.alloc_pages_bulk(1000))
    mem.alloc_pages_bulk(10)
    found = questions.accounting(mem)
    assert (found.logical, found.plugged, found.offline, found.present) == (4 * BLOCK, 2 * BLOCK, BLOCK, 3 * BLOCK)
    assert (found.host, found.reserved, found.managed) == (1000, 0, 3 * BLOCK - 1000)
    assert (found.used, found.free) == (10, 3 * BLOCK - 1010)
    assert mem.totalram_pages == found.managed
    level = None
    for name, pages, _ in found.rows():
        if not name.startswith("-"):
            assert level is None or level == pages, name
            level = pages
        else:
            level += pages


def test_the_captured_kernel():
    """RAM of 24 GiB, 16 of them with the host. Pages on LRU lists move, so that 2 MiB pages can be made."""
    capture = fo.Capture.load(CAPTURED)
    stuck, mem = capture.machine(), capture.machine(movable=True)
    answers = {answer.block: answer for answer in questions.offlineable(mem)}
    assert sum(answer.can for answer in answers.values()) == 153
    assert answers[0].errno == errno.EINVAL and answers[32].errno == errno.EBUSY
    assert capture.page_flags(answers[33].pfn) == "slab"
    found = {one.size: one for one in questions.huge_pages(mem)}
    assert found[2 << 20].now == {one.size: one for one in questions.huge_pages(stuck)}[2 << 20].migrated == 3226
    assert found[2 << 20].migrated == 3668
    assert questions.accounting(mem).host == 4227072


@settings(max_examples=15)
@given(seed=st.integers(0, 1 << 32), rules=st.sampled_from((fo.LINUX_6_12, fo.LINUX_6_1, fo.LINUX_2_6_25)))
def test_as_much_as_is_said_can_be_added_and_no_more(engine, seed, rules):
    """Few pages are free, whole pageblocks or every second page. Expect add_memory to take `at_once`, and ENOMEM for a block
    more; and as many blocks one by one into Movable, give or take the one that recomputed watermarks make room for."""
    rng = np.random.default_rng(seed)
    mem = fo.Memory(fo.X86_64, boot=f"{rng.integers(1, 4) * 128}M", memmap="kernel", rules=rules, engine=engine)
    start = sum(mem.sections.spans()[-1])
    for zone in mem.zones.values():
        if zone.free_pages:
            pages = mem.alloc_pages_bulk(zone.free_pages, zone=zone)
            mem.free_pfns(pages[: rng.integers(20000)][:: rng.integers(1, 4)])
    growth = questions.growable(mem)
    blocks = growth.at_once // growth.block
    for more in (0, 1):
        copy = mem.copy()
        if more:
            with pytest.raises(fo.HotplugError) as refused:
                copy.add_memory(start, (blocks + 1) * BLOCK)
            assert refused.value.errno == errno.ENOMEM
        elif blocks:
            copy.add_memory(start, blocks * BLOCK)
    if rules is fo.LINUX_6_12:
        done = 0
        try:
            while done <= blocks + 1:
                mem.add_memory(start + done * BLOCK, BLOCK)
                mem.online_pages(start + done * BLOCK, BLOCK, fo.MMOP_ONLINE_MOVABLE)
                done += 1
        except fo.HotplugError as e:
            assert e.errno == errno.ENOMEM
        assert abs(done - growth.online_movable // growth.block) <= 1
