"""linux/sources.py and `fastonline show`: whatever shows a machine, told by its content."""

import json
import os
import re
import tracemalloc
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import fastonline as fo
from fastonline.drivers.table import read_targets
from fastonline.linux.recording import Recording
from fastonline.linux.sources import names_trace, read_source
from fastonline.linux.trace import replay_trace

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
    ("lsmem", "", ":1: the file is empty"),
    ("lsmem", "nothing\n", ":1: neither a saved machine nor a capture, nor a text that shows one"),
    ("lsmem", "a\n\0\0\0", ":2: the file is not text, and neither a saved machine nor a capture"),
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


@cache
def corpus():
    """A text of every kind that is read, by name."""
    mem = fo.Memory(fo.X86_64, boot="256M", rules=fo.LINUX_6_1)
    mem.add_memory(32 * 32768, 32768)
    mem.blocks[32].online("online_movable")
    mem.free_pfns(mem.alloc_pages_bulk(300)[::3])
    paths = [*(DATA / "texts").iterdir(), *(DATA / "inputs").glob("*.*o*"), *(DATA / "inputs").glob("*.csv"),
             DATA / "linux-6.18-24g" / "buddyinfo", DATA / "linux-6.18-24g" / "iomem"]
    return {path.name: path.read_bytes() for path in sorted(paths)} | {name: text.encode() for name, text in {
        "lsmem": mem.lsmem(), "lsmem.json": (DATA / "linux-6.18-24g" / "lsmem.json").read_text(),
        "lsmem-2.42": mem.lsmem("2.42"), "pagetypeinfo": mem.pagetypeinfo(),
        "monitor": "".join(f"time: {i}\n{mem.buddyinfo()}" for i in range(3)), "both": mem.buddyinfo() + mem.zoneinfo(),
        "page-types": "offset\tlen\tflags\n" + "".join(f"{i * 64:x}\t40\t{'_B'[i % 2]}{'_' * 39}\n" for i in range(64)),
        "dmesg": "[    0.0] BIOS-provided physical RAM map:\n[    0.0] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] "
                 "usable\n[    0.0] BIOS-e820: [mem 0x0000000000100000-0x000000000fffffff] usable\n[    0.0] Early memory node "
                 "ranges\n[    0.0]   node   0: [mem 0x0000000000001000-0x000000000fffffff]\n",
    }.items()}


NUMBERS = (b"0", b"-1", b"18446744073709551615", b"4294967296", b"9" * 25, b"x", b"", b"0x", b"1e999", b"007")


def damaged(data, text):
    """The text, cut, doubled, exaggerated, or with other bytes in it."""
    at, end = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
    numbers = [match.span() for match in re.finditer(rb"\d+", text)] or [(0, 0)]
    first, last = numbers[data.draw(st.integers(0, len(numbers) - 1))]
    return data.draw(st.sampled_from((
        text[:at], text[at:], text[:at] + text[end:], text[:end] + text[at:], text.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + text, text[:first] + data.draw(st.sampled_from(NUMBERS)) + text[last:],
        text[:at] + data.draw(st.binary(min_size=1, max_size=3)) + text[at:],
    )))


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_texts(data, tmp_path):
    """Expect one line that names the file, and a line that it has if it names one; or a machine that is sound."""
    name = data.draw(st.sampled_from(sorted(corpus())))
    text = damaged(data, damaged(data, corpus()[name]))
    path = tmp_path / "file"
    path.write_bytes(text)
    read = replay_trace if name == "trace.txt" else read_targets if name.endswith(".csv") else \
        lambda path: read_source(path).machine().validate()
    try:
        read(path)
    except ValueError as e:
        found = re.match(rf"{path}:(?:(\d+):)? ", str(e))
        assert found and "\n" not in str(e), str(e)
        assert not found[1] or 1 <= int(found[1]) <= max(1, len(text.splitlines()))


def test_memory_stays_proportional_to_the_file(tmp_path):
    """Lines without end, and files of many lines none of which is of use. Expect less memory than some copies of the file."""
    path, size = tmp_path / "file", 1 << 19
    for i, content in enumerate((b"x" * size, b"time,size\n" + b"1," * (size // 2), b"garbage\n" * (size // 8),
                    b"Mem-Info:\n" + b"garbage\n" * (size // 8), b"# tracer: nop\n" * (size // 14))):
        path.write_bytes(content)
        for read in (read_source, read_targets, replay_trace, Recording.load)[: 4 if i == 2 else 1]:
            tracemalloc.start()
            with pytest.raises(ValueError, match=f"^{path}:[0-9]+: "):
                read(path)
            assert tracemalloc.get_traced_memory()[1] < 4 * size
            tracemalloc.stop()
