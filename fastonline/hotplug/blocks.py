"""Memory blocks: the units in which sysfs shows memory (drivers/base/memory.c)."""

MMOP_OFFLINE = 0
MMOP_ONLINE = 1
MMOP_ONLINE_KERNEL = 2
MMOP_ONLINE_MOVABLE = 3


class Block:
    """One memory block, live; here a block is one section."""

    __slots__ = ("_mem", "nr")

    def __init__(self, mem, nr):
        self._mem = mem
        self.nr = nr

    def __repr__(self):
        return f"<Block memory{self.nr} {self.state} {self.valid_zones}>"

    @property
    def start_pfn(self):
        """The block's first page frame."""
        return self.nr * self._mem.geometry.pages_per_section

    @property
    def phys_index(self):
        """The text of the phys_index file: the block's number, eight hex digits."""
        return f"{self.nr:08x}"

    @property
    def state(self):
        """``"online"`` or ``"offline"``."""
        return "online" if self._mem.sections.online_section_nr(self.nr) else "offline"

    @property
    def node(self):
        """The number of the block's node."""
        return self._mem.section_nid(self.nr)

    @property
    def removable(self):
        """1: today's kernels say nothing else (CONFIG_MEMORY_HOTREMOVE)."""
        return 1

    @property
    def valid_zones(self):
        """An online block's zone, "none" when it lies in several or has holes; an offline one's possible zones, default first."""
        return self._mem.valid_zones(self.nr)


class Blocks:
    """The memory blocks of a machine by number, live: a mapping of int to Block."""

    __slots__ = ("_mem",)

    def __init__(self, mem):
        self._mem = mem

    def __getitem__(self, nr):
        if nr not in self:
            raise KeyError(nr)
        return Block(self._mem, nr)

    def __contains__(self, nr):
        return self._mem.sections.present_section_nr(nr)

    def __iter__(self):
        for first, count in self._mem.sections.runs():
            yield from range(first, first + count)

    def __len__(self):
        return self._mem.sections.present.weight()

    def keys(self):
        """The numbers of the blocks, ascending."""
        return list(self)

    def values(self):
        """The blocks, ascending."""
        return [self[nr] for nr in self]

    def items(self):
        """(number, Block) pairs, ascending."""
        return [(nr, self[nr]) for nr in self]
