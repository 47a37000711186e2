"""How many passages are scored: few where the approximate score foretells the exact one, all where it does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving.candidates import ApproximateScores, Scored, _Line, score_candidates

PASSAGES = 20_000
K = 10


def _choose(
    approximate: NDArray[np.int32], exact: NDArray[np.float32], *, first: int = 100, tolerance: float = 0.01, k: int = K
) -> Scored:
    def score(passages: NDArray[np.int64]) -> NDArray[np.float32]:
        assert (np.diff(passages) > 0).all()
        return exact[passages]

    return score_candidates(ApproximateScores.of(approximate, score), k, first=first, tolerance=tolerance)


def _scores(noise: float, seed: int = 1) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Approximate and exact scores of many passages: the second is the first in other units, and noise."""
    random = np.random.default_rng(seed)
    approximate = np.clip(random.normal(1000, 150, PASSAGES), 0, None)
    exact = approximate / 100 + noise * random.normal(size=PASSAGES)
    return approximate.astype(np.int32), exact.astype(np.float32)


def _best(exact: NDArray[np.float32]) -> set[int]:
    return set(np.argsort(-exact)[:K].tolist())


def test_a_score_that_foretells_the_exact_one_needs_few_passages() -> None:
    """Hardly more than the first round, and the best are among them."""
    approximate, exact = _scores(noise=0.1)
    scored = _choose(approximate, exact)
    assert len(scored.passages) < 500
    assert _best(exact) <= set(scored.passages.tolist())


@pytest.mark.parametrize("tolerance", [0.2, 0.01])
def test_few_of_the_best_are_missed_whatever_the_noise(tolerance: float) -> None:
    """On average over queries, about as many as the tolerance allows, and fewer passages than all."""
    missed, scored = 0, 0
    for seed in range(20):
        approximate, exact = _scores(noise=1.0, seed=seed)
        found = _choose(approximate, exact, tolerance=tolerance).passages
        missed += len(_best(exact) - set(found.tolist()))
        scored += len(found)
    assert missed / (20 * K) <= 3 * tolerance
    assert scored < 20 * PASSAGES / 2


def test_a_score_that_foretells_nothing_has_all_passages_scored() -> None:
    """As where documents differ in words that no centroid knows."""
    approximate, _ = _scores(noise=0)
    exact = np.random.default_rng(2).normal(size=PASSAGES).astype(np.float32)
    assert len(_choose(approximate, exact, first=400).passages) == PASSAGES


def test_the_order_of_passages_decides_nothing() -> None:
    """To the last bit, or an answer would depend on how passages lie in segments."""
    approximate, exact = _scores(noise=1.0)
    chosen = np.flatnonzero(approximate > 1300)
    left, told = np.bincount(approximate[approximate <= 1300]), set[float]()
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(chosen)
        told.add(_Line.through(approximate[order], exact[order], K).expected(left, 0))
    assert len(told) == 1


def test_a_few_that_stand_out_for_no_reason_are_looked_for() -> None:
    """Two in a hundred score far above the rest whatever their approximate score: the tail is not a normal one."""
    approximate, exact = _scores(noise=0.05)
    exact[np.random.default_rng(3).choice(PASSAGES, PASSAGES // 50, replace=False)] += 20
    assert len(_choose(approximate, exact, first=400).passages) == PASSAGES


@given(
    scores=st.lists(st.integers(-1, 30), max_size=200),
    first=st.integers(1, 50),
    k=st.integers(1, 20),
    tolerance=st.sampled_from([0.0, 0.1, float("inf")]),
)
def test_candidates_are_the_best_by_approximate_score_ties_included(
    scores: list[int], first: int, k: int, tolerance: float
) -> None:
    """Never one that is not allowed, never one without all that score alike or higher, and not too few."""
    approximate = np.array(scores, np.int32)
    exact = np.random.default_rng(len(scores)).normal(size=len(scores)).astype(np.float32)
    scored = _choose(approximate, exact, first=first, k=k, tolerance=tolerance)
    allowed = np.flatnonzero(approximate >= 0)
    assert len(scored.passages) >= min(len(allowed), max(first, k))
    np.testing.assert_array_equal(scored.scores, exact[scored.passages])
    lowest = approximate[scored.passages].min() if len(scored.passages) else 31
    np.testing.assert_array_equal(scored.passages, allowed[approximate[allowed] >= lowest])
