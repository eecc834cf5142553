"""Shared parts of all plots: style, colours, a line with the origin of the numbers, and writing the file. Needs matplotlib."""

from __future__ import annotations

import datetime
import io
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any

from fastonline.files import write_file

COLORS = {"bitmap": "#0072b2", "struct_page": "#d55e00"}
"""One colour for each engine, in every plot. The colours are those of Okabe and Ito, which the colour-blind can tell apart."""

LINE_COLORS = {"target": "#e69f00", "actual": "#0072b2", "usable": "#009e73"}
"""One colour for each quantity over time."""

STYLE: dict[str, Any] = {"svg.hashsalt": "fastonline", "svg.fonttype": "none", "font.size": 9}
"""matplotlib settings: text stays text in SVG, and equal figures give equal files."""


def _matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as e:
        raise ImportError("drawing needs matplotlib: pip install 'fastonline[plot]'") from e
    return matplotlib


def check_format(path: str | PathLike[str]) -> None:
    """Raise ValueError when the suffix of `path` names no format that matplotlib can draw, ImportError without matplotlib."""
    suffix = os.path.splitext(path)[1].removeprefix(".").lower()
    formats = _matplotlib().figure.Figure().canvas.get_supported_filetypes()
    if suffix not in formats:
        raise ValueError(f"{os.fspath(path)}: unknown picture format {suffix!r} (expected {', '.join(formats)})")


@contextmanager
def drawing(path: str | PathLike[str], width: float, height: float, origin: str | None = None) -> Iterator[Any]:
    """Give a matplotlib Figure to a with block, and write it to the file `path` when the block ends.

    width, height: inches. origin: where the numbers come from, for the corner; None: this program's version, the kernel and
    the date. The suffix of `path` names the format. ImportError without matplotlib; ValueError for an unknown suffix; OSError
    as write_file.
    """
    matplotlib = _matplotlib()
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.get_layout_engine().set(rect=(0, 0.2 / height, 1, 1 - 0.2 / height))
        figure.text(0.995, 0.03 / height, origin or here(), ha="right", va="bottom", fontsize=6, color="0.4")
        picture = io.BytesIO()
        figure.savefig(picture, format=os.path.splitext(path)[1].removeprefix(".").lower() or None)
        write_file(path, [picture.getbuffer()])


def here() -> str:
    """Return program, kernel and date in one line."""
    from fastonline import __version__

    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return f"fastonline {__version__}, {platform.system()} {platform.release()}, {date}"
