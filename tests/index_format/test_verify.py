"""`verify` finds each broken rule, though every hash is right, and names the file, the row and what to do."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index_format import history, keys, schema
from index_format.change import Origin, commit_record, next_version
from index_format.errors import IndexCorrupt, IndexNotFound
from index_format.garbage import collect_garbage
from index_format.history import Retention
from index_format.index import Index
from index_format.manifest import SegmentRecord, seal
from index_format.npz import write_npz
from index_format.segment import write_centroids
from index_format.store import MemoryStore, open_store
from index_format.verify import Fault, verify, wanted_versions
from serving.snapshot import open_snapshot
from tests.strategies import add, make_recipe, recipe_of


def faults(root: Path, versions: list[int] | None = None) -> list[Fault]:
    store = open_store(root)
    return list(verify(store, versions or wanted_versions(store, None, all_versions=False)))


def head(root: Path) -> tuple[Path, dict[str, Any]]:
    path = max((root / "manifests").iterdir())
    return path, json.loads(path.read_bytes())


def save(path: Path, manifest: dict[str, Any]) -> None:
    path.write_bytes(seal(json.dumps(manifest).encode()))


def forge(root: Path, file: dict[str, Any], data: bytes) -> None:
    """Put other bytes under a file's key, and make every manifest promise them."""
    (root / file["key"]).write_bytes(data)
    for path in (root / "manifests").iterdir():
        text = path.read_text().replace(file["sha256"], hashlib.sha256(data).hexdigest())
        manifest = json.loads(text)
        _set_size(manifest, file["key"], len(data))
        save(path, manifest)


def _set_size(node: Any, key: str, size: int) -> None:
    if isinstance(node, dict) and node.get("key") == key:
        node["size"] = size
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _set_size(child, key, size)


def arrays(root: Path, file: dict[str, Any]) -> dict[str, np.ndarray]:
    with np.load(root / file["key"]) as archive:
        return {name: archive[name].copy() for name in archive.files}


def table(root: Path, file: dict[str, Any]) -> dict[str, list[Any]]:
    return pq.read_table(root / file["key"]).to_pydict()


def test_a_sound_index_has_no_faults(root: Path) -> None:
    """Not in the current version and not in all of them; by default the current one is checked."""
    assert faults(root) == faults(root, [1, 2, 3]) == []


def test_an_index_of_many_row_groups_has_no_faults(tmp_path: Path) -> None:
    """Row groups are full, the last excepted."""
    index = Index.at(tmp_path)
    add(index, make_recipe(index), {f"{number:04d}": "harbour ember" for number in range(1100)})
    assert faults(tmp_path) == []


def test_an_index_in_a_bucket_is_verified_by_its_own_bytes(fresh_s3_address: str) -> None:
    """What this machine has in its cache proves nothing."""
    index = Index.at(fresh_s3_address)
    add(index, make_recipe(index), {"a": "harbour lantern", "b": "copper meadow violin ember glacier saffron"})
    open_snapshot(index)
    assert list(verify(index.store, [1])) == []
    key = index.current().segments[0].codes_file.key
    data = bytearray(index.store.get(key))
    data[700] ^= 1
    index.store.delete(key)
    index.store.create(key, bytes(data))
    (fault,) = verify(index.store, [1])
    assert (fault.version, fault.file, fault.row) == (1, key, None)
    assert "SHA-256" in fault.problem
    assert "Restore" in fault.repair


def test_what_is_checked_is_the_current_version_unless_another_is_wanted(root: Path) -> None:
    """One, all, or none: a place without an index and a version that is gone are not found."""
    store = open_store(root)
    assert wanted_versions(store, None, all_versions=False) == [3]
    assert wanted_versions(store, 2, all_versions=False) == [2]
    assert wanted_versions(store, None, all_versions=True) == [1, 2, 3]
    with pytest.raises(IndexNotFound, match="no version 9"):
        wanted_versions(store, 9, all_versions=False)
    with pytest.raises(IndexNotFound):
        wanted_versions(MemoryStore(), None, all_versions=False)


