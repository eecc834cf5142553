"""hotplug/resources.py: the tree of /proc/iomem."""

import errno

import pytest

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
