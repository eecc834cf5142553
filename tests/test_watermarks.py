"""hotplug/watermarks: min_free_kbytes, min/low/high and lowmem_reserve; figures from real kernels where there are any."""

from dataclasses import replace
from math import isqrt

import numpy as np
import pytest
from conftest import by_zone

import fastonline as fo
from fastonline.drivers.cmm import Cmm1
from fastonline.drivers.driver import run
from fastonline.drivers.hypervisor import Domain, Host, ResidentDomain
from fastonline.drivers.virtio_balloon import VirtioBalloonDriver
from fastonline.drivers.xen import XEN_2_6_26, XEN_THREAD, XenBalloon
from fastonline.hotplug.watermarks import zone_batchsize
from fastonline.testing.geometries import SMALL_PAE

BLOCK = 32768                    # pages of 128 MiB


def test_marks_are_counted_before_pages_leave(engine):
    """2.6.25 recomputes at every mark. Expect the watermarks of the last mark, whether pages become Reserved by a range or by
    an array."""
    machines = []
    for _ in range(2):
        mem = fo.Memory(fo.X86_64, "512M", rules=fo.LINUX_2_6_25, engine=engine)
        mem.add_memory(32 * BLOCK, BLOCK)
        mem.prepare_online_pages(32 * BLOCK, BLOCK)
        mem.mark_pages_onlined(32 * BLOCK, BLOCK)
        machines.append(mem)
    machines[0].set_page_reserved(32 * BLOCK, BLOCK)
    machines[1].set_pfns_reserved(np.arange(32 * BLOCK, 33 * BLOCK))
    assert [mem.zones["DMA32"].min for mem in machines] == [machines[0].zones["DMA32"].min] * 2
    assert machines[0].zoneinfo() == machines[1].zoneinfo()

FIRST = 1 << 20                  # pfn of 4 GiB: the recordings' first hot-plug block
# The recorded guest: DMA had 3840 and DMA32 99908 managed pages; what the kernel itself holds is Reserved here.
RECORDED_DMA, RECORDED_DMA32 = 3840, 99908


def recorded_guest(engine, rules):
    """-m 512M as recorded: 131072 pages at boot, of which DMA manages 3840 and DMA32 99908."""
    mem = fo.Memory(fo.X86_64, boot="512M", rules=rules, engine=engine)
    mem.set_page_reserved(0, 4096 - RECORDED_DMA)
    mem.set_page_reserved(4096, 131072 - 4096 - RECORDED_DMA32)
    return mem


def marks(zone):
    return zone.min, zone.low, zone.high


@pytest.mark.parametrize(
    "size, kbytes",
    [
        ("16M", 512),
        ("64M", 1024),
        ("256M", 2048),
        ("1G", 4096),
        ("4G", 8192),
        ("16G", 16384),
        ("64G", 32768),
        ("256G", 65536),
        ("512G", 65536),
    ],
)
def test_min_free_kbytes_2_6_25(size, kbytes):
    """2.4: isqrt(lowmem kbytes * 16), at most 65536."""
    assert fo.Memory(fo.X86_64, boot=size, rules=fo.LINUX_2_6_25).min_free_kbytes == kbytes


def test_min_free_kbytes_is_larger_in_6_1():
    """2.6: the clamp went from 65536 to 262144. Expect isqrt(512 GiB in kbytes * 16) = 92681."""
    assert fo.Memory(fo.X86_64, boot="512G", rules=fo.LINUX_6_1).min_free_kbytes == isqrt((512 << 20) * 16) == 92681
    assert fo.Memory(fo.X86_64, boot="8T", rules=fo.LINUX_6_1).min_free_kbytes == 262144


def test_min_free_kbytes_has_a_floor(engine):
    mem = fo.Memory(
        replace(fo.X86_64, zone_limits=(("DMA", 16 << 20), ("Normal", None))), boot="512K", rules=fo.LINUX_2_6_25, engine=engine
    )
    assert mem.min_free_kbytes == 128


