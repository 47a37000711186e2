"""Scores on a GPU for `serving.search`, which asks a processor and a GPU the same things and gets the same scores.

Hits are the same too where both score the same passages; a GPU scores more of an index whole (EXHAUSTIVE_BYTES).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from index_format.codec import Codec
from serving.approximate import CodedCentroids
from serving.candidates import Approximate, ApproximateScores, CountedScores, Found, Scored
from serving.gpu.launches import Approximations, approximate, parts_for, score_all, score_chosen
from serving.gpu.query import MOST_VECTORS, bucket, pack, packed_bytes, views
from serving.gpu.replay import Replay
from serving.gpu.resident import Resident, upload
from serving.gpu.shared import MOST_QUERIES, SharedStage, room_for_best
from serving.scorer import QueryScorer, Recall
from serving.scoring import Query, edges_of, join, prepare_query
from serving.sharing import share

if TYPE_CHECKING:
    from index_format.segment import SegmentReader

_MOST_HITS = 1024  # the highest scores that leave the device, where no more are asked for: a server asks for fewer
_MASKS = 8  # selections of passages that stay on the device
_BYTE = 255
_READING = 9  # what reading a passage's codes costs, in lanes that are scored (docs/decisions/0028)

EXHAUSTIVE_BYTES: dict[Recall, float] = {"fast": 1e9, "balanced": 6e9, "exact": np.inf}
"""Codes of at most so many bytes are scored whole, when all are in the device's memory. At 4 bits an H200 takes half a
millisecond and three for them (docs/decisions/0016), a GPU of a tenth of its speed 5 and 30."""

_HOST_BYTES: dict[Recall, float] = {"fast": 0, "balanced": 0, "exact": np.inf}
"""The same when some codes are in the host's memory, which a bus is in front of."""


