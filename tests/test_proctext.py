"""linux/proctext.py: the kernel's texts of 2.6.25 to 6.18, read; each input of tests/data/inputs with its right answer."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

import fastonline as fo
from fastonline.lines import TextError
from fastonline.linux.proctext import least_min_free_kbytes, parse_blocks, parse_buddyinfo, parse_iomem, parse_zoneinfo
from fastonline.linux.sources import read_source

INPUTS = Path(__file__).parent / "data" / "inputs"


def zones(name):
    """{zone name: ZoneInfo} of node 0 in one of the inputs."""
    return {zone: info for (nid, zone), info in parse_zoneinfo((INPUTS / name).read_text()).items() if nid == 0}


def test_only_populated_zones_are_listed():
    """Up to 4.11. Expect one zone; the protection from types that are not shown is 0."""
    (normal,) = zones("z01_populated_only_one_zone.zoneinfo").values()
    assert (normal.name, normal.min, normal.low, normal.high, normal.managed_pages) == ("Normal", 500, 625, 750, 62000)
    assert len(normal.protection) == 3 and not any(normal.protection.values())


def test_protection_entries_of_zones_that_are_not_listed():
    """x86_64 of 3.x: four entries, three zones. Expect the fourth to be Movable's."""
    found = zones("z02_populated_only_x86_64_3.x.zoneinfo")
    assert list(found) == ["DMA", "DMA32", "Normal"]
    assert found["DMA"].protection == {"DMA": 0, "DMA32": 3000, "Normal": 7000, "Movable": 7000}
    assert found["DMA32"].protection == {"DMA": 0, "DMA32": 0, "Normal": 4000, "Movable": 4000}


def listing(*zones, managed=True):
    """A zoneinfo of (name, protection)."""
    return "".join(
        f"Node 0, zone {name:>8}\n  pages free     5\n        min      1\n        low      2\n        high     3\n"
        f"        scanned  0 (a: 0 i: 0)\n        spanned  9\n        present  9\n"
        + ("        managed  8\n" if managed else "")
        + f"        protection: ({', '.join(map(str, protection))})\n  start_pfn:         {i * 16}\n"
        for i, (name, protection) in enumerate(zones)
    )


@pytest.mark.parametrize("listed, types", [
    ((("DMA", (0, 5, 9, 9)), ("Normal", (0, 0, 40, 40)), ("HighMem", (0, 0, 0, 0))), ["DMA", "Normal", "HighMem", "Movable"]),
    ((("DMA", (0, 5, 9, 9, 9)), ("DMA32", (0, 0, 4, 4, 4))), ["DMA", "DMA32", "Normal", "Movable", "Device"]),
    ((("Normal", (0, 0, 7)), ("HighMem", (0, 0, 0))), ["Normal", "HighMem", "Movable"]),
    ((("DMA", (0, 0, 0)),), ["DMA", "Normal", "Movable"]),
    ((("DMA", (0, 3, 3)), ("Movable", (0, 0, 0))), ["DMA", "Normal", "Movable"]),
    ((("Normal", (0, 6)),), ["Normal", "Movable"]),
])
def test_types_of_zones(listed, types):
    """x86_32, x86_64 since 4.3, arm, powerpc."""
    found = parse_zoneinfo(listing(*listed))
    assert [list(zone.protection) for zone in found.values()] == [types] * len(listed)


