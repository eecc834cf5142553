"""Memory blocks: the units in which sysfs shows memory, and the words written to them (drivers/base/memory.c)."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from fastonline.core.pageflags import PG_reserved
from fastonline.core.runs import range_list
from fastonline.errors import HotplugError, is_number
from fastonline.hotplug.interruptible import exclusive
from fastonline.hotplug.migrate import first_unmovable
from fastonline.hotplug.offlining import memory_block_offline
from fastonline.hotplug.onlining import memory_block_online
from fastonline.hotplug.section_states import block_nid, block_online, block_present
from fastonline.hotplug.zone_ranges import valid_zones
from fastonline.rules import Rules

if TYPE_CHECKING:
    from fastonline.hotplug.memory import Memory

MMOP_OFFLINE = 0
MMOP_ONLINE = 1
MMOP_ONLINE_KERNEL = 2
MMOP_ONLINE_MOVABLE = 3

WORDS = ("offline", "online", "online_kernel", "online_movable")
_TRUE = ("y", "Y", "t", "T", "1", "on", "oN", "On", "ON")
_FALSE = ("n", "N", "f", "F", "0", "of", "oF", "Of", "OF")


def word_to_type(word: str, rules: Rules) -> int:
    """MMOP_* of a word as it is written to a file of sysfs: HotplugError EINVAL for what is none.

    6.1: the whole word up to a NUL, with at most one newline behind (sysfs_streq); 2.6.25 compares as many letters as it was
    given with "online", then with "offline", and not beyond their ends, so that "o" and "onlineXYZ" are online (KERNEL.md 1.5).
    """
    if not isinstance(word, str):
        raise TypeError(f"a value for sysfs must be text, not {word!r}")
    if rules.exact_words:
        bare = word.partition("\0")[0].removesuffix("\n")
        if bare in WORDS:
            return WORDS.index(bare)
    else:
        for kind in ("online", "offline"):
            letters = min(len(word), len(kind))
            if letters and word[:letters] == kind[:letters]:
                return WORDS.index(kind)
    raise HotplugError.of(errno.EINVAL, f"invalid online type {word!r} (expected {', '.join(WORDS)})")


def text_to_bool(text: str) -> bool:
    """kstrtobool: y, t, 1, on, n, f, 0, off by their first letters; HotplugError EINVAL for anything else."""
    for value, starts in ((True, _TRUE), (False, _FALSE)):
        if text.startswith(starts):
            return value
    raise HotplugError.of(errno.EINVAL, f"invalid boolean {text!r} (expected 1, y, t, on, 0, n, f or off)")


class Block:
    """One memory block, live: every attribute is read from the machine when asked for. nr: its number, the N of memoryN."""

    __slots__ = ("_mem", "nr")

    def __init__(self, mem: Memory, nr: int) -> None:
        self._mem = mem
        self.nr = nr

    def __repr__(self) -> str:
        last = self.start_pfn + self.nr_pages - 1
        return f"<Block memory{self.nr} {self.start_pfn:#x}-{last:#x} {self.state} {self.valid_zones}>"

    @property
    def start_pfn(self) -> int:
        """The block's first page frame."""
        return self.nr * self._mem.pages_per_block

    @property
    def nr_pages(self) -> int:
        """Its pages."""
        return self._mem.pages_per_block

    @property
    def phys_index(self) -> str:
        """The text of the phys_index file: the block's number, eight hex digits."""
        return f"{self.nr:08x}"

    @property
    def state(self) -> str:
        """``"online"``, ``"offline"``, or ``"going-offline"`` for the callbacks of an offline_pages that takes the block, until
        it is done, MEM_OFFLINE included (memory_block_change_state).

        It is one state for all sections of the block (mem->state). The block is online as soon as a page of it goes online, and
        offline when no section of it is online any more. Under blocks_unaware (2.6.25, KERNEL.md 1.5) marks do not change it:
        only online_pages over the whole block does. A block that is online in part answers online() with EINVAL, as any online
        block, and offline() with EINVAL, since some of it is not online; Memory.offline_pages takes the part."""
        going = self._mem.going_offline
        if going and going[0] <= self.start_pfn and self.start_pfn + self.nr_pages <= going[0] + going[1]:
            return "going-offline"
        return "online" if block_online(self._mem, self.nr) else "offline"

    @property
    def node(self) -> int:
        """The number of the block's node."""
        return block_nid(self._mem, self.nr)

    @property
    def removable(self) -> int:
        """The number in the removable file: 1 since 53cdc1cb29e8 (March 2020). Before, 0 for an online block with a page in use
        that cannot move (is_mem_section_removable)."""
        if self._mem.rules.removable_constant or self.state != "online":
            return 1
        return int(first_unmovable(self._mem, self.start_pfn, self.nr_pages) is None)

    @property
    def valid_zones(self) -> str:
        """An online block's zone, "none" when it lies in several; an offline one's possible zones, default first."""
        return valid_zones(self._mem, self.nr)

    def _check_state(self, want):
        if self.state != want:
            raise HotplugError.of(errno.EINVAL, f"memory{self.nr} is {self.state}")

    def _check_reserved(self):
        """memory_block_action: EBUSY when a page of the block is not Reserved."""
        (used,) = (self._mem.page_states(self.start_pfn, self.nr_pages) & PG_reserved == 0).nonzero()
        if len(used):
            raise HotplugError.of(
                errno.EBUSY, f"memory{self.nr}: page {self.start_pfn + int(used[0]):#x} is not Reserved, was it already online?"
            )

    @exclusive
    def online(self, word: str = "online") -> int:
        """device_online: "online", "online_kernel" or "online_movable"; the number of pages that went online.
        HotplugError: EINVAL when the block is online or the word is another; then, under 2.6.25, EBUSY when a mark has onlined
        some of it (memory_block_action); what Memory.online_pages answers."""
        online_type = word_to_type(word, self._mem.rules)
        if online_type == MMOP_OFFLINE:
            raise HotplugError.of(errno.EINVAL, f"invalid online type {word!r}: it onlines nothing")
        self._check_state("offline")
        if self._mem.rules.blocks_unaware:
            self._check_reserved()
        try:
            return memory_block_online(self._mem, self.start_pfn, self.nr_pages, online_type)
        finally:
            # what a listener or notifier raises when it is told of this comes when it is done
            if self.state == "online":
                self._mem.events.uevent(f"online@memory{self.nr}")

    @exclusive
    def offline(self) -> None:
        """device_offline. HotplugError: EINVAL when the block is offline, others as Memory.offline_pages."""
        self._check_state("online")
        try:
            memory_block_offline(self._mem, self.start_pfn, self.nr_pages)
        finally:
            if self.state == "offline":
                self._mem.events.uevent(f"offline@memory{self.nr}")

    @exclusive
    def write_state(self, word: str) -> int:
        """write(2) of `word` to memoryN/state: the number of bytes taken. HotplugError EINVAL for a word that is none, and for
        the state that the block has already; nothing is asked of an empty write."""
        if not word:
            return 0
        if word_to_type(word, self._mem.rules) == MMOP_OFFLINE:
            self.offline()
        else:
            self.online(word if self._mem.rules.exact_words else "online")
        return len(word)

    @exclusive
    def write_online(self, text: str) -> int:
        """write(2) of `text` to memoryN/online, the number of bytes taken: 1 onlines into the default zone, 0 offlines, the
        state that it has is no error. HotplugError EINVAL for text that is no bool to the kernel, else as online and
        offline."""
        if not text:
            return 0
        want = "online" if text_to_bool(text) else "offline"
        if self.state != want:
            self.online() if want == "online" else self.offline()
        return len(text)


