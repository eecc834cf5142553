"""The resource tree of /proc/iomem: System RAM and other ranges (kernel/resource.c)."""

import errno
from bisect import bisect_right

from fastonline.errors import HotplugError

__all__ = ["MAX_DEPTH", "PIECE", "RAM", "Resource", "Resources", "Siblings", "check_tree"]

# Compiled, so that no signal handler runs in the middle of a change: only interpreted code checks for signals.

RAM = "System RAM"


# The longest piece of a list of siblings.
PIECE = 512


class Siblings:
    """Disjoint resources in ascending order, in pieces, so that adding and removing cost the same among many as among few."""

    __slots__ = ("pieces", "starts")

    def __init__(self, resources=()):
        resources = list(resources)
        self.pieces = [resources[at : at + PIECE] for at in range(0, len(resources), PIECE)]
        self.starts = [piece[0].start for piece in self.pieces]

    def __iter__(self):
        return iter([resource for piece in self.pieces for resource in piece])

    def __len__(self):
        return sum([len(piece) for piece in self.pieces])

    def meeting(self, start, end):
        """Return the resources that overlap [start, end), ascending."""
        found = []
        nr = max(0, bisect_right(self.starts, start) - 1)
        while nr < len(self.pieces) and self.starts[nr] < end:
            piece = self.pieces[nr]
            at = max(0, bisect_right(piece, start, key=_start_of) - 1)
            while at < len(piece) and piece[at].start < end:
                if piece[at].end > start:
                    found.append(piece[at])
                at += 1
            nr += 1
        return found

    def add(self, resource):
        """Add a resource that overlaps none of them."""
        nr = max(0, bisect_right(self.starts, resource.start) - 1)
        if not self.pieces:
            self.pieces.append([])
            self.starts.append(resource.start)
        piece = self.pieces[nr]
        piece.insert(bisect_right(piece, resource.start, key=_start_of), resource)
        if len(piece) > PIECE:
            half = piece[PIECE // 2 :]
            del piece[PIECE // 2 :]
            self.pieces.insert(nr + 1, half)
            self.starts.insert(nr + 1, half[0].start)
        self.starts[nr] = piece[0].start

    def remove(self, resource):
        """Remove one of them."""
        nr = bisect_right(self.starts, resource.start) - 1
        piece = self.pieces[nr]
        del piece[bisect_right(piece, resource.start, key=_start_of) - 1]
        if piece:
            self.starts[nr] = piece[0].start
        else:
            del self.pieces[nr], self.starts[nr]


class Resource:
    """One range of addresses (struct resource). start and end: bytes, end exclusive. name: as /proc/iomem shows it. children:
    the resources inside, ascending. is_ram: its flags say System RAM (IORESOURCE_MEM and IORESOURCE_BUSY in 2.6.25,
    IORESOURCE_SYSTEM_RAM and IORESOURCE_BUSY in 6.1); None: True for the names ``System RAM`` and ``System RAM (driver)``."""

    __slots__ = ("start", "end", "name", "inside", "is_ram")

    def __init__(self, start, end, name, children=(), is_ram=None):
        self.start, self.end, self.name = start, end, name
        self.inside = Siblings(sorted([Resource(*child) for child in children], key=_start_of))
        self.is_ram = name == RAM or name.startswith(RAM + " (") if is_ram is None else is_ram

    def __repr__(self):
        return f"<Resource {self.start:#x}-{self.end - 1:#x} {self.name}>"

    @property
    def children(self):
        """A list of the resources inside, ascending."""
        return list(self.inside)

    def tree(self):
        """Return [start, end, name, children, is_ram] as plain values."""
        return [self.start, self.end, self.name, [child.tree() for child in self.inside], self.is_ram]

    def walk(self, depth=0):
        """Return a list of (depth, resource) of every resource inside, in printing order. depth: of the children."""
        found = []
        for child in self.inside:
            found.append((depth, child))
            found += child.walk(depth + 1)
        return found

    def conflict(self, start, end):
        """Return the first child that overlaps [start, end), or None."""
        meeting = self.inside.meeting(start, end)
        return meeting[0] if meeting else None


MAX_DEPTH = 32      # of resources inside resources


def check_tree(tree):
    """Check the result of a Resources.tree(): resources lie inside their parent, ascending and disjoint. TypeError or
    ValueError names the first that does not."""
    todo = [(0, 0, 1 << 64, tree)]
    while todo:
        depth, last, limit, children = todo.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"resources are nested deeper than {MAX_DEPTH}")
        for start, end, name, inside, is_ram in children:
            if not isinstance(name, str) or not isinstance(is_ram, bool) or not isinstance(inside, (list, tuple)) \
                    or type(start) is not int or type(end) is not int:
                raise TypeError(f"a resource must be two addresses, a name, a list and a flag, not "
                    f"{(start, end, name, is_ram)!r:.80}")
            if not last <= start < end <= limit:
                raise ValueError(f"resource {start:#x}-{end - 1:#x} {name:.40} is out of order, or not inside its parent")
            last = end
            todo.append((depth + 1, start, end, inside))


class Resources:
    """iomem_resource and the resources in it. Methods take page frames, or bytes where they say so."""

    def __init__(self, page_shift, tree=()):
        self._shift = page_shift
        self._root = Resource(0, 1 << 64, "PCI mem", tree)

    def __repr__(self):
        return f"<Resources ranges={len(self._root.walk())} ram={len(self)}>"

    def tree(self):
        """Return the tree as plain values, as the constructor takes it."""
        return self._root.tree()[3]

    def _ram(self):
        return [resource for _, resource in self._root.walk() if resource.is_ram]

    def __iter__(self):
        """Iterate over (start_pfn, end_pfn) of each range of RAM, without pages that are only partly RAM."""
        up = (1 << self._shift) - 1
        return iter([(r.start + up >> self._shift, r.end >> self._shift) for r in self._ram()])

    def __len__(self):
        return len(self._ram())

    def _place(self, start, end):
        """Return (parent, conflict); conflict is None when the range fits under parent. Otherwise it is the first resource
        that overlaps the range and is RAM or does not contain all of it (__request_region, 6.1)."""
        parent = self._root
        while (taken := parent.conflict(start, end)) is not None:
            if taken.is_ram or not taken.start <= start < end <= taken.end:
                break
            parent = taken
        return parent, taken

    def request(self, start, size, name, merge=False, ram=None):
        """Add a resource of `size` bytes at address `start`, inside a resource that contains the range, else at the top.
        merge: join it with neighbours of that `name` (MHP_MERGE_RESOURCE). ram: its is_ram (see Resource). Returns the
        Resource. HotplugError EEXIST when a part is taken, EINVAL for an invalid range. Mirrors request_resource."""
        end = start + size
        if size <= 0 or start < 0 or end > self._root.end:
            raise HotplugError.of(errno.EINVAL, f"{name} [{start:#x}-{end - 1:#x}] is not an address range")
        parent, taken = self._place(start, end)
        if taken is not None:
            raise HotplugError.of(
                errno.EEXIST, f"{name} [{start:#x}-{end - 1:#x}] cannot be added: {taken.name} "
                f"[{taken.start:#x}-{taken.end - 1:#x}] is there"
            )
        made = Resource(start, end, name, (), ram)

        def joins(other):
            return merge and (other.name, other.is_ram) == (name, made.is_ram)

        after = parent.conflict(end, end + 1)
        if after is not None and joins(after):
            made.end = after.end
            parent.inside.remove(after)
        before = parent.conflict(start - 1, start)
        if before is not None and joins(before):
            before.end = made.end
            return before
        parent.inside.add(made)
        return made

    def allocate(self, size, align, name=RAM, first=0, last=(1 << 64) - 1):
        """Request the range that find_resource(size, align, first, last) finds, under `name`. Returns the Resource. Mirrors
        allocate_resource."""
        return self.request(self.find_resource(size, align, first, last), size, name)

    def allocate_resource(self, size, align, name=RAM, first=0, last=(1 << 64) - 1):
        """As allocate(size, align, name, first, last), and return the first address."""
        return self.allocate(size, align, name, first, last).start

    def find_resource(self, size, align, first=0, last=(1 << 64) - 1):
        """Return the lowest address, aligned to `align` (a power of two), of `size` free bytes between the addresses `first`
        and `last`. Balloon drivers place their memory there. HotplugError EBUSY if there is none, EINVAL for an invalid align
        or size."""
        if size <= 0 or align <= 0 or align & (align - 1):
            raise HotplugError.of(errno.EINVAL, f"allocate_resource of {size} bytes aligned to {align}")
        at = -(-first // align) * align
        for child in self._root.inside:
            if child.start >= at + size:
                break
            if child.end > at:
                at = -(-child.end // align) * align
        if at + size - 1 > last:
            raise HotplugError.of(errno.EBUSY, f"allocate_resource: no {size:#x} free bytes in [{first:#x}-{last:#x}]")
        return at

    def conflict(self, start_pfn, nr_pages):
        """Return (start_pfn, end_pfn) of the resource that conflicts with the range start_pfn, nr_pages, or None."""
        _, taken = self._place(start_pfn << self._shift, start_pfn + nr_pages << self._shift)
        return None if taken is None else (taken.start >> self._shift, -(-taken.end >> self._shift))

    def register(self, start_pfn, nr_pages, name=RAM, merge=False):
        """Add the range start_pfn, nr_pages as RAM. name, merge and errors as `request`. name may also be the Resource of that
        range, which then becomes the RAM. Mirrors register_memory_resource."""
        if isinstance(name, Resource):
            name.is_ram = True
            return
        self.request(start_pfn << self._shift, nr_pages << self._shift, name, merge, ram=True)

    def release(self, start_pfn, nr_pages):
        """Remove the RAM of the range start_pfn, nr_pages; the rest of its resources stays (release_mem_region_adjustable)."""
        self.cut(self.cuts(start_pfn, nr_pages))

    def cuts(self, start_pfn, nr_pages):
        """Return the cuts that release `nr_pages` pages from `start_pfn` on: a list of (siblings, the RAM among them to remove,
        the parts that stay)."""
        found = []
        self._find_cuts(self._root, start_pfn << self._shift, start_pfn + nr_pages << self._shift, found)
        return found

    def _find_cuts(self, parent, start, end, found):
        for child in parent.inside.meeting(start, end):
            if child.is_ram:
                rest = [Resource(*span, child.name, (), True) for span in ((child.start, start), (end, child.end))
                    if span[0] < span[1]]
                found.append((parent.inside, child, rest))
            else:
                self._find_cuts(child, start, end, found)

    def cut(self, cuts):
        """Apply `cuts`. This needs no memory unless a range is split in two."""
        for siblings, child, rest in cuts:
            siblings.remove(child)
            for resource in rest:
                siblings.add(resource)

    def release_resource(self, start, size):
        """Remove the resource with this start and size (int, bytes). HotplugError EINVAL if there is none."""
        for _, parent in [(0, self._root), *self._root.walk()]:
            for child in parent.inside.meeting(start, start + 1):
                if child.start == start and child.end == start + size and not len(child.inside):
                    parent.inside.remove(child)
                    return
        raise HotplugError.of(errno.EINVAL, f"no resource [{start:#x}-{start + size - 1:#x}] without others inside")

    def within(self, start_pfn, nr_pages):
        """Return the parts of the range start_pfn, nr_pages that are RAM: a list of pairs (walk_memory_resource, 2.6.25)."""
        found = []
        self._ram_within(self._root, start_pfn, start_pfn + nr_pages, found)
        return found

    def _ram_within(self, parent, start_pfn, end_pfn, found):
        up = (1 << self._shift) - 1
        for child in parent.inside.meeting(start_pfn << self._shift, end_pfn << self._shift):
            if child.is_ram:
                start, end = max(child.start + up >> self._shift, start_pfn), min(child.end >> self._shift, end_pfn)
                if start < end:
                    found.append((start, end - start))
            self._ram_within(child, start_pfn, end_pfn, found)

    def walk(self):
        """Return a list of (depth, Resource) of all resources, in the order of /proc/iomem."""
        return self._root.walk()

    def text(self):
        """Return the text of /proc/iomem."""
        return "".join([f"{'  ' * depth}{r.start:08x}-{r.end - 1:08x} : {r.name}\n" for depth, r in self.walk()])


def _start_of(resource):
    return resource.start
