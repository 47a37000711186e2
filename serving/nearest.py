"""The nearest centroid of token vectors: what a passage is found by, and what k-means is made of.

Looking at all centroids costs more the more text there is, since there are more of them. So where they are many they
are put into groups of near ones, and a vector looks at those of the groups whose centres are the nearest: an inverted
file (Jégou et al. 2011) over centroids. That misses the nearest centroid of one vector in a hundred, and finds one
nearly as near (docs/decisions/0003). A few vectors look at all: that is quicker than making groups.

Vectors and centroids are rounded to 8 bits, as in a search.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from index_format.codebook import Codebook
from index_format.codec import Codec
from serving.approximate import CodedCentroids
from serving.kernels import native
from serving.kernels.calls import address, aligned, in_threads, padded
from serving.kernels.levels import Level, best_level
from serving.scoring import MOST_BLOCKS, round_to_levels

GROUPED = 8192  # centroids, those of a million tokens: from there on groups are worth it
PROBES = 16  # groups that a vector looks at
_WORTH = 8  # vectors for each group, from which on making groups is less than looking at all centroids
_ROUNDS = 6  # of k-means, by which centroids come to groups
_AT_ONCE = 4096  # vectors: each group has some, and how near they are to all groups stays in memory that is near
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

        def find(first: int, last: int) -> None:
            for at in range(first, last, _AT_ONCE):
                own = slice(at, min(at + _AT_ONCE, last))
                ids[own] = groups.find(_Rounded.of(vectors[own]), self._level)

        in_threads(find, len(vectors), self._threads)
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
    size, kernel = MOST_BLOCKS * level.lanes, native.nearest_kernel(level, MOST_BLOCKS)
    ids = np.empty(len(vectors), np.uint32)

    def find(first: int, last: int) -> None:
        for at in range(first * size, last * size, _FILLINGS * size):
            own = slice(at, min(at + _FILLINGS * size, last * size))
            filled = _Rounded.of(vectors[own]).filled(level)
            found = np.empty(len(filled.halves), np.int32)
            kernel(len(centroids.codes), *_of(centroids), *filled.arguments, address(found))
            ids[own] = found[: filled.count]

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

    @property
    def arguments(self) -> tuple[int, ...]:
        """As kernels take them."""
        return len(self.query), address(self.query), address(self.corrections), address(self.halves)


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
        return _Rounded(whole, 255 * levels.sum(axis=1).astype(np.int32), scales * np.float32(0.5))

    def filled(self, level: Level) -> _Filled:
        """All of them in lanes."""
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


def _of(centroids: CodedCentroids) -> tuple[int, ...]:
    """Centroids as kernels take them."""
    codes, scales, half_norms = centroids.codes, centroids.scales, centroids.half_norms
    return codes.shape[1], address(codes), address(scales), address(half_norms)


@dataclass(frozen=True, slots=True)
class _Groups:
    """Centroids in groups of near ones.

    centres: of the groups; nothing is near one without centroids. members: int32 [C], ids by group and ascending in
    each, those of group g from starts[g] to starts[g + 1], int64. centroids: in the order of `members`.
    """

    centres: CodedCentroids
    members: NDArray[np.int32]
    starts: NDArray[np.int64]
    centroids: CodedCentroids

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
        arrays = {name: getattr(centroids, name)[members] for name in ("codes", "scales", "half_norms")}
        return _Groups(
            centres=replace(centres, half_norms=np.where(sizes > 0, centres.half_norms, np.float32(np.inf))),
            members=members.astype(np.int32),
            starts=np.concatenate([[0], np.cumsum(sizes)]),
            centroids=replace(centroids, **arrays),
        )

    def find(self, rounded: _Rounded, level: Level) -> NDArray[np.int32]:
        """The nearest of the centroids in the nearest groups of each vector; of equals, the lowest id: int32 [T]."""
        filled, groups, count = rounded.filled(level), len(self.starts) - 1, len(rounded.halves)
        nearness = np.empty((groups, len(filled.halves)), np.float32)
        least = np.empty(len(filled.halves), np.float32)
        nearness_kernel = native.nearness_kernel(level, MOST_BLOCKS, PROBES)
        nearness_kernel(groups, *_of(self.centres), *filled.arguments, address(nearness), address(least))
        words = rounded.levels.shape[1] // 4
        chosen, work = np.empty(count, np.int32), aligned(np.empty((words + 4, MOST_BLOCKS * level.lanes), np.int32))
        best, ids = np.full(count, -np.inf, np.float32), np.full(count, len(self.members), np.int32)
        native.nearest_in_groups_kernel(level, MOST_BLOCKS)(
            groups,
            address(self.starts),
            address(self.members),
            *_of(self.centroids),
            count,
            words,
            address(rounded.levels),
            address(rounded.corrections),
            address(rounded.halves),
            nearness.shape[1],
            address(nearness),
            address(least),
            address(chosen),
            address(work),
            address(best),
            address(ids),
        )
        return ids
