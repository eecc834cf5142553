"""Workloads: what they demand at which time, and traces as they are found in files."""

import numpy as np
import pytest
from conftest import shared

from fastonline.cost.plain import KeyProblem
from fastonline.cost.workloads import KINDS, Workload, read_trace

MIB = 1 << 20
STEPS = ((10.0, 384 * MIB), (20.0, 256 * MIB))


def demand(seed=0, end=80.0, **given):
    times, wanted = Workload(**given).demand(256 * MIB, 384 * MIB, STEPS, end, seed)
    assert times[0] == 0 and np.all(np.diff(times) > 0) and wanted.dtype == np.int64 and np.all(wanted >= 0)
    return times, wanted


def test_a_ramp_follows_the_target():
    times, wanted = demand(in_use=0.5)
    assert times.tolist() == [0, 10, 20] and (wanted // MIB).tolist() == [128, 192, 128]


def test_a_sawtooth_climbs_and_falls():
    times, wanted = demand(kind="sawtooth", in_use=0.5, low=0.25, period=5.0, tick=1.0)
    assert times.size == 80
    assert wanted[0] == 64 * MIB and np.all(np.diff(wanted[:5]) > 0) and wanted[5] == wanted[0]
    assert wanted[10] == 96 * MIB and wanted.max() <= 192 * MIB


@pytest.mark.parametrize("kind", ["compile", "faas"])
def test_what_is_random_depends_on_the_seed_alone(kind):
    given = {"kind": kind, "in_use": 0.9, "job" if kind == "compile" else "instance": 8 * MIB}
    one, again, other = demand(**given)[1], demand(**given)[1], demand(seed=1, **given)[1]
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert one.max() <= 0.9 * 384 * MIB and one.std() > 0


def test_a_trace_follows_its_points():
    points = ((5.0, 100 * MIB), (9.0, 50 * MIB))
    times, wanted = demand(kind="trace", points=points)
    assert times.tolist() == [0, 5, 9] and (wanted // MIB).tolist() == [100, 100, 50]
    given = Workload(kind="trace", points=points)
    assert Workload.from_dict(given.as_dict()) == given


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_written_and_read(kind):
    given = Workload(kind=kind, points=((0.0, 5),) if kind == "trace" else ())
    assert Workload.from_dict(given.as_dict()) == given


# -- traces

def test_a_trace_with_a_column_of_demand(tmp_path):
    path = tmp_path / "t.csv"
    for text in ("time,demand\n0,100\n1.5,200\n", "\ufefftime, demand\r\n0,100\r\n\r\n1.5,200\r\n",
                 "x,demand,time\n1,100,0\n1,200,1.5"):
        path.write_bytes(text.encode())
        assert read_trace(path) == ((0.0, 100), (1.5, 200))
    path.write_text("s,bytes\n0,7\n")
    assert read_trace(path, time="s", demand="bytes") == ((0.0, 7),)


def test_a_trace_of_hyperalloc_bench():
    """total less 4096 times small, and 0 where that is negative; the third line of the reduced file has fewer bytes than
    pages."""
    points = read_trace(str(shared("inputs", "t01_hyperalloc_style.csv")))
    assert points == ((0.0, 2147483648 - 4096 * 400000), (2.5, 3221225472 - 4096 * 300000), (5.0, 4294967296 - 4096 * 700000),
                      (7.5, 0))


@pytest.mark.parametrize("text, says", [
    ("", "empty"),
    ("\n", "empty"),
    ("0,100\n1,200\n", "line 1: no header"),
    ("time,demand\n", "no line after the header"),
    ("time,demnd\n0,1\n", "line 1: no column 'total'"),
    ("time,demand\n0,1\n2,1\n1,1\n", "line 4: the time goes back"),
    ("time,demand\n0,1\nx,1\n", "line 3: "),
    ("time,demand\n0\n", "line 2: "),
    ("time,demand\n0,-5\n", "line 2: "),
    ("time,demand\n0,nan\n", "line 2: "),
    ("time,demand\n-1,5\n", "line 2: "),
    ("time,demand\n0,inf\n", "line 2: "),
    ("a\0b", "NUL"),
])
def test_what_is_no_trace_is_refused(tmp_path, text, says):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ValueError) as e:
        read_trace(path)
    assert str(path) in str(e.value) and says in str(e.value)


def test_a_trace_is_found_beside_its_scenario(tmp_path):
    (tmp_path / "t.csv").write_text("time,demand\n0,100\n")
    given = {"kind": "trace", "trace": "t.csv"}
    assert Workload.from_dict(given, str(tmp_path)).points == ((0.0, 100),)
    with pytest.raises(FileNotFoundError, match="none.csv"):
        Workload.from_dict({"kind": "trace", "trace": "none.csv"}, str(tmp_path))
    with pytest.raises(KeyProblem, match="not both"):
        Workload.from_dict({**given, "points": [[0, 1]]}, str(tmp_path))
    with pytest.raises(KeyProblem, match="there is no trace"):
        Workload.from_dict({"kind": "trace", "demand": "x", "points": [[0, 1]]})
    with pytest.raises(KeyProblem, match="points"):
        Workload.from_dict({"kind": "trace"})
    with pytest.raises(KeyProblem, match="points"):
        Workload.from_dict({"kind": "trace", "points": [[3, 1], [2, 1]]})
