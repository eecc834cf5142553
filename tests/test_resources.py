"""hotplug/resources.py: the tree of /proc/iomem."""

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
    tree = Resources(12)
    tree.request(0, 1 << 30, "System RAM")
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


def test_nested_and_merged():
    tree = Resources(12)
    tree.request(1 << 32, 1 << 30, "virtio0")
    for block in (0, 2, 1):
        tree.register((1 << 20) + block * 32768, 32768, "System RAM (virtio_mem)", merge=True)
    assert tree.text() == "100000000-13fffffff : virtio0\n  100000000-117ffffff : System RAM (virtio_mem)\n"
    tree.release((1 << 20) + 32768, 32768)
    assert [(depth, r.start, r.end) for depth, r in tree.walk()] == [
        (0, 1 << 32, 5 << 30), (1, 1 << 32, (1 << 32) + (128 << 20)), (1, (1 << 32) + (256 << 20), (1 << 32) + (384 << 20)),
    ]
    assert list(tree) == [(1 << 20, (1 << 20) + 32768), ((1 << 20) + 65536, (1 << 20) + 98304)]
    refused("EINVAL", tree.release_resource, 1 << 32, 1 << 30)
    tree.release(0, 1 << 30)
    tree.release_resource(1 << 32, 1 << 30)
    assert tree.text() == ""


def test_survives_a_copy():
    tree = Resources(12)
    tree.request(1 << 32, 1 << 30, "virtio0")
    tree.register(1 << 20, 32768)
    assert Resources(12, tree.tree()).text() == tree.text()


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


def test_a_name_does_not_merge_with_another_kind():
    tree = Resources(12)
    tree.request(0, 4096, "Xen Balloon")
    tree.register(1, 1, "Xen Balloon", merge=True)
    tree.register(2, 1, "Xen Balloon", merge=True)
    assert tree.text() == "00000000-00000fff : Xen Balloon\n00001000-00002fff : Xen Balloon\n"
