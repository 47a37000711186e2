"""Approximate scores of the passages that can matter, and for the rest a bound that they do not exceed.

A query vector looks at the centroids that few others exceed, and their postings tell which passages touch them
(`postings.py`). Every other centroid of a passage counts as if it were as good as the last of those: that is a bound on
the passage's approximate score, and a close one, since a passage of a hundred tokens touches one nearly as good. So the
passages with the highest approximate scores are among few with the highest bounds, and only those are scanned. What
comes of it is what a scan of all passages gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from serving.approximate import ByteRows
from serving.candidates import Found, Score, highest_reached
from serving.kernels import native
from serving.kernels.calls import address, in_threads
from serving.kernels.segments import SegmentTable
from serving.postings import Postings
from serving.scoring import Query

_SPARE = 3  # times as many passages are scanned as are wanted, at first: their bounds are in another order
_FURTHER = 2  # times as many as were scanned, where those do not tell enough

Scan = Callable[[NDArray[np.int64]], NDArray[np.int32]]
"""Approximate scores int32 [n] of passages int64 [n], ascending."""


def upper_bounds(
    query: Query,
    table: SegmentTable,
    rows: list[ByteRows],
    postings: Postings,
    allowed: NDArray[np.bool_],
    *,
    threads: int = 1,
) -> NDArray[np.int32]:
    """For each passage that is allowed, what its approximate score does not exceed: int32 [P], else -1."""
    bounds = allowed.astype(np.int32) - 1
    for own in rows:
        floors, keys = _probes(query, own)
        gains = _gains(query, keys, postings, threads)
        kernel = native.bounds_kernel(query.level, own.blocks)
        arrays = address(table.rows), address(floors), address(own.outliers), address(gains), address(bounds)

        def add(first: int, last: int, kernel: native.Kernel = kernel, arrays: tuple[int, ...] = arrays) -> None:
            kernel(first, last, *arrays)

        in_threads(add, len(bounds), threads)
    return bounds


def _gains(query: Query, keys: NDArray[np.int64], postings: Postings, threads: int) -> NDArray[np.int32]:
    """What each passage's best centroids exceed the floors by, as `kernels/bounds.py` has it: int32 [P]."""
    gains = np.zeros(postings.firsts[-1], np.int32)
    kernel = native.gains_kernel(query.level)

    def add(first: int, last: int) -> None:
        for block, start in zip(postings.blocks[first:last], postings.firsts[first:last], strict=True):
            arrays = address(block.starts), address(block.passages), address(gains[start:])
            kernel(address(keys), len(keys), *arrays)

    in_threads(add, len(postings.blocks), threads)
    return gains


def _probes(query: Query, rows: ByteRows) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The floor of each column uint8 [columns], and the keys of the centroids above them (`kernels/bounds.py`)."""
    count, columns = rows.centroids.shape
    wanted = 3 * isqrt(count) // 4
    floors, keys, found = np.empty(columns, np.uint8), np.empty(columns * wanted, np.int64), np.zeros(1, np.int64)
    arrays = address(floors), address(keys), address(found)
    native.probes_kernel(query.level, rows.blocks)(count, address(rows.centroids), wanted, *arrays)
    return floors, np.sort(keys[: found[0]])


@dataclass
class BoundedScores:
    """Approximate scores that are found out as far down as they are asked for.

    bounds: int32 [P], of each passage that may be found, negative for the others. scan: gives approximate scores.
    score: gives the exact ones.
    """

    bounds: NDArray[np.int32]
    scan: Scan
    score: Score
    _scores: NDArray[np.int32] = field(init=False)
    _known: int = field(init=False)  # from this score on, all are known
    _bounded: NDArray[np.int64] = field(init=False)  # how many passages have each bound

    def __post_init__(self) -> None:
        self._scores = np.full(len(self.bounds), -1, np.int32)
        self._bounded = np.bincount(self.bounds + 1)[1:]
        self._known = len(self._bounded)

    @property
    def total(self) -> int:
        """How many passages may be found."""
        return int(self._bounded.sum())

    def reached_by(self, wanted: int) -> int:
        """The highest approximate score that at least `wanted` passages reach."""
        looked_at = _SPARE * wanted
        while True:
            lowest = self._bound_of(looked_at)
            self._know(lowest)
            known = self._counted(lowest)
            if known.sum() >= wanted:
                return lowest + highest_reached(known, wanted)
            looked_at *= 2

    def limits(self, lowest: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many passages have each score, from `lowest` on: those that were scanned, and all by their bounds."""
        least = self._counted(lowest)
        bounded = self._bounded[lowest : self._known]
        most = np.zeros(max(len(least), len(bounded)), np.int64)
        most[: len(least)] += least
        most[: len(bounded)] += bounded
        return least, most

    def know_more(self, lowest: int) -> None:
        """Scan as many passages again as were scanned, or all down to `lowest`."""
        scanned = int(self._bounded[self._known :].sum())
        self._know(max(lowest, self._bound_of(_FURTHER * max(scanned, 1))))

    def score_between(self, floor: int, ceiling: int) -> Found:
        """The passages with an approximate score from `floor` to `ceiling` - 1, with their exact scores."""
        self._know(floor)
        passages = np.flatnonzero((self._scores >= floor) & (self._scores < ceiling))
        return passages, self._scores[passages], self.score(passages)

    def _bound_of(self, count: int) -> int:
        """A bound that so many passages reach; 0 where all are wanted."""
        return highest_reached(self._bounded, count) if count < self.total else 0

    def _know(self, lowest: int) -> None:
        """Scan what could have an approximate score from `lowest` on, and was not scanned yet."""
        if lowest < self._known:
            passages = np.flatnonzero((self.bounds >= lowest) & (self.bounds < self._known))
            self._scores[passages] = self.scan(passages)
            self._known = lowest

    def _counted(self, lowest: int) -> NDArray[np.int64]:
        return np.bincount(self._scores[self._scores >= lowest] - lowest)
