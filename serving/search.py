"""The steps of one search over one snapshot, in the order in which they run.

1. Score all centroids against the query's vectors, and the tokens that lie far from every centroid.
2. Approximate score of every passage that may be found, from those of them that it has.
3. Candidates: the best of them over all segments together, as many as this query needs (candidates.py).
4. MaxSim of the candidates on their codes.
5. The best k by score, then by document id, then by place in the document.

Where few enough passages may be found for the `recall` asked for, 1 to 3 are skipped and all of them are scored: that
misses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise, repeat

import numpy as np
from numpy.typing import NDArray

from index_format.segment import SegmentReader
from serving.candidates import Scored, score_candidates
from serving.matches import Selection
from serving.scorer import QueryScorer
from serving.scorer import Recall as Recall  # the servers and the command line take it from here
from serving.snapshot import Snapshot

MAX_K = 1000
TOLERANCE: dict[Recall, float] = {"fast": 0.2, "balanced": 0.01, "exact": 0.0}
"""The share of the best k that may be expected to be missed by candidates (candidates.py)."""

FIRST = 256
FIRST_PER_HIT = 4
"""How many candidates are scored before it is known how many a query needs."""


@dataclass(frozen=True, slots=True)
class Fused:
    """What the two sides of a hybrid search say of a passage: their scores, and its rank among the best of each.

    Ranks count from 1, and are None where a side does not have it among its best. bm25 is 0 without a common word.
    """

    maxsim: float
    maxsim_rank: int | None
    bm25: float
    bm25_rank: int | None


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that a search found. `start` and `end` count characters of the document's text.

    score: MaxSim, or of a hybrid search what was made of both sides, which are in `fused`.

    >>> from colonnade import Collection
    >>> animals = Collection("animals-index")
    >>> change = animals.add([{"id": "bees", "title": "Bees", "text": "They make honey.", "legs": 6}])
    >>> hit = animals.search("Who makes something sweet?")[0]
    >>> hit.document_id, hit.passage, hit.title, hit.text, hit.metadata
    ('bees', 0, 'Bees', 'They make honey.', {'legs': 6})
    """

    document_id: str
    passage: int
    score: float
    start: int
    end: int
    title: str | None
    text: str
    metadata: dict[str, object]
    fused: Fused | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best passages of a snapshot, best first. scored: how many passages got a MaxSim.

    fused: of a hybrid search, what each side says of each.
    """

    passages: list[int]
    scores: list[float]
    scored: int
    fused: list[Fused] | None = None

    def after(self, offset: int) -> Ranking:
        """The same without the best `offset`."""
        fused = None if self.fused is None else self.fused[offset:]
        return Ranking(self.passages[offset:], self.scores[offset:], self.scored, fused)


def search(
    snapshot: Snapshot,
    vectors: NDArray[np.float32],
    k: int,
    *,
    recall: Recall = "balanced",
    candidates: int | None = None,
    among: Selection | None = None,
    threads: int = 1,
) -> list[Hit]:
    """The best `k` passages for query vectors float32 [Q, D], with their texts. Parameters as in `rank`."""
    ranking = rank(snapshot, vectors, k, recall=recall, candidates=candidates, among=among, threads=threads)
    return read_hits(snapshot, ranking)


def rank(
    snapshot: Snapshot,
    vectors: NDArray[np.float32],
    k: int,
    *,
    recall: Recall = "balanced",
    candidates: int | None = None,
    among: Selection | None = None,
    threads: int = 1,
    prepared: QueryScorer | None = None,
) -> Ranking:
    """The best `k` passages for query vectors float32 [Q, D].

    recall: "exact" scores every passage; "balanced" and "fast" do so up to a size, and beyond it stop when few of the
    best k can be missing.
    candidates: score this many instead, and those that tie with the last of them.
    among: the passages that may be found (`Snapshot.select`), all live ones by default. Their number alone decides
    how they are searched, so a filter that leaves few is as quick as a small index. threads: for this query.
    prepared: what scores the query, in place of the snapshot's own scorer.
    """
    among = snapshot.everything if among is None else among
    if not among.passages:
        return Ranking([], [], 0)
    prepared = prepared or snapshot.scorer.prepare(vectors, among.mask, threads=threads)
    if candidates is None and is_scored_whole(snapshot, among, recall):
        scored = prepared.best(k)
    else:
        first, tolerance = (candidates, np.inf) if candidates else (max(FIRST, FIRST_PER_HIT * k), TOLERANCE[recall])
        scored = score_candidates(prepared.approximate(), k, first=first, tolerance=tolerance)
    passages, scores = best_of(snapshot, scored, k)
    return Ranking(passages, scores, scored.count)


def is_scored_whole(snapshot: Snapshot, among: Selection, recall: Recall) -> bool:
    """Whether a search scores all passages that it may find."""
    return among.tokens * snapshot.codec.row_bytes <= snapshot.scorer.exhaustive_bytes[recall]


def best_of(snapshot: Snapshot, scored: Scored, k: int) -> tuple[list[int], list[float]]:
    """The best k by score, then by document id, then by place in the document."""
    passages, scores = scored.passages, scored.scores
    if k < len(scores):
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        passages, scores = passages[scores >= threshold], scores[scores >= threshold]
    order = np.argsort(-scores, kind="stable")
    ranked, ordered = passages[order].tolist(), scores[order]
    edges = [0, *(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1).tolist(), len(ranked)]
    for start, stop in pairwise(edges):
        if stop - start > 1:  # ids are looked up where they decide
            ranked[start:stop] = sorted(ranked[start:stop], key=partial(_identity, snapshot))
    return ranked[:k], ordered[:k].tolist()


def _identity(snapshot: Snapshot, passage: int) -> tuple[str, int]:
    segment, ordinal = snapshot.place(passage)
    return segment.document_id(ordinal), int(segment.numbers[ordinal])


def read_hits(snapshot: Snapshot, ranking: Ranking) -> list[Hit]:
    """Ids, spans, titles, texts and metadata of ranked passages."""
    places = [snapshot.place(passage) for passage in ranking.passages]
    wanted: dict[SegmentReader, set[int]] = {}
    for segment, ordinal in places:
        wanted.setdefault(segment, set()).add(int(segment.document_rows[ordinal]))
    documents = {
        (segment, row): document
        for segment, rows in wanted.items()
        for row, document in zip(sorted(rows), segment.read_documents(sorted(rows)), strict=True)
    }
    return [
        _hit(segment, ordinal, documents[segment, int(segment.document_rows[ordinal])], score, fused)
        for (segment, ordinal), score, fused in zip(
            places, ranking.scores, ranking.fused or repeat(None, len(places)), strict=True
        )
    ]


def _hit(segment: SegmentReader, ordinal: int, document: dict[str, object], score: float, fused: Fused | None) -> Hit:
    start, end = segment.span(ordinal)
    metadata = document.get("metadata") or {}
    assert isinstance(metadata, dict)
    return Hit(
        document_id=segment.document_id(ordinal),
        passage=int(segment.numbers[ordinal]),
        score=score,
        start=start,
        end=end,
        title=document["title"],  # type: ignore[arg-type]  # the column's type is in the schema
        text=str(document["text"])[start:end],
        metadata=metadata,
        fused=fused,
    )
