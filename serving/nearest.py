"""The nearest centroid of token vectors: what a passage is found by, and what k-means is made of.

Looking at all centroids costs more the more text there is, since there are more of them. So where they are many they
are put into groups of near ones, and a vector looks at those of the groups whose centres are the nearest: an inverted
file (Jégou et al. 2011) over centroids. That misses the nearest centroid of one vector in a hundred, and finds one
nearly as near (docs/decisions/0003). A few vectors look at all: that is quicker than making groups.

Vectors and centroids are rounded to 8 bits, as in a search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index_format.codebook import Codebook
from index_format.codec import Codec
from serving.kernels import native
from serving.kernels.calls import address, aligned, in_threads, padded
from serving.kernels.levels import Level, best_level
from serving.scoring import MOST_BLOCKS, CodedCentroids, round_to_levels

GROUPED = 8192  # centroids, those of a million tokens: from there on groups are worth it
PROBES = 16  # groups that a vector looks at
_WORTH = 8  # vectors for each group, from which on making groups is less than looking at all centroids
_ROUNDS = 6  # of k-means, by which centroids come to groups
_AT_ONCE = 16384  # vectors, so that each group has some
_FILLINGS = 32  # of all registers, arranged at once


class NearestCentroids:
    """Finds the nearest of some centroids. Safe to use from several threads."""

    def __init__(self, centroids: CodedCentroids, *, threads: int = 1, level: Level | None = None) -> None:
        self._centroids, self._threads, self._level = centroids, threads, level or best_level()
        self._groups: _Groups | None = None

    def find(self, vectors: NDArray[np.float32]) -> NDArray[np.uint32]:
        """The nearest centroid of token vectors float32 [T, D], or one nearly as near: uint32 [T]."""
        groups = self._groups_for(len(vectors))
        if groups is None:
            return nearest_of_all(vectors, self._centroids, threads=self._threads, level=self._level)
        ids = np.empty(len(vectors), np.uint32)
        for first in range(0, len(vectors), _AT_ONCE):
            own = slice(first, first + _AT_ONCE)
            ids[own] = groups.find(_Rounded.of(vectors[own]), self._threads, self._level)
        return ids

    def _groups_for(self, vectors: int) -> _Groups | None:
        """The groups, where it is worth making them for so many vectors, or they are made already."""
        count = len(self._centroids.codes)
        if self._groups is None and count >= GROUPED and vectors >= _WORTH * groups_of(count):
            self._groups = _Groups.of(self._centroids, self._threads, self._level)
        return self._groups


def groups_of(centroids: int) -> int:
    """In how many groups so many centroids come: twice the root of their number, up to a power of two."""
    return 1 << (int(2 * centroids**0.5) - 1).bit_length()


def nearest_of_all(
    vectors: NDArray[np.float32], centroids: CodedCentroids, *, threads: int = 1, level: Level | None = None
) -> NDArray[np.uint32]:
    """The nearest centroid of token vectors float32 [T, D], after a look at each: uint32 [T]; of equals, the first."""
    level = level or best_level()
    size = MOST_BLOCKS * level.lanes
    ids = np.empty(len(vectors), np.uint32)

    def find(first: int, last: int) -> None:
        for at in range(first * size, last * size, _FILLINGS * size):
            own = slice(at, min(at + _FILLINGS * size, last * size))
            filled = _Rounded.of(vectors[own]).filled(level)
            ids[own] = _nearest(filled, centroids.codes, centroids.scales, centroids.half_norms, level)[0]

    in_threads(find, -(-len(vectors) // size), threads)
    return ids


@dataclass(frozen=True, slots=True)
class _Filled:
    """Vectors in the lanes of registers, `count` of them, and zeros in those that are left.

    query: int8 [fillings, D/4, blocks, 4 · lanes]. corrections: int32, halves: float32, both [fillings · all lanes].
    """

    count: int
    query: NDArray[np.int8]
    corrections: NDArray[np.int32]
    halves: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Rounded:
    """Vectors on 8-bit levels. levels: int8 [T, D up to a multiple of 4]. corrections: 255 · Σ levels, int32 [T].

    halves: half of each one's scale, float32 [T].
    """

    levels: NDArray[np.int8]
    corrections: NDArray[np.int32]
    halves: NDArray[np.float32]

    @staticmethod
    def of(vectors: NDArray[np.float32]) -> _Rounded:
        levels, scales = round_to_levels(vectors)
        whole = np.zeros((len(levels), -(-levels.shape[1] // 4) * 4), np.int8)
        whole[:, : levels.shape[1]] = levels
        return _Rounded(whole, (255 * levels.sum(axis=1)).astype(np.int32), scales * np.float32(0.5))

    def take(self, rows: NDArray[np.integer]) -> _Rounded:
        """Some of them, in the order of their numbers `rows`."""
        return _Rounded(self.levels[rows], self.corrections[rows], self.halves[rows])

    def filled(self, level: Level) -> _Filled:
        """As a kernel takes them."""
        size = MOST_BLOCKS * level.lanes
        fillings = -(-len(self.levels) // size)
        fours = padded(self.levels.view(np.int32), fillings * size)
        arranged = fours.reshape(fillings, MOST_BLOCKS, level.lanes, -1).transpose(0, 3, 1, 2)
        return _Filled(
            count=len(self.levels),
            query=aligned(arranged).view(np.int8),
            corrections=padded(self.corrections, fillings * size),
            halves=padded(self.halves, fillings * size),
        )


def _nearest(
    filled: _Filled,
    codes: NDArray[np.uint8],
    scales: NDArray[np.float16],
    half_norms: NDArray[np.float32],
    level: Level,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The nearest centroid of each vector, int32 [count], and how near: float32 [count]."""
    ids, values = np.empty(len(filled.halves), np.int32), np.empty(len(filled.halves), np.float32)
    native.nearest_kernel(level, MOST_BLOCKS)(
        len(filled.query),
        len(codes),
        codes.shape[1],
        address(codes),
        address(scales),
        address(half_norms),
        address(filled.query),
        address(filled.corrections),
        address(filled.halves),
        address(ids),
        address(values),
    )
    return ids[: filled.count], values[: filled.count]


