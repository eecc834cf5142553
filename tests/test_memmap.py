"""hotplug/memmap.pyx: where the page descriptors of added memory come from."""

import errno
import pickle
from dataclasses import replace

import pytest
from conftest import SMALL_64
from test_page_alloc import free_pages

import fastonline as fo
from fastonline.hotplug.memmap import replace_memmap
from fastonline.hotplug.pcp import PerCpuPages

S = 256


def scattered(engine, memmap=None, boot="128M", pcp=False):
    """A machine in which every third page is free."""
    mem = fo.Memory(fo.X86_64, boot, engine=engine, memmap=memmap)
    pfns = mem.alloc_pages_bulk(mem.totalram_pages)
    mem.free_pfns(pfns[pfns % 3 == 0])
    if pcp:
        mem.pcp = PerCpuPages(mem)
    return mem


@pytest.mark.parametrize("pcp", [False, True], ids=["buddy", "per-CPU lists"])
def test_a_memmap_of_single_pages(engine, pcp):
    """No block of 2 MiB is free. Expect the memmap of an added block in 512 single pages and a page table
    (vmemmap_populate_basepages), all of them given back when it goes."""
    mem = scattered(engine, "kernel", pcp=pcp)
    free = sum(map(mem.pcp.free_pages, range(3))) + sum(map(mem.pcp.count, range(3))) if pcp else free_pages(mem)
    mem.add_memory(0x100000, 32768)
    assert len(mem.memmaps[32]) == 513 and {nr for _, nr in mem.memmaps[32]} == {1}
    left = sum(map(mem.pcp.free_pages, range(3))) + sum(map(mem.pcp.count, range(3))) if pcp else free_pages(mem)
    assert free - left == 513
    mem.remove_memory(0x100000, 32768)
    left = sum(map(mem.pcp.free_pages, range(3))) + sum(map(mem.pcp.count, range(3))) if pcp else free_pages(mem)
    assert free == left and not mem.memmaps
    mem.validate()


def test_a_memmap_whose_pages_were_freed(engine, tmp_path):
    """Somebody frees the memmap of a section, and the next one gets its pages. Expect a valid machine, EBUSY for both at once,
    and nothing freed twice. What was saved is refused."""
    mem = fo.Memory(fo.X86_64, "512M", engine=engine, memmap="kernel")
    mem.add_memory(0x100000, 32768)
    ((pfn, nr),) = mem.memmaps[32]
    mem.free_pages(pfn, nr.bit_length() - 1)
    mem.validate()
    mem.save(tmp_path / "free")
    mem.add_memory(0x108000, 32768)
    assert mem.memmaps[33] == [(pfn, nr)]
    mem.validate()
    mem.copy().validate()
    pickle.loads(pickle.dumps(mem)).validate()
    mem.save(tmp_path / "twice")
    for name, says in (("free", "section 32 at .* lies in free pages"), ("twice", f"two memmaps lie at {pfn:#x}")):
        with pytest.raises(ValueError, match=says):
            fo.load(tmp_path / name)
    free = free_pages(mem)
    with pytest.raises(fo.HotplugError, match="EBUSY: the memmap of section 33"):
        mem.remove_memory(0x100000, 65536)
    assert free_pages(mem) == free and mem.memmaps.keys() == {32, 33}
    mem.remove_memory(0x108000, 32768)
    with pytest.raises(fo.HotplugError, match="EBUSY: the memmap of section 32"):
        mem.remove_memory(0x100000, 32768)
    assert free_pages(mem) == free + nr
    mem.validate()


@pytest.mark.parametrize("pcp", [False, True], ids=["buddy", "per-CPU lists"])
@pytest.mark.parametrize("make", [scattered, lambda engine, memmap, pcp: scattered(engine, memmap, "256M", pcp)])
def test_a_machine_with_memmaps_is_saved(engine, tmp_path, pcp, make):
    mem = make(engine, memmap="kernel", pcp=pcp)
    for start in (0x100000, 0x108000, 0x200000):
        mem.add_memory(start, 32768)
    mem.remove_memory(0x108000, 32768)
    mem.add_memory(0x110000, 32768)
    mem.save(tmp_path / "mem")
    assert fo.load(tmp_path / "mem").memmaps == mem.memmaps


