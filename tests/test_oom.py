"""linux/oom.py: Mem-Info of OOM reports and sysrq-m."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from fastonline.lines import TextError
from fastonline.linux.oom import read_mem_info

TEXTS = Path(__file__).parent / "data" / "texts"


def test_a_report_of_6_1(engine):
    """Time stamps and types of free blocks. Expect the zones, without the boost in the watermarks, and the free blocks."""
    snapshot = read_mem_info(TEXTS / "oom-6.1.txt")
    assert snapshot.free == {
        (0, "DMA"): (0, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1),
        (0, "DMA32"): (590, 396, 212, 126, 67, 42, 21, 11, 2, 0, 1),
    }
    dma32 = snapshot.zones[0, "DMA32"]
    assert (dma32.min, dma32.boost, dma32.present_pages, dma32.managed_pages) == (11709 - 512, 512, 520160, 503760)
    assert snapshot.zones[0, "DMA"].protection["DMA32"] == 1927
    mem = snapshot.machine(engine)
    mem.validate()
    assert mem.buddyinfo() == snapshot.buddyinfo()
    assert mem.zones["DMA32"].managed_pages == 503760
    assert any("laid out" in line for line in snapshot.assumptions)


def test_a_report_of_2_6_32_in_syslog(engine):
    """No managed pages, no types, a list that the log has broken in two."""
    snapshot = read_mem_info(TEXTS / "oom-2.6.32.txt")
    assert snapshot.free[0, "Normal"] == (1, 0, 2, 0, 0, 1, 1, 0, 0, 0, 0)
    assert snapshot.zones[0, "Normal"].managed_pages == 262144
    assert snapshot.machine(engine).buddyinfo() == snapshot.buddyinfo()


def test_the_last_whole_report_counts(tmp_path):
    """Two reports, the second one cut. Expect the first, and a line that says so."""
    whole, path = (TEXTS / "oom-6.1.txt").read_text(), tmp_path / "log"
    second = whole.replace("590*4kB", "591*4kB").replace("[  123", "[  200")
    path.write_text(whole + second)
    assert read_mem_info(path).free[0, "DMA32"][0] == 591
    path.write_text(whole + second[: second.index("Node 0 DMA32: 5")])
    snapshot = read_mem_info(path)
    assert snapshot.free[0, "DMA32"][0] == 590
    assert snapshot.notes == [f"{path}:2: this Mem-Info is shown, the last whole one of 2"]


@pytest.mark.parametrize("edit, message", [
    (lambda text: "", ":1: no Mem-Info found"),
    (lambda text: "nothing of it\n" * 3, ":3: no Mem-Info found"),
    (lambda text: text[: text.index("Node 0 DMA32: ")], ":2: the Mem-Info that begins here is cut"),
    (lambda text: text.replace("min:348kB ", ""), ":2: zone DMA of node 0 has no 'min'"),
    (lambda text: text.replace("1*16kB (U) 1*32kB", "1*32kB"), ":2: the orders of zone DMA of node 0 are not whole"),
    (lambda text: text.replace("present:15992kB", "present:99999999999999kB"), "exceed the largest machine"),
])
def test_errors_name_the_line(tmp_path, edit, message):
    path = tmp_path / "log"
    path.write_text(edit((TEXTS / "oom-6.1.txt").read_text()))
    with pytest.raises(ValueError) as wrong:
        read_mem_info(path).machine()
    assert str(wrong.value).startswith(str(path)) and message in str(wrong.value) and "\n" not in str(wrong.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_logs(data, tmp_path):
    """Whatever is cut or changed: one line, or a machine that is sound."""
    text, path = (TEXTS / "oom-6.1.txt").read_text(), tmp_path / "log"
    at = data.draw(st.integers(0, len(text) - 1))
    other = text[:at] + data.draw(st.sampled_from("09 x:\n=*")) + text[at + 1 :]
    path.write_text(data.draw(st.sampled_from((text[:at], text[at:], other))))
    try:
        read_mem_info(path).machine().validate()
    except ValueError as e:
        assert "\n" not in str(e)


def test_binary_files(tmp_path):
    for content, message in ((b"a\0b", ":1: the file is not text"), (b"x" * 100000, ":1: the line is longer than"),
                             ("Mem-Info:\n".encode("utf-16"), ":1: the text is UTF-16"),
                             (b"\x1f\x8b\x08", ":1: the file is compressed")):
        (tmp_path / "log").write_bytes(content)
        with pytest.raises(TextError, match=message):
            read_mem_info(tmp_path / "log")
