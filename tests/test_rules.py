"""rules.py: each preset is data, and differs where the kernels differ."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest
from conftest import SMALL_64, SMALL_PAE

import fastonline as fo
from fastonline.rules import PRESETS, as_rules, by_name


@pytest.mark.parametrize("name, preset", [
    ("2.6.25", "2.6.25"), ("2.6.26", "2.6.25"), ("v2.6.25.20", "2.6.25"), ("LINUX_2_6_25", "2.6.25"),
    ("6.1", "6.1"), ("6.1.192", "6.1"), ("6.1.0-13-amd64", "6.1"), ("v6.6", "6.1"), ("6.11", "6.1"),
    ("6.12", "6.12"), ("v6.12", "6.12"), (" 6.12.3 ", "6.12"), ("6.12-rc3", "6.12"), ("LINUX_6_12", "6.12"), ("6.17", "6.12"),
    ("6.18", "6.18"), ("linux-6.18.1", "6.18"), ("7.0", "6.18"),
])
def test_a_version_gets_the_newest_preset_that_is_not_newer(name, preset):
    assert by_name(name) is PRESETS[preset]
    assert fo.Memory(fo.X86_64, rules=name).rules is PRESETS[preset]


@pytest.mark.parametrize("name", ["x", "", "6", "2.4", "2.6", "2.6.24", "2.6.27", "3.1", "5.15", "6.0", "6.x", "٦.١", "6.12x"])
def test_what_is_no_version(name):
    with pytest.raises(ValueError, match=r"^invalid rules '.*' \(expected 2\.6\.25, "):
        by_name(name)
    with pytest.raises(TypeError, match="'6.12'"):
        by_name(6.12)


def test_presets_by_name():
    assert PRESETS == {"2.6.25": fo.LINUX_2_6_25, "6.1": fo.LINUX_6_1, "6.12": fo.LINUX_6_12,
                       "6.18": fo.LINUX_6_18}
    with pytest.raises(FrozenInstanceError):
        fo.LINUX_6_1.lifo = True


@pytest.mark.parametrize(("older", "newer", "names"), [
    (fo.LINUX_6_1, fo.LINUX_6_12, {"movable_has_min", "memmap_per_block", "skips_memoryless", "migrates_from_the_end",
                                   "waits_offline", "block_notices", "zoneinfo_lines", "pcp_auto_tunes", "munmap_reverses",
                                   "retries_refused_dimms", "memory_failure"}),
    (fo.LINUX_6_12, fo.LINUX_6_18, {"node_notifier"}),
], ids=["6.12", "6.18"])
def test_what_differs_from_the_preset_before(older, newer, names):
    differ = {field.name for field in fields(older) if getattr(older, field.name) != getattr(newer, field.name)}
    assert differ == names | {"name"}


def test_struct_page_sizes(engine):
    """4.3: 32 bytes on 32-bit kernels, 56 on 64-bit ones in 2008, 64 in 6.1. Expect one section's prepare to write as many."""
    for geometry, rules, size in [
        (SMALL_PAE, fo.LINUX_2_6_25, 32),
        (SMALL_64, fo.LINUX_2_6_25, 56),
        (SMALL_64, fo.LINUX_6_1, 64),
    ]:
        mem = fo.Memory(geometry, rules=rules, engine=engine)
        mem.add_memory(0, 256)
        assert mem.stats()["bytes_touched"] == (256 * size if engine == "struct_page" else 256 // 8)


@pytest.mark.parametrize("name, value", [
    ("online_order", -1), ("watermark_scale_factor", 3001), ("min_free_kbytes_max", 1 << 31), ("batch_cap_bytes", -1),
    ("watermark_pages", "spanned"),
])
def test_what_no_kernel_has_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}, not"):
        replace(fo.LINUX_6_12, **{name: value})


def test_a_changed_preset_is_taken(make_machine):
    """Pages one by one under 6.12's rules. Expect 256 order-0 frees and 255 merges instead of 4 frees of order 6."""
    merges = []
    for rules in (fo.LINUX_6_12, replace(fo.LINUX_6_12, name="by page", online_order=0)):
        mem = make_machine(boot=None, rules=rules)
        mem.add_memory(0, 256)
        mem.online_pages(0, 256)
        merges.append((sum(mem.stats()["merges"]), mem.stats()["frees"][0], mem.stats()["frees"][6]))
        assert mem.zones["Normal"].nr_free[6] == 4
    assert merges == [(0, 0, 4), (252, 256, 0)]


# Every field alone, changed: a bool to the other one, the others to a second value that a kernel may have.
OTHERS = {
    "name": "another",
    "online_order": 3,
    "watermark_pages": {"present": "managed", "managed": "present"},
    "watermark_scale_factor": 20,
    "min_free_kbytes_max": 128,
    "lowmem_reserve_ratio": (("DMA", 8),),
    "batch_cap_bytes": 4 << 10,
    "struct_page_bytes": (56, 32),
    "node_threads": ("kthread",),
    "zoneinfo_lines": ("min", "spanned"),
    "migrate_types": ("Movable",),
    "nr_migrate_types": 3,
}


def flipped(rules, name):
    """The rules with one field changed."""
    value = getattr(rules, name)
    other = not value if isinstance(value, bool) else OTHERS[name]
    return replace(rules, **{name: other[value] if isinstance(other, dict) else other})


CHANGES = [(preset, field.name) for preset in PRESETS.values() for field in fields(preset)]


