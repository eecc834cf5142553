"""hotplug/machine_state.pyx: what a copy, a pickle and a file carry."""
import pickle
from copy import copy, deepcopy

import pytest
from conftest import SMALL_64, SMALL_64K, snapshot

import fastonline as fo


def saved(mem, tmp_path):
    mem.save(tmp_path / "machine")
    return fo.load(tmp_path / "machine")


@pytest.mark.parametrize(
    "through",
    [
        saved,
        lambda mem, _: mem.copy(),
        lambda mem, _: pickle.loads(pickle.dumps(mem)),
        lambda mem, _: copy(mem),
        lambda mem, _: deepcopy(mem),
    ],
    ids=["save", "copy", "pickle", "copy.copy", "copy.deepcopy"],
)
def test_a_copy_is_the_same_and_goes_on_alone(varied, through, tmp_path):
    """Expect the copy to be equal in all one can see, to go on in the same way, and the original to stay as it was."""
    varied.notifiers.register(lambda action, notice: fo.NOTIFY_BAD)
    before = snapshot(varied)
    other = through(varied, tmp_path)
    other.validate()
    assert snapshot(other) == before
    for name in ("geometry", "rules", "engine", "max_pfn"):
        assert getattr(other, name) == getattr(varied, name), name
    assert len(other.notifiers) == 0
    pages = other.alloc_pages_bulk(50)
    assert other.mark_pages_onlined(1024, 256) == 156
    other.online_pages(1280, 256)
    assert snapshot(varied) == before
    assert varied.alloc_pages_bulk(50).tolist() == pages.tolist()


def test_empty_and_sparse_machines(engine, tmp_path):
    for geometry, start in ((SMALL_64, None), (SMALL_64, 15 * 256), (SMALL_64K, 2 * 8192)):
        mem = fo.Memory(geometry, engine=engine)
        if start is not None:
            mem.add_memory(start, geometry.pages_per_section)
            mem.online_pages(start, geometry.pages_per_section)
        other = saved(mem, tmp_path)
        other.validate()
        assert snapshot(other) == snapshot(mem)
