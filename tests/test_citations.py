"""What a comment or docstring cites is there: sections of fastonline/KERNEL.md, files of the repository."""

import re

import pytest
from conftest import ROOT

SECTIONS = set(re.findall(r"^#{2,3} (\d+(?:\.\d+)?)", (ROOT / "fastonline" / "KERNEL.md").read_text(), re.M))
SOURCES = sorted(
    path for folder in ("fastonline", "bench", "tests") for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".pyx", ".pxd", ".pyi", ".h") and path.name != "test_citations.py"
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_citations_resolve(path):
    text = re.sub(r"\s*\n\s*#?\s*", " ", path.read_text())
    assert not re.search(r"\b(RECORDED|COSTS|DESIGN|STYLE|PERFORMANCE)\.md", text), (
        "cite fastonline/KERNEL.md or the source itself"
    )
    for cited in re.findall(r"KERNEL\.md,?((?: (?:and |to |or )?\d+(?:\.\d+)?,?)*)", text):
        numbers = re.findall(r"\d+(?:\.\d+)?", cited)
        assert set(numbers) <= SECTIONS, (numbers, "not in fastonline/KERNEL.md")


def test_the_page_has_sections():
    assert {"1.3", "1.8", "2.4", "3.2", "5.6", "7.15"} <= SECTIONS