@pytest.mark.parametrize("rules", [fo.LINUX_6_1, fo.LINUX_6_12], ids=lambda rules: rules.name)
def test_first_normal_block_as_recorded(engine, rules):
    """The first hot-plugged 128 MiB on the recorded guest (RECORDED 4).

        DMA 3840 | DMA32 99908 managed | ... | Normal + 32768
    Expect min_free_kbytes 2945, DMA32 611/763/915 -> 538/672/806, Normal 176/220/264 and the recorded protections.
    """
    mem = recorded_guest(engine, rules)
    mem.add_memory(FIRST, BLOCK)
    # the kernel's watermarks before: computed from what it managed; an online and offline elsewhere recomputes them
    mem.online_pages(FIRST, BLOCK, fo.MMOP_ONLINE_MOVABLE)
    mem.offline_pages(FIRST, BLOCK)
    assert marks(by_zone(mem)["DMA32"]) == (617, 771, 925)      # 2564 kbytes: the kernel's own 611/763/915 are of 2545
    mem.min_free_kbytes = 2545
    assert marks(by_zone(mem)["DMA32"]) == (612, 765, 918)
    mem = recorded_guest(engine, rules)
    mem.min_free_kbytes = 2541
    assert marks(by_zone(mem)["DMA32"]) == (611, 763, 915)
    mem.add_memory(FIRST, BLOCK)
    mem.online_pages(FIRST, BLOCK)
    zones = by_zone(mem)
    assert mem.min_free_kbytes == 2945
    assert marks(zones["DMA32"]) == (538, 672, 806)
    assert marks(zones["Normal"]) == (176, 220, 264)
    assert zones["DMA"].protection == (0, 390, 518, 518, 518)
    assert zones["DMA32"].protection == (0, 0, 128, 128, 128)
    assert zones["Normal"].protection == (0, 0, 0, 0, 0)
    mem.add_memory(FIRST + BLOCK, BLOCK)
    mem.online_pages(FIRST + BLOCK, BLOCK, fo.MMOP_ONLINE_MOVABLE)
    assert by_zone(mem)["Normal"].protection == (0, 0, 0, 1024, 1024)


def test_series_of_sixteen_normal_blocks_as_recorded(engine):
    """S7b: sixteen blocks to Normal, one after the other. Expect every min_free_kbytes and every min of Normal."""
    mem = recorded_guest(engine, fo.LINUX_6_1)
    # the watermarks the recorded kernel had before the first block: 24/30/36 and 611/763/915
    mem.min_free_kbytes = 2541
    restore, (state,) = mem.__reduce__()
    state["zones"] |= {"user_min_free_kbytes": -1, "min_free_kbytes": 2545}
    mem = restore(state)
    mem.add_memory(FIRST, 16 * BLOCK)
    kbytes, mins = [], []
    for i in range(16):
        mem.online_pages(FIRST + i * BLOCK, BLOCK, fo.MMOP_ONLINE_KERNEL)
        kbytes.append(mem.min_free_kbytes)
        mins.append(by_zone(mem)["Normal"].min)
    assert kbytes == [2945, 3280, 3585, 3865, 4127, 4372, 4605, 4827, 5038, 5242, 5437, 5626, 5809, 5986, 6158, 6326]
    assert mins == [176, 317, 435, 539, 631, 715, 792, 864, 931, 994, 1055, 1112, 1167, 1220, 1270, 1319]