# zoneinfo_show_print of mm/vmstat.c: lines between the free pages and the protection, those behind the per-CPU lists, whether
# empty zones are listed, and whether statistics of the node come first
VERSIONS = {
    "2.6.25": (("min", "low", "high", "scanned (a: i:)", "spanned", "present"),
               "  all_unreclaimable: 0\n  prev_priority:     12\n  start_pfn:         {}\n", False, False),
    "2.6.32": (("min", "low", "high", "scanned", "spanned", "present"),
               "  all_unreclaimable: 0\n  prev_priority:     12\n  start_pfn:         {}\n  inactive_ratio:    3\n",
               False, False),
    "3.10": (("min", "low", "high", "scanned", "spanned", "present", "managed"),
             "  all_unreclaimable: 0\n  start_pfn:         {}\n  inactive_ratio:    3\n", False, False),
    "4.4": (("min", "low", "high", "scanned", "spanned", "present", "managed"),
            "  all_unreclaimable: 0\n  start_pfn:         {}\n  inactive_ratio:    3\n", False, False),
    "4.10": (("min", "low", "high", "node_scanned", "spanned", "present", "managed"),
             "  node_unreclaimable:  0\n  start_pfn:           {}\n  node_inactive_ratio: 0\n", False, True),
    "4.18": (("min", "low", "high", "spanned", "present", "managed"),
             "  node_unreclaimable:  0\n  start_pfn:           {}\n", True, True),
    "5.4": (("min", "low", "high", "spanned", "present", "managed"),
            "  node_unreclaimable:  0\n  start_pfn:           {}\n", True, True),
    "5.14": (("boost", "min", "low", "high", "spanned", "present", "managed", "cma"),      # of RHEL 9
             "  node_unreclaimable:  0\n  start_pfn:           {}\n", True, True),
    "5.15": (("min", "low", "high", "spanned", "present", "managed", "cma"),
             "  node_unreclaimable:  0\n  start_pfn:           {}\n", True, True),
    "6.6": (("boost", "min", "low", "high", "spanned", "present", "managed", "cma"),
            "  node_unreclaimable:  0\n  start_pfn:           {}\n", True, True),
    "6.18": (("boost", "min", "low", "high", "promo", "spanned", "present", "managed", "cma"),
             "  node_unreclaimable:  0\n  start_pfn:           {}\n", True, True),
}


def printed(mem, version):
    """What a kernel of that version prints of the machine, with the statistics that fastonline does not print."""
    lines, tail, empty, per_node = VERSIONS[version]
    text = ""
    for i, zone in enumerate(zone for zone in mem.zones.values() if empty or zone.populated):
        values = {
            "boost": 0, "min": zone.min, "low": zone.low, "high": zone.high, "promo": 2 * zone.high - zone.low,
            "scanned": 0, "scanned (a: i:)": "0 (a: 3 i: 2)", "node_scanned": 0, "spanned": zone.spanned_pages,
            "present": zone.present_pages, "managed": zone.managed_pages, "cma": 0,
        }
        text += f"Node {zone.nid}, zone {zone.name:>8}\n"
        if per_node and i == 0:
            text += "  per-node stats\n      nr_inactive_anon 188\n      nr_kernel_misc_reclaimable 0\n                   0\n"
        text += f"  pages free     {zone.free_pages}\n"
        for line in lines:
            text += f"{line:>15}  0\n" if line == "node_scanned" else f"        {line.split()[0]:<8} {values[line]}\n"
        statistics = f"    nr_free_pages {zone.free_pages}\n    high         77\n      nr_free_cma  0\n    nr_bounce    0\n"
        protection = f"        protection: ({', '.join(map(str, zone.protection))})\n"
        text += protection + statistics * zone.populated if empty else statistics + protection
        if zone.populated:
            text += "  pagesets\n    cpu: 0\n              count: 7\n              high:  186\n              batch: 31\n"
            text += "              high_min: 186\n              high_max: 378\n  vm stats threshold: 10\n"
            text += tail.format(zone.start_pfn)
    return text


