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
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

_GROWTH = 2
_WHOLE_SHARE = 0.5  # when more than this share is wanted, all are scored: the order no longer saves anything
_LEAST_SPREAD = 1e-6
_NEGLIGIBLE = 0.001  # passages: so many may be expected among those that are not looked at for what they may be worth

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
    """Approximate scores of the passages that may be found, wherever they are; integers from 0 on."""

    @property
    def total(self) -> int:
        """How many passages may be found."""
        ...

    def reached_by(self, wanted: int) -> int:
        """The highest score that at least `wanted` passages reach; 0 < wanted <= total."""
        ...

    def limits(self, lowest: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many passages have each score, from `lowest` on, as far as is known: at the least, and at the most.

        The first has those whose scores are known, the second the others too, each with a score that its own is not
        above. Where all are known they are the same.
        """
        ...

    def know_more(self, lowest: int) -> None:
        """Find out more scores, the highest first. After some calls all from `lowest` on are known."""
        ...

    def score_between(self, floor: int, ceiling: int) -> Found:
        """The passages with an approximate score from `floor` to `ceiling` - 1, with their exact scores."""
        ...


def highest_reached(histogram: NDArray[np.int64], wanted: int) -> int:
    """The highest place of a histogram such that at least `wanted` lie there or beyond."""
    beyond = np.cumsum(histogram[::-1])
    return len(histogram) - 1 - int(np.searchsorted(beyond, wanted))


@dataclass(frozen=True)
class CountedScores:
    """The part of `Approximate` that follows from how many passages have each score, from 0, int64."""

    counts: NDArray[np.int64]

    @property
    def total(self) -> int:
        """How many passages may be found."""
        return int(self.counts.sum())

    def reached_by(self, wanted: int) -> int:
        """The highest score that at least `wanted` passages reach."""
        return highest_reached(self.counts, wanted)

    def limits(self, lowest: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many passages have each score, from `lowest` on: the same twice."""
        return self.counts[lowest:], self.counts[lowest:]

    def know_more(self, lowest: int) -> None:
        """All is known."""


@dataclass(frozen=True)
class ApproximateScores(CountedScores):
    """Approximate scores in an array, int32 [P], negative for passages that may not be found.

    score: gives the exact ones.
    """

    scores: NDArray[np.int32]
    score: Score

    @staticmethod
    def of(scores: NDArray[np.int32], score: Score) -> ApproximateScores:
        """With the counts that follow from them."""
        return ApproximateScores(np.bincount(scores[scores >= 0]), scores, score)

    def score_between(self, floor: int, ceiling: int) -> Found:
        """The passages with an approximate score from `floor` to `ceiling` - 1, with their exact scores."""
        passages = np.flatnonzero((self.scores >= floor) & (self.scores < ceiling))
        return passages, self.scores[passages], self.score(passages)


def score_candidates(approximate: Approximate, k: int, *, first: int, tolerance: float) -> Scored:
    """Exact scores of the candidates for the best `k`.

    approximate: of the passages that may be found. first: how many passages are scored at first.
    tolerance: how many of the best k may be expected to be missed, as a share of k.
    """
    taken, rough = Scored(np.zeros(0, np.int64), np.zeros(0, np.float32), 0), np.zeros(0, np.int32)
    total, ceiling = approximate.total, np.iinfo(np.int32).max
    wanted = min(total, max(first, k))
    while len(taken.passages) < total:
        if wanted > _WHOLE_SHARE * total:
            wanted = total
        # All that tie with the last one stay: which of them came first would depend on the segments.
        floor = approximate.reached_by(wanted)
        passages, fresh_rough, scores = approximate.score_between(floor, ceiling)
        taken, rough = _merge(taken, rough, Scored(passages, scores, len(passages)), fresh_rough)
        ceiling = floor
        if len(taken.passages) <= k or tolerance == np.inf:
            break
        if _is_enough(approximate, ceiling, _Line.through(rough, taken.scores, k), tolerance * k):
            break
        wanted = min(total, _GROWTH * len(taken.passages))
    return taken


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


@dataclass(frozen=True, slots=True)
class _Line:
    """The exact score as a line in the approximate one and a normal error.

    The error's size, `spread`, is that of the errors above the line, where the passages that matter are. errors:
    float64, as seen, ascending. threshold: the k-th best exact score.
    """

    x_mean: float
    y_mean: float
    slope: float
    errors: NDArray[np.float64]
    spread: float
    threshold: float

    @staticmethod
    def through(rough: NDArray[np.int32], exact: NDArray[np.float32], k: int) -> _Line:
        """The line through passages with these approximate and exact scores."""
        order = np.lexsort((exact, rough))  # or the last bit of a sum would depend on the passages' order
        x, y, count = rough[order].astype(np.float64), exact[order].astype(np.float64), len(exact)
        x_mean, y_mean = float(x.sum()) / count, float(y.sum()) / count
        x -= x_mean
        variance = float((x * x).sum())
        slope = max(0.0, float((x * (y - y_mean)).sum()) / variance) if variance > 0 else 0.0
        errors = np.sort(y - (y_mean + slope * x))
        above = errors[np.searchsorted(errors, 0.0, side="right") :]
        spread = max(float(np.sqrt((above * above).sum() / len(above))) if len(above) else 0.0, _LEAST_SPREAD)
        return _Line(x_mean, y_mean, slope, errors, spread, float(np.partition(y, count - k)[count - k]))

    def lowest_that_matters(self, total: int) -> int:
        """The approximate score below which next to none of `total` passages is expected to reach the threshold."""
        if self.slope == 0:
            return 0
        most = max(-float(ndtri(_NEGLIGIBLE / total)) * self.spread, float(self.errors[-1]))
        return int(max(0.0, self.x_mean + (self.threshold - self.y_mean - most) / self.slope))

    def expected(self, left: NDArray[np.int64], lowest: int) -> float:
        """How many passages are expected to reach the threshold. left: how many have each score, from `lowest` on."""
        places = np.flatnonzero(left)
        needed = self.threshold - (self.y_mean + self.slope * (lowest + places - self.x_mean))
        seen = 1 - np.searchsorted(self.errors, needed, side="right") / len(self.errors)
        return float((left[places] * np.maximum(ndtr(-needed / self.spread), seen)).sum())


def _is_enough(approximate: Approximate, ceiling: int, line: _Line, missed: float) -> bool:
    """Whether at most `missed` of the passages with approximate scores below `ceiling` should reach the threshold."""
    lowest = min(ceiling, line.lowest_that_matters(approximate.total))
    while True:
        least, most = (line.expected(one[: ceiling - lowest], lowest) for one in approximate.limits(lowest))
        if most <= missed or least > missed:
            return most <= missed
        approximate.know_more(lowest)
