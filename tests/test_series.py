"""Drivers taken through targets."""

import json
import re

import pytest
from drivers_common import NEW, OLD

from fastonline import LINUX_6_12, S390X, X86_64, HotplugError
from fastonline.drivers.series import parse_targets, run_series

RUNS = [
    ("xen", OLD, {"behaviour": "2.6.26"}, [32, 32, 24]),
    ("xen", OLD, {"behaviour": "thread"}, [32, 48, 24]),
    ("xen", NEW, {"behaviour": "3.1", "udev_delay": 1.0}, [32, 48, 24]),
    ("xen", NEW, {"order": 9}, [32, 48, 24]),
    ("virtio", NEW, {"reporting": True}, [32, 32, 24]),
    ("virtio-mem", NEW, {}, [32, 48, 32]),
    ("virtio-mem", NEW, {"block_size": "16M", "udev_delay": 1.0}, [32, 48, 32]),
    ("hyperv", NEW, {}, [32, 48, 24]),
    ("cmm", NEW, {}, [32, 32, 24]),
    ("cmm", NEW, {"behaviour": "cmm2"}, [32, 32, 24]),
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
    missed = [f"{s.time:.1f} s: target {s.target >> 20}M not reached: {s.obstacle}" for s in series.samples if s.obstacle]
    assert lines[1].split()[1:3] == ["32M", f"{actual[0]}M"] and lines[4:-1] == missed
    assert max(map(len, series.text(80).splitlines())) <= 80
    assert all(bool(s.obstacle) == (s.actual != s.target) for s in series.samples) or options.get("behaviour") == "cmm2"


def test_geometry_and_rules_by_name():
    kinds = ("x86-64", "v6.12"), (X86_64, LINUX_6_12)
    named, given = (run_series("xen", [(0.0, 64 << 20)], *kind, "64M", "128M") for kind in kinds)
    assert named.steps == given.steps and named.calls == given.calls


def test_it_is_deterministic():
    runs = [run_series("xen", parse_targets("48M,20M,56M"), *NEW, "32M", "64M", scattered=True, seed=3) for _ in range(2)]
    assert runs[0].steps == runs[1].steps and runs[0].calls == runs[1].calls


@pytest.mark.parametrize("text", ["", " , ", "1G,,2G", "1G;2G", "big"])
def test_what_are_no_targets(text):
    with pytest.raises(ValueError):
        parse_targets(text)


@pytest.mark.parametrize("change, error, match", [
    ({"name": "vmware"}, ValueError, "invalid driver 'vmware'"),
    ({"behaviour": "4.0"}, ValueError, "invalid behaviour '4.0'"),
    ({"name": "cmm", "behaviour": "cmm3"}, ValueError, "invalid behaviour 'cmm3'"),
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


@pytest.mark.parametrize("name", ["virtio-mem", "hyperv"])
def test_what_is_plugged_and_not_online_is_not_usable(name):
    """User space is slower than the targets come. Expect that the table tells plugged from usable, and when each was there."""
    series = run_series(name, parse_targets("32M,48M,64M"), *NEW, "32M", "128M", udev_delay=70.0)
    assert [s.actual >> 20 for s in series.samples] == [32, 48, 64]
    assert [s.usable >> 20 for s in series.samples] == [32, 32, 48]
    assert [(s.plugged_s, s.usable_s) for s in series.samples] == [(0.0, 0.0), (0.0, None), (0.0, None)]
    lines = str(series).splitlines()
    assert lines[4].endswith("target 48M not usable: 16M is plugged and not online") and lines[4].startswith("120.0 s: ")
    prompt = run_series(name, parse_targets("32M,48M,40M"), *NEW, "32M", "128M", udev_delay=7.0)
    assert prompt.samples[1].plugged_s == 0.0 and 7.0 <= prompt.samples[1].usable_s <= 8.0


@pytest.mark.parametrize("name", ["xen", "virtio", "virtio-mem", "hyperv", "cmm", "dimm"])
def test_the_host_has_as_much_free_at_the_start_whatever_the_driver(name):
    series = run_series(name, parse_targets("32M"), *NEW, "32M", "128M")
    assert series.samples[0].host_free == 96 << 20


@pytest.mark.parametrize("name, options", [("virtio", {}), ("cmm", {}), ("cmm", {"behaviour": "cmm2"})])
def test_a_balloon_says_that_it_cannot_grow_past_boot_memory(name, options):
    series = run_series(name, parse_targets("48M"), *NEW, "32M", "128M", **options)
    assert series.samples[0].actual == 32 << 20 and "boot memory" in str(series)


@pytest.mark.parametrize("options", [{}, {"max_memory": "2G"}])
def test_the_region_of_virtio_mem_is_what_the_user_configures(options):
    series = run_series("virtio-mem", parse_targets("1100M"), X86_64, LINUX_6_12, "1G", "1151M", **options)
    assert series.samples[0].actual == series.samples[0].usable == 1100 << 20 and series.samples[0].host_free == 51 << 20


def test_plot_tells_target_from_actual(tmp_path):
    """Expect text in SVG, both lines named, and where the figure was made."""
    pytest.importorskip("matplotlib")
    run_series("cmm", parse_targets("256M,192M"), S390X, LINUX_6_12, "256M", "512M").plot(tmp_path / "run.svg")
    text = (tmp_path / "run.svg").read_text()
    for words in ("target</text>", "actual: plugged", "cmm: target and actual size of the guest", "MiB</text>"):
        assert words in text, words
    widths = {float(width) for width in re.findall(r"stroke-width: ([\d.]+)", text)}
    assert {5.0, 1.5} <= widths


def test_plots_as_png_svg_and_pdf(tmp_path):
    pytest.importorskip("matplotlib")
    series = run_series("cmm", parse_targets("256M,192M"), S390X, LINUX_6_12, "256M", "512M")
    for suffix, magic in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        series.plot(tmp_path / f"run{suffix}")
        assert (tmp_path / f"run{suffix}").read_bytes().startswith(magic)
    with pytest.raises(ValueError, match="doc"):
        series.plot(tmp_path / "run.doc")
