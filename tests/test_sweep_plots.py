"""cost/sweep_plots.py: heat maps of a sweep."""

import pytest

from fastonline.cost.scenario import scenario
from fastonline.cost.sweep import grid, sweep
from fastonline.cost.sweep_plots import plot_sweep


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
