"""Several queries in the lanes of one launch: each passage's codes are read once for all of them."""

from __future__ import annotations

import torch

from serving.gpu.launches import parts_for, score_all_of_several
from serving.gpu.query import packed_bytes, views
from serving.gpu.replay import Replay
from serving.gpu.resident import Resident

MOST_QUERIES = 8  # of one pass: each has a score of every passage


class SharedStage:
    """Buffers for as many queries as `scores` has rows, in `lanes` lanes together, and the work on them, recorded.

    scores: float32 [queries, P]. best: the highest of each, and the passages that have them, [queries, most].
    edges: int32 [queries + 1], each query's first lane, and one past the last.
    """

    def __init__(self, resident: Resident, lanes: int, scores: torch.Tensor, most: int) -> None:
        """most: how many of the best leave the device."""
        device, queries, self._resident = resident.device, len(scores), resident
        self.scores = scores
        self.packed = torch.zeros(packed_bytes(lanes, resident.dim), dtype=torch.uint8, device=device)
        self.found = torch.zeros(resident.passages, dtype=torch.uint8, device=device)
        self.edges = torch.zeros(queries + 1, dtype=torch.int32, device=device)
        (self._lanes,) = views(self.packed, resident.dim)
        self._parts = parts_for(resident, self._lanes)
        self.best = room_for_best(min(most, resident.passages), device, queries)
        self.score = Replay(self._score, device)

    def _score(self) -> None:
        score_all_of_several(self._resident, self._lanes, self.edges, self.found, self.scores, self._parts)
        torch.topk(self.scores, self.best[0].shape[1], dim=1, sorted=False, out=self.best)


def room_for_best(most: int, device: torch.device, *queries: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where topk puts the highest scores, float32 [..., most], and whose they are, int64."""
    shape = (*queries, most)
    return torch.empty(shape, device=device), torch.empty(shape, dtype=torch.int64, device=device)
