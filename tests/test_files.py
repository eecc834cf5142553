"""files.py: what is read, and that each output is whole or not there at all."""

import errno
import io
import os
import re
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL_64
from in_process import in_process

import fastonline as fo
from fastonline import files
from fastonline.cli import main
from fastonline.files import check_output, open_regular, read_text, write_file

CAPTURE = Path(__file__).resolve().parent / "data" / "linux-6.18-24g"


def save(path):
    fo.Memory(SMALL_64, "1M").save(path)


def save_capture(path):
    fo.Capture.load(CAPTURE).save(path)


def command(*arguments):
    def write(path):
        status = main([*arguments, str(path)])
        if status:
            raise OSError(f"exit status {status}")
    return write


OUTPUTS = {
    "save": save,
    "capture": save_capture,
    "json": command("balloon", "xen", "1G", "--json"),
    "plot": command("balloon", "xen", "1G", "--plot"),
}


@pytest.fixture(params=OUTPUTS)
def write(request):
    """One way to write a file: write(path)."""
    if request.param == "plot":
        pytest.importorskip("matplotlib")
    return OUTPUTS[request.param]


@pytest.fixture
def name(write):
    """A file name whose suffix is a format of pictures where that matters."""
    return "out.svg" if write is OUTPUTS["plot"] else "out"


def mode_of(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def test_a_file_that_is_there_keeps_its_mode(tmp_path, write, name):
    path = tmp_path / name
    path.write_text("old")
    os.chmod(path, 0o600)
    before = path.stat().st_ino
    write(path)
    assert path.stat().st_size > 3 and path.stat().st_ino != before
    assert mode_of(path) == 0o600
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000])
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path, write, name, mask):
    before = os.umask(mask)
    try:
        write(tmp_path / name)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert mode_of(tmp_path / name) == 0o666 & ~mask


def test_the_owner_stays(tmp_path, write, name):
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    path = tmp_path / name
    path.write_text("old")
    os.chown(path, 12, 34)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)


def test_a_symbolic_link_stays(tmp_path, write, name):
    """
        link.svg -> b/second.svg -> ../c/out.svg
    """
    for directory in "bc":
        (tmp_path / directory).mkdir()
    (tmp_path / f"link{name}").symlink_to(f"b/second{name}")
    (tmp_path / "b" / f"second{name}").symlink_to(f"../c/{name}")
    for _ in range(2):      # the target is not there at first
        write(tmp_path / f"link{name}")
        assert (tmp_path / f"link{name}").is_symlink() and (tmp_path / "b" / f"second{name}").is_symlink()
        assert not (tmp_path / "c" / name).is_symlink() and (tmp_path / "c" / name).stat().st_size > 3
    assert os.listdir(tmp_path / "c") == [name]


def test_a_fifo_is_written_to(tmp_path, write, name):
    path, got = tmp_path / name, []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    while True:      # until the reader waits for a writer
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            time.sleep(0.01)
            continue
        break
    reader.join()
    got.clear()
    keep = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    time.sleep(0.05)
    os.close(keep)
    write(path)
    reader.join()
    assert got[0] and stat.S_ISFIFO(os.stat(path).st_mode)


def test_a_fifo_without_a_reader_is_refused(tmp_path, write, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(OSError):
        write(tmp_path / name)
    assert stat.S_ISFIFO(os.lstat(tmp_path / name).st_mode) and os.listdir(tmp_path) == [name]


@pytest.fixture
def device(tmp_path, name):
    """device(minor): a path of a memory device, mknod c 1 minor."""
    def make(minor):
        try:
            os.mknod(tmp_path / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
            os.close(os.open(tmp_path / name, os.O_WRONLY))
        except OSError:
            pytest.skip("no device nodes can be made here")
        return tmp_path / name

    return make


def test_a_device_is_written_to(device, write):
    path = device(3)      # /dev/null
    write(path)
    assert stat.S_ISCHR(os.lstat(path).st_mode)


def test_a_full_device_is_an_error(device, write):
    path = device(7)      # /dev/full
    with pytest.raises(OSError):
        write(path)
    assert stat.S_ISCHR(os.lstat(path).st_mode) and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_leaves_what_was_there(tmp_path, write, name, there):
    """No file may be longer than 16 bytes (EFBIG): what is written does not fit."""
    path = tmp_path / name
    if there:
        path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))
    try:
        with pytest.raises(OSError):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == [name] * there
    assert not there or path.read_text() == "old"