class GpuScorer:
    """Scores queries over the passages of one snapshot. One query at a time uses the device."""

    def __init__(self, resident: Resident, codec: Codec, centroids: CodedCentroids) -> None:
        self.resident = resident
        self.exhaustive_bytes: Mapping[Recall, float] = EXHAUSTIVE_BYTES if resident.whole else _HOST_BYTES
        self._codec = codec
        self._centroids = centroids
        self.lock = threading.Lock()
        self._stages: dict[int, Stage] = {}
        self._shared: dict[tuple[int, int], SharedStage] = {}  # by lanes and queries
        self._masks: dict[int, _Mask] = {}

    @staticmethod
    def of(
        segments: Sequence[SegmentReader],
        codec: Codec,
        centroids: CodedCentroids,
        device: str,
        previous: GpuScorer | None = None,
    ) -> GpuScorer:
        """The scorer of a snapshot's segments; what `previous` has uploaded is shared."""
        held = previous.resident if previous else None
        return GpuScorer(upload(segments, codec, centroids, torch.device(device), previous=held), codec, centroids)

    def prepare(self, vectors: NDArray[np.float32], found: NDArray[np.bool_], *, threads: int = 1) -> QueryScorer:  # noqa: ARG002  # threads are a processor's
        """Scores of query vectors float32 [Q, D] over the passages that may be found, bool [P]."""
        return GpuQueryScorer(self, prepare_query(vectors, self._codec), found)

    def stage(self, vectors: int) -> Stage:
        """The buffers and graphs for queries of so many vectors. Call it, and use them, holding `lock`."""
        lanes = bucket(vectors)
        if lanes not in self._stages:
            self._stages[lanes] = Stage(self.resident, lanes)
        return self._stages[lanes]

    def sharing(self, counts: Sequence[int]) -> list[range]:
        """Which neighbours of queries with so many vectors each are scored by one launch."""
        return share(counts, MOST_VECTORS, lambda vectors: _READING + bucket(vectors), most=MOST_QUERIES)

    def best_of_several(
        self,
        queries: Sequence[NDArray[np.float32]],
        found: NDArray[np.bool_],
        k: int,
        *,
        threads: int = 1,  # noqa: ARG002  # threads are a processor's
    ) -> list[Scored]:
        """For each query the best `k` of all passages that may be found, and all that tie with the last of them."""
        prepared = [prepare_query(vectors, self._codec) for vectors in queries]
        joined, edges = join(prepared), edges_of(prepared)
        with self.lock:
            stage = self._shared_stage(int(edges[-1]), len(queries))
            count = self.load(stage, self.packed(joined), found)
            stage.edges.fill_(int(edges[-1]))  # the rows beyond the queries have no lanes
            stage.edges[: len(edges)].copy_(torch.from_numpy(edges))
            stage.score()
            highest, passages = (one.cpu().numpy() for one in stage.best)
            rows = zip(stage.scores[: len(queries)], highest, passages, strict=False)
            return [_best_of_row(*row, k, count) for row in rows]

    def _shared_stage(self, vectors: int, queries: int) -> SharedStage:
        shape = bucket(vectors), 1 << (queries - 1).bit_length()
        if shape not in self._shared:
            lanes, rows = shape
            self._shared[shape] = SharedStage(self.resident, lanes, self._scores_of_several[:rows], _MOST_HITS)
        return self._shared[shape]

    @cached_property
    def _scores_of_several(self) -> Tensor:
        """Room for the scores of as many queries as share a launch, the same for all shapes: float32 [queries, P]."""
        shape = MOST_QUERIES, self.resident.passages
        return torch.empty(shape, dtype=torch.float32, device=self.resident.device)

    def load(self, stage: Stage | SharedStage, packed: Tensor, found: NDArray[np.bool_]) -> int:
        """Bring a packed query, and which passages may be found, to a stage's buffers. Returns how many may be."""
        mask = self._mask(found)
        stage.packed.copy_(packed)
        stage.found.copy_(mask.on_device)
        return mask.count

    def packed(self, query: Query) -> Tensor:
        """A query on the device, in memory of its own."""
        return torch.from_numpy(pack(query, self._centroids)).to(self.resident.device)

    def maxsim(self, packed: Tensor, passages: Tensor) -> Tensor:
        """MaxSim of a packed query and some passages, int64 [n]: float32 [n], on the device. Call it holding `lock`."""
        return score_chosen(self.resident, views(packed, self.resident.dim), passages)

    def _mask(self, found: NDArray[np.bool_]) -> _Mask:
        # By identity: a snapshot keeps its masks, and an entry keeps its array, so that no other takes its id.
        held = self._masks.get(id(found))
        if held is None:
            if len(self._masks) == _MASKS:
                del self._masks[next(iter(self._masks))]
            on_device = torch.from_numpy(found.view(np.uint8).copy()).to(self.resident.device)
            held = self._masks[id(found)] = _Mask(found, on_device, int(np.count_nonzero(found)))
        return held


@dataclass(frozen=True, slots=True)
class _Mask:
    """Which passages may be found, bool [P], the same on the device as uint8, and how many they are."""

    found: NDArray[np.bool_]
    on_device: Tensor
    count: int


class Stage:
    """Buffers for queries of `lanes` vectors, and the work on them, recorded: it always reads and writes the same.

    scores: float32 [P]. best: the highest of them, and the passages that have them, [most].
    """

    def __init__(self, resident: Resident, lanes: int) -> None:
        device, self._resident = resident.device, resident
        self.packed = torch.zeros(packed_bytes(lanes, resident.dim), dtype=torch.uint8, device=device)
        self.found = torch.zeros(resident.passages, dtype=torch.uint8, device=device)
        self._lanes = views(self.packed, resident.dim)
        self.best = room_for_best(min(_MOST_HITS, resident.passages), device)
        self.score = Replay(self._score, device)
        self.approximate = Replay(self._approximate, device)

    @cached_property
    def scores(self) -> Tensor:
        return torch.empty(self._resident.passages, dtype=torch.float32, device=self._resident.device)

    @cached_property
    def _parts(self) -> Tensor:
        return parts_for(self._resident, self._lanes[0])

    @cached_property
    def approximations(self) -> Approximations:
        return Approximations.of(self._resident, _BYTE * len(self._lanes) * self._lanes[0].vectors)

    def _score(self) -> None:
        score_all(self._resident, self._lanes, self.found, self.scores, self._parts)
        torch.topk(self.scores, len(self.best[0]), sorted=False, out=self.best)

    def _approximate(self) -> None:
        approximate(self._resident, self._lanes, self.found, self.approximations)


