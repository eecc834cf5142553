"""The README's two commands, run as a new user runs them: a clean copy, a new virtual environment, the same folder
afterwards."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from conftest import ROOT, copy_sources, environment

pytestmark = pytest.mark.package


def shell(command, cwd):
    done = subprocess.run(
        ["bash", "-c", command], cwd=cwd, env=environment(cwd), capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def commands():
    """The README's two commands, each as (what installs, what runs)."""
    found = re.findall(r"^    (pip install .*?) && (.*?)(?:  .*)?$", (ROOT / "README.md").read_text(), re.M)
    assert len(found) == 2, found
    return found


@pytest.fixture(scope="module")
def checkout(commands, built, tmp_path_factory):
    """A new user's folder and the environment that the first command was run in. One module is left to the Cython that pip
    fetches; it finds the others' C, from the same sources, in place."""
    tree = copy_sources(tmp_path_factory.mktemp("checkout"), tests=True)
    later = time.time() + 3600      # than the files of the Cython to come
    for path in (built[0] / "fastonline").rglob("*.c"):
        if path.stem != "numbers":
            os.utime(shutil.copy(path, tree / path.relative_to(built[0])), (later, later))
    code, said = shell(f"{sys.executable} -m venv .venv && . .venv/bin/activate && {commands[0][0]}", tree)
    if code and re.search("No matching distribution|Could not fetch|NewConnectionError|Temporary failure", said):
        pytest.skip("pip reaches no package index here")
    assert code == 0, said[-3000:]
    return tree


def test_first_command(commands, checkout):
    code, said = shell(f". .venv/bin/activate && {commands[0][1]} --repeat 1", checkout)
    assert code == 0 and "ns a page" in said, said[-3000:]


@pytest.mark.parametrize("command", [
    "python -c 'import fastonline; print(fastonline.Memory(fastonline.X86_64))'",
    "python -m fastonline --version",
    "fastonline --version",
])
def test_the_folder_does_not_hide_the_package(checkout, command):
    """Expect the source folder, which comes first on sys.path, to hold the compiled modules as well."""
    code, said = shell(f". .venv/bin/activate && {command}", checkout)
    assert code == 0, said[-3000:]


@pytest.fixture(scope="module")
def equipped(commands, checkout):
    """The same folder after the second command's installation, and {path of an extension: when it was compiled} before."""
    compiled = {path: path.stat().st_mtime_ns for path in checkout.rglob("fastonline/**/*.so")}
    code, said = shell(f". .venv/bin/activate && {commands[1][0]}", checkout)
    if code and "No matching distribution" in said:
        pytest.skip("pip reaches no package index here")
    assert code == 0, said[-3000:]
    return checkout, compiled


def test_other_flags_are_another_build(equipped):
    """Expect built extensions to be up to date, and not to be so for a build with other flags or after a change of a source."""
    code = "import runpy, sys; sys.argv[1:] = ['--name']; print(runpy.run_path('setup.py')['built_in_place']())"
    for before, expected in (("", "(True, True)"), ("FASTONLINE_CHECKED=1", "(True, False)")):
        status, said = shell(f'. .venv/bin/activate && {before} python -c "{code}"', equipped[0])
        assert (status, said.splitlines()[-1]) == (0, expected), said


def test_second_command(commands, equipped):
    """The extra installs all that the tests import; a part of the suite stands for the rest. Expect nothing to be compiled
    again."""
    checkout, compiled = equipped
    code, said = shell(f". .venv/bin/activate && {commands[1][1]} -q tests/test_onlining.py tests/test_geometry.py", checkout)
    assert code == 0 and " passed" in said, said[-3000:]
    assert compiled and compiled == {path: path.stat().st_mtime_ns for path in compiled}


@pytest.mark.parametrize("environ, said", [
    ({"CC": "no-such-compiler"}, "a C compiler is needed and 'no-such-compiler' was not found: install gcc"),
])
def test_what_is_missing_is_said_in_one_line(environ, said, tmp_path):
    pytest.importorskip("Cython")
    tree = copy_sources(tmp_path)
    done = subprocess.run([sys.executable, "setup.py", "-q", "build_ext"], cwd=tree, capture_output=True, text=True,
                          env=os.environ | environ)
    assert done.returncode == 1
    assert done.stderr.startswith(f"fastonline: {said}") and done.stderr.count("\n") == 1
