"""linux/sources.py and `fastonline show`: whatever shows a machine, told by its content."""

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import fastonline as fo
from fastonline.linux.sources import names_trace, read_source

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("path, kind", [
    ("linux-6.18-24g", "Capture"), ("inputs/c01_heads_only_capture", "Capture"), ("inputs/l01_tree", "Snapshot"),
    ("inputs/z05_boost.zoneinfo", "Snapshot"), ("linux-6.18-24g/buddyinfo", "Snapshot"), ("texts/oom-6.1.txt", "Snapshot"),
])
def test_kinds(path, kind):
    assert type(read_source(DATA / path)).__name__ == kind


def test_saved_machines_and_captures(tmp_path):
    mem = fo.Memory(fo.X86_64, boot="128M")
    mem.save(tmp_path / "machine")
    fo.Capture.load(DATA / "linux-6.18-24g").save(tmp_path / "capture")
    assert read_source(tmp_path / "machine").machine().buddyinfo() == mem.buddyinfo()
    assert type(read_source(tmp_path / "capture")).__name__ == "Capture"


def test_pagetypeinfo_and_lsmem(tmp_path):
    """Each alone tells of free blocks, or of memory blocks."""
    mem = fo.Memory(fo.X86_64, boot="512M")
    (tmp_path / "pagetypeinfo").write_text(mem.pagetypeinfo())
    assert read_source(tmp_path / "pagetypeinfo").buddyinfo() == mem.buddyinfo()
    (tmp_path / "lsmem").write_text(mem.lsmem("2.42"))
    assert read_source(tmp_path / "lsmem").lsmem() == mem.lsmem()


def test_iomem(run):
    """RAM three levels deep, of dax_kmem. Expect its three ranges."""
    status, out, err = run("show", "iomem", DATA / "inputs" / "i03_dax_kmem.iomem")
    assert status == 0 and len(err.splitlines()) == 1
    assert out.splitlines()[2] == "148000000-23fffffff : System RAM"


def test_show_a_tree(run):
    """Only the table, nothing on standard error."""
    path = DATA / "inputs" / "l01_tree"
    assert run("show", "lsmem", path) == (0, (DATA / "inputs" / "l01_lsmem_expected.txt").read_text(), "")


def test_show_says_what_it_takes_for_granted(run):
    status, out, err = run("show", "zoneinfo", DATA / "texts" / "oom-6.1.txt")
    assert status == 0 and "managed  503760" in out
    assert len(err.splitlines()) == 2 and "laid out" in err


@pytest.mark.parametrize("path", sorted((DATA / "inputs").glob("z*.zoneinfo")), ids=lambda path: path.name[:3])
def test_show_every_zoneinfo(run, path):
    """Expect the zones and the lines that the kernel printed, but for free pages, spans and statistics."""
    status, out, _ = run("show", "zoneinfo", path)
    assert status == 0
    names = ["Node", "boost", "min", "low", "high", "promo", "scanned", "present", "managed", "cma", "start_pfn:",
             "protection:"]
    theirs, ours = (
        [line.split() for line in text.splitlines() if line.split()[0] in names and "per-node" not in line]
        for text in (path.read_text(), out)
    )
    assert ours == theirs


@pytest.mark.parametrize("what, content, message", [
    ("lsmem", "Node 0, zone   Normal   1   2\n", "it has no memory blocks"),
    ("zoneinfo", "Node 0, zone   Normal   1   2\n", "neither zones nor memory blocks"),
    ("lsmem", "time,size\n1,2\n", "a table: see fastonline balloon"),
    ("lsmem", "# tracer: nop\n", "a trace of page allocations: see fastonline replay"),
    ("lsmem", '{"format": "memory-hotplug-recording/1", "steps": []}', "a recording of what a kernel did: see fastonline"),
    ("iomem", "00000000-00000000 : System RAM\n", "the addresses are hidden (all 0)"),
    ("lsmem", "", "neither a saved machine nor a capture"),
    ("lsmem", "\0\0\0", "the file is not text"),
])
def test_one_line_for_what_cannot_be_used(run, tmp_path, what, content, message):
    (tmp_path / "file").write_text(content)
    status, out, err = run("show", what, tmp_path / "file")
    assert (status, out) == (2, "") and err.startswith(f"fastonline: {tmp_path}/file:") and message in err
    assert len(err.splitlines()) == 1


def test_what_is_no_file(run, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, message in ((tmp_path, "it has no pages.npz"), (tmp_path / "fifo", "not a regular file"),
                          (tmp_path / "none", "No such file")):
        status, _, err = run("show", "lsmem", path)
        assert status == 2 and message in err and len(err.splitlines()) == 1


def test_replay_takes_traces(run):
    trace = DATA / "texts" / "trace.txt"
    assert names_trace(trace) and not names_trace(DATA / "texts" / "oom-6.1.txt")
    status, out, _ = run("replay", trace)
    assert status == 0 and "2 allocations, 2 frees" in out
    assert json.loads(run("replay", "--json", trace)[1])["unknown"] == 1


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_texts(data, tmp_path):
    """Whatever is cut, doubled or exaggerated: one line, or a machine that is sound."""
    path = data.draw(st.sampled_from([DATA / "texts" / "oom-6.1.txt", DATA / "texts" / "oom-2.6.32.txt",
                                      DATA / "linux-6.18-24g" / "buddyinfo", *sorted((DATA / "inputs").glob("z*.zoneinfo"))]))
    text = path.read_text()
    at, end = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
    number = data.draw(st.sampled_from(("0", "-1", "18446744073709551615", "4294967296", "99999999999999999999", "x")))
    numbers = [match.span() for match in re.finditer(r"\d+", text)]
    first, last = data.draw(st.sampled_from(numbers))
    text = data.draw(st.sampled_from((text[:at], text[at:], text[:at] + text[end:], text[:end] + text[at:],
                                      text[:first] + number + text[last:])))
    (tmp_path / "file").write_text(text)
    try:
        read_source(tmp_path / "file").machine().validate()
    except ValueError as e:
        assert str(e).startswith(f"{tmp_path}/file:") and "\n" not in str(e)
