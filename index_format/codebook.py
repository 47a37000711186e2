"""Centroids, which of them each passage touches, and which tokens lie far from all of them (SPEC §5.3).

Centroids only find candidates. No score of a hit depends on them, so they can be trained anew at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from index_format.codec import Codec

_BLOCK = 8192  # tokens assigned at once: bounds the [tokens, centroids] score matrix


@dataclass(frozen=True)
class Codebook:
    """Centroids in 8 bits a dimension. codes: uint8 [C, D]. scales: float16 [C].

    outlier_distance: see CodebookRecord; None where no token is an outlier.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    outlier_distance: float | None = None

    @staticmethod
    def of(centroids: NDArray[np.float32], outlier_distance: float | None = None) -> Codebook:
        """A codebook of centroids float32 [C, D], rounded."""
        return Codebook(*_codec(centroids.shape[1]).compress(centroids), outlier_distance)

    @cached_property
    def centroids(self) -> NDArray[np.float32]:
        """The centroids as all who use them have them, decoded: float32 [C, D]."""
        return _codec(self.codes.shape[1]).decompress(self.codes, self.scales)

    def nearest(self, vectors: NDArray[np.float32]) -> NDArray[np.uint32]:
        """The nearest centroid by Euclidean distance for vectors float32 [T, D]: uint32 [T], ties to the lowest id."""
        half_norms = np.einsum("cd,cd->c", self.centroids, self.centroids) / 2
        ids = np.empty(len(vectors), np.uint32)
        for start in range(0, len(vectors), _BLOCK):
            block = vectors[start : start + _BLOCK]
            ids[start : start + len(block)] = (block @ self.centroids.T - half_norms).argmax(axis=1)
        return ids

    def squared_distances(self, vectors: NDArray[np.float32], ids: NDArray[np.uint32]) -> NDArray[np.float32]:
        """How far vectors float32 [T, D] lie from the centroids of those ids uint32 [T]: float32 [T]."""
        apart = vectors - self.centroids[ids]
        distances: NDArray[np.float32] = np.einsum("td,td->t", apart, apart)
        return distances

    def outliers(self, vectors: NDArray[np.float32], ids: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Which vectors float32 [T, D], whose nearest centroids are `ids` uint32 [T], are outliers: bool [T]."""
        if self.outlier_distance is None:
            return np.zeros(len(vectors), bool)
        return self.squared_distances(vectors, ids) >= self.outlier_distance


def _codec(dim: int) -> Codec:
    return Codec(np.zeros(dim, np.float32), 8)


def distinct_per_passage(
    offsets: NDArray[np.uint32], ids: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Centroid ids of tokens [T] to the distinct ids of each passage, ascending, with their own offsets [P + 1].

    MaxSim ignores token order and repeats, so nothing is lost for the approximate score.
    """
    passages = np.repeat(np.arange(len(offsets) - 1, dtype=np.uint64), np.diff(offsets))
    distinct = np.unique(passages << np.uint64(32) | ids.astype(np.uint64))
    counts = np.bincount((distinct >> np.uint64(32)).astype(np.int64), minlength=len(offsets) - 1)
    return exclusive_sum(counts), (distinct & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def exclusive_sum(lengths: NDArray[np.integer]) -> NDArray[np.uint32]:
    """Lengths [P] to offsets uint32 [P + 1], the first 0 and the last the total."""
    offsets = np.zeros(len(lengths) + 1, np.uint32)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