@pytest.mark.parametrize("name", ["documents_file", "passages_file", "codes_file", "centroids_file"])
@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_damage_is_named_and_the_rest_is_still_checked(root: Path, name: str, damage: str) -> None:
    """One fault for each damaged object, whatever else is checked against it."""
    _, manifest = head(root)
    damaged = [segment[name]["key"] for segment in manifest["segments"]]
    for key in damaged:
        data = bytearray((root / key).read_bytes())
        data[-30] ^= 4
        (root / key).write_bytes(data) if damage == "flipped" else (root / key).unlink()
    found = faults(root)
    assert [fault.file for fault in found] == damaged
    assert all(fault.version == 3 for fault in found)


def set_at(name: str, place: int, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(own: dict[str, np.ndarray]) -> None:
        own[name][place] = value

    return change


@pytest.mark.parametrize(
    ("file", "change", "problem", "row"),
    [
        ("codes_file", set_at("scales", 3, np.inf), "token 3", 3),
        ("codes_file", set_at("scales", 5, 2.0**-15), "token 5", 5),
        ("codes_file", set_at("offsets", 1, 0), "passage 0", 0),
        ("codes_file", set_at("offsets", 4, 9), "expected 0 to 10", None),
        ("centroids_file", set_at("ids", 0, 77), "passage 0 touches centroid 77 of 5", 0),
        ("centroids_file", set_at("ids", 1, 0), "passage 0 do not ascend", 0),
        ("centroids_file", set_at("offsets", 0, 1), "offsets go from 1", None),
        ("centroids_file", set_at("outlier_offsets", 0, 1), "outlier_offsets go from 1", None),
        ("centroids_file", set_at("outlier_offsets", 1, 9), "outlier_offsets of passage 1 fall", 1),
        ("centroids_file", set_at("outlier_scales", 0, 2.0**-15), "the scale of outlier 0", 0),
    ],
)
def test_a_wrong_number_in_an_array_is_named_with_its_row(
    root: Path, file: str, change: Callable[[dict[str, np.ndarray]], None], problem: str, row: int | None
) -> None:
    """Scales, offsets and centroid ids that their own hash vouches for."""
    _, manifest = head(root)
    own = arrays(root, manifest["segments"][0][file])
    change(own)
    forge(root, manifest["segments"][0][file], write_npz(own))
    found = faults(root)
    assert any(problem in fault.problem and fault.row == row for fault in found), found
    assert {fault.file for fault in found} == {manifest["segments"][0][file]["key"]}


Copies = Callable[[dict[str, np.ndarray]], None]


def copied(*places: int) -> Copies:
    """Outliers of the first passage that are these of the file; other passages keep theirs."""

    def change(own: dict[str, np.ndarray]) -> None:
        first = int(own["outlier_offsets"][1])
        for name in ("outlier_codes", "outlier_scales"):
            own[name] = np.concatenate([own[name][list(places)], own[name][first:]])
        own["outlier_offsets"][1:] = own["outlier_offsets"][1:].astype(int) + len(places) - first

    return change


def flipped(own: dict[str, np.ndarray]) -> None:
    own["outlier_codes"][1, -1] ^= 1


@pytest.mark.parametrize(
    ("change", "row"),
    [
        (flipped, 1),
        (set_at("outlier_scales", 1, 0.5), 1),
        (copied(1, 0, 2), 2),
        (copied(0, 1, 2, 2), 3),
        (copied(1, 3), 1),
        (copied(2, 0), None),
        (copied(), None),
    ],
    ids=["code", "scale", "order", "one too many", "of another passage", "equal to another token", "none"],
)
def test_an_outlier_that_is_no_copy_of_a_token_of_its_passage_is_named(
    tmp_path: Path, change: Copies, row: int | None
) -> None:
    """Its own hash vouches for it, and no score would tell: the passage would only be found less often."""
    index = Index.at(tmp_path)
    add(index, make_recipe(index), {"a": "ember glacier copper ember", "b": "glacier"})
    _, manifest = head(tmp_path)
    file = manifest["segments"][0]["centroids_file"]
    own = arrays(tmp_path, file)
    change(own)
    forge(tmp_path, file, write_npz(own))
    found = faults(tmp_path)
    assert [(fault.file, fault.row) for fault in found] == ([] if row is None else [(file["key"], row)])
    for fault in found:
        code, scale = own["outlier_codes"][row].tobytes().hex(), own["outlier_scales"][row]
        assert fault.problem == (
            f"outlier {row} of passage 0 is no copy: expected one of its tokens 0 to 3, in their order, "
            f"got the codes {code} and the scale {scale}"
        )
        assert "colonnade reindex" in fault.repair


def test_outliers_are_compared_in_every_passage_of_a_large_segment(tmp_path: Path) -> None:
    """Only some of many alike are shown."""
    index = Index.at(tmp_path)
    add(index, make_recipe(index), {f"{number:04d}": "ember" for number in range(1100)})
    _, manifest = head(tmp_path)
    file = manifest["segments"][0]["centroids_file"]
    own = arrays(tmp_path, file)
    own["outlier_scales"][1020:1026] *= 2
    forge(tmp_path, file, write_npz(own))
    assert [fault.row for fault in faults(tmp_path)] == [1020, 1021, 1022, None]
    own["outlier_scales"][1020:1025] /= 2
    forge(tmp_path, file := head(tmp_path)[1]["segments"][0]["centroids_file"], write_npz(own))
    (fault,) = faults(tmp_path)
    assert fault.row == 1025
    assert "outlier 1025 of passage 1025 is no copy: expected one of its tokens 1025 to 1025" in fault.problem


@pytest.mark.parametrize("damage", ["gone", "another scale"])
def test_outliers_are_not_compared_with_codes_that_are_at_fault(root: Path, damage: str) -> None:
    """Token 5 is an outlier, and its copy may be the one that is right."""
    _, manifest = head(root)
    file = manifest["segments"][0]["codes_file"]
    own = arrays(root, file)
    own["scales"][5] = 2.0**-15
    (root / file["key"]).unlink() if damage == "gone" else forge(root, file, write_npz(own))
    assert [fault.file for fault in faults(root)] == [file["key"]]


def test_outliers_of_every_centroids_file_are_compared(root: Path) -> None:
    """Two versions have the same codes, and the older one's centroids are at fault."""
    index = Index.at(root)
    base = index.current()
    codec, book = index.codec(base), index.codebook(base)

    def assigned(record: SegmentRecord) -> SegmentRecord:
        """All tokens to the first centroid, so that the file is another."""
        file = write_centroids(
            index.store, record, index.files, codec, book, lambda vectors: np.zeros(len(vectors), np.uint32)
        )
        return msgspec.structs.replace(record, centroids_file=file)

    file = head(root)[1]["segments"][0]["centroids_file"]
    own = arrays(root, file)
    own["outlier_scales"][0] *= 2
    forge(root, file, write_npz(own))
    index.change(lambda base: next_version(base, commit_record(Origin("reindex")), list(map(assigned, base.segments))))
    assert [(fault.version, fault.row) for fault in faults(root, [3, 4])] == [(3, 0)]
    assert faults(root) == []


@pytest.mark.parametrize(
    ("ordinals", "problem"),
    [([1], "others of its document"), ([1, 9], "not below the 4 passages"), ([2, 1], "ordinal 1 follows 2"),
     ([1, 2, 3], "expected 2 ordinals, got 3")],
)  # fmt: skip
def test_a_wrong_deletion_vector_is_named(root: Path, ordinals: list[int], problem: str) -> None:
    """Documents deleted by half, ordinals out of range, out of order, too many."""
    _, manifest = head(root)
    file = manifest["segments"][0]["deletions"]["file"]
    forge(root, file, write_npz({"ordinals": np.array(ordinals, np.uint32)}))
    assert any(problem in fault.problem and fault.file == file["key"] for fault in faults(root))


@pytest.mark.parametrize(
    ("column", "row", "value", "problem"),
    [
        ("document", 1, 2, "after 0"),
        ("number", 2, 5, "passage 2 has number 5, expected 1"),
        ("start", 0, 15, "passage 0 spans 15 to 15"),
        ("end", 3, 400, "passage 3 ends at 400, the text of document 2 at 13"),
        ("document", 3, 1, "is of document 1, expected 2"),
    ],
)
def test_a_wrong_passage_is_named(root: Path, column: str, row: int, value: int, problem: str) -> None:
    """Order, numbers and spans."""
    _, manifest = head(root)
    file = manifest["segments"][0]["passages_file"]
    rows = table(root, file)
    rows[column][row] = value
    forge(root, file, schema.write_parquet(pa.table(rows, schema=schema.PASSAGES)))
    found = [fault for fault in faults(root) if problem in fault.problem]
    assert [(fault.file, fault.row) for fault in found] == [(file["key"], row)]


@pytest.mark.parametrize(
    ("column", "row", "value", "problem"),
    [
        ("id", 2, "a", "documents 0 and 2 have the same id 'a'"),
        ("id", 1, " ", "the id of document 1 is blank"),
        ("id", 1, "x" * 513, "longer than 512"),
        ("text", 0, "\n\t", "the text of document 0 is blank"),
    ],
)
def test_a_wrong_document_is_named(root: Path, column: str, row: int, value: str, problem: str) -> None:
    """Ids and texts."""
    _, manifest = head(root)
    file = manifest["segments"][0]["documents_file"]
    rows = table(root, file)
    rows[column][row] = value
    forge(root, file, schema.write_parquet(pa.table(rows, schema=schema.documents_schema(None))))
    assert any(problem in fault.problem and fault.row == row for fault in faults(root))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"compression": "snappy"}, "compressed with SNAPPY"),
        ({"write_page_checksum": False}, "has no checksum"),
        ({"row_group_size": 2}, "row group 0 has 2 rows"),
    ],
)
def test_a_table_that_was_written_otherwise_is_named(root: Path, options: dict[str, Any], problem: str) -> None:
    """Compression, page checksums and row groups."""
    _, manifest = head(root)
    file = manifest["segments"][0]["passages_file"]
    buffer = io.BytesIO()
    written = {"compression": "zstd", "row_group_size": 128, "write_page_checksum": True, **options}
    pq.write_table(pa.table(table(root, file), schema=schema.PASSAGES), buffer, **written)
    forge(root, file, buffer.getvalue())
    found = faults(root)
    assert found
    assert all(problem in fault.problem and fault.file == file["key"] for fault in found)


