"""Imports go down: no file of the package imports, or cimports, what imports it."""

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

IMPORT = re.compile(r"^\s*from (fastonline[\w.]*) c?import ([^#\n(]+|\([^)]*\))|^\s*c?import (fastonline[\w.]*)", re.M)
PACKAGE = ROOT / "fastonline"


def module_of(path):
    """The dotted name of a file's module; a .pyx and its .pxd are one."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(text, modules):
    """The modules that a source imports, at its beginning or inside a function, but not for its annotations alone."""
    text = re.sub(r'"""[\s\S]*?"""|^if TYPE_CHECKING:\n(    .*\n|\n)+', "", text, flags=re.M)
    for found in IMPORT.finditer(text):
        package, names, whole = found.groups()
        if whole:
            yield whole
            continue
        for name in re.findall(r"\w+(?= as )|\w+(?=\s*(?:,|\)|$))", names.strip()):
            yield f"{package}.{name}" if f"{package}.{name}" in modules else package


def test_no_file_imports_what_imports_it():
    paths = [path for kind in ("py", "pyx", "pxd") for path in PACKAGE.rglob(f"*.{kind}")]
    modules = {module_of(path) for path in paths}
    below = {module: set() for module in modules}
    for path in paths:
        module = module_of(path)
        below[module] |= {name for name in imports(Path(path).read_text(), modules) if name in modules} - {module}
    assert sum(map(len, below.values())) > 400
    try:
        order = list(TopologicalSorter(below).static_order())
    except CycleError as e:
        pytest.fail(" -> ".join(reversed(e.args[1])))
    assert order.index("fastonline.core.bitmap") < order.index("fastonline.hotplug.memory") < order.index("fastonline.cli")
