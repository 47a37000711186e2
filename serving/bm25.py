"""BM25 of a query over the passages of a snapshot that may be found, as Lucene has it.

Statistics are those of the passages that may be found: never of one segment, so that segments change nothing; without
the deleted ones, as if they had never been; and within a filter as if there were nothing else, so that a tenant learns
nothing of the words of others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from serving.matches import Selection
from serving.word_counts import WordCounts

K1 = 1.2
B = 0.75
MOST_WORDS = 128
"""Different words of a query that are looked up, the first of them: each may be in every passage."""


@dataclass(frozen=True)
class SnapshotWords:
    """The words of a snapshot's segments, in their order. firsts: int64 [S + 1], the first passage of each."""

    segments: Sequence[WordCounts]
    firsts: NDArray[np.int64]

    @cached_property
    def lengths(self) -> NDArray[np.float64]:
        """The words of each passage: float64 [P]."""
        if not self.segments:
            return np.zeros(0)
        return np.concatenate([one.lengths for one in self.segments]).astype(np.float64)

    def scores(self, query: Sequence[int], among: Selection) -> NDArray[np.float32]:
        """BM25 of each passage for the words of a query: float32 [P], 0 without any, and for what may not be found."""
        scores = np.zeros(len(self.lengths))
        if not query or not among.passages:
            return scores.astype(np.float32)
        total = float(self.lengths[among.mask].sum())  # of whole numbers, so their order does not matter
        average = max(1.0, total / among.passages)
        damping = self.lengths * (K1 * B / average) + K1 * (1 - B)
        for word, times in islice(Counter(query).items(), MOST_WORDS):
            passages, counts = self._among(word, among)
            rarity = np.log(1 + (among.passages - len(passages) + 0.5) / (len(passages) + 0.5))
            scores[passages] += times * rarity * counts / (counts + damping[passages])
        return scores.astype(np.float32)

    def _among(self, word: int, among: Selection) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The passages that may be found and have a word, int64 [n], and how often, float64 [n]."""
        found = [one.of(word) for one in self.segments]
        passages = np.concatenate([first + own for first, (own, _) in zip(self.firsts, found, strict=False)])
        counts = np.concatenate([own for _, own in found]).astype(np.float64)
        kept = among.mask[passages]
        return passages[kept], counts[kept]
