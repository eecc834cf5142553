"""The command line: what it prints, where, and with which exit status."""

import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from in_process import interrupted

import fastonline as fo

CAPTURED = Path(__file__).parent / "data" / "linux-6.18-24g"
SECTION = 1 << 17

# the first in sys.path is not the current directory: the package that is installed, or named by PYTHONPATH, is run
COMMANDS = ("profile", "show", "capture", "replay", "sysfs", "balloon", "compare", "sweep")
COMMAND = [sys.executable, "-P", "-m", "fastonline"]
QUICK = ["profile", "--engine", "bitmap", "--repeat", "1"]


@pytest.fixture(scope="module")
def mem():
    mem = fo.Memory(fo.X86_64, boot="1G")
    mem.add_memory(0x40000, 0x10000)
    mem.online_pages(0x40000, 0x8000)
    return mem


@pytest.fixture
def saved(mem, tmp_path):
    path = tmp_path / "machine"
    mem.save(path)
    return path


def altered(tmp_path):
    """A captured directory whose kernel said something else of one zone than its page map."""
    path = tmp_path / "altered"
    shutil.copytree(CAPTURED, path, copy_function=shutil.copyfile)
    text = (path / "buddyinfo").read_text()
    line = next(line for line in text.splitlines() if "DMA32" in line)
    words = line.rsplit(None, 1)
    (path / "buddyinfo").write_text(text.replace(line, f"{words[0]} {int(words[1]) + 1} "))
    return path


# -- profile

def test_profile_prints_both_engines_side_by_side(run):
    status, out, err = run("profile", "--repeat", "1")
    assert (status, err) == (0, "")
    assert "bitmap" in out
    assert "struct_page" in out
    assert "merges by order (ascending, random, batches of 512, one batch):" in out
    for phase in ("flags", "buddy", "accounting", "watermarks", "notify", "total"):
        assert [len(line.split()) for line in out.splitlines() if line.startswith(f"{phase} ")][-1] == 7
    assert out.splitlines()[-1].startswith("online_pages of 512M takes ")


def test_profile_of_the_threads_case(run):
    status, out, err = run(
        *QUICK, "--geometry", "X86_32_PAE", "--rules", "2.6.25", "--order", "0", "--order", "10", "--json", "-"
    )
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert (result["geometry"], result["rules"], result["nr_pages"], result["start_pfn"]) == (
        "X86_32_PAE",
        "2.6.25",
        SECTION,
        0x40000,
    )
    merges = {row["workload"]: sum(row["merges"]) for row in result["rows"]}
    assert merges == {
        "whole, order 0": 130944, "whole, order 10": 0, "whole, C API": 130944, "ascending": 130944, "random": 130944,
        "batches of 512": 130944, "one batch": 130944, "online_pages": 130944,
    }


