"""No Python in hot loops: Cython's own annotation gives every line of a nogil function score 0, and no performance hint is
printed."""

import re
from html import unescape
from pathlib import Path

import pytest

pytestmark = pytest.mark.package

PACKAGE = Path(__file__).resolve().parents[1] / "fastonline"
SOURCES = [*sorted((PACKAGE / "core").glob("*.pyx")), *sorted((PACKAGE / "hotplug").glob("*.pyx"))]
LINE = re.compile(r'<pre class="cython line score-(\d+)".*?>.*?(\d+)</span>: (.*)</pre>')
DEFINITION = re.compile(r"^(?!cdef extern).*(?<!with )\bnogil:", re.MULTILINE)      # the same, in the source itself
FUNCTION = re.compile(r"^(?P<indent> *)cdef (?!class|struct|extern|enum).*\(.*\).* nogil:")
OPEN = re.compile(r"^ *cdef [^()]*\([^()]*$")      # a signature that goes on in the next line


@pytest.fixture(scope="module")
def annotated(built):
    """{path in the package: its annotation as HTML}, and what cythonize printed."""
    names = [source.relative_to(PACKAGE) for source in SOURCES]
    return {str(name): (built[0] / "fastonline" / name).with_suffix(".html").read_text() for name in names}, built[1]


def slow_lines(html):
    """(line number, score, text) of the lines inside nogil functions that touch Python, and how many functions there are."""
    slow, functions, inside, signature = [], 0, None, ""
    for match in LINE.finditer(html):
        score, number, text = int(match[1]), int(match[2]), unescape(re.sub("<[^>]*>", "", match[3]))
        if signature or OPEN.match(text):
            signature += text if not signature else " " + text.strip()
            if not signature.rstrip().endswith(":"):
                continue
            text, signature = signature, ""
        start = FUNCTION.match(text)
        if start:
            functions, inside = functions + 1, len(start["indent"])
            continue
        if inside is not None and text.strip() and len(text) - len(text.lstrip()) <= inside:
            inside = None
        if inside is not None and score:
            slow.append((number, score, text))
    return slow, functions


@pytest.mark.parametrize("name", [str(source.relative_to(PACKAGE)) for source in SOURCES])
def test_nogil_functions_touch_no_python(annotated, name):
    slow, functions = slow_lines(annotated[0][name])
    assert functions == len(DEFINITION.findall((PACKAGE / name).read_text())), "the annotation is not read as it was"
    assert not slow


def test_hot_code_is_among_them(annotated):
    """Expect the files that hold a path over pages to have nogil functions at all."""
    hot = {name for name in annotated[0] if slow_lines(annotated[0][name])[1] >= 5}
    assert hot >= {"core/bitmap.pyx", "core/bitmap_engine.pyx", "core/buddy.pyx", "core/engine.pyx", "core/structpage.pyx",
                   "hotplug/memory.pyx", "hotplug/section_states.pyx", "hotplug/watermarks.pyx"}


@pytest.mark.parametrize("name", ["online_page", "online_range", "online_batch", "alloc_page", "alloc_bulk", "free_page",
                                  "free_batch", "page_state", "page_zone", "counter"])
def test_the_c_api_is_among_them(annotated, name):
    text = re.sub("<[^>]*>", "", annotated[0]["hotplug/memory.pyx"])
    assert any(int(match[1]) for match in LINE.finditer(annotated[0]["hotplug/memory.pyx"])), "no line has a score at all"
    assert re.search(rf"cdef int(64_t)? {name}\(self.*noexcept nogil:", text)


def test_no_performance_hint(annotated):
    assert "Cythonizing" in annotated[1] or "Compiling" in annotated[1], annotated[1][:500]
    assert "performance hint" not in annotated[1].lower()
