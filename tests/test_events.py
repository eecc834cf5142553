"""hotplug/events.py: who hears of uevents and of the log, when, and what becomes of what a listener raises."""

import pytest
from conftest import SMALL_64

import fastonline as fo

S = SMALL_64.pages_per_section
NEW = 1024


def test_listeners_come_and_go():
    events, heard = fo.Memory(SMALL_64).events, []

    @events.listen
    def first(kind, text):
        heard.append((kind, text))

    events.uevent("add@memory4")
    events.log("a line")
    events.ignore(first)
    events.log("another")
    assert heard == [("uevent", "add@memory4"), ("kmsg", "a line")]
    with pytest.raises(ValueError):
        events.ignore(first)
    with pytest.raises(TypeError):
        events.listen("no callback")


def test_all_that_has_happened_is_told_whatever_a_listener_raises():
    events, heard = fo.Memory(SMALL_64).events, []

    @events.listen
    def careless(kind, text):
        raise RuntimeError(text)
    events.listen(lambda kind, text: heard.append((kind, text)))
    with pytest.raises(RuntimeError, match="one"):
        events.tell([("kmsg", "one"), ("uevent", "two")])
    assert heard == [("kmsg", "one"), ("uevent", "two")]


def life(mem):
    """A node with two blocks comes and goes; the calls one by one."""
    yield lambda: mem.add_memory(NEW, 2 * S, nid=1)
    yield lambda: mem.blocks[4].online()
    yield lambda: mem.blocks[5].online("online_movable")
    yield lambda: mem.blocks[4].offline()
    yield lambda: mem.blocks.remove(NEW, 2 * S)


@pytest.mark.parametrize("rules", [fo.LINUX_6_1, fo.LINUX_6_12], ids=lambda rules: rules.name)
def test_a_listener_finds_the_machine_whole(make_machine, rules):
    """Expect every invariant to hold, the node and its blocks to be there or gone, whenever a listener is called."""
    mem, heard = make_machine(rules=rules), []
    mem.min_free_kbytes = 5000      # kept, so that each recomputation says so

    @mem.events.listen
    def look(kind, text):
        heard.append(text.split()[0])
        mem.validate()
        assert mem.copy().buddyinfo() == mem.buddyinfo() and len(mem.lsmem()) > 100
        if text.startswith(("Built", "add@")):
            assert 1 in mem.nodes and 4 in mem.blocks
        if text.startswith("remove@"):
            assert 1 not in mem.nodes and 4 not in mem.blocks

    for call in life(mem):
        call()
    words = {"Built", "Fallback", "min_free_kbytes", "add@node1", "online@memory5", "offline@memory4", "remove@node1"}
    assert words <= set(heard)


def test_a_listener_may_call_the_machine(make_machine):
    """User space onlines what it hears of. Expect its events behind those that were on their way."""
    mem, heard = make_machine(), []

    @mem.events.listen
    def udev(kind, text):
        heard.append(text)
        if text.startswith("add@memory"):
            mem.blocks[int(text.removeprefix("add@memory"))].online("online_movable")

    mem.add_memory(NEW, 2 * S)
    assert [text for text in heard if "@" in text] == ["add@memory4", "online@memory4", "add@memory5", "online@memory5"]
    mem.validate()


@pytest.mark.parametrize("word", [
    "Built", "Fallback", "Policy", "min_free_kbytes", "add@", "online@", "offline@memory4", "remove@", "",
])
def test_a_listener_that_raises(make_machine, word):
    """A listener raises when it hears a word. Expect its exception from the call, the same machine as without it, and others to
    hear all; blocks.remove alone stops: what it took offline is online again, and nothing is gone."""
    mem, quiet, heard, told = make_machine(), make_machine(), [], []
    for machine in (mem, quiet):
        machine.min_free_kbytes = 5000
        machine.auto_online_blocks = "online_movable"
        machine.notifiers.register(lambda action, notice, of=machine: told.append((of, action)))

    def refuse(kind, text):
        if text.startswith(word):
            raise RuntimeError(text)

    mem.events.listen(refuse)
    mem.events.listen(lambda kind, text: heard.append(text))
    expected = []
    quiet.events.listen(lambda kind, text: expected.append(text))
    raised = 0
    for ours, theirs in zip(steps(mem), steps(quiet), strict=True):
        del told[:]
        theirs()
        try:
            ours()
        except RuntimeError as e:
            assert str(e).startswith(word)
            raised += 1
        mem.validate()
        assert heard == expected
        assert (mem.buddyinfo(), mem.zoneinfo(), mem.lsmem()) == (quiet.buddyinfo(), quiet.zoneinfo(), quiet.lsmem())
        assert [action for of, action in told if of is mem] == [action for of, action in told if of is quiet]
    assert raised


def steps(mem):
    yield lambda: mem.add_memory(NEW, 2 * S, nid=1)
    yield lambda: mem.blocks[4].offline()
    yield lambda: mem.blocks[4].online("online_kernel")
    yield lambda: mem.offline_pages(NEW, S)
    yield lambda: mem.offline_pages(NEW + S, S)
    yield lambda: mem.remove_memory(NEW, 2 * S)


@pytest.mark.parametrize("word", ["offline@memory5", "min_free_kbytes"])
def test_a_listener_that_raises_in_the_midst_of_an_eject(make_machine, word):
    """Expect its exception, and all that went offline online again."""
    mem = make_machine()
    mem.min_free_kbytes = 5000
    mem.add_memory(NEW, 3 * S)
    for nr in (4, 5, 6):
        mem.blocks[nr].online("online_kernel")

    @mem.events.listen
    def refuse(kind, text):
        if text.startswith(word):
            raise RuntimeError(text)

    with pytest.raises(RuntimeError):
        mem.blocks.remove(NEW, 3 * S)
    assert [mem.blocks[nr].state for nr in (4, 5, 6)] == ["online"] * 3
    mem.validate()