def test_profile_sizes(run):
    status, out, _ = run(*QUICK, "--section", "256M", "--json", "-")
    assert (status, json.loads(out)["nr_pages"]) == (0, SECTION // 2)


def test_profile_json_file_comes_beside_the_text(run, tmp_path):
    status, out, _ = run(*QUICK, "--json", tmp_path / "p.json")
    assert status == 0
    assert out.startswith("onlining 512M at pfn 0x40000")
    assert json.loads((tmp_path / "p.json").read_text())["section"] == "512M"


@pytest.mark.parametrize("command", [QUICK, ["balloon", "xen", "1G"]], ids=["profile", "balloon"])
@pytest.mark.parametrize(
    ("file", "says"),
    [("p.doc", "unknown picture format 'doc'"), ("p", "unknown picture format ''"), ("no/p.png", "No such file")],
)
def test_what_cannot_be_drawn_is_said_before_the_run(run, tmp_path, command, file, says):
    pytest.importorskip("matplotlib")
    status, out, err = run(*command, "--plot", tmp_path / file)
    assert (status, out, err.count("\n")) == (2, "", 1) and says in err
    assert list(tmp_path.iterdir()) == []


def test_balloon_plot_without_matplotlib(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "fastonline.cost.plots", raising=False)
    assert run("balloon", "xen", "1G", "--plot", tmp_path / "p.png") == (
        2, "", "fastonline: drawing needs matplotlib: pip install 'fastonline[plot]'\n"
    )


def test_profile_from_a_capture(run):
    status, out, err = run("profile", "--repeat", "1", "--capture", CAPTURED)
    assert (status, err) == (0, "")
    assert "onlining 512M at pfn 0x640000" in out
    for zone in ("DMA", "DMA32", "Normal"):
        assert f"Node 0, zone {zone:>8}: predicted buddyinfo matches the kernel's\n" in out


def test_profile_says_where_the_prediction_differs(run, tmp_path):
    status, out, err = run(*QUICK, "--capture", altered(tmp_path))
    assert (status, err) == (1, "")
    assert "zone    DMA32: predicted buddyinfo differs from the kernel's\n" in out
    assert "zone   Normal: predicted buddyinfo matches the kernel's\n" in out
    assert out.count("Node 0, zone    DMA32") == 3     # the verdict, the kernel's line, the predicted one


def test_profile_of_a_busy_zone_is_no_failed_check(run, tmp_path):
    capture = fo.Capture.load(altered(tmp_path))
    replace(capture, quiet=capture.quiet | {(0, "DMA32"): False}).save(tmp_path / "busy")
    status, out, _ = run(*QUICK, "--capture", tmp_path / "busy")
    assert status == 0
    assert "zone    DMA32: predicted buddyinfo differs from the kernel's; pages came and went while it was captured\n" in out


# -- show and capture

@pytest.mark.parametrize("what", ["buddyinfo", "zoneinfo", "pagetypeinfo", "lsmem"])
def test_show_of_a_saved_machine(run, mem, saved, what):
    assert run("show", what, saved) == (0, getattr(mem, what)(), "")


def test_show_of_a_capture_is_the_kernels_text(run, tmp_path):
    text = (CAPTURED / "buddyinfo").read_text()
    assert run("show", "buddyinfo", CAPTURED) == (0, text, "")
    fo.Capture.load(CAPTURED).save(tmp_path / "file")
    assert run("show", "buddyinfo", tmp_path / "file") == (0, text, "")


def test_capture_and_show_of_the_running_kernel(run, tmp_path):
    path = tmp_path / "here"
    status, out, err = run("capture", path)
    assert out == ""
    if status == 2:
        assert err.count("\n") == 1
        assert err.startswith("fastonline: /proc/")
        assert not path.exists()
        assert run("show", "buddyinfo", "--live")[0] == 2
        pytest.skip(f"the running kernel cannot be read: {err}")
    assert status == 0
    status, out, _ = run("show", "zoneinfo", path)
    assert status == 0
    assert out == fo.Capture.load(path).machine().zoneinfo()


def test_capture_of_a_busy_kernel_says_so(run, tmp_path, monkeypatch):
    capture = fo.Capture.load(CAPTURED)
    busy = replace(capture, quiet=capture.quiet | {(0, "Normal"): False})
    monkeypatch.setattr(fo.Capture, "live", lambda: busy)
    status, out, err = run("capture", tmp_path / "busy")
    assert (status, out) == (0, "")
    assert err.endswith("may differ in node 0 zone Normal: pages came and went meanwhile\n")


# -- wrong use

@pytest.mark.parametrize(("args", "says"), [
    ([], "required: COMMAND"),
    (["melt"], "'melt'"),
    (["profile", "--section", "half"], "invalid size 'half' (expected bytes"),
    (["profile", "--section", "100M"], "invalid size '100M' (expected a multiple of 128M)"),
    (["profile", "--section", "9999999T"], "memory ends at pfn 0x400000000"),
    (["profile", "--section", "99999999999999T"], "memory ends at pfn 0x400000000"),
    (["profile", "--geometry", "VAX"], "invalid geometry 'VAX' (expected X86_32_PAE"),
    (["profile", "--rules", "2.4"], "invalid rules '2.4' (expected 2.6.25"),
    (["profile", "--engine", "slab"], "'slab'"),
    (["profile", "--order", "11"], "order 11"),
    (["profile", "--order", "x"], "'x'"),
    (["profile", "--repeat", "0"], "'0' is not a whole number of at least 1"),
    (["profile", "--repeat", "-3"], "'-3'"),
    (["profile", "--live", "--capture", "x"], "not allowed with"),
    (["profile", "--geometry", "X86_64", "--capture", CAPTURED], "it has its own"),
    (["profile", "--capture", "/nonexistent"], "/nonexistent: No such file or directory"),
    ([*QUICK, "--json", "/nonexistent/p.json"], "/nonexistent/p.json: No such file or directory"),
    (["show", "buddyinfo"], "FILE --live is required"),
    (["show", "slabinfo", "x"], "'slabinfo'"),
    (["show", "pages", "5-4", "x"], "invalid range '5-4' (expected FROM-TO, such as 0x100000-0x1003ff)"),
    (["show", "pages", "0-0x1ffffffffffff", CAPTURED], "page 0x1ffffffffffff is past the end of memory"),
    (["show", "summary", "x", "--watch", "0"], "invalid time '0' (expected seconds, at least 0.1)"),
    (["show", "lsmem", CAPTURED, "--style", "1"], "unknown lsmem style '1' (expected a version of util-linux from 2.38 on"),
    (["show", "buddyinfo", "/nonexistent"], "/nonexistent: No such file or directory"),
    (["show", "buddyinfo", __file__], "neither a saved machine nor a capture"),
    (["show", "buddyinfo", os.path.dirname(__file__)], "not a capture"),
    (["show", "buddyinfo", os.path.dirname(__file__)], "it has no pages.npz"),
    (["capture"], "required: FILE"),
    (["capture", "/nonexistent/kernel"], "/nonexistent/kernel: No such file or directory"),
    (["capture", os.path.dirname(__file__)], "Is a directory"),
    (["replay", os.path.dirname(__file__)], "Is a directory"),
    (["balloon", "xen", "1G", "--call-ns", "nan"], "nan ns"),
    (["balloon", "xen", "1G", "--scattered", "--seed", "-1"], "got -1"),
    (["balloon", "xen", "1Q"], "invalid size '1Q'"),
    (["balloon", "hyperv", "1G", "--behaviour", "thread"], "no option behaviour"),
], ids=str)
def test_one_line_and_status_2(run, args, says):
    status, _, err = run(*args)
    assert status == 2
    assert says in err
    assert err.count("\n") == 1
    assert err.startswith("fastonline")


@pytest.mark.parametrize("keep", [0, 10, 100, -1])
def test_truncated_files(run, saved, keep):
    capture = saved.with_name("capture")
    fo.Capture.load(CAPTURED).save(capture)
    for path in (saved, capture):
        path.write_bytes(path.read_bytes()[:keep])
        status, out, err = run("show", "lsmem", path)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert str(path) in err
    assert run(*QUICK, "--capture", capture)[0] == 2


def test_altered_file(run, saved):
    data = bytearray(saved.read_bytes())
    data[len(data) // 2] ^= 1
    saved.write_bytes(data)
    status, out, err = run("show", "lsmem", saved)
    assert (status, out) == (2, "")
    assert "altered" in err


def test_unreadable_kernel_says_which_right_is_missing(run, monkeypatch):
    def refused():
        raise PermissionError(1, "reading it takes the capability CAP_SYS_ADMIN", "/proc/kpageflags")
    monkeypatch.setattr(fo.Capture, "live", refused)
    for args in (["profile", "--live"], ["show", "buddyinfo", "--live"], ["capture", "x"]):
        assert run(*args) == (2, "", "fastonline: /proc/kpageflags: reading it takes the capability CAP_SYS_ADMIN\n")


# -- pipes, signals, terminals

def test_installed_program_and_module_are_the_same():
    by_module = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True)
    assert by_module.returncode == 0
    assert all(command in by_module.stdout for command in ("profile", "show", "capture"))


def test_silent_in_a_pipe():
    done = subprocess.run([*COMMAND, *QUICK], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("args", "statuses"), [
    (["show", "zoneinfo", CAPTURED], {141}),
    (["--help"], {0, 141}),     # argparse hides it when output is not buffered
], ids=["show", "help"])
def test_broken_pipe(args, statuses):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, *args], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode in statuses