def test_a_tree_that_does_not_fit_is_not_there(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (7, hard))
    try:
        with pytest.raises(OSError) as caught:
            fo.export_sysfs(fo.Memory(fo.X86_64, "1G"), tmp_path / "a" / "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("length", [250, 255])
def test_a_long_name(tmp_path, write, name, length):
    path = tmp_path / ("x" * (length - len(name)) + name)
    for _ in range(2):
        write(path)
    assert os.listdir(tmp_path) == [path.name]


def test_a_name_that_is_too_long(tmp_path, write, name):
    with pytest.raises((OSError, SystemExit)):
        write(tmp_path / ("x" * 256 + name))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["directory", "missing", "below a file", "loop"])
def test_what_is_no_place_for_a_file(tmp_path, write, name, kind):
    (tmp_path / "file").write_text("")
    (tmp_path / "directory").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    path = tmp_path / {"below a file": f"file/{name}", "missing": f"missing/{name}"}.get(kind, kind)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises((OSError, SystemExit)) as caught:
        write(path)
    assert " -> " not in str(caught.value)      # no second name where there is none
    assert sorted(os.listdir(tmp_path)) == before


# In a process of its own: {what is done first}, then write_file to a path; the error is printed as the command line has it.
ATTEMPT = """
import os, sys
from fastonline.cli import describe
from fastonline.files import check_output, write_file
{first}
for call in (check_output, lambda path: write_file(path, [b"new"])):
    try:
        call({path!r})
    except OSError as e:
        print(describe(e))
"""


@pytest.mark.parametrize(
    "first, path, error",
    [
        ("os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')", "out", "No such file or directory"),
        ("os.mkdir('ro', 0o555)\nif os.geteuid() == 0: os.chmod('.', 0o755); os.setuid(65534)", "ro/out", "Permission denied"),
        (
            "open('out', 'w').close(); os.chmod('out', 0o444)\nif os.geteuid() == 0: os.chmod('.', 0o777); os.setuid(65534)",
            "out",
            "Permission denied",
        ),
        (
            "import socket; s = socket.socket(socket.AF_UNIX); s.bind('out')",
            "out",
            "not a regular file, a FIFO or a character device",
        ),
    ],
    ids=["deleted working directory", "read-only directory", "read-only file", "socket"],
)
def test_refusals_of_a_process(first, path, error):
    # not below tmp_path, which belongs to root alone
    import tempfile
    with tempfile.TemporaryDirectory() as where:
        os.chmod(where, 0o755)
        program = ATTEMPT.format(first=first, path=path)
        done = subprocess.run([sys.executable, "-c", program], cwd=where, capture_output=True, text=True, env=environ())
        assert (done.stdout, done.stderr) == (f"{path}: {error}\n" * 2, "")
        assert [n for _, _, names in os.walk(where) for n in names if n != "out"] == []


def environ():
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(fo.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}


