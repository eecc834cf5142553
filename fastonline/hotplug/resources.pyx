"""The resource tree of /proc/iomem: System RAM and other ranges (kernel/resource.c)."""

import errno
from operator import index

from fastonline.errors import HotplugError

__all__ = ["MAX_DEPTH", "PIECE", "RAM", "Resource", "Resources", "check_tree"]

# Compiled, so that no signal handler runs in the middle of a change: only interpreted code checks for signals.
# Python reads the tree. It requests and releases the resources of drivers; RAM comes and goes with the machine's memory.

RAM = "System RAM"


# The longest piece of a list of siblings.
PIECE = 512


cdef class Siblings:
    """Disjoint resources in ascending order, in pieces, so that adding and removing cost the same among many as among few."""

    def __cinit__(self):
        self.pieces, self.firsts = [], []

    def __iter__(self):
        return iter([resource for piece in self.pieces for resource in piece])

    def __len__(self):
        return sum([len(piece) for piece in self.pieces])

    cdef list meeting(self, object start, object end):
        """Return the resources that overlap [start, end), ascending."""
        cdef list piece, found = []
        cdef Py_ssize_t nr, at
        cdef Resource resource
        nr = max(0, up_to(self.firsts, start) - 1)
        while nr < len(self.pieces) and (<Resource>self.firsts[nr]).start < end:
            piece = self.pieces[nr]
            for at in range(max(0, up_to(piece, start) - 1), len(piece)):
                resource = piece[at]
                if resource.start >= end:
                    break
                if resource.end > start:
                    found.append(resource)
            nr += 1
        return found

    cdef int add(self, Resource resource) except -1:
        """Add a resource that overlaps none of them."""
        cdef list piece, half
        cdef Py_ssize_t nr
        nr = max(0, up_to(self.firsts, resource.start) - 1)
        if not self.pieces:
            self.pieces.append([])
            self.firsts.append(resource)
        piece = self.pieces[nr]
        piece.insert(up_to(piece, resource.start), resource)
        if len(piece) > PIECE:
            half = piece[PIECE // 2 :]
            del piece[PIECE // 2 :]
            self.pieces.insert(nr + 1, half)
            self.firsts.insert(nr + 1, half[0])
        self.firsts[nr] = piece[0]
        return 0

    cdef int remove(self, Resource resource) except -1:
        """Remove one of them."""
        cdef list piece
        cdef Py_ssize_t nr
        nr = up_to(self.firsts, resource.start) - 1
        piece = self.pieces[nr]
        del piece[up_to(piece, resource.start) - 1]
        if piece:
            self.firsts[nr] = piece[0]
        else:
            del self.pieces[nr], self.firsts[nr]
        return 0


cdef Py_ssize_t up_to(list resources, object start) except -1:
    """The number of resources of a list that begin at `start` or below."""
    cdef Py_ssize_t low = 0, high = len(resources), middle
    while low < high:
        middle = (low + high) // 2
        if (<Resource>resources[middle]).start <= start:
            low = middle + 1
        else:
            high = middle
    return low


cdef class Resource:
    """One range of addresses, read-only (struct resource). start and end: bytes, end exclusive. name: as /proc/iomem shows it.
    children: the resources inside, ascending. is_ram: its flags say System RAM (IORESOURCE_MEM and IORESOURCE_BUSY in 2.6.25,
    IORESOURCE_SYSTEM_RAM and IORESOURCE_BUSY in 6.1)."""

    def __cinit__(self, start, end, str name not None):
        self.start, self.end, self.name = index(start), index(end), name
        self.inside = Siblings()

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

    cdef Resource conflict(self, object start, object end):
        """Return the first child that overlaps [start, end), or None."""
        meeting = self.inside.meeting(start, end)
        return meeting[0] if meeting else None

    cdef int adopt(self, object tree) except -1:
        """Add the resources of a checked `tree`."""
        cdef Resource made
        for start, end, name, children, is_ram in tree:
            made = Resource(start, end, name)
            made.is_ram = is_ram
            made.adopt(children)
            self.inside.add(made)
        return 0


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


cdef class Resources:
    """iomem_resource and the resources in it. Methods take page frames, or bytes where they say so."""

    def __cinit__(self, int page_shift, tree=()):
        check_tree(tree)
        self._shift = page_shift
        self._root = Resource(0, 1 << 64, "PCI mem")
        self._root.adopt(tree)

    def __repr__(self):
        return f"<Resources ranges={len(self._root.walk())} ram={len(self)}>"

    def tree(self):
        """Return the tree as plain values, as the constructor takes it."""
        return self._root.tree()[3]

    cdef list _ram(self):
        return [resource for _, resource in self._root.walk() if resource.is_ram]

    def __iter__(self):
        """Iterate over (start_pfn, end_pfn) of each range of RAM, without pages that are only partly RAM."""
        up = (1 << self._shift) - 1
        return iter([(r.start + up >> self._shift, r.end >> self._shift) for r in self._ram()])

    def __len__(self):
        return len(self._ram())

    cdef tuple _place(self, object start, object end):
        """Return (parent, conflict); conflict is None when the range fits under parent. Otherwise it is the first resource
        that overlaps the range and is RAM or does not contain all of it (__request_region, 6.1)."""
        parent = self._root
        while (taken := parent.conflict(start, end)) is not None:
            if taken.is_ram or not taken.start <= start < end <= taken.end:
                break
            parent = taken
        return parent, taken

    def request(self, start, size, str name not None, merge=False):
        """Add a resource of `size` bytes at address `start`, inside a resource that contains the range, else at the top. It is
        not RAM, whatever its name. merge: join it with neighbours of that `name` (MHP_MERGE_RESOURCE). Returns the Resource.
        HotplugError EEXIST when a part is taken, EINVAL for an invalid range. Mirrors request_resource."""
        return self._request(index(start), index(size), name, merge, False)

    cdef Resource _request(self, object start, object size, str name, bint merge, bint is_ram):
        cdef Resource parent, taken, made, after, before
        end = start + size
        if size <= 0 or start < 0 or end > self._root.end:
            raise HotplugError.of(errno.EINVAL, f"{name} [{start:#x}-{end - 1:#x}] is an invalid address range")
        parent, taken = self._place(start, end)
        if taken is not None:
            raise HotplugError.of(
                errno.EEXIST, f"{name} [{start:#x}-{end - 1:#x}] overlaps {taken.name} "
                f"[{taken.start:#x}-{taken.end - 1:#x}]"
            )
        made = Resource(start, end, name)
        made.is_ram = is_ram
        after = parent.conflict(end, end + 1) if merge else None
        if after is not None and after.name == name and after.is_ram == is_ram:
            made.end = after.end
            parent.inside.remove(after)
        before = parent.conflict(start - 1, start) if merge else None
        if before is not None and before.name == name and before.is_ram == is_ram:
            before.end = made.end
            return before
        parent.inside.add(made)
        return made

    cdef int load(self, object start, object size, str name) except -1:
        """Add a line of /proc/iomem. It is RAM if its name says so."""
        self._request(start, size, name, False, name == RAM or name.startswith(RAM + " ("))
        return 0

    def allocate(self, size, align, name="System RAM", first=0, last=(1 << 64) - 1):
        """Request the range that find_resource(size, align, first, last) finds, under `name`. Returns the Resource. Mirrors
        allocate_resource."""
        return self.request(self.find_resource(size, align, first, last), size, name)

    def allocate_resource(self, size, align, name="System RAM", first=0, last=(1 << 64) - 1):
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

    cdef int register(self, object start_pfn, object nr_pages, object name, bint merge) except -1:
        """Add the range start_pfn, nr_pages as RAM. name, merge and errors as `request`. name may also be the Resource of that
        range, which then becomes the RAM. Mirrors register_memory_resource."""
        if isinstance(name, Resource):
            (<Resource>name).is_ram = True
        else:
            self._request(start_pfn << self._shift, nr_pages << self._shift, name, merge, True)
        return 0

    cdef list cuts(self, object start_pfn, object nr_pages):
        """Return the cuts that release the RAM of the range start_pfn, nr_pages (release_mem_region_adjustable): a list of
        (siblings, the RAM among them to remove, the parts that stay)."""
        found = []
        self._find_cuts(self._root, start_pfn << self._shift, start_pfn + nr_pages << self._shift, found)
        return found

    cdef int _find_cuts(self, Resource parent, object start, object end, list found) except -1:
        cdef Resource child, part
        for child in parent.inside.meeting(start, end):
            if not child.is_ram:
                self._find_cuts(child, start, end, found)
                continue
            rest = []
            for low, high in ((child.start, start), (end, child.end)):
                if low < high:
                    part = Resource(low, high, child.name)
                    part.is_ram = True
                    rest.append(part)
            found.append((parent.inside, child, rest))
        return 0

    cdef int cut(self, list cuts) except -1:
        """Apply `cuts`. This needs no memory unless a range is split in two."""
        cdef Siblings siblings
        for siblings, child, rest in cuts:
            siblings.remove(child)
            for resource in rest:
                siblings.add(resource)
        return 0

    def release_resource(self, start, size):
        """Remove the resource with this start and size (int, bytes). HotplugError EINVAL if there is none, EBUSY if it is
        RAM, which goes with remove_memory."""
        cdef Resource parent, child
        for _, parent in [(0, self._root), *self._root.walk()]:
            for child in parent.inside.meeting(start, start + 1):
                if child.start == start and child.end == start + size and not len(child.inside):
                    if child.is_ram:
                        raise HotplugError.of(errno.EBUSY, f"release_resource of {child!r}: it is RAM (use remove_memory)")
                    parent.inside.remove(child)
                    return
        raise HotplugError.of(errno.EINVAL, f"no resource [{start:#x}-{start + size - 1:#x}] without others inside")

    def within(self, start_pfn, nr_pages):
        """Return the parts of the range start_pfn, nr_pages that are RAM: a list of pairs (walk_memory_resource, 2.6.25)."""
        found = []
        self._ram_within(self._root, start_pfn, start_pfn + nr_pages, found)
        return found

    cdef int _ram_within(self, Resource parent, object start_pfn, object end_pfn, list found) except -1:
        cdef Resource child
        up = (1 << self._shift) - 1
        for child in parent.inside.meeting(start_pfn << self._shift, end_pfn << self._shift):
            if child.is_ram:
                start, end = max(child.start + up >> self._shift, start_pfn), min(child.end >> self._shift, end_pfn)
                if start < end:
                    found.append((start, end - start))
            self._ram_within(child, start_pfn, end_pfn, found)
        return 0

    def walk(self):
        """Return a list of (depth, Resource) of all resources, in the order of /proc/iomem."""
        return self._root.walk()

    def text(self):
        """Return the text of /proc/iomem."""
        return "".join([f"{'  ' * depth}{r.start:08x}-{r.end - 1:08x} : {r.name}\n" for depth, r in self.walk()])
