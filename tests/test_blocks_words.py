"""hotplug/blocks.py: words written to sysfs, and what they are answered (KERNEL.md 1.5, 3.5, 7.7)."""

import errno

import pytest
from conftest import snapshot

import fastonline as fo

BLOCK = 32768


def machine(engine, rules=fo.LINUX_6_1, **more):
    mem = fo.Memory(fo.X86_64, "512M", rules=rules, engine=engine, **more)
    mem.add_memory(32 * BLOCK, 4 * BLOCK)
    return mem


@pytest.fixture
def heard():
    return []


def refused(code, call, *args):
    with pytest.raises(fo.HotplugError) as error:
        call(*args)
    assert errno.errorcode[error.value.errno] == code


@pytest.mark.parametrize(
    "word", ["bogus", "ONLINE", "online ", "onlin", "on", "1", "online_movable2", "online\n\n", "\n", " online"]
)
def test_words_that_are_none(engine, word):
    mem = machine(engine)
    refused("EINVAL", mem.blocks[32].write_state, word)
    assert mem.blocks[32].state == "offline"


def test_words(engine):
    mem = machine(engine)
    assert mem.blocks[32].write_state("") == 0
    assert mem.blocks[32].write_state("online_movable\n") == 15
    for word in ("online", "online_kernel", "online_movable"):
        refused("EINVAL", mem.blocks[32].write_state, word)
    assert mem.blocks[32].valid_zones == "Movable"
    assert mem.blocks[32].write_state("offline") == 7
    refused("EINVAL", mem.blocks[32].write_state, "offline\n")
    with pytest.raises(TypeError):
        mem.blocks[32].write_state(b"online")


@pytest.mark.parametrize("word", ["online\0", "online\0junk", "online\n\0", "online_movable\n\0\n"])
def test_words_end_at_a_nul(engine, word):
    """sysfs_streq compares C strings. Expect all that was written taken."""
    mem = machine(engine)
    assert mem.blocks[32].write_state(word) == len(word) and mem.blocks[32].state == "online"
    refused("EINVAL", mem.blocks[33].write_state, "\0online")


@pytest.mark.parametrize(("word", "answer"), [
    ("o", 1), ("on", 1), ("onlineXYZ", 1), ("online_movable", 1), ("off", 0), ("offline!", 0), ("on\n", None), ("foo", None),
])
def test_words_of_2_6_25(engine, word, answer):
    """Prefixes count, in both directions."""
    mem = machine(engine, fo.LINUX_2_6_25)
    block = mem.blocks[32]
    if answer is None:
        refused("EINVAL", block.write_state, word)
        return
    if not answer:
        block.online()
    block.write_state(word)
    assert block.state == ("online" if answer else "offline")


def test_2_6_25_blocks_know_nothing_of_marks(engine):
    """1.5: the block's state comes first, then the test that each of its pages is Reserved.

        memory32   | x ................. |   prepared, page 5 marked
    Expect the block offline after marks of a page and of the rest: EBUSY for "online", EINVAL for "offline"; once every page is
    Reserved again it goes online, and then EINVAL.
    """
    mem = machine(engine, fo.LINUX_2_6_25)
    block = mem.blocks[32]
    mem.prepare_online_pages(32 * BLOCK, BLOCK)
    mem.mark_pages_onlined(32 * BLOCK + 5)
    for _ in range(2):
        assert block.state == "offline" == mem.copy().blocks[32].state
        refused("EINVAL", block.write_state, "offline")
        refused("EINVAL", block.write_state, "foo")
        before = mem.zoneinfo(), mem.stats()
        with pytest.raises(fo.HotplugError, match="page 0x10000[05] is not Reserved") as caught:
            block.write_state("online")
        assert caught.value.errno == errno.EBUSY and (mem.zoneinfo(), mem.stats()) == before
        mem.mark_pages_onlined(32 * BLOCK, BLOCK)
    mem.set_page_reserved(32 * BLOCK, BLOCK)
    block.write_state("online")
    assert block.state == "online" == mem.copy().blocks[32].state and mem.zones["Normal"].managed_pages == BLOCK
    refused("EINVAL", block.write_state, "online")
    mem.alloc_pages(zone="Normal")
    mem.set_page_reserved(32 * BLOCK + 7)
    assert block.state == "online"
    mem.validate()


