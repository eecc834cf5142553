"""Files: reading regular files only, and writing a file whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Path = str | os.PathLike[str]
Bytes = bytes | bytearray | memoryview

_CHUNK = 1 << 20
_MAX_UNPACKED = 100      # a page map of real memory packs to a seventh of its size
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_ACCESS_LIST = "system.posix_acl_access"
_MAX_LINKS = 40      # as many symbolic links as Linux follows (MAXSYMLINKS, fs/namei.c)


def open_regular(path: Path) -> BinaryIO:
    """Open the regular file `path` for reading, as bytes.

    OSError naming the path: IsADirectoryError for a directory, EINVAL for a device, a FIFO or a socket, none of which is
    opened.
    """
    _check_regular(path, os.stat(path).st_mode)
    file = io.BufferedReader(_opened("rb", path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
    try:
        _check_regular(path, os.fstat(file.fileno()).st_mode)      # another file may have come in its place
    except BaseException:
        file.close()
        raise
    return file


def _opened(kind: str, path: Path, flags: int, mode: int = 0o666) -> io.FileIO:
    """Return the file that os.open opens."""
    return _owned(kind, map(os.open, (path,), (flags | os.O_CLOEXEC,), (mode,)))


def _owned(kind: str, descriptor: map[int]) -> io.FileIO:
    """Return the file of a descriptor that is yet to be opened: `descriptor` is a map over the call that opens it. The file
    owns it from the first moment on, since nothing, not even a signal handler, runs between the two calls that map makes."""
    return next(map(io.FileIO, descriptor, (kind,)))


def _check_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file.

    Raises ValueError naming the path and the line for any other content, OSError as `open_regular`. Reading stops at the first
    NUL, so that the holes of a sparse file cost nothing.
    """
    parts, line = [], 1
    with open_regular(path) as file:
        while part := file.read(_CHUNK):
            if b"\0" in part:
                line += part.count(b"\n", 0, part.index(b"\0"))
                raise ValueError(f"{path}:{line}: not a text file: it contains a NUL")
            line += part.count(b"\n")
            parts.append(part)
    data = b"".join(parts)
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise ValueError(f"{path}:{line}: not a text file: byte {data[e.start]:#04x} is not UTF-8") from None


def read_arrays(path: Path, names: Iterable[str]) -> list[NDArray[Any]]:
    """Read one-dimensional arrays of unsigned integers from an .npz file by their names.

    Nothing is unpickled, and nothing is unpacked beyond `_MAX_UNPACKED` times the size of the file. ValueError naming the path
    for any other file; OSError as `open_regular`.
    """
    import zipfile  # it takes as long as half of the package

    with open_regular(path) as file:
        left = _MAX_UNPACKED * os.fstat(file.fileno()).st_size
        arrays = []
        try:
            with zipfile.ZipFile(file) as archive:
                for name in names:
                    if archive.getinfo(f"{name}.npy").compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise ValueError(f"{name} uses a compression that NumPy does not write")
                    with archive.open(f"{name}.npy") as member:
                        data = member.read(left + 1)
                    left -= len(data)
                    if left < 0:
                        raise ValueError(f"it unpacks to more than {_MAX_UNPACKED} times its size")
                    arrays.append(_array(data, name))
        except MemoryError:
            raise
        except Exception as e:      # zipfile, zlib and NumPy each raise what they like for a file that is damaged
            raise ValueError(f"{path}: {e}") from None
    return arrays


def _array(data: bytes, name: str) -> NDArray[Any]:
    """The array in the bytes of an .npy file."""
    stream = io.BytesIO(data)
    read_header = _NPY_HEADERS[np.lib.format.read_magic(stream)]
    shape, _, dtype = read_header(stream)
    size = len(data) - stream.tell()
    if dtype.kind != "u" or len(shape) != 1 or shape[0] * dtype.itemsize != size:
        raise ValueError(f"{name} is not an array of unsigned integers of one dimension")
    return np.frombuffer(data, dtype, shape[0], stream.tell())


def write_file(path: Path, parts: Iterable[Bytes]) -> None:
    """Write `parts`, one after the other, to the file `path`.

    A regular file is replaced as a whole: the new one is written beside it, synced to disk and renamed over it. A failure or a
    signal leaves the old file and nothing else. The file keeps its mode and, where that is allowed, its owner; a new file gets
    its mode from the umask. A symbolic link stays, and its target is written. FIFOs with a reader and character devices are
    written to directly. Raises OSError naming the path for everything else.
    """
    try:
        target, old, is_open = _target(path)
        if old is not None and (is_open or not stat.S_ISREG(old.st_mode)):
            _write_into(target, is_open, parts)
        else:
            _replace(target, old, parts)
    except OSError as e:
        e.filename = os.fspath(path)      # what was asked for, not what lies beside it
        del e.filename2
        raise


