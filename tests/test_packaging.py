"""What an sdist and a wheel carry, and that an installed package can be cimported."""

import shutil
import sys
import sysconfig
import tarfile
import zipfile

import pytest
from conftest import ONE_BUILD, ROOT, run

from fastonline.hotplug.memory import ENGINES

pytestmark = pytest.mark.package

PROBE = """
from fastonline.hotplug.memory cimport Memory
from fastonline.core.buddy cimport buddy_pool, order_in_word
def probe(Memory mem, unsigned long pfn):
    return mem.online_page(pfn), mem.online_page(pfn), order_in_word(0xFF00, 8), sizeof(buddy_pool) > 0
"""
USE = """
import fastonline as fo, probe
mem = fo.Memory(fo.X86_64, engine={engine!r})
mem.add_memory(0, 32768); mem.prepare_online_pages(0, 32768)
print(*probe.probe(mem, 7), mem.totalram_pages)
"""


def names(*suffixes):
    return {
        str(p.relative_to(ROOT))
        for p in (ROOT / "fastonline").rglob("*")
        if p.suffix in suffixes and "__pycache__" not in p.parts
    }


def test_sdist_carries_what_is_needed_to_build(sdist):
    with tarfile.open(sdist) as archive:
        carried = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert (
        names(".py", ".pyx", ".pxd", ".pyi", ".h")
        | {"setup.py", "pyproject.toml", "README.md", "LICENSE", "fastonline/py.typed"}
        <= carried
    )
    assert not [name for name in carried if name.endswith((".so", ".html"))]


def test_wheel_carries_extensions_and_contracts_but_no_sources(wheel):
    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if name.startswith("fastonline/")}
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    extensions = {name.removesuffix(".pyx") + suffix for name in names(".pyx")}
    assert carried == names(".py", ".pxd", ".pyi", ".h", ".toml", ".md") | extensions | {"fastonline/py.typed"}


def compile_and_use(tree, path):
    """What each engine answers to a module that cimports the package at `path`."""
    (tree / "probe.pyx").write_text(PROBE)
    (tree / "setup.py").write_text(
        "from setuptools import setup\nfrom Cython.Build import cythonize\n"
        "setup(ext_modules=cythonize('probe.pyx', language_level=3))\n"
    )
    run(sys.executable, "setup.py", "build_ext", "-i", cwd=tree, path=path)
    return {engine: run(sys.executable, "-c", USE.format(engine=engine), cwd=tree, path=path).split() for engine in ENGINES}


ANSWERS = dict.fromkeys(ENGINES, ["1", "0", "3", "True", "1"])


def test_cimport_from_an_installed_wheel(installed, tmp_path):
    assert compile_and_use(tmp_path, installed) == ANSWERS


def test_cimport_from_an_editable_tree(sources, wheel, tmp_path):
    """An editable install with package-dir "." is the source directory on the path, with the extensions built in place."""
    tree = tmp_path / "tree"
    shutil.copytree(sources, tree)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".so"):
                archive.extract(name, tree)
    assert compile_and_use(tmp_path, tree) == ANSWERS


def test_one_build_for_all_of_them(request):
    """Expect whoever needs a build to be in a file whose tests go to one process."""
    files = {item.path.name for item in request.session.items if "sources" in item.fixturenames}
    assert files and files <= set(ONE_BUILD)


def test_an_editable_install_is_a_plain_path():
    import tomllib

    with open(ROOT / "pyproject.toml", "rb") as file:
        setuptools = tomllib.load(file)["tool"]["setuptools"]
    assert setuptools["package-dir"] == {"": "."} and setuptools["include-package-data"] is False
