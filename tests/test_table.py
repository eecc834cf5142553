"""drivers/table.py: targets for `fastonline balloon` from tables that people have."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from fastonline.drivers.table import read_targets

TABLE = Path(__file__).parent / "data" / "inputs" / "t01_hyperalloc_style.csv"


def written(tmp_path, text):
    (tmp_path / "table").write_bytes(text.encode())
    return tmp_path / "table"


def test_columns_by_name():
    """Expect whole 4 KiB of the bytes in the column that was named."""
    assert read_targets(TABLE, "total") == [(0.0, 2 << 30), (2.5, 3 << 30), (5.0, 4 << 30), (7.5, 2 << 30)]
    assert read_targets(TABLE, "rss")[0] == (0.0, 600000000 // 4096 * 4096)
    with pytest.raises(ValueError, match=rf"^{TABLE}:1: which column holds the sizes\? name one of: rss, small, huge"):
        read_targets(TABLE)
    with pytest.raises(ValueError, match=rf"^{TABLE}:1: no column 'x' \(expected one of time, rss, "):
        read_targets(TABLE, "x")


@pytest.mark.parametrize("text, found", [
    ("time,target\n0,1G\n2.5,1.5G\n10,768M\n", [(0.0, 1 << 30), (2.5, 3 << 29), (10.0, 768 << 20)]),
    ("0,1G\n5,2G\n", [(0.0, 1 << 30), (5.0, 2 << 30)]),
    ("\ufefftime;rss_kb;other\r\n0;1024;x\r\n1;2048;y\r\n", None),
    ("t\tsize\n0\t4096\n", [(0.0, 4096)]),
    ("# made by hand\n\nsize,when\n4096,0:00:01\n8192,0:01:00\n", [(1.0, 4096), (60.0, 8192)]),
    ("timestamp,mem (MiB)\n1700000000,1\n1700000060,2.5\n", [(0.0, 1 << 20), (60.0, 5 << 19)]),
    ("date,size\n2026-11-26T14:00:00,1M\n2026-11-26T14:00:05,2M\n", [(0.0, 1 << 20), (5.0, 2 << 20)]),
    ("time_ms,size\n0,1e6\n1500,1M\n", [(0.0, 999424), (1.5, 1 << 20)]),
    ("time,size,extra\n0,1M,a\n1,2M,b,c,d\n2,3", [(0.0, 1 << 20), (1.0, 2 << 20)]),
])
def test_what_tables_hold(tmp_path, text, found):
    """Separators, line ends, units, times of all kinds, extra fields, a last line that is cut."""
    path = written(tmp_path, text)
    if found is None:
        assert read_targets(path, "rss_kb") == [(0.0, 1 << 20), (1.0, 2 << 20)]
    else:
        time = "when" if "when" in text else None
        assert read_targets(path, time=time) == found


@pytest.mark.parametrize("text, message", [
    ("", ":1: the table is empty"),
    ("time,target\n", ":1: the table has no line with a size"),
    ("0,1G\nx,1G\n", ":2: 'x,1G': no time in column 'time'"),
    ("0,1G\n1,lots\n", ":2: '1,lots': no time"),
    ("time,size\n1\n2,1G\n", ":2: 1 fields, and 2 columns"),
    ("5,1G\n1,1G\n", ":2: time '1' is below 0, or below the one before it"),
    ("-5,1G\n", ":1: time '-5' is below 0"),
    ("time,size\nnan,1G\n", ":2: 'nan,1G': no time"),
    ("time\n1\n", ":1: there is no size"),
])
def test_errors_name_the_line(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ValueError) as wrong:
        read_targets(path)
    assert str(wrong.value).startswith(f"{path}{message}")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_tables(data, tmp_path):
    text = TABLE.read_text()
    at = data.draw(st.integers(0, len(text) - 1))
    end = at + data.draw(st.integers(0, 40))
    path = written(tmp_path, text[:at] + data.draw(st.text("0,\"\n-x.", max_size=3)) + text[end:])
    try:
        found = read_targets(path, "total")
    except ValueError as e:
        assert "\n" not in str(e)
    else:
        assert found == sorted(found, key=lambda target: target[0])


def test_balloon_takes_a_table(run):
    status, out, err = run("balloon", "virtio-mem", TABLE, "--column", "total", "--host", "8G", "--max-memory", "5G")
    assert (status, err) == (0, "") and len(out.splitlines()) >= 5
