"""Two rankings made into one: MaxSim, which knows what words mean, and BM25, which knows how they are spelled.

The best of both sides are put together, and each gets the scores of both. By rank, a passage is worth
w / (60 + its rank) on the one side and (1 - w) / (60 + its rank) on the other, and nothing on a side that does not
have it among its best. By weight, the scores of each side are spread from 0 to 1 over what was put together, and
added w to 1 - w.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serving.candidates import Scored
from serving.matches import Selection
from serving.scorer import Recall
from serving.search import Fused, Ranking, best_of, is_scored_whole, rank
from serving.snapshot import Snapshot
from serving.words import query_words

DEPTH = 100
"""How many of the best of each side are put together; as many as are asked for, where those are more.

What is put together decides the order, so a further page may not reach beyond it: it would be of another order.
"""

_RANK_OFFSET = 60.0  # of reciprocal rank fusion, as its authors have it


@dataclass(frozen=True, slots=True)
class Fusion:
    """How two sides become one. weight: the share of MaxSim, from 0 to 1; the rest is BM25's."""

    by: Literal["rank", "weight"] = "rank"
    weight: float = 0.5


def rank_words(snapshot: Snapshot, text: str, k: int, *, among: Selection | None = None) -> Ranking:
    """The best `k` passages by BM25 alone, of those that have a word of the query. Parameters as in `rank`."""
    among = snapshot.everything if among is None else among
    return _rank_scores(snapshot, snapshot.words.scores(query_words(text), among), k)


def rank_hybrid(
    snapshot: Snapshot,
    text: str,
    vectors: NDArray[np.float32],
    k: int,
    *,
    fusion: Fusion,
    recall: Recall = "balanced",
    among: Selection | None = None,
    threads: int = 1,
) -> Ranking:
    """The best `k` passages for a text and its vectors float32 [Q, D], and what each side says of them.

    Parameters as in `rank`. A passage is scored by MaxSim if either side has it among its best.
    """
    among = snapshot.everything if among is None else among
    depth = max(DEPTH, k)
    near = rank(snapshot, vectors, depth, recall=recall, among=among, threads=threads)
    scores = snapshot.words.scores(query_words(text), among)
    spelled = _rank_scores(snapshot, scores, depth)
    passages = np.array(sorted({*near.passages, *spelled.passages}), np.int64)
    if not len(passages):
        return near
    alone = np.setdiff1d(passages, near.passages)
    maxsim = dict(zip(near.passages, near.scores, strict=True))
    if len(alone):
        scorer = snapshot.scorer.prepare(vectors, among.mask, threads=threads)
        maxsim |= dict(zip(alone.tolist(), scorer.maxsim(alone).tolist(), strict=True))
    scored = near.scored + (0 if is_scored_whole(snapshot, among, recall) else len(alone))
    sides = _sides(passages.tolist(), near, spelled, maxsim, scores)
    best, fused = best_of(snapshot, Scored(passages, _fuse(list(sides.values()), fusion), len(passages)), k)
    return Ranking(best, fused, scored, [sides[passage] for passage in best])


def _rank_scores(snapshot: Snapshot, scores: NDArray[np.float32], k: int) -> Ranking:
    found = np.flatnonzero(scores)
    passages, best = best_of(snapshot, Scored(found, scores[found], len(found)), k)
    return Ranking(passages, best, 0)


def _sides(
    passages: list[int], near: Ranking, spelled: Ranking, maxsim: Mapping[int, float], bm25: NDArray[np.float32]
) -> dict[int, Fused]:
    ranks, spelled_ranks = ({one: at for at, one in enumerate(side.passages, 1)} for side in (near, spelled))
    return {one: Fused(maxsim[one], ranks.get(one), float(bm25[one]), spelled_ranks.get(one)) for one in passages}


def _fuse(sides: list[Fused], fusion: Fusion) -> NDArray[np.float32]:
    """One score for each: float32 [n]."""
    if fusion.by == "rank":
        near = np.array([_reciprocal(one.maxsim_rank) for one in sides])
        spelled = np.array([_reciprocal(one.bm25_rank) for one in sides])
    else:
        near = _spread(np.array([one.maxsim for one in sides]))
        spelled = _spread(np.array([one.bm25 for one in sides]))
    return (fusion.weight * near + (1 - fusion.weight) * spelled).astype(np.float32)


def _reciprocal(rank: int | None) -> float:
    return 0.0 if rank is None else 1 / (_RANK_OFFSET + rank)


def _spread(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 0 for the lowest to 1 for the highest; all 0 where they are alike."""
    lowest, highest = scores.min(), scores.max()
    spread: NDArray[np.float64] = (scores - lowest) / (highest - lowest or 1.0)
    return spread
