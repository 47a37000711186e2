"""One search over one snapshot: what is found, in which order, and that segments make no difference."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from index_format import change
from index_format.change import Origin
from serving.oracle import coded_maxsim
from serving.search import Hit, rank, search
from serving.snapshot import Snapshot, open_snapshot
from tests.serving.vectors import (
    Document,
    Vectors,
    all_vectors,
    make_recipe,
    random_documents,
    random_index,
    random_snapshot,
    random_vectors,
    write_documents,
)
from tests.strategies import delete, publish

PROJECT = Path(__file__).parents[2]
DIM = 16
DOCUMENTS = 60


def _documents(seed: int) -> list[Document]:
    """Sixty documents of one to four passages; every third repeats the one before, so that ties occur."""
    lengths = np.random.default_rng(seed).integers(1, 12, size=(DOCUMENTS, 4))
    made = random_documents(seed, [own[: 1 + number % 4].tolist() for number, own in enumerate(lengths)], DIM)
    for number in range(2, DOCUMENTS, 3):
        made[number] = dataclasses.replace(made[number], passages=made[number - 1].passages)
    return made


def _query(seed: int = 0, count: int = 6) -> Vectors:
    return random_vectors(np.random.default_rng(seed), count, DIM)


def _brute_force(snapshot: Snapshot, query: Vectors) -> list[tuple[np.float32, str, int]]:
    """Score, id and number of every live passage by the oracle, in the order that the format defines."""
    found = []
    for segment in snapshot.segments:
        arrays = segment.codes
        for ordinal in np.flatnonzero(~segment.deleted):
            tokens = slice(int(arrays.offsets[ordinal]), int(arrays.offsets[ordinal + 1]))
            score = coded_maxsim(query, snapshot.codec, arrays.codes[tokens], arrays.scales[tokens])
            document = segment.document_ids[int(segment.document_rows[ordinal])].as_py()
            found.append((score, document, segment.passages["number"][int(ordinal)].as_py()))
    return sorted(found, key=lambda one: (-one[0], one[1], one[2]))


def _places(hits: list[Hit]) -> list[tuple[float, str, int]]:
    return [(hit.score, hit.document_id, hit.passage) for hit in hits]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """All documents in one segment."""
    return random_snapshot(tmp_path_factory.mktemp("cache"), _documents(1))


@pytest.mark.parametrize("k", [1, 10, 1000])
def test_few_passages_are_searched_exhaustively(snapshot: Snapshot, k: int) -> None:
    """Every passage is scored by the oracle's definition, and the best k come in order."""
    assert _places(search(snapshot, _query(), k)) == _brute_force(snapshot, _query())[:k]


def test_more_hits_than_passages_are_all_passages(snapshot: Snapshot) -> None:
    """`k` larger than the index returns the index, each passage once."""
    hits = search(snapshot, _query(), 1000)
    assert len(hits) == len({(hit.document_id, hit.passage) for hit in hits}) == snapshot.manifest.passages


