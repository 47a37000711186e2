"""The steps of one search over one snapshot, in the order in which they run.

1. Score all centroids against the query's vectors.
2. Approximate score of every live passage, from its centroids.
3. Candidates: the best of them over all segments together, so that the number of segments changes no answer.
4. MaxSim of the candidates on their codes.
5. The best k by score, then by document id, then by place in the document.

A snapshot of at most a million tokens, or with no more live passages than candidates, skips 1 to 3 and is
searched exhaustively: that misses nothing, and takes about half a second at that size (docs/decisions/0003).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.scoring import Query, approximate_scores, centroid_scores, maxsim, prepare_query
from serving.snapshot import Snapshot

MAX_K = 1000
LEAST_CANDIDATES = 1024
CANDIDATES_PER_HIT = 16
EXHAUSTIVE_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that a search found. `start` and `end` count characters of the document's text."""

    document_id: str
    passage: int
    score: float
    start: int
    end: int
    title: str | None
    text: str
    metadata: dict[str, object]


@dataclass(frozen=True, slots=True)
class _Ranked:
    segment: int
    ordinal: int
    score: np.float32
    document_id: str
    passage: int


def search(snapshot: Snapshot, vectors: NDArray[np.float32], k: int, *, candidates: int | None = None) -> list[Hit]:
    """The best `k` passages for query vectors float32 [Q, D].

    candidates: how many passages get an exact MaxSim; more is slower and surer. By default all of a small
    snapshot, and `max(1024, 16 k)` of a larger one.
    """
    query = prepare_query(vectors, snapshot.codec)
    chosen = _candidates(snapshot, query, candidates or _default_candidates(snapshot, k))
    scores = [
        maxsim(query, snapshot.codec, segment, ordinals)
        for segment, ordinals in zip(snapshot.segments, chosen, strict=True)
    ]
    return _read_hits(snapshot, _rank(snapshot, chosen, scores, k))


def _default_candidates(snapshot: Snapshot, k: int) -> int:
    records = snapshot.manifest.segments
    if sum(record.tokens for record in records) <= EXHAUSTIVE_TOKENS:
        return sum(record.passages for record in records)
    return max(LEAST_CANDIDATES, CANDIDATES_PER_HIT * k)


def _candidates(snapshot: Snapshot, query: Query, limit: int) -> list[NDArray[np.int64]]:
    """Ordinals of the candidates in each segment."""
    live = [np.flatnonzero(~segment.deleted) for segment in snapshot.segments]
    if sum(map(len, live)) <= limit:
        return live
    scores_CQ = centroid_scores(query, snapshot.codebook.centroids)
    scores = [approximate_scores(scores_CQ, s)[o] for s, o in zip(snapshot.segments, live, strict=True)]
    threshold = _kth_best(scores, limit)
    # Ties at the threshold all stay: which of them came first would depend on the segments.
    return [ordinals[own >= threshold] for ordinals, own in zip(live, scores, strict=True)]


def _kth_best(scores: list[NDArray[np.float32]], k: int) -> np.float32:
    everything = np.concatenate(scores)
    if k >= len(everything):
        return np.float32(-np.inf)
    threshold: np.float32 = np.partition(everything, len(everything) - k)[len(everything) - k]
    return threshold


def _rank(
    snapshot: Snapshot, chosen: list[NDArray[np.int64]], scores: list[NDArray[np.float32]], k: int
) -> list[_Ranked]:
    if not scores:
        return []
    threshold = _kth_best(scores, k)
    ranked = []
    for number, (segment, ordinals, own) in enumerate(zip(snapshot.segments, chosen, scores, strict=True)):
        for place in np.flatnonzero(own >= threshold):
            ordinal = int(ordinals[place])
            document_id = segment.document_ids[int(segment.document_rows[ordinal])].as_py()
            passage = segment.passages["number"][ordinal].as_py()
            ranked.append(_Ranked(number, ordinal, own[place], document_id, passage))
    ranked.sort(key=lambda one: (-one.score, one.document_id, one.passage))
    return ranked[:k]


def _read_hits(snapshot: Snapshot, ranked: list[_Ranked]) -> list[Hit]:
    documents: dict[tuple[int, int], dict[str, object]] = {}
    for number in {one.segment for one in ranked}:
        segment = snapshot.segments[number]
        rows = sorted({int(segment.document_rows[one.ordinal]) for one in ranked if one.segment == number})
        for row, document in zip(rows, segment.read_documents(rows), strict=True):
            documents[number, row] = document
    return [_hit(snapshot, one, documents) for one in ranked]


def _hit(snapshot: Snapshot, one: _Ranked, documents: dict[tuple[int, int], dict[str, object]]) -> Hit:
    segment = snapshot.segments[one.segment]
    document = documents[one.segment, int(segment.document_rows[one.ordinal])]
    start, end = (segment.passages[name][one.ordinal].as_py() for name in ("start", "end"))
    metadata = document.get("metadata") or {}
    assert isinstance(metadata, dict)
    return Hit(
        document_id=one.document_id,
        passage=one.passage,
        score=float(one.score),
        start=start,
        end=end,
        title=document["title"],  # type: ignore[arg-type]  # the column's type is in the schema
        text=str(document["text"])[start:end],
        metadata=metadata,
    )