@pytest.mark.parametrize("pfn", [0, 1, 1 << 40, -1, None, "x"])
def test_a_memmap_is_not_moved_to_what_is_none(engine, pfn):
    mem = fo.Memory(fo.X86_64, "512M", engine=engine, memmap="kernel")
    mem.add_memory(0x100000, 32768)
    before = mem.memmaps
    with pytest.raises((TypeError, ValueError, OverflowError)):
        replace_memmap(mem, 32, 0, pfn)
    assert mem.memmaps == before


@pytest.mark.parametrize("pcp", [False, True], ids=["buddy", "per-CPU lists"])
def test_memmaps_leave_the_min_watermark(engine, pcp):
    """Blocks are added until there is no room for another memmap. Expect every kernel zone with its min watermark, and what it
    keeps for others, free or on per-CPU lists, less than one more memmap beyond, and the refused call without effect."""
    mem = fo.Memory(fo.X86_64, "512M", engine=engine, memmap="kernel")
    if pcp:
        mem.pcp = PerCpuPages(mem)
    for nr in range(1000):
        before = [
            mem.pcp.free_pages(z) + mem.pcp.count(z) if pcp else zone.free_pages for z, zone in enumerate(mem.zones.values())
        ]
        try:
            mem.add_memory((32 + nr) << 15, 32768)
        except fo.HotplugError as e:
            assert e.errno == errno.ENOMEM
            break
    normal = mem.zones.names.index("Normal")
    spare = 0
    for free, zone in zip(before, mem.zones.values(), strict=True):
        if zone.populated:
            assert free >= zone.min + zone.protection[normal]
            spare += free - zone.min - zone.protection[normal]
    assert spare < 513 + 1024 * pcp and 200 < nr < 256
    mem.validate()


@pytest.mark.parametrize("rules", [fo.LINUX_6_1, fo.LINUX_6_12], ids=lambda rules: rules.name)
def test_a_memmap_on_memory_is_not_told_of(engine, rules):
    """3.2c: online_pages gets what is left of the block, and so do the notifiers, whatever becomes of it."""
    mem, notices = fo.Memory(fo.X86_64, "512M", rules=rules, engine=engine, memmap="on_memory"), []
    mem.notifiers.register(lambda action, n: notices.append((action, n.start_pfn, n.nr_pages, n.onlined)))
    mem.add_memory(0x100000, 32768)
    mem.blocks[32].online()
    mem.alloc_contig_range(0x100000 + 512, 1)
    owner = fo.MovablePages(mem)
    owner.adopt([0x100000 + 512])
    owner.pinned = 1
    with pytest.raises(fo.HotplugError):
        mem.blocks[32].offline()
    owner.pinned = 0
    mem.blocks[32].offline()

    def refuse(pfn, order):
        raise RuntimeError("no")

    with mem.set_online_page_callback(refuse), pytest.raises(RuntimeError):
        mem.blocks[32].online()
    assert {(start, nr) for _, start, nr, _ in notices} == {(0x100200, 32256)}
    ours = (fo.MEM_PREPARE_ONLINE, fo.MEM_FINISH_OFFLINE)
    assert [(action, onlined) for action, _, _, onlined in notices if action not in ours] == [
        (fo.MEM_GOING_ONLINE, 0), (fo.MEM_ONLINE, 32256), (fo.MEM_GOING_OFFLINE, 0), (fo.MEM_CANCEL_OFFLINE, 0),
        (fo.MEM_GOING_OFFLINE, 0), (fo.MEM_OFFLINE, 0), (fo.MEM_GOING_ONLINE, 0), (fo.MEM_CANCEL_ONLINE, 0),
    ]


def test_a_memmap_smaller_than_a_page(engine):
    """The descriptors of a block fill less than a page. Expect them in one page, as PFN_UP has it, and not on the block, whose
    rest would be no whole pageblocks."""
    geometry = replace(SMALL_64, section_size_bits=18, max_page_order=6, pageblock_order=3)
    rules = replace(fo.LINUX_6_12, struct_page_bytes=(32, 32))
    mem = fo.Memory(geometry, boot="1M", rules=rules, engine=engine, memmap="on_memory")
    mem.add_memory(1024, 64)
    ((pfn, nr),) = mem.memmaps[1024 // 64]
    assert pfn < 1024 and nr == 1
    mem.online_pages(1024, 64)
    mem.validate()