def check_output(path: Path) -> None:
    """Raise the OSError that write_file would raise at once for `path`; nothing is written."""
    try:
        target, old, _ = _target(path)
        directory = os.path.dirname(target) or "."
        found = os.stat(directory)
        if not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if found.st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if (old is None or stat.S_ISREG(old.st_mode)) and not os.access(
            directory, os.W_OK | os.X_OK, effective_ids=True
        ):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as e:
        e.filename = os.fspath(path)
        raise


def _target(path: Path) -> tuple[str, os.stat_result | None, bool]:
    """Return the target of a path's symbolic links, its stat result (None: no file yet), and whether the last link is in
    /proc, where it stands for an open file (/dev/stdout)."""
    at, is_open = os.fsdecode(path), False
    with suppress(FileNotFoundError):
        os.stat(at)      # may the links be followed? (may_follow_link, fs/namei.c)
    for _ in range(_MAX_LINKS):
        try:
            link = os.readlink(at)
        except OSError:      # not a link, or nothing
            break
        if _is_in_proc(at):
            is_open = True
            break
        at = os.path.join(os.path.dirname(at), link)
    try:
        found = os.stat(at)
    except FileNotFoundError:
        if not os.path.basename(at):
            raise
        return at, None, False
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISCHR(found.st_mode) or stat.S_ISFIFO(found.st_mode)):
        raise OSError(errno.EINVAL, "not a regular file, a FIFO or a character device")
    if not os.access(at, os.W_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return at, found, is_open


def _is_in_proc(path: str) -> bool:
    try:
        return os.lstat(path).st_dev == os.stat("/proc/self").st_dev
    except FileNotFoundError:
        return False


def _write_into(path: str, is_open: bool, parts: Iterable[Bytes]) -> None:
    """Write into an existing FIFO or device. A FIFO without a reader is refused (ENXIO) instead of waiting. A file that this
    process has open is written at its current position, so that later output does not overwrite it."""
    if is_open and os.path.samefile(os.path.dirname(path), "/proc/self/fd"):
        with _owned("wb", map(os.dup, (int(os.path.basename(path)),))) as file:
            _write(file.fileno(), parts)
        return
    with _opened("wb", path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY) as file:
        os.set_blocking(file.fileno(), True)
        _write(file.fileno(), parts)


def _replace(path: str, old: os.stat_result | None, parts: Iterable[Bytes]) -> None:
    directory = os.path.dirname(path) or "."
    beside = os.path.join(directory, f".{os.urandom(8).hex()}")      # short: the longest name has room for one beside it
    try:
        with _new_file(beside, directory, 0o666 if old is None else 0o600) as file:
            fd = file.fileno()
            if old is not None:
                _keep(fd, path, old)
            _write(fd, parts)
            os.fsync(fd)
            if os.fstat(fd).st_nlink == 0:
                os.link(f"/proc/self/fd/{fd}", beside, src_dir_fd=fd, follow_symlinks=True)      # linkat, which can follow
            os.rename(beside, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(beside)
        raise
    _sync_directory(directory)


def _keep(fd: int, path: str, old: os.stat_result) -> None:
    """Give a new file the group, the owner, the mode and the access list of the old one, as far as that is allowed."""
    for owner in ((-1, old.st_gid), (old.st_uid, -1)):
        with suppress(PermissionError):
            os.fchown(fd, *owner)
    os.fchmod(fd, stat.S_IMODE(old.st_mode))
    with suppress(OSError):
        os.setxattr(fd, _ACCESS_LIST, os.getxattr(path, _ACCESS_LIST))


def _new_file(name: str, directory: str, mode: int) -> io.FileIO:
    """Return a new file, without a name where the file system supports it, so that even a killed process leaves nothing."""
    if os.path.exists("/proc/self/fd"):
        with suppress(OSError):
            return _opened("wb", directory, os.O_TMPFILE | os.O_WRONLY, mode)
    return _opened("wb", name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)


def _write(fd: int, parts: Iterable[Bytes]) -> None:
    for part in parts:
        left = memoryview(part).cast("B")
        while len(left):
            left = left[os.write(fd, left) :]


def _sync_directory(path: str) -> None:
    """Make a rename durable, where the file system can."""
    with suppress(OSError):
        # a for loop, since no signal handler runs between its next item and the try
        for fd in map(os.open, (path,), (os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC,)):
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
