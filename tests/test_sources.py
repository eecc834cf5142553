"""linux/sources.py and `fastonline show`: whatever shows a machine, told by its content."""

import json
import os
from pathlib import Path

import pytest

import fastonline as fo
from fastonline.cli import main
from fastonline.linux.sources import names_trace, read_source

DATA = Path(__file__).parent / "data"


@pytest.fixture
def run(capfd):
    """``run(*args)`` -> (exit status, standard output, standard error)."""
    def run(*args):
        try:
            status = main([str(arg) for arg in args])
        except SystemExit as e:     # argparse
            status = e.code
        return status, *capfd.readouterr()
    return run


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
    assert run("show", "zoneinfo", path)[0] == 0


@pytest.mark.parametrize("what, content, message", [
    ("lsmem", "Node 0, zone   Normal   1   2\n", "there are no memory blocks in it"),
    ("zoneinfo", "Node 0, zone   Normal   1   2\n", "neither zones nor memory blocks"),
    ("lsmem", "time,size\n1,2\n", "a table: see fastonline balloon"),
    ("lsmem", "# tracer: nop\n", "a trace of page allocations: see fastonline replay"),
    ("lsmem", json.dumps({"format": "memory-hotplug-recording/1", "steps": []}), "a recording of what a kernel did: see fastonline replay"),
    ("lsmem", "", "neither a saved machine nor a capture"),
    ("lsmem", "\0\0\0", "the file is not text"),
])
def test_one_line_for_what_cannot_be_used(run, tmp_path, what, content, message):
    (tmp_path / "file").write_text(content)
    status, out, err = run("show", what, tmp_path / "file")
    assert (status, out) == (2, "") and err.startswith(f"fastonline: {tmp_path}/file: ") and message in err
    assert len(err.splitlines()) == 1


def test_what_is_no_file(run, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, message in ((tmp_path, "there is no pages.npz in it"), (tmp_path / "fifo", "not a regular file"),
                          (tmp_path / "none", "No such file")):
        status, _, err = run("show", "lsmem", path)
        assert status == 2 and message in err and len(err.splitlines()) == 1


def test_replay_takes_traces(run):
    trace = DATA / "texts" / "trace.txt"
    assert names_trace(trace) and not names_trace(DATA / "texts" / "oom-6.1.txt")
    status, out, _ = run("replay", trace)
    assert status == 0 and "2 allocations, 2 frees" in out
    assert json.loads(run("replay", "--json", trace)[1])["unknown"] == 1
