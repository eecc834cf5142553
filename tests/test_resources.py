"""hotplug/resources.pyx: the tree of /proc/iomem."""

import errno

import pytest
from conftest import snapshot

import fastonline as fo
from fastonline.hotplug.resources import Resources


def refused(code, call, *args, **more):
    with pytest.raises(fo.HotplugError) as error:
        call(*args, **more)
    assert errno.errorcode[error.value.errno] == code


def test_overlap(engine):
    mem = fo.Memory(fo.X86_64, "512M", engine=engine)
    mem.add_memory(1 << 20, 65536)
    text = mem.resources.text()
    assert text == "00000000-1fffffff : System RAM\n100000000-10fffffff : System RAM\n"
    for start, nr in ((1 << 20, 32768), ((1 << 20) + 32768, 65536), ((1 << 20) - 32768, 65536), (0, 32768)):
        refused("EEXIST", mem.add_memory, start, nr)
    assert mem.resources.text() == text


def test_allocate_resource():
    """The Xen balloon of the thread: size and alignment of a section, the lowest gap."""
    tree = Resources(12, [[0, 1 << 30, "System RAM", [], True]])
    tree.request(3 << 29, 1 << 20, "ACPI")
    assert tree.allocate_resource(1 << 29, 1 << 29, "Xen Balloon") == 1 << 30
    assert tree.allocate_resource(1 << 29, 1 << 29, "Xen Balloon") == 1 << 31
    assert tree.find_resource(4096, 4096, first=5000) == (3 << 29) + (1 << 20)      # and leaves it free
    assert tree.allocate_resource(4096, 4096, first=5000) == (3 << 29) + (1 << 20)
    refused("EBUSY", tree.allocate_resource, 1 << 30, 1 << 29, last=(1 << 31) + 5)
    for size, align in ((0, 1), (-1, 1), (4096, 3), (4096, 0)):
        refused("EINVAL", tree.allocate_resource, size, align)
    refused("EEXIST", tree.request, (3 << 29) - 1, 2, "something across an edge")
    refused("EEXIST", tree.request, 4096, 1, "something inside RAM")


def test_nested_and_merged(engine):
    mem = fo.Memory(fo.X86_64, "512M", engine=engine)
    tree = mem.resources
    tree.request(1 << 32, 1 << 30, "virtio0")
    for block in (0, 2, 1):
        mem.add_memory((1 << 20) + block * 32768, 32768, name="System RAM (virtio_mem)", merge=True)
    assert tree.text() == "00000000-1fffffff : System RAM\n100000000-13fffffff : virtio0\n" \
        "  100000000-117ffffff : System RAM (virtio_mem)\n"
    assert Resources(12, tree.tree()).text() == tree.text()
    mem.remove_memory((1 << 20) + 32768, 32768)
    assert [(depth, r.start, r.end) for depth, r in tree.walk()][1:] == [
        (0, 1 << 32, 5 << 30), (1, 1 << 32, (1 << 32) + (128 << 20)), (1, (1 << 32) + (256 << 20), (1 << 32) + (384 << 20)),
    ]
    assert list(tree)[1:] == [(1 << 20, (1 << 20) + 32768), ((1 << 20) + 65536, (1 << 20) + 98304)]
    refused("EINVAL", tree.release_resource, 1 << 32, 1 << 30)
    refused("EBUSY", tree.release_resource, 1 << 32, 128 << 20)
    for block in (0, 2):
        mem.remove_memory((1 << 20) + block * 32768, 32768)
    tree.release_resource(1 << 32, 1 << 30)
    assert tree.text() == "00000000-1fffffff : System RAM\n"


