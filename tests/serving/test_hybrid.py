"""BM25 beside MaxSim: over the same passages, whatever the segments, and in step with every version."""

from __future__ import annotations

from pathlib import Path

import bm25s
import numpy as np
import pytest

from index_format.change import Origin
from index_format.compaction import CompactionPolicy, compact_index
from index_format.filters import parse_filter
from index_format.history import rollback
from index_format.index import Index
from serving import word_counts
from serving.bm25 import MOST_WORDS
from serving.hybrid import Fusion, rank_hybrid, rank_words
from serving.search import Hit, Ranking, rank, read_hits
from serving.snapshot import Snapshot, open_snapshot
from serving.words import query_words, words_of
from tests.serving.vectors import Document, Vectors, all_vectors, random_index, random_vectors, write_documents
from tests.strategies import delete, publish

DIM = 16
VOCABULARY = ["amber", "basalt", "cedar", "delta", "ember", "fjord", "glacier", "harbour", "猫", "東京"]
QUERY = "amber fjord glacier 東京 amber"
FUSIONS = [Fusion("rank"), Fusion("weight"), Fusion("weight", 0.2), Fusion("rank", 1.0)]


def _documents(count: int = 40) -> list[Document]:
    rng = np.random.default_rng(5)
    texts = [" ".join(rng.choice(VOCABULARY, size=rng.integers(1, 30))) for _ in range(count)]
    return [
        Document(f"doc-{at:03d}", [random_vectors(rng, 4, DIM)], None, {"number": at}, text)
        for at, text in enumerate(texts)
    ]


DOCUMENTS = _documents()
SAMPLE = all_vectors(DOCUMENTS)


def _vectors() -> Vectors:
    return random_vectors(np.random.default_rng(1), 5, DIM)


def _index(cache: Path, *segments: list[Document]) -> Index:
    return random_index(cache, *segments, sample=SAMPLE)[0]


def _hits(snapshot: Snapshot, fusion: Fusion, below: int | None = None) -> list[Hit]:
    matching = None if below is None else parse_filter({"op": "<", "column": "number", "value": below})
    among = snapshot.select(matching)
    return read_hits(snapshot, rank_hybrid(snapshot, QUERY, _vectors(), 30, fusion=fusion, among=among))


def _spelled(snapshot: Snapshot) -> list[Hit]:
    return read_hits(snapshot, rank_words(snapshot, QUERY, 30))


def test_scores_are_those_of_bm25s(tmp_path: Path) -> None:
    """An independent implementation, given the same words."""
    snapshot = open_snapshot(_index(tmp_path, DOCUMENTS[:7], DOCUMENTS[7:]))
    words = words_of([one.text or "" for one in DOCUMENTS])
    texts = [words.places[start:end].tolist() for start, end in zip(words.offsets, words.offsets[1:], strict=False)]
    peer = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    peer.index([[str(one) for one in text] for text in texts], show_progress=False)
    asked = [str(np.searchsorted(words.numbers, np.uint64(one))) for one in query_words(QUERY)]
    expected = peer.get_scores(asked)
    assert snapshot.words.scores(query_words(QUERY), snapshot.everything) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_segments_and_deleted_documents_change_nothing(tmp_path: Path, fusion: Fusion) -> None:
    """Over one segment, over four with others that are deleted, and after they were joined: the same bits."""
    expected = _hits(open_snapshot(_index(tmp_path, DOCUMENTS[:30])), fusion)
    index = _index(tmp_path, DOCUMENTS[35:], DOCUMENTS[20:33], DOCUMENTS[:1], [*DOCUMENTS[1:20], *DOCUMENTS[33:35]])
    delete(index, *(one.id for one in DOCUMENTS[30:]))
    assert len(expected) == 30
    assert _hits(open_snapshot(index), fusion) == expected
    compact_index(index, CompactionPolicy(alike=2))
    assert len(index.current().segments) < 4
    assert _hits(open_snapshot(index), fusion) == expected


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_filter_answers_as_if_there_were_nothing_else(tmp_path: Path, fusion: Fusion) -> None:
    """So a tenant does not learn from a score which words others have."""
    whole = open_snapshot(_index(tmp_path, DOCUMENTS[:10], DOCUMENTS[10:]))
    assert _hits(whole, fusion, below=17) == _hits(open_snapshot(_index(tmp_path, DOCUMENTS[:17])), fusion)
    assert _hits(whole, fusion, below=0) == []