def test_standard_output_by_its_name(tmp_path):
    """Expect /dev/stdout to be what was redirected, a file too: it is written to, not replaced."""
    program = (
        "import os; from fastonline.files import write_file; os.write(1, b'first '); write_file('/dev/stdout', [b'second'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environ(), check=True)
    assert done.stdout == b"first second"
    with open(tmp_path / "out", "wb") as out:
        before = os.fstat(out.fileno()).st_ino
        subprocess.run([sys.executable, "-c", program], stdout=out, env=environ(), check=True)
    assert (tmp_path / "out").read_bytes() == b"first second" and (tmp_path / "out").stat().st_ino == before


def test_what_is_printed_after_it_stands_after_it(tmp_path):
    program = (
        "import os; from fastonline.files import write_file\n"
        "for path in ('/dev/stdout', '/dev/fd/1', f'/proc/{os.getpid()}/fd/1'):\n"
        "    os.write(1, b'first '); write_file(path, [b'second ']); os.write(1, b'third ')"
    )
    with open(tmp_path / "out", "wb") as out:
        subprocess.run([sys.executable, "-c", program], stdout=out, env=environ(), check=True)
    assert (tmp_path / "out").read_bytes() == b"first second third " * 3


def test_an_access_list_stays(tmp_path, write, name):
    """user::rw-, user:12:rw-, group::---, mask::rw-, other::---: without the list, the group could read."""
    path, access = tmp_path / name, struct.pack("<I", 2)
    for tag, may, who in ((1, 6, -1), (2, 6, 12), (4, 0, -1), (16, 6, -1), (32, 0, -1)):
        access += struct.pack("<HHi", tag, may, who)
    path.write_text("old")
    try:
        os.setxattr(path, "system.posix_acl_access", access)
    except OSError:
        pytest.skip("no access lists here")
    write(path)
    assert os.getxattr(path, "system.posix_acl_access") == access and mode_of(path) == 0o660


def test_a_secret_is_nobodys_to_read_before_it_has_its_mode(tmp_path, monkeypatch):
    """A file system without O_TMPFILE, where the new file has a name from the first moment on."""
    path, modes, real = tmp_path / "out", [], os.fchmod
    path.write_text("old")
    os.chmod(path, 0o600)
    monkeypatch.setattr(files.os.path, "exists", lambda path: False)
    monkeypatch.setattr(
        files.os, "fchmod", lambda fd, mode: (modes.append(stat.S_IMODE(os.fstat(fd).st_mode)), real(fd, mode))
    )
    write_file(path, [b"new"])
    assert modes == [0o600] and mode_of(path) == 0o600 and path.read_bytes() == b"new"


def test_a_link_that_the_kernel_does_not_follow(tmp_path):
    """Somebody else's link in a directory like /tmp (protected_symlinks, may_follow_link). Expect EACCES, no new target."""
    sysctl = Path("/proc/sys/fs/protected_symlinks")
    if os.geteuid() != 0 or not sysctl.exists() or sysctl.read_text().strip() != "1":
        pytest.skip("only root can make somebody else's link, and the kernel must look at it")
    target, where = tmp_path / "target", tmp_path / "tmp"
    target.write_text("old")
    where.mkdir()
    os.chmod(where, 0o1777)
    os.symlink(target, where / "out")
    os.chown(where / "out", 12, 12, follow_symlinks=False)
    for call in (check_output, lambda path: write_file(path, [b"new"])):
        with pytest.raises(PermissionError):
            call(where / "out")
    assert target.read_text() == "old"


def test_no_name_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("", "missing/"):
        for call in (check_output, lambda path: write_file(path, [b"new"])):
            with pytest.raises(FileNotFoundError):
                call(name)
    assert os.listdir(tmp_path) == []


def test_the_other_name_of_a_file_keeps_the_old(tmp_path, write, name):
    (tmp_path / name).write_text("old")
    os.link(tmp_path / name, tmp_path / "other")
    write(tmp_path / name)
    assert (tmp_path / "other").read_text() == "old" and (tmp_path / name).stat().st_size > 3


@pytest.mark.parametrize("unnamed", [True, False])
def test_a_signal_comes_out_as_itself(tmp_path, monkeypatch, unnamed):
    """A handler raises at any moment of write_file: the file is the old one or the new one, and nothing lies beside it."""
    class Alarm(Exception):
        pass

    def handler(number, frame):
        raise Alarm

    if not unnamed:
        monkeypatch.setattr(files.os.path, "exists", lambda path: False)
    path, old = tmp_path / "out", b"old" * 1000
    new = [b"new" * 1000] * 20
    before = signal.signal(signal.SIGALRM, handler)
    interrupted = 0
    try:
        for nr in range(400):
            path.write_bytes(old)
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 1e-6 + nr % 100 * 1e-5)
                    write_file(path, new)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Alarm:
                interrupted += 1
            assert path.read_bytes() in (old, b"".join(new))
            assert os.listdir(tmp_path) == ["out"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted


@pytest.mark.parametrize("call", [
    lambda path: write_file(path, [b"new" * 1000]), lambda path: open_regular(path).close(), read_text,
], ids=["write_file", "open_regular", "read_text"])
def test_a_signal_leaves_no_descriptor(tmp_path, call):
    def work():
        def handler(number, frame):
            raise KeyError

        path = tmp_path / "file"
        path.write_text("old")
        signal.signal(signal.SIGALRM, handler)
        before = len(os.listdir("/proc/self/fd"))
        for nr in range(1500):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 1e-6 + nr % 300 * 5e-6)
                    call(path)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyError:
                pass
        assert len(os.listdir("/proc/self/fd")) == before

    assert in_process(work) == ""


def test_without_unnamed_files(tmp_path, monkeypatch):
    """A file system that has no O_TMPFILE."""
    real = os.open

    def no_tmpfile(path, flags, *args, **kwargs):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(files.os, "open", no_tmpfile)
    write_file(tmp_path / "out", [b"a", b"", memoryview(b"b")])
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out").read_bytes() == b"ab"

    def failing():
        yield b"c"
        assert len(os.listdir(tmp_path)) == 2
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError):
        write_file(tmp_path / "out", failing())
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out").read_bytes() == b"ab"


