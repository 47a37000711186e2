"""Arrays in `.npz` files whose members are stored, aligned and mapped without a copy (SPEC §4).

Any NumPy opens them with `numpy.load`. Our reader is stricter: it maps the file and refuses whatever
the writer here would not have written, before it allocates or trusts anything.
"""

from __future__ import annotations

import io
import math
import mmap
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index_format.errors import IndexCorrupt, InputError, ObjectMissing, storage_error

ALIGNMENT = 64
_EPOCH = (1980, 1, 1, 0, 0, 0)
_PADDING_FIELD = 0xD935  # the id that zipalign uses
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
# Matched rather than evaluated as the Python literal that it is.
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<|][a-z][1-8])', 'fortran_order': False, 'shape': \(((?:[0-9]{1,19}, )*[0-9]{1,19},?)\), \} *\n"
)
_MAX_HEADER_BYTES = 4096
_MAX_FILE_BYTES = 2**32 - 1  # of a file that is read: no ZIP64
MAX_WRITTEN_BYTES = 2**31 - 1  # what every ZIP library writes without ZIP64
_MEMBER_BYTES = 512  # more than a member takes beside its array, in both headers and the directory


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """What a member must be: its dtype and its shape, None where any length is allowed."""

    dtype: str
    shape: tuple[int | None, ...]


def write_npz(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """The bytes of an `.npz` with the given arrays, little-endian and C-contiguous. Equal input gives equal bytes.

    Raises InputError, before anything is made, when they are too many for one file.
    """
    size = sum(array.nbytes + _MEMBER_BYTES for array in arrays.values())
    if size > MAX_WRITTEN_BYTES:
        raise InputError(
            f"the arrays {', '.join(arrays)} take {size} bytes, and a file of an index at most {MAX_WRITTEN_BYTES}. "
            "Split the longest documents, then run again."
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            start = buffer.tell() + _LOCAL_HEADER.size + len(info.filename)
            padding = -(start + 4) % ALIGNMENT
            info.extra = struct.pack("<HH", _PADDING_FIELD, padding) + bytes(padding)
            little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)
            with archive.open(info, "w") as member:  # not `writestr`, which wants a twentieth of the most to spare
                np.lib.format.write_array(member, little, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def map_npz(path: Path, specs: Mapping[str, ArraySpec]) -> dict[str, NDArray[np.generic]]:
    """Map the members that `specs` names, read-only and without a copy.

    Raises IndexCorrupt when the file has other members, or a member is deflated, encrypted, misaligned,
    overlapping, of another dtype or shape, or does not fill its place exactly.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ObjectMissing(f"{path} is gone.") from None
    except ValueError:
        raise IndexCorrupt(f"{path} is empty.") from None
    except OSError as error:
        raise storage_error("map", str(path), error) from error
    return view_npz(memoryview(mapped), specs, str(path))


def forget(array: NDArray[np.generic]) -> None:
    """Give back the memory that a mapped array's file takes; what is used again is read again."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview) and isinstance(base.obj, mmap.mmap):
        base.obj.madvise(mmap.MADV_DONTNEED)


def view_npz(data: memoryview, specs: Mapping[str, ArraySpec], where: str) -> dict[str, NDArray[np.generic]]:
    """The same as `map_npz` for bytes already in memory; `where` names them in errors."""
    places = _members(data, where)
    if set(places) != set(specs):
        raise IndexCorrupt(f"{where}: expected arrays {sorted(specs)}, got {sorted(places)}.")
    return {name: _array(data[start:end], specs[name], f"{where}: {name}") for name, (start, end) in places.items()}


def _members(data: memoryview, where: str) -> dict[str, tuple[int, int]]:
    if len(data) > _MAX_FILE_BYTES:
        raise IndexCorrupt(f"{where}: {len(data)} bytes, more than an .npz of this format may have.")
    try:
        with zipfile.ZipFile(_Reader(data)) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError) as error:
        raise IndexCorrupt(f"{where}: not an .npz ({error}).") from error
    places: dict[str, tuple[int, int]] = {}
    previous_end = 0
    for info in sorted(infos, key=lambda one: one.header_offset):
        name = info.filename.removesuffix(".npy")
        start = _data_start(data, info, where)
        end = start + info.file_size
        stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
        if not stored or info.flag_bits & 1 or name in places or not info.filename.endswith(".npy"):
            raise IndexCorrupt(f"{where}: member {info.filename!r} is not a stored array of its own.")
        if info.header_offset < previous_end or end > len(data) or start % ALIGNMENT:
            raise IndexCorrupt(f"{where}: member {info.filename!r} overlaps, overruns or is not aligned.")
        places[name] = (start, end)
        previous_end = end
    return places


def _data_start(data: memoryview, info: zipfile.ZipInfo, where: str) -> int:
    header = data[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
    if len(header) < _LOCAL_HEADER.size or bytes(header[:4]) != b"PK\x03\x04":
        raise IndexCorrupt(f"{where}: member {info.filename!r} has no local header.")
    fields = _LOCAL_HEADER.unpack(header)
    return info.header_offset + _LOCAL_HEADER.size + int(fields[9]) + int(fields[10])


def _array(data: memoryview, spec: ArraySpec, where: str) -> NDArray[np.generic]:
    prefix = bytes(data[:_MAX_HEADER_BYTES])
    length = int.from_bytes(prefix[8:10], "little")
    header = prefix[10 : 10 + length]
    found = _NPY_HEADER.fullmatch(header)
    if prefix[:8] != b"\x93NUMPY\x01\x00" or found is None:
        raise IndexCorrupt(f"{where}: not a C-ordered array of .npy version 1.0.")
    dtype, shape = found[1].decode(), tuple(int(one) for one in found[2].split(b",") if one)
    spelling = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    if header != spelling.ljust(length - 1) + b"\n" or (10 + length) % ALIGNMENT:
        raise IndexCorrupt(f"{where}: its header is not {spelling.decode()!r} up to a multiple of {ALIGNMENT} bytes.")
    fits = len(shape) == len(spec.shape) and all(a in (None, b) for a, b in zip(spec.shape, shape, strict=True))
    if dtype != spec.dtype or not fits:
        raise IndexCorrupt(f"{where}: expected {spec.dtype}{list(spec.shape)}, got {dtype}{list(shape)}.")
    body = data[10 + length :]
    size = math.prod(shape) * np.dtype(dtype).itemsize  # plain integers: numpy's would wrap
    if size != len(body):
        raise IndexCorrupt(f"{where}: shape {list(shape)} needs {size} bytes, the member has {len(body)}.")
    return np.frombuffer(body, dtype=dtype).reshape(shape)


class _Reader(io.RawIOBase):
    """A seekable file over a memoryview, so that the zip directory is read without a copy of the rest."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size is None or size < 0 else self._at + size
        chunk = bytes(self._data[self._at : end])
        self._at += len(chunk)
        return chunk
