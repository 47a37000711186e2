"""What the product writes, a reader that knows only SPEC.md understands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index_format.index import Index
from index_format.manifest import seal
from serving.oracle import coded_maxsim
from serving.scoring import maxsim, prepare_query
from serving.snapshot import open_snapshot
from tests.index_format.plain_reader import RuleError, read_plainly, rotate_plainly, score_plainly
from tests.strategies import add, batches, content_hash, delete, live_texts, make_recipe, token_vectors

FIRST = {"a": "harbour lantern", "b": "copper meadow violin ember glacier saffron", "c": "saffron ember"}
QUERY = "lantern ember violin"


def write_index(root: Path, bits: int = 4) -> Index:
    """Three versions: a batch, a batch that replaces, a deletion."""
    index = Index.at(root)
    recipe = make_recipe(index, bits=bits)
    add(index, recipe, FIRST)
    add(index, recipe, {"b": "ember glacier ember glacier ember", "d": "violin"})
    delete(index, "c")
    return index


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_plain_reader_reads_the_same_documents(tmp_path: Path, bits: int) -> None:
    """Every rule holds in every version, and ids, texts and hashes are those that were added."""
    index = write_index(tmp_path, bits)
    for version in index.versions():
        plain = read_plainly(tmp_path, version)
        assert {key: one["text"] for key, one in plain.documents.items()} == live_texts(index, version)
        for document in plain.documents.values():
            assert document["content_hash"] == content_hash(document["text"])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_plain_reader_decodes_the_same_vectors(tmp_path: Path, bits: int) -> None:
    """Decoded numbers are equal to the last bit, and near the vectors of the words."""
    index = write_index(tmp_path, bits)
    manifest = index.current()
    codec = index.codec(manifest)
    expected = []
    for segment in index.segments(manifest):
        offsets = segment.codes.offsets
        for ordinal in np.flatnonzero(~segment.deleted):
            part = slice(offsets[ordinal], offsets[ordinal + 1])
            expected.append(codec.decompress_rotated(segment.codes.codes[part], segment.codes.scales[part]))
    plain = read_plainly(tmp_path)
    assert len(plain.passages) == len(expected) == manifest.passages
    for passage, vectors in zip(plain.passages, expected, strict=True):
        np.testing.assert_array_equal(passage.vectors, vectors)
        error = {1: 0.9, 2: 0.5, 4: 0.1, 8: 0.01}[bits]
        np.testing.assert_allclose(passage.vectors, rotate_plainly(token_vectors(passage.text), plain), atol=error)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_plain_reader_gives_the_same_scores(tmp_path: Path, bits: int) -> None:
    """The score of SPEC §6.2, the oracle's and the product's are one number, bit for bit."""
    index = write_index(tmp_path, bits)
    manifest = index.current()
    codec = index.codec(manifest)
    query = token_vectors(QUERY)
    snapshot = open_snapshot(index)
    live = np.flatnonzero(snapshot.live)
    fast = maxsim(prepare_query(query, codec), snapshot.table, codec.row_bytes, live)
    read = read_plainly(tmp_path)
    rotated = rotate_plainly(query, read)
    assert rotated.tobytes() == codec.rotated(query).tobytes()
    plain = [score_plainly(rotated, one, codec.mean, bits) for one in read.passages]
    oracle = [coded_maxsim(query, codec, one.codes, one.scales) for one in read.passages]
    assert np.array(plain, np.float32).tobytes() == np.array(oracle, np.float32).tobytes()
    assert np.array(plain, np.float32).tobytes() == fast.tobytes()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(batches, min_size=1, max_size=4), gone=st.sets(st.sampled_from("abcd"), max_size=3))
def test_every_rule_holds_after_any_changes(
    tmp_path_factory: pytest.TempPathFactory, changes: list[dict[str, str]], gone: set[str]
) -> None:
    """Batches that overlap, then deletions: the plain reader finds nothing wrong and the right documents."""
    root = tmp_path_factory.mktemp("index")
    index = Index.at(root)
    recipe = make_recipe(index)
    documents: dict[str, str] = {}
    for batch in changes:
        add(index, recipe, batch)
        documents |= batch
    delete(index, *gone)
    plain = read_plainly(root)
    expected = {key: text for key, text in documents.items() if key not in gone}
    assert {key: one["text"] for key, one in plain.documents.items()} == expected


def edit_manifest(root: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = max((root / "manifests").iterdir())
    manifest = json.loads(path.read_bytes())
    edit(manifest)
    path.write_bytes(seal(json.dumps(manifest).encode()))


@pytest.mark.parametrize(
    ("edit", "rule"),
    [
        (lambda one: one["reader_flags"].append("new"), "reader flags"),
        (lambda one: one.update(version=9), "version is that of the key"),
        (lambda one: one.update(parent_commit="0" * 32), "parent"),
        (lambda one: one["codec"]["file"].update(sha256="0" * 64), "promised hash"),
        (lambda one: one["codec"]["file"].update(size=1), "promised size"),
        (lambda one: one["codec"]["file"].update(key="../codec.npz"), "key of a codec"),
        (lambda one: one["segments"][0].update(passages=3), "rows"),
        (lambda one: one["segments"][1].update(tokens=3), "codes"),
        (lambda one: one["segments"][0]["deletions"].update(documents=1), "counted"),
        (lambda one: one["segments"][0].update(deletions=None), "live once"),
        (lambda one: one["codebook"].update(encoder="other"), "of the index's encoder"),
        (lambda one: one["segments"][1].update(encoder="other"), "of the index's encoder"),
        (lambda one: one.update(floor=4), "floor and horizon"),
        (lambda one: one.update(horizon=-1), "horizon"),
        (lambda one: one.update(tags={"next": 4}), "a tag names a version"),
        (lambda one: one["commit"].update(restored=3), "older version"),
    ],
)
def test_the_plain_reader_notices_a_broken_rule(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], rule: str
) -> None:
    """Its silence about the product's files means something."""
    write_index(tmp_path)
    edit_manifest(tmp_path, edit)
    with pytest.raises(RuleError, match=rule):
        read_plainly(tmp_path)