def test_files_are_synced_before_they_are_renamed(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(
            files.os, name, lambda *args, name=name, real=real, **more: (calls.append(name), real(*args, **more))
        )
    write_file(tmp_path / "out", [b"new"])
    assert calls == ["fsync", "rename", "fsync"]      # the file, then the directory


# -- reading

READERS = {
    "machine": fo.load, "capture": fo.Capture.load, "recording": fo.Recording.load, "text": read_text, "open": open_regular,
    "show": lambda path: _exits(["show", "buddyinfo", str(path)]), "replay": lambda path: _exits(["replay", str(path)]),
    "profile": lambda path: _exits(["profile", "--capture", str(path)]),
    "against": lambda path: _exits(["profile", "--against", str(path), "--repeat", "1", "--brief"]),
    "scenario": lambda path: _exits(["compare", str(path)]),
    "sweep": lambda path: _exits(["sweep", str(path), "--out", os.devnull]),
    "summary": lambda path: _exits(["sweep", "--summary", str(path)]),
    "targets": lambda path: _exits(["balloon", "xen", str(path)]),
}


def _exits(arguments):
    if main(arguments) == 2:
        raise ValueError("exit status 2")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["fifo", "null", "zero", "directory", "socket", "sparse", "sparse text", "empty"])
def test_what_is_no_file_to_read(tmp_path, reader, kind):
    """Expect a refusal at once: no waiting for a writer, no reading of what has no end."""
    import socket
    path = tmp_path / "in"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind in ("null", "zero"):
        path.symlink_to(f"/dev/{kind}")
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(b"{" if kind == "sparse text" else b"")
        os.truncate(path, 100 << 30)
    if reader == "open" and kind.startswith(("sparse", "empty")) or (reader, kind) == ("text", "empty"):
        return
    with pytest.raises((OSError, ValueError)) as caught:
        READERS[reader](path)
    assert "\n" not in str(caught.value)


def test_check_output_says_nothing_of_a_place_that_is_free(tmp_path):
    check_output(tmp_path / "out")
    assert os.listdir(tmp_path) == []


# -- capture directories

@pytest.fixture
def directory(tmp_path):
    """A capture directory to be damaged."""
    return shutil.copytree(CAPTURE, tmp_path / "capture")


@pytest.mark.parametrize("name", sorted(os.listdir(CAPTURE)))
@pytest.mark.parametrize("kind", ["fifo", "zero", "sparse", "directory"])
def test_no_file_of_a_capture_is_read_that_is_none(directory, name, kind):
    if name == "lsmem.json":
        pytest.skip("it is not read")
    path = directory / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 100 << 30)
    else:
        path.mkdir()
    with pytest.raises((OSError, ValueError), match=re.escape(str(directory))) as caught:
        fo.Capture.load(directory)
    assert "\n" not in str(caught.value)


def npz(path, arrays, compression=zipfile.ZIP_DEFLATED):
    """An .npz file of these {name: the bytes of its member}."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


HUGE_HEADER = npy(np.zeros(1, np.uint64)).replace(b"(1,), }" + b" " * 12, b"(1000000000000,), }")
GOOD = npy(np.zeros(3, np.uint64))


@pytest.mark.parametrize("member, compression", [
    (npy(np.zeros(1 << 27, np.uint8)), zipfile.ZIP_DEFLATED),
    (GOOD, zipfile.ZIP_LZMA),
    (HUGE_HEADER, zipfile.ZIP_STORED),
    (npy(np.array([{}], object)), zipfile.ZIP_STORED),
    (npy(np.zeros((2, 2), np.uint64)), zipfile.ZIP_STORED),
    (npy(np.zeros(3, np.float64)), zipfile.ZIP_STORED),
    (GOOD[:-1], zipfile.ZIP_STORED),
    (b"", zipfile.ZIP_STORED),
], ids=["bomb", "lzma", "header", "pickle", "two dimensions", "floats", "short", "empty"])
def test_arrays_that_are_refused(tmp_path, member, compression):
    path = tmp_path / "pages.npz"
    npz(path, {"start": member, "length": GOOD}, compression)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=re.escape(str(path))):
            files.read_arrays(path, ["start", "length"])
        assert tracemalloc.get_traced_memory()[1] < 1000 * path.stat().st_size + (8 << 20)
    finally:
        tracemalloc.stop()


def test_arrays_that_are_read(tmp_path):
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        npz(tmp_path / "a.npz", {"x": npy(np.arange(9, dtype=np.uint32)), "y": npy(np.arange(3, dtype=">u8"))}, compression)
        x, y = files.read_arrays(tmp_path / "a.npz", ["x", "y"])
        assert x.tolist() == list(range(9)) and y.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="missing"):
        files.read_arrays(tmp_path / "a.npz", ["missing"])


def test_a_capture_costs_no_more_than_its_size(directory):
    """Thousands of blocks, zones and ranges: the time grows with the text, not with its square."""
    blocks = "".join(f"memory{nr} online none 1 0\n" for nr in range(0, 60000, 2))
    iomem = "".join(f"{nr << 24:x}-{(nr << 24) + 0xffffff:x} : System RAM\n" for nr in range(0, 40000, 2))
    (directory / "blocks").write_text(blocks)
    (directory / "iomem").write_text(iomem)
    with pytest.raises(ValueError):
        fo.Capture.load(directory)
