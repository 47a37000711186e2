"""The worked example of SPEC §9 is what the product writes: each line below must stand in SPEC.md as it is.

After a change on purpose, print the lines anew: `python -m tests.index_format.test_spec_example`.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from index_format import keys, schema
from index_format.change import Addition, Origin, add_segments, delete_documents
from index_format.codebook import Codebook, exclusive_sum
from index_format.codec import Codec, pack
from index_format.commit import commit
from index_format.index import Index
from index_format.manifest import ChunkingRecord, CodebookRecord, EncoderRecord, Manifest, encode_manifest
from index_format.rotation import Rotation
from index_format.segment import (
    SegmentContent,
    SegmentReader,
    write_centroids,
    write_codebook,
    write_codec,
    write_segment,
)
from index_format.store import LocalStore
from serving.oracle import coded_maxsim
from tasks.stage_documents import content_hash

SPEC = Path(__file__).parents[2] / "index_format" / "SPEC.md"

TOKENS = np.array(
    [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [0.5, 0.5, 0.5, 0.5, 0, 0, 0, 0],
        [0, 0, 0.6, 0.8, 0, 0, 0, 0],
        [0, 0, 0, 0, -0.6, 0.8, 0, 0],
        [0.1, 0.3, -0.3, 0.1, 0.5, -0.5, 0.5, -0.2],
        [0, 0, 0, 0, 0, 0, 0.8, -0.6],
    ],
    np.float32,
)
LENGTHS = np.array([2, 1, 3])
MEAN = np.full(8, 0.125, np.float32)  # of rotated vectors
ORDER = np.array([3, 0, 6, 1, 7, 4, 2, 5], np.uint16)
SIGNS = np.array([1, -1, -1, 1, 1, -1, 1, 1], np.int8)
CENTROIDS = np.eye(8, dtype=np.float32)[[0, 2, 5, 6]]
OUTLIER_DISTANCE = 0.9
QUERY = np.array([[0.6, 0.8, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0.28, 0.96, 0]], np.float32)
DOCUMENTS = [
    {"id": "a", "title": None, "text": "Red door. Old key.", "metadata": {"year": 1911}},
    {"id": "b", "title": "Roof", "text": "Slate roof", "metadata": {"year": None}},
]
PASSAGES = [(0, 0, 0, 9), (0, 1, 10, 18), (1, 0, 0, 10)]


def write_example(root: Path) -> tuple[Index, Manifest, Manifest]:
    """Version 1 with three passages, and version 2 without document a."""
    index = Index(LocalStore(root))
    encoder = EncoderRecord(name="example", fingerprint=hashlib.sha256(b"example").hexdigest(), dim=8)
    codec = Codec(mean=MEAN, bits=4, rotation=Rotation(ORDER, SIGNS))
    book = Codebook.of(codec.rotated(CENTROIDS), OUTLIER_DISTANCE)
    codec_record = write_codec(index.store, codec)
    book_id = keys.new_id()
    book_file = write_codebook(index.store, book_id, book)
    codes, scales = codec.compress(TOKENS)
    rows = [
        {**document, "content_hash": content_hash(document["title"], document["text"], document["metadata"])}
        for document in DOCUMENTS
    ]
    segment = write_segment(
        index.store,
        SegmentContent(
            encoder=encoder.fingerprint,
            documents=pa.Table.from_pylist(rows, schema=schema.documents_schema(pa.struct([("year", pa.int64())]))),
            passages=pa.Table.from_pylist(
                [dict(zip(schema.PASSAGES.names, row, strict=True)) for row in PASSAGES], schema=schema.PASSAGES
            ),
            offsets=exclusive_sum(LENGTHS),
            codes=codes,
            scales=scales,
        ),
    )
    record = segment.with_centroids(write_centroids(index.store, segment, index.files, codec, book))
    addition = Addition(
        encoder=encoder,
        codec=codec_record,
        chunking=ChunkingRecord(passage_tokens=8, overlap_tokens=0),
        codebook=CodebookRecord(
            id=book_id,
            encoder=encoder.fingerprint,
            centroids=4,
            trained_on_tokens=6,
            trained_on_segments=[segment.id],
            held_out_distance=None,
            outlier_distance=OUTLIER_DISTANCE,
            file=book_file,
        ),
        segments=[record],
    )
    first = commit(index.store, lambda base: add_segments(index, base, addition, Origin("build")))
    second = commit(index.store, lambda base: base and delete_documents(index, base, ["a"], Origin("delete")))
    assert first is not None
    assert second is not None
    return index, first, second


def worked_lines(root: Path) -> list[str]:
    """Every line of bytes and numbers that the example shows."""
    index, first, second = write_example(root)
    (segment,) = index.segments(first)
    (after,) = index.segments(second)
    codec = index.codec(first)
    lines = [*_packing_lines(), *_rotation_lines(codec), *_codebook_lines(index.codebook(first))]
    lines += _segment_lines(segment, codec)
    lines += [f"deletions.ordinals  {np.flatnonzero(after.deleted).astype('<u4').tobytes().hex(' ', 4)}"]
    lines += [
        f"content_hash {one['id']}  {digest.hex()}"
        for one, digest in zip(DOCUMENTS, segment.content_hashes.to_pylist(), strict=True)
    ]
    files = {"codec": first.codec.file, "codebook": first.codebook.file, "codes": first.segments[0].codes_file}
    files |= {"centroids": first.segments[0].centroids_file}
    assert second.segments[0].deletions is not None
    files |= {"deletions": second.segments[0].deletions.file}
    return lines + [f"{name:<10} {file.size:>5}  {file.sha256}" for name, file in files.items()]


def _packing_lines() -> list[str]:
    rows = {
        1: [0, 1, 0, 0, 1, 1, 0, 1],
        2: [0, 1, 2, 3, 3, 2, 1, 0],
        4: [0, 1, 2, 3, 12, 13, 14, 15],
        8: [0, 1, 2, 3, 252, 253, 254, 255],
    }
    lines = []
    for bits, codes in rows.items():
        packed = pack(np.array([codes], np.uint8), bits).tobytes().hex(" ")
        lines.append(f"{bits} bit{'s' if bits > 1 else ' '}  {' '.join(map(str, codes))}  →  {packed}")
    return lines


def _rotation_lines(codec: Codec) -> list[str]:
    (rotated,) = codec.rotated(TOKENS[1:2])
    return [
        f"order    {' '.join(map(str, ORDER))}",
        f"signs    {' '.join(map(str, SIGNS))}",
        f"rotated  {' '.join(f'{value:.4f}' for value in rotated)}",
    ]


def _codebook_lines(book: Codebook) -> list[str]:
    return [
        f"centroid {number}  {code.tobytes().hex(' ')}  {scale.tobytes().hex()}  {float(scale)!r}"
        for number, (code, scale) in enumerate(zip(book.codes, book.scales, strict=True))
    ]


def _segment_lines(segment: SegmentReader, codec: Codec) -> list[str]:
    own = segment.codes
    lines = [f"offsets  {own.offsets.tobytes().hex(' ', 4)}"]
    vectors = codec.decompress_rotated(own.codes, own.scales)
    for token, (code, scale, vector) in enumerate(zip(own.codes, own.scales, vectors, strict=True)):
        decoded = " ".join(f"{value:.4f}" for value in vector)
        lines.append(f"token {token}  {code.tobytes().hex(' ')}  {scale.tobytes().hex()}  {float(scale)!r}  {decoded}")
    touched = segment.centroids
    lines.append(f"centroids.offsets  {touched.offsets.tobytes().hex(' ', 4)}")
    lines.append(f"centroids.ids      {touched.ids.tobytes().hex(' ', 2)}")
    lines.append(f"centroids.outlier_offsets  {touched.outlier_offsets.tobytes().hex(' ', 4)}")
    lines.append(f"centroids.outlier_codes    {touched.outlier_codes.tobytes().hex(' ', 4)}")
    lines.append(f"centroids.outlier_scales   {touched.outlier_scales.tobytes().hex(' ', 2)}")
    for ordinal in range(segment.record.passages):
        part = slice(own.offsets[ordinal], own.offsets[ordinal + 1])
        score = coded_maxsim(QUERY, codec, own.codes[part], own.scales[part])
        lines.append(f"passage {ordinal}  {score!s}  {score.tobytes().hex()}")
    return lines


@pytest.fixture(scope="module")
def spec() -> str:
    return SPEC.read_text(encoding="utf-8")


def test_the_worked_bytes_of_the_specification_are_those_of_the_product(spec: str, tmp_path: Path) -> None:
    """Codes, offsets, scales, centroid ids, deletions, hashes, file sizes and scores."""
    missing = [line for line in worked_lines(tmp_path) if line not in spec.splitlines()]
    assert not missing, "\n".join(["SPEC.md lacks:", *missing])


def shortened(manifest: Manifest) -> Any:
    """The manifest as the example shows it: ids in order of appearance, hashes cut short, no clock."""
    text = encode_manifest(manifest).decode()
    names: dict[str, str] = {}
    text = re.sub(r"[0-9a-f]{64}", lambda match: match[0][:8] + "…", text)
    text = re.sub(r"[0-9a-f]{32}", lambda match: names.setdefault(match[0], f"{len(names) + 1:032x}"), text)
    text = re.sub(r'"created_at": "[^"]*"', '"created_at": "2026-11-22T12:00:00.000+00:00"', text)
    return json.loads(text)


def without_parquet_bytes(manifest: Any) -> Any:
    """Leave out what changes with the library that writes Parquet: size and hash of its files, and the hash of all."""
    del manifest["manifest_sha256"]
    for segment in manifest["segments"]:
        for name in ("documents_file", "passages_file"):
            segment[name] = segment[name]["key"]
    return manifest


def test_the_manifest_of_the_specification_is_that_of_the_product(spec: str, tmp_path: Path) -> None:
    """The JSON in the example has every key that a written manifest has, with equal values."""
    (shown,) = re.findall(r"```json\n(.*?)```", spec, re.DOTALL)
    _, first, _ = write_example(tmp_path)
    assert without_parquet_bytes(json.loads(shown)) == without_parquet_bytes(shortened(first))


def test_the_worked_tokens_are_shown_as_they_are(spec: str) -> None:
    """The numbers that the example starts from."""
    for row in [*TOKENS, *QUERY]:
        assert " ".join(f"{value:g}" for value in row) in spec


def test_every_section_that_a_docstring_names_exists(spec: str) -> None:
    """No comment in the product points to a section that is not there."""
    root = SPEC.parents[1]
    folders = ("index_format", "serving", "tasks", "flows", "encoding", "colonnade")
    named = {
        section
        for folder in folders
        for path in (root / folder).rglob("*.py")
        for section in re.findall(r"SPEC §([0-9.]*[0-9])", path.read_text(encoding="utf-8"))
    }
    headings = set(re.findall(r"^#+ ([0-9.]*[0-9])\.? ", spec, re.MULTILINE))
    assert named
    assert named <= headings


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        print("\n".join(worked_lines(Path(root, "one"))))  # noqa: T201
        _, first, _ = write_example(Path(root, "two"))
        print(json.dumps(shortened(first), indent=1, ensure_ascii=False))  # noqa: T201


if __name__ == "__main__":
    main()
