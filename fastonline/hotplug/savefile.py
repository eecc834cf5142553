"""One file with a machine or a capture: a magic line, a JSON header, the raw arrays, and a CRC-32 of all that."""

import json
import os
import tempfile
import zlib
from dataclasses import asdict, is_dataclass

import numpy as np

from fastonline.geometry import Geometry
from fastonline.rules import Rules

_DTYPES = ("|u1", "<u2", "<u4", "<u8", "<i2", "<i8")


def _magic(kind):
    return f"fastonline-{kind}/5\n".encode()


def kind_of(path):
    """The kind of file that save wrote, or None for another file. OSError when it cannot be read."""
    with open(path, "rb") as file:
        head = file.read(64)
    return next((kind for kind in ("machine", "capture") if head.startswith(_magic(kind))), None)


def save(path, state, kind="machine"):
    """Write the state (Memory._state, or what else is of dicts, lists, numbers, text and arrays) to path: first beside it, then
    renamed over it. kind: what the file is, one word."""
    arrays = []

    def plain(value):
        if isinstance(value, np.ndarray):
            arrays.append(np.ascontiguousarray(value))
            return {"array": len(arrays) - 1, "dtype": value.dtype.str, "shape": value.shape}
        if is_dataclass(value):
            return {type(value).__name__: asdict(value)}
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    header = json.dumps(plain(state)).encode()
    directory = os.path.dirname(os.path.abspath(path))
    try:
        handle, beside = tempfile.mkstemp(prefix=os.path.basename(path) + ".", dir=directory)
    except OSError as e:
        e.filename = os.fspath(path)    # what was asked for, not what would have been beside it
        raise
    try:
        with os.fdopen(handle, "wb") as file:
            crc = 0
            for part in (_magic(kind), len(header).to_bytes(8, "little"), header, *(array.data.cast("B") for array in arrays if array.size)):
                crc = zlib.crc32(part, crc)
                file.write(part)
            file.write(crc.to_bytes(4, "little"))
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load(path, kind="machine"):
    """The state that save wrote. ValueError naming the file for one that is something else, truncated or altered."""
    magic = _magic(kind)
    with open(path, "rb") as file:
        data = file.read()
    if not data.startswith(magic):
        raise ValueError(f"{path}: not a {kind} that fastonline saved")
    if zlib.crc32(memoryview(data)[:-4]) != int.from_bytes(data[-4:], "little"):
        raise ValueError(f"{path}: truncated or altered, its checksum is wrong")
    start = len(magic) + 8
    length = int.from_bytes(data[len(magic) : start], "little")
    at = start + length

    def revive(value):
        nonlocal at
        if isinstance(value, dict):
            if "array" in value:
                if value["dtype"] not in _DTYPES or any(n < 0 for n in value["shape"]):
                    raise ValueError(f"no array of {value['dtype']} {value['shape']}")
                count = int(np.prod(value["shape"], dtype=object))
                array = np.frombuffer(data, value["dtype"], count, at).reshape(value["shape"])
                at += array.nbytes
                return array
            if "Geometry" in value:
                fields = value["Geometry"] | {"zone_limits": tuple(map(tuple, value["Geometry"]["zone_limits"]))}
                return Geometry(**fields)
            if "Rules" in value:
                fields = value["Rules"]
                return Rules(**fields | {
                    "lowmem_reserve_ratio": tuple(map(tuple, fields["lowmem_reserve_ratio"])),
                    "node_threads": tuple(fields["node_threads"]),
                    "struct_page_bytes": tuple(fields["struct_page_bytes"]),
                })
            return {key: revive(item) for key, item in value.items()}
        if isinstance(value, list):
            return [revive(item) for item in value]
        return value

    try:
        return revive(json.loads(data[start:at]))
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as e:
        raise ValueError(f"{path}: not a {kind} that fastonline saved: {e}") from None
