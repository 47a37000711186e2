"""Manifests: what is written is read back, and what this release cannot trust or understand is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_format import keys
from index_format.errors import IndexCorrupt, UnsupportedFormat
from index_format.manifest import (
    FORMAT_VERSION,
    ChunkingRecord,
    CodebookRecord,
    CodecRecord,
    CommitRecord,
    DeletionRecord,
    EncoderRecord,
    FileRef,
    Manifest,
    SegmentRecord,
    decode_manifest,
    encode_manifest,
    refuse_unknown_writer,
    seal,
)

WHERE = "s3://bucket/index/manifests/00000000000000000007.json"


def file_at(key: str) -> FileRef:
    return FileRef(key=key, size=640, sha256="ab" * 32)


def make_manifest() -> Manifest:
    """A manifest that uses every record."""
    segment, other = keys.new_id(), keys.new_id()
    return Manifest(
        format_version=FORMAT_VERSION,
        reader_flags=[],
        writer_flags=[],
        index_id=keys.new_id(),
        version=7,
        parent_commit=keys.new_id(),
        commit=CommitRecord(
            id=keys.new_id(),
            operation="build",
            created_at="2026-11-22T12:00:00.000+00:00",
            added=3,
            rejected=1,
            rejected_file=file_at(keys.rejected(keys.new_id())),
            source_fingerprint="docs.parquet@1",
        ),
        encoder=EncoderRecord(name="words", fingerprint="cd" * 32, dim=8),
        codec=CodecRecord(bits=4, file=file_at(keys.codec(keys.new_id()))),
        chunking=ChunkingRecord(passage_tokens=256, overlap_tokens=32),
        codebook=CodebookRecord(
            id=keys.new_id(),
            encoder="cd" * 32,
            centroids=16,
            trained_on_tokens=900,
            trained_on_segments=[segment],
            held_out_distance=0.25,
            outlier_distance=0.75,
            file=file_at(keys.codebook(keys.new_id())),
        ),
        segments=[
            SegmentRecord(
                id=one,
                encoder="cd" * 32,
                documents=10,
                passages=40,
                tokens=900,
                documents_file=file_at(keys.documents(one)),
                passages_file=file_at(keys.passages(one)),
                codes_file=file_at(keys.codes(one)),
                centroids_file=file_at(keys.centroids(one, keys.new_id())),
                deletions=deletions,
            )
            for one, deletions in [
                (segment, None),
                (
                    other,
                    DeletionRecord(passages=9, documents=2, file=file_at(keys.deletions(other, keys.new_id()))),
                ),
            ]
        ],
        floor=1,
        horizon=17,
        tags={"kept": 1},
    )


def as_json() -> dict[str, Any]:
    return json.loads(encode_manifest(make_manifest()))


def decode(document: object) -> Manifest:
    return decode_manifest(seal(json.dumps(document).encode()), where=WHERE)


def test_a_manifest_comes_back_as_it_was_written() -> None:
    """JSON and back changes nothing, and the same manifest gives the same bytes."""
    manifest = make_manifest()
    data = encode_manifest(manifest)
    assert decode_manifest(data, where=WHERE) == manifest
    assert encode_manifest(decode_manifest(data, where=WHERE)) == data


def test_live_counts_leave_out_what_is_deleted() -> None:
    """Documents and passages are those that a search can find."""
    manifest = make_manifest()
    assert (manifest.documents, manifest.passages) == (18, 71)


def test_a_key_that_this_release_does_not_know_is_ignored() -> None:
    """Additions that no reader must know do not stop one."""
    document = as_json()
    document["hint"] = {"nested": [1, 2]}
    document["segments"][0]["extra"] = True
    assert decode(document).version == 7


def test_an_unknown_reader_flag_is_refused() -> None:
    """A feature that a reader must know stops it, by name."""
    with pytest.raises(UnsupportedFormat, match="folded-codes") as caught:
        decode({**as_json(), "reader_flags": ["folded-codes"]})
    assert WHERE in str(caught.value)


@pytest.mark.parametrize("flags", [{}, {"reader_flags": []}, {"reader_flags": [1]}, {"reader_flags": None}])
@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, 99])
def test_another_format_is_refused_before_its_records_are_read(version: int, flags: dict[str, object]) -> None:
    """A newer format is not taken for a damaged one, whatever its manifest and its flags look like."""
    with pytest.raises(UnsupportedFormat, match="Upgrade"):
        decode({"format_version": version, **flags, "all else": "is different"})


@pytest.mark.parametrize("version", [None, "1", 1.0, True, [1]])
def test_a_format_that_is_no_number_is_corruption(version: object) -> None:
    """No release writes such a manifest."""
    with pytest.raises(IndexCorrupt, match="not a manifest"):
        decode({**as_json(), "format_version": version})


def test_an_unknown_writer_flag_can_be_read_but_not_written() -> None:
    """Searching goes on where changing would do harm."""
    manifest = decode({**as_json(), "writer_flags": ["postings"]})
    with pytest.raises(UnsupportedFormat, match="postings"):
        refuse_unknown_writer(manifest, where="here")
    refuse_unknown_writer(make_manifest(), where="here")


@pytest.mark.parametrize("wrong", [{"floor": 0}, {"floor": 8}, {"tags": {"kept": 8}}, {"tags": {"kept": 0}}])
def test_what_is_retained_is_a_version_up_to_this_one(wrong: dict[str, object]) -> None:
    """A floor or a tag that names no version would let a collector remove too much."""
    with pytest.raises(IndexCorrupt, match="names no version"):
        decode({**as_json(), **wrong})


def test_a_version_is_retained_above_the_floor_or_by_a_tag() -> None:
    """Others may be there still, and are no versions any more."""
    manifest = make_manifest()
    assert [version for version in range(10) if manifest.retains(version)] == [1, 2, 3, 4, 5, 6, 7]
    collected = msgspec.structs.replace(manifest, floor=6)
    assert [version for version in range(10) if collected.retains(version)] == [1, 6, 7]


HOSTILE = [
    "../codecs/" + "0" * 32 + ".npz",
    "codecs/../" + "0" * 32 + ".npz",
    "/etc/passwd",
    "/codecs/" + "0" * 32 + ".npz",
    "codecs/" + "0" * 32 + ".npz\n",
    "codecs/" + "0" * 31 + ".npz",
    "codecs/" + "A" * 32 + ".npz",
    "codecs/" + "0" * 32 + ".pkl",
    "CODECS/" + "0" * 32 + ".npz",
    "segments/" + "0" * 32 + "/../codes.npz",
    "manifests/00000000000000000001.json",
    "staging/" + "0" * 32 + "/000000.parquet",
    "",
]

REFERENCES = [
    ("codec", "file"),
    ("codebook", "file"),
    ("commit", "rejected_file"),
    ("segments", 0, "codes_file"),
    ("segments", 0, "documents_file"),
    ("segments", 1, "deletions", "file"),
]


def at(document: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


@pytest.mark.parametrize("path", REFERENCES, ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize("key", HOSTILE)
def test_a_key_that_no_writer_spells_is_refused(path: tuple[str | int, ...], key: str) -> None:
    """A manifest can lead a reader to files of an index only."""
    document = as_json()
    at(document, path)["key"] = key
    with pytest.raises(IndexCorrupt, match="not a valid reference"):
        decode(document)


@pytest.mark.parametrize("wrong", [{"size": -1}, {"sha256": "ab"}, {"sha256": "../" * 21 + "x"}, {"sha256": "AB" * 32}])
def test_a_reference_with_an_impossible_size_or_hash_is_refused(wrong: dict[str, object]) -> None:
    """Hashes become file names in a cache: only hexadecimal digits will do."""
    document = as_json()
    document["codec"]["file"].update(wrong)
    with pytest.raises(IndexCorrupt, match="not a valid reference"):
        decode(document)


def all_keys(document: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    steps = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else []
    )
    below = [one for step, value in steps for one in all_keys(value, (*path, step))]
    return below + [(*path, step) for step, _ in steps] if isinstance(document, dict) else below


OPTIONAL = {"added", "changed", "deleted", "rejected", "rejected_file", "source_fingerprint", "deletions"}
OPTIONAL |= {"restored", "kept", "pool_factor"}
REQUIRED = [path for path in all_keys(as_json()) if path[-1] not in OPTIONAL]


@pytest.mark.parametrize("path", REQUIRED, ids=lambda path: ".".join(map(str, path)))
def test_a_missing_or_mistyped_key_is_corruption_of_that_manifest(path: tuple[str | int, ...]) -> None:
    """Every required key must be there and of its type; the error says which manifest it is."""
    document = as_json()
    del at(document, path[:-1])[path[-1]]
    with pytest.raises(IndexCorrupt) as caught:
        decode(document)
    assert WHERE in str(caught.value)
    document = as_json()
    at(document, path[:-1])[path[-1]] = {"not": "this"}
    with pytest.raises((IndexCorrupt, UnsupportedFormat)):
        decode(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("segments", 0, "passages"), 0),
        (("segments", 0, "tokens"), -5),
        (("segments", 0, "documents"), 2**32),
        (("codebook", "centroids"), 0),
        (("codebook", "held_out_distance"), -0.1),
        (("codebook", "outlier_distance"), 0),
        (("encoder", "dim"), 12),
        (("encoder", "dim"), 1032),
        (("codec", "bits"), 3),
    ],
)
def test_a_number_out_of_range_is_corruption(path: tuple[str | int, ...], value: int) -> None:
    """What a reader allocates by has limits."""
    document = as_json()
    at(document, path[:-1])[path[-1]] = value
    with pytest.raises(IndexCorrupt):
        decode(document)


@pytest.mark.parametrize("path", [("codebook",), ("segments", 1)], ids=["codebook", "segment"])
def test_vectors_of_another_encoder_than_the_manifests_are_refused(path: tuple[str | int, ...]) -> None:
    """The error names what they are in, and both fingerprints."""
    document = as_json()
    at(document, path)["encoder"] = "ef" * 32
    with pytest.raises(IndexCorrupt) as caught:
        decode(document)
    assert all(one in str(caught.value) for one in (at(document, path)["id"], "ef" * 32, "cd" * 32, WHERE))


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"{}", b"\xff\xfe", b'{"format_version": "\xff"}', b"[" * 100_000, b"PK\x03\x04"],
    ids=repr,
)
def test_what_is_no_manifest_is_corruption(data: bytes) -> None:
    """Bytes of any kind lead to IndexCorrupt."""
    with pytest.raises(IndexCorrupt, match="not a manifest"):
        decode_manifest(data[:100_000], where=WHERE)


@pytest.mark.parametrize("flags", [[1, "a"], [None, "a"], [["a"]], 3, None])
def test_flags_that_are_no_list_of_names_are_refused(flags: object) -> None:
    """A flag of the wrong type is an error of ours, not of Python's."""
    with pytest.raises((IndexCorrupt, UnsupportedFormat)):
        decode({**as_json(), "reader_flags": flags})


