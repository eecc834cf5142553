"""cli/common.py: colours, progress and the width of the terminal, for every command."""

import io
import sys
from pathlib import Path

import pytest

from fastonline.cli import common

CAPTURED = Path(__file__).parent / "data" / "linux-6.18-24g"


def test_progress_on_a_terminal_only(monkeypatch):
    pytest.importorskip("tqdm")
    steps = [1, 2, 3]
    assert common.progress(steps) is steps
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = common.progress(steps)
    assert shown is not steps
    assert list(shown) == steps
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert common.progress(steps) is steps


@pytest.mark.parametrize(("environ", "terminal", "colors"), [
    ({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"NO_COLOR": ""}, True, True), ({"TERM": "dumb"}, True, False),
    ({}, False, False),
])
def test_color_on_a_terminal_only(monkeypatch, environ, terminal, colors):
    class Stream(io.StringIO):
        def isatty(self):
            return terminal

    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    text = "a title\nbitmap  2.1  WORSE\nNoisy: x\nplain\nthe end\n"
    red, yellow = "\033[31mbitmap  2.1  WORSE\033[0m", "\033[33mNoisy: x\033[0m"
    bold = f"\033[1ma title\033[0m\n{red}\n{yellow}\nplain\n\033[1mthe end\033[0m\n"
    assert common.colored(text, Stream()) == (bold if colors else text)


@pytest.mark.parametrize("command", [
    ["balloon", "xen", "512M,1G"], ["compare", "thread-dry"], ["replay", *sorted((CAPTURED.parent / "recordings").glob("S1*"))],
    *(["show", what, CAPTURED] for what in ("summary", "growable", "offlineable", "accounting")),
], ids=lambda command: " ".join(map(str, command[:2])))
def test_tables_keep_to_the_width_of_the_terminal(run, monkeypatch, command):
    """Expect 80 columns where nobody says otherwise, and what COLUMNS says; a narrow table shows the same columns."""
    monkeypatch.delenv("COLUMNS", raising=False)
    status, usual, _ = run(*command, *["-q"] * (command[0] == "replay"))
    assert status == 0 and max(map(len, usual.splitlines())) <= 80
    strategy_or_time = usual.split()[0]
    for columns in (60, 200) if command[0] in ("balloon", "compare") else ():
        monkeypatch.setenv("COLUMNS", str(columns))
        out = run(*command)[1]
        assert max(map(len, out.splitlines())) <= columns
        assert (out.count(f"{strategy_or_time} ") == 1) == (columns == 200)
