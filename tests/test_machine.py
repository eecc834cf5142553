"""hotplug/machine.pyx: room that grows, and what is carried over."""
import pytest

S = 256


def test_room_grows_and_carries_all_over(make_machine):
    """Add memory ever higher. Expect states, lists and counters to be carried into the larger room."""
    mem = make_machine(boot="1M")
    held = mem.alloc_pages(2)
    for section in (1, 3, 8, 15):
        mem.add_memory(section * S, S)
        mem.online_pages(section * S, S)
        mem.validate()
    mem.free_pages(held, 2)
    assert mem.totalram_pages == 5 * S
    assert sum(zone.free_pages for zone in mem.zones.values()) == 5 * S
    mem.validate()


def test_views_follow_a_machine_with_room_for_all(make_machine):
    """Expect a view taken before the memory was added to show it, when max_memory made the room at once (bitmap engine)."""
    mem = make_machine(boot=None, max_memory="16M")
    view = mem.flags["PG_reserved"]
    mem.add_memory(S, S)
    assert mem.flags["PG_reserved"][4] == 0xFFFFFFFFFFFFFFFF
    assert (view[4] == 0xFFFFFFFFFFFFFFFF) == (mem.engine == "bitmap")
    with pytest.raises(ValueError):
        view[0] = 1
