"""figures.py: formats, the corner that says where the numbers come from, and a file that is whole or not there."""

import re

import pytest

from fastonline.figures import check_format, drawing, here


def test_where_the_numbers_come_from():
    assert re.fullmatch(r"fastonline \S+, \S+ \S+, \d{4}-\d\d-\d\d", here())


def test_formats():
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.PNG", "c.pdf"):
        check_format(name)
    with pytest.raises(ValueError, match=r"x\.gif5: unknown picture format 'gif5' \(expected .*svg"):
        check_format("x.gif5")


def test_equal_figures_are_equal_files(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("one.svg", "two.svg"):
        with drawing(tmp_path / name, 3, 2, "here and now") as figure:
            figure.subplots().plot([1, 2, 3])
    one, two = ((tmp_path / name).read_text() for name in ("one.svg", "two.svg"))
    assert re.sub("<dc:date>.*", "", one) == re.sub("<dc:date>.*", "", two) and ">here and now</text>" in one


def test_a_figure_that_raises_leaves_no_file(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ZeroDivisionError), drawing(tmp_path / "a.svg", 3, 2):
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []
