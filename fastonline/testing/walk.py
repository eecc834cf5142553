"""A random walk for hypothesis over everything that a machine can do."""

import os
import pickle
import tempfile

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastonline.hotplug.memory import Memory, load
from fastonline.rules import LINUX_6_12
from fastonline.testing.geometries import SMALL_64
from fastonline.testing.reference import FREE, HEAD, OFFLINE, WAITING, Reference

ANY = st.integers(0, 10**6)      # made into a pfn, a length or an index by what the machine looks like


def answer(call, *args):
    """Return the result of a call, or its error: an errno or the name of the exception."""
    try:
        return call(*args)
    except (OSError, ValueError, MemoryError) as e:
        return type(e).__name__ if not isinstance(e, OSError) else ("refused", e.errno)
    except Exception as e:    # the reference's own Refused carries an errno too
        if not hasattr(e, "errno"):
            raise
        return ("refused", e.errno)


def agree(same, what="the machines differ"):
    """Raise AssertionError unless `same`; unlike assert, under python -O too."""
    if not same:
        raise AssertionError(what)


class Walk(RuleBasedStateMachine):
    """A hypothesis state machine: one random walk over the whole API, on Memory's two engines and the slow Reference at once.

    After each step all must agree on every page, memory block, count and error, and each `Memory` must find itself valid. Set
    `geometry` and `kernel` (a `Rules`) in a subclass, and `sections_per_block` for larger memory blocks.

    `subjects(boot)` may return further machines of your own, made with `boot` bytes of boot memory: each rule calls the same
    method on them with the same arguments, and `check(subject)` compares one with the reference after each step. A rule whose
    method one of them lacks is skipped. Batches of pfns reach them as lists of int, allocations as
    `alloc_contig_range(pfn, nr)`, memory blocks as `online_block(nr, word)` and `offline_block(nr)`.

    Watermarks are compared in a step of their own: under 2.6.25 `Memory` computes them when they are read, and reading must
    change nothing.
    """

    geometry = SMALL_64
    kernel = LINUX_6_12
    sections_per_block = 1

    def subjects(self, boot):
        """Return further machines to walk along: a list, empty here."""
        return []

    def check(self, subject):
        """Compare one of `subjects()` with `self.ref`; raise AssertionError where they differ."""
        agree(first_difference(subject, self.ref) is None, subject)

    @initialize(boot=st.integers(0, 3), odd=st.booleans())
    def start(self, boot, odd):
        unit = self.geometry.pages_per_section
        pages = boot * unit // 2 + (unit // 2 if odd and boot else 0)
        size = pages * self.geometry.page_size
        self.bitmap, self.struct = (
            Memory(self.geometry, boot=size, rules=self.kernel, engine=engine,
                   memory_block_size=self.sections_per_block * self.geometry.section_size)
            for engine in ("bitmap", "struct_page")
        )
        self.ref = Reference(self.geometry, self.kernel, pages, sections_per_block=self.sections_per_block)
        self.others = self.subjects(size)

    def can(self, *names):
        """Return whether all further machines have these methods."""
        return all(hasattr(other, name) for other in self.others for name in names)

    def call_all(self, name, *args):
        """Call a method on every machine. All results must be equal."""
        if not self.can(name):
            return None
        expected = answer(getattr(self.ref, name), *args)
        for mem in (self.bitmap, self.struct, *self.others):
            got = answer(getattr(mem, name), *args)
            agree(got == expected, f"{name}{args}: {mem} returned {got}, the reference {expected}")
        return expected

    def pick(self, n, states=None):
        """Return a pfn of a page in one of the states, or any pfn up to a section past the end of memory."""
        if states is not None:
            pfns = sorted(p for p, s in self.ref.state.items() if s in states)
            return pfns[n % len(pfns)] if pfns else 0
        return n % (self.geometry.max_pfn + self.geometry.pages_per_section)

    def aligned(self, n, nr, fine):
        """Return a range of whole sections (fine: of pageblocks), most often inside memory."""
        unit = self.geometry.pages_per_section if not fine else 1 << self.geometry.pageblock_order
        return n * unit % (self.geometry.max_pfn + unit), (nr % 3 + (1 if nr % 7 else 0)) * unit

    def block_ending_with_its_section(self, n, keep):
        """Return a range that begins at some pageblock and ends with the section."""
        unit, block = self.geometry.pages_per_section, 1 << self.geometry.pageblock_order
        section = n % self.geometry.nr_mem_sections * unit
        skip = keep % (unit // block) * block
        return section + skip, unit - skip

    # -- adding, onlining, offlining

    @rule(n=ANY, nr=ANY, nid=st.sampled_from((0, 0, 1)))
    def add(self, n, nr, nid):
        self.call_all("add_memory", *self.aligned(n, nr, False), nid)

    @rule(n=ANY, nr=st.integers(0, 300))
    def add_anything(self, n, nr):
        self.call_all("add_memory", self.pick(n), nr)

    @rule(n=ANY, nr=ANY)
    def remove(self, n, nr):
        self.call_all("remove_memory", *self.aligned(n, nr, False))

    @rule(n=ANY, nr=ANY, kind=st.integers(1, 3))
    def prepare(self, n, nr, kind):
        self.call_all("prepare_online_pages", *self.aligned(n, nr, False), kind)

    @rule(n=ANY, keep=ANY, kind=st.integers(1, 3))
    def prepare_part(self, n, keep, kind):
        self.call_all("prepare_online_pages", *self.block_ending_with_its_section(n, keep), kind)

    @rule(n=ANY, nr=st.integers(0, 300))
    def prepare_anything(self, n, nr):
        self.call_all("prepare_online_pages", self.pick(n), nr)

    @rule(n=ANY, nr=ANY, kind=st.integers(1, 3))
    def online(self, n, nr, kind):
        self.call_all("online_pages", *self.aligned(n, nr, False), kind)

    @rule(n=ANY, nr=st.integers(0, 300))
    def online_anything(self, n, nr):
        self.call_all("online_pages", self.pick(n), nr)

    @rule(n=ANY, nr=ANY)
    def offline(self, n, nr):
        self.call_all("offline_pages", *self.aligned(n, nr, False))

    @rule(n=ANY, keep=ANY)
    def offline_part(self, n, keep):
        self.call_all("offline_pages", *self.block_ending_with_its_section(n, keep))

    @rule(n=ANY, nr=ANY)
    def offline_pageblocks(self, n, nr):
        self.call_all("offline_pages", *self.aligned(n, nr, True))

    # -- memory blocks

    @rule(n=ANY, nr=ANY, nid=st.sampled_from((0, 0, 1)))
    def add_blocks(self, n, nr, nid):
        self.call_all("add_memory", *self.whole_blocks(n, nr), nid)

    @rule(n=ANY, nr=ANY)
    def remove_blocks(self, n, nr):
        self.call_all("remove_memory", *self.whole_blocks(n, nr))

    @rule(n=ANY, word=st.sampled_from(("online", "online_kernel", "online_movable")))
    def online_block(self, n, word):
        self.call_block(n, "online", word)

    @rule(n=ANY)
    def offline_block(self, n):
        self.call_block(n, "offline")

    def whole_blocks(self, n, nr):
        block = self.sections_per_block * self.geometry.pages_per_section
        return n * block % self.geometry.max_pfn, (nr % 2 + 1) * block

    def call_block(self, n, verb, *args):
        """Call mem.blocks[nr].verb(*args) on a present memory block."""
        blocks = list(self.ref.block_states())
        if not blocks or not self.can(f"{verb}_block"):
            return
        nr = blocks[n % len(blocks)]
        expected = answer(getattr(self.ref, f"{verb}_block"), nr, *args)
        for mem in (self.bitmap, self.struct):
            got = answer(getattr(mem.blocks[nr], verb), *args)
            agree(got == expected, f"memory{nr}.{verb}{args}: {mem} returned {got}, the reference {expected}")
        for other in self.others:
            agree(answer(getattr(other, f"{verb}_block"), nr, *args) == expected, other)

    # -- marking

    @rule(n=ANY, nr=st.integers(0, 600), order=st.none() | st.integers(0, 6))
    def mark(self, n, nr, order):
        self.call_all("mark_pages_onlined", self.pick(n, (WAITING,)), nr, order)

    @rule(n=ANY, nr=st.integers(1, 40))
    def mark_anything(self, n, nr):
        self.call_all("mark_pages_onlined", self.pick(n), nr)

    @rule(n=ANY)
    def mark_one(self, n):
        self.call_all("mark_pages_onlined", self.pick(n, (WAITING,)))

    @rule(
        n=ANY, picks=st.lists(st.integers(0, 400), max_size=40, unique=True),
        width=st.sampled_from((np.uint32, np.int64, np.uint64, list)),
    )
    def mark_pfns(self, n, picks, width):
        first = self.pick(n, (WAITING,))
        pfns = [first + p for p in picks]
        given = pfns if width is list else np.array(pfns, width)
        if not self.can("mark_pfns_onlined"):
            return
        expected = answer(self.ref.mark_pfns_onlined, pfns)
        for mem, pfns in ((self.bitmap, given), (self.struct, given), *((other, pfns) for other in self.others)):
            agree(answer(mem.mark_pfns_onlined, pfns) == expected)

    @rule(n=ANY, nr=st.integers(1, 2), seed=st.integers(0, 5))
    def mark_section_in_random_order(self, n, nr, seed):
        unit = self.geometry.pages_per_section
        first = self.pick(n, (WAITING,)) // unit * unit
        pfns = np.random.default_rng(seed).permutation(np.arange(first, first + nr * unit // 2))
        if not self.can("mark_pfns_onlined"):
            return
        expected = answer(self.ref.mark_pfns_onlined, pfns.tolist())
        for mem in (self.bitmap, self.struct):
            agree(answer(mem.mark_pfns_onlined, pfns) == expected)
        for mem in self.others:
            agree(answer(mem.mark_pfns_onlined, pfns.tolist()) == expected)

    # -- reserving, going to the host and coming back

    @rule(n=ANY, nr=st.integers(0, 100))
    def reserve(self, n, nr):
        self.call_all("set_page_reserved", self.pick(n, (FREE, HEAD, OFFLINE)), nr)

    @rule(n=ANY, nr=st.integers(1, 5))
    def reserve_anything(self, n, nr):
        self.call_all("set_page_reserved", self.pick(n), nr)

    @rule(n=ANY, nr=st.integers(1, 9))
    def give_to_host(self, n, nr):
        self.call_all("set_page_offline", self.pick(n, (HEAD,)), nr)

    @rule(n=ANY, nr=st.integers(1, 9))
    def take_from_host(self, n, nr):
        self.call_all("clear_page_offline", self.pick(n, (OFFLINE,)), nr)

    # -- allocating

    @rule(n=ANY, nr=st.integers(0, 80))
    def alloc_range(self, n, nr):
        self.call_all("alloc_contig_range", self.pick(n, (FREE,)), nr)

    @rule(zone=st.sampled_from(("DMA", "Normal", "Movable")), times=st.integers(1, 5))
    def alloc(self, zone, times):
        """Allocate a page with struct_page, whose order is the kernel's, and the same page on the others."""
        for _ in range(times if self.can("alloc_contig_range") else 0):
            pfn = answer(self.struct.alloc_pages, 0, zone)
            if isinstance(pfn, str):
                agree(answer(self.bitmap.alloc_pages, 0, zone) == pfn == "MemoryError")
                agree(self.ref.smallest_fit(self.ref.zones[0, zone], 0) is None)
                return
            for mem in (self.bitmap, *self.others):
                mem.alloc_contig_range(pfn, 1)
            self.ref.alloc(pfn)

    @rule(zone=st.sampled_from(("DMA", "Normal", "Movable")), order=st.integers(0, 13))
    def alloc_block(self, zone, order):
        """If exactly one block is the smallest that fits, both engines must take its lowest part. Otherwise each allocates on a
        copy of its own, and the counts are compared."""
        if not self.can("alloc_pages"):
            return
        order %= self.geometry.max_page_order + 1
        there = self.ref.zones[0, zone]
        k = self.ref.smallest_fit(there, order)
        if k is not None and len(there.blocks[k]) == 1:
            pfn = self.struct.alloc_pages(order, zone)
            agree(self.bitmap.alloc_pages(order, zone) == pfn)
            self.ref.alloc(pfn, order)
            for mem in self.others:
                agree(mem.alloc_pages(order, zone) == pfn, mem)
            return
        copies = [self.bitmap.copy(), self.struct.copy()]
        answers = [answer(mem.alloc_pages, order, zone) for mem in copies]
        agree(("MemoryError" in answers) == (k is None) and (k is not None or answers[0] == answers[1]))
        self.compare_copies(copies)

    @rule(zone=st.sampled_from(("Normal", "Movable", None)), order=st.integers(0, 4), nr=st.integers(0, 60))
    def alloc_bulk_on_copies(self, zone, order, nr):
        copies = [self.bitmap.copy(), self.struct.copy()]
        answers = [answer(mem.alloc_pages_bulk, nr, order, zone) for mem in copies]
        if isinstance(answers[0], str) or isinstance(answers[1], str):
            agree(answers[0] == answers[1] == "MemoryError")
        for mem, pfns in zip(copies, answers, strict=True):
            if not isinstance(pfns, str):
                one_by_one = (self.bitmap if mem is copies[0] else self.struct).copy()
                agree(pfns.tolist() == [one_by_one.alloc_pages(order, zone) for _ in range(nr)])
                agree(one_by_one.stats()["splits"] == mem.stats()["splits"])
        self.compare_copies(copies)

    def compare_copies(self, copies):
        for mem in copies:
            mem.validate()
        agree(copies[0].buddyinfo() == copies[1].buddyinfo())
        agree(without_bytes(copies[0]) == without_bytes(copies[1]))

    @rule(n=ANY, order=st.integers(0, 6))
    def free(self, n, order):
        self.call_all("free_pages", self.pick(n, (HEAD,)), order)

    @rule(n=ANY)
    def free_an_allocation(self, n):
        pfn = self.pick(n, (HEAD,))
        order = 0
        while self.ref.state.get(pfn + (1 << order)) == "in use, not the first":
            order += 1
        self.call_all("free_pages", pfn, order)

    @rule(n=ANY, order=st.integers(0, 3))
    def free_anything(self, n, order):
        self.call_all("free_pages", self.pick(n), order)

    @rule(n=ANY, nr=st.integers(0, 60), step=st.integers(1, 3))
    def free_pfns(self, n, nr, step):
        pfns = [p for p in sorted(p for p, s in self.ref.state.items() if s == HEAD) if p >= self.pick(n, (HEAD,))][:nr:step]
        if not self.can("free_pfns"):
            return
        expected = answer(self.ref.free_pfns, pfns)
        for mem in (self.bitmap, self.struct):
            agree(answer(mem.free_pfns, np.array(pfns, np.int64)) == expected)
        for mem in self.others:
            agree(answer(mem.free_pfns, pfns) == expected)

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
            agree(mem.min_free_kbytes == self.ref.min_free_kbytes)
            for key, zone in mem.zones.items():
                ref = self.ref.zones[key]
                agree((zone.min, zone.low, zone.high) == (ref.min, ref.low, ref.high), (mem.engine, key))
                agree(list(zone.protection) == ref.protection, (mem.engine, key))

    def teardown(self):
        if hasattr(self, "ref"):
            self.look_at_watermarks()

    @invariant()
    @precondition(lambda self: hasattr(self, "ref"))
    def same_and_valid(self):
        for other in self.others:
            self.check(other)
        stats, states = self.ref.stats(), states_of(self.ref)
        for mem in (self.bitmap, self.struct):
            mem.validate()
            agree(first_difference(mem, self.ref, states) is None, mem.engine)
            agree(mem.buddyinfo() == self.ref.buddyinfo())
            agree({k: v for k, v in mem.stats().items() if k in stats} == stats, mem.engine)
            agree((mem.totalram_pages, mem.totalhigh_pages) == self.ref.totals(), mem.engine)
            agree(list(mem.nodes) == sorted(self.ref.online_nodes))
            online = {n for n in range(self.geometry.nr_mem_sections) if mem.sections.online_section_nr(n)}
            agree(online == self.ref.online_sections)
            agree({nr: block.state for nr, block in mem.blocks.items()} == self.ref.block_states(), mem.engine)
            for key, zone in mem.zones.items():
                ref = self.ref.zones[key]
                agree((zone.start_pfn, zone.spanned_pages) == (ref.start, ref.spanned), (mem.engine, key))
                agree((zone.present_pages, zone.managed_pages) == (self.ref.present(ref), ref.managed), (mem.engine, key))
                agree(zone.nr_free == ref.nr_free)
            for nid, node in mem.nodes.items():
                agree((node.start_pfn, node.spanned_pages) == self.ref.node_span[nid])


def states_of(ref):
    """Return what the reference says of every page, as Memory.page_states does."""
    return np.array(ref.page_states(0, ref.geometry.max_pfn), np.uint8)


def first_difference(mem, ref, states=None):
    """Return (pfn, state in the engine, state in the reference) of the first page that differs, or None. states: states_of(ref)
    where it is known."""
    ours, theirs = mem.page_states(0, ref.geometry.max_pfn), states_of(ref) if states is None else states
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
        return load(path)
    finally:
        os.unlink(path)
