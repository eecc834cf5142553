"""hotplug/notifier.py: who is told, in which order, and who may refuse (1.6, 7.3-7.5); vetoes of whole calls:
test_bad_input.py."""

import errno
from contextlib import suppress

import pytest

import fastonline as fo
from fastonline.hotplug.notifier import NOTIFY_STOP, NotifierChain, notifier_from_errno, notifier_to_errno


def test_values():
    """1.1"""
    assert (fo.NOTIFY_DONE, fo.NOTIFY_OK, fo.NOTIFY_BAD, fo.NOTIFY_STOP) == (0, 1, 0x8002, 0x8001)
    assert [
        fo.MEM_ONLINE,
        fo.MEM_GOING_OFFLINE,
        fo.MEM_OFFLINE,
        fo.MEM_GOING_ONLINE,
        fo.MEM_CANCEL_ONLINE,
        fo.MEM_CANCEL_OFFLINE,
    ] == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    "value, code", [(0, 0), (1, 0), (0x8001, 0), (0x8002, errno.EPERM), (2, errno.EPERM), (0x800D, errno.ENOMEM)]
)
def test_notifier_to_errno(value, code):
    assert notifier_to_errno(value) == code


def test_notifier_from_errno_and_back():
    assert all(notifier_to_errno(notifier_from_errno(code)) == code for code in range(100))
    assert notifier_from_errno(0) == fo.NOTIFY_OK


def chain_of(*callbacks):
    chain, called = NotifierChain(), []
    for name, priority, answer in callbacks:
        chain.register(lambda action, notice, name=name, answer=answer: (called.append(name), answer)[1], priority)
    return chain, called


def test_descending_priority_and_fifo_among_equals():
    chain, called = chain_of(("a", 0, None), ("b", 5, None), ("c", 0, None), ("d", -1, None), ("e", 5, None))
    assert chain.call(fo.MEM_GOING_ONLINE, None) == fo.NOTIFY_OK
    assert called == ["b", "e", "a", "c", "d"] and chain.calls == 1 and len(chain) == 5


def test_the_last_value_counts_unless_one_stops():
    """7.5: a veto without the stop bit can be lost."""
    assert chain_of(("a", 1, 2), ("b", 0, fo.NOTIFY_OK))[0].call(8, None) == fo.NOTIFY_OK
    chain, called = chain_of(("a", 1, NOTIFY_STOP), ("b", 0, fo.NOTIFY_BAD))
    assert chain.call(8, None) == NOTIFY_STOP and called == ["a"]
    assert NotifierChain().call(8, None) == fo.NOTIFY_DONE


def test_unregister():
    chain, called = chain_of(("a", 0, None))
    def other(action, notice):
        called.append("other")
    assert chain.register(other, 3) is other
    chain.unregister(other)
    chain.call(8, None)
    assert called == ["a"]
    with pytest.raises(ValueError, match="not registered"):
        chain.unregister(other)
    with pytest.raises(TypeError):
        chain.register("no callback")


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


@pytest.mark.parametrize("rules, told", [(fo.LINUX_2_6_25, []), (fo.LINUX_6_1, [fo.MEM_ONLINE])], ids=["2.6.25", "6.1"])
def test_online_of_no_page(heard, rules, told):
    """7.1: 2.6.25 sends no MEM_ONLINE when nothing went online, 6.1 always does (a callback that keeps all pages)."""
    mem, events = heard(rules)
    mem.add_memory(1024, BLOCK)
    with mem.set_online_page_callback(lambda pfn, order: None):
        assert mem.online_pages(1024, BLOCK) == 0
    assert [action for action, *_ in events] == [fo.MEM_GOING_ONLINE, *told]