def test_2_6_25_blocks_that_online_pages_has_been_over(engine):
    """Expect whole sections online, one that it has been over in part offline, and offline again all that goes offline."""
    mem = machine(engine, fo.LINUX_2_6_25)
    mem.online_pages(32 * BLOCK, BLOCK + 512)
    assert [mem.blocks[nr].state for nr in (3, 32, 33, 34)] == ["online", "online", "offline", "offline"]
    refused("EBUSY", mem.blocks[33].online)
    mem.offline_pages(32 * BLOCK, BLOCK + 512)
    assert [mem.blocks[nr].state for nr in (3, 32, 33, 34)] == ["online", "offline", "offline", "offline"]
    assert mem.blocks[33].online() == BLOCK
    mem.blocks[33].offline()
    mem.remove_memory(33 * BLOCK, BLOCK)
    mem.add_memory(33 * BLOCK, BLOCK)
    assert mem.blocks[33].state == "offline"


@pytest.mark.parametrize("rules", [fo.LINUX_6_1, fo.LINUX_6_12], ids=lambda rules: rules.name)
def test_in_6_1_a_block_with_a_page_online_is_online(engine, rules):
    mem = machine(engine, rules)
    mem.prepare_online_pages(32 * BLOCK, BLOCK)
    mem.mark_pages_onlined(32 * BLOCK + 5)
    assert mem.blocks[32].state == "online"
    refused("EINVAL", mem.blocks[32].write_state, "online")


def test_write_online(engine, heard):
    mem = machine(engine)
    mem.events.listen(lambda kind, text: heard.append(text) if kind == "uevent" else None)
    block = mem.blocks[33]
    assert block.write_online("1") == 1 and block.state == "online"
    assert block.write_online("1\n") == 2 and heard == ["online@memory33"]
    refused("EINVAL", block.write_online, "2")
    assert block.write_online("0") == 1 and heard == ["online@memory33", "offline@memory33"]
    assert block.write_online("0") == 1 and len(heard) == 2


def test_boot_blocks_that_refuse(engine):
    """Block 0 lies in two zones."""
    mem = machine(engine)
    refused("EINVAL", mem.blocks[0].offline)
    mem.blocks[1].offline()
    assert mem.blocks[1].valid_zones == "DMA32 Movable"


@pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_1, fo.LINUX_6_12], ids=lambda rules: rules.name)
def test_going_offline(engine, rules, tmp_path):
    """1.5: the state is "going-offline" until offline_pages has answered, then "offline", or "online" again where it refuses.
    Expect it in every callback of the offlining, for its block alone, and nowhere else.
    """
    mem = machine(engine, rules)
    for nr in (32, 33):
        mem.blocks[nr].online()
    seen, answers = [], [fo.NOTIFY_BAD, fo.NOTIFY_OK]

    def look(action, notice):
        seen.append((action, mem.blocks[32].state, mem.blocks[33].state))
        if action == fo.MEM_GOING_OFFLINE:
            assert "on->off" in mem.lsmem()
            refused("EINVAL", mem.blocks[32].write_state, "offline")
            return answers.pop(0)

    mem.notifiers.register(look)
    refused("EPERM", mem.blocks[32].offline)
    assert seen == [(fo.MEM_GOING_OFFLINE, "going-offline", "online"), (fo.MEM_CANCEL_OFFLINE, "going-offline", "online")]
    assert mem.blocks[32].state == "online" and mem.going_offline is None
    seen.clear()
    mem.blocks[32].offline()
    last = [fo.MEM_FINISH_OFFLINE] if rules.block_notices else []
    assert seen == [(action, "going-offline", "online") for action in [fo.MEM_GOING_OFFLINE, fo.MEM_OFFLINE, *last]]
    assert mem.blocks[32].state == "offline" and "on->off" not in mem.lsmem()


