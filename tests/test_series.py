"""Drivers taken through targets, as the balloon command does."""

import json

import pytest
from drivers_common import NEW, OLD

from fastonline import S390X, LINUX_6_12, HotplugError
from fastonline.drivers.series import parse_targets, read_targets, run_series

RUNS = [
    ("xen", OLD, {"behaviour": "2.6.26"}, [32, 32, 24]),
    ("xen", OLD, {"behaviour": "thread"}, [32, 48, 24]),
    ("xen", NEW, {"behaviour": "3.1", "udev_delay": 1.0}, [32, 48, 24]),
    ("xen", NEW, {"order": 9}, [32, 48, 24]),
    ("hyperv", NEW, {}, [32, 48, 24]),
    ("cmm", NEW, {}, [32, 32, 24]),
    ("cmm", NEW, {"behaviour": "cmm2"}, [24, 24, 24]),
]


@pytest.mark.parametrize("name, kind, options, actual", RUNS, ids=lambda value: value if isinstance(value, str) else "")
def test_runs(name, kind, options, actual):
    scattered = "order" not in options
    series = run_series(name, parse_targets("32M,48M,24M"), *kind, "32M", "64M", scattered=scattered, call_ns=500, **options)
    assert [s.target >> 20 for s in series.samples] == [32, 48, 24]
    assert [s.actual >> 20 for s in series.samples] == actual
    assert [s.time for s in series.samples] == [60.0, 120.0, 180.0]
    assert sum(s.calls for s in series.samples) * 500 == sum(s.call_ns for s in series.samples)
    assert series.steps[-1] == (180.0, series.samples[-1].actual)
    assert json.loads(json.dumps(series.as_dict()))["driver"] == name
    lines = str(series).splitlines()
    assert len(lines) == 5 and lines[1].split()[1:3] == ["32M", f"{actual[0]}M"]


def test_it_is_deterministic():
    runs = [run_series("xen", parse_targets("48M,20M,56M"), *NEW, "32M", "64M", scattered=True, seed=3) for _ in range(2)]
    assert runs[0].steps == runs[1].steps and runs[0].calls == runs[1].calls


def test_a_csv_of_time_and_target(tmp_path):
    path = tmp_path / "targets.csv"
    path.write_text("time,target\n0,1G\n2.5,1.5G\n\n10,805306368\n")
    assert read_targets(path) == [(0.0, 1 << 30), (2.5, 3 << 29), (10.0, 768 << 20)]
    for text, why in (("1,2,3\n", "line 1"), ("0,1G\nx,1G\n", "line 2"), ("0,1G\n1,lots\n", "line 2"),
                      ("5,1G\n1,1G\n", "ascending"), ("nan,1G\n", "ascending"), ("", "no target"), ("time,target\n", "no target")):
        path.write_text(text)
        with pytest.raises(ValueError, match=why):
            read_targets(path)
    with pytest.raises(FileNotFoundError):
        read_targets(tmp_path / "nothing.csv")


@pytest.mark.parametrize("text", ["", " , ", "1G,,2G", "1G;2G", "big"])
def test_what_are_no_targets(text):
    with pytest.raises(ValueError):
        parse_targets(text)


@pytest.mark.parametrize("change, error, match", [
    ({"name": "vmware"}, ValueError, "no driver 'vmware'"),
    ({"targets": [(0.0, 100)]}, ValueError, "whole number of pages"),
    ({"behaviour": "4.0"}, ValueError, "no Xen balloon '4.0'"),
    ({"name": "cmm", "behaviour": "cmm3"}, ValueError, "no CMM 'cmm3'"),
    ({"host_memory": "16M"}, HotplugError, "cannot be built"),
])
def test_bad_arguments(change, error, match):
    arguments = {"name": "xen", "targets": [(0.0, 1 << 25)], "geometry": NEW[0], "rules": NEW[1], "boot": "32M",
                 "host_memory": "64M"} | change
    with pytest.raises(error, match=match):
        run_series(**arguments)


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    series = run_series("cmm", parse_targets("256M,192M"), S390X, LINUX_6_12, "256M", "512M")
    series.plot(tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