def _best_of_row(
    scores: Tensor, highest: NDArray[np.float32], passages: NDArray[np.int64], k: int, count: int
) -> Scored:
    """The passages with a score of float32 [P] that reaches the k-th highest. count: how many were scored.

    highest: the highest scores, in no order, and the passages that have them.
    """
    place = len(highest) - min(k, len(highest))
    threshold = float(np.partition(highest, place)[place])
    if threshold > -np.inf and highest.min() >= threshold and len(highest) < len(scores):
        # Others may tie with it, and all that there are may be wanted.
        kept = torch.nonzero(scores >= threshold if k <= len(highest) else scores > -np.inf).squeeze(1)
        return Scored(kept.cpu().numpy(), scores[kept].cpu().numpy(), count)
    reached = np.flatnonzero((highest >= threshold) & (highest > -np.inf))
    order = reached[np.argsort(passages[reached])]
    return Scored(passages[order], highest[order], count)


@dataclass(frozen=True, slots=True)
class GpuQueryScorer:
    """The scores of one query over the passages that may be found."""

    _scorer: GpuScorer
    _query: Query
    _found: NDArray[np.bool_]

    def best(self, k: int) -> Scored:
        """MaxSim of every passage that may be found: the best `k`, and all that tie with the last of them."""
        if not self._found.any():
            return Scored(np.zeros(0, np.int64), np.zeros(0, np.float32), 0)
        with self._scorer.lock:
            stage = self._scorer.stage(len(self._query.vectors))
            count = self._scorer.load(stage, self._scorer.packed(self._query), self._found)
            stage.score()
            highest, passages = (one.cpu().numpy() for one in stage.best)
            return _best_of_row(stage.scores, highest, passages, k, count)

    def approximate(self) -> Approximate:
        """The approximate score of every passage that may be found."""
        if not self._found.any():
            return ApproximateScores.of(np.zeros(0, np.int32), self.maxsim)
        with self._scorer.lock:
            stage, packed = self._scorer.stage(len(self._query.vectors)), self._scorer.packed(self._query)
            self._scorer.load(stage, packed, self._found)
            stage.approximate()
            sums = stage.approximations.sums.clone()  # the next query may come before this one's rounds are over
            histogram = stage.approximations.histogram.cpu().numpy()
        return ApproximateOnDevice(histogram, self._scorer, packed, sums)

    def maxsim(self, passages: NDArray[np.int64]) -> NDArray[np.float32]:
        """MaxSim of some passages, int64 [n] ascending: float32 [n]."""
        if not len(passages):
            return np.zeros(0, np.float32)
        with self._scorer.lock:
            chosen = torch.from_numpy(passages).to(self._scorer.resident.device)
            return self._scorer.maxsim(self._scorer.packed(self._query), chosen).cpu().numpy()


@dataclass(frozen=True)
class ApproximateOnDevice(CountedScores):
    """Approximate scores that stay on the device: only how many have each, and the passages asked for, leave it."""

    _scorer: GpuScorer
    _packed: Tensor
    _sums: Tensor

    def score_between(self, floor: int, ceiling: int) -> Found:
        """The passages with an approximate score from `floor` to `ceiling` - 1, with their exact scores."""
        with self._scorer.lock:
            passages = torch.nonzero((self._sums >= floor) & (self._sums < ceiling)).squeeze(1)
            if not len(passages):
                return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
            scores = self._scorer.maxsim(self._packed, passages)
            return passages.cpu().numpy(), self._sums[passages].cpu().numpy(), scores.cpu().numpy()
