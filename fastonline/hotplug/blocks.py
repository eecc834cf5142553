"""Memory blocks, the units of memory in sysfs (drivers/base/memory.c)."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from operator import index
from typing import TYPE_CHECKING

from fastonline.core.pageflags import PG_reserved
from fastonline.core.runs import range_list
from fastonline.core.undo import Undo
from fastonline.errors import HotplugError, as_int, is_number
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
    """Return the MMOP_* of a word written to sysfs. HotplugError EINVAL for an invalid word.

    6.1 compares whole words up to a NUL, with at most one trailing newline (sysfs_streq). 2.6.25 compares only the letters that
    both the word and "online", then "offline", have, so that "o" and "onlineXYZ" mean online (KERNEL.md 1.5).
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
    """Return the boolean of a text that begins with y, t, 1, on, n, f, 0 or off (kstrtobool), else HotplugError EINVAL."""
    if not isinstance(text, str):
        raise TypeError(f"a value for sysfs must be text, not {text!r:.80}")
    for value, starts in ((True, _TRUE), (False, _FALSE)):
        if text.startswith(starts):
            return value
    raise HotplugError.of(errno.EINVAL, f"invalid boolean {text!r} (expected 1, y, t, on, 0, n, f or off)")


class Block:
    """A memory block. Attributes show the machine's current state. nr: its number, the N of memoryN."""

    __slots__ = ("_mem", "nr")

    def __init__(self, mem: Memory, nr: int) -> None:
        self._mem = mem
        self.nr = nr

    def __eq__(self, other: object) -> bool:
        return self._mem is other._mem and self.nr == other.nr if isinstance(other, Block) else NotImplemented

    def __hash__(self) -> int:
        return hash((id(self._mem), self.nr))

    def __repr__(self) -> str:
        last = self.start_pfn + self.nr_pages - 1
        return f"<Block memory{self.nr} {self.start_pfn:#x}-{last:#x} {self.state} {self.valid_zones}>"

    @property
    def start_pfn(self) -> int:
        """The first pfn of the block."""
        return self.nr * self._mem.pages_per_block

    @property
    def nr_pages(self) -> int:
        """The number of its pages."""
        return self._mem.pages_per_block

    @property
    def phys_index(self) -> str:
        """The text of the phys_index file: the block's number, eight hex digits."""
        return f"{self.nr:08x}"

    @property
    def state(self) -> str:
        """``"online"``, ``"offline"``, or ``"going-offline"`` while offline_pages takes the block, in its callbacks
        (memory_block_change_state).

        All sections of the block share the state (mem->state). The block is online once a page of it is, and offline when none
        of its sections is online. Under blocks_unaware (2.6.25, KERNEL.md 1.5) only online_pages of the whole block changes it,
        not marks. A block that is online in part refuses online() and offline() with EINVAL; use Memory.offline_pages."""
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
        """The zone of an online block, or "none" if it spans several. Of an offline block its possible zones, default first."""
        return valid_zones(self._mem, self.nr)

    def _check_state(self, want):
        if self.state != want:
            raise HotplugError.of(errno.EINVAL, f"memory{self.nr} is {self.state}")

    def _check_reserved(self):
        """Raise EBUSY when a page of the block is not Reserved (memory_block_action)."""
        (used,) = (self._mem.page_states(self.start_pfn, self.nr_pages) & PG_reserved == 0).nonzero()
        if len(used):
            raise HotplugError.of(
                errno.EBUSY, f"memory{self.nr}: page {self.start_pfn + int(used[0]):#x} is not Reserved, was it already online?"
            )

    @exclusive
    def online(self, word: str = "online") -> int:
        """Online the block. word: "online", "online_kernel" or "online_movable". Returns the number of pages that went online.
        HotplugError: EINVAL when the block is online, or for another word; EBUSY under 2.6.25 when a mark has onlined a page of
        it (memory_block_action); others as Memory.online_pages. Mirrors device_online."""
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
        """Offline the block. HotplugError: EINVAL if it is offline, others as Memory.offline_pages. Mirrors device_offline."""
        self._check_state("online")
        try:
            memory_block_offline(self._mem, self.start_pfn, self.nr_pages)
        finally:
            if self.state == "offline":
                self._mem.events.uevent(f"offline@memory{self.nr}")

    @exclusive
    def write_state(self, word: str) -> int:
        """Write `word` to memoryN/state. Returns the number of bytes written. HotplugError EINVAL for an invalid word and for
        the current state; an empty write does nothing."""
        if word == "":
            return 0
        if word_to_type(word, self._mem.rules) == MMOP_OFFLINE:
            self.offline()
        else:
            self.online(word if self._mem.rules.exact_words else "online")
        return len(word)

    @exclusive
    def write_online(self, text: str) -> int:
        """Write `text` to memoryN/online: 1 onlines into the default zone, 0 offlines. The current state is not an error.
        Returns the number of bytes written. HotplugError EINVAL if the text is not a boolean, else as online and offline."""
        if text == "":
            return 0
        want = "online" if text_to_bool(text) else "offline"
        if self.state != want:
            self.online() if want == "online" else self.offline()
        return len(text)


