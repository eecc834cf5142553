"""Everything README.md shows runs."""

import doctest
import importlib.util
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

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
    """The block compiles outside of the source tree, does what its comments say, and refuses what is no Memory or no pfn."""
    (source,) = blocks("cython")
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
    assert embedded.balloon_retrieve(mem, 2**64 - 1) < 0
    for wrong in ((None, 1), (object(), 1), (mem, "x"), (mem, 2**64), (mem, -1)):
        with pytest.raises((TypeError, OverflowError)):
            embedded.balloon_retrieve(*wrong)
    with pytest.raises(RuntimeError):
        embedded.balloon_retrieve(fo.Memory.__new__(fo.Memory), 1)


def commands():
    return [line.removeprefix("$ ").partition("  #")[0] for block in blocks("console") for line in block.splitlines()]


def test_console(tmp_path, monkeypatch, run):
    """Every command runs, in the README's order and in a copy of its folder. Expect the status that the text promises."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").symlink_to(README.parent / "tests")
    assert len(commands()) > 10
    for line in commands():
        program, *args = shlex.split(line)
        assert program == "fastonline"
        if args[0] == "capture":
            assert callable(make_parser().parse_args(args).run)      # of the kernel that runs the tests: not everywhere
            continue
        if args[0] == "profile":
            args += ["--repeat", "1"] if "--scale" not in args else []
        if "--scale" in args:
            assert make_parser().parse_args(args).scale                # machines of up to 2^34 pages
            continue
        args = [file for arg in args for file in (sorted(map(str, tmp_path.glob(arg))) if "*" in arg else [arg])]
        status, out, err = run(*args)
        assert status in ((0, 1) if "--against" in args else (0,)), (line, out[-500:], err)
        assert "Traceback" not in err


def test_table(monkeypatch, run):
    """Each line of the table is a line of the command's output."""
    monkeypatch.setenv("COLUMNS", "120")
    (table,) = blocks("text")
    status, out, _ = run("compare", "thread-dry")
    assert status == 0 and set(table.splitlines()) <= set(out.splitlines())


def test_length():
    assert len(README.read_text().splitlines()) < 200


def test_links():
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target


@pytest.mark.parametrize("command", ["pip install -e . && fastonline profile", "pip install -e '.[test]' && pytest"])
def test_commands_are_there(command):
    assert re.search(rf"^    {re.escape(command)}(  |$)", README.read_text(), re.M)