@pytest.mark.parametrize(("preset", "name"), CHANGES, ids=[f"{preset.name}-{name}" for preset, name in CHANGES])
def test_a_field_means_one_thing(engine, preset, name):
    """Change one field and go through the life of a range. Expect a machine that is whole after every step, and combinations
    that no kernel has to be refused when they are made."""
    if (name, preset.memmap_per_block) == ("memmap_on_memory", True) or (name, preset.memmap_on_memory) == (
        "memmap_per_block",
        False,
    ):
        with pytest.raises(ValueError, match="memmap_per_block needs memmap_on_memory"):
            flipped(preset, name)
        return
    mem = fo.Memory(SMALL_64, boot="1M", rules=flipped(preset, name), engine=engine)
    mem.notifiers.register(lambda action, notice: None)
    mem.add_memory(1024, 1024)
    mem.validate()
    mem.prepare_online_pages(1024, 256)
    mem.validate()
    assert mem.mark_pages_onlined(1024, 10) == 10
    mem.validate()
    assert mem.mark_pages_onlined(1024, 256) == 246
    mem.validate()
    assert mem.online_pages(1280, 768) == 768
    mem.validate()
    assert mem.zones["Normal"].present_pages == mem.zones["Normal"].managed_pages == 1024
    assert "Normal" in mem.buddyinfo() and mem.totalram_pages == 1024 + 256
    taken = mem.alloc_pages(0, "Normal")
    with pytest.raises(fo.HotplugError):
        mem.offline_pages(taken & ~255, 256)
    mem.validate()
    mem.free_pages(taken)
    mem.offline_pages(1536, 512)
    mem.validate()
    mem.offline_pages(1024, 512)
    mem.validate()
    assert mem.zones["Normal"].present_pages == 0
    mem.remove_memory(1024, 1024)
    mem.validate()
    assert mem.copy().zoneinfo() == mem.zoneinfo()


@pytest.mark.parametrize("preset", [fo.LINUX_6_1, fo.LINUX_6_12, fo.LINUX_6_18], ids=lambda rules: rules.name)
def test_ranges_of_any_alignment(engine, preset):
    """Rules of 6.12 without alignment, 1 GiB at boot and 128 MiB at 1 GiB. Expect them to be present, in buddyinfo, and
    free."""
    mem = fo.Memory(fo.X86_64, boot="1G", rules=replace(preset, aligned=False), engine=engine)
    mem.add_memory(0x40000, 0x8000)
    assert mem.online_pages(0x40000, 0x8000) == 0x8000
    mem.validate()
    assert mem.zone_of(0x40000).name == "Normal" and mem.zones["Normal"].present_pages == 0x8000
    assert "zone   Normal" in mem.buddyinfo()


def test_present_pages_of_a_range_prepared_twice(engine):
    """2.6.25 that counts present pages when they are prepared. Expect each page once, whatever is prepared again."""
    mem = fo.Memory(SMALL_64, boot="1M", rules=replace(fo.LINUX_2_6_25, present_at_online=False), engine=engine)
    mem.add_memory(1024, 512)
    for start, nr in ((1024, 100), (1024, 256), (1100, 436)):
        mem.prepare_online_pages(start, nr)
        mem.validate()
    assert mem.zones["Normal"].present_pages == 512


# -- each field is read only where its docstring says

def test_large_memory_blocks_do_not_ask_for_alignment(engine):
    """64 GiB of memory on x86_64. Expect blocks of 2 GiB where they may be large, whatever else is changed."""
    def auto(**changes):
        return fo.Memory(fo.X86_64, boot=[((16 << 20) - (1 << 15), 1 << 15)], engine=engine, memory_block_size="auto",
                         rules=replace(fo.LINUX_6_12, **changes)).pages_per_block

    assert auto() == auto(aligned=False) == 1 << 19 and auto(large_blocks=False) == 1 << 15
    with pytest.raises(ValueError, match="one section"):
        fo.Memory(fo.X86_64, memory_block_size="256M", rules=replace(fo.LINUX_6_12, large_blocks=False))


@pytest.mark.parametrize("name", ["blocks_unaware", "watermark_pages", "aligned", "migrates_from_the_end"])
def test_pagetypeinfo_counts_online_sections_by_a_field_of_its_own(engine, name):
    """A section without memory lies in the span of Normal. Expect its pageblocks to be counted without pagetypeinfo_online."""
    def blocks(rules):
        mem = fo.Memory(SMALL_64, boot="1M", rules=rules, engine=engine)
        mem.add_memory(1024, 768)
        mem.online_pages(1024, 256)
        mem.online_pages(1536, 256)
        row = next(line for line in mem.pagetypeinfo().splitlines() if "Normal" in line and "type" not in line)
        return sum(map(int, row.split()[4:]))

    assert blocks(fo.LINUX_6_12) == blocks(flipped(fo.LINUX_6_12, name)) == 16
    assert blocks(replace(fo.LINUX_6_12, pagetypeinfo_online=False)) == 24


def test_a_name_of_two_lines():
    with pytest.raises(ValueError, match=r"name 'a\\n' of rules cannot be printed"):
        replace(fo.LINUX_6_12, name="a\n")


def test_an_empty_zone_reserves_by_a_field_of_its_own(engine):
    """SMALL_64 with Normal memory and no DMA32. Expect DMA32 to keep something only where empty zones do."""
    def kept(rules):
        mem = fo.Memory(SMALL_64, boot=[(0, 64), (1024, 2048)], rules=rules, engine=engine)
        return max(mem.zones["DMA32"].protection)

    assert kept(fo.LINUX_6_12) == kept(replace(fo.LINUX_6_12, watermark_pages="present")) == 0
    assert kept(replace(fo.LINUX_6_12, empty_zones_reserve=True)) > 0


def test_rules_or_a_kernel_version():
    assert as_rules(fo.LINUX_6_1) is fo.LINUX_6_1 and as_rules("v6.12") is fo.LINUX_6_12
    with pytest.raises(TypeError, match="or a kernel version, not 6.12"):
        as_rules(6.12)
