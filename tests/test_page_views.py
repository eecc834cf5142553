"""hotplug/page_views.pyx: arrays of page states and flags outlive their machine."""
import gc

import numpy as np
import pytest

import fastonline as fo
from fastonline.core import pageflags

S = fo.X86_64.pages_per_section


FAR = 64 * S        # beyond the room that a machine of one section is made with


FLAGS = ("PG_reserved", "PG_buddy", "PG_offline", "PG_prepared", "PG_tail")


@pytest.mark.parametrize("grown", [False, True], ids=["deleted", "grown"])
@pytest.mark.parametrize("name", FLAGS)
def test_flags_outlive_their_machine(make_machine, name, grown):
    mem = make_machine(fo.X86_64, boot="128M")
    flags, view = mem.flags, mem.flags[name]
    before = view.copy()
    if grown:
        mem.add_memory(FAR, S)
        mem.online_pages(FAR, S)
    del mem
    gc.collect()
    assert not view.flags.writeable
    assert (view == before).all()
    assert flags[name].size >= view.size


@pytest.mark.parametrize("read", [
    lambda mem: mem.sections.present.view(), lambda mem: mem.sections.online.array, lambda mem: mem.sections.subsection_map,
    lambda mem: mem.page_states(0, S), lambda mem: mem.kpageflags(0, S), lambda mem: mem.alloc_pages_bulk(3),
    lambda mem: np.array(mem.zones["DMA"].nr_free),
], ids=["present", "online", "subsections", "page_states", "kpageflags", "alloc_pages_bulk", "nr_free"])
def test_arrays_outlive_their_machine(make_machine, read):
    mem = make_machine(fo.X86_64, boot="128M")
    array = read(mem)
    before = array.copy()
    mem.add_memory(FAR, S)
    del mem
    gc.collect()
    assert (array == before).all()


def test_states_are_the_bits_of_the_planes(make_machine):
    """Expect every range, whether it begins inside a word or not, to have what the planes say, page by page."""
    mem = make_machine(fo.X86_64, boot=None)
    mem.add_memory(0, 2 * S)
    mem.prepare_online_pages(0, S)
    mem.mark_pages_onlined(1024, 1000)
    mem.alloc_pages(3)
    mem.set_pfns_offline(mem.alloc_pages_bulk(170))
    bits = {name: np.unpackbits(mem.flags[name].view(np.uint8), bitorder="little")[: 2 * S] for name in mem.flags}
    expected = sum(plane * getattr(pageflags, name) for name, plane in bits.items())
    assert len(np.unique(expected)) == 6      # added, waiting, free, in use, its tails, offline
    for start, end in ((0, 2 * S), (1, 2 * S), (63, 65), (64, 128), (1000, 2100), (1090, 1091)):
        assert mem.page_states(start, end - start).tolist() == expected[start:end].tolist()
