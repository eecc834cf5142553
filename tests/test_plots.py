"""cost/plots.py: pictures of a profile."""

import sys

import pytest
from conftest import ENGINES

from fastonline.cost import phases
from fastonline.cost.profile import WORKLOADS


def test_plot(result, tmp_path):
    pytest.importorskip("matplotlib")
    from fastonline.cost import plots

    plots.plot_profile(result, tmp_path / "p.svg")
    svg = (tmp_path / "p.svg").read_text()
    assert "<svg" in svg
    for name in (*WORKLOADS, *phases.PHASES, *ENGINES, "fastonline 0."):
        assert f">{name}" in svg, name      # text, not outlines
    assert ">Onlining 512M of X86_64 under the rules of Linux 6.12: 131072 pages, 2 repeats<" in svg
    with pytest.raises(ValueError, match="foo"):
        plots.plot_profile(result, tmp_path / "p.foo")


QUICK = ["profile", "--engine", "bitmap", "--repeat", "1"]


def test_profile_plot(run, tmp_path):
    pytest.importorskip("matplotlib")
    assert run(*QUICK, "--plot", tmp_path / "p.png")[0] == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_profile_plot_without_matplotlib(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "fastonline.cost.plots", raising=False)
    assert run(*QUICK, "--plot", tmp_path / "p.png") == (
        2, "", "fastonline: drawing needs matplotlib: pip install 'fastonline[plot]'\n"
    )
