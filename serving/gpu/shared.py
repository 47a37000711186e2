"""Several queries in the lanes of one launch: each passage's codes are read once for all of them."""

from __future__ import annotations

import torch

from serving.gpu.launches import SLAB, score_all_of_several
from serving.gpu.query import packed_bytes, views
from serving.gpu.replay import Replay
from serving.gpu.resident import Resident

MOST_QUERIES = 8  # of one pass: each has a score of every passage


class SharedStage:
    """Buffers for as many queries as `scores` has rows, in `lanes` lanes together, and the work on them, recorded.

    scores: float32 [queries, P]. thresholds: float32 [queries, 1], the score of the last of the best `wanted` of each.
    edges: int32 [queries + 1], each query's first lane, and one past the last.
    """

    def __init__(self, resident: Resident, lanes: int, scores: torch.Tensor, most: int) -> None:
        """most: how many of the best are put in order."""
        device, queries, self._resident = resident.device, len(scores), resident
        self.scores = scores
        self.packed = torch.zeros(packed_bytes(lanes, resident.dim), dtype=torch.uint8, device=device)
        self.found = torch.zeros(resident.passages, dtype=torch.uint8, device=device)
        self.edges = torch.zeros(queries + 1, dtype=torch.int32, device=device)
        self.wanted = torch.zeros(1, dtype=torch.int64, device=device)
        self.thresholds = torch.zeros((queries, 1), dtype=torch.float32, device=device)
        (self._lanes,) = views(self.packed, resident.dim)
        self._parts = torch.empty(min(resident.passages, SLAB) * lanes, dtype=torch.float32, device=device)
        self._most = min(most, resident.passages)
        self.score = Replay(self._score, device)

    def _score(self) -> None:
        score_all_of_several(self._resident, self._lanes, self.edges, self.found, self.scores, self._parts)
        best = torch.topk(self.scores, self._most, dim=1).values
        torch.index_select(best, 1, self.wanted, out=self.thresholds)
