"""The file format of machines and captures: a magic line, a JSON header, the raw arrays, and a CRC-32 of all of it."""

import json
import math
import os
import zlib
from dataclasses import asdict, is_dataclass

import numpy as np

from fastonline.files import open_regular, write_file
from fastonline.geometry import Geometry
from fastonline.rules import Rules

_DTYPES = ("|u1", "<u2", "<u4", "<u8", "<i2", "<i8")
_MAX_HEADER = 1 << 28      # bytes; the header of a machine has less than 1 KiB for each run of sections
_MAX_LENGTH = 1 << 40      # elements in one dimension of an array
_CHUNK = 1 << 20


def _magic(kind):
    return f"fastonline-{kind}/7\n".encode()


def kind_of(path):
    """Return the kind of a file that save wrote, or None for another file. OSError when it cannot be read."""
    with open_regular(path) as file:
        head = file.read(64)
    return next((kind for kind in ("machine", "capture") if head.startswith(_magic(kind))), None)


def save(path, state, kind="machine"):
    """Write a state, made of dicts, lists, numbers, text and arrays, to the file `path`, as write_file does. kind: one word
    for what the file holds."""
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

    def parts():
        crc = 0
        for part in (
            _magic(kind),
            len(header).to_bytes(8, "little"),
            header,
            *(array.data.cast("B") for array in arrays if array.size),
        ):
            crc = zlib.crc32(part, crc)
            yield part
        yield crc.to_bytes(4, "little")

    write_file(path, parts())


def load(path, kind="machine"):
    """Return the state that save wrote. ValueError, naming the file, if it is of another kind, truncated or altered. Arrays are
    read only after their sizes match the size of the file."""
    magic = _magic(kind)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(len(magic)) != magic:
            raise ValueError(f"{path}: not a {kind} that fastonline saved")
        length = file.read(8)
        nr_bytes = int.from_bytes(length, "little")
        if nr_bytes > min(size, _MAX_HEADER):
            raise ValueError(f"{path}: truncated or altered, it has no header of {nr_bytes} bytes")
        header = file.read(nr_bytes)
        try:
            plain = json.loads(header)
        except (ValueError, RecursionError) as e:
            raise ValueError(f"{path}: truncated or altered: {e}") from None
        try:
            if not isinstance(plain, dict):
                raise ValueError("it has no state")
            arrays = _find_arrays(plain)
        except (KeyError, RecursionError, TypeError, ValueError) as e:
            raise ValueError(f"{path}: not a {kind} that fastonline saved: {e}") from None
        nr_bytes = size - file.tell() - 4
        if sum(nr for _, _, nr in arrays) != nr_bytes:
            raise ValueError(f"{path}: truncated or altered, it does not have the size that its header says")
        data, crc = _read_checked(path, file, nr_bytes, zlib.crc32(header, zlib.crc32(length, zlib.crc32(magic))))
        if file.read(4) != crc.to_bytes(4, "little"):
            raise ValueError(f"{path}: truncated or altered, its checksum is wrong")
    at, found = 0, []
    for dtype, shape, nr in arrays:
        found.append(data[at : at + nr].view(dtype).reshape(shape))
        at += nr
    try:
        return _revive(plain, iter(found))
    except (KeyError, RecursionError, TypeError, ValueError, OverflowError) as e:
        raise ValueError(f"{path}: not a {kind} that fastonline saved: {e}") from None


def _find_arrays(plain):
    """(dtype, shape, bytes) of each array in a header, in the order in which they follow it."""
    if isinstance(plain, list):
        return [array for item in plain if isinstance(item, (dict, list)) for array in _find_arrays(item)]
    if "array" not in plain:
        return [array for item in plain.values() if isinstance(item, (dict, list)) for array in _find_arrays(item)]
    dtype, shape = plain["dtype"], plain["shape"]
    if dtype not in _DTYPES or len(shape) > 2 or not all(type(n) is int and 0 <= n <= _MAX_LENGTH for n in shape):
        raise ValueError(f"no array of {dtype} {shape}")
    return [(dtype, shape, math.prod(shape) * np.dtype(dtype).itemsize)]


def _read_checked(path, file, nr_bytes, crc):
    """So many bytes of a file as an array of uint8, and the CRC-32 of what `crc` is of and of them."""
    data = np.empty(nr_bytes, np.uint8)
    for at in range(0, nr_bytes, _CHUNK):      # a chunk is still in the cache when its checksum is computed
        part = memoryview(data)[at : at + _CHUNK]
        if file.readinto(part) != len(part):
            raise ValueError(f"{path}: truncated while it was read")
        crc = zlib.crc32(part, crc)
    return data, crc


def _revive(value, arrays):
    if isinstance(value, list):
        return [_revive(item, arrays) if isinstance(item, (dict, list)) else item for item in value]
    if "array" in value:
        return next(arrays)
    if "Geometry" in value:
        fields = value["Geometry"]
        return Geometry(**fields | {"zone_limits": tuple(map(tuple, fields["zone_limits"]))})
    if "Rules" in value:
        fields = value["Rules"]
        return Rules(**fields | {
            "lowmem_reserve_ratio": tuple(map(tuple, fields["lowmem_reserve_ratio"])),
            **{name: tuple(fields[name]) for name in ("migrate_types", "node_threads", "struct_page_bytes", "zoneinfo_lines")},
        })
    return {key: _revive(item, arrays) if isinstance(item, (dict, list)) else item for key, item in value.items()}
