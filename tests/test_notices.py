"""hotplug/notices.pyx: what the memory notifier chain is told, and how often."""

from contextlib import suppress

import pytest

import fastonline as fo

BLOCK = 256


@pytest.fixture
def heard(make_machine):
    def make(rules, boot="1M"):
        mem, events = make_machine(boot=boot, rules=rules), []
        mem.notifiers.register(
            lambda action, n: events.append((action, n.start_pfn, n.nr_pages, n.onlined, n.status_change_nid))
        )
        return mem, events
    return make


@pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_1], ids=lambda rules: rules.name)
def test_events_of_both_phases(heard, rules):
    """A new node's first section, marked in two parts, then offlined.

    Expect GOING_ONLINE for the range, ONLINE for each mark with the exact count (the thread's "onlined" member), the node's
    number only until its first page is online, and again when it loses its last.
    """
    mem, events = heard(rules)
    mem.add_memory(1024, BLOCK, 1)
    mem.prepare_online_pages(1024, BLOCK)
    assert mem.mark_pages_onlined(1024, 100) == 100
    assert mem.mark_pages_onlined(1000 + 24, 256) == 156
    assert mem.mark_pages_onlined(1024, BLOCK) == 0
    mem.offline_pages(1024, BLOCK)
    assert events == [
        (fo.MEM_GOING_ONLINE, 1024, BLOCK, 0, 1), (fo.MEM_ONLINE, 1024, 100, 100, 1), (fo.MEM_ONLINE, 1024, BLOCK, 156, -1),
        (fo.MEM_GOING_OFFLINE, 1024, BLOCK, 0, 1), (fo.MEM_OFFLINE, 1024, BLOCK, 0, 1),
    ]
    assert mem.stats()["notifications"] == 5


def test_an_array_has_one_notice(heard):
    """Pages here and there. Expect one MEM_ONLINE from the lowest to the highest, with the number that went online."""
    mem, events = heard(fo.LINUX_6_1)
    mem.add_memory(1024, BLOCK)
    mem.prepare_online_pages(1024, BLOCK)
    del events[:]
    assert mem.mark_pfns_onlined([1124, 1030, 1029]) == 3
    assert events == [(fo.MEM_ONLINE, 1029, 96, 3, -1)]


@pytest.mark.parametrize("rules, told", [(fo.LINUX_2_6_25, []), (fo.LINUX_6_1, [fo.MEM_ONLINE])], ids=["2.6.25", "6.1"])
def test_online_of_no_page(heard, rules, told):
    """7.1: 2.6.25 sends no MEM_ONLINE when nothing went online, 6.1 always does (a callback that keeps all pages)."""
    mem, events = heard(rules)
    mem.add_memory(1024, BLOCK)
    with mem.set_online_page_callback(lambda pfn, order: None):
        assert mem.online_pages(1024, BLOCK) == 0
    assert [action for action, *_ in events] == [fo.MEM_GOING_ONLINE, *told]


@pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_1, fo.LINUX_6_12, fo.LINUX_6_18], ids=lambda rules: rules.name)
def test_what_a_memory_block_sends(engine, rules):
    """A block goes online and offline, and online against a veto. Expect since 6.9 (c5f1e2d18909) MEM_PREPARE_ONLINE first and
    MEM_FINISH_OFFLINE last, the latter after a veto of the former too, with where the block's own page descriptors lie."""
    memmap = "on_memory" if rules.memmap_on_memory else None
    mem, told, veto = fo.Memory(fo.X86_64, "512M", rules=rules, engine=engine, memmap=memmap), [], []

    @mem.notifiers.register
    def listen(action, notice):
        told.append((action, notice))
        return fo.NOTIFY_BAD if action in veto else fo.NOTIFY_OK

    mem.add_memory(0x100000, 32768)
    block = mem.blocks[32]
    block.online()
    if rules is not fo.LINUX_2_6_25:
        block.offline()
    expected = [fo.MEM_GOING_ONLINE, fo.MEM_ONLINE, fo.MEM_GOING_OFFLINE, fo.MEM_OFFLINE]
    if rules is fo.LINUX_2_6_25:
        assert [action for action, _ in told] == expected[:2]
        return
    if rules.block_notices:
        expected = [fo.MEM_PREPARE_ONLINE, *expected, fo.MEM_FINISH_OFFLINE]
    assert [action for action, _ in told] == expected
    for action, notice in told:
        own = (0x100000, 512) if action in (fo.MEM_PREPARE_ONLINE, fo.MEM_FINISH_OFFLINE) else (0, 0)
        assert (notice.altmap_start_pfn, notice.altmap_nr_pages) == own
        assert (notice.start_pfn, notice.nr_pages) == (0x100000 + 512, 32768 - 512)
    for action in (fo.MEM_PREPARE_ONLINE, fo.MEM_GOING_ONLINE):
        veto[:] = [action]
        del told[:]
        with (
            pytest.raises(fo.HotplugError) if rules.block_notices or action == fo.MEM_GOING_ONLINE else suppress(BaseException)
        ):
            block.online()
        if rules.block_notices:
            assert told[0][0] == fo.MEM_PREPARE_ONLINE and told[-1][0] == fo.MEM_FINISH_OFFLINE
            assert block.state == "offline"
        elif block.state == "online":
            block.offline()


@pytest.mark.parametrize("rules", [fo.LINUX_6_1, fo.LINUX_6_12, fo.LINUX_6_18], ids=lambda rules: rules.name)
def test_nodes_that_get_or_lose_memory(engine, rules):
    """Node 1 gets a Movable block, then a kernel one, and loses both. Expect status_change_nid for its first and last memory,
    status_change_nid_normal for its first and last up to zone Normal; neither where nodes have a notifier of their own."""
    mem, told = fo.Memory(fo.X86_64, "512M", rules=rules, engine=engine), []
    mem.notifiers.register(lambda action, n: told.append((action, n.status_change_nid, n.status_change_nid_normal)))
    mem.add_memory(0x100000, 65536, nid=1)
    mem.blocks[32].online("online_movable")
    mem.blocks[33].online("online_kernel")
    mem.blocks[33].offline()
    mem.blocks[32].offline()
    nids = [told[i][1:] for i, (action, *_) in enumerate(told) if action in (fo.MEM_GOING_ONLINE, fo.MEM_GOING_OFFLINE)]
    assert nids == ([(-1, -1)] * 4 if rules.node_notifier else [(1, -1), (-1, 1), (-1, 1), (1, -1)])


@pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_1, fo.LINUX_6_12], ids=lambda rules: rules.name)
def test_calls_of_the_chain_are_counted_whether_anybody_listens_or_not(engine, rules):
    """A block added, onlined, vetoed, offlined, marked by ones and by an array. Expect the same count with no listener, one and
    three."""
    def used(listeners):
        mem = fo.Memory(fo.X86_64, "512M", rules=rules, engine=engine)
        for _ in range(listeners):
            mem.notifiers.register(lambda action, notice: None)
        mem.add_memory(0x100000, 32768)
        mem.blocks[32].online()
        counts = [mem.notifiers.calls]
        pinned = mem.alloc_contig_range(0x100000 + 1000, 1)
        with pytest.raises(fo.HotplugError):
            mem.blocks[32].offline()
        mem.free_pages(0x100000 + 1000)
        assert pinned is None
        counts.append(mem.notifiers.calls)
        mem.blocks[32].offline()
        counts.append(mem.notifiers.calls)
        mem.prepare_online_pages(0x100000, 32768)
        mem.mark_pages_onlined(0x100000)
        mem.mark_pages_onlined(0x100000)
        mem.mark_pfns_onlined([0x100001, 0x100003])
        counts.append(mem.notifiers.calls)
        assert mem.stats()["notifications"] == mem.notifiers.calls == mem.copy().notifiers.calls
        return counts

    block = 1 if rules.block_notices else 0      # MEM_PREPARE_ONLINE and MEM_FINISH_OFFLINE
    online, offline = 2 + block, 2 + block
    assert used(0) == [online, online, online + offline, online + offline + 3]
    assert used(0) == used(1) == used(3)
