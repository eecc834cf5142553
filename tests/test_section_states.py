"""hotplug/section_states.pyx: the state of a memory block of several sections, and the node of a section."""

import numpy as np
import pytest
from conftest import SMALL_64

import fastonline as fo
from fastonline.hotplug.section_states import block_nid, block_online, block_present, section_nid

S = SMALL_64.pages_per_section


@pytest.fixture(params=[1, 2, 4])
def mem(request, engine):
    """A machine with blocks of so many sections; its second block was added on node 1."""
    mem = fo.Memory(SMALL_64, boot="4M", memory_block_size=request.param << 20, engine=engine)
    mem.add_memory(4 * S, mem.pages_per_block, nid=1)
    return mem


def test_a_block_is_online_when_it_was_onlined_as_a_whole(mem):
    nr, size = 4 * S // mem.pages_per_block, mem.pages_per_block
    assert block_present(mem, nr) and not block_online(mem, nr)
    mem.online_pages(4 * S, size)
    assert block_online(mem, nr)
    mem.offline_pages(4 * S, size)
    assert block_present(mem, nr) and not block_online(mem, nr)
    mem.remove_memory(4 * S, size)
    assert not block_present(mem, nr) and not block_online(mem, nr)


def test_blocks_that_there_are_not(mem):
    for nr in (-1, 1000, 1 << 70):
        assert not block_present(mem, nr)
    assert not block_online(mem, 1000)
    with pytest.raises(ValueError, match="memory1000 is not present"):
        block_nid(mem, 1000)


def test_the_node_of_blocks_and_sections(mem):
    assert block_nid(mem, 0) == section_nid(mem, 0) == 0
    assert block_nid(mem, 4 * S // mem.pages_per_block) == section_nid(mem, 4) == 1
    with pytest.raises(ValueError, match="section 100 is not present"):
        section_nid(mem, 100)


@pytest.mark.parametrize("pfns, sections", [
    (range(4 * S, 6 * S), [4, 5]),
    (range(6 * S - 1, 4 * S - 1, -1), [4, 5]),
    (range(4 * S + 1, 6 * S, 3), [4, 5]),
    ([7 * S - 1, 4 * S], [4, 6]),
    ([5 * S + 9], [5]),
    ([4 * S + 1, 7 * S + 1, 6 * S + 1], [4, 6, 7]),
], ids=["a range", "descending", "no section's first page", "first and last", "one page", "scattered"])
def test_the_sections_of_a_batch_go_online(engine, pfns, sections):
    """Expect those with a page of the batch, and no other, also when the batch comes again."""
    mem = fo.Memory(SMALL_64, boot="4M", engine=engine)
    mem.add_memory(4 * S, 4 * S)
    mem.prepare_online_pages(4 * S, 4 * S)
    for done in (len(pfns), 0):
        assert mem.mark_pfns_onlined(np.array(pfns)) == done
        assert [section for section in range(4, 8) if block_online(mem, section)] == sections
    mem.validate()
