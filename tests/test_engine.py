"""core/engine: what both engines share: batches of pfns in every width, counters, room that grows."""

import numpy as np
import pytest
from conftest import SMALL_64

import fastonline as fo
from fastonline.core.pageflags import PG_buddy

S = 256


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">i2", "<u4", ">u4", "<i4", "<i8", ">i8", "<u8", ">u8"])
def test_every_width_of_integer(prepared, dtype):
    """Expect each integer dtype, either byte order, to mean the same pages."""
    pfns = np.array([5, 100, 7, 64, 127], dtype)
    assert prepared.mark_pfns_onlined(pfns) == 5
    assert sorted(np.flatnonzero(prepared.page_states(0, S) & PG_buddy)) == [5, 7, 64, 100, 127]
    prepared.free_pfns(prepared.alloc_pages_bulk(5).astype(dtype))
    assert prepared.zones["DMA"].free_pages + prepared.zones["Normal"].free_pages == 5


def test_a_list_a_tuple_a_range_and_a_strided_view(prepared):
    for pfns in ([0, 1], (2, 3), range(4, 6), np.arange(6, 26)[::2]):
        assert prepared.mark_pfns_onlined(pfns) == len(pfns)
    assert prepared.stats()["pages_onlined"] == 16


@pytest.mark.parametrize("where", [0, 63, 64, 100, 200])
def test_whole_words_ascending(prepared, where):
    """64 consecutive pfns that fill a word are one store. Expect them to be found out when one of them is there twice."""
    pfns = np.arange(S)
    assert prepared.copy().mark_pfns_onlined(pfns) == S
    twice = np.insert(pfns, 0, where)
    with pytest.raises(ValueError, match=rf"= {where:#x} is given twice"):
        prepared.mark_pfns_onlined(twice)
    assert prepared.stats()["pages_onlined"] == 0
    assert prepared.mark_pfns_onlined(pfns) == S


def test_two_to_the_thirty_four_pages():
    """The far end of 64 TiB. Expect one section there to cost only itself, and the machine to be whole."""
    mem = fo.Memory(fo.X86_64)
    last = (1 << 34) - (1 << 15)
    mem.add_memory(last, 1 << 15)
    assert mem.online_pages(last, 1 << 15) == 1 << 15
    assert mem.alloc_pages(10) >= last
    mem.validate()


def test_counters_are_of_each_engine_alike():
    """Expect the same frees, merges and splits from both engines for the same calls."""
    stats = []
    for engine in ("bitmap", "struct_page"):
        mem = fo.Memory(SMALL_64, boot="1M", engine=engine)
        mem.add_memory(S, S)
        mem.prepare_online_pages(S, S)
        mem.mark_pages_onlined(S, 100, order=0)
        mem.mark_pages_onlined(S, S)
        mem.alloc_contig_range(S + 3, 50)
        stats.append({name: mem.stats()[name] for name in ("frees", "allocations", "merges", "splits", "pages_onlined")})
    assert stats[0] == stats[1]
