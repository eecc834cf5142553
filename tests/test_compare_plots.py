"""cost/compare_plots.py: pictures of strategies side by side."""

import pytest
from test_compare import run

from fastonline.cost.compare import compare
from fastonline.cost.compare_plots import plot_sweep
from fastonline.cost.scenario import scenario
from fastonline.cost.sweep import grid, sweep


def test_compare_draws(capsys, small, tmp_path):
    pytest.importorskip("matplotlib")
    one, two = tmp_path / "one.svg", tmp_path / "two.svg"
    for path in (one, two):
        assert run(capsys, small, "--strategies", "split,whole", "--plot", path)[0] == 0
    assert one.read_text().startswith("<?xml") and one.stat().st_size > 5000
    status, out, err = run(capsys, small, "--plot", tmp_path / "x.xyz")
    assert status == 2 and out == "" and not (tmp_path / "x.xyz").exists()


def test_strategies_on_one_point_share_a_label(tmp_path):
    pytest.importorskip("matplotlib")
    compare(scenario("thread-dry"), ["split", "callback", "whole"]).plot(tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text()
    assert ">split, callback</text>" in text and ">whole</text>" in text
    assert "thread-dry" in text and "rules of Linux 2.6.25" in text and "fastonline 0." in text


def test_a_sweep_of_several_strategies_has_a_heat_map_for_each(tmp_path):
    pytest.importorskip("matplotlib")
    sets = {"host": ["1664M", "2G"], "workload.in_use": [0.5, 0.9]}
    sweep(grid(scenario("thread-dry"), sets, ["split", "whole"], 1), out=tmp_path / "runs.jsonl")
    plot_sweep(tmp_path / "runs.jsonl", tmp_path / "map.svg")
    text = (tmp_path / "map.svg").read_text()
    assert ">split</text>" in text and ">whole</text>" in text and ">Mean shortfall, MiB.s, over seeds</text>" in text
    # only split has what it needs on the larger host when nine tenths are in use
    assert text.count(">0</text>") == 5 + 1       # and on the colour bar
    assert text.count(">279169</text>") == 3


def test_equal_values_have_the_scale_of_zero(tmp_path):
    pytest.importorskip("matplotlib")
    sweep(grid(scenario("thread"), {"host": ["1664M", "2G"]}, ["split", "whole"], 1), out=tmp_path / "runs.jsonl")
    plot_sweep(tmp_path / "runs.jsonl", tmp_path / "map.svg")
    assert "\N{MINUS SIGN}" not in (tmp_path / "map.svg").read_text()