SAMPLE = encode_manifest(make_manifest())


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.binary(min_size=1, max_size=3)), min_size=1, max_size=4))
def test_changed_bytes_are_a_manifest_or_refused(changes: list[tuple[int, bytes]]) -> None:
    """Changed bytes are refused; with their hash made right they are a manifest with valid keys, or refused."""
    data = bytearray(SAMPLE)
    for place, new in changes:
        data[place : place + len(new)] = new
    if data != SAMPLE:
        with pytest.raises((IndexCorrupt, UnsupportedFormat)):
            decode_manifest(bytes(data), where=WHERE)
    try:
        manifest = decode_manifest(seal(bytes(data)), where=WHERE)
    except (IndexCorrupt, UnsupportedFormat):
        return
    assert all(keys.is_data_key(file.key) for file in manifest.files())
    assert msgspec.json.decode(encode_manifest(manifest))["format_version"] == FORMAT_VERSION


def test_a_manifest_without_its_hash_is_refused() -> None:
    """Nothing would tell a changed one from a whole one."""
    document = as_json()
    del document["manifest_sha256"]
    with pytest.raises(IndexCorrupt, match="manifest_sha256"):
        decode(document)


def test_a_manifest_key_is_known_by_its_digits() -> None:
    """Versions are found by key; other names in the folder are nobody's version."""
    assert keys.manifest_version(keys.manifest(12)) == 12
    assert keys.manifest(9) < keys.manifest(10)
    for other in (
        "manifests/1.json",
        f"manifests/{'٣' * 20}.json",
        f"{keys.manifest(1)}\n",
        f"{keys.manifest(1)}.part",
    ):
        assert keys.manifest_version(other) is None
