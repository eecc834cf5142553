"""One random walk over the whole contract, on the bitmap engine, the struct_page engine and the plain reference at once.

After each step the three must agree on every page, count and error, and both engines must find themselves valid. Watermarks are
compared in a step of their own: under 2.6.25 fastonline computes them when somebody looks, and looking must change nothing.
"""

import os
import pickle
import tempfile

import numpy as np
import pytest
from conftest import SMALL_64, SMALL_64K, SMALL_ORDER_7, SMALL_PAE
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from reference import FREE, HEAD, OFFLINE, WAITING, Reference

import fastonline as fo

ANY = st.integers(0, 10**6)      # made into a pfn, a length or an index by what the machine looks like


def answer(call, *args):
    """What a call returns, or how it is refused: an errno, or the name of the exception."""
    try:
        return call(*args)
    except (OSError, ValueError, MemoryError) as e:
        return type(e).__name__ if not isinstance(e, OSError) else ("refused", e.errno)
    except Exception as e:    # the reference's own Refused carries an errno too
        if not hasattr(e, "errno"):
            raise
        return ("refused", e.errno)


class Machine(RuleBasedStateMachine):
    geometry = SMALL_64
    kernel = fo.LINUX_6_12

    @initialize(boot=st.integers(0, 3), odd=st.booleans())
    def start(self, boot, odd):
        unit = self.geometry.pages_per_section
        pages = boot * unit // 2 + (unit // 2 if odd and boot else 0)
        size = pages * self.geometry.page_size
        self.bitmap = fo.Memory(self.geometry, boot=size, rules=self.kernel, engine="bitmap")
        self.struct = fo.Memory(self.geometry, boot=size, rules=self.kernel, engine="struct_page")
        self.ref = Reference(self.geometry, self.kernel, pages)

    def all_three(self, name, *args):
        """Call it on all three; the answers must be the same."""
        expected = answer(getattr(self.ref, name), *args)
        for mem in (self.bitmap, self.struct):
            got = answer(getattr(mem, name), *args)
            assert got == expected, f"{name}{args}: {mem.engine} says {got}, the reference {expected}"
        return expected

    def pick(self, n, states=None):
        """A pfn: of a page in one of the states, or anywhere up to a section past the end of memory."""
        if states is not None:
            pfns = sorted(p for p, s in self.ref.state.items() if s in states)
            return pfns[n % len(pfns)] if pfns else 0
        return n % (self.geometry.max_pfn + self.geometry.pages_per_section)

    def aligned(self, n, nr, fine):
        """A range of whole sections (fine: of pageblocks), most often inside memory."""
        unit = self.geometry.pages_per_section if not fine else 1 << self.geometry.pageblock_order
        return n * unit % (self.geometry.max_pfn + unit), (nr % 3 + (1 if nr % 7 else 0)) * unit

    def block_ending_with_its_section(self, n, keep):
        """A range that begins at some pageblock and ends with the section."""
        unit, block = self.geometry.pages_per_section, 1 << self.geometry.pageblock_order
        section = n % self.geometry.nr_mem_sections * unit
        skip = keep % (unit // block) * block
        return section + skip, unit - skip

    # -- adding, onlining, offlining

    @rule(n=ANY, nr=ANY, nid=st.sampled_from((0, 0, 1)))
    def add(self, n, nr, nid):
        self.all_three("add_memory", *self.aligned(n, nr, False), nid)

    @rule(n=ANY, nr=st.integers(0, 300))
    def add_anything(self, n, nr):
        self.all_three("add_memory", self.pick(n), nr)

    @rule(n=ANY, nr=ANY)
    def remove(self, n, nr):
        self.all_three("remove_memory", *self.aligned(n, nr, False))

    @rule(n=ANY, nr=ANY, kind=st.integers(1, 3))
    def prepare(self, n, nr, kind):
        self.all_three("prepare_online_pages", *self.aligned(n, nr, False), kind)

    @rule(n=ANY, keep=ANY, kind=st.integers(1, 3))
    def prepare_part(self, n, keep, kind):
        self.all_three("prepare_online_pages", *self.block_ending_with_its_section(n, keep), kind)

    @rule(n=ANY, nr=st.integers(0, 300))
    def prepare_anything(self, n, nr):
        self.all_three("prepare_online_pages", self.pick(n), nr)

    @rule(n=ANY, nr=ANY, kind=st.integers(1, 3))
    def online(self, n, nr, kind):
        self.all_three("online_pages", *self.aligned(n, nr, False), kind)

    @rule(n=ANY, nr=st.integers(0, 300))
    def online_anything(self, n, nr):
        self.all_three("online_pages", self.pick(n), nr)

    @rule(n=ANY, nr=ANY)
    def offline(self, n, nr):
        self.all_three("offline_pages", *self.aligned(n, nr, False))

    @rule(n=ANY, keep=ANY)
    def offline_part(self, n, keep):
        self.all_three("offline_pages", *self.block_ending_with_its_section(n, keep))

    @rule(n=ANY, nr=ANY)
    def offline_pageblocks(self, n, nr):
        self.all_three("offline_pages", *self.aligned(n, nr, True))

    # -- marking

    @rule(n=ANY, nr=st.integers(0, 600), order=st.none() | st.integers(0, 6))
    def mark(self, n, nr, order):
        self.all_three("mark_pages_onlined", self.pick(n, (WAITING,)), nr, order)

    @rule(n=ANY, nr=st.integers(1, 40))
    def mark_anything(self, n, nr):
        self.all_three("mark_pages_onlined", self.pick(n), nr)

    @rule(n=ANY)
    def mark_one(self, n):
        self.all_three("mark_pages_onlined", self.pick(n, (WAITING,)))

    @rule(n=ANY, picks=st.lists(st.integers(0, 400), max_size=40, unique=True), width=st.sampled_from((np.uint32, np.int64, np.uint64, list)))
    def mark_pfns(self, n, picks, width):
        first = self.pick(n, (WAITING,))
        pfns = [first + p for p in picks]
        given = pfns if width is list else np.array(pfns, width)
        expected = answer(self.ref.mark_pfns_onlined, pfns)
        for mem in (self.bitmap, self.struct):
            assert answer(mem.mark_pfns_onlined, given) == expected

    @rule(n=ANY, nr=st.integers(1, 2), seed=st.integers(0, 5))
    def mark_section_in_random_order(self, n, nr, seed):
        unit = self.geometry.pages_per_section
        first = self.pick(n, (WAITING,)) // unit * unit
        pfns = np.random.default_rng(seed).permutation(np.arange(first, first + nr * unit // 2))
        expected = answer(self.ref.mark_pfns_onlined, pfns.tolist())
        for mem in (self.bitmap, self.struct):
            assert answer(mem.mark_pfns_onlined, pfns) == expected

    # -- reserving, going to the host and coming back

    @rule(n=ANY, nr=st.integers(0, 100))
    def reserve(self, n, nr):
        self.all_three("set_page_reserved", self.pick(n, (FREE, HEAD, OFFLINE)), nr)

    @rule(n=ANY, nr=st.integers(1, 5))
    def reserve_anything(self, n, nr):
        self.all_three("set_page_reserved", self.pick(n), nr)

    @rule(n=ANY, nr=st.integers(1, 9))
    def give_to_host(self, n, nr):
        self.all_three("set_page_offline", self.pick(n, (HEAD,)), nr)

    @rule(n=ANY, nr=st.integers(1, 9))
    def take_from_host(self, n, nr):
        self.all_three("clear_page_offline", self.pick(n, (OFFLINE,)), nr)

    # -- allocating

    @rule(n=ANY, nr=st.integers(0, 80))
    def alloc_range(self, n, nr):
        self.all_three("alloc_contig_range", self.pick(n, (FREE,)), nr)

    @rule(zone=st.sampled_from(("DMA", "Normal", "Movable")), times=st.integers(1, 5))
    def alloc(self, zone, times):
        """struct_page, whose order is the kernel's, says which page; the others take the same one."""
        for _ in range(times):
            pfn = answer(self.struct.alloc_pages, 0, zone)
            if isinstance(pfn, str):
                assert answer(self.bitmap.alloc_pages, 0, zone) == pfn == "MemoryError"
                assert self.ref.smallest_fit(self.ref.zones[0, zone], 0) is None
                return
            self.bitmap.alloc_contig_range(pfn, 1)
            self.ref.alloc(pfn)

    @rule(zone=st.sampled_from(("DMA", "Normal", "Movable")), order=st.integers(0, 13))
    def alloc_block(self, zone, order):
        """Where one block alone is the smallest that fits, both engines must take it, and its lowest part; else each allocates
        on a copy of its own and the counts are compared."""
        order %= self.geometry.max_page_order + 1
        there = self.ref.zones[0, zone]
        k = self.ref.smallest_fit(there, order)
        if k is not None and len(there.blocks[k]) == 1:
            pfn = self.struct.alloc_pages(order, zone)
            assert self.bitmap.alloc_pages(order, zone) == pfn
            self.ref.alloc(pfn, order)
            return
        copies = [self.bitmap.copy(), self.struct.copy()]
        answers = [answer(mem.alloc_pages, order, zone) for mem in copies]
        assert ("MemoryError" in answers) == (k is None) and (k is not None or answers[0] == answers[1])
        self.compare_copies(copies)

    @rule(zone=st.sampled_from(("Normal", "Movable", None)), order=st.integers(0, 4), nr=st.integers(0, 60))
    def alloc_bulk_on_copies(self, zone, order, nr):
        copies = [self.bitmap.copy(), self.struct.copy()]
        answers = [answer(mem.alloc_pages_bulk, nr, order, zone) for mem in copies]
        if isinstance(answers[0], str) or isinstance(answers[1], str):
            assert answers[0] == answers[1] == "MemoryError"
        for mem, pfns in zip(copies, answers, strict=True):
            if not isinstance(pfns, str):
                one_by_one = (self.bitmap if mem is copies[0] else self.struct).copy()
                assert pfns.tolist() == [one_by_one.alloc_pages(order, zone) for _ in range(nr)]
                assert one_by_one.stats()["splits"] == mem.stats()["splits"]
        self.compare_copies(copies)

    def compare_copies(self, copies):
        for mem in copies:
            mem.validate()
        assert copies[0].buddyinfo() == copies[1].buddyinfo()
        assert without_bytes(copies[0]) == without_bytes(copies[1])

    @rule(n=ANY, order=st.integers(0, 6))
    def free(self, n, order):
        self.all_three("free_pages", self.pick(n, (HEAD,)), order)

    @rule(n=ANY)
    def free_an_allocation(self, n):
        pfn = self.pick(n, (HEAD,))
        order = 0
        while self.ref.state.get(pfn + (1 << order)) == "in use, not the first":
            order += 1
        self.all_three("free_pages", pfn, order)

    @rule(n=ANY, order=st.integers(0, 3))
    def free_anything(self, n, order):
        self.all_three("free_pages", self.pick(n), order)

    @rule(n=ANY, nr=st.integers(0, 60), step=st.integers(1, 3))
    def free_pfns(self, n, nr, step):
        pfns = [p for p in sorted(p for p, s in self.ref.state.items() if s == HEAD) if p >= self.pick(n, (HEAD,))][:nr:step]
        expected = answer(self.ref.free_pfns, pfns)
        for mem in (self.bitmap, self.struct):
            assert answer(mem.free_pfns, np.array(pfns, np.int64)) == expected

    # -- copies and looks

    @rule(how=st.sampled_from(("copy", "pickle", "save")))
    def go_on_with_a_copy(self, how):
        self.bitmap, self.struct = (through(how, mem) for mem in (self.bitmap, self.struct))

    @rule(kbytes=st.sampled_from((0, 64, 200, 5000)))
    def write_min_free_kbytes(self, kbytes):
        self.ref.set_min_free_kbytes(kbytes)
        self.bitmap.min_free_kbytes = self.struct.min_free_kbytes = kbytes

    @rule()
    def look_at_watermarks(self):
        for mem in (self.bitmap, self.struct):
            assert mem.min_free_kbytes == self.ref.min_free_kbytes
            for key, zone in mem.zones.items():
                ref = self.ref.zones[key]
                assert (zone.min, zone.low, zone.high) == (ref.min, ref.low, ref.high), (mem.engine, key)
                assert list(zone.protection) == ref.protection, (mem.engine, key)

    def teardown(self):
        if hasattr(self, "ref"):
            self.look_at_watermarks()

    @invariant()
    @precondition(lambda self: hasattr(self, "ref"))
    def same_and_valid(self):
        stats = self.ref.stats()
        for mem in (self.bitmap, self.struct):
            mem.validate()
            assert first_difference(mem, self.ref) is None, mem.engine
            assert mem.buddyinfo() == self.ref.buddyinfo()
            assert {k: v for k, v in mem.stats().items() if k in stats} == stats, mem.engine
            assert (mem.totalram_pages, mem.totalhigh_pages) == self.ref.totals(), mem.engine
            assert list(mem.nodes) == sorted(self.ref.online_nodes)
            assert {n for n in range(self.geometry.nr_mem_sections) if mem.sections.online_section_nr(n)} == self.ref.online_sections
            for key, zone in mem.zones.items():
                ref = self.ref.zones[key]
                assert (zone.start_pfn, zone.spanned_pages) == (ref.start, ref.spanned), (mem.engine, key)
                assert (zone.present_pages, zone.managed_pages) == (self.ref.present(ref), ref.managed), (mem.engine, key)
                assert zone.nr_free == ref.nr_free
            for nid, node in mem.nodes.items():
                assert (node.start_pfn, node.spanned_pages) == self.ref.node_span[nid]


def first_difference(mem, ref):
    """(pfn, the engine's state, the reference's) of the first page they see differently, or None."""
    nr = ref.geometry.max_pfn
    ours, theirs = mem.page_states(0, nr), np.array(ref.page_states(0, nr), np.uint8)
    if np.array_equal(ours, theirs):
        return None
    pfn = int(np.flatnonzero(ours != theirs)[0])
    return pfn, mem.page_flags(pfn), ref.state.get(pfn)


def without_bytes(mem):
    return {k: v for k, v in mem.stats().items() if k != "bytes_touched"}


def through(how, mem):
    if how == "copy":
        return mem.copy()
    if how == "pickle":
        return pickle.loads(pickle.dumps(mem))
    handle, path = tempfile.mkstemp()
    os.close(handle)
    try:
        mem.save(path)
        return fo.load(path)
    finally:
        os.unlink(path)


WALKS = [
    (SMALL_64, fo.LINUX_6_12, 80), (SMALL_64, fo.LINUX_6_1, 40), (SMALL_64, fo.LINUX_2_6_25, 60), (SMALL_PAE, fo.LINUX_2_6_25, 60),
    (SMALL_PAE, fo.LINUX_6_1, 30), (SMALL_ORDER_7, fo.LINUX_6_12, 60), (SMALL_ORDER_7, fo.LINUX_2_6_25, 30),
    (SMALL_64K, fo.LINUX_6_12, 6),
]


@pytest.mark.parametrize("geometry, rules, examples", WALKS, ids=[f"{g.name}-{r.name}" for g, r, _ in WALKS])
def test_engines_and_reference_agree(geometry, rules, examples):
    walk = type(f"{geometry.name}_{rules.name}", (Machine,), {"geometry": geometry, "kernel": rules})
    run_state_machine_as_test(walk, settings=settings(max_examples=examples, stateful_step_count=30))
