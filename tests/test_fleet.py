"""Very large machines, very many, and no memory for either: what is not used costs nothing, what cannot be had changes
nothing."""

import os
import subprocess
import sys
import textwrap

import pytest

import fastonline as fo


def resident():
    """Bytes of memory that this process has in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_2_to_the_34_pages_of_which_two_sections_are_used():
    """A machine of 64 TiB with its first and its last section online. Expect less than 128 MiB to be touched, huge pages at
    both ends of each plane."""
    unit, end = fo.X86_64.pages_per_section, 1 << 34
    before = resident()
    mem = fo.Memory(fo.X86_64, boot="128M", max_memory="64T")
    mem.add_memory(end - unit, unit)
    assert mem.online_pages(end - unit, unit) == unit
    other = mem.copy()
    for one in (mem, other):
        assert one.totalram_pages == 2 * unit
        assert one.alloc_pages() == end - unit
    assert resident() - before < 128 << 20
    with pytest.raises(fo.HotplugError, match="EINVAL"):
        mem.add_memory(end, unit)


def test_ten_thousand_machines_share_nothing():
    fleet = [fo.Memory(fo.X86_64, boot="64M") for _ in range(10000)]
    fleet[1].alloc_pages_bulk(100)
    assert [sum(z.free_pages for z in mem.zones.values()) for mem in fleet[:3]] == [16384, 16284, 16384]
    assert all(mem.totalram_pages == 16384 for mem in fleet)


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="the address sanitizer takes all the address space")
def test_no_memory_to_grow_changes_nothing(engine):
    """Let the machine grow under a limit of its address space that is raised page by page of what it would need.

    Expect MemoryError and an unchanged machine each time, until there is room enough; so every step of growing fails once.
    """
    script = f"""
        import resource, sys
        import fastonline as fo
        mem = fo.Memory(fo.X86_64, boot="128M", engine="{engine}")
        start, unit = (1 << 22) if "{engine}" == "struct_page" else 1 << 29, fo.X86_64.pages_per_section
        def shape():
            zones = [(key, z.start_pfn, z.spanned_pages, z.managed_pages, z.nr_free, z.min) for key, z in mem.zones.items()]
            return zones, mem.stats(), mem.sections.spans(), list(mem.resources), list(mem.nodes), mem.buddyinfo()
        before, refused = shape(), 0
        size = int(open("/proc/self/statm").read().split()[0]) * 4096
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        room = 1 << 20
        while True:
            resource.setrlimit(resource.RLIMIT_AS, (size + room, hard))
            try:
                mem.add_memory(start, unit)
            except MemoryError:
                resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
                assert shape() == before
                mem.validate()
                mem.free_pages(mem.alloc_pages())
                before, refused, room = shape(), refused + 1, room + (8 << 20)
                continue
            break
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        assert mem.online_pages(start, unit) == unit
        mem.validate()
        print(refused)
    """
    done = subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5
