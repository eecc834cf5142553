"""Every language's example, built and run against the installed wheel; README.md shows the same files."""

import re
import shutil
import subprocess
import sys
import sysconfig

import pytest
from conftest import ROOT, run

from fastonline.capi import ABI

pytestmark = pytest.mark.package

EXAMPLES = ROOT / "tests" / "embedding"


@pytest.mark.parametrize("name, expected", [
    ("plain_python.py", "[pfn 0x40000-0x47fff]: page 0x40000 is in use\n262144 pages\n"),
    ("numpy_views.py", "261144 pages free of 1048576\n"),
])
def test_script(installed, name, expected, tmp_path):
    shutil.copy2(EXAMPLES / name, tmp_path)
    assert run(sys.executable, name, cwd=tmp_path, path=installed) == expected


def test_simpy_guest(installed, tmp_path):
    """Expect right's third block at 12 ms: the host has four, and left gives its own back from 7.1 ms on."""
    pytest.importorskip("simpy", reason="simpy is not installed")
    shutil.copy2(EXAMPLES / "simpy_guest.py", tmp_path)
    lines = run(sys.executable, "simpy_guest.py", cwd=tmp_path, path=installed).splitlines()
    assert lines == [
        "  1.70 ms  right has 1152 MiB", "  5.11 ms  left has 1408 MiB", " 12.22 ms  right has 1408 MiB",
        " 12.22 ms  left has 1024 MiB", " 15.93 ms  left has 1152 MiB", " 19.34 ms  right has 1024 MiB",
    ]


def build(directory, installed):
    """Build an example in its directory."""
    if directory.name == "cpp" and shutil.which("g++") is None:
        pytest.skip("there is no g++ here")
    run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=directory, path=installed)


@pytest.fixture(scope="module")
def examples():
    """{language: the example in it, built}, as far as they were asked for."""
    return {}


@pytest.fixture
def example(request, examples, installed, tmp_path_factory):
    """The example in one language, built."""
    if request.param not in examples:
        tree = tmp_path_factory.mktemp("example") / request.param
        shutil.copytree(EXAMPLES / request.param, tree)
        build(tree, installed)
        examples[request.param] = tree
    return examples[request.param]


def test_an_example_installs_with_pip(installed, tmp_path):
    """Expect the README's pip command to build the wheel of an embedding program."""
    tree = tmp_path / "cython"
    shutil.copytree(EXAMPLES / "cython", tree)
    pip = (sys.executable, "-m", "pip", "-q", "wheel", "--no-build-isolation", "--no-deps", "-w", "out", ".")
    run(*pip, cwd=tree, path=installed)
    assert [path.name.partition("-")[0] for path in (tree / "out").iterdir()] == ["simulator"]


@pytest.mark.parametrize("example, expected", [
    ("cython", "32768 294912\n"),       # every page of the block, and 1 GiB beside it
    ("cpp", "17408 16750 658\n"),       # 17 times 4 MiB
], indirect=["example"])
def test_compiled(installed, example, expected):
    assert run(sys.executable, "use.py", cwd=example, path=installed) == expected
    where = run(sys.executable, "-c", "import fastonline; print(fastonline.get_include())", cwd=example, path=installed)
    assert where.strip() == str(installed / "fastonline" / "include")


WRONG = """
import fastonline as fo
import simulator

mem = fo.Memory(fo.X86_64, boot="128M")
mem.add_memory(1 << 18, 1 << 15)
if MORE:
    mem.prepare_online_pages(1 << 18, 1 << 15)
section = (1 << 18, 1 << 15, *MORE)
made = fo.Memory.__new__(fo.Memory)
for args in [(), (None, *section), (1, *section), (made, *section), (fo.Memory, *section), (mem, None, 1, *MORE),
             (mem, "1G", 1, *MORE), (mem, 1.5, 1, *MORE), (mem, -1, 1 << 15, *MORE), (mem, 1 << 62, 1 << 15, *MORE),
             (mem, 0, -1, *MORE), (mem, 0, 2**64, *MORE), (mem, 1 << 18, 1 << 62, *MORE), (mem, 1 << 18, 0, *MORE),
             (mem, 2**64 - 1, 2**64 - 1, *MORE), (mem, 5, 7, *MORE)]:
    try:
        simulator.run(*args)
    except (TypeError, ValueError, OverflowError, RuntimeError, OSError):
        pass
    mem.validate()
print("whole")
"""


IMPORT = "try: import simulator\nexcept ImportError as e: print(e)"


@pytest.mark.parametrize("example, more", [("cython", ()), ("cpp", (1000,))], indirect=["example"])
def test_compiled_with_wrong_arguments(installed, example, more):
    """Expect an exception or an answer, never a crash, and a machine that is whole."""
    (example / "wrong.py").write_text(f"MORE = {more}\n{WRONG}")
    assert run(sys.executable, "wrong.py", cwd=example, path=installed) == "whole\n"


def test_cpp_client_of_another_abi(installed, tmp_path):
    """Expect an ImportError that says what to do, and not a crash later."""
    tree = tmp_path / "cpp"
    shutil.copytree(EXAMPLES / "cpp", tree)
    header = (installed / "fastonline" / "include" / "fastonline.h").read_text()
    (tree / "fastonline.h").write_text(re.sub("(#define FASTONLINE_ABI) .*", r"\1 99", header))
    (tree / "setup.py").write_text((tree / "setup.py").read_text().replace("fastonline.get_include()", "'.'"))
    build(tree, installed)
    said = run(sys.executable, "-c", IMPORT, cwd=tree, path=installed)
    assert said.startswith(f"compiled for ABI 99 of fastonline, and the one installed has {ABI}")


def test_cython_client_of_another_abi(installed, tmp_path):
    """Expect the same without a line in the client: Cython looks for the variable that carries the number."""
    tree, other = tmp_path / "cython", tmp_path / "other"
    shutil.copytree(EXAMPLES / "cython", tree)
    shutil.copytree(installed / "fastonline", other / "fastonline")
    contract = other / "fastonline" / "hotplug" / "memory.pxd"
    contract.write_text(contract.read_text().replace(f"fastonline_abi_{ABI}", "fastonline_abi_99"))
    build(tree, other)
    said = run(sys.executable, "-c", IMPORT, cwd=tree, path=installed)
    assert said == "fastonline.hotplug.memory does not export expected C variable compiled_for_fastonline_abi_99\n"


@pytest.mark.parametrize("compiler, standard", [("gcc", "c99"), ("g++", "c++11")])
def test_header_alone(installed, compiler, standard, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler} here")
    include = installed / "fastonline" / "include"
    language = "c" if standard == "c99" else "c++"
    done = subprocess.run(
        [compiler, f"-std={standard}", "-x", language, "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-fsyntax-only",
         "-isystem", sysconfig.get_path("include"), "-I", str(include), "-"],
        input="#include <fastonline.h>\nfastonline_api *get(void) { return fastonline_import(); }\n",
        capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr


def test_readme_links_to_these_files():
    readme = (ROOT / "README.md").read_text()
    linked = re.findall(r"\]\((tests/embedding/[^)]*)\)", readme)
    examples = ["cython/simulator.pyx", "cpp/simulator.cpp", "plain_python.py", "numpy_views.py", "simpy_guest.py"]
    assert sorted(linked) == sorted(f"tests/embedding/{name}" for name in examples)
    assert all((ROOT / path).exists() for path in linked)
