"""A second reader, written from SPEC.md alone: it imports nothing of the product and checks every rule.

Slow and plain on purpose. What it refuses, it refuses with RuleError.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ID = "[0-9a-f]{32}"
PATTERNS = {
    "codec": f"codecs/{ID}[.]npz",
    "codebook": f"codebooks/{ID}[.]npz",
    "documents": f"segments/{ID}/documents[.]parquet",
    "passages": f"segments/{ID}/passages[.]parquet",
    "codes": f"segments/{ID}/codes[.]npz",
    "centroids": f"segments/{ID}/centroids-{ID}[.]npz",
    "deletions": f"deletions/{ID}/{ID}[.]npz",
}


class RuleError(Exception):
    """A rule of SPEC.md does not hold."""


@dataclass
class PlainIndex:
    """What a version holds, as plain values."""

    manifest: dict[str, Any]
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    passages: list[PlainPassage] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    signs: list[int] = field(default_factory=list)


@dataclass
class PlainPassage:
    """A live passage: its text and its decoded token vectors, rotated."""

    document_id: str
    number: int
    text: str
    codes: np.ndarray
    scales: np.ndarray
    vectors: np.ndarray


def must(holds: bool, rule: str) -> None:
    if not holds:
        raise RuleError(rule)


def read_plainly(root: Path, version: int | None = None) -> PlainIndex:
    """§6 and §7: the version asked for, or the highest."""
    names = [path.name for path in (root / "manifests").iterdir() if re.fullmatch("[0-9]{20}[.]json", path.name)]
    chosen = max(names) if version is None else f"{version:020d}.json"
    data = (root / "manifests" / chosen).read_bytes()
    manifest = json.loads(data)
    digest = manifest["manifest_sha256"].encode()
    must(hashlib.sha256(data.replace(digest, b"0" * 64)).hexdigest().encode() == digest, "a manifest has its own hash")
    must(manifest["format_version"] == 1, "format_version is 1")
    must(manifest["reader_flags"] == [], "there are no reader flags")
    must(manifest["version"] == int(chosen[:20]), "the version is that of the key")
    for name in (manifest["index_id"], manifest["commit"]["id"]):
        must(re.fullmatch(ID, name) is not None, "ids are 32 hexadecimal digits")
    if manifest["version"] > 1 and f"{manifest['version'] - 1:020d}.json" in names:
        parent = json.loads((root / "manifests" / f"{manifest['version'] - 1:020d}.json").read_bytes())
        must(manifest["parent_commit"] == parent["commit"]["id"], "the parent is the version before")
        must(manifest["index_id"] == parent["index_id"], "an index keeps its id")
        for name in ("floor", "horizon"):
            must(manifest[name] >= parent[name], f"{name} is not lower than in the version before")
    check_retention(manifest)
    index = PlainIndex(manifest)
    dim, bits = manifest["encoder"]["dim"], manifest["codec"]["bits"]
    must(8 <= dim <= 1024 and dim % 8 == 0 and bits in (1, 2, 4, 8), "dimensions and bits are in range")
    specs = {"mean": ("<f4", (dim,)), "order": ("<u2", (dim,)), "signs": ("|i1", (dim,))}
    codec = read_arrays(root, manifest["codec"]["file"], "codec", specs)
    mean, index.order, index.signs = codec["mean"], codec["order"].tolist(), codec["signs"].tolist()
    must(sorted(index.order) == list(range(dim)), "an order has each dimension once")
    must(set(index.signs) <= {1, -1}, "signs are 1 or -1")
    book = manifest["codebook"]
    distance = book["outlier_distance"]
    must(distance is None or distance > 0, "outliers lie apart from their centroids")
    must(book["file"]["key"] == f"codebooks/{book['id']}.npz", "a codebook is under its id")
    specs = {"codes": ("|u1", (book["centroids"], dim)), "scales": ("<f2", (book["centroids"],))}
    check_scales(read_arrays(root, book["file"], "codebook", specs)["scales"])
    must(bool(np.isfinite(mean).all()), "numbers are finite")
    must(len({one["id"] for one in manifest["segments"]}) == len(manifest["segments"]), "segment ids are distinct")
    for made in (book, *manifest["segments"]):
        must(made["encoder"] == manifest["encoder"]["fingerprint"], "codebook and segments are of the index's encoder")
    for record in manifest["segments"]:
        read_segment(root, record, index, mean, bits)
    return index


def check_retention(manifest: dict[str, Any]) -> None:
    """§6.1 and §7.2."""
    version = manifest["version"]
    must(1 <= manifest["floor"] <= version and manifest["horizon"] >= 0, "floor and horizon are in range")
    for name, tagged in manifest["tags"].items():
        must(re.fullmatch("[A-Za-z][A-Za-z0-9._-]{0,63}", name) is not None, "tags have names")
        must(1 <= tagged <= version, "a tag names a version")
    restored = manifest["commit"]["restored"]
    must(restored is None or 1 <= restored < version, "a rollback restores an older version")


def read_segment(root: Path, record: dict[str, Any], index: PlainIndex, mean: np.ndarray, bits: int) -> None:
    """§4.2 to §4.5."""
    count, tokens, dim = record["passages"], record["tokens"], len(mean)
    for kind in ("documents", "passages", "codes", "centroids"):
        must(record[f"{kind}_file"]["key"].split("/")[1] == record["id"], "files lie under their segment's id")
    documents = read_table(root, record["documents_file"], "documents", record["documents"])
    passages = read_table(root, record["passages_file"], "passages", count)
    specs = {
        "offsets": ("<u4", (count + 1,)),
        "codes": ("|u1", (tokens, dim * bits // 8)),
        "scales": ("<f2", (tokens,)),
    }
    arrays = read_arrays(root, record["codes_file"], "codes", specs)
    narrow = index.manifest["codebook"]["centroids"] <= 65536
    specs = {
        "offsets": ("<u4", (count + 1,)),
        "ids": ("<u2" if narrow else "<u4", (None,)),
        "outlier_offsets": ("<u4", (count + 1,)),
        "outlier_codes": ("|u1", (None, dim * bits // 8)),
        "outlier_scales": ("<f2", (None,)),
    }
    touched = read_arrays(root, record["centroids_file"], "centroids", specs)
    check_offsets(arrays["offsets"], tokens)
    check_offsets(touched["offsets"], len(touched["ids"]))
    check_scales(arrays["scales"])
    must(bool((touched["ids"] < index.manifest["codebook"]["centroids"]).all()), "centroid ids are of the codebook")
    for first, last in pairwise(touched["offsets"]):
        must(bool((np.diff(touched["ids"][first:last].astype(int)) > 0).all()), "a passage's ids ascend")
    check_outliers(arrays, touched)
    rows = passages["document"].to_pylist()
    must(
        sorted(rows) == rows and set(rows) == set(range(record["documents"])), "each document has its passages in order"
    )
    deleted = read_deletions(root, record, rows)
    ids = documents["id"].to_pylist()
    must(len(set(ids)) == len(ids), "ids are distinct in a segment")
    before = number = -1
    for ordinal, passage in enumerate(passages.to_pylist()):
        row = passage["document"]
        number, before = (number + 1 if row == before else 0), row
        must(passage["number"] == number, "passages of a document are numbered from 0")
        text = documents["text"][row].as_py()
        must(0 <= passage["start"] < passage["end"] <= len(text), "a span lies in its text")
        if ordinal in deleted:
            continue
        part = slice(arrays["offsets"][ordinal], arrays["offsets"][ordinal + 1])
        codes, scales = arrays["codes"][part], arrays["scales"][part]
        vectors = decode(codes, scales, mean, bits)
        span = text[passage["start"] : passage["end"]]
        index.passages.append(PlainPassage(ids[row], number, span, codes, scales, vectors))
    live = sorted(set(rows) - {rows[ordinal] for ordinal in deleted})
    must(not {ids[row] for row in live} & set(index.documents), "a document is live once")
    index.documents |= {ids[row]: documents.slice(row, 1).to_pylist()[0] for row in live}


def read_deletions(root: Path, record: dict[str, Any], rows: list[int]) -> set[int]:
    """§4.6."""
    if record["deletions"] is None:
        return set()
    file, promised = record["deletions"]["file"], record["deletions"]["passages"]
    must(file["key"].split("/")[1] == record["id"], "a deletion vector lies under its segment's id")
    ordinals = read_arrays(root, file, "deletions", {"ordinals": ("<u4", (promised,))})["ordinals"].tolist()
    must(all(a < b for a, b in pairwise(ordinals)), "deleted ordinals ascend")
    must(not ordinals or ordinals[-1] < len(rows), "deleted ordinals are of the segment")
    gone = {rows[ordinal] for ordinal in ordinals}
    must(set(ordinals) == {at for at, row in enumerate(rows) if row in gone}, "a document is deleted whole")
    must(len(gone) == record["deletions"]["documents"], "deleted documents are counted")
    must(len(gone) < record["documents"], "a segment without live documents is not named")
    return set(ordinals)


def read_bytes(root: Path, file: dict[str, Any], kind: str) -> bytes:
    """§3: nothing is used before key, size and hash are right."""
    must(re.fullmatch(PATTERNS[kind], file["key"]) is not None, f"{file['key']} is the key of a {kind} file")
    data = (root / file["key"]).read_bytes()
    must(len(data) == file["size"], f"{file['key']} has its promised size")
    must(hashlib.sha256(data).hexdigest() == file["sha256"], f"{file['key']} has its promised hash")
    return data


def read_table(root: Path, file: dict[str, Any], kind: str, rows: int) -> pa.Table:
    """§4.2 and §4.3."""
    parquet = pq.ParquetFile(io.BytesIO(read_bytes(root, file, kind)), page_checksum_verification=True)
    must(parquet.metadata.num_rows == rows, "a table has its promised rows")
    groups = [parquet.metadata.row_group(number).num_rows for number in range(parquet.metadata.num_row_groups)]
    must(groups == [128] * (rows // 128) + [rows % 128] * bool(rows % 128), "row groups have 128 rows")
    table = parquet.read()
    columns = {one.name: str(one.type) for one in table.schema}
    if kind == "passages":
        must(columns == dict.fromkeys(["document", "number", "start", "end"], "uint32"), "passages has its columns")
    else:
        metadata = columns.pop("metadata", "struct<")
        must(metadata.startswith("struct<"), "metadata is a struct")
        expected = {"id": "string", "content_hash": "fixed_size_binary[32]", "title": "string", "text": "string"}
        must(columns == expected, "documents has its columns")
    required = [name for name in columns if name != "title"]
    must(all(table[name].null_count == 0 for name in required), "only title and metadata may be null")
    return table


def read_arrays(root: Path, file: dict[str, Any], kind: str, specs: dict[str, Any]) -> dict[str, np.ndarray]:
    """§4.1."""
    data = read_bytes(root, file, kind)
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        must(archive.testzip() is None, "checksums hold")
        end = 0
        for info in sorted(archive.infolist(), key=lambda one: one.header_offset):
            name_length, extra_length = np.frombuffer(data, "<u2", 2, info.header_offset + 26)
            start = info.header_offset + 30 + int(name_length) + int(extra_length)
            must(info.compress_type == 0 and info.compress_size == info.file_size, "members are stored")
            must(start % 64 == 0 and info.header_offset >= end, "members are aligned and apart")
            end = start + info.file_size
            member = io.BytesIO(data[start:end])
            arrays[info.filename.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
            must(not member.read(), "an array fills its member")
    must(set(arrays) == set(specs), f"{kind} has the arrays {sorted(specs)}")
    for name, (dtype, shape) in specs.items():
        fits = len(shape) == arrays[name].ndim and all(
            a in (None, b) for a, b in zip(shape, arrays[name].shape, strict=True)
        )
        must(arrays[name].dtype.str == dtype and fits, f"{kind}: {name} is {dtype} {shape}")
    return arrays


def check_offsets(offsets: np.ndarray, total: int) -> None:
    steps = np.diff(offsets.astype(int))
    must(offsets[0] == 0 and offsets[-1] == total and bool((steps > 0).all()), "offsets rise from 0 to the total")


def check_scales(scales: np.ndarray) -> None:
    must(bool((scales >= 2**-14).all() and np.isfinite(scales).all()), "scales are positive")


def check_outliers(codes: dict[str, np.ndarray], touched: dict[str, np.ndarray]) -> None:
    """§4.5: copies of tokens of their passage, in order."""
    offsets, count = touched["outlier_offsets"].astype(int), len(touched["outlier_scales"])
    must(len(touched["outlier_codes"]) == count, "each outlier has a code and a scale")
    must(offsets[0] == 0 and offsets[-1] == count and bool((np.diff(offsets) >= 0).all()), "outliers end at the total")
    for passage, (first, last) in enumerate(pairwise(offsets)):
        start, stop = codes["offsets"][passage], codes["offsets"][passage + 1]
        tokens = zip(codes["codes"][start:stop].tolist(), codes["scales"][start:stop].tolist(), strict=True)
        part = slice(first, last)
        own = zip(touched["outlier_codes"][part].tolist(), touched["outlier_scales"][part].tolist(), strict=True)
        must(all(outlier in tokens for outlier in own), "outliers are tokens of their passage, in order")


def unpack_plainly(row: np.ndarray, bits: int) -> list[int]:
    """§5.2: byte j holds dimensions j, j + W, j + 2W, the first in its lowest bits."""
    width, planes = len(row), 8 // bits
    return [int(row[at % width]) >> (bits * (at // width)) & (2**bits - 1) for at in range(width * planes)]


def decode(codes: np.ndarray, scales: np.ndarray, mean: np.ndarray, bits: int) -> np.ndarray:
    """§5.1: mean + scale · (code − (2^bits − 1) / 2), in float32."""
    half = np.float32((2**bits - 1) / 2)
    rows = []
    for row, scale in zip(codes, scales, strict=True):
        levels = np.array(unpack_plainly(row, bits), np.float32) - half
        rows.append(mean + np.float32(scale) * levels)
    return np.array(rows, np.float32)


def rotate_plainly(vectors: np.ndarray, index: PlainIndex) -> np.ndarray:
    """§5.4, one number at a time."""
    return np.array([_rotated(vector, index) for vector in vectors], np.float32)


def _rotated(vector: np.ndarray, index: PlainIndex) -> list[np.float32]:
    values = [vector[place] * np.float32(sign) for place, sign in zip(index.order, index.signs, strict=True)]
    block = next(2**power for power in range(10, -1, -1) if len(values) % 2**power == 0)
    width = 1
    while width < block:
        for place in range(len(values)):
            if not place % block & width:
                a, b = values[place], values[place + width]
                values[place], values[place + width] = a + b, a - b
        width *= 2
    return [value * np.float32(1 / block**0.5) for value in values]


def score_plainly(query: np.ndarray, passage: PlainPassage, mean: np.ndarray, bits: int) -> np.float32:
    """§6.2, one number at a time. query: rotated."""
    total = np.float32(0)
    for vector, offset in zip(query, query @ mean, strict=True):
        reach = np.abs(vector).max()
        scale = reach / np.float32(127) if reach > 0 else np.float32(1)
        levels = [int(np.rint(value / scale)) for value in vector]
        best = None
        for row, token_scale in zip(passage.codes, passage.scales, strict=True):
            codes = unpack_plainly(row, bits)
            product = sum(q * (2 * code - (2**bits - 1)) for q, code in zip(levels, codes, strict=True))
            value = np.float32(product) * np.float32(token_scale)
            best = value if best is None else max(best, value)
        assert best is not None
        total += best * (scale * np.float32(0.5)) + offset
    return total
