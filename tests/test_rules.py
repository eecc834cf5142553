"""rules.py: each preset is data, and differs where the kernels differ."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest
from conftest import SMALL_64, SMALL_PAE

import fastonline as fo
from fastonline.rules import PRESETS


def test_presets_by_name():
    assert PRESETS == {"2.6.25": fo.LINUX_2_6_25, "6.1": fo.LINUX_6_1, "6.12": fo.LINUX_6_12,
                       "6.18": fo.LINUX_6_18}
    with pytest.raises(FrozenInstanceError):
        fo.LINUX_6_1.lifo = True


@pytest.mark.parametrize(("older", "newer", "names"), [
    (fo.LINUX_6_1, fo.LINUX_6_12, {"movable_has_min", "memmap_per_block", "skips_memoryless", "migrates_from_the_end",
                                   "waits_offline", "block_notices", "zoneinfo_lines"}),
    (fo.LINUX_6_12, fo.LINUX_6_18, {"node_notifier"}),
], ids=["6.12", "6.18"])
def test_what_differs_from_the_preset_before(older, newer, names):
    differ = {field.name for field in fields(older) if getattr(older, field.name) != getattr(newer, field.name)}
    assert differ == names | {"name"}


def test_struct_page_sizes(engine):
    """4.3: 32 bytes on 32-bit kernels, 56 on 64-bit ones in 2008, 64 today. Expect one section's prepare to write as many."""
    for geometry, rules, size in [(SMALL_PAE, fo.LINUX_2_6_25, 32), (SMALL_64, fo.LINUX_2_6_25, 56), (SMALL_64, fo.LINUX_6_1, 64)]:
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
    """Pages one by one under today's rules. Expect 256 order-0 frees and 255 merges instead of 4 frees of order 6."""
    merges = []
    for rules in (fo.LINUX_6_12, replace(fo.LINUX_6_12, name="by page", online_order=0)):
        mem = make_machine(boot=None, rules=rules)
        mem.add_memory(0, 256)
        mem.online_pages(0, 256)
        merges.append((sum(mem.stats()["merges"]), mem.stats()["frees"][0], mem.stats()["frees"][6]))
        assert mem.zones["Normal"].nr_free[6] == 4
    assert merges == [(0, 0, 4), (252, 256, 0)]
