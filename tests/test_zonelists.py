"""hotplug/zonelists.pyx: when the zonelists are built, and what the log says of it (KERNEL.md 1.3, 1.7, 1.8, 7.3)."""

import numpy as np
import pytest

import fastonline as fo

BLOCK = 32768
FIRST = 32 * BLOCK
ALL_RULES = pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_1, fo.LINUX_6_12], ids=lambda rules: rules.name)


@pytest.fixture
def machine(engine):
    def make(rules, listen=True):
        mem = fo.Memory(fo.X86_64, "512M", rules=rules, engine=engine)
        mem.add_memory(FIRST, 4 * BLOCK)
        log = []
        if listen:
            mem.events.listen(lambda kind, text: log.append(text) if kind == "kmsg" else None)
        return mem, log

    return make


def total_pages(log):
    """N of each line "Built ... Total pages: N"."""
    return [int(line.rsplit(" ", 1)[1]) for line in log if line.startswith("Built ")]


def beyond_high(mem):
    return sum(max(0, zone.managed_pages - zone.high) for zone in mem.zones.values())


@pytest.mark.parametrize("rules, when", [(fo.LINUX_2_6_25, "after"), (fo.LINUX_6_1, "before")], ids=["2.6.25", "6.1"])
def test_total_pages_by_the_watermarks_of_their_time(engine, rules, when):
    """1.3: 2.6.25 computes pages_min before it builds the zonelists. HighMem gets its first 512 MiB. Expect N by the new high
    watermarks there, by the old ones in 6.1; a second section says nothing.
    """
    section = 1 << 17
    mem, log = fo.Memory(fo.X86_32_PAE, "768M", rules=rules, engine=engine), []
    mem.add_memory(2 * section, 2 * section)
    mem.events.listen(lambda kind, text: log.append(text) if kind == "kmsg" else None)
    old = {key: zone.high for key, zone in mem.zones.items()}
    mem.online_pages(2 * section, section)
    by_old = sum(max(0, zone.managed_pages - old[key]) for key, zone in mem.zones.items())
    assert by_old != beyond_high(mem)
    assert total_pages(log) == [beyond_high(mem) if when == "after" else by_old]
    mem.online_pages(3 * section, section)
    assert len(total_pages(log)) == 1


@ALL_RULES
def test_emptying_a_zone(machine, rules):
    """1.7: 2.6.25 does not build them when a zone has lost its last page; 6.1 does. Filling it again does in both."""
    mem, log = machine(rules)
    mem.online_pages(FIRST, BLOCK)
    log.clear()
    mem.offline_pages(FIRST, BLOCK)
    assert total_pages(log) == ([] if rules is fo.LINUX_2_6_25 else [beyond_high(mem)])
    log.clear()
    mem.online_pages(FIRST, BLOCK)
    assert len(total_pages(log)) == 1


@ALL_RULES
def test_a_new_node(machine, rules):
    """1.2: 2.6.25 builds no zonelists for a node that has no memory online yet."""
    mem, log = machine(rules)
    mem.add_memory(FIRST + 8 * BLOCK, BLOCK, nid=1)
    assert len(total_pages(log)) == (0 if rules is fo.LINUX_2_6_25 else 1)
    mem.online_pages(FIRST + 8 * BLOCK, BLOCK)
    assert len(total_pages(log)) == (1 if rules is fo.LINUX_2_6_25 else 2) and log[-2].startswith("Built 2 zonelists")


@pytest.mark.parametrize("how", ["one page", "range", "array", "callback"])
def test_2_6_25_marks_into_an_empty_zone(machine, how):
    """1.8: the mark finds the zone unpopulated before it counts its pages. Expect nothing from prepare, the lines from the
    first mark with that mark's pages in N and ahead of MEM_ONLINE, nothing from the second."""
    mem, log = machine(fo.LINUX_2_6_25)
    marks = {"one page": [lambda: mem.mark_pages_onlined(FIRST + 5), lambda: mem.mark_pages_onlined(FIRST + 6)],
             "range": [lambda: mem.mark_pages_onlined(FIRST, 10), lambda: mem.mark_pages_onlined(FIRST, 20)],
             "array": [lambda: mem.mark_pfns_onlined(np.arange(FIRST, FIRST + 9)), lambda: mem.mark_pfns_onlined([FIRST + 9])],
             "callback": [lambda: mem.mark_pages_onlined(FIRST + 5), lambda: mem.mark_pages_onlined(FIRST + 6)]}[how]
    if how == "callback":
        mem.set_online_page_callback(mem.generic_online_page)
        mem.notifiers.register(lambda action, notice: log.append(action))
    mem.prepare_online_pages(FIRST, BLOCK)
    assert total_pages(map(str, log)) == []
    log.clear()
    marks[0]()
    assert total_pages(map(str, log)) == [beyond_high(mem)]
    assert log[2:] == ["Policy zone: Normal"] + ([fo.MEM_ONLINE] if how == "callback" else [])
    log.clear()
    marks[1]()
    assert total_pages(map(str, log)) == []


def test_2_6_25_a_mark_that_is_refused_builds_nothing(machine):
    mem, log = machine(fo.LINUX_2_6_25)
    with pytest.raises(fo.HotplugError):
        mem.mark_pages_onlined(FIRST)
    mem.prepare_online_pages(FIRST, BLOCK)

    def refuse(pfn, order):
        mem.generic_online_page(pfn, order)
        raise RuntimeError

    before = mem.copy().zoneinfo()
    with mem.set_online_page_callback(refuse), pytest.raises(RuntimeError):
        mem.mark_pages_onlined(FIRST)
    assert log == [] and mem.zoneinfo() == before
    mem.mark_pages_onlined(FIRST)
    assert len(total_pages(log)) == 1


@ALL_RULES
@pytest.mark.parametrize("path", ["online_pages", "marks"])
def test_listening_changes_nothing(machine, rules, path):
    """Normal gets its first block and loses it; only then does somebody listen, and a zone of node 1 gets one. Expect what one
    hears that has listened all the time: the policy zone is the highest kernel zone there has been."""
    def go(mem, log):
        if path == "online_pages" or rules is not fo.LINUX_2_6_25:
            mem.online_pages(FIRST, BLOCK)
        else:
            mem.prepare_online_pages(FIRST, BLOCK)
            for pfn in range(FIRST, FIRST + 3):
                mem.mark_pages_onlined(pfn)
            mem.mark_pages_onlined(FIRST, BLOCK)
        mem.offline_pages(FIRST, BLOCK)
        log.clear()
        mem = mem.copy()
        mem.events.listen(lambda kind, text: log.append(text) if kind == "kmsg" else None)
        mem.add_memory(FIRST + 8 * BLOCK, BLOCK, nid=1)
        mem.online_pages(FIRST + 8 * BLOCK, BLOCK, fo.MMOP_ONLINE_MOVABLE)
        return log

    heard, alone = (go(*machine(rules, listen=listen)) for listen in (True, False))
    assert heard == alone and heard[-1] == "Policy zone: Normal"