def test_a_complaint_that_nobody_reads():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, "show", "lsmem", "/nonexistent"], stdout=writer, stderr=writer)
    os.close(writer)
    assert done.returncode == 2


def test_json_for_another_program():
    """Expect the JSON alone on standard output, one object, as python -m json.tool takes it."""
    for args in ([*QUICK, "--json", "-"], ["balloon", "cmm", "1G,768M", "--json", "-"]):
        done = subprocess.run([*COMMAND, *args], capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        tool = subprocess.run([sys.executable, "-m", "json.tool"], input=done.stdout, capture_output=True)
        assert (tool.returncode, tool.stderr) == (0, b"")


def test_ctrl_c_in_the_midst_of_a_run():
    """Expect the end by SIGINT, so that a loop of the shell ends too, and not a word."""
    program = "import sys; from fastonline.cli import command; print('ready', flush=True); sys.exit(command())"
    args = [sys.executable, "-P", "-c", program, "profile", "--repeat", "1000000"]
    assert interrupted(args, 1.0) == (-signal.SIGINT, b"", b"")


def test_version(run):
    status, out, err = run("--version")
    first, *commit, built, cpu = out.splitlines()
    assert (status, err, first) == (0, "", f"fastonline {fo.__version__}")
    assert all(line.startswith("commit ") for line in commit) and len(commit) <= 1
    assert built.startswith(f"Python {platform.python_version()}, NumPy {np.__version__}, Cython 3.")
    assert re.search(r", \d+ CPUs, (AVX2|plain) kernels, Linux ", cpu)


def test_ctrl_c(run, monkeypatch):
    def interrupted(**arguments):
        raise KeyboardInterrupt
    monkeypatch.setattr("fastonline.cli.profile.profile", interrupted)
    assert run("profile") == (130, "", "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_are_closed(closed):
    """Expect the exit status of the command, and nothing on the stream that is left but its own."""
    line = " ".join(map(shlex.quote, COMMAND))
    fine = subprocess.run(f"{line} --version {closed}", shell=True, capture_output=True, text=True)
    assert fine.returncode == 0 and fine.stderr == "" and (fine.stdout == "") == closed.startswith(">")
    bad = subprocess.run(f"{line} replay /nonexistent {closed}", shell=True, capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stdout == "" and bad.stderr.count("\n") == (closed == ">&-")


def test_texts_that_cannot_be_printed(tmp_path):
    """A recording's name is half a surrogate pair. Expect it shown as an escape."""
    data = json.loads((Path(__file__).parent / "data" / "recordings" / "S1.json").read_text())
    data["name"], data["steps"] = "\ud800", data["steps"][:1]
    path = tmp_path / "name.json"
    path.write_text(json.dumps(data))
    done = subprocess.run([*COMMAND, "replay", str(path)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("\\ud800 step 0 add_memory: ok") and done.stderr == ""


def test_completion(tmp_path):
    """What argcomplete asks of the program when somebody types `fastonline pro` and Tab, and its answer."""
    pytest.importorskip("argcomplete", reason="argcomplete is not installed")
    answer = tmp_path / "answer"
    line = "fastonline pro"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_IFS": "\n",
             "COMP_LINE": line, "COMP_POINT": str(len(line))}
    done = subprocess.run([sys.executable, "-m", "fastonline"], env=os.environ | asked, capture_output=True, timeout=60)
    assert answer.read_text().split() == ["profile"] and done.stdout == b""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("args", [["--help"], ["profile", "--help"], ["--version"]])
def test_a_full_disk_is_a_failure(args, unbuffered):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "fastonline", *args], env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
                              stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "fastonline: No space left on device\n")


@pytest.mark.parametrize("command", [
    *COMMANDS, *(f"show {what}" for what in ("summary", "pages", "offlineable", "zonelists")),
])
def test_help_of_every_command_has_examples_and_fits(run, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = run(*command.split(), "--help")
    assert (status, err) == (0, "") and "\nexamples:\n  fastonline " in out.replace("sudo ", "")
    assert max(map(len, out.splitlines())) <= 80 and "%%" not in out
