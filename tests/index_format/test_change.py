"""Adding, replacing and deleting documents: what is live afterwards, and what stays as it was."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import msgspec
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from index_format import change, history
from index_format.change import Origin
from index_format.compaction import compact_index
from index_format.errors import CodebookChanged, CommitConflict, EncoderMismatch
from index_format.filters import parse_filter
from index_format.garbage import collect_garbage
from index_format.history import Retention
from index_format.index import Index
from index_format.segment import SegmentReader, read_deletions
from index_format.store import MemoryStore
from serving.oracle import coded_maxsim
from serving.search import search
from serving.snapshot import open_snapshot
from tests.strategies import (
    CENTROIDS,
    WORDS,
    Recipe,
    add,
    all_objects,
    batches,
    delete,
    document_ids,
    live_texts,
    make_recipe,
    publish,
    recipe_of,
    texts,
    token_vectors,
    write_documents,
)
from tests.torture.operations import ALL_SMALL, another_codebook

FIRST = {"a": "harbour lantern", "b": "copper meadow violin ember glacier", "c": "saffron"}


def test_added_documents_are_live(index: Index, recipe: Recipe) -> None:
    """The first batch makes version 1, and its commit says how many came."""
    published = add(index, recipe, FIRST)
    assert published is not None
    assert (published.version, published.commit.added, published.commit.changed) == (1, 3, 0)
    assert live_texts(index) == FIRST


def test_an_equal_id_with_other_content_replaces_the_document(index: Index, recipe: Recipe) -> None:
    """The new text is live, the old is not, and the others stay."""
    add(index, recipe, FIRST)
    published = add(index, recipe, {"b": "ember", "d": "violin"})
    assert published is not None
    assert (published.commit.added, published.commit.changed) == (1, 1)
    assert live_texts(index) == {**FIRST, "b": "ember", "d": "violin"}


def test_a_deleted_document_is_not_live(index: Index, recipe: Recipe) -> None:
    """All its passages are in the deletion vector, and no others."""
    add(index, recipe, FIRST)
    published = delete(index, "b")
    assert published is not None
    assert published.commit.deleted == 1
    assert live_texts(index) == {"a": FIRST["a"], "c": FIRST["c"]}
    assert read_deletions(index.files, published.segments[0]).tolist() == [1, 2]
    assert (published.documents, published.passages) == (2, 2)


def test_deletions_of_a_segment_add_up(index: Index, recipe: Recipe) -> None:
    """A later deletion vector holds the earlier deletions too."""
    add(index, recipe, FIRST)
    delete(index, "c")
    published = delete(index, "a")
    assert published is not None
    assert read_deletions(index.files, published.segments[0]).tolist() == [0, 3]
    assert live_texts(index) == {"b": FIRST["b"]}


def test_a_deleted_document_can_be_added_again(index: Index, recipe: Recipe) -> None:
    """Deletion leaves no trace that would stop the same content."""
    add(index, recipe, FIRST)
    delete(index, "a")
    published = add(index, recipe, {"a": FIRST["a"]})
    assert published is not None
    assert published.commit.added == 1
    assert live_texts(index) == FIRST


def test_the_same_batch_twice_makes_no_new_version(index: Index, recipe: Recipe) -> None:
    """Neither the same segment nor the same documents written anew change anything."""
    segment = write_documents(index, recipe, FIRST)
    publish(index, recipe, segment)
    assert publish(index, recipe, segment) is None
    assert add(index, recipe, FIRST) is None
    assert index.versions() == [1]


def test_only_what_is_new_in_a_batch_is_taken(index: Index, recipe: Recipe) -> None:
    """Documents that are there with equal content stay where they are."""
    add(index, recipe, FIRST)
    published = add(index, recipe, {"a": FIRST["a"], "d": "violin"})
    assert published is not None
    assert published.commit.added == 1
    old, new = published.segments
    assert old.deletions is None
    assert read_deletions(index.files, new).tolist() == [0]
    assert live_texts(index) == {**FIRST, "d": "violin"}


def test_a_later_segment_of_one_batch_wins(index: Index, recipe: Recipe) -> None:
    """Segments of an addition count in their order."""
    segments = [write_documents(index, recipe, {"a": text}) for text in ("harbour", "ember", "ember")]
    published = publish(index, recipe, *segments)
    assert published is not None
    assert [segment.id for segment in published.segments] == [segments[1].id]
    assert live_texts(index) == {"a": "ember"}


def test_a_segment_without_live_documents_is_dropped(index: Index, recipe: Recipe) -> None:
    """Whether its documents were deleted or replaced; an index of nothing is still an index."""
    first = add(index, recipe, {"a": "harbour"})
    second = add(index, recipe, {"a": "ember", "b": "violin"})
    assert first is not None
    assert second is not None
    assert [segment.id for segment in second.segments] != [segment.id for segment in first.segments]
    assert len(second.segments) == 1
    emptied = delete(index, "a", "b")
    assert emptied is not None
    assert emptied.segments == []
    assert live_texts(index) == {}
    add(index, recipe, FIRST)
    assert live_texts(index) == FIRST


def test_deleting_what_is_not_there_makes_no_version(index: Index, recipe: Recipe) -> None:
    """Unknown ids, ids already deleted, and no ids at all."""
    add(index, recipe, FIRST)
    delete(index, "a")
    for ids in (("nobody",), ("a",), ()):
        assert delete(index, *ids) is None
    assert index.versions() == [1, 2]


def test_no_object_is_ever_changed_or_removed(index: Index, recipe: Recipe) -> None:
    """Every change only adds objects: the bytes of all earlier ones stay."""
    before = all_objects(index.store)
    for make in (
        lambda: add(index, recipe, FIRST),
        lambda: add(index, recipe, {"b": "ember", "d": "violin"}),
        lambda: delete(index, "a"),
        lambda: add(index, recipe, {"a": "glacier"}),
        lambda: delete(index, "a", "b", "c", "d"),
    ):
        make()
        after = all_objects(index.store)
        assert {key: after.get(key) for key in before} == before
        assert len(after) > len(before)
        before = after


def test_every_older_version_reads_as_it_did(index: Index, recipe: Recipe) -> None:
    """A version shows the same documents for as long as it is retained."""
    add(index, recipe, FIRST)
    add(index, recipe, {"b": "ember"})
    delete(index, "a", "c")
    assert live_texts(index, 1) == FIRST
    assert live_texts(index, 2) == {**FIRST, "b": "ember"}
    assert live_texts(index, 3) == {"b": "ember"}


def test_the_same_batch_from_many_writers_at_once_is_there_once(index: Index, recipe: Recipe, tmp_path: Path) -> None:
    """Four writers publish equal documents from segments of their own: each document is live exactly once."""
    start = Barrier(4)

    def write(number: int) -> None:
        own = Index(index.store, tmp_path)
        segment = write_documents(own, recipe, FIRST)
        start.wait()
        publish(own, recipe, segment)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert live_texts(index) == FIRST
    assert index.versions() == [1]


def test_overlapping_batches_from_many_writers_all_land(index: Index, recipe: Recipe, tmp_path: Path) -> None:
    """Writers that share some documents lose none and double none."""

    def write(number: int) -> None:
        add(Index(index.store, tmp_path), recipe, {"shared": "harbour", f"own {number}": "ember violin"})

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    expected = {"shared": "harbour", **{f"own {number}": "ember violin" for number in range(6)}}
    assert live_texts(index) == expected


def test_another_encoder_is_refused_by_name(index: Index, recipe: Recipe) -> None:
    """Vectors of two encoders do not meet in one index."""
    add(index, recipe, FIRST)
    other = make_recipe(index, encoder="letters")
    with pytest.raises(EncoderMismatch, match=r"'words'.*'letters'"):
        add(index, other, {"d": "violin"})
    assert live_texts(index) == FIRST


def test_a_segment_or_codebook_of_another_encoder_is_never_published(index: Index, recipe: Recipe) -> None:
    """Whatever a change says of itself: the error names both, and there is no new version."""
    add(index, recipe, FIRST)
    foreign = dataclasses.replace(recipe, encoder=make_recipe(index, encoder="letters").encoder)
    named = f"'{foreign.encoder.fingerprint}'.*'{recipe.encoder.fingerprint}'"
    with pytest.raises(EncoderMismatch, match=rf"segment .*{named}"):
        publish(index, recipe, write_documents(index, foreign, {"d": "violin"}))
    book = msgspec.structs.replace(recipe.codebook_record, encoder=foreign.encoder.fingerprint)
    with pytest.raises(EncoderMismatch, match=rf"codebook .*{named}"):
        change.replace_codebook(index, book.id, book, Origin("codebook"))
    assert index.versions() == [1]


def test_another_codebook_or_codec_is_a_conflict(index: Index, recipe: Recipe) -> None:
    """Segments made for another codec or codebook cannot be published; two first builds at once end so too."""
    add(index, recipe, FIRST)
    for other in (make_recipe(index), make_recipe(index, bits=8)):
        with pytest.raises(CommitConflict, match="Run again") as caught:
            add(index, other, {"d": "violin"})
        assert not isinstance(caught.value, CodebookChanged)
    with pytest.raises(CodebookChanged, match="Run again"):
        add(index, dataclasses.replace(recipe, codebook_record=other.codebook_record), {"d": "violin"})
    assert index.versions() == [1]


def test_every_segment_of_the_index_can_be_read_after_changes(index: Index, recipe: Recipe) -> None:
    """Arrays of all segments are of the promised shapes, and centroid ids are those of the codebook."""
    add(index, recipe, FIRST)
    add(index, recipe, {"d": "violin violin ember saffron copper"})
    delete(index, "a")
    for segment in index.segments(index.current()):
        assert isinstance(segment, SegmentReader)
        assert len(segment.codes.offsets) == segment.record.passages + 1
        assert segment.centroids.ids.max() < index.current().codebook.centroids


def test_documents_are_read_across_row_groups(index: Index, recipe: Recipe) -> None:
    """A segment larger than one row group gives each row its own document, in the order asked."""
    documents = {f"{number:04d}": f"harbour {number % 7}" for number in range(1100)}
    add(index, recipe, documents)
    (segment,) = index.segments(index.current())
    rows = [1099, 0, 127, 128, 255, 1024]
    assert [one["id"] for one in segment.read_documents(rows)] == [f"{row:04d}" for row in rows]


def brute_force(
    recipe: Recipe, documents: dict[str, str], query: NDArray[np.float32]
) -> list[tuple[np.float32, str, int, str]]:
    """Every passage of a dictionary with its score by the oracle, negated, in the order of hits."""
    scored = []
    for document_id, text in documents.items():
        words = text.split()
        for number, first in enumerate(range(0, len(words), recipe.chunking.passage_tokens)):
            passage = " ".join(words[first : first + recipe.chunking.passage_tokens])
            score = coded_maxsim(query, recipe.codec, *recipe.codec.compress(token_vectors(passage)))
            scored.append((-score, document_id, number, passage))
    return sorted(scored)


class IndexMachine(RuleBasedStateMachine):
    """Random changes to an index and to a dictionary, which must agree after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = Path(tempfile.mkdtemp())
        self.index = Index(MemoryStore(), self.cache)
        self.recipe = make_recipe(self.index)
        self.documents: dict[str, str] = {}
        self.history: dict[int, dict[str, str]] = {}

    @rule(batch=batches)
    def upsert(self, batch: dict[str, str]) -> None:
        """Add documents, some of them new, some changed, some the same."""
        published = add(self.index, self.recipe, batch)
        changes = {key: text for key, text in batch.items() if self.documents.get(key) != text}
        assert (published is None) == (bool(self.history) and not changes)
        self.documents = {**self.documents, **batch}
        self.remember()

    @precondition(lambda self: self.history)
    @rule(ids=st.lists(document_ids, max_size=3))
    def delete(self, ids: list[str]) -> None:
        """Delete documents, there or not."""
        published = delete(self.index, *ids)
        assert (published is None) == (not set(ids) & set(self.documents))
        self.documents = {key: text for key, text in self.documents.items() if key not in ids}
        self.remember()

    @precondition(lambda self: self.documents)
    @rule(prefix=st.sampled_from(["a", "é", "with ", "z"]))
    def delete_by_filter(self, prefix: str) -> None:
        """Delete the documents whose id begins so, if any does."""
        matching = parse_filter(json.dumps({"op": "prefix", "column": "id", "value": prefix}))
        self.index.change(lambda base: change.delete_matching(self.index, base, matching, Origin("delete")))
        self.documents = {key: text for key, text in self.documents.items() if not key.startswith(prefix)}
        self.remember()

    @precondition(lambda self: self.history)
    @rule()
    def compact(self) -> None:
        """Small segments into large ones: nothing that is seen changes."""
        compact_index(self.index, ALL_SMALL)
        self.remember()

    @precondition(lambda self: self.history)
    @rule(chosen=st.permutations(WORDS).map(lambda words: words[:CENTROIDS]))
    def retrain(self, chosen: list[str]) -> None:
        """Another codebook: nothing that is seen changes."""
        another_codebook(self.index, chosen)
        self.recipe = recipe_of(self.index)
        self.remember()

    @precondition(lambda self: self.history)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        """The documents of any retained version again."""
        version = data.draw(st.sampled_from(sorted(self.history)))
        self.index.change(lambda base: history.rollback(self.index, base, version, Origin("rollback")))
        self.documents = dict(self.history[version])
        self.recipe = recipe_of(self.index)
        self.remember()

    @precondition(lambda self: self.history)
    @rule(data=st.data(), name=st.sampled_from(["first", "good"]))
    def tag(self, data: st.DataObject, name: str) -> None:
        """Keep a version for good, until the name stands for another."""
        version = data.draw(st.sampled_from(sorted(self.history)))
        self.index.change(lambda base: history.tag(self.index, base, name, version, Origin("tag")))
        self.remember()

    @precondition(lambda self: self.history)
    @rule(versions=st.integers(1, 3))
    def collect(self, versions: int) -> None:
        """What retention does not keep is gone, and nothing else."""
        collect_garbage(self.index, Retention(versions, days=0), time.time_ns() // 1_000_000)
        self.remember()

    @rule()
    def reopen(self) -> None:
        """Forget everything that is not in the store."""
        self.index = Index(self.index.store, self.cache)

    @precondition(lambda self: self.history)
    @rule(query=texts, k=st.integers(1, 5))
    def search(self, query: str, k: int) -> None:
        """The answer is that of brute force over the dictionary, bit for bit, and every hit reads as it was added."""
        vectors = token_vectors(query)
        hits = search(open_snapshot(self.index), vectors, k)
        expected = brute_force(self.recipe, self.documents, vectors)[:k]
        assert [(np.float32(-hit.score), hit.document_id, hit.passage, hit.text) for hit in hits] == expected

    @invariant()
    def the_index_holds_what_the_dictionary_holds(self) -> None:
        """The live documents are those of the dictionary."""
        assert live_texts(self.index) == self.documents
        there = self.index.versions()
        assert [version for version in there if self.index.current().retains(version)] == sorted(self.history)

    def remember(self) -> None:
        head = self.index.current()
        for version in range(max(self.history, default=0) + 1, head.version + 1):  # compaction makes several
            self.history[version] = dict(self.documents)
        self.history = {version: held for version, held in self.history.items() if head.retains(version)}

    def teardown(self) -> None:
        """Every retained version still shows what it showed."""
        try:
            for version, documents in self.history.items():
                assert live_texts(self.index, version) == documents
        finally:
            shutil.rmtree(self.cache, ignore_errors=True)


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(max_examples=20, stateful_step_count=12, deadline=None)
