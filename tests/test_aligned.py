"""core/aligned.pyx: free aligned blocks of every order, counted word by word, against a count of plain bits."""

import numpy as np
import pytest

import fastonline as fo


def slow_nr_free(free, max_order):
    """Free blocks of each order, by halving a bool array: an aligned pair of free blocks is one block of the next order."""
    full, aligned = free, []
    for _ in range(max_order + 1):
        aligned.append(int(np.count_nonzero(full)))
        full = full[0::2] & full[1::2]
    return [aligned[k] - 2 * aligned[k + 1] for k in range(max_order)] + [aligned[max_order]]


@pytest.mark.parametrize("preset", ["x86_64", "arm64_64k", "arm64_16k"], ids=lambda name: name)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98])
def test_a_summary_is_the_slow_count(preset, share):
    """Runs of pages in use of every length. Expect the counts of a zone that is summarized anew, as a copy of a machine is."""
    mem = fo.Memory(preset, boot="1G", engine="bitmap")
    random = np.random.default_rng(7)
    pfns = mem.alloc_pages_bulk(mem.totalram_pages)
    in_use = np.zeros(len(pfns), bool)
    at = 0
    while at < len(pfns):
        length = int(2 ** random.uniform(0, 11))
        in_use[at : at + length] = random.random() < share
        at += length
    mem.free_pfns(pfns[~in_use])
    again = mem.copy()
    for zone in mem.zones.values():
        end, block = zone.start_pfn + zone.spanned_pages, 1 << mem.geometry.max_page_order
        pages = np.zeros(end + -end % block, bool)
        free = pfns[~in_use]
        pages[free[(free >= zone.start_pfn) & (free < end)]] = True
        expected = slow_nr_free(pages, mem.geometry.max_page_order)
        assert list(zone.nr_free) == list(again.zones[zone.nid, zone.name].nr_free) == expected
