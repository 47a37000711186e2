"""`.npz` files: what is written is aligned and read without a copy, and nothing else is read at all."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from index_format.errors import IndexCorrupt, InputError
from index_format.npz import ALIGNMENT, ArraySpec, map_npz, view_npz, write_npz

Arrays = dict[str, NDArray[np.generic]]

ARRAYS: Arrays = {
    "offsets": np.array([0, 2, 3], np.uint32),
    "codes": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "scales": np.array([0.5, 1.0, 2.0], np.float16),
}
SPECS = {
    "offsets": ArraySpec("<u4", (3,)),
    "codes": ArraySpec("|u1", (3, 4)),
    "scales": ArraySpec("<f2", (None,)),
}

arrays_of_any_kind = st.dictionaries(
    st.sampled_from(["offsets", "codes", "scales", "ids", "mean"]),
    st.sampled_from(["<u4", "|u1", "<f2", "<f4"]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=9))
    ),
    min_size=1,
)


def read(data: bytes, specs: dict[str, ArraySpec] | None = None) -> Arrays:
    return view_npz(memoryview(data), SPECS if specs is None else specs, "test.npz")


def specs_of(arrays: Arrays) -> dict[str, ArraySpec]:
    return {name: ArraySpec(array.dtype.str, array.shape) for name, array in arrays.items()}


@given(arrays_of_any_kind)
def test_arrays_come_back_as_they_went_in(arrays: Arrays) -> None:
    """Values, dtypes and shapes survive, for empty arrays too."""
    back = read(write_npz(arrays), specs_of(arrays))
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


@given(arrays_of_any_kind)
def test_numpy_opens_every_file(arrays: Arrays) -> None:
    """`numpy.load` reads the file without pickle, and every checksum in it holds."""
    data = write_npz(arrays)
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None
    with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
        assert set(loaded) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(loaded[name], array)


@given(arrays_of_any_kind)
def test_every_array_starts_at_a_multiple_of_64_bytes(arrays: Arrays) -> None:
    """Members are aligned in the file, and so is the data behind each .npy header."""
    data = write_npz(arrays)
    for name in arrays:
        start = data.index(f"{name}.npy".encode())
        member = data.index(b"\x93NUMPY", start)
        length = int.from_bytes(data[member + 8 : member + 10], "little")
        assert member % ALIGNMENT == 0
        assert (member + 10 + length) % ALIGNMENT == 0


def test_equal_arrays_give_equal_bytes() -> None:
    """No clock and no memory layout leaks into a file."""
    fortran = {name: np.asfortranarray(array) for name, array in ARRAYS.items()}
    swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in ARRAYS.items()}
    assert write_npz(ARRAYS) == write_npz(fortran) == write_npz(swapped)


def test_a_mapped_array_cannot_be_written(tmp_path: Path) -> None:
    """Maps are read-only."""
    path = tmp_path / "one.npz"
    path.write_bytes(write_npz(ARRAYS))
    mapped = map_npz(path, SPECS)
    np.testing.assert_array_equal(mapped["codes"], ARRAYS["codes"])
    with pytest.raises(ValueError, match="read-only"):
        mapped["codes"][0, 0] = 1


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    """A file of no bytes cannot be mapped, and that is corruption."""
    path = tmp_path / "one.npz"
    path.write_bytes(b"")
    with pytest.raises(IndexCorrupt, match=r"one\.npz"):
        map_npz(path, SPECS)


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip with members padded to 64 bytes, as the format wants, unless compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            padding = -(buffer.tell() + 30 + len(name) + 4) % ALIGNMENT
            info.extra = struct.pack("<HH", 0xD935, padding) + bytes(padding)
            archive.writestr(info, data, compress_type=compression)
    return buffer.getvalue()


def npy(array: NDArray[np.generic], version: tuple[int, int] = (1, 0)) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version=version)
    return out.getvalue()


def with_member(name: str, data: bytes) -> bytes:
    return zipped({**{f"{name}.npy": npy(array) for name, array in ARRAYS.items()}, f"{name}.npy": data})


def header_saying(text: str, body: bytes = b"", length: int = 118) -> bytes:
    header = text.encode().ljust(length - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def patched(data: bytes, signature: bytes, field: int, value: int, size: int = 4) -> bytes:
    """Overwrite a field of the first header with that signature."""
    at = data.index(signature) + field
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]


GOOD = write_npz(ARRAYS)
CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"
U4 = "{'descr': '<u4', 'fortran_order': False, 'shape': %s, }"
U1 = "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }"
ROW = bytes(12)

REFUSED: dict[str, Callable[[], bytes]] = {
    "no zip": lambda: b"hello" * 100,
    "deflated": lambda: zipped({f"{name}.npy": npy(array) for name, array in ARRAYS.items()}, zipfile.ZIP_DEFLATED),
    "not aligned": lambda: _plain_savez(),
    "truncated": lambda: GOOD[:-1],
    "first half": lambda: GOOD[: len(GOOD) // 2],
    "missing member": lambda: write_npz({name: ARRAYS[name] for name in ("offsets", "codes")}),
    "extra member": lambda: write_npz({**ARRAYS, "more": ARRAYS["codes"]}),
    "member without .npy": lambda: zipped({**{f"{n}.npy": npy(a) for n, a in ARRAYS.items()}, "scales": b""}),
    "other dtype": lambda: write_npz({**ARRAYS, "offsets": ARRAYS["offsets"].astype(np.uint64)}),
    "other sign": lambda: write_npz({**ARRAYS, "codes": ARRAYS["codes"].astype(np.int8)}),
    "other length": lambda: write_npz({**ARRAYS, "offsets": np.zeros(4, np.uint32)}),
    "other rank": lambda: write_npz({**ARRAYS, "scales": np.zeros((3, 1), np.float16)}),
    "big-endian": lambda: with_member("offsets", npy(ARRAYS["offsets"].astype(">u4"))),
    "Fortran order": lambda: with_member("codes", npy(np.asfortranarray(ARRAYS["codes"]))),
    "objects": lambda: with_member("offsets", npy(np.array([0, 2, 3], object))),
    "npy version 2": lambda: with_member("offsets", npy(ARRAYS["offsets"], (2, 0))),
    "no npy": lambda: with_member("offsets", b"\x00" * 140),
    "empty member": lambda: with_member("offsets", b""),
    "body too long": lambda: with_member("offsets", npy(ARRAYS["offsets"]) + b"\x00"),
    "body too short": lambda: with_member("offsets", npy(ARRAYS["offsets"])[:-1]),
    "header too deep": lambda: with_member("offsets", header_saying("-" * 4000 + "1")),
    "header never closed": lambda: with_member("offsets", header_saying("(" * 4000)),
    "header of many digits": lambda: with_member("offsets", header_saying(U4 % f"({'9' * 3000},)")),
    "negative shape": lambda: with_member("offsets", header_saying(U4 % "(-3,)", b"\x00" * 12)),
    "shape that wraps": lambda: with_member("offsets", header_saying(U4 % f"({2**62 + 3},)", b"\x00" * 12)),
    "boolean shape": lambda: with_member("offsets", header_saying(U4 % "(True,)", b"\x00" * 4)),
    "shape without a comma": lambda: with_member("offsets", header_saying(U4 % "(3)", ROW)),
    "shape with a zero before": lambda: with_member("offsets", header_saying(U4 % "(03,)", ROW)),
    "shape with a comma too many": lambda: with_member("codes", header_saying(U1 % "(3, 4,)", ROW)),
    "header that ends off 64 bytes": lambda: with_member("offsets", header_saying(U4 % "(3,)", ROW, 121)),
    "header beyond byte 4096": lambda: with_member("offsets", header_saying(U4 % "(3,)", ROW, 5046)),
    "header of anything beyond byte 4096": lambda: with_member(
        "offsets", header_saying((U4 % "(3,)").ljust(4085) + "\n" + "?" * 914, ROW, 5000)
    ),
    "encrypted": lambda: patched(GOOD, CENTRAL, 8, 1, 2),
    "size too large": lambda: patched(GOOD, CENTRAL, 24, 10**9),
    "sizes too large": lambda: patched(patched(GOOD, CENTRAL, 24, 10**9), CENTRAL, 20, 10**9),
    "sizes too small": lambda: patched(patched(GOOD, CENTRAL, 24, 130), CENTRAL, 20, 130),
    "overlapping": lambda: _second_member_at(0),
    "no local header": lambda: _second_member_at(64),
    "local header moved": lambda: patched(GOOD, LOCAL, 28, 5, 2),
}


def _plain_savez() -> bytes:
    out = io.BytesIO()
    np.savez(out, **ARRAYS)
    return out.getvalue()


def _second_member_at(offset: int) -> bytes:
    first = GOOD.index(CENTRAL)
    second = GOOD.index(CENTRAL, first + 4)
    return GOOD[:second] + patched(GOOD[second:], CENTRAL, 42, offset)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_format_does_not_allow_is_refused(name: str) -> None:
    """Each wrong file is corruption, named by its path."""
    with pytest.raises(IndexCorrupt, match=r"test\.npz"):
        read(REFUSED[name]())


@pytest.mark.parametrize("length", [118, 182, 4086])
def test_a_header_may_have_as_many_spaces_as_it_likes_up_to_byte_4096(length: int) -> None:
    """Whole lines of 64 bytes."""
    back = read(with_member("offsets", header_saying(U4 % "(3,)", ROW, length)))
    assert back["offsets"].tolist() == [0, 0, 0]


def test_arrays_that_are_too_large_for_one_file_are_refused_before_it_is_made() -> None:
    """Two gigabytes that take no memory: what is too large is not copied to find out."""
    half = np.broadcast_to(np.uint8(0), (2**30 - 512, 1))
    with pytest.raises(InputError, match=r"codes, scales take 2147483648 bytes, and a file .* at most 2147483647"):
        write_npz({"codes": half, "scales": half})


def test_a_file_may_be_as_large_as_is_written_without_zip64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arrays may fill all of it, where `zipfile` would keep a twentieth free."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10_000)
    data = write_npz({"codes": np.zeros(9_700, np.uint8)})
    assert 9_900 < len(data) <= 10_300
    assert len(read(data, {"codes": ArraySpec("|u1", (9_700,))})["codes"]) == 9_700


def test_two_members_of_one_name_are_refused() -> None:
    """A name stands for one array."""
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = _twice("offsets.npy", npy(ARRAYS["offsets"]))
    with pytest.raises(IndexCorrupt):
        read(data, {"offsets": SPECS["offsets"]})


def _twice(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for _ in range(2):
            info = zipfile.ZipInfo(name)
            padding = -(buffer.tell() + 30 + len(name) + 4) % ALIGNMENT
            info.extra = struct.pack("<HH", 0xD935, padding) + bytes(padding)
            archive.writestr(info, data)
    return buffer.getvalue()


def _is_read_or_refused(data: bytes) -> None:
    try:
        back = read(data)
    except IndexCorrupt:
        return
    assert {name: (array.dtype.str, array.shape) for name, array in back.items()} == {
        name: (array.dtype.str, array.shape) for name, array in ARRAYS.items()
    }


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(1, 255)), min_size=1, max_size=6))
def test_changed_bytes_are_read_as_promised_or_refused(flips: list[tuple[int, int]]) -> None:
    """Whatever bytes change, the reader gives arrays of the promised kind or raises IndexCorrupt, nothing else."""
    data = bytearray(GOOD)
    for at, flip in flips:
        data[at] ^= flip
    _is_read_or_refused(bytes(data))


@settings(max_examples=200)
@given(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)), st.binary(max_size=40))
def test_cut_and_spliced_files_are_read_as_promised_or_refused(first: int, last: int, between: bytes) -> None:
    """Bytes removed, repeated or put in between lead to nothing but IndexCorrupt."""
    _is_read_or_refused(GOOD[:first] + between + GOOD[last:])


@settings(max_examples=200)
@given(st.data())
def test_flipped_header_bits_are_read_as_promised_or_refused(data: st.DataObject) -> None:
    """Every field of every zip and .npy header may lie."""
    starts = [at for mark in (LOCAL, CENTRAL, b"PK\x05\x06", b"\x93NUMPY") for at in _all_places(mark)]
    changed = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.sampled_from(starts)) + data.draw(st.integers(0, 60))
        if at < len(changed):
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
    _is_read_or_refused(bytes(changed))


def _all_places(mark: bytes) -> list[int]:
    return [at for at in range(len(GOOD)) if GOOD.startswith(mark, at)]