def test_a_callback_may_allocate_but_offlining_then_stops(make_machine):
    """Expect EBUSY and MEM_CANCEL_OFFLINE when a notifier takes a page of the range between the two checks."""
    mem, actions = make_machine(boot="2M"), []
    @mem.notifiers.register
    def take(action, notice):
        actions.append(action)
        if action == fo.MEM_GOING_OFFLINE:
            mem.alloc_contig_range(notice.start_pfn, 1)
    with pytest.raises(fo.HotplugError) as caught:
        mem.offline_pages(256, 256)
    assert caught.value.errno == errno.EBUSY
    assert actions == [fo.MEM_GOING_OFFLINE, fo.MEM_CANCEL_OFFLINE]


@pytest.mark.parametrize("rules", [fo.LINUX_6_1, fo.LINUX_6_12], ids=lambda rules: rules.name)
def test_a_memmap_on_memory_is_not_told_of(engine, rules):
    """3.2c: online_pages gets what is left of the block, and so do the notifiers, whatever becomes of it."""
    mem, notices = fo.Memory(fo.X86_64, "512M", rules=rules, engine=engine, memmap="on_memory"), []
    mem.notifiers.register(lambda action, n: notices.append((action, n.start_pfn, n.nr_pages, n.onlined)))
    mem.add_memory(0x100000, 32768)
    mem.blocks[32].online()
    mem.alloc_contig_range(0x100000 + 512, 1)
    owner = fo.MovablePages(mem)
    owner.adopt([0x100000 + 512])
    owner.pinned = 1
    with pytest.raises(fo.HotplugError):
        mem.blocks[32].offline()
    owner.pinned = 0
    mem.blocks[32].offline()

    def refuse(pfn, order):
        raise RuntimeError("no")

    with mem.set_online_page_callback(refuse), pytest.raises(RuntimeError):
        mem.blocks[32].online()
    assert {(start, nr) for _, start, nr, _ in notices} == {(0x100200, 32256)}
    ours = (fo.MEM_PREPARE_ONLINE, fo.MEM_FINISH_OFFLINE)
    assert [(action, onlined) for action, _, _, onlined in notices if action not in ours] == [
        (fo.MEM_GOING_ONLINE, 0), (fo.MEM_ONLINE, 32256), (fo.MEM_GOING_OFFLINE, 0), (fo.MEM_CANCEL_OFFLINE, 0),
        (fo.MEM_GOING_OFFLINE, 0), (fo.MEM_OFFLINE, 0), (fo.MEM_GOING_ONLINE, 0), (fo.MEM_CANCEL_ONLINE, 0),
    ]


def test_a_callback_that_a_notifier_sets_and_that_raises(engine):
    """MEM_GOING_ONLINE's notifier sets an online_page_callback, which raises. Expect its exception, and all as it was."""
    mem = fo.Memory(fo.X86_64, "512M", engine=engine)
    mem.add_memory(32 * 32768, 32768)

    @mem.notifiers.register
    def notifier(action, notice):
        if action == fo.MEM_GOING_ONLINE:
            mem.set_online_page_callback(refuse)

    def refuse(pfn, order):
        raise RuntimeError("no")
    before = mem.zoneinfo()
    with pytest.raises(RuntimeError, match="no"):
        mem.online_pages(32 * 32768, 32768)
    assert mem.zoneinfo() == before and mem.blocks[32].state == "offline"
    mem.validate()


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


def test_registered_for_the_length_of_a_block(make_machine):
    mem, told = make_machine(), []
    with pytest.raises(KeyError), mem.notifiers.registered(lambda action, notice: told.append(action), priority=1) as callback:
        assert mem.notifiers.chain == [(callback, 1)]
        raise KeyError
    assert mem.notifiers.chain == [] and told == []


def test_registered_asks_before_the_block_and_may_refuse(make_machine):
    mem = make_machine()
    start, nr = mem.totalram_pages, mem.geometry.pages_per_section
    mem.add_memory(start, nr)
    with mem.notifiers.registered(lambda action, notice: fo.NOTIFY_BAD), pytest.raises(fo.HotplugError, match="vetoed"):
        mem.online_pages(start, nr)
    assert mem.online_pages(start, nr) == nr
    with pytest.raises(TypeError), mem.notifiers.registered(3):
        raise AssertionError
