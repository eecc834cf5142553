"""core/pageflags: names of the flags, and /proc/kpageflags' bits (RECORDED 1)."""

import numpy as np
import pytest
from conftest import SMALL_64

import fastonline as fo
from fastonline.core.pageflags import (
    FLAG_NAMES,
    KPF_BUDDY,
    KPF_COMPOUND_HEAD,
    KPF_COMPOUND_TAIL,
    KPF_DIRTY,
    KPF_NOPAGE,
    KPF_OFFLINE,
    KPF_OWNER_PRIVATE,
    KPF_RESERVED,
    PAGE_IN_USE,
    PG_tail,
    decode_page_flags,
)


@pytest.mark.parametrize(
    "mask, text",
    [
        (0, "0"),
        (1, "PG_reserved"),
        (0b10001, "PG_reserved|PG_prepared"),
        (0b11111, "PG_reserved|PG_buddy|PG_offline|PG_tail|PG_prepared"),
    ],
)
def test_decode_page_flags(mask, text):
    assert decode_page_flags(mask) == text


def test_kpf_bits():
    assert (KPF_BUDDY, KPF_NOPAGE, KPF_OFFLINE, KPF_RESERVED) == (0x400, 0x100000, 0x800000, 1 << 32)


@pytest.fixture
def mem(make_machine):
    """
        section    0           4         5          6        7
                 boot (part)  added   prepared    online   absent
        page 0: one, 8-15: a block of order 3, 1: given to the host
    """
    mem = make_machine(boot="512K", max_memory="16M")
    for section in (4, 5, 6):
        mem.add_memory(section * 256, 256)
    mem.prepare_online_pages(5 * 256, 256)
    mem.online_pages(6 * 256, 256)
    mem.alloc_contig_range(0, 2)
    mem.set_page_offline(1)
    assert mem.alloc_pages(1, "DMA") in (2, 126)
    return mem


def test_states_are_told_alike_everywhere(mem):
    """Expect page_flags, page_states, flags[...] and kpageflags to say the same of each page."""
    states = mem.page_states(0, SMALL_64.max_pfn)
    for bit, name in enumerate(FLAG_NAMES):
        plane = np.unpackbits(mem.flags[name].view(np.uint8), bitorder="little")[: SMALL_64.max_pfn]
        assert np.array_equal(plane, states >> bit & 1), name
        assert mem.flags[name].flags.writeable is False
    pair = next(p for p in range(2, 128) if states[p + 1] == PAGE_IN_USE | PG_tail)
    expected = {
        0: "PG_prepared", 1: "PG_offline|PG_prepared", pair: "PG_prepared", pair + 1: "PG_tail|PG_prepared", 128: "PG_reserved",
        4 * 256: "PG_reserved", 5 * 256: "PG_reserved|PG_prepared", 6 * 256: "PG_buddy|PG_prepared", 7 * 256: "0",
        SMALL_64.max_pfn - 1: "0",
    }
    assert {pfn: mem.page_flags(pfn) for pfn in expected} == expected
    kpf = mem.kpageflags(0, SMALL_64.max_pfn)
    assert kpf.dtype == np.uint64
    bits = {
        0: 0, 1: KPF_OFFLINE, pair: KPF_COMPOUND_HEAD, pair + 1: KPF_COMPOUND_TAIL, 128: KPF_RESERVED, 4 * 256: KPF_NOPAGE,
        5 * 256: KPF_NOPAGE, 6 * 256: KPF_BUDDY, 7 * 256: KPF_NOPAGE,
    }
    assert {pfn: int(kpf[pfn]) for pfn in bits} == bits
    assert mem.kpageflags(pair, 1)[0] == KPF_COMPOUND_HEAD      # the tail behind the range is looked at too


def test_the_bitmap_engines_views_follow_the_machine():
    mem = fo.Memory(SMALL_64, max_memory="16M")
    view = mem.flags["PG_buddy"]
    mem.add_memory(15 * 256, 256)
    mem.online_pages(15 * 256, 256)
    assert int(np.unpackbits(view.view(np.uint8)).sum()) == 256
    with pytest.raises(KeyError, match="PG_dirty"):
        mem.flags["PG_dirty"]
    assert list(mem.flags) == mem.flags.keys() == list(FLAG_NAMES) and len(mem.flags) == 5


@pytest.mark.parametrize(("rules", "waiting", "memmap"), [
    (fo.LINUX_6_1, KPF_RESERVED, KPF_RESERVED | KPF_OWNER_PRIVATE), (fo.LINUX_6_12, KPF_OFFLINE, KPF_OWNER_PRIVATE),
], ids=["6.1", "6.12"])
def test_pages_that_never_were_online(engine, rules, waiting, memmap):
    """Added memory waits Reserved, since 6.11 (503b158fc30f) PageOffline; the block's own page descriptors lie before it. A
    callback keeps all of another block back. Expect its flags beside those, and virtio-mem's instead of Reserved
    (virtio_mem_set_fake_offline)."""
    mem = fo.Memory(fo.X86_64, "512M", rules=rules, engine=engine, memmap="on_memory")
    for block, kept in ((32, 0), (33, KPF_OFFLINE), (34, KPF_OFFLINE | KPF_DIRTY)):
        mem.add_memory(block << 15, 32768)
        assert set(mem.kpageflags(block << 15, 32768).tolist()) == {KPF_NOPAGE}
        with mem.set_online_page_callback(lambda pfn, order: None, kept):
            mem.blocks[block].online()
            flags = mem.kpageflags(block << 15, 32768)
        assert set(flags[:512].tolist()) == {memmap}
        assert set(flags[512:].tolist()) == {kept if kept & KPF_DIRTY else waiting | kept}