def test_a_mean_or_a_centroid_that_is_no_number_is_named(root: Path) -> None:
    """Codec and codebook."""
    _, manifest = head(root)
    for file, name in ((manifest["codec"]["file"], "mean"), (manifest["codebook"]["file"], "scales")):
        own = arrays(root, file)
        own[name].flat[3] = np.nan
        forge(root, file, write_npz(own))
    assert [(fault.problem, fault.row) for fault in faults(root)] == [
        ("the mean is not finite in dimension 3", 3),
        ("the scale of centroid 3 is nan, expected 2^-14 or more", 3),
    ]


def of_encoder(manifest: dict[str, Any], fingerprint: str) -> None:
    manifest["encoder"]["fingerprint"] = fingerprint
    for made in (manifest["codebook"], *manifest["segments"]):
        made["encoder"] = fingerprint


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda one: one.update(parent_commit="0" * 32), "parent_commit is not"),
        (lambda one: one.update(index_id="0" * 32), "index_id differs"),
        (lambda one: one["chunking"].update(passage_tokens=99), "chunking differs"),
        (lambda one: of_encoder(one, "other"), "encoder.fingerprint differs"),
        (lambda one: one["encoder"].update(fingerprint="other"), "codebook "),
        (lambda one: one["codebook"].update(encoder="other"), "is of the encoder 'other', the index of '"),
        (lambda one: one["segments"][1].update(encoder="other"), "is of the encoder 'other', the index of '"),
        (lambda one: one["commit"].update(id="me"), "is not 32 digits"),
        (lambda one: one["codebook"].update(id="0" * 32), "codebook " + "0" * 32),
        (lambda one: one["segments"][0].update(id="0" * 32), "segment " + "0" * 32 + " has segments/"),
        (lambda one: one["segments"].append(one["segments"][1]), "is named twice"),
        (lambda one: one["segments"][0]["deletions"].update(documents=2), "expected 2 deleted documents, got 1"),
        (lambda one: one["segments"][0]["deletions"].update(documents=3), "has no live document"),
        (lambda one: one["segments"][0].update(tokens=99), "got"),
        (lambda one: one["segments"][0].update(documents=99), "expected 99 rows, got 3"),
        (lambda one: one.update(version=9), "says that it is version 9"),
        (lambda one: one.update(tags={"9 lives": 1}), "'9 lives' is no name for a tag"),
        (lambda one: one.update(tags={"a" * 65: 1}), "is no name for a tag"),
    ],
)
def test_a_manifest_that_says_otherwise_is_named(
    root: Path, edit: Callable[[dict[str, Any]], object], problem: str
) -> None:
    """The chain, what an index keeps for life, ids, keys and counts."""
    path, manifest = head(root)
    edit(manifest)
    save(path, manifest)
    assert any(problem in fault.problem for fault in faults(root))