def test_python_reads_the_tree_and_changes_what_drivers_request(engine):
    """RAM comes and goes with the machine's memory alone."""
    mem = fo.Memory(fo.X86_64, "512M", engine=engine)
    (_, ram), text = *mem.resources.walk(), mem.resources.text()
    for name, value in (("start", 77), ("end", -1), ("name", "x"), ("is_ram", False), ("inside", None), ("children", [])):
        with pytest.raises(AttributeError):
            setattr(ram, name, value)
    ram.children.append(3)
    with pytest.raises(TypeError):
        mem.resources.request(1 << 40, 4096, 3)
    with pytest.raises(TypeError):
        mem.resources.request(1 << 40, 1.5, "half a byte")
    refused("EBUSY", mem.resources.release_resource, 0, 512 << 20)
    assert mem.resources.text() == text
    assert not mem.resources.request(1 << 40, 4096, "System RAM").is_ram
    mem.validate()


@pytest.mark.parametrize("tree", [
    3, [3], [[0, 1]], [[0, 4096, "x", [], 1]], [[4096, 0, "x", [], True]], [[0, 4096, "x", [[0, 8192, "y", [], True]], False]],
    [[0.0, 4096, "x", [], True]], [[-1, 4096, "x", [], True]], [[0, 1 << 65, "x", [], True]],
])
def test_no_tree(tree):
    with pytest.raises((TypeError, ValueError)):
        Resources(12, tree)


def test_a_refused_add_leaves_what_is_there(engine):
    """
        pfn   0x40000        0x48000        0x50000
              | Xen Balloon, | block 9:     |
              | not RAM      | System RAM   |
    Expect EEXIST for an add over both, whatever meets it first, with iomem, the memmap of block 9 and all else as they were;
    and an add inside of the driver's own range to be nested there.
    """
    mem = fo.Memory(fo.X86_64, boot="1G", memmap="kernel", engine=engine)
    mem.resources.request(0x40000 << 12, 0x8000 << 12, "Xen Balloon")
    mem.add_memory(0x48000, 0x8000)
    mem.blocks[9].online()
    before = snapshot(mem)
    for start, nr in ((0x40000, 0x10000), (0x48000, 0x10000), (0x40000, 0x20000), (0, 0x50000)):
        refused("EEXIST", mem.add_memory, start, nr)
        assert snapshot(mem) == before
    mem.add_memory(0x40000, 0x8000)
    assert mem.resources.text().splitlines()[1:3] == ["40000000-47ffffff : Xen Balloon", "  40000000-47ffffff : System RAM"]
    mem.validate()


@pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_12], ids=lambda rules: rules.name)
def test_added_memory_is_ram_under_any_name(engine, rules):
    """1.3: it is the flags of a resource that count. Expect "Xen Balloon" to be refused when added again, to go online as a
    whole, in a copy too, and its line to go with it."""
    mem = fo.Memory(fo.X86_64, boot="1G", rules=rules, engine=engine, memmap="kernel")
    mem.add_memory(0x48000, 0x8000, name="Xen Balloon")
    before = snapshot(mem)
    for name in ("System RAM", "Xen Balloon"):
        refused("EEXIST", mem.add_memory, 0x48000, 0x8000, name=name)
    assert snapshot(mem) == before
    mem = mem.copy()
    assert mem.resources.conflict(0x48000, 1) == (0x48000, 0x50000) and mem.resources.within(0, 1 << 20)[1] == (0x48000, 0x8000)
    assert mem.online_pages(0x48000, 0x8000) == 0x8000
    mem.offline_pages(0x48000, 0x8000)
    mem.remove_memory(0x48000, 0x8000)
    assert mem.resources.text() == "00000000-3fffffff : System RAM\n"


def test_a_name_does_not_merge_with_another_kind(engine):
    mem = fo.Memory(fo.X86_64, "512M", engine=engine)
    mem.resources.request(0x40000 << 12, 0x8000 << 12, "Xen Balloon")
    for block in (9, 10):
        mem.add_memory(block * 0x8000, 0x8000, name="Xen Balloon", merge=True)
    assert mem.resources.text().splitlines()[1:] == ["40000000-47ffffff : Xen Balloon", "48000000-57ffffff : Xen Balloon"]
