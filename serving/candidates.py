"""Which passages get an exact MaxSim: the fewest that are expected to hold the best k.

Passages are taken in the order of their approximate score. After each round, the exact scores of those taken
show how well the approximate score foretells them for this query: a line, and the spread around it. From
that follows how many of the passages left out would have beaten the k-th best. When that is more than the
tolerance, more are taken. So a query whose words the centroids know well is done with a few hundred, and one
whose words they do not know goes on until all are scored.

Everything depends on the passages of the snapshot and their scores alone, never on how they lie in segments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

_GROWTH = 2
_WHOLE_SHARE = 0.5  # when more than this share is wanted, all are scored: the order no longer saves anything
_LEAST_SPREAD = 1e-6
_SPREADS = 8.0  # beyond so many a normal error is none: 6e-16

Score = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Exact scores float32 [n] of passages int64 [n], ascending."""

Found = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]
"""Passages int64 [n] ascending, their approximate scores int32 [n] and their exact ones float32 [n]."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Passages with their exact scores. passages: int64 [n] ascending. scores: float32 [n].

    count: how many passages were scored; those that cannot be among the best may be left out of the arrays.
    """

    passages: NDArray[np.int64]
    scores: NDArray[np.float32]
    count: int


class Approximate(Protocol):
    """Approximate scores of passages, wherever they are. histogram: how many have each score, from 0, int64."""

    @property
    def histogram(self) -> NDArray[np.int64]: ...

    def score_between(self, floor: int, ceiling: int) -> Found:
        """The passages with an approximate score from `floor` to `ceiling` - 1, with their exact scores."""
        ...


@dataclass(frozen=True)
class ApproximateScores:
    """Approximate scores in an array, int32 [P], negative for passages that may not be found.

    score: gives the exact ones.
    """

    scores: NDArray[np.int32]
    score: Score

    @cached_property
    def histogram(self) -> NDArray[np.int64]:
        """How many passages have each score."""
        return np.bincount(self.scores[self.scores >= 0])

    def score_between(self, floor: int, ceiling: int) -> Found:
        """The passages with an approximate score from `floor` to `ceiling` - 1, with their exact scores."""
        passages = np.flatnonzero((self.scores >= floor) & (self.scores < ceiling))
        return passages, self.scores[passages], self.score(passages)


def score_candidates(approximate: Approximate, k: int, *, first: int, tolerance: float) -> Scored:
    """Exact scores of the candidates for the best `k`.

    approximate: of the passages that may be found. first: how many passages are scored at first.
    tolerance: how many of the best k may be expected to be missed, as a share of k.
    """
    histogram = approximate.histogram
    at_least = np.cumsum(histogram[::-1])[::-1]  # passages with this approximate score or a higher one
    total = int(at_least[0]) if len(at_least) else 0
    taken, rough = Scored(np.zeros(0, np.int64), np.zeros(0, np.float32), 0), np.zeros(0, np.int32)
    ceiling = len(histogram)
    wanted = min(total, max(first, k))
    while True:
        if wanted > _WHOLE_SHARE * total:
            wanted = total
        # All that tie with the last one stay: which of them came first would depend on the segments.
        floor = int(np.searchsorted(-at_least, -wanted, side="right")) - 1 if wanted else ceiling
        passages, fresh_rough, scores = approximate.score_between(floor, ceiling)
        taken, rough = _merge(taken, rough, Scored(passages, scores, len(passages)), fresh_rough)
        ceiling = floor
        if len(taken.passages) >= total or len(taken.passages) <= k or tolerance == np.inf:
            return taken
        missed = _expected_beyond(histogram[:ceiling], rough, taken.scores, k)
        if missed <= tolerance * k:
            return taken
        wanted = min(total, _GROWTH * len(taken.passages))


def _merge(
    a: Scored, rough_a: NDArray[np.int32], b: Scored, rough_b: NDArray[np.int32]
) -> tuple[Scored, NDArray[np.int32]]:
    """Both by ascending passages, with their approximate scores in the same order."""
    if not len(a.passages):
        return b, rough_b
    passages = np.concatenate([a.passages, b.passages])
    order = np.argsort(passages)
    scores = np.concatenate([a.scores, b.scores])
    return Scored(passages[order], scores[order], len(passages)), np.concatenate([rough_a, rough_b])[order]


def _expected_beyond(
    left: NDArray[np.int64], approximate: NDArray[np.int32], exact: NDArray[np.float32], k: int
) -> float:
    """How many of the passages left out should score above the k-th best of those taken.

    left: how many passages are left with each approximate score, int64. The exact score is taken as a line
    in the approximate one and a normal error; the error's size is that of the errors above the line, where
    the passages that matter are.
    """
    order = np.lexsort((exact, approximate))  # or the last bit of a sum would depend on the passages' order
    x, y, count = approximate[order].astype(np.float64), exact[order].astype(np.float64), len(exact)
    x_mean, y_mean = x.sum() / count, y.sum() / count
    x -= x_mean
    variance = float((x * x).sum())
    slope = max(0.0, float((x * (y - y_mean)).sum()) / variance) if variance > 0 else 0.0
    errors = np.sort(y - (y_mean + slope * x))
    above = errors[np.searchsorted(errors, 0.0, side="right") :]
    spread = max(float(np.sqrt((above * above).sum() / len(above))) if len(above) else 0.0, _LEAST_SPREAD)
    threshold = float(np.partition(y, count - k)[count - k])
    # Below this score nothing is expected to reach the threshold, and most passages lie there.
    most = max(_SPREADS * spread, float(errors[-1]))
    reached_at = x_mean + (threshold - y_mean - most) / slope if slope > 0 else 0.0
    lowest = int(min(max(0.0, reached_at), len(left)))
    scores = lowest + np.flatnonzero(left[lowest:])
    needed = threshold - (y_mean + slope * (scores - x_mean))
    seen = 1 - np.searchsorted(errors, needed, side="right") / count
    return float((left[scores] * np.maximum(ndtr(-needed / spread), seen)).sum())