def test_going_offline_where_pages_move(engine):
    """An owner whose callback raises sees it too. Expect the block online afterwards."""
    mem = machine(engine)
    mem.blocks[32].online("online_movable")
    seen = []

    def moved(old, new):
        seen.append(mem.blocks[32].state)
        raise RuntimeError

    fo.MovablePages(mem, moved).alloc(10)
    with pytest.raises(RuntimeError):
        mem.blocks[32].offline()
    assert seen == ["going-offline"] and mem.blocks[32].state == "online"


def test_auto_online_blocks(engine, heard):
    mem = machine(engine)
    mem.events.listen(lambda kind, text: heard.append(text) if kind == "uevent" else None)
    refused("EINVAL", setattr, mem, "auto_online_blocks", "bogus")
    assert mem.auto_online_blocks == "offline"
    mem.auto_online_blocks = "online_movable"
    mem.add_memory(40 * BLOCK, 2 * BLOCK)
    assert heard == ["add@memory40", "add@memory41", "online@memory40", "online@memory41"]
    assert mem.blocks[41].valid_zones == "Movable"


def test_remove_offlines_first(engine, heard):
    mem = machine(engine)
    mem.blocks[32].online("online_movable")
    mem.events.listen(lambda kind, text: heard.append(text) if kind == "uevent" else None)
    mem.blocks.remove(32 * BLOCK, 2 * BLOCK)
    assert heard == ["offline@memory32", "remove@memory32", "remove@memory33"]
    assert list(mem.blocks) == [0, 1, 2, 3, 34, 35]
    refused("EINVAL", mem.blocks.remove, 32 * BLOCK, BLOCK)
    refused("EINVAL", mem.blocks.remove, 34 * BLOCK, 1)


def test_remove_rolls_back_into_another_zone(engine, heard):
    """KERNEL.md 7.7: 32 in Movable, 33 in Normal and in use. Expect EBUSY, and 32 back with plain `online`, in Normal."""
    mem = machine(engine)
    mem.blocks[32].online("online_movable")
    mem.blocks[33].online("online_kernel")
    mem.alloc_pages(zone="Normal")
    mem.events.listen(lambda kind, text: heard.append(text))
    refused("EBUSY", mem.blocks.remove, 32 * BLOCK, 3 * BLOCK)
    assert [text for text in heard if "@" in text] == ["offline@memory32", "online@memory32"]
    assert "memory memory33: Offline failed." in heard
    assert mem.blocks[32].valid_zones == "Normal"
    mem.validate()


def test_a_failure_sends_no_uevent(engine, heard):
    mem = machine(engine)
    mem.events.listen(lambda kind, text: heard.append(text) if kind == "uevent" else None)
    mem.notifiers.register(lambda action, notice: fo.NOTIFY_BAD)
    refused("EPERM", mem.blocks[32].online)
    assert heard == [] and mem.blocks[32].state == "offline"


def test_half_a_block_is_not_removed(engine):
    """A block of two sections. Expect EINVAL for one of them."""
    mem = fo.Memory(fo.X86_64, boot="1G", memory_block_size="256M", engine=engine)
    mem.add_memory(32 * BLOCK, 2 * BLOCK)
    before = snapshot(mem)
    for start in (32 * BLOCK, 33 * BLOCK):
        refused("EINVAL", mem.remove_memory, start, BLOCK)
    assert snapshot(mem) == before and "16\n" in mem.lsmem()
    mem.remove_memory(32 * BLOCK, 2 * BLOCK)
    assert 16 not in mem.blocks


def test_blocks_of_several_sections(engine):
    mem = fo.Memory(fo.X86_64, "1G", engine=engine, memory_block_size="512M")
    refused("EINVAL", mem.add_memory, 33 * BLOCK, BLOCK)
    mem.add_memory(32 * BLOCK, 8 * BLOCK)
    assert list(mem.blocks) == [0, 1, 8, 9] and mem.blocks[9].start_pfn == 36 * BLOCK
    mem.blocks[8].online("online_movable")
    assert mem.zones["Movable"].present_pages == 4 * BLOCK and mem.blocks[8].valid_zones == "Movable"
    mem.blocks[8].offline()
    mem.validate()
    for size in ("64M", "384M", 0, "1M"):
        with pytest.raises(ValueError):
            fo.Memory(fo.X86_64, memory_block_size=size)