@pytest.mark.parametrize("version", VERSIONS)
def test_every_kernel(version, engine, tmp_path):
    """Expect the zones of the machine, and a machine that prints the lines of that kernel, whose text begins the same way."""
    rules = fo.LINUX_2_6_25 if version.startswith(("2.", "3.1")) else fo.LINUX_6_1
    mem = fo.Memory(fo.X86_64, boot="5G", rules=rules, engine=engine)
    mem.alloc_pages_bulk(1234)
    text = printed(mem, version)
    found = parse_zoneinfo(text)
    for key, info in found.items():
        zone = mem.zones[key]
        for name in ("min", "low", "high", "spanned_pages", "present_pages", "free_pages", "start_pfn"):
            assert getattr(info, name) == getattr(zone, name), (key, name)
        assert info.protection == dict(zip(mem.zones.names, zone.protection, strict=True))
    assert {key for key, zone in zip(mem.zones.keys(), mem.zones.values(), strict=True) if zone.populated} <= set(found)
    (tmp_path / "log").write_text(f"$ cat /proc/zoneinfo\n{text}{mem.buddyinfo()}")
    again = read_source(tmp_path / "log").machine(engine)
    again.validate()
    assert again.buddyinfo() == mem.buddyinfo()
    names = ("Node", "pages", *(line.split()[0] for line in VERSIONS[version][0]), "protection:", "start_pfn:")
    theirs = [line for line in text.splitlines() if line.split()[0] in names]
    ours = again.zoneinfo().splitlines()
    assert [line for line in ours if "scanned" not in line] \
        == [line for line in theirs if "scanned" not in line and not line.startswith("    high")]
    assert [line.split()[0] for line in ours if "scanned" in line] == [line.split()[0] for line in theirs if "scanned" in line]


def test_a_kernel_without_managed_pages():
    """Up to 3.8. Expect present_pages in its place."""
    (zone,) = parse_zoneinfo(listing(("Normal", (0, 0)), managed=False)).values()
    assert zone.managed_pages == zone.present_pages == 9


def test_boost_is_not_part_of_the_watermarks():
    """The text includes the boost. Expect min_free_kbytes to be that of the base: three times too high otherwise."""
    found = zones("z05_boost.zoneinfo")
    dma32 = found["DMA32"]
    assert (dma32.min, dma32.low, dma32.high, dma32.boost) == (8192, 10240, 12288, 5120)
    assert least_min_free_kbytes(found.values(), 4096) == least_min_free_kbytes(
        parse_zoneinfo((INPUTS / "z05_boost.zoneinfo").read_text().replace("boost    5120", "boost    0")
                       .replace("13312", "8192")).values(), 4096)


@pytest.mark.parametrize("name, first", [
    ("z06_per_node_stats_first.zoneinfo", ("Normal", 500, 524288, 500000)),
    ("z07_unnamed_statistic.zoneinfo", ("Normal", 500, 524288, 500000)),
    ("z08_empty_zones_with_reserve.zoneinfo", ("DMA", 0, 0, 0)),
])
def test_text_of_other_versions(name, first):
    zone = next(iter(zones(name).values()))
    assert (zone.name, zone.min, zone.present_pages, zone.managed_pages) == first


def test_a_node_without_memory():
    found = parse_zoneinfo((INPUTS / "z10_memoryless_node.zoneinfo").read_text())
    assert [zone.present_pages for (nid, _), zone in found.items() if nid == 1] == [0] * 4
    assert found[0, "DMA32"].protection == {"DMA": 0, "DMA32": 0, "Normal": 0, "Movable": 0}


def test_hidden_addresses():
    with pytest.raises(TextError, match=r"^iomem:2: the addresses are hidden \(all 0\)"):
        parse_iomem((INPUTS / "i02_hidden_by_kptr.iomem").read_text(), 4096)


def test_ram_three_levels_deep():
    ram = parse_iomem((INPUTS / "i03_dax_kmem.iomem").read_text(), 4096)
    assert len(ram) == 3 and ram[-1] == (0x148000, 0x240000 - 0x148000)


def test_line_ends_and_byte_order_marks():
    for text in (fo.Memory(fo.X86_64, boot="1G").zoneinfo(), listing(("Normal", (0, 0)))):
        assert parse_zoneinfo("\ufeff" + text.replace("\n", "\r\n")) == parse_zoneinfo(text)
    text = fo.Memory(fo.X86_64, boot="1G").buddyinfo()
    assert parse_buddyinfo("\ufeff" + text.replace("\n", "\r\n")) == parse_buddyinfo(text)


