"""Published figures beside predictions: each prediction is within its bounds, and the table says so."""

import json
import os

import pytest

from fastonline.cli import main
from fastonline.cost.published import GROUPS, Figure, published, published_text, shrink

WRONG = Figure("x", 2.0, 5.0, 1.5, 2.5, "somebody")


@pytest.mark.parametrize("group", GROUPS)
def test_predictions_are_within_their_bounds(group):
    figures = published([group])
    if group == "clang" and not figures:
        pytest.skip("$HYPERALLOC_BENCH names no checkout of hyperalloc-bench")
    assert figures and all(figure.low <= figure.high and figure.source for figure in figures)
    for figure in figures:
        assert figure.met or figure.missed, figure


def test_every_published_figure_is_there():
    by_what = {figure.what.strip(): figure for figure in published(("counts", "shrinks", "thread"))}
    values = [figure.published for figure in by_what.values()]
    for value in (18432, 256, 144, 4126, 365, 10.1, 2.6, 384, 480, 131072, 128):
        assert value in values, value
    idle = by_what["7 GiB of an idle guest, ms"]
    assert not idle.fitted and (idle.low, idle.high) == pytest.approx((4126 * 0.8, 4126 * 1.2))


@pytest.mark.parametrize("touched", [False, True])
def test_shrink_times_keep_their_order(touched):
    """4 KiB balloon > virtio-mem > 2 MiB balloon > shared. A ninth of the memory; all of these costs are linear in it."""
    times = [shrink(name, 3, 1, touched).steps[0]["host_s"] for name in ("boot-big", "virtio-mem", "boot-big-huge", "shared")]
    assert times == sorted(times, reverse=True) and len(set(times)) == 4


def test_a_miss_is_named_in_the_table():
    lines = published_text([WRONG], 80).splitlines()
    assert lines[1].split() == ["x", "2", "5", "1.5-2.5", "[1]", "MISSED"] and "[1] somebody" in lines
    assert not WRONG.met and WRONG.as_dict()["met"] is False
    known = Figure("x", 2.0, 5.0, 1.5, 2.5, "somebody", missed="the guest has another allocator")
    assert "x: the guest has another allocator." in published_text([known])


@pytest.mark.parametrize("figures, status", [([], 0), ([Figure("y", 1, 1, 1, 1, "z")], 0), ([WRONG], 1)])
def test_the_command_fails_on_a_miss(figures, status, monkeypatch, capsys):
    monkeypatch.setattr("fastonline.cli.compare.published", lambda: figures)
    assert main(["compare", "--published", "--json", "-"]) == status
    assert json.loads(capsys.readouterr().out) == [figure.as_dict() for figure in figures]


@pytest.mark.parametrize("args, says", [
    (["thread", "--published"], "--published takes no scenario"),
    (["--published", "--strategies", "split"], "--published takes no --strategies"),
    ([], "no scenario given (expected thread, "),
])
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and says in err and os.listdir(tmp_path) == []
