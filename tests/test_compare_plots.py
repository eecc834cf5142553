"""cost/compare_plots.py: pictures of strategies side by side."""

import pytest
from test_compare import run

from fastonline.cost.compare import compare
from fastonline.cost.scenario import scenario


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


def test_no_axis_goes_below_zero(tmp_path):
    """Neither strategy has a shortfall, one overshoots. Expect axes from 0 on, and no label below it."""
    pytest.importorskip("matplotlib")
    compare(scenario("thread"), ["split", "whole"]).plot(tmp_path / "c.svg")
    shown = (tmp_path / "c.svg").read_text()
    assert ">split</text>" in shown and "\N{MINUS SIGN}" not in shown
