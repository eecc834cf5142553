"""Everything README.md shows runs."""

import doctest
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import fastonline as fo
from fastonline.cli import make_parser

README = Path(__file__).parent.parent / "README.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.M | re.S)


def test_python():
    text = "".join(blocks("python"))
    test = doctest.DocTestParser().get_doctest(text, {}, "README.md", str(README), 0)
    assert len(test.examples) > 15
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert result.failed == 0


def test_cimport(tmp_path):
    """The block compiles outside of the source tree against the package as it is found, and does what its comment says."""
    source = blocks("cython")[0]
    (tmp_path / "embedded.pyx").write_text(source)
    (tmp_path / "setup.py").write_text(
        "from Cython.Build import cythonize\nfrom setuptools import setup\n"
        "setup(name='embedded', ext_modules=cythonize('embedded.pyx', language_level=3))\n"
    )
    built = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"], cwd=tmp_path, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    path = tmp_path / f"embedded{sysconfig.get_config_var('EXT_SUFFIX')}"
    spec = importlib.util.spec_from_file_location("embedded", path)
    embedded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(embedded)
    mem = fo.Memory(fo.X86_64, boot="1G")
    mem.add_memory(0x40000, 0x8000)
    assert embedded.balloon_retrieve(mem, 0x40000) < 0
    mem.prepare_online_pages(0x40000, 0x8000)
    assert embedded.balloon_retrieve(mem, 0x40000) == 1
    assert embedded.balloon_retrieve(mem, 0x40000) == 0
    assert mem.zones["Normal"].free_pages == 1


def test_console(capsys):
    """The command lines parse; those of the drivers run."""
    (text,) = blocks("console")
    lines = [shlex.split(line.removeprefix("$ "), comments=True) for line in text.splitlines()]
    assert len(lines) == 9
    for program, *args in lines:
        assert program == "fastonline"
        parsed = make_parser().parse_args(args)
        assert callable(parsed.run)
        if args[0] == "balloon":
            assert parsed.run(parsed) == 0
            assert len(capsys.readouterr().out.splitlines()) == 2 + len(parsed.targets.split(","))


def test_section_that_one_command_measures(capfd):
    line = next(line for line in blocks("console")[0].splitlines() if "--json -" in line)
    args = make_parser().parse_args([*shlex.split(line, comments=True)[2:], "--repeat", "1"])
    assert args.run(args) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["nr_pages"] == (4 << 30) // 4096
    assert all(sum(row["merges"]) in (0, sum(result["nr_pages"] >> k for k in range(1, 11))) for row in result["rows"])


def test_arithmetic_of_the_measured_number():
    """The figure given for a section and the figure given for a page are the same one."""
    us, ns = re.search(r"in ([\d.]+) µs \(([\d.]+) ns a page\)", README.read_text()).groups()
    assert np.isclose(float(us) * 1000 / 131072, float(ns), rtol=0.1)


@pytest.mark.parametrize("command", ["pip install -e . && fastonline profile", "pip install -e '.[test]' && pytest"])
def test_commands_are_there(command):
    assert re.search(rf"^    {re.escape(command)}(  |$)", README.read_text(), re.M)
