"""hotplug/notifier.py: who is told, in which order, and who may refuse (1.6, 7.3-7.5); vetoes of whole calls:
test_arguments.py."""

import errno

import pytest

import fastonline as fo
from fastonline.hotplug.notifier import (
    MEM_FINISH_OFFLINE,
    MEM_PREPARE_ONLINE,
    NOTIFY_STOP,
    NotifierChain,
    notifier_from_errno,
    notifier_to_errno,
)


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


@pytest.mark.parametrize("priority, error", [
    ("1", TypeError), (None, TypeError), (1.5, TypeError), (float("nan"), TypeError), (1 << 31, OverflowError),
    (-(1 << 31) - 1, OverflowError),
])
def test_a_priority_is_an_int(priority, error):
    chain, called = chain_of(("a", 0, None))
    with pytest.raises(error):
        chain.register(print, priority)
    assert len(chain) == 1 and chain.chain[0][1] == 0


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


ACTIONS = [
    fo.MEM_ONLINE, fo.MEM_GOING_OFFLINE, fo.MEM_OFFLINE, fo.MEM_GOING_ONLINE, fo.MEM_CANCEL_ONLINE, fo.MEM_CANCEL_OFFLINE,
    MEM_PREPARE_ONLINE, MEM_FINISH_OFFLINE,
]


def life_of_a_block(engine, *heard):
    """What each listener of these actions is told while a block goes online and offline, both once against a veto, and is then
    marked by ones, by an array and as a range; and how often the chain was called."""
    mem = fo.Memory(fo.X86_64, "512M", rules=fo.LINUX_6_12, engine=engine)
    told = [[] for _ in heard]
    for mine, actions in zip(told, heard, strict=True):
        mem.notifiers.register(lambda action, notice, mine=mine: mine.append((action, notice)), actions=actions)
    mem.add_memory(0x100000, 32768)
    block = mem.blocks[32]
    for act, veto in ((block.online, fo.MEM_GOING_ONLINE), (block.offline, fo.MEM_GOING_OFFLINE)):
        with mem.notifiers.registered(lambda action, notice: fo.NOTIFY_BAD, actions=veto), pytest.raises(fo.HotplugError):
            act()
        act()
    mem.prepare_online_pages(0x100000, 32768)
    mem.mark_pages_onlined(0x100000)
    mem.mark_pages_onlined(0x100001)
    mem.mark_pfns_onlined([0x100003, 0x100005])
    mem.mark_pages_onlined(0x100000, 512)
    mem.validate()
    return told, mem.notifiers.calls


def test_a_callback_hears_its_actions_only(engine):
    """Expect each to be told what one that hears all is told of them, and the chain to be called as often."""
    (everything,), calls = life_of_a_block(engine, None)
    assert {action for action, _ in everything} == set(ACTIONS)
    for actions in (*ACTIONS, fo.MEM_ONLINE | fo.MEM_OFFLINE, fo.MEM_GOING_ONLINE | fo.MEM_CANCEL_OFFLINE):
        assert life_of_a_block(engine, actions) == ([[one for one in everything if one[0] & actions]], calls)
    alone, calls_of_many = life_of_a_block(engine, *ACTIONS)
    assert [*alone, calls_of_many] == [*([one for one in everything if one[0] == action] for action in ACTIONS), calls]


def test_which_actions_are_heard():
    chain, listen = NotifierChain(), lambda action, notice: None
    assert chain.heard == 0
    chain.register(print, 1, fo.MEM_ONLINE | fo.MEM_OFFLINE)
    chain.register(listen, actions=fo.MEM_GOING_ONLINE)
    assert chain.heard == fo.MEM_ONLINE | fo.MEM_OFFLINE | fo.MEM_GOING_ONLINE
    assert chain.chain == [(print, 1), (listen, 0)]
    chain.unregister(print)
    assert chain.heard == fo.MEM_GOING_ONLINE
    with chain.registered(print):
        assert chain.heard == sum(ACTIONS)


def test_a_callback_that_does_not_hear_counts_as_ok():
    """7.5: a veto without the stop bit is lost to the next callback, which in the kernel returns NOTIFY_OK for what it does not
    want."""
    chain, called = chain_of(("a", 1, 2))
    assert chain.call(fo.MEM_GOING_ONLINE, None) == 2
    chain.register(lambda action, notice: called.append("b"), actions=fo.MEM_ONLINE)
    assert chain.call(fo.MEM_GOING_ONLINE, None) == fo.NOTIFY_OK
    assert called == ["a", "a"] and chain.calls == 2


@pytest.mark.parametrize("actions, error", [
    (0, ValueError), (256, ValueError), (-1, ValueError), (fo.MEM_ONLINE | 1 << 40, ValueError), (1.0, TypeError),
    ("1", TypeError),
])
def test_actions_are_of_mem(actions, error):
    chain, called = chain_of(("a", 0, None))
    with pytest.raises(error, match="actions"):
        chain.register(print, actions=actions)
    assert len(chain) == 1


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