def test_a_missing_or_damaged_version_is_named_and_the_others_are_checked(root: Path) -> None:
    """A gap in the history, and a manifest whose bytes changed."""
    first, second, _ = sorted((root / "manifests").iterdir())
    second.unlink()
    (fault,) = faults(root)
    assert (fault.version, fault.file) == (2, keys.manifest(2))
    assert "has no version 2; it has [1, 3]" in fault.problem
    first.write_bytes(first.read_bytes().replace(b'"add"', b'"odd"'))
    assert [(fault.version, fault.file) for fault in faults(root)] == [(1, keys.manifest(1)), (2, keys.manifest(2))]


def test_what_garbage_collection_leaves_out_is_no_fault(root: Path) -> None:
    """A tag keeps version 1; version 2 is gone, and so are the files that it alone named."""
    index = Index.at(root)
    index.change(lambda base: history.tag(index, base, "first", 1, Origin("tag")))
    collect_garbage(index, Retention(versions=1, days=0), time.time_ns() // 1_000_000)
    store = open_store(root)
    retained = wanted_versions(store, None, all_versions=True)
    assert (retained[0], 2 in retained) == (1, False)
    assert faults(root, retained) == []


@pytest.mark.parametrize("name", ["floor", "horizon"])
def test_a_floor_or_a_horizon_that_falls_is_named(root: Path, name: str) -> None:
    """What was garbage once would be retained again, and may be gone."""
    paths = sorted((root / "manifests").iterdir())
    manifests = [json.loads(path.read_bytes()) for path in paths]
    for manifest, value in zip(manifests[1:], (2, 1), strict=True):
        manifest[name] = value
    for path, manifest in zip(paths, manifests, strict=True):
        save(path, manifest)
    (fault,) = faults(root, [1, 2, 3])
    assert (fault.version, fault.problem) == (3, "floor or horizon is lower than in the version before")


def test_a_document_that_is_live_twice_is_named(root: Path) -> None:
    """A deletion vector that is no longer named brings documents back."""
    index = Index.at(root)
    add(index, recipe_of(index), {"c": "ember", "e": "copper"})
    path, manifest = head(root)
    first, *_, last = manifest["segments"]
    first["deletions"] = None
    save(path, manifest)
    (fault,) = faults(root)
    assert fault.problem == f"document 'c' is live here and in segment {first['id']}"
    assert (fault.file, fault.row) == (last["documents_file"]["key"], 0)


def test_opening_refuses_what_would_break_a_search(root: Path) -> None:
    """Centroids that the codebook lacks and passages of no document, though their hashes are right."""
    _, manifest = head(root)
    segment = manifest["segments"][0]
    whole = (root / segment["centroids_file"]["key"]).read_bytes()
    own = arrays(root, segment["centroids_file"])
    own["ids"][-1] = 5
    forge(root, segment["centroids_file"], write_npz(own))
    with pytest.raises(IndexCorrupt, match="touches centroid 5"):
        open_snapshot(Index.at(root))
    _, manifest = head(root)
    segment = manifest["segments"][0]
    forge(root, segment["centroids_file"], whole)
    rows = table(root, segment["passages_file"])
    rows["document"][-1] = 3
    forge(root, segment["passages_file"], schema.write_parquet(pa.table(rows, schema=schema.PASSAGES)))
    with pytest.raises(IndexCorrupt, match="do not follow 3 documents"):
        open_snapshot(Index.at(root))
