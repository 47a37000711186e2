"""Search within a filter: what may not be found costs nothing and is never seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from index_format.errors import InputError
from index_format.filters import Filter, parse_filter
from serving.search import Hit, rank, search
from serving.snapshot import Snapshot, open_snapshot
from tests.serving.vectors import Document, Vectors, random_documents, random_index, random_snapshot, random_vectors
from tests.strategies import delete

DIM = 16


def _documents(count: int = 60) -> list[Document]:
    lengths = np.random.default_rng(0).integers(1, 12, size=(count, 3)).tolist()
    return random_documents(0, lengths, DIM)


def _query(seed: int = 0) -> Vectors:
    return random_vectors(np.random.default_rng(seed), 6, DIM)


def _below(number: int) -> Filter:
    return parse_filter({"op": "<", "column": "number", "value": number})


def _numbers(hits: list[Hit]) -> set[object]:
    return {hit.metadata["number"] for hit in hits}


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    """Sixty documents of three passages in three segments."""
    documents = _documents()
    return random_snapshot(tmp_path, documents[:10], documents[10:11], documents[11:])


@pytest.mark.parametrize("candidates", [None, 200])
@pytest.mark.parametrize("number", [1, 11, 35, 60])
def test_a_filtered_search_is_the_whole_one_without_the_rest(
    snapshot: Snapshot, number: int, candidates: int | None
) -> None:
    """Same hits, same scores, in the same order; the filter cuts across segments."""
    among = snapshot.select(_below(number))
    every = search(snapshot, _query(), 1000)
    expected = [hit for hit in every if hit.metadata["number"] in range(number)]
    assert search(snapshot, _query(), 1000, among=among, candidates=candidates) == expected
    assert search(snapshot, _query(), 5, among=among, candidates=candidates) == expected[:5]


def test_candidates_are_taken_among_what_may_be_found(snapshot: Snapshot) -> None:
    """Few candidates are all from within the filter, so a filter never uses them up."""
    hits = search(snapshot, _query(), 1000, among=snapshot.select(_below(5)), candidates=3)
    assert 3 <= len(hits) <= 15
    assert _numbers(hits) <= set(range(5))


@pytest.mark.parametrize("candidates", [None, 3])
def test_a_filter_that_matches_nothing_finds_nothing(snapshot: Snapshot, candidates: int | None) -> None:
    """No hit, and no passage scored."""
    ranking = rank(snapshot, _query(), 10, among=snapshot.select(_below(0)), candidates=candidates)
    assert (ranking.passages, ranking.scored) == ([], 0)


def test_no_more_is_scored_than_the_filter_leaves(snapshot: Snapshot) -> None:
    """The cost follows what may be found, not what there is."""
    assert rank(snapshot, _query(), 10, among=snapshot.select(_below(4))).scored == 12
    assert rank(snapshot, _query(), 10).scored == snapshot.manifest.passages


def test_a_filter_follows_deletions_from_version_to_version(tmp_path: Path) -> None:
    """What matched is remembered with the segments, what is deleted is not."""
    documents = _documents(20)
    index, _ = random_index(tmp_path, documents[:10], documents[10:])
    first = open_snapshot(index)
    assert _numbers(search(first, _query(), 1000, among=first.select(_below(12)))) == set(range(12))
    delete(index, "doc-003", "doc-011")
    second = open_snapshot(index, previous=first)
    assert _numbers(search(second, _query(), 1000, among=second.select(_below(12)))) == set(range(12)) - {3, 11}
    assert _numbers(search(first, _query(), 1000, among=first.select(_below(12)))) == set(range(12))


def test_a_repeated_filter_is_not_worked_out_again(snapshot: Snapshot) -> None:
    """The very same selection, also for another spelling of the same expression."""
    spelled = parse_filter('{"value": 7, "column": "number", "op": "<"}')
    assert snapshot.select(_below(7)) is snapshot.select(spelled)


def test_segments_without_the_column_match_only_null(tmp_path: Path) -> None:
    """As if the value were absent, which it is."""
    plain = [Document("plain", [_query(1)])]
    opened = random_snapshot(tmp_path, plain, _documents(3))
    null = parse_filter({"op": "is_null", "column": "number"})
    assert [hit.document_id for hit in search(opened, _query(), 10, among=opened.select(null))] == ["plain"]
    assert _numbers(search(opened, _query(), 10, among=opened.select(_below(9)))) == {0, 1, 2}


def test_an_unknown_column_is_refused(snapshot: Snapshot) -> None:
    """Rather than to find nothing, which would look like an answer."""
    with pytest.raises(InputError, match="no column 'numbr'"):
        snapshot.select(parse_filter({"op": "==", "column": "numbr", "value": 1}))


def test_an_index_without_documents_takes_any_filter(tmp_path: Path) -> None:
    """Its columns went with its documents."""
    index, _ = random_index(tmp_path, random_documents(1, [[3]], DIM))
    delete(index, "doc-000")
    empty = open_snapshot(index)
    assert search(empty, _query(), 10, among=empty.select(_below(3))) == []
