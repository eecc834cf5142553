"""hotplug/migrate.pyx: pages that move out of a block that goes offline, and where they may go."""

import contextlib
import errno
import gc

import numpy as np
import pytest

import fastonline as fo
from fastonline.drivers.virtio_balloon import BalloonPages, VirtioBalloon
from fastonline.hotplug.migrate import MovablePages, movable_pages, put_back
from fastonline.hotplug.pcp import PerCpuPages

BLOCK = 32768


@pytest.fixture
def mem(engine):
    mem = fo.Memory(fo.X86_64, "512M", rules=fo.LINUX_6_1, engine=engine)
    mem.add_memory(32 * BLOCK, 3 * BLOCK)
    for nr in (32, 33):
        mem.blocks[nr].online("online_movable")
    return mem


def within(pfns, block):
    return int(np.count_nonzero(pfns // BLOCK == block))


def refused(code, call, *args):
    with pytest.raises(fo.HotplugError) as error:
        call(*args)
    assert errno.errorcode[error.value.errno] == code


def test_pages_move_and_the_owner_is_told(mem):
    told = []
    owner = fo.MovablePages(mem, lambda old, new: told.append((old.copy(), new.copy())))
    owner.alloc(1000)
    block = int(owner.pfns[0]) // BLOCK
    before = owner.pfns.copy()
    mem.blocks[block].offline()
    (old, new), = told
    assert sorted(old) == sorted(before) and len(set(new.tolist())) == 1000
    assert within(owner.pfns, block) == 0 and mem.stats()["pages_migrated"] == 1000
    assert mem.zones["Movable"].managed_pages == BLOCK and mem.zones["Movable"].free_pages == BLOCK - 1000
    mem.validate()
    owner.free()
    assert mem.zones["Movable"].free_pages == BLOCK and not mem.page_owners


def test_a_page_that_nobody_moves_is_busy(mem):
    """Expect EBUSY, nothing moved, everything online."""
    owner = MovablePages(mem)
    owner.alloc(500)
    block = int(owner.pfns[0]) // BLOCK
    before, text = owner.pfns.copy(), mem.buddyinfo()
    mem.alloc_contig_range(block * BLOCK + BLOCK - 1, 1)
    refused("EBUSY", mem.blocks[block].offline)
    assert (owner.pfns == before).all() and mem.blocks[block].state == "online"
    mem.free_pages(block * BLOCK + BLOCK - 1)
    assert mem.buddyinfo() == text
    mem.validate()


def test_no_room_to_move_to(mem):
    """Both blocks and all else are full but for 100 pages. Expect EINTR: 100 moved stay moved, each page owned once."""
    owner = MovablePages(mem)
    owner.alloc(2 * BLOCK)
    free = sum(zone.free_pages for zone in mem.zones.values())
    mem.alloc_pages_bulk(free - 100)
    refused("EINTR", mem.blocks[32].offline)
    assert mem.blocks[32].state == "online" and mem.stats()["pages_migrated"] == 100
    assert len(set(owner.pfns.tolist())) == 2 * BLOCK and within(owner.pfns, 32) == BLOCK - 100
    mem.validate()


@pytest.mark.parametrize("rules, full, held", [(fo.LINUX_2_6_25, "ENOMEM", "EAGAIN"), (fo.LINUX_6_1, "EINTR", "EINTR")],
                         ids=["2.6.25", "6.1"])
def test_who_gives_up(engine, rules, full, held):
    """1.7: migrate_pages without a page to move to is -ENOMEM, five times; pages that do not move are tried until the timeout.
    Expect CANCEL_OFFLINE to follow each time, the block online, and what moved to stay moved.
    """
    mem = fo.Memory(fo.X86_64, "128M", rules=rules, engine=engine)
    mem.add_memory(32 * BLOCK, BLOCK)
    mem.blocks[32].online()
    told = []
    mem.notifiers.register(lambda action, notice: told.append(action))
    owner, pinned = fo.MovablePages(mem), fo.MovablePages(mem)
    owner.alloc(20000)
    mem.alloc_pages_bulk(mem.zones["DMA"].free_pages, zone="DMA")
    taken = mem.alloc_pages_bulk(mem.zones["DMA32"].free_pages - 100, zone="DMA32")
    refused(full, mem.blocks[32].offline)
    assert mem.stats()["pages_migrated"] == 100 and within(owner.pfns, 32) == 20000 - 100
    assert mem.blocks[32].state == "online" and told == [fo.MEM_GOING_OFFLINE, fo.MEM_CANCEL_OFFLINE]
    mem.free_pfns(taken)
    pinned.alloc(10)
    pinned.pinned = 3
    refused(held, mem.blocks[32].offline)
    assert within(owner.pfns, 32) == 0 and within(pinned.pfns, 32) == 3
    assert mem.blocks[32].state == "online" and told == 2 * [fo.MEM_GOING_OFFLINE, fo.MEM_CANCEL_OFFLINE]
    pinned.pinned = 0
    mem.blocks[32].offline()
    mem.validate()


def test_a_veto_moves_nothing(mem):
    owner = MovablePages(mem)
    owner.alloc(10)
    before = owner.pfns.copy()
    mem.notifiers.register(lambda action, notice: fo.NOTIFY_BAD if action == fo.MEM_GOING_OFFLINE else None)
    refused("EPERM", mem.blocks[int(before[0]) // BLOCK].offline)
    assert (owner.pfns == before).all()
    mem.validate()


def test_a_callback_that_raises(mem):
    """Expect its exception, the block online, and each page owned once."""
    def refuse(old, new):
        raise RuntimeError("no")
    owner = fo.MovablePages(mem, refuse)
    owner.alloc(300)
    block = int(owner.pfns[0]) // BLOCK
    with pytest.raises(RuntimeError):
        mem.blocks[block].offline()
    assert mem.blocks[block].state == "online" and len(set(owner.pfns.tolist())) == 300
    assert mem.zones["Movable"].free_pages == 2 * BLOCK - 300
    mem.validate()


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyboardInterrupt])
def test_notifiers_hear_of_a_callback_that_raises(mem, error):
    """Expect MEM_CANCEL_OFFLINE behind MEM_GOING_OFFLINE."""
    def refuse(old, new):
        raise error
    actions = []
    mem.notifiers.register(lambda action, notice: actions.append((action, notice.start_pfn)))
    owner = fo.MovablePages(mem, refuse)
    owner.alloc(300)
    block = int(owner.pfns[0]) // BLOCK
    with pytest.raises(error):
        mem.blocks[block].offline()
    assert actions == [(fo.MEM_GOING_OFFLINE, block * BLOCK), (fo.MEM_CANCEL_OFFLINE, block * BLOCK)]


def test_owners_after_one_that_raises(mem):
    """Two owners in one block, the first one's callback raises. Expect the second told, each page owned once, none lost."""
    def refuse(old, new):
        raise RuntimeError("no")
    told = []
    owners = [fo.MovablePages(mem, refuse), fo.MovablePages(mem, lambda old, new: told.append((old, new)))]
    for owner in owners:
        owner.alloc(300)
    before = owners[1].pfns.copy()
    with pytest.raises(RuntimeError):
        mem.blocks[int(before[0]) // BLOCK].offline()
    assert (np.sort(told[0][0]) == np.sort(before)).all() and (np.sort(told[0][1]) == np.sort(owners[1].pfns)).all()
    assert mem.zones["Movable"].free_pages == 2 * BLOCK - 600
    mem.validate()


def test_an_owner_that_is_dropped_stays_with_its_pages(mem):
    """No reference is left. Expect the machine to keep the owner, its pages to be movable, and `free` to free them."""
    before = mem.buddyinfo()
    MovablePages(mem).alloc(600)
    MovablePages(mem)
    gc.collect()
    (owner,) = mem.page_owners
    assert len(owner) == 600 and mem.buddyinfo() != before
    assert len(movable_pages(mem, int(owner.pfns[0]), 1)) == 1
    owner.free()
    assert mem.page_owners == [] and mem.buddyinfo() == before
    mem.validate()


def test_extend_is_adopt(mem):
    owner, pfns = MovablePages(mem), mem.alloc_pages_bulk(3, 0, "Movable")
    with pytest.warns(DeprecationWarning, match="adopt"):
        owner.extend(pfns)
    assert owner.pfns.tolist() == pfns.tolist()
    with pytest.warns(DeprecationWarning), pytest.raises(ValueError, match="has an owner"):
        MovablePages(mem).extend(pfns[:1])


@pytest.mark.parametrize("pfns, error", [
    ([1 << 40], ValueError), ([-5], ValueError), ([0], ValueError), ([1.7], TypeError), (["x"], TypeError),
    ([[1, 2]], ValueError), (None, ValueError), ([1 << 63], ValueError), ([1 << 64], OverflowError),
    ("owned", ValueError), ("twice", ValueError),
], ids=str)
def test_adopts_pages_in_use_without_an_owner_alone(mem, pfns, error):
    """Page 0 is free. Expect a refusal that changes nothing, and the page to be adopted that nobody owns."""
    owner = fo.MovablePages(mem)
    owner.alloc(3)
    page = mem.alloc_pages(0)
    pfns = {"owned": [page, owner.pfns[1]], "twice": [page, page]}.get(pfns, pfns) if isinstance(pfns, str) else pfns
    other = fo.MovablePages(mem)
    with pytest.raises(error):
        other.adopt(pfns)
    assert len(other) == 0 and mem.page_owners == [owner]
    mem.validate()
    other.adopt([page])
    mem.validate()


@pytest.mark.parametrize("wrong, first, last, why", [
    ("owned", 0, 299, "it has an owner"), ("free", 0, 299, "it is not a single"), ("head", 0, 299, "it is not a single"),
    ("head", 0, 150, "it is not a single"), ("tail", 151, 299, "it is not a single"),
])
def test_adopts_long_runs_as_single_pages(mem, wrong, first, last, why):
    """
        300 successive pages in use, of which [first, last] are given; 150 has an owner, is free, or heads an allocation of two
    Expect the refusal to name the wrong page and to change nothing; and the pages before it to be adopted.
    """
    start = 32 * BLOCK + 4096
    mem.alloc_contig_range(start, 512)
    bad = start + 150
    if wrong == "owned":
        fo.MovablePages(mem).adopt([bad])
    else:
        mem.alloc_pages_bulk(mem.zones["Movable"].free_pages, zone="Movable")
        mem.free_pages(bad)
        if wrong != "free":
            mem.free_pages(bad + 1)
            assert mem.alloc_pages(1, zone="Movable") == bad
            bad += wrong == "tail"
    other = fo.MovablePages(mem)
    with pytest.raises(ValueError, match=f"page {bad:#x}: {why}"):
        other.adopt(np.arange(start + first, start + last + 1))
    assert len(other) == 0
    other.adopt(np.arange(start, start + 150))
    assert other.pfns.tolist() == list(range(start, start + 150))
    mem.validate()


def test_pages_leave_in_the_order_of_their_addresses(mem):
    """Two owners take pages in turn. Expect their new pages, sorted by the old ones, to be those that one owner would have
    got."""
    owners = [fo.MovablePages(mem) for _ in range(2)]
    for _ in range(20):
        for owner in owners:
            owner.alloc(7)
    one = mem.copy()
    old = np.concatenate([owner.pfns for owner in owners])
    alone = fo.MovablePages(one)
    for owner in one.page_owners:
        owner.give(len(owner))
    alone.adopt(np.sort(old))
    block = int(old[0]) // BLOCK
    mem.blocks[block].offline()
    one.blocks[block].offline()
    assert (np.concatenate([owner.pfns for owner in owners])[np.argsort(old)] == alone.pfns).all()


def test_pinned_pages_stay(mem):
    owner = MovablePages(mem)
    owner.alloc(10)
    owner.pinned = 3
    block = int(owner.pfns[0]) // BLOCK
    refused("EINTR", mem.blocks[block].offline)
    assert within(owner.pfns, block) == 3
    owner.pinned = 0
    mem.blocks[block].offline()
    mem.validate()


def test_a_block_that_did_not_go_offline_is_used_last(mem):
    """Pages of one block are pinned. Expect its free pages at the end of the free lists when offlining it has failed: the rest
    of its block of the largest order comes first, all else from the other block (undo_isolate_page_range)."""
    mem.pcp = PerCpuPages(mem)
    owner = MovablePages(mem)
    owner.alloc(16)
    owner.pinned = 16
    block = int(owner.pfns[0]) // BLOCK
    refused("EINTR", mem.blocks[block].offline)
    mem.validate()
    other = fo.MovablePages(mem)
    other.alloc(8192)
    assert within(other.pfns, block) == 1008 and within(other.pfns, 65 - block) == 8192 - 1008
    mem.validate()


def test_pages_freed_while_isolated_merge_across_pageblocks(mem):
    """16 pages of a region are pinned, the others move before offlining fails. Expect the free blocks of a 6.12 kernel in S3d,
    step 5: as large as they can be (KERNEL.md 3.6)."""
    owner = MovablePages(mem)
    owner.alloc(1536)
    owner.pinned = 16
    refused("EINTR", mem.blocks[int(owner.pfns[0]) // BLOCK].offline)
    assert mem.zones["Movable"].nr_free == (0, 0, 0, 0, 2, 1, 1, 1, 1, 2, 61)
    mem.validate()


def test_a_page_that_somebody_takes_meanwhile(mem):
    """Another thread allocates a page of the block after it was looked at and before its free pages are isolated. Expect EBUSY
    naming that page, which stays in use, and the block online."""
    class Meddler(fo.MovablePages):
        @property
        def balloon(self):
            if not taken:
                mem.alloc_contig_range(block * BLOCK + 5000, 1)
                taken.append(block * BLOCK + 5000)
            return False
    taken = [0]
    owner = Meddler(mem)
    owner.alloc(10)
    block = int(owner.pfns[0]) // BLOCK
    taken.clear()
    with pytest.raises(fo.HotplugError, match=f"EBUSY.*page {block * BLOCK + 5000:#x} is in use"):
        mem.blocks[block].offline()
    assert mem.blocks[block].state == "online" and mem.page_flags(taken[0]) == "PG_prepared"
    assert len(owner) == 10 and within(owner.pfns, block) == 0
    mem.free_pfns(taken)
    mem.blocks[block].offline()
    mem.validate()


def test_put_back(mem):
    """A range is taken and given back, then one with a free page, and one in an allocation of two. Expect all of the first
    free, managed as before, the others refused with the page named."""
    before = mem.zones["Movable"].managed_pages, mem.buddyinfo()
    mem.alloc_contig_range(32 * BLOCK + 5, 3000)
    put_back(mem, np.arange(32 * BLOCK + 5, 32 * BLOCK + 3005))
    assert (mem.zones["Movable"].managed_pages, mem.buddyinfo()) == before
    with pytest.raises(ValueError, match=f"page {32 * BLOCK:#x} is not an allocation of order 0"):
        put_back(mem, np.array([32 * BLOCK]))
    pfn = mem.alloc_pages(1, "Movable")
    with pytest.raises(ValueError, match=f"page {pfn:#x}"):
        put_back(mem, np.arange(pfn, pfn + 2))
    mem.validate()


def test_balloon_pages_take_managed_along(mem):
    """KERNEL.md 7.14: one page for one page between the zones; the total does not change by moving."""
    mem.blocks[34].online("online_kernel")
    balloon = VirtioBalloon(mem)
    assert balloon.set_target(16384) == 16384
    total = mem.totalram_pages
    movable = mem.zones["Movable"]
    assert movable.managed_pages == 2 * BLOCK - 16384 and movable.present_pages == 2 * BLOCK
    block = int(balloon.pages.pfns[0]) // BLOCK
    mem.blocks[block].offline()
    assert movable.managed_pages == BLOCK - 16384 and mem.totalram_pages == total - BLOCK
    assert mem.stats()["balloon_migrated"] == 16384
    mem.validate()
    assert balloon.set_target(0) == 0
    assert movable.managed_pages == BLOCK == movable.free_pages
    for bad in (-1,):
        with pytest.raises(ValueError):
            balloon.set_target(bad)


def test_numa_pages_leave_the_node(engine):
    """KERNEL.md 7.14: where another node has memory, pages go there only."""
    mem = fo.Memory(fo.X86_64, "512M", rules=fo.LINUX_6_1, engine=engine)
    mem.add_memory(32 * BLOCK, 2 * BLOCK, nid=1)
    for nr in (32, 33):
        mem.blocks[nr].online("online_movable")
    owner = MovablePages(mem)
    owner.alloc(100, nid=1)
    block = int(owner.pfns[0]) // BLOCK
    mem.blocks[block].offline()
    assert all(mem.zone_of(pfn).nid == 0 for pfn in owner.pfns.tolist())
    mem.validate()


def test_alloc_is_all_or_nothing(mem):
    owner = MovablePages(mem)
    text = mem.buddyinfo()
    with pytest.raises(MemoryError):
        owner.alloc(10**7)
    assert len(owner) == 0 and mem.buddyinfo() == text
    with pytest.raises(ValueError):
        owner.give(1)


def test_a_process_frees_the_pages_it_wants(engine):
    """free_at: every third page, in another order. Expect those free, the others kept in their order, and nothing freed for an
    index that is not there or there twice."""
    mem = fo.Memory(fo.X86_64, "512M", engine=engine)
    owner = MovablePages(mem)
    owner.alloc(100)
    pfns = owner.pfns.copy()
    for wrong, error in (([0, 100], IndexError), ([5, 5], ValueError), ([-101], IndexError)):
        with pytest.raises(error):
            owner.free_at(wrong)
    assert np.array_equal(owner.pfns, pfns)
    chosen = np.arange(0, 100, 3)[::-1]
    owner.free_at(chosen)
    assert np.array_equal(owner.pfns, np.delete(pfns, chosen))
    assert all("PG_buddy" in mem.page_flags(pfn) for pfn in pfns[chosen].tolist())
    owner.free_at([-1])
    assert len(owner) == 100 - chosen.size - 1 and owner.pfns[-1] == pfns[97]
    owner.free_at(np.empty(0, np.int64))
    owner.free_at(range(len(owner)))
    assert len(owner) == 0 and owner not in mem.page_owners
    mem.validate()


def test_the_last_pages_take_the_places_of_those_that_are_freed(engine):
    """free_at without order: places in the middle and among the last four. Expect the others where they were, and the last
    ones, from the end on, in the places freed, the highest place first."""
    mem = fo.Memory(fo.X86_64, "512M", engine=engine)
    owner = MovablePages(mem)
    owner.alloc(10)
    pfns = owner.pfns.copy()
    owner.free_at([8, 1, -4, 2], ordered=False)      # 9 to 8, 8 (now 9) to 6, 7 to 2, and 6 (now 9) to 1
    assert owner.pfns.tolist() == pfns[[0, 9, 7, 3, 4, 5]].tolist()
    assert all("PG_buddy" in mem.page_flags(pfn) for pfn in pfns[[8, 1, 6, 2]].tolist())
    owner.free_at(range(6), ordered=False)
    assert len(owner) == 0 and owner not in mem.page_owners
    mem.validate()


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("meddle", [None, "adopt", "give"])
def test_pages_that_cannot_be_freed_are_at_their_places_again(engine, meddle, ordered):
    """The machine's hook raises while some pages are freed, from both ends and the middle. Expect the owner as it was; if the
    hook changed the owner, its pages at the end."""
    mem = fo.Memory(fo.X86_64, "512M", engine=engine)
    owner = MovablePages(mem)
    owner.alloc(100)
    other = mem.alloc_pages_bulk(7)
    before, chosen = owner.pfns.copy(), [-1, 50, 0, 1, 2, -30, 49]

    def hook(pfns, order):
        if meddle == "adopt":
            owner.adopt(other)
        elif meddle == "give":
            owner.give(5)
        raise KeyboardInterrupt
    mem.arch_free_page = hook
    with pytest.raises(KeyboardInterrupt):
        owner.free_at(chosen, ordered)
    left = np.delete(before, chosen)
    if not ordered:     # 93 to 98 fill the other places
        left = before[[93, 94, 95, *range(3, 49), 96, 97, *range(51, 70), 98, *range(71, 93)]]
    expected = {None: before, "adopt": np.concatenate([left, other, before[chosen]]),
                "give": np.concatenate([left[:-5], before[chosen]])}[meddle]
    assert np.array_equal(owner.pfns, expected) and owner in mem.page_owners
    mem.arch_free_page = None
    owner.free()
    assert owner not in mem.page_owners
    mem.validate()


@pytest.mark.parametrize("ordered", [True, False])
def test_free_at_whose_indices_are_changed_meanwhile(engine, ordered):
    """arch_free_page changes the caller's array and raises. Expect the owner to have its pages as before."""
    mem = fo.Memory(fo.X86_64, "128M", engine=engine)
    owner = MovablePages(mem)
    owner.alloc(20)
    before, indices = owner.pfns.tolist(), np.array([3, 1, 7])

    def hook(pfns, order):
        indices[:] = 0
        raise KeyboardInterrupt
    mem.arch_free_page = hook
    with pytest.raises(KeyboardInterrupt):
        owner.free_at(indices, ordered)
    assert owner.pfns.tolist() == before
    mem.validate()


def test_an_owner_needs_a_machine_and_cannot_go_offline(engine):
    """None instead of a Memory is a TypeError; whether pages are offline is decided when their owner is made."""
    mem = fo.Memory(fo.X86_64, boot="128M", engine=engine)
    with pytest.raises(TypeError, match="expected a fastonline.Memory, not None"):
        MovablePages(None)
    owner = MovablePages(mem)
    owner.alloc(10)
    with pytest.raises(AttributeError):
        owner.offline = True
    balloon = BalloonPages(mem)
    with pytest.raises(ValueError, match="cannot allocate pages that are in use"):
        balloon.alloc(1)
    mem.validate()
    assert len(owner) == 10 and not len(balloon)


# -- nothing but its owner takes a page away from an owner

@pytest.mark.parametrize("take, error", [
    (lambda mem, pfns: mem.free_pages(pfns[0]), ValueError),
    (lambda mem, pfns: mem.free_pfns(pfns), ValueError),
    (lambda mem, pfns: mem.set_page_reserved(pfns[0]), fo.HotplugError),
    (lambda mem, pfns: mem.set_page_reserved(pfns.min() - 1, 2), fo.HotplugError),
    (lambda mem, pfns: mem.set_pfns_reserved(pfns[:2]), fo.HotplugError),
    (lambda mem, pfns: mem.set_page_offline(pfns[0]), ValueError),
    (lambda mem, pfns: mem.set_pfns_offline(pfns[1:3]), ValueError),
    (lambda mem, pfns: put_back(mem, pfns[:1]), ValueError),
    (lambda mem, pfns: MovablePages(mem).adopt(pfns), ValueError),
    (lambda mem, pfns: mem.page_owners[0].moved([0], pfns[1:2]), ValueError),
    (lambda mem, pfns: mem.page_owners[0].moved([0, 0], pfns[1:2]), ValueError),
    (lambda mem, pfns: mem.page_owners[0].__init__(mem), RuntimeError),
    (lambda mem, pfns: pfns.__setitem__(0, 5), ValueError),
    (lambda mem, pfns: setattr(pfns.flags, "writeable", True), ValueError),
    (lambda mem, pfns: setattr(mem.page_owners[0], "pfns", pfns), AttributeError),
])
def test_others_cannot_take_pages_of_an_owner(mem, take, error):
    owner = MovablePages(mem)
    owner.alloc(10)
    before = owner.pfns.tolist()
    with pytest.raises(error):
        take(mem, owner.pfns)
    mem.validate()
    assert owner.pfns.tolist() == before
    owner.free()
    mem.validate()


def test_others_cannot_take_pages_of_a_balloon(mem):
    balloon = VirtioBalloon(mem)
    balloon.inflate(100)
    pfns = balloon.pages.pfns
    for take in (mem.clear_pfns_offline, mem.free_reserved_pfns, lambda pfns: mem.clear_page_offline(pfns[0])):
        with pytest.raises(ValueError, match="has an owner"):
            take(pfns)
    mem.validate()
    assert balloon.deflate(100) == 100
    mem.validate()


def test_an_owner_has_single_pages(mem):
    """Expect the first page of a block of eight to be refused."""
    block = mem.alloc_pages(3)
    owner = MovablePages(mem)
    with pytest.raises(ValueError, match="not a single page in use"):
        owner.adopt([block])
    assert not mem.page_owners


@pytest.mark.parametrize("do", [
    lambda mem, me, other, old: other.free(), lambda mem, me, other, old: other.free_at([0, 1]),
    lambda mem, me, other, old: me.free(), lambda mem, me, other, old: other.alloc(5),
    lambda mem, me, other, old: mem.free_pfns(old), lambda mem, me, other, old: other.adopt(old),
    lambda mem, me, other, old: mem.set_pfns_offline(old),
])
def test_what_a_callback_does_to_other_owners(mem, do):
    """Two owners have pages of a block in turn; on_move of the first changes what either has. Expect a valid machine, and each
    page in use to have its owner."""
    def moved(old, new):
        do(mem, owners[0], owners[1], old)
    owners = [MovablePages(mem, moved), MovablePages(mem)]
    for _ in range(20):
        for owner in owners:
            owner.alloc(7)
    with contextlib.suppress(ValueError):
        mem.blocks[int(owners[0].pfns[0]) // BLOCK].offline()
    mem.validate()
    movable = mem.zones["Movable"]
    assert movable.managed_pages - movable.free_pages == len(owners[0]) + len(owners[1])
    for owner in owners:
        owner.free()
    assert movable.managed_pages == movable.free_pages
