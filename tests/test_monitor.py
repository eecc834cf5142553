"""linux/monitor.py: mmtests' logs of buddyinfo and zoneinfo."""

import pytest

import fastonline as fo
from fastonline.lines import TextError
from fastonline.linux.monitor import read_monitor, read_samples


def history(engine):
    """A machine at three moments."""
    mem = fo.Memory(fo.X86_64, boot="256M", engine=engine)
    for _ in range(3):
        mem.alloc_pages_bulk(1000)
        yield mem


STAMPS = {
    "mmtests": lambda i: f"time: {1700000000 + 10 * i}\n",
    "date": lambda i: f"Thu Nov 26 14:15:0{i} UTC 2026\n",
    "iso": lambda i: f"2026-11-26T14:15:0{i}+00:00\n",
    "none": lambda i: "",
}


@pytest.mark.parametrize("stamp", STAMPS)
@pytest.mark.parametrize("what", ["buddyinfo", "zoneinfo"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_text_is_found(engine, tmp_path, what, stamp, end):
    texts = [getattr(mem, what)() for mem in history(engine)]
    path = tmp_path / "log"
    path.write_bytes("".join(STAMPS[stamp](i) + text for i, text in enumerate(texts)).replace("\n", end).encode())
    samples = list(read_samples(path))
    assert len(samples) == 3
    assert [sum(zone.free_pages for zone in sample.zones.values()) or sum(n << k for counts in sample.free.values()
            for k, n in enumerate(counts)) for sample in samples] == [65536 - 1000 * n for n in (1, 2, 3)]
    if stamp == "mmtests":
        assert [sample.time for sample in samples] == ["1700000000", "1700000010", "1700000020"]
    snapshot = read_monitor(path)
    assert snapshot.notes[0].startswith(f"{path}:{samples[2].nr}: the last of 3 texts is shown")
    if what == "buddyinfo":
        assert snapshot.buddyinfo() == texts[2]
    else:
        assert snapshot.machine(engine).zones["DMA32"].managed_pages == 61440


def test_a_cut_last_text_is_left_out(engine, tmp_path):
    """Cut in the midst of a line, and between two zones."""
    texts = [f"time: {i}\n{mem.buddyinfo()}" for i, mem in enumerate(history(engine))]
    for cut in (20, texts[2].index("\n", 10) + 1):
        (tmp_path / "log").write_text(texts[0] + texts[1] + texts[2][:cut])
        assert [sample.time for sample in read_samples(tmp_path / "log")] == ["0", "1"]


def test_a_buddyinfo_and_a_zoneinfo_in_one_file(engine, tmp_path):
    """What people paste: the commands before the texts. Expect one machine of both, and no remark."""
    *_, mem = history(engine)
    (tmp_path / "log").write_text(f"$ cat /proc/buddyinfo /proc/zoneinfo\n{mem.buddyinfo()}{mem.zoneinfo()}")
    snapshot = read_monitor(tmp_path / "log")
    again = snapshot.machine(engine)
    assert (again.buddyinfo(), again.zoneinfo(), snapshot.notes) == (mem.buddyinfo(), mem.zoneinfo(), [])


@pytest.mark.parametrize("content, message", [
    ("", ":1: no zone found"),
    ("time: 1\n", ":1: no zone found"),
    ("time: 1\nx\n", ":2: no zone found"),
    ("time: 1\nNode 0, zone Normal 1 2\ntime: 2\nx\n", ":4: 'x' is neither a zone nor a time"),
    ("Node 0, zone Normal 1 2\nx y\nNode 0, zone Normal 1 2\n", ":2: 'x y' is not a zone"),
    ("Node 0, zone Normal 1 x\n", ":1: .* is not a zone"),
])
def test_errors_name_the_line(tmp_path, content, message):
    (tmp_path / "log").write_text(content)
    with pytest.raises(TextError, match=f"^{tmp_path}/log{message}"):
        read_monitor(tmp_path / "log")