def test_what_one_side_alone_finds_has_the_scores_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best by words are scored by MaxSim though it would not have brought them, and ranks are of one side each."""
    monkeypatch.setattr("serving.hybrid.DEPTH", 3)
    snapshot = open_snapshot(_index(tmp_path, DOCUMENTS[:25], DOCUMENTS[25:]))
    every = rank(snapshot, _vectors(), len(DOCUMENTS))
    maxsim = dict(zip(every.passages, every.scores, strict=True))
    ranking = rank_hybrid(snapshot, QUERY, _vectors(), 3, fusion=Fusion())
    near, spelled = every.passages[:3], rank_words(snapshot, QUERY, 3).passages
    assert set(ranking.passages) <= {*near, *spelled}
    assert ranking.fused is not None
    for passage, fused, score in zip(ranking.passages, ranking.fused, ranking.scores, strict=True):
        assert fused.maxsim == maxsim[passage]
        ranks = [side.index(passage) + 1 if passage in side else None for side in (near, spelled)]
        assert [fused.maxsim_rank, fused.bm25_rank] == ranks
        assert score == pytest.approx(sum(0.5 / (60 + rank) for rank in ranks if rank))


def test_passages_that_words_alone_found_count_as_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the candidates; where all passages are scored those are among them."""
    monkeypatch.setattr("serving.hybrid.DEPTH", 3)
    monkeypatch.setattr("serving.scorer.EXHAUSTIVE_BYTES", {"fast": 0, "balanced": 0, "exact": np.inf})
    monkeypatch.setattr("serving.scorer.CpuScorer.exhaustive_bytes", {"fast": 0, "balanced": 0, "exact": np.inf})
    monkeypatch.setattr("serving.search.FIRST", 3)
    monkeypatch.setattr("serving.search.FIRST_PER_HIT", 1)
    snapshot = open_snapshot(_index(tmp_path, DOCUMENTS))
    near, spelled = rank(snapshot, _vectors(), 3, recall="fast"), rank_words(snapshot, QUERY, 3)
    alone = set(spelled.passages) - set(near.passages)
    assert alone
    found = rank_hybrid(snapshot, QUERY, _vectors(), 3, fusion=Fusion(), recall="fast")
    assert found.scored == near.scored + len(alone)
    whole = rank_hybrid(snapshot, QUERY, _vectors(), 3, fusion=Fusion(), recall="exact")
    assert whole.scored == len(DOCUMENTS)


def test_a_query_without_a_known_word_is_ranked_by_maxsim_alone(tmp_path: Path) -> None:
    """Also one without any word."""
    snapshot = open_snapshot(_index(tmp_path, DOCUMENTS))
    for query in ("zebra", "?!"):
        assert rank_words(snapshot, query, 10).passages == []
        ranking = rank_hybrid(snapshot, query, _vectors(), 10, fusion=Fusion())
        assert ranking.passages == rank(snapshot, _vectors(), 10).passages


def test_of_a_long_query_the_first_words_count(tmp_path: Path) -> None:
    """Or one question could hold up all others."""
    snapshot = open_snapshot(_index(tmp_path, DOCUMENTS))
    others = " ".join(f"word{number}" for number in range(MOST_WORDS - 1))
    first, beyond = rank_words(snapshot, f"{others} amber", 10), rank_words(snapshot, f"{others} amber fjord", 10)
    assert first.passages
    assert beyond == first


def test_words_are_counted_once_a_segment_on_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new version costs its new segment, a rollback nothing, and neither does opening it all again."""
    made: list[list[str]] = []
    monkeypatch.setattr(word_counts, "words_of", lambda texts: made.append(texts) or words_of(texts))
    index, recipe = random_index(tmp_path, DOCUMENTS[:20], DOCUMENTS[20:30], sample=SAMPLE)
    first = open_snapshot(index)
    before = _spelled(first)
    assert [len(texts) for texts in made] == [20, 10]
    publish(index, recipe, write_documents(index, recipe, DOCUMENTS[30:35]))
    delete(index, "doc-001")
    second = open_snapshot(index, previous=first)
    assert second.has_words
    assert [len(texts) for texts in made] == [20, 10, 5]
    assert _spelled(second) != before
    index.change(lambda base: rollback(index, base, 1, Origin("rollback")))
    assert _spelled(open_snapshot(index, previous=second)) == before
    assert _spelled(open_snapshot(Index(index.store, tmp_path))) == before
    assert [len(texts) for texts in made] == [20, 10, 5]


def test_words_that_were_damaged_on_disk_are_counted_again(tmp_path: Path) -> None:
    """They are no part of the index, so nothing is lost with them."""
    index = _index(tmp_path, DOCUMENTS)
    before = _spelled(open_snapshot(index))
    (kept,) = [path for path in tmp_path.glob("*/*.*") if path.is_file()]
    good = kept.read_bytes()
    kept.write_bytes(good[:-100] + bytes([good[-100] ^ 1]) + good[-99:])
    assert _spelled(open_snapshot(index)) == before
    assert kept.read_bytes() == good


def test_words_need_no_place_to_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that is read in place, on a machine where nothing can be written."""
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    golden = Path(__file__).parent.parent / "golden" / "v1" / "4-bits"
    snapshot = open_snapshot(Index.at(golden))
    live = int(np.flatnonzero(snapshot.live)[0])
    (hit,) = read_hits(snapshot, Ranking([live], [0.0], 0))
    assert live in rank_words(snapshot, hit.text, 10).passages