def test_auto_movable_policy(engine):
    """KERNEL.md 7.5: at 301 %, 512 MiB at boot take one DIMM of 1 GiB into Movable, and no second."""
    mem = fo.Memory(fo.X86_64, "512M", engine=engine)
    mem.policy = "auto-movable"
    for dimm, zone in ((32, "Movable"), (40, "Normal"), (48, "Normal")):
        mem.add_memory(dimm * BLOCK, 8 * BLOCK)
        for nr in range(dimm, dimm + 8):
            mem.blocks[nr].online()
            assert mem.blocks[nr].valid_zones == zone
    refused("EINVAL", setattr, mem, "policy", "bogus")


def test_auto_movable_policy_with_dynamic_groups(engine):
    """Two virtio-mem devices, 131072 pages at boot, ratio 301 %: 12 blocks may be Movable. The first device's 13th is Normal,
    and that counts for itself: 3 more, then Normal again. Of boot's pages its 15 Movable blocks need 15 * 32768 / 3.01 less
    its own 2 Normal ones: 97759. The other 33313 let the second device have 3 Movable blocks, a Normal one, and by that 3
    more."""
    mem = fo.Memory(fo.X86_64, "512M", engine=engine)
    mem.policy, mem.auto_online_blocks = "auto-movable", "online"

    def add(start, nr, group):
        for block in range(start, start + nr):
            mem.add_memory(block * BLOCK, BLOCK, group=(group, BLOCK))
        return [mem.blocks[block].valid_zones for block in range(start, start + nr)]

    assert add(32, 17, "virtio0") == ["Movable"] * 12 + ["Normal"] + ["Movable"] * 3 + ["Normal"]
    assert mem.copy().groups == mem.groups and mem.groups[-1] == (48 * BLOCK, BLOCK, ("virtio0", BLOCK))
    assert add(64, 8, "virtio1") == ["Movable"] * 3 + ["Normal"] + ["Movable"] * 3 + ["Normal"]


def test_dynamic_groups_of_several_blocks_a_unit(engine):
    """Units of two blocks. Expect the second of a unit to follow the first, where that went to a kernel zone."""
    mem = fo.Memory(fo.X86_64, "512M", engine=engine)
    mem.policy = "auto-movable"
    for block in range(32, 36):
        mem.add_memory(block * BLOCK, BLOCK, group=("virtio0", 2 * BLOCK))
    mem.blocks[32].online("online_kernel")
    for block in (33, 34, 35):
        mem.blocks[block].online()
    assert [mem.blocks[block].valid_zones for block in range(32, 36)] == ["Normal", "Normal", "Movable", "Movable"]


def test_memmap(engine):
    """KERNEL.md 7.2: 512 pages a block from the highest kernel zone, or the block's own first ones."""
    mem = fo.Memory(fo.X86_64, "512M", rules=fo.LINUX_6_1, engine=engine, memmap="kernel")
    free = mem.zones["DMA32"].free_pages
    mem.add_memory(32 * BLOCK, 8 * BLOCK)
    assert mem.zones["DMA32"].free_pages == free - 8 * 512
    mem.remove_memory(32 * BLOCK, 8 * BLOCK)
    assert mem.zones["DMA32"].free_pages == free
    mem = fo.Memory(fo.X86_64, "512M", rules=fo.LINUX_6_1, engine=engine, memmap="on_memory")
    mem.add_memory(32 * BLOCK, BLOCK)
    assert mem.zones["DMA32"].free_pages == free
    mem.blocks[32].online()
    zone = mem.zones["Normal"]
    assert (zone.present_pages, zone.managed_pages, zone.nr_free) == (BLOCK, BLOCK - 512, (0,) * 9 + (1, 31))
    mem.validate()
    mem.blocks[32].offline()
    assert not zone.populated


def test_memmap_on_memory_came_with_5_13(engine):
    with pytest.raises(ValueError, match="no memmap_on_memory before 5.13, the rules are Linux 2.6.25's"):
        fo.Memory(fo.X86_64, "512M", rules=fo.LINUX_2_6_25, engine=engine, memmap="on_memory")
    for rules in (fo.LINUX_6_1, fo.LINUX_6_12):
        assert fo.Memory(fo.X86_64, "512M", rules=rules, engine=engine, memmap="on_memory").memmap == "on_memory"


