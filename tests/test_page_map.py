"""hotplug/page_map.pyx: the ranges, holes, nodes and reserved pages of boot memory, and the block size that x86_64 chooses
for it."""

import errno

import pytest

import fastonline as fo
from fastonline.core.pageflags import KPF_BUDDY, KPF_RESERVED


def test_an_x86_guest(engine):
    """512 MiB as QEMU and SeaBIOS lay it out. Expect the zones of the recorded guest: DMA from page 1 on with a hole below 1
    MiB, DMA32 up to 128 KiB below the end."""
    mem = fo.Memory(fo.X86_64, fo.x86_boot_ranges("512M"), engine=engine)
    mem.validate()
    zones = {
        z.name: (z.start_pfn, z.spanned_pages, z.present_pages, z.managed_pages) for z in mem.zones.values() if z.populated
    }
    assert zones == {"DMA": (1, 4095, 3998, 3998), "DMA32": (4096, 126944, 126944, 126944)}
    assert mem.blocks[0].valid_zones == "none" and [b.state for b in mem.blocks.values()] == ["online"] * 4
    assert mem.kpageflags(0xA0, 1)[0] == KPF_RESERVED and mem.kpageflags(0x100, 1)[0] == KPF_BUDDY
    with pytest.raises(fo.HotplugError) as caught:
        mem.blocks[0].offline()
    assert caught.value.errno == errno.EINVAL


def test_the_hole_below_4_gib(engine):
    """3.5 GiB and more are split: 3 GiB stay low."""
    mem = fo.Memory(fo.X86_64, fo.x86_boot_ranges("8G"), engine=engine)
    mem.validate()
    assert mem.zones["DMA32"].spanned_pages + 4096 == (3 << 18) - 32
    assert (mem.zones["Normal"].start_pfn, mem.zones["Normal"].present_pages) == (1 << 20, 5 << 18)
    assert fo.x86_boot_ranges("3583M")[1:] == [(0x100, (3583 << 8) - 32 - 0x100)] and len(fo.x86_boot_ranges("3584M")) == 3
    for bad in ("1M", 4096 * 1024 + 1):
        with pytest.raises(ValueError, match="invalid size"):
            fo.x86_boot_ranges(bad)


@pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_1, fo.LINUX_6_12], ids=lambda rules: rules.name)
def test_nodes_and_reserved_pages(engine, rules):
    """Memory from 1 GiB on, as on arm64, on two nodes; boot keeps 1000 pages of the first range. Expect both nodes, those pages
    present and not managed, and blocks of memory that work as any others."""
    gib = 1 << 18
    mem = fo.Memory(fo.ARM64_4K, [(gib, gib, 0, 1000), (3 * gib, gib, 1)], rules=rules, engine=engine)
    mem.validate()
    assert list(mem.nodes) == [0, 1] and mem.totalram_pages == 2 * gib - 1000
    dma = mem.zones["DMA"]
    present = gib if rules.watermark_pages == "managed" else gib - 1000
    assert (dma.start_pfn, dma.present_pages, dma.managed_pages) == (gib, present, gib - 1000)
    assert mem.zones[1, "DMA"].managed_pages == gib and mem.sections.early_section_nr(8)
    assert set(mem.kpageflags(gib, 1000).tolist()) == {KPF_RESERVED}
    if rules is not fo.LINUX_2_6_25:
        mem.blocks[24].offline()
        mem.blocks[24].online()
    mem.validate()
    again = mem.copy()
    again.validate()
    assert again.totalram_pages == mem.totalram_pages


@pytest.mark.parametrize(
    ("boot", "says"),
    [
        ([(0, 10), (5, 10)], "overlaps"),
        ([(0, 0)], "empty"),
        ([(1,)], "a range of boot memory must be"),
        ([(1, 2, 3, 4, 5)], "a range"),
        ([(0, 10, 0, 11)], "reserved"),
        ([(0, 1 << 60)], "goes past"),
        ([(0, 512), (512, 512, 1)], "two zones"),
    ],
)
def test_boot_memory_that_cannot_be(engine, boot, says):
    with pytest.raises(ValueError, match=says):
        fo.Memory(fo.X86_64, boot, engine=engine)
    with pytest.raises(TypeError):
        fo.Memory(fo.X86_64, [("a", 1)], engine=engine)


@pytest.mark.parametrize(("size", "block"), [
    ("512M", "128M"), ("60G", "128M"), ("63G", "2G"), ("64G", "1G"), ("64.5G", "512M"), ("65664M", "128M"),
])
def test_the_block_size_that_x86_64_chooses(size, block):
    """probe_memory_block_size: a section below 64 GiB, then what divides the end of memory, which the hole moves up by 1
    GiB."""
    mem = fo.Memory(fo.X86_64, fo.x86_boot_ranges(size), memory_block_size="auto")
    assert mem.pages_per_block << 12 == fo.parse_size(block)
    assert fo.Memory(fo.S390X, "128G", memory_block_size="auto").pages_per_block == fo.S390X.pages_per_section


def test_refusals_name_what_would_be_accepted(engine):
    """A range of 1.5 blocks, across one and a half. Expect EINVAL with the whole blocks in it and around it, which then are
    accepted, and none of those that are there already."""
    mem = fo.Memory(fo.X86_64, "512M", engine=engine)
    with pytest.raises(fo.HotplugError, match=r"\[pfn 0x108000-0x10ffff\] or \[pfn 0x100000-0x117fff\] would be") as caught:
        mem.add_memory(0x104000, 0xD000)
    assert caught.value.errno == errno.EINVAL
    mem.add_memory(0x108000, 0x8000)
    with pytest.raises(fo.HotplugError, match=r"blocks of 0x8000 pages, as \[pfn 0x110000-0x117fff\] would be"):
        mem.add_memory(0x110000, 0x1000)
