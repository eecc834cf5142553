"""The source files themselves: none too large to be read, the contract short."""

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "fastonline"
FILES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".pyx", ".pxd", ".pyi"))
CLASS = re.compile(r"^(?:cdef )?class (\w+).*\n((?:[ )].*\n|\n)*)", re.MULTILINE)


@pytest.mark.skipif(not FILES, reason="the tests are run without the sources")
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_size(path):
    text = path.read_text()
    assert text.count("\n") <= 700
    assert [name for name, body in CLASS.findall(text) if body.rstrip().count("\n") > 600] == []


def test_the_contract_is_short():
    assert (PACKAGE / "hotplug" / "memory.pxd").read_text().count("\n") <= 80


# source files that others' tests cover
UNTESTED_BY_NAME = {
    "__init__",         # names only; cli/__init__.py: test_cli.py
    "__main__",         # test_cli.py runs it
    "chain_calls",      # one counter, which notifier.py and notices.pyx share: test_notices.py
}
SOURCES = [path for path in FILES if path.suffix in (".py", ".pyx") and path.stem not in UNTESTED_BY_NAME]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_source_has_a_test_file(path):
    assert Path(__file__).with_name(f"test_{path.stem}.py").exists()


@pytest.mark.skipif(not FILES, reason="the tests are run without the sources")
def test_no_exception_is_left_over():
    assert {path.stem for path in FILES} >= UNTESTED_BY_NAME
    assert not [name for name in UNTESTED_BY_NAME if Path(__file__).with_name(f"test_{name}.py").exists()]