class Blocks:
    """The memory blocks of a machine: a mapping of int to Block."""

    __slots__ = ("_mem",)

    def __init__(self, mem: Memory) -> None:
        self._mem = mem

    def __repr__(self) -> str:
        return f"<Blocks {range_list(self) or 'none'}>"

    def __getitem__(self, nr: int) -> Block:
        if nr not in self:
            raise KeyError(f"no memory block {nr!r} (present: {range_list(self) or 'none'})")
        return Block(self._mem, index(nr))

    def __contains__(self, nr: object) -> bool:
        return is_number(nr) and block_present(self._mem, index(nr))

    def __iter__(self) -> Iterator[int]:
        last, per_block = -1, self._mem.pages_per_block // self._mem.geometry.pages_per_section
        for first, count in self._mem.sections.runs():
            for nr in range(max(last + 1, first // per_block), (first + count - 1) // per_block + 1):
                yield nr
                last = nr

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def keys(self) -> list[int]:
        """Return the numbers of the blocks, ascending."""
        return list(self)

    def values(self) -> list[Block]:
        """Return the blocks, ascending."""
        return [Block(self._mem, nr) for nr in self]

    def items(self) -> list[tuple[int, Block]]:
        """Return (number, Block) pairs, ascending."""
        return [(nr, Block(self._mem, nr)) for nr in self]

    def add(self, start_pfn: int, nr_pages: int, nid: int = 0) -> None:
        """Memory.add_memory(start_pfn, nr_pages, nid), as firmware calls it. Under the rules of 6.1 a range outside of the
        pluggable range raises HotplugError E2BIG first (register_memory_resource)."""
        mem = self._mem
        start_pfn, nr_pages = as_int(start_pfn, "start_pfn"), as_int(nr_pages, "nr_pages")
        if mem.rules.checks_pluggable and nr_pages > 0 and start_pfn + nr_pages > mem.max_pfn:
            raise HotplugError.of(
                errno.E2BIG, f"{nr_pages} pages at pfn {start_pfn:#x} cannot be plugged: memory ends at pfn {mem.max_pfn:#x}"
            )
        mem.add_memory(start_pfn, nr_pages, nid)

    @exclusive
    def remove(self, start_pfn: int, nr_pages: int) -> None:
        """Remove the whole blocks of a range (start_pfn, nr_pages), as ACPI does on an eject: offline them, then remove_memory.

        HotplugError: EBUSY when a block stays online after two tries. The others are then onlined again with plain `online`,
        perhaps in another zone (acpi_scan_try_to_offline; KERNEL.md 7.7). The same happens when a callback raises. EINVAL for
        blocks that are not present, or a range that is not whole blocks.
        """
        mem = self._mem
        start_pfn, nr_pages = as_int(start_pfn, "start_pfn"), as_int(nr_pages, "nr_pages")
        if nr_pages <= 0 or start_pfn % mem.pages_per_block or nr_pages % mem.pages_per_block:
            raise HotplugError.of(errno.EINVAL, f"{nr_pages} pages at pfn {start_pfn:#x} are not whole memory blocks")
        numbers = range(start_pfn // mem.pages_per_block, (start_pfn + nr_pages) // mem.pages_per_block)
        missing = next((nr for nr in numbers if nr not in self), None)
        if missing is not None:
            raise HotplugError.of(errno.EINVAL, f"memory{missing} is not present")
        online = [nr for nr in numbers if self[nr].state == "online"]
        with Undo() as undo:
            undo.add(_online_again, self, online)
            self._offline(online)
            mem.remove_memory(start_pfn, nr_pages)

    def _present(self, numbers):
        """Return the numbers that are blocks. A range may go far beyond memory."""
        return [nr for nr in self if nr in numbers] if isinstance(numbers, range) else [nr for nr in numbers if nr in self]

    def _offline(self, numbers):
        """Offline these blocks, in two tries. EBUSY when one stays online."""
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
        """Online each block of `numbers` with online_type (MMOP_*), as add_memory does under auto_online_blocks. HotplugErrors
        are ignored (online_memory_block). Another exception of a callback is raised after all blocks were tried. ValueError
        for an online_type that onlines nothing."""
        raised, kind = None, as_int(online_type, "online_type")
        if not MMOP_ONLINE <= kind <= MMOP_ONLINE_MOVABLE:
            raise ValueError(f"invalid online_type {kind} (expected {MMOP_ONLINE} to {MMOP_ONLINE_MOVABLE})")
        for nr in self._present(numbers):
            try:
                if nr in self:      # a listener may have removed it
                    self[nr].online(WORDS[kind])
            except HotplugError:
                pass
            except Exception as e:
                raised = raised or e
        if raised is not None:
            raise raised


def _online_again(blocks, numbers):
    """Online those of these blocks that are offline."""
    blocks.auto_online([nr for nr in numbers if nr in blocks and blocks[nr].state == "offline"], MMOP_ONLINE)
