"""What a search asks for: scores of one query over the passages of one snapshot, on whatever device they are made.

Every device gives the same scores, bit for bit (SPEC §6.2), so the steps of a search are written once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from index_format.codec import Codec
from serving.approximate import CodedCentroids, approximate_scores, byte_rows, scan
from serving.bounds import BoundedScores, upper_bounds
from serving.candidates import Approximate, ApproximateScores, Scored
from serving.kernels.segments import SegmentTable
from serving.postings import Postings
from serving.scoring import Query, maxsim, maxsim_of_several, prepare_query, sharing

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


BOUNDED_IDS = 1_000_000
"""Centroid ids of passages that may be found, from which on most are bounded in place of being scanned."""

BOUNDED_EACH = 32
"""Centroid ids that passages have on average, from which on it is worth it: a bound looks at each passage, too, and the
few ids of a short one are looked at as quickly."""

BOUNDED_SHARE = 1 / 8
"""Of all passages: of a smaller share all that may be found are scanned, for bounds look at the postings of all."""


class CpuScorer:
    """Scores by the kernels of `serving/kernels`."""

    exhaustive_bytes: Mapping[Recall, float] = EXHAUSTIVE_BYTES

    def __init__(
        self, table: SegmentTable, codec: Codec, centroids: CodedCentroids, previous: CpuScorer | None = None
    ) -> None:
        """previous: of another version, whose postings are taken where segments are the same."""
        self.table = table
        self.codec = codec
        self.centroids = centroids
        self._before = previous.__dict__.get("postings") if previous else None  # as far as it made any
        self._was_asked = self._before is not None
        self._ids = table.centroid_ids

    @cached_property
    def postings(self) -> Postings:
        """Of all passages; made when first asked for."""
        made = Postings.of(self.table, self.centroids.rows, self._before)
        self._before = None
        return made

    def postings_for(self, found: NDArray[np.bool_]) -> Postings | None:
        """What bounds a search of the passages that may be found, bool [P]; None where all of those are scanned.

        So they are by the first search of all: to make the postings takes as long as many scans.
        """
        share = np.count_nonzero(found) / max(1, len(found))
        if self._ids * share < BOUNDED_IDS or self._ids < BOUNDED_EACH * len(found) or share < BOUNDED_SHARE:
            return None
        was_asked, self._was_asked = self._was_asked, True
        return self.postings if was_asked else None

    def prepare(self, vectors: NDArray[np.float32], found: NDArray[np.bool_], *, threads: int = 1) -> CpuQueryScorer:
        """Scores of query vectors float32 [Q, D] over the passages that may be found, bool [P]."""
        return CpuQueryScorer(self, prepare_query(vectors, self.codec), found, threads)

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
        prepared = [prepare_query(vectors, self.codec) for vectors in queries]
        scores = maxsim_of_several(prepared, self.table, self.codec.row_bytes, passages, threads=threads)
        return [Scored(passages, own, len(passages)) for own in scores]


@dataclass(frozen=True, slots=True)
class CpuQueryScorer:
    """The scores of one query over the passages that may be found, on `threads` threads."""

    _scorer: CpuScorer
    _query: Query
    _found: NDArray[np.bool_]
    _threads: int

    def best(self, k: int) -> Scored:  # noqa: ARG002  # all are scored, and the search itself takes the best
        """MaxSim of every passage that may be found."""
        passages = np.flatnonzero(self._found)
        return Scored(passages, self.maxsim(passages), len(passages))

    def approximate(self) -> Approximate:
        """The approximate score of every passage that may be found, of most only a bound until it matters."""
        postings = self._scorer.postings_for(self._found)
        if postings is None:
            return ApproximateScores.of(self.scan_all(), self.maxsim)
        table, threads = self._scorer.table, self._threads
        rows = byte_rows(self._query, table, self._scorer.centroids, threads=threads)
        bounds = upper_bounds(self._query, table, rows, postings, self._found, threads=threads)
        return BoundedScores(bounds, partial(scan, self._query, table, rows, threads=threads), self.maxsim)

    def scan_all(self) -> NDArray[np.int32]:
        """The approximate score of every passage, int32 [P], -1 where it may not be found."""
        scorer = self._scorer
        return approximate_scores(self._query, scorer.table, scorer.centroids, self._found, threads=self._threads)

    def maxsim(self, passages: NDArray[np.int64]) -> NDArray[np.float32]:
        """MaxSim of some passages, int64 [n] ascending: float32 [n]."""
        return maxsim(self._query, self._scorer.table, self._scorer.codec.row_bytes, passages, threads=self._threads)
