"""hotplug/settings.pyx: what can be set is checked before it is kept."""

import pytest

import fastonline as fo
from fastonline.hotplug.pcp import PerCpuPages


@pytest.mark.parametrize("name, value, error", [
    ("possible_nodes", -5, ValueError), ("possible_nodes", 1025, ValueError), ("possible_nodes", "x", TypeError),
    ("possible_nodes", 1.0, TypeError), ("auto_movable_ratio", -1, ValueError), ("auto_movable_ratio", 1 << 31, ValueError),
    ("auto_movable_ratio", 1 << 80, OverflowError), ("auto_movable_ratio", None, TypeError), ("pcp", 3, TypeError),
    ("pcp", object(), TypeError), ("policy", "x", fo.HotplugError), ("page_owners", [], AttributeError),
])
def test_values_that_are_refused(make_machine, name, value, error):
    mem = make_machine()
    before = getattr(mem, name)
    with pytest.raises(error):
        setattr(mem, name, value)
    assert getattr(mem, name) == before
    mem.copy().validate()


@pytest.mark.parametrize("name, value", [
    ("possible_nodes", 1024), ("auto_movable_ratio", 0), ("auto_movable_ratio", (1 << 31) - 1),
])
def test_values_at_the_limits(make_machine, name, value):
    mem = make_machine()
    setattr(mem, name, value)
    assert getattr(mem, name) == value == getattr(mem.copy(), name)


def test_per_cpu_pages_are_the_machines_own(make_machine):
    mem, other = make_machine(), make_machine()
    lists = PerCpuPages(other)
    with pytest.raises(ValueError, match="another machine"):
        mem.pcp = lists
    assert mem.pcp is None
    mem.pcp = PerCpuPages(mem)
    mem.pcp = None
    mem.validate()


@pytest.mark.parametrize("register", [
    lambda mem: mem.register_oom_notifier, lambda mem: mem.notifiers.register, lambda mem: mem.events.listen,
    lambda mem: mem.set_online_page_callback, lambda mem: lambda callback: fo.MovablePages(mem, callback or 0),
], ids=["oom", "notifier", "listener", "online_page_callback", "on_move"])
def test_only_callables_are_registered(make_machine, register):
    mem = make_machine(boot="1M")
    for callback in (None, 3, "x"):
        with pytest.raises(TypeError, match="must be callable"):
            register(mem)(callback)
    with pytest.raises(MemoryError):
        mem.alloc_pages_bulk(mem.totalram_pages + 1)
    mem.validate()


def test_lists_of_callbacks_are_copies(make_machine):
    mem = make_machine()
    callback = mem.notifiers.register(lambda action, notice: None)
    listener = mem.events.listen(lambda kind, text: None)
    owner = fo.MovablePages(mem)
    owner.alloc(1)
    mem.notifiers.chain.clear()
    mem.events.listeners.clear()
    mem.page_owners.clear()
    assert (mem.notifiers.chain, mem.events.listeners, mem.page_owners) == ([(callback, 0)], [listener], [owner])
    for part, name in ((mem.notifiers, "calls"), (mem.notifiers, "chain"), (mem.events, "listeners")):
        with pytest.raises(AttributeError):
            setattr(part, name, None)
