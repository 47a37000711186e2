"""What a search asks for: scores of one query over the passages of one snapshot, on whatever device they are made.

Every device gives the same scores, bit for bit (SPEC §6.2), so the steps of a search are written once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from index_format.codec import Codec
from serving.candidates import Approximate, ApproximateScores, Scored
from serving.kernels.segments import SegmentTable
from serving.scoring import (
    CodedCentroids,
    Query,
    approximate_scores,
    maxsim,
    maxsim_of_several,
    prepare_query,
    sharing,
)

Recall = Literal["fast", "balanced", "exact"]


class QueryScorer(Protocol):
    """Scores of one query over the passages that may be found."""

    def best(self, k: int) -> Scored:
        """MaxSim of every passage that may be found: at least the best `k`, and all that tie with the last of them."""
        ...

    def approximate(self) -> Approximate:
        """The approximate score of every passage that may be found."""
        ...

    def maxsim(self, passages: NDArray[np.int64]) -> NDArray[np.float32]:
        """MaxSim of some passages, int64 [n] ascending: float32 [n]."""
        ...


class Scorer(Protocol):
    """Scores queries over the passages of one snapshot. exhaustive_bytes: up to which size codes are scored whole."""

    exhaustive_bytes: Mapping[Recall, float]

    def prepare(self, vectors: NDArray[np.float32], found: NDArray[np.bool_], *, threads: int = 1) -> QueryScorer:
        """Scores of query vectors float32 [Q, D] over the passages that may be found, bool [P]."""
        ...

    def sharing(self, counts: Sequence[int]) -> list[range]:
        """Which neighbours of queries with so many vectors each gain from being given to `best_of_several` together."""
        ...

    def best_of_several(
        self, queries: Sequence[NDArray[np.float32]], found: NDArray[np.bool_], k: int, *, threads: int = 1
    ) -> list[Scored]:
        """What `best(k)` says of each of the queries that one range of `sharing` has, by one pass over the codes."""
        ...


EXHAUSTIVE_BYTES: dict[Recall, float] = {"fast": 4_000_000, "balanced": 16_000_000, "exact": np.inf}
"""Codes of at most so many bytes are scored whole: 1 and 5 milliseconds on one core (docs/decisions/0003)."""


class CpuScorer:
    """Scores by the kernels of `serving/kernels`."""

    exhaustive_bytes: Mapping[Recall, float] = EXHAUSTIVE_BYTES

    def __init__(self, table: SegmentTable, codec: Codec, centroids: CodedCentroids) -> None:
        self._table = table
        self._codec = codec
        self._centroids = centroids

    def prepare(self, vectors: NDArray[np.float32], found: NDArray[np.bool_], *, threads: int = 1) -> QueryScorer:
        """Scores of query vectors float32 [Q, D] over the passages that may be found, bool [P]."""
        query = prepare_query(vectors, self._codec)
        return CpuQueryScorer(query, self._table, self._codec.row_bytes, self._centroids, found, threads)

    def sharing(self, counts: Sequence[int]) -> list[range]:
        """Which neighbours of queries with so many vectors each gain from being given to `best_of_several` together."""
        return sharing(counts)

    def best_of_several(
        self,
        queries: Sequence[NDArray[np.float32]],
        found: NDArray[np.bool_],
        k: int,  # noqa: ARG002  # all are scored, and the search itself takes the best
        *,
        threads: int = 1,
    ) -> list[Scored]:
        """MaxSim of every passage that may be found, for each query."""
        passages = np.flatnonzero(found)
        prepared = [prepare_query(vectors, self._codec) for vectors in queries]
        scores = maxsim_of_several(prepared, self._table, self._codec.row_bytes, passages, threads=threads)
        return [Scored(passages, own, len(passages)) for own in scores]


@dataclass(frozen=True, slots=True)
class CpuQueryScorer:
    """The scores of one query over the passages that may be found, on `threads` threads."""

    _query: Query
    _table: SegmentTable
    _row_bytes: int
    _centroids: CodedCentroids
    _found: NDArray[np.bool_]
    _threads: int

    def best(self, k: int) -> Scored:  # noqa: ARG002  # all are scored, and the search itself takes the best
        """MaxSim of every passage that may be found."""
        passages = np.flatnonzero(self._found)
        return Scored(passages, self.maxsim(passages), len(passages))

    def approximate(self) -> ApproximateScores:
        """The approximate score of every passage that may be found."""
        scores = approximate_scores(self._query, self._table, self._centroids, self._found, threads=self._threads)
        return ApproximateScores(scores, self.maxsim)

    def maxsim(self, passages: NDArray[np.int64]) -> NDArray[np.float32]:
        """MaxSim of some passages, int64 [n] ascending: float32 [n]."""
        return maxsim(self._query, self._table, self._row_bytes, passages, threads=self._threads)