@pytest.mark.parametrize("rules, movable", [(fo.LINUX_6_1, None), (fo.LINUX_6_12, 32)], ids=["6.1", "6.12"])
def test_movable_zone(engine, rules, movable):
    """Movable is part of lowmem in 6.1; in 6.12 it has a min of its own, managed/1024 between 32 and 128, 32 even when
    empty."""
    mem = recorded_guest(engine, rules)
    mem.add_memory(FIRST, BLOCK)
    mem.online_pages(FIRST, BLOCK)
    mem.offline_pages(FIRST, BLOCK)
    assert by_zone(mem)["Movable"].min == (movable or 0)
    mem.online_pages(FIRST, BLOCK, fo.MMOP_ONLINE_MOVABLE)
    zone = by_zone(mem)["Movable"]
    pages_min = mem.min_free_kbytes // 4
    lowmem = RECORDED_DMA + RECORDED_DMA32 + (0 if movable else BLOCK)
    share = pages_min * BLOCK // lowmem
    assert zone.min == (32 if movable else share)
    assert zone.low - zone.min == zone.high - zone.low == max(share // 4, BLOCK * 10 // 10000)


def test_highmem_2_6_25(engine):
    """2.4: highmem's min is present/1024 between 32 and 128, its deltas use the uncapped share.

        X86_32_PAE, 1 GiB: DMA 4096 | Normal 225280 | HighMem 32768 present
    """
    mem = fo.Memory(fo.X86_32_PAE, boot="1G", rules=fo.LINUX_2_6_25, engine=engine)
    lowmem = 4096 + 225280
    assert mem.min_free_kbytes == isqrt(lowmem * 4 * 16)
    share = mem.min_free_kbytes // 4 * 32768 // lowmem
    assert marks(mem.zones["HighMem"]) == (32, 32 + share // 4, 32 + share // 2)
    assert mem.zones["DMA"].protection == (0, 225280 // 256, (225280 + 32768) // 256, (225280 + 32768) // 256)
    assert mem.zones["Normal"].protection == (0, 0, 32768 // 32, 32768 // 32)


def test_2_6_25_computes_at_marks_and_only_some_of_it(engine):
    """1.7, 2.4: marks recompute the watermarks, not min_free_kbytes or the reserves; offlining recomputes nothing."""
    mem = fo.Memory(fo.X86_64, boot="512M", rules=fo.LINUX_2_6_25, engine=engine)
    kbytes, reserve, before = mem.min_free_kbytes, mem.zones["DMA"].protection, marks(mem.zones["DMA32"])
    mem.add_memory(FIRST, BLOCK)
    mem.prepare_online_pages(FIRST, BLOCK)
    assert marks(mem.zones["DMA32"]) == before
    mem.mark_pages_onlined(FIRST, BLOCK)
    after = marks(mem.zones["DMA32"])
    assert after < before and mem.zones["Normal"].min == kbytes // 4 * BLOCK // (131072 + BLOCK)
    assert (mem.min_free_kbytes, mem.zones["DMA"].protection) == (kbytes, reserve)
    mem.offline_pages(FIRST, BLOCK)
    assert marks(mem.zones["DMA32"]) == after


def test_2_6_25_leaves_per_cpu_lists_as_boot_made_them(engine):
    """2.3: present 0..4096 gives batch 0 (used as 1) and high 0, 126976 gives 31 and 186, which stay whatever goes on- and
    offline; a zone that was empty at boot has batch 1 and high 0. In 6.1 batch follows.
    """
    def lists(mem):
        return {zone.name: (zone.pcp_batch, zone.pcp_high) for zone in mem.zones.values() if zone.populated}

    mem = fo.Memory(fo.X86_64, boot="512M", rules=fo.LINUX_2_6_25, engine=engine)
    boot = {"DMA": (1, 0), "DMA32": (31, 186)}
    assert lists(mem) == boot
    mem.add_memory(FIRST, 8 * BLOCK)
    for done in range(8):
        mem.online_pages(FIRST + done * BLOCK, BLOCK)
        assert lists(mem) == boot | {"Normal": (1, 0)}
    for block in (1, 2, 3):
        mem.offline_pages(block * BLOCK, BLOCK)
    mem.nr_cpus = 4
    assert lists(mem) == boot | {"Normal": (1, 0)} == lists(mem.copy())
    mem.offline_pages(FIRST, 8 * BLOCK)
    assert mem.zones["Normal"].pcp_batch == mem.zones["Normal"].pcp_high == 0
    mem.online_pages(BLOCK, BLOCK)
    mem.online_pages(FIRST, BLOCK)
    assert lists(mem) == boot | {"Normal": (1, 0)}
    newer = fo.Memory(fo.X86_64, boot="512M", rules=fo.LINUX_6_1, engine=engine)
    newer.add_memory(FIRST, BLOCK)
    newer.online_pages(FIRST, BLOCK)
    assert newer.zones["Normal"].pcp_batch == 7


def test_2_6_25_boot_zone_that_was_empty_meanwhile(engine):
    """A zone of boot whose last page goes offline, while another is onlined, and comes back. Expect boot's lists."""
    geometry = replace(fo.X86_64, zone_limits=(("DMA", 128 << 20), ("DMA32", 1 << 32), ("Normal", None)))
    mem = fo.Memory(geometry, boot="512M", rules=fo.LINUX_2_6_25, engine=engine)
    before = mem.zones["DMA"].pcp_batch, mem.zones["DMA"].pcp_high
    mem.offline_pages(0, BLOCK)
    mem.add_memory(FIRST, BLOCK)
    mem.online_pages(FIRST, BLOCK)
    assert (mem.zones["DMA"].pcp_batch, mem.zones["DMA"].pcp_high) == (0, 0)
    mem.online_pages(0, BLOCK)
    assert (mem.zones["DMA"].pcp_batch, mem.zones["DMA"].pcp_high) == before == (7, 42)


def test_2_6_25_settles_before_present_changes_otherwise(engine):
    """Expect the watermarks of the mark, also when nobody looked before pages were reserved again."""
    def marked(look):
        mem = fo.Memory(fo.X86_64, boot="512M", rules=fo.LINUX_2_6_25, engine=engine)
        mem.add_memory(FIRST, BLOCK)
        mem.prepare_online_pages(FIRST, BLOCK)
        mem.mark_pages_onlined(FIRST, BLOCK)
        if look:
            marks(mem.zones["Normal"])
        mem.set_page_reserved(FIRST, BLOCK // 2)
        return [marks(zone) for zone in mem.zones.values()]

    assert marked(False) == marked(True)


def test_later_marks_do_not_count_where_marks_compute_nothing(engine):
    """2.6.25 whose marks leave the watermarks alone. Expect those of the end of online_pages, whether somebody looked before
    the next mark or not."""
    def marked(look):
        rules = replace(fo.LINUX_2_6_25, watermarks_at_mark=False, name="2.6.25-quiet")
        mem = fo.Memory(fo.X86_64, boot="512M", rules=rules, engine=engine)
        mem.add_memory(FIRST, 2 * BLOCK)
        mem.online_pages(FIRST, BLOCK)
        if look:
            marks(mem.zones["Normal"])
        mem.prepare_online_pages(FIRST + BLOCK, BLOCK)
        mem.mark_pages_onlined(FIRST + BLOCK, BLOCK)
        return [marks(zone) for zone in mem.zones.values()]

    assert marked(False) == marked(True)


def test_in_6_1_a_partial_mark_computes_nothing(engine):
    """RECORDED 8: what virtio-mem plugs into an online block changes managed, not the watermarks."""
    mem = fo.Memory(fo.X86_64, boot="512M", rules=fo.LINUX_6_1, engine=engine)
    mem.add_memory(FIRST, BLOCK)
    before = [(marks(zone), zone.protection) for zone in mem.zones.values()]
    mem.prepare_online_pages(FIRST, BLOCK)
    mem.mark_pages_onlined(FIRST, 512)
    mem.mark_pfns_onlined(range(FIRST + 512, FIRST + 600))
    assert [(marks(zone), zone.protection) for zone in mem.zones.values()] == before
    assert mem.zones["Normal"].managed_pages == 600


@pytest.mark.parametrize("pages, cap, batch", [
    (0, 512 << 10, 0), (4096, 512 << 10, 0), (32768, 512 << 10, 7), (131072, 512 << 10, 31), (1 << 30, 512 << 10, 31),
    (32768, 1 << 20, 7), (65536, 1 << 20, 15), (98304, 1 << 20, 31), (196608, 1 << 20, 63), (1 << 30, 1 << 20, 63),
])
def test_zone_batchsize(pages, cap, batch):
    """2.3, 2.5, RECORDED 4."""
    assert zone_batchsize(pages, 4096, cap) == batch


@pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_1, fo.LINUX_6_12], ids=lambda rules: rules.name)
def test_a_node_that_is_not_there_has_no_watermarks(engine, rules):
    """for_each_zone: node 2 comes first, node 3's memory is refused; then something goes online. Expect the zones of nodes 1
    and 3, when they come, to be as those of any new node: nothing was computed for them."""
    mem = fo.Memory(fo.X86_64, "1G", rules=rules, engine=engine, memmap="kernel")
    mem.add_memory(FIRST, BLOCK, 2)
    held = mem.alloc_pages_bulk(mem.zones["DMA32"].nr_free[-1], 10, "DMA32"), mem.alloc_pages_bulk(4, 10, "DMA")
    with pytest.raises(fo.HotplugError):
        mem.add_memory(2 * FIRST, 4 * BLOCK, 3)
    for pfn in np.concatenate(held):
        mem.free_pages(pfn, 10)
    mem.online_pages(FIRST, BLOCK)
    mem.nr_cpus = 4
    for nid in (1, 3):
        mem.add_memory(2 * FIRST + nid * BLOCK, BLOCK, nid)
        assert {(marks(zone), zone.protection, zone.stat_threshold) for zone in mem.nodes[nid].zones} == {
            ((0, 0, 0), (0,) * mem.zones.nr_types, 0)
        }


def test_init_per_zone_wmark_min(engine):
    """Memory is prepared and marked in two phases, after which no modern kernel recomputes anything. Expect what a whole
    online_pages leaves when it is asked to."""
    marks = []
    for whole in (True, False):
        mem = fo.Memory(fo.X86_64, "512M", engine=engine)
        mem.add_memory(0x100000, 32768)
        if whole:
            mem.online_pages(0x100000, 32768)
        else:
            mem.prepare_online_pages(0x100000, 32768)
            mem.mark_pages_onlined(0x100000, 32768)
            mem.init_per_zone_wmark_min()
        marks.append((mem.min_free_kbytes, [(z.min, z.low, z.high, z.protection) for z in mem.zones.values()]))
    assert marks[0] == marks[1]


def ballooned(driver, engine, size="768M"):
    """A 1 GiB X86_32_PAE guest of 2.6.25 that a driver has taken to `size`."""
    mem = fo.Memory(fo.X86_32_PAE, boot="1G", rules=fo.LINUX_2_6_25, engine=engine)
    host = Host("2G")
    made = {
        "2.6.26": lambda: XenBalloon(mem, Domain(host, "1G"), XEN_2_6_26),
        "thread": lambda: XenBalloon(mem, Domain(host, "1G"), XEN_THREAD),
        "virtio": lambda: VirtioBalloonDriver(mem, ResidentDomain(host)),
        "cmm": lambda: Cmm1(mem, ResidentDomain(host)),
    }[driver]()
    made.set_target(size)
    run([made], 1000.0)
    return made


def counts(mem):
    return [(zone.present_pages, zone.min, zone.low, zone.high, zone.protection) for zone in mem.zones.values()]


@pytest.mark.parametrize("driver", ["2.6.26", "thread", "virtio", "cmm"])
def test_a_balloon_of_2_6_25_leaves_present_pages_and_watermarks_alone(engine, driver):
    before = counts(fo.Memory(fo.X86_32_PAE, boot="1G", rules=fo.LINUX_2_6_25, engine=engine))
    made = ballooned(driver, engine)
    mem = made.mem
    assert mem.zones["HighMem"].present_pages == 32768
    mem.min_free_kbytes = mem.min_free_kbytes      # recomputes the watermarks
    assert counts(mem) == before
    if driver != "cmm":      # whose pages stay in use
        assert mem.totalram_pages == 196608
        assert mem.totalhigh_pages == mem.zones["HighMem"].managed_pages < 32768
    made.validate()
    assert counts(mem.copy()) == before
    mem.copy().validate()
    made.set_target("1G", 1000.0)
    run([made], 2000.0, 1000.0)
    assert counts(mem) == before and mem.totalram_pages == 262144
    made.validate()


def test_offlining_takes_ballooned_pages_off_present_pages(engine):
    mem = fo.Memory(SMALL_PAE, boot="1M", rules=fo.LINUX_2_6_25, engine=engine)
    start, nr = mem.zones["HighMem"].start_pfn, mem.zones["HighMem"].spanned_pages
    present = mem.zones["HighMem"].present_pages
    mem.alloc_contig_range(start, 4)
    mem.set_pfns_offline([start, start + 2])
    mem.set_page_offline(start + 1)
    assert mem.zones["HighMem"].present_pages == present == mem.zones["HighMem"].managed_pages + 3
    mem.clear_pfns_offline([start + 2])
    mem.free_pages(start + 2)
    mem.free_pages(start + 3)
    mem.set_page_reserved(start)      # waits for a mark, and is not present until then
    assert mem.zones["HighMem"].present_pages == present - 1 == mem.zones["HighMem"].managed_pages + 1
    mem.set_pfns_reserved([start + 1, start])
    assert mem.zones["HighMem"].present_pages == present - 2 == mem.zones["HighMem"].managed_pages
    mem.validate()
    mem.offline_pages(start, nr)
    assert mem.zones["HighMem"].present_pages == present - nr == mem.zones["HighMem"].managed_pages
    mem.validate()


def test_recomputations_and_what_they_scan_are_counted(engine):
    """2.6.25: each mark recomputes, and walks the pageblocks that zones span then. 6.1: each online_pages and offline_pages,
    and nothing is walked."""
    mem = fo.Memory(fo.X86_64, "512M", rules=fo.LINUX_2_6_25, engine=engine)
    names = ("watermark_recomputations", "pageblocks_scanned", "zonelist_builds")

    def counts():
        stats = mem.stats()
        return tuple(stats[name] for name in names)

    assert counts() == (0, 0, 0)
    mem.add_memory(32 * BLOCK, BLOCK)
    mem.prepare_online_pages(32 * BLOCK, BLOCK)      # Normal spans 64 pageblocks, DMA and DMA32 256
    assert counts() == (0, 0, 0)
    for pfn in range(10):
        mem.mark_pages_onlined(32 * BLOCK + pfn)
    mem.mark_pfns_onlined(np.arange(32 * BLOCK, 32 * BLOCK + 100))
    mem.mark_pages_onlined(32 * BLOCK, 100)
    assert counts() == (12, 12 * 320, 1)
    mem.zoneinfo()      # who looks does not recompute
    mem.add_memory(33 * BLOCK, BLOCK)
    mem.online_pages(33 * BLOCK, BLOCK)
    assert counts() == (13, 12 * 320 + 384, 1)
    mem.offline_pages(33 * BLOCK, BLOCK)
    assert counts() == (13, 12 * 320 + 384, 1)      # KERNEL.md 1.7
    mem.min_free_kbytes = 4096
    assert counts() == (14, 12 * 320 + 2 * 384, 1)
    kept = mem.alloc_pages()
    mem.set_pfns_offline([kept])
    mem.free_reserved_pfns([kept])
    assert counts() == (14, 12 * 320 + 2 * 384, 1)      # a balloon recomputes nothing
    assert [mem.copy().stats()[name] for name in names] == list(counts())

    mem = fo.Memory(fo.X86_64, "512M", rules=fo.LINUX_6_1, engine=engine)
    mem.add_memory(32 * BLOCK, BLOCK)
    mem.online_pages(32 * BLOCK, BLOCK)
    assert counts() == (1, 0, 1)
    mem.offline_pages(32 * BLOCK, BLOCK)
    assert counts() == (2, 0, 2)


def test_a_refused_call_recomputes_nothing(engine):
    mem = fo.Memory(fo.X86_64, "512M", rules=fo.LINUX_2_6_25, engine=engine)
    mem.add_memory(32 * BLOCK, BLOCK)

    def dies(pfn, order):
        mem.generic_online_page(pfn, order)
        _ = mem.zones["Normal"].min
        raise KeyError(pfn)

    with mem.set_online_page_callback(dies), pytest.raises(KeyError):
        mem.online_pages(32 * BLOCK, BLOCK)
    assert mem.stats()["watermark_recomputations"] == mem.stats()["pageblocks_scanned"] == mem.stats()["zonelist_builds"] == 0
    mem.validate()
