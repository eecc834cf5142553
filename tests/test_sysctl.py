"""hotplug/sysctl.pyx: sysctls that are written, and what follows them."""

import itertools

import pytest
from conftest import by_zone

import fastonline as fo

BLOCK = 32768                    # pages of 128 MiB
FIRST = 1 << 20                  # pfn of 4 GiB: the recordings' first hot-plug block


@pytest.mark.parametrize("written, kept", [(20000, True), (1000, False)])
def test_a_written_min_free_kbytes(engine, written, kept):
    """RECORDED 4: a larger value written by the user is kept at every online, a smaller one is overwritten."""
    mem = fo.Memory(fo.X86_64, boot="512M", rules=fo.LINUX_6_1, engine=engine)
    mem.min_free_kbytes = written
    assert by_zone(mem)["DMA32"].min == written // 4 * (131072 - 4096) // 131072
    mem.add_memory(FIRST, BLOCK)
    mem.online_pages(FIRST, BLOCK)
    assert (mem.min_free_kbytes == written) is kept


@pytest.mark.parametrize("word", ["madvise", "always"])
def test_khugepaged_raises_min_free_kbytes(engine, word):
    """2 GiB of boot memory, 45056 kB for two zones, then a third zone with pages: 67584 kB (set_recommended_min_free_kbytes);
    what the user wrote is kept until the next block goes online, and then the log says that it was raised. Expect the plain
    values again when huge pages are switched off."""
    mem, log = fo.Memory(fo.X86_64, "2G", engine=engine, transparent_hugepage=word), []
    plain = fo.Memory(fo.X86_64, "2G", engine=engine)
    mem.events.listen(lambda kind, text: log.append(text) if kind == "kmsg" and "khugepaged" in text else None)
    assert mem.transparent_hugepage == word and mem.min_free_kbytes == 512 * 2 * 11 * 4
    for machine in (mem, plain):
        machine.add_memory(0x100000, 65536)
        machine.blocks[32].online("online_kernel")
    assert mem.min_free_kbytes == 512 * 3 * 11 * 4 and not log
    assert mem.zones["Normal"].min > plain.zones["Normal"].min
    mem.min_free_kbytes = 1000
    assert mem.min_free_kbytes == 1000
    mem.blocks[33].online("online_movable")
    assert mem.min_free_kbytes == 67584
    assert len(log) == 1 and log[0].endswith("to 67584 to help transparent hugepage allocations")
    again = mem.copy()
    assert again.transparent_hugepage == word
    mem.transparent_hugepage = "never"
    assert mem.min_free_kbytes < 20000 and mem.transparent_hugepage == "never"


def test_where_khugepaged_does_not_run(engine):
    """Boot memory below 512 MiB: hugepage_init switches huge pages off, whatever is added later, until somebody writes the
    file. Expect a twentieth of the memory at most, and ValueError for words and kernels that have none."""
    mem = fo.Memory(fo.X86_64, "256M", engine=engine, transparent_hugepage="always")
    assert mem.transparent_hugepage == "never"
    mem.transparent_hugepage = "always"
    assert 0 < mem.min_free_kbytes <= (256 << 10) // 20
    with pytest.raises(ValueError, match="transparent_hugepage 'sometimes'"):
        mem.transparent_hugepage = "sometimes"
    with pytest.raises(ValueError, match="no transparent huge pages"):
        fo.Memory(fo.X86_64, "1G", rules=fo.LINUX_2_6_25, engine=engine, transparent_hugepage="always")


def test_cpus_belong_to_nodes(engine):
    """Eight CPUs, all of node 0, then two of them node 1's. Expect stat_threshold at once (vmstat_cpu_online), 2 fls(8) for
    small zones, and pcp_high shared by the node's own CPUs, by all where it has none (zone_highsize)."""
    mem = fo.Memory(fo.X86_64, "2G", engine=engine)
    mem.add_memory(0x100000, 32768, nid=1)
    mem.blocks[32].online("online_kernel")
    dma32, other = mem.zones["DMA32"], mem.zones[1, "Normal"]
    assert dma32.pcp_high == dma32.low
    before = dma32.stat_threshold
    mem.nr_cpus = 8
    assert dma32.stat_threshold == before * 4 and mem.nr_cpus == 8
    assert dma32.pcp_high == max(dma32.low // 8, dma32.pcp_batch * 4) and other.pcp_high == max(
        other.low // 8, other.pcp_batch * 4
    )
    mem.nr_cpus = {0: 6, 1: 2}
    assert mem.nr_cpus == 8 and dma32.stat_threshold == before * 4
    assert dma32.pcp_high == dma32.low // 6 and other.pcp_high == max(other.low // 2, other.pcp_batch * 4)
    assert mem.copy().zones[1, "Normal"].pcp_high == other.pcp_high
    for bad in (0, {}, {0: 0}):
        with pytest.raises(ValueError):
            mem.nr_cpus = bad


def test_an_endless_lowmem_reserve_ratio_is_refused(engine):
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine)
    before = mem.lowmem_reserve_ratio
    with pytest.raises(fo.HotplugError, match="more were given"):
        mem.lowmem_reserve_ratio = itertools.count(1)
    assert mem.lowmem_reserve_ratio == before
