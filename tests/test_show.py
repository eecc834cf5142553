"""cli/show.py and cli/tables.py: what `fastonline show` prints of a machine, and its answers."""

import json
from pathlib import Path

import pytest

import fastonline as fo
from fastonline.cli.show import FIGURES, QUESTIONS, TEXTS
from fastonline.hotplug import questions
from fastonline.tables import bar, short, table

CAPTURED = Path(__file__).parent / "data" / "linux-6.18-24g"


@pytest.fixture
def mem():
    mem = fo.Memory(fo.X86_64, boot="512M")
    mem.add_memory(1 << 20, 1 << 16)
    mem.online_pages(1 << 20, 1 << 15, fo.MMOP_ONLINE_MOVABLE)
    mem.alloc_contig_range(1 << 20, 300)
    return mem


@pytest.fixture
def saved(mem, tmp_path):
    mem.save(tmp_path / "machine")
    return tmp_path / "machine"


def test_summary(run, saved):
    status, out, err = run("show", "summary", saved)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("X86_64, rules of Linux 6.12, pages of 4K, min_free_kbytes ")
    assert lines[1] == "6 memory blocks of 128M: 5 online, 1 offline (33)"
    assert lines[3] == "zone       start pfn  present  managed    free  #used .free -not managed"
    assert lines[6] == "0/Movable   0x100000     128M     128M  126.8M  #........................"
    assert lines[-1] == "   10     4M      4      124         31"


def test_rules_are_the_users_choice(run, saved):
    """A capture does not tell under which rules its machine goes on. A saved machine keeps its own."""
    assert run("show", "summary", CAPTURED)[1].startswith("X86_64, rules of Linux 6.12,")
    status, out, err = run("show", "summary", CAPTURED, "--rules", "6.1")
    assert status == 0 and out.startswith("X86_64, rules of Linux 6.1,")
    for given, said in (("6.1", "a saved machine keeps its rules, 6.12"), ("six", "invalid rules 'six' (expected")):
        status, out, err = run("show", "summary", saved, "--rules", given)
        assert status == 2 and out == "" and said in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "what", [name for name in (*FIGURES, *TEXTS, *QUESTIONS) if name not in ("pages", "pagetypeinfo", "buddyinfo")]
)
def test_everything_fits_80_columns(run, what):
    """But the kernel's own texts."""
    status, out, err = run("show", what, CAPTURED)
    assert (status, err) == (0, "") and out
    assert max(map(len, out.splitlines())) <= 80


def test_pages(run, saved):
    """Runs of pages alike, both ends of the range included; one page alone."""
    assert run("show", "pages", "0xfffff-1048975", saved)[1].splitlines() == [
        "pages              number  zone       flags",
        "0xfffff-0xfffff         1  -          0",
        "0x100000-0x10012b     300  0/Movable  PG_prepared",
        "0x10012c-0x10018f     100  0/Movable  PG_buddy|PG_prepared",
    ]
    assert len(run("show", "pages", "0x100000", saved)[1].splitlines()) == 2


def test_json_of_summary_pages_and_zonelists(run, saved, mem, tmp_path):
    figures = json.loads(run("show", "summary", saved, "--json", "-")[1])
    head = {"geometry": "X86_64", "rules": "6.12", "page_size": 4096, "pages_per_block": 32768}
    assert {name: figures[name] for name in head} == head
    assert [block["nr"] for block in figures["blocks"] if block["state"] == "offline"] == [33]
    movable = mem.zones["Movable"]
    found = next(zone for zone in figures["zones"] if zone["name"] == "Movable")
    assert found.pop("nr_free") == list(movable.nr_free)
    assert found == {name: getattr(movable, name) for name in found} and len(found) == 7
    assert json.loads(run("show", "pages", "0xfffff-0x10012b", saved, "--json", "-")[1]) == [
        {"start_pfn": 0xFFFFF, "nr_pages": 1, "zone": None, "flags": "0"},
        {"start_pfn": 0x100000, "nr_pages": 300, "zone": "0/Movable", "flags": "PG_prepared"},
    ]
    # a file gets the JSON, and the text is printed all the same
    status, out, err = run("show", "zonelists", saved, "--json", tmp_path / "z.json")
    assert (status, err) == (0, "") and out == run("show", "zonelists", saved)[1]
    first = json.loads((tmp_path / "z.json").read_text())[0]
    assert first == {"nid": 0, "allocations": "kernel", "zones": ["0/DMA32", "0/DMA"]}
    assert run("show", "buddyinfo", saved, "--json", "-")[0] == 2


def test_iomem_and_zonelists(run, saved, mem):
    assert run("show", "iomem", saved)[1] == mem.resources.text()
    assert run("show", "zonelists", saved)[1] == (
        "node 0 kernel  0/DMA32 0/DMA\nnode 0 movable 0/Movable 0/DMA32 0/DMA\n"
    )


def test_lsmem_styles(run, saved, mem):
    assert run("show", "lsmem", saved, "--style", "2.42")[1] == mem.lsmem("2.42")


def test_watch(run, saved, mem):
    """Three times, with an empty line between."""
    status, out, _ = run("show", "buddyinfo", saved, "--watch", "0.1", "--count", "3")
    assert (status, out) == (0, "\n".join([mem.buddyinfo()] * 3))


def test_offlineable(run, saved):
    """Runs of blocks alike are one row."""
    lines = run("show", "offlineable", saved)[1].splitlines()
    assert lines[1:] == [
        "     0   no            it spans several zones: DMA, DMA32",
        "   1-3  yes",
        "    32   no  0x100000  300 pages in use cannot move",
        "    33   no            it is offline",
        "3 of 6 memory blocks can go offline, each by itself",
    ]
    assert "(slab)" in run("show", "offlineable", CAPTURED)[1]


@pytest.mark.parametrize("what, ask", [
    ("offlineable", questions.offlineable), ("growable", questions.growable), ("shrinkable", questions.shrinkable),
    ("hugepages", questions.huge_pages), ("accounting", questions.accounting),
])
def test_json_is_what_python_answers(run, saved, mem, what, ask):
    found = json.loads(run("show", what, saved, "--json", "-")[1])
    answer = ask(mem)
    found, answer = (one if isinstance(one, list) else [one] for one in (found, answer))
    for plain, one in zip(found, answer, strict=True):
        assert all(getattr(one, name) == value or isinstance(value, list) for name, value in plain.items())


def test_accounting(run, saved):
    lines = run("show", "accounting", saved)[1].splitlines()
    assert lines[1] == "logical size  196608    768M  System RAM; 256M of it hot-added"
    assert lines[2] == "- offline     -32768   -128M  memory blocks that are not online"


@pytest.mark.parametrize("size, text", [
    (0, "0"), (4096, "4K"), (1 << 30, "1G"), (1536 << 20, "1536M"), ((24 << 30) - 4096, "24.0G"), (123456789, "117.7M"),
    (999, "999"), (100001, "97.7K"),
])
def test_short_sizes(size, text):
    assert short(size) == text


def test_bars():
    assert bar((("#", 1), (".", 99)), 10) == "#........."
    assert bar((("#", 50), (".", 50)), 10) == "#####....."
    assert bar((("#", 0), (".", 0)), 10) == ""
    assert len(bar((("#", 1), (".", 1), ("-", 10**9)), 10)) == 10
    assert table([("a", "b"), ("cc", "d")], "<>") == ["a   b", "cc  d"]
