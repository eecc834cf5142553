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