@pytest.mark.parametrize("rules", [fo.LINUX_2_6_25, fo.LINUX_6_1, fo.LINUX_6_12], ids=lambda rules: rules.name)
def test_what_a_machine_prints_is_read_again(rules, engine):
    mem = fo.Memory(fo.X86_64, boot="5G", rules=rules, engine=engine)
    found = parse_zoneinfo(mem.zoneinfo())
    assert {zone.name for zone in mem.zones.values() if zone.populated} <= {name for _, name in found}
    for key, info in found.items():
        zone = mem.zones[key]
        for name in ("min", "low", "high", "spanned_pages", "present_pages", "managed_pages", "free_pages", "start_pfn"):
            assert getattr(info, name) == getattr(zone, name), (key, name)
        assert tuple(info.protection.values()) == zone.protection
    assert parse_buddyinfo(mem.buddyinfo()) == {key: zone.nr_free for key, zone in mem.zones.items() if zone.populated}


@pytest.mark.parametrize("parse, text, message", [
    (parse_zoneinfo, "", "zoneinfo:1: no zone found"),
    (parse_zoneinfo, "MemTotal: 5 kB\n", "zoneinfo:1: no zone found"),
    (parse_zoneinfo, listing(("Normal", (0, 0)), ("Normal", (0, 0))), "zoneinfo:12: zone Normal of node 0 appears twice"),
    (parse_zoneinfo, listing(("Normal", (0, 0)))[:60], "zoneinfo:1: zone Normal of node 0 has 0 protection entries"),
    (parse_zoneinfo, listing(("Normal", (0, 0))).replace("present  9", "present  -9"), "zoneinfo:8: .* not a number of pages"),
    (parse_zoneinfo, listing(("Normal", (0, 0))).replace("present  9", "presents 9"), "zoneinfo:1: .* lacks some of its pages"),
    (parse_zoneinfo, listing(("Normal", (0, 0))).replace("low", "boost    7\n        low"), "zoneinfo:1: .* min is below"),
    (parse_zoneinfo, listing(("Strange", (0, 0, 0))), "zoneinfo:1: zone Strange of node 0 has 3 protection entries"),
    (parse_buddyinfo, "", "buddyinfo:1: no zone found"),
    (parse_buddyinfo, "Node 0, zone   Normal  1 2\nNode 0, zone  Movable  1\n", "buddyinfo:2: 1 orders, and 2 in the lines"),
    (parse_buddyinfo, "Node 0, zone   Normal  1 x\n", "buddyinfo:1: .* is not a zone"),
    (parse_blocks, "memory1 online Normal 1\nmemory0 online Normal 1\n", "blocks:2: .* out of order"),
    (lambda text: parse_iomem(text, 4096), "00000000-00ffffff : System RAM\nx\n", "iomem:2: 'x' is not a resource"),
    (lambda text: parse_iomem(text, 4096), "00000000-00ffffff : System RAM\n" * 2, "iomem:2: .* overlaps"),
])
def test_errors_name_the_line(parse, text, message):
    with pytest.raises(TextError, match=f"^{message}") as wrong:
        parse(text)
    assert "\n" not in str(wrong.value)


@given(data=st.data())
def test_damaged_text_is_refused_in_one_line_or_read(data):
    """Expect no other exception, whatever is cut, doubled or changed."""
    text = (INPUTS / data.draw(st.sampled_from(sorted(path.name for path in INPUTS.glob("*.zoneinfo"))))).read_text()
    at = data.draw(st.integers(0, len(text) - 1))
    text = data.draw(st.sampled_from((text[:at], text[at:], text[:at] + data.draw(st.text(max_size=3)) + text[at + 1 :])))
    try:
        parse_zoneinfo(text)
    except TextError as e:
        assert "\n" not in str(e)