class Blocks:
    """The memory blocks of a machine by number, live: a mapping of int to Block."""

    __slots__ = ("_mem",)

    def __init__(self, mem: Memory) -> None:
        self._mem = mem

    def __repr__(self) -> str:
        return f"<Blocks {range_list(self) or 'none'}>"

    def __getitem__(self, nr: int) -> Block:
        if nr not in self:
            raise KeyError(f"no memory block {nr!r} (present: {range_list(self) or 'none'})")
        return Block(self._mem, int(nr))

    def __contains__(self, nr: object) -> bool:
        return is_number(nr) and block_present(self._mem, int(nr))

    def __iter__(self) -> Iterator[int]:
        last, per_block = -1, self._mem.pages_per_block // self._mem.geometry.pages_per_section
        for first, count in self._mem.sections.runs():
            for nr in range(max(last + 1, first // per_block), (first + count - 1) // per_block + 1):
                yield nr
                last = nr

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def keys(self) -> list[int]:
        """The numbers of the blocks, ascending."""
        return list(self)

    def values(self) -> list[Block]:
        """The blocks, ascending."""
        return [Block(self._mem, nr) for nr in self]

    def items(self) -> list[tuple[int, Block]]:
        """(number, Block) pairs, ascending."""
        return [(nr, Block(self._mem, nr)) for nr in self]

    def add(self, start_pfn: int, nr_pages: int, nid: int = 0) -> None:
        """Memory.add_memory(start_pfn, nr_pages, nid) as firmware calls it: a range outside of what can be plugged gives
        HotplugError E2BIG under the rules of 6.1 (register_memory_resource), before anything else is looked at."""
        mem = self._mem
        if mem.rules.checks_pluggable and nr_pages > 0 and start_pfn + nr_pages > mem.max_pfn:
            raise HotplugError.of(
                errno.E2BIG, f"{nr_pages} pages at pfn {start_pfn:#x} cannot be plugged: memory ends at pfn {mem.max_pfn:#x}"
            )
        mem.add_memory(start_pfn, nr_pages, nid)

    @exclusive
    def remove(self, start_pfn: int, nr_pages: int) -> None:
        """Take whole blocks (start_pfn, nr_pages) away as ACPI does on an eject: offline those that are online, then
        remove_memory.

        HotplugError: EBUSY when one does not go offline even when asked twice; those that did are onlined again with plain
        `online`, so that they may come back in another zone (acpi_scan_try_to_offline; KERNEL.md 7.7). So they are when a
        callback raises, which then comes out. EINVAL for what is not there, or no whole blocks.
        """
        mem = self._mem
        if nr_pages <= 0 or start_pfn % mem.pages_per_block or nr_pages % mem.pages_per_block:
            raise HotplugError.of(errno.EINVAL, f"{nr_pages} pages at pfn {start_pfn:#x} are not whole memory blocks")
        numbers = range(start_pfn // mem.pages_per_block, (start_pfn + nr_pages) // mem.pages_per_block)
        missing = next((nr for nr in numbers if nr not in self), None)
        if missing is not None:
            raise HotplugError.of(errno.EINVAL, f"memory{missing} is not present")
        online = [nr for nr in numbers if self[nr].state == "online"]
        try:
            self._offline(online)
            mem.remove_memory(start_pfn, nr_pages)
        except BaseException:
            self.auto_online([nr for nr in online if nr in self and self[nr].state == "offline"], MMOP_ONLINE)
            raise

    def _offline(self, numbers):
        """Offline these blocks, asking twice; EBUSY when one stays online."""
        for second_pass in (False, True):
            failed = []
            for nr in numbers:
                if self[nr].state == "offline":
                    continue
                try:
                    self[nr].offline()
                except HotplugError:
                    failed.append(nr)
                    if second_pass:
                        break
            if not failed:
                return
        self._mem.events.log(f"memory memory{failed[0]}: Offline failed.")
        raise HotplugError.of(errno.EBUSY, f"memory{failed[0]} cannot go offline")

    @exclusive
    def auto_online(self, numbers: Iterable[int], online_type: int) -> None:
        """What add_memory does with its blocks when auto_online_blocks says so: online each of the `numbers` with online_type
        (MMOP_*); failures are ignored (online_memory_block). The first exception of a callback that is no HotplugError is
        raised when all have been tried."""
        raised = None
        for nr in numbers:
            try:
                if nr in self:      # a listener may have removed it
                    self[nr].online(WORDS[online_type])
            except HotplugError:
                pass
            except Exception as e:
                raised = raised or e
        if raised is not None:
            raise raised
