"""Compaction: what is rewritten, that nobody sees it, and what happens when others change the same segments."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index_format import change, keys
from index_format.change import Origin
from index_format.compaction import (
    CompactionPolicy,
    choose_groups,
    compact_index,
    merge_segments,
    merged_metadata,
    publish_compaction,
)
from index_format.errors import CommitConflict, ObjectMissing
from index_format.garbage import collect_garbage
from index_format.history import Retention, rollback
from index_format.index import Index
from index_format.manifest import DeletionRecord, FileRef, SegmentRecord
from index_format.npz import MAX_WRITTEN_BYTES
from index_format.store import MemoryStore
from serving.search import search
from serving.snapshot import open_snapshot
from tests.index_format.plain_reader import read_plainly
from tests.serving.vectors import Document, random_index, random_vectors, write_documents
from tests.strategies import (
    WORDS,
    Recipe,
    add,
    batches,
    delete,
    document_ids,
    live_texts,
    make_recipe,
    publish,
    texts,
    token_vectors,
)

ALL_SMALL = CompactionPolicy(alike=2, deleted_share=0.01)
FIRST = {"a": "harbour lantern", "b": "copper meadow violin ember glacier", "c": "saffron"}


def segment(name: str, tokens: int, deleted: float = 0.0) -> SegmentRecord:
    """A record of the given size, ten tokens a passage."""
    file = FileRef(key=name, size=1, sha256="")
    gone = DeletionRecord(passages=round(tokens // 10 * deleted), documents=1, file=file)
    files = dict.fromkeys(["documents_file", "passages_file", "codes_file", "centroids_file"], file)
    counts = {"documents": tokens // 10, "passages": tokens // 10, "tokens": tokens}
    return SegmentRecord(id=name, encoder="words", **counts, **files, deletions=gone if deleted else None)


def chosen(*segments: SegmentRecord, **policy: object) -> list[list[str]]:
    groups = choose_groups(segments, CompactionPolicy(**policy))
    return [[record.id for record in group] for group in groups]


def join_all(index: Index) -> None:
    """All segments into one, whatever their sizes."""
    base = index.current()
    if base.segments:
        publish_compaction(index, merge_segments(index, base, base.segments))


def test_as_many_alike_segments_as_the_policy_says_become_one() -> None:
    """Seven wait for the eighth; a segment of another size waits for its own kind."""
    small = [segment(f"s{number}", 1000 + number) for number in range(8)]
    assert chosen(*small[:7], segment("large", 500_000)) == []
    assert chosen(*small, segment("large", 500_000)) == [[record.id for record in small]]


def test_a_segment_with_many_deletions_is_rewritten_alone() -> None:
    """From a quarter of its passages on, whatever its size."""
    assert chosen(segment("a", 1000, deleted=0.2), segment("b", 1_900_000, deleted=0.2)) == []
    assert chosen(segment("a", 1000, deleted=0.3), segment("b", 1_900_000, deleted=0.3)) == [["b"], ["a"]]


def test_a_new_segment_stays_below_the_most_tokens() -> None:
    """Twenty that would be too large together become several, and one that is left over stays as it is."""
    many = [segment(f"s{number:02d}", 300_000) for number in range(13)]
    groups = chosen(*many, most_tokens=1_000_000, alike=4)
    assert [len(group) for group in groups] == [3, 3, 3, 3]


def test_the_files_of_a_new_segment_stay_below_the_most_bytes() -> None:
    """However few tokens it has: by the larger one of the two files of arrays, deleted passages as if they stayed."""
    file = FileRef(key="codes", size=400, sha256="")
    many = [msgspec.structs.replace(segment(f"s{number}", 1000, 0.1), codes_file=file) for number in range(4)]
    many += [msgspec.structs.replace(segment(f"t{number}", 1000, 0.1), centroids_file=file) for number in range(4)]
    assert [len(group) for group in chosen(*many, most_bytes=1200)] == [3, 3, 2]
    assert [len(group) for group in chosen(*many)] == [8]
    assert CompactionPolicy().most_bytes == MAX_WRITTEN_BYTES


def test_what_is_large_and_whole_is_left_alone() -> None:
    """A segment of half the most tokens is done."""
    assert chosen(*[segment(f"s{number}", 1_200_000) for number in range(20)]) == []


def test_compacted_segments_hold_the_live_documents_alone(index: Index, recipe: Recipe) -> None:
    """Three segments with a deleted and a replaced document become one without deletions."""
    add(index, recipe, FIRST)
    add(index, recipe, {"b": "ember", "d": "violin"})
    delete(index, "c")
    done = compact_index(index, ALL_SMALL)
    assert (done.segments_before, done.segments_after, done.discarded) == (2, 1, 0)
    (record,) = index.current().segments
    assert (record.documents, record.deletions, record.encoder) == (3, None, recipe.encoder.fingerprint)
    assert live_texts(index) == {"a": FIRST["a"], "b": "ember", "d": "violin"}
    assert compact_index(index, ALL_SMALL).rewritten == 0


def test_a_plain_reader_finds_every_rule_kept_after_compaction(tmp_path: Path) -> None:
    """The new segment is one that SPEC describes."""
    index = Index.at(tmp_path / "index")
    recipe = make_recipe(index)
    for batch in (FIRST, {"b": "ember", "d": "violin"}, {"e": "glacier glacier"}):
        add(index, recipe, batch)
    delete(index, "a")
    compact_index(index, ALL_SMALL)
    plain = read_plainly(tmp_path / "index")
    assert {key: one["text"] for key, one in plain.documents.items()} == live_texts(index)


def test_a_group_whose_files_another_compactor_made_garbage_waits_for_the_next_round(index: Index) -> None:
    """The first group is its own; before the second one is looked at, others replace all of it and collect."""
    recipe = make_recipe(index)
    for batch in ({"a": "harbour"}, {"b": "ember"}, {"c": " ".join(WORDS * 6)}, {"d": " ".join(WORDS * 6)}):
        add(index, recipe, batch)
    before = live_texts(index)

    def others_compact() -> None:
        other = Index(index.store, index.files._directory / "another machine")
        compact_index(other, ALL_SMALL)
        collect_garbage(other, Retention(versions=1, days=0), time.time_ns() // 1_000_000 + 60_000)

    late = Index(Interrupted(index.store, after=others_compact), index.files._directory / "this machine")
    done = compact_index(late, ALL_SMALL)
    assert (done.rewritten, done.discarded) == (2, 1)
    assert live_texts(index) == before


def test_a_file_that_the_current_version_lacks_stops_compaction(index: Index, tmp_path: Path) -> None:
    """Nobody replaced it: the index is damaged."""
    recipe = make_recipe(index)
    for batch in ({"a": "harbour"}, {"b": "ember"}):
        add(index, recipe, batch)
    index.store.delete(index.current().segments[0].documents_file.key)
    with pytest.raises(ObjectMissing, match=r"documents\.parquet"):
        compact_index(Index(index.store, tmp_path / "empty cache"), ALL_SMALL)


class Interrupted(MemoryStore):
    """A store whose other users do something just after its first commit."""

    def __init__(self, inner: MemoryStore, after: Callable[[], None]) -> None:
        super().__init__()
        self._objects = inner._objects
        self._after: Callable[[], None] | None = after

    def create(self, key: str, data: bytes) -> None:
        super().create(key, data)
        if key.startswith(keys.MANIFESTS) and self._after:
            after, self._after = self._after, None
            after()


def test_older_versions_read_as_they_did_after_compaction(index: Index, recipe: Recipe) -> None:
    """The inputs stay until they are collected."""
    add(index, recipe, FIRST)
    add(index, recipe, {"b": "ember"})
    compact_index(index, ALL_SMALL)
    assert live_texts(index, 1) == FIRST
    assert live_texts(index, 2) == live_texts(index) == {**FIRST, "b": "ember"}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), batches),
        st.tuples(st.just("delete"), st.lists(document_ids, min_size=1, max_size=2)),
        st.tuples(st.just("compact"), st.none()),
    ),
    min_size=2,
    max_size=8,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=batches, steps=steps, query=texts, k=st.integers(1, 8), candidates=st.none() | st.integers(1, 4))
def test_compaction_changes_no_answer(
    tmp_path: Path, first: dict[str, str], steps: list[tuple[str, object]], query: str, k: int, candidates: int | None
) -> None:
    """Hits and scores of an index that is compacted now and then equal those of one that never is, bit for bit."""
    never, often = Index(MemoryStore(), tmp_path), Index(MemoryStore(), tmp_path)
    recipes = {index: make_recipe(index) for index in (never, often)}
    for step, given_to_it in [("add", first), *steps]:
        for index, recipe in recipes.items():
            if step == "add":
                add(index, recipe, given_to_it)
            elif step == "delete":
                delete(index, *given_to_it)
        if step == "compact":
            join_all(often)
    join_all(often)
    answers = [search(open_snapshot(index), token_vectors(query), k, candidates=candidates) for index in (never, often)]
    assert answers[0] == answers[1]
    assert len(often.current().segments) <= 1


def test_a_document_deleted_during_compaction_stays_deleted(index: Index, recipe: Recipe) -> None:
    """The deletion is carried to the new segment: searching never returns the deleted."""
    add(index, recipe, FIRST)
    add(index, recipe, {"d": "violin"})
    done = merge_segments(index, index.current(), index.current().segments)
    delete(index, "b")
    add(index, recipe, {"a": "ember"})
    publish_compaction(index, done)
    assert live_texts(index) == {"a": "ember", "c": "saffron", "d": "violin"}
    hits = search(open_snapshot(index), token_vectors(FIRST["b"]), 10)
    assert "b" not in {hit.document_id for hit in hits}


def test_a_compaction_whose_documents_are_all_deleted_meanwhile_leaves_no_segment(index: Index, recipe: Recipe) -> None:
    """An output without live documents is not named."""
    add(index, recipe, FIRST)
    add(index, recipe, {"d": "violin"})
    record = index.current().segments[0]
    done = merge_segments(index, index.current(), [record])
    delete(index, "a", "b")
    again = merge_segments(index, index.current(), [index.current().segments[0]])
    publish_compaction(index, done)
    with pytest.raises(CommitConflict, match="while they were compacted"):
        publish_compaction(index, again)
    assert live_texts(index) == {"c": "saffron", "d": "violin"}


def test_a_stalled_compactor_cannot_bring_back_replaced_segments(index: Index, recipe: Recipe) -> None:
    """Two compact the same segments: the second is told, and nothing is live twice."""
    add(index, recipe, FIRST)
    add(index, recipe, {"d": "violin"})
    stalled = merge_segments(index, index.current(), index.current().segments)
    join_all(index)
    delete(index, "a")
    with pytest.raises(CommitConflict, match="replaced segments"):
        publish_compaction(index, stalled)
    assert live_texts(index) == {"b": FIRST["b"], "c": "saffron", "d": "violin"}


def test_a_compaction_that_left_out_a_document_is_dropped_when_a_rollback_brings_it_back(
    index: Index, recipe: Recipe
) -> None:
    """What is live again must not vanish."""
    add(index, recipe, FIRST)
    delete(index, "a")
    done = merge_segments(index, index.current(), index.current().segments)
    index.change(lambda base: rollback(index, base, 1, Origin("rollback")))
    with pytest.raises(CommitConflict, match="came back"):
        publish_compaction(index, done)
    assert live_texts(index) == FIRST


def test_a_compaction_is_dropped_when_the_codebook_changed(index: Index, recipe: Recipe) -> None:
    """Its centroid ids are of the old one."""
    add(index, recipe, FIRST)
    add(index, recipe, {"d": "violin"})
    done = merge_segments(index, index.current(), index.current().segments)
    other = make_recipe(index).codebook_record
    change.replace_codebook(index, recipe.codebook_record.id, other, Origin("codebook"))
    with pytest.raises(CommitConflict, match="replaced segments"):
        publish_compaction(index, done)


def test_metadata_of_different_sources_is_joined_and_read_back_unchanged(tmp_path: Path) -> None:
    """Fields that only some documents have stay theirs; segments whose fields do not fit are kept apart."""
    metadata = [{"year": 1911}, {"year": 2001, "colour": "red"}, {"year": "unknown"}, {}]
    documents = [
        Document(id=f"d{at}", passages=[random_vectors(np.random.default_rng(at), 4, 16)], metadata=own)
        for at, own in enumerate(metadata)
    ]
    index, recipe = random_index(tmp_path, documents[:1], centroids=2)
    for document in documents[1:]:
        publish(index, recipe, write_documents(index, recipe, [document]))
    query = random_vectors(np.random.default_rng(9), 3, 16)
    before = search(open_snapshot(index), query, 10)
    compact_index(index, ALL_SMALL)
    assert len(index.current().segments) == 2
    assert search(open_snapshot(index), query, 10) == before
    assert {hit.document_id: hit.metadata for hit in before} == {f"d{at}": own for at, own in enumerate(metadata)}


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ([{"a": pa.int64()}, {"b": pa.string()}], {"a": pa.int64(), "b": pa.string()}),
        ([{"a": pa.null()}, {"a": pa.string()}], {"a": pa.string()}),
        ([{"a": pa.int32()}, {"a": pa.int64()}], {"a": pa.int64()}),
        ([{"a": pa.int64()}, {"a": pa.float64()}], None),
        ([{"a": pa.int64()}, {"a": pa.uint64()}], None),
        ([{"a": pa.string()}, {"a": pa.int64()}], None),
        ([{}, {}], {}),
    ],
)
def test_metadata_is_joined_only_where_every_value_stays_what_it_was(
    types: list[dict[str, pa.DataType]], expected: dict[str, pa.DataType] | None
) -> None:
    """1 must not become 1.0, nor a number a string."""
    merged = merged_metadata([pa.struct(list(one.items())) for one in types])
    assert merged == (None if expected is None else pa.struct(list(expected.items())))