def test_memmaps_of_several_blocks(engine):
    """Three blocks of 6.12 that have their memmaps on them go online in one call, in both phases, and by a callback. Expect 512
    pages of each to stay Reserved every time."""
    mem = fo.Memory(fo.X86_64, "512M", rules=fo.LINUX_6_12, engine=engine, memmap="on_memory")
    first, nr, rest = 32 * BLOCK, 3 * BLOCK, 3 * (BLOCK - 512)
    mem.add_memory(first, nr)

    def both_phases():
        mem.prepare_online_pages(first, nr)
        assert mem.mark_pages_onlined(first, 512) == 0
        assert mem.mark_pages_onlined(first + 100, BLOCK) == BLOCK - 512
        return BLOCK - 512 + mem.mark_pages_onlined(first, nr)

    def by_callback():
        with mem.set_online_page_callback(mem.generic_online_page):
            return mem.online_pages(first, nr)

    for online in (lambda: mem.online_pages(first, nr), both_phases, by_callback):
        assert online() == rest == mem.zones["Normal"].free_pages
        assert [mem.page_flags(first + at) for at in (0, 511, BLOCK, BLOCK + 511)] == ["PG_reserved|PG_prepared"] * 4
        assert mem.zones["Normal"].present_pages == nr and mem.zones["Normal"].nr_free == (0,) * 9 + (3, 93)
        mem.validate()
        mem.offline_pages(first, nr)
    mem.blocks.remove(first, nr)


@pytest.mark.parametrize("rules", [fo.LINUX_6_1, fo.LINUX_6_12])
def test_memmap_of_what_drivers_add(engine, rules):
    """virtio-mem passes MHP_MERGE_RESOURCE, and not MHP_MEMMAP_ON_MEMORY. Expect 512 kernel pages a block, and the block
    whole."""
    mem = fo.Memory(fo.X86_64, "512M", rules=rules, engine=engine, memmap="on_memory")
    free = mem.zones["DMA32"].free_pages
    mem.add_memory(32 * BLOCK, BLOCK, name="System RAM (virtio_mem)", merge=True)
    mem.blocks[32].online()
    assert mem.zones["DMA32"].free_pages == free - 512 and mem.zones["Normal"].managed_pages == BLOCK


def test_no_room_for_a_memmap(engine):
    mem = fo.Memory(fo.X86_64, "128M", engine=engine, memmap="kernel")
    mem.alloc_pages_bulk(mem.zones["DMA32"].free_pages + mem.zones["DMA"].free_pages - 600)
    before = mem.buddyinfo()
    refused("ENOMEM", mem.add_memory, 32 * BLOCK, 2 * BLOCK)
    assert mem.buddyinfo() == before and list(mem.blocks) == [0]


@pytest.mark.parametrize("geometry, pieces", [(fo.S390X, 4), (fo.X86_64, 1), (fo.ARM64_64K, 1)], ids=["S390X", "X86", "ARM"])
def test_a_memmap_in_pieces(engine, geometry, pieces):
    """The memmap of a section of S390X, 4 MiB, is more than its largest block, 1 MiB. Expect as many pieces as that takes, and
    all of them back when the block goes, from a copy too."""
    mem = fo.Memory(geometry, "8G", engine=engine, memmap="kernel")
    unit, free = mem.pages_per_block, mem.buddyinfo()
    mem.add_memory(8 << 30 >> geometry.page_shift, 2 * unit)
    first = (8 << 30) // geometry.section_size
    assert [len(mem.memmaps[section]) for section in (first, first + 1)] == [pieces] * 2
    pages = [nr for section in mem.memmaps.values() for _, nr in section]
    assert sum(pages) * geometry.page_size == 2 * unit * 64 == 2 * geometry.memmap_bytes(64)
    mem = mem.copy()
    mem.blocks[first].online()
    mem.validate()
    mem.blocks.remove(first * unit, 2 * unit)
    assert mem.buddyinfo() == free and not mem.memmaps