@dataclass(frozen=True, slots=True)
class _Groups:
    """Centroids in groups of near ones.

    centres: of the groups. members: int64 [C], ids by group and ascending in each, those of group g from starts[g] to
    starts[g + 1]. codes, scales, half_norms: of the centroids, in the order of `members`.
    """

    centres: CodedCentroids
    members: NDArray[np.int64]
    starts: NDArray[np.int64]
    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    half_norms: NDArray[np.float32]

    @staticmethod
    def of(centroids: CodedCentroids, threads: int, level: Level) -> _Groups:
        """The groups of some centroids, which follow from them alone."""
        count, dim = centroids.codes.shape
        wanted = groups_of(count)
        vectors = Codec(np.zeros(dim, np.float32), 8).decompress(centroids.codes, centroids.scales)
        middles = vectors[:: count // wanted][:wanted].copy()
        for _ in range(_ROUNDS):
            centres = CodedCentroids.of(Codebook.of(middles))
            own = nearest_of_all(vectors, centres, threads=threads, level=level)
            sizes, members = np.bincount(own, minlength=wanted), np.argsort(own, kind="stable")
            filled = np.flatnonzero(sizes)  # a group without centroids stays where it is
            sums = np.add.reduceat(vectors[members], (np.cumsum(sizes) - sizes)[filled])
            middles[filled] = sums / sizes[filled, None]
        return _Groups(
            centres=centres,
            members=members,
            starts=np.concatenate([[0], np.cumsum(sizes)]),
            codes=centroids.codes[members],
            scales=centroids.scales[members],
            half_norms=centroids.half_norms[members],
        )

    def find(self, rounded: _Rounded, threads: int, level: Level) -> NDArray[np.uint32]:
        """The nearest of the centroids in the nearest groups of each vector; of equals, the lowest id: uint32 [T]."""
        nearness, least = self._nearness(rounded, threads, level)
        groups, vectors = np.nonzero(nearness >= least)  # by group
        edges = np.searchsorted(groups, np.arange(len(self.starts)))
        ids, values = np.zeros(len(vectors), np.int64), np.full(len(vectors), -np.inf, np.float32)

        def look(first: int, last: int) -> None:
            for group in range(first, last):
                pairs, own = slice(*edges[group : group + 2]), slice(*self.starts[group : group + 2])
                if pairs.start < pairs.stop and own.start < own.stop:
                    filled = rounded.take(vectors[pairs]).filled(level)
                    among, values[pairs] = _nearest(
                        filled, self.codes[own], self.scales[own], self.half_norms[own], level
                    )
                    ids[pairs] = self.members[own][among]

        in_threads(look, len(edges) - 1, threads)
        best = np.full(len(rounded.halves), -np.inf, np.float32)
        np.maximum.at(best, vectors, values)
        is_best = values == best[vectors]
        found = np.full(len(best), len(self.members), np.int64)
        np.minimum.at(found, vectors[is_best], ids[is_best])
        return found.astype(np.uint32)

    def _nearness(
        self, rounded: _Rounded, threads: int, level: Level
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """How near each vector is to the centre of each group, float32 [G, T], and to the last one that counts: [T]."""
        count, size = len(self.centres.codes), MOST_BLOCKS * level.lanes
        filled = rounded.filled(level)
        values = np.empty((len(filled.query), count, size), np.float32)
        least = np.empty(len(filled.halves), np.float32)
        half_norms = np.where(np.diff(self.starts) > 0, self.centres.half_norms, np.float32(np.inf))
        kernel = native.nearness_kernel(level, MOST_BLOCKS, PROBES)

        def score(first: int, last: int) -> None:
            for at in range(first, last):
                kernel(
                    count,
                    self.centres.codes.shape[1],
                    address(self.centres.codes),
                    address(self.centres.scales),
                    address(half_norms),
                    address(filled.query[at]),
                    address(filled.corrections[at * size :]),
                    address(filled.halves[at * size :]),
                    address(values[at]),
                    address(least[at * size :]),
                )

        in_threads(score, len(values), threads)
        return values.transpose(1, 0, 2).reshape(count, -1)[:, : filled.count], least[: filled.count]