@given(
    seed=st.integers(0, 1000),
    cuts=st.sets(st.integers(1, DOCUMENTS - 1), max_size=6),
    candidates=st.sampled_from([None, 1, 2, 7, 30, 100]),
    k=st.sampled_from([1, 5, 200]),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_search_over_many_segments_is_search_over_one(
    snapshot: Snapshot, tmp_path: Path, seed: int, cuts: set[int], candidates: int | None, k: int
) -> None:
    """Equal ids, spans, texts and scores, bit for bit, exhaustively and through few candidates."""
    documents = _documents(1)
    edges = [0, *sorted(cuts), DOCUMENTS]
    parts = [documents[start:end] for start, end in itertools.pairwise(edges)]
    divided = random_snapshot(tmp_path, *parts, sample=all_vectors(documents))
    query = _query(seed)
    assert search(divided, query, k, candidates=candidates) == search(snapshot, query, k, candidates=candidates)


@given(seed=st.integers(0, 1000), candidates=st.integers(1, 60))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hits_from_candidates_have_their_exact_scores(snapshot: Snapshot, seed: int, candidates: int) -> None:
    """Few candidates may miss a passage, never misscore one, and are at least as many as asked for."""
    query = _query(seed)
    exact = {(document, number): score for score, document, number in _brute_force(snapshot, query)}
    hits = search(snapshot, query, 1000, candidates=candidates)
    assert candidates <= len(hits) <= snapshot.manifest.passages
    assert all(hit.score == exact[hit.document_id, hit.passage] for hit in hits)


def test_the_passage_that_was_asked_for_comes_first_through_few_candidates(snapshot: Snapshot) -> None:
    """A query made of a passage's own vectors finds it among a handful of candidates."""
    for document in _documents(1)[::7]:
        if len(document.passages[0]) > 2:
            best = search(snapshot, document.passages[0], 2, candidates=10)
            assert document.id in {hit.document_id for hit in best}


def test_a_rare_word_finds_its_passage_by_one_candidate(tmp_path: Path) -> None:
    """Passages share common words, and each has a rare one that lies far from every centroid."""
    rng = np.random.default_rng(4)
    common, rare = random_vectors(rng, 16, DIM), random_vectors(rng, 200, DIM)
    documents = [
        Document(f"{number:03d}", [np.concatenate([common[rng.choice(16, 8)], rare[number : number + 1]])])
        for number in range(200)
    ]
    sample = np.concatenate([common, *[document.passages[0] for document in documents]])
    scored = {}
    for share in (0.11, None):
        opened = random_snapshot(tmp_path, documents, sample=sample, outlier_share=share)
        answers = [rank(opened, rare[number : number + 1], 1, candidates=1) for number in range(200)]
        scored[share] = np.mean([one.scored for one in answers])
        if share:
            assert [one.passages for one in answers] == [[number] for number in range(200)]
    assert scored[0.11] < 2
    assert scored[None] > 50  # all that have its centroid, which are as good as one another


def test_ties_are_in_the_order_of_ids_and_passage_numbers(tmp_path: Path) -> None:
    """By code points, not by segment or locale; and the cut at k falls where the order says."""
    same = random_vectors(np.random.default_rng(1), 3, DIM)
    names = ["é", "b", "Z", "a", "a/1", "10", "9", "😀"]
    documents = [Document(name, [same, same]) for name in names]
    sample = np.concatenate([same, _query()])
    expected = [(name, number) for name in ["10", "9", "Z", "a", "a/1", "b", "é", "😀"] for number in (0, 1)]
    for parts in ([documents], [documents[:3], documents[3:4], documents[4:]], [documents[4:], documents[:4]]):
        opened = random_snapshot(tmp_path, *parts, sample=sample)
        for k in (1, 3, 8, 16):
            for candidates in (None, 1, 5):
                hits = search(opened, _query(), k, candidates=candidates)
                assert [(hit.document_id, hit.passage) for hit in hits] == expected[:k]


def test_hits_carry_span_text_title_and_metadata(snapshot: Snapshot) -> None:
    """The text of a hit is exactly its span of the document."""
    documents = {document.id: document for document in _documents(1)}
    for hit in search(snapshot, _query(), 1000):
        document = documents[hit.document_id]
        assert "".join(document.pieces)[hit.start : hit.end] == hit.text == document.pieces[hit.passage]
        assert (hit.title, hit.metadata) == (document.title, document.metadata)


def test_a_document_without_title_and_metadata_has_none(tmp_path: Path) -> None:
    """None and an empty mapping, also beside a segment that has them."""
    plain = [Document("plain", [_query(1)])]
    opened = random_snapshot(tmp_path, plain, random_documents(1, [[3], [4]], DIM))
    hits = {hit.document_id: hit for hit in search(opened, _query(), 10)}
    assert (hits["plain"].title, hits["plain"].metadata) == (None, {})
    assert (hits["doc-001"].title, hits["doc-001"].metadata) == ("Title 1", {"number": 1})


def test_spans_count_code_points(tmp_path: Path) -> None:
    """An id with emoji shifts the second passage by its characters."""
    opened = random_snapshot(tmp_path, [Document("👩\u200d👧 é", [_query(1), _query(2)])])
    assert [hit.text for hit in sorted(search(opened, _query(), 2), key=lambda hit: hit.passage)] == [
        "👩\u200d👧 é passage 0. ",
        "👩\u200d👧 é passage 1. ",
    ]


@pytest.mark.parametrize("candidates", [None, 3, 40])
def test_deleted_passages_are_never_returned(tmp_path: Path, candidates: int | None) -> None:
    """Not one of a deleted document, whatever the candidates; the rest is as if it had never been there."""
    documents = _documents(3)
    index, _ = random_index(tmp_path, documents[:20], documents[20:40], documents[40:])
    gone = {document.id for document in documents[5:25]}
    delete(index, *gone)
    remaining = [document for document in documents if document.id not in gone]
    never_there = random_snapshot(tmp_path, remaining, sample=all_vectors(documents))
    for seed in range(5):
        hits = search(open_snapshot(index), _query(seed), 1000, candidates=candidates)
        assert hits == search(never_there, _query(seed), 1000, candidates=candidates)
        assert gone.isdisjoint(hit.document_id for hit in hits)


def test_an_index_without_documents_has_no_hits(tmp_path: Path) -> None:
    """Everything was deleted: no segment is left, and that is no error."""
    index, _ = random_index(tmp_path, random_documents(1, [[3], [2]], DIM))
    delete(index, "doc-000", "doc-001")
    assert search(open_snapshot(index), _query(), 10) == []


def test_a_query_of_one_vector_finds_its_own_passage(snapshot: Snapshot) -> None:
    """One query vector is a query."""
    document = _documents(1)[0]
    assert search(snapshot, document.passages[0][:1], 1)[0].document_id == document.id


def test_hits_are_read_by_many_threads_at_once() -> None:
    """As the server does it: nothing fails, and each hit has the text of its own document."""
    command = [sys.executable, "-m", "tests.serving.ask_from_threads"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_second_version_shares_the_segments_of_the_first(tmp_path: Path) -> None:
    """Opening after an addition opens what is new; the rest is the same objects."""
    documents = random_documents(1, [[3]] * 4, DIM)
    index, recipe = random_index(tmp_path, documents[:2])
    first = open_snapshot(index)
    publish(index, recipe, write_documents(index, recipe, documents[2:]))
    second = open_snapshot(index, previous=first)
    assert second.segments[0] is first.segments[0]
    assert (id(second.codec), id(second.centroids)) == (id(first.codec), id(first.centroids))
    assert [len(search(one, _query(), 10)) for one in (first, second)] == [2, 4]


def test_a_version_with_another_codebook_has_its_centroids(tmp_path: Path) -> None:
    """Those of the version before it would send queries to other passages."""
    documents = _documents(1)
    index, recipe = random_index(tmp_path, documents)
    first = open_snapshot(index)
    other = make_recipe(
        index, all_vectors(documents)[::-1], bits=4, centroids=16, encoder=recipe.encoder
    ).codebook_record
    change.replace_codebook(index, recipe.codebook_record.id, other, Origin("codebook"))
    second, alone = open_snapshot(index, previous=first), open_snapshot(index)
    assert not np.array_equal(second.centroids.codes, first.centroids.codes)
    assert np.array_equal(second.centroids.codes, alone.centroids.codes)
    assert search(second, _query(), 10, recall="fast") == search(alone, _query(), 10, recall="fast")