def test_no_room_for_all_pieces(engine):
    """Three blocks of 1 MiB are left, eight are asked for, on a new node. Expect ENOMEM, nothing taken, and no node."""
    mem = fo.Memory(fo.S390X, "256M", engine=engine, memmap="kernel")
    mem.alloc_pages_bulk(253, 8)
    before = snapshot(mem) | {"stats": None}      # what was allocated and freed is counted
    refused("ENOMEM", mem.add_memory, 1 << 20, 2 * mem.pages_per_block, 3)
    assert snapshot(mem) | {"stats": None} == before and list(mem.nodes) == [0]


def raising(mem, action, block):
    """A notifier that vetoes by raising."""
    @mem.notifiers.register
    def refuse(told, notice):
        if told == action and notice.start_pfn == block * BLOCK:
            raise RuntimeError("no")


def test_remove_rolls_back_when_a_notifier_raises(engine):
    """33 of 32..34 is vetoed by raising. Expect that exception, and all three online, as with NOTIFY_BAD."""
    mem = machine(engine)
    for nr in (32, 33, 34):
        mem.blocks[nr].online("online_movable")
    raising(mem, fo.MEM_GOING_OFFLINE, 33)
    with pytest.raises(RuntimeError):
        mem.blocks.remove(32 * BLOCK, 3 * BLOCK)
    assert [mem.blocks[nr].state for nr in (32, 33, 34)] == ["online"] * 3
    mem.validate()


@pytest.mark.parametrize("action, states", [
    (fo.MEM_GOING_ONLINE, ["online", "offline", "online"]), (fo.MEM_ONLINE, ["online"] * 3),
])
def test_auto_online_when_a_notifier_raises(engine, heard, action, states):
    """3.1: failures are ignored. Expect every block to be tried, and told of, and the exception when all have been."""
    mem = machine(engine)
    mem.auto_online_blocks = "online"
    raising(mem, action, 41)
    mem.events.listen(lambda kind, text: heard.append(text) if kind == "uevent" else None)
    with pytest.raises(RuntimeError):
        mem.add_memory(40 * BLOCK, 3 * BLOCK)
    assert [mem.blocks[nr].state for nr in (40, 41, 42)] == states
    assert heard[3:] == [f"online@memory{nr}" for nr, state in zip((40, 41, 42), states, strict=True) if state == "online"]
    mem.validate()


def test_remove_takes_all_back_when_the_last_step_is_refused(engine):
    """Block 32 is online, 33 prepared and no block of it is online. Expect EBUSY and 32 online again."""
    mem = fo.Memory(fo.X86_64, "512M", rules=fo.LINUX_6_1, engine=engine)
    mem.add_memory(32 * BLOCK, 2 * BLOCK)
    mem.blocks[32].online("online_movable")
    mem.prepare_online_pages(33 * BLOCK, BLOCK)
    refused("EBUSY", mem.blocks.remove, 32 * BLOCK, 2 * BLOCK)
    assert mem.blocks[32].state == "online" and 33 in mem.blocks
    mem.validate()


def test_a_memmap_on_memory_stays_page_by_page(engine):
    """Single marks, an array, and a driver's call. Expect the 512 pages at the block's start to stay Reserved, all others to go
    online."""
    mem = fo.Memory(fo.X86_64, "512M", rules=fo.LINUX_6_1, engine=engine, memmap="on_memory")
    first = 32 * BLOCK
    mem.add_memory(first, BLOCK)
    mem.prepare_online_pages(first, BLOCK)
    assert [mem.mark_pages_onlined(first + at) for at in (0, 511, 512)] == [0, 0, 1]
    assert mem.mark_pfns_onlined([first + at for at in (513, 3, 514, 0)]) == 2
    assert mem.generic_online_page(first, 9) == 0 and mem.generic_online_page(first, 10) == 512 - 3
    assert mem.mark_pages_onlined(first, BLOCK) == BLOCK - 1024 and mem.zones["Normal"].managed_pages == BLOCK - 512
    mem.validate()


def test_a_block_of_2_6_25_is_one_section():
    with pytest.raises(ValueError, match="a memory block of Linux 2.6.25 is one section, 128M"):
        fo.Memory(fo.X86_64, "1G", rules=fo.LINUX_2_6_25, memory_block_size="256M")
