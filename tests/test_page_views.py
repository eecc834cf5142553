"""hotplug/page_views.pyx: arrays of page states and flags outlive their machine."""
import gc

import numpy as np
import pytest

import fastonline as fo

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
