"""ColBERT's codec, to hold ours against: the nearest centroid, and the residual in buckets of equal frequency.

As ColBERTv2 and PLAID have it (colbert/indexing/codecs/residual.py and collection_indexer.py): 2^⌊log2(16·√T)⌋
centroids; bucket borders and values are quantiles of the residuals of vectors held out, one table for all dimensions;
a restored vector has length 1.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.scoring import CodedCentroids, nearest_centroids
from tasks.train_codebook import kmeans

CENTROID_BYTES = 4  # an int32 id beside the residual of each token
_HELD_OUT = 0.05


@dataclass(frozen=True, slots=True)
class QuantileResidual:
    """centroids: float32 [C, D]. borders: float32 [2^bits - 1]. values: float32 [2^bits]."""

    bits: int
    centroids: NDArray[np.float32]
    coded: CodedCentroids
    borders: NDArray[np.float32]
    values: NDArray[np.float32]

    @property
    def token_bytes(self) -> int:
        return self.centroids.shape[1] * self.bits // 8 + CENTROID_BYTES

    def restored(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors float32 [T, D] after compression and decompression."""
        nearest = self.centroids[_nearest(vectors, self.coded)]
        buckets = np.searchsorted(self.borders, vectors - nearest)
        made = nearest + self.values[buckets]
        return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


def fit(sample: NDArray[np.float32], tokens: int, widths: tuple[int, ...]) -> list[QuantileResidual]:
    """A codec of each width for a collection of `tokens` vectors, of which float32 [n, D] are a sample."""
    held_out = np.random.default_rng(0).random(len(sample)) < _HELD_OUT
    wanted = min(int(16 * tokens**0.5), int((~held_out).sum()))
    centroids = kmeans(sample[~held_out], 1 << (wanted.bit_length() - 1))
    coded = CodedCentroids.of(centroids)
    residuals = sample[held_out] - centroids[_nearest(sample[held_out], coded)]
    return [_of_width(bits, centroids, coded, residuals) for bits in widths]


def _of_width(
    bits: int, centroids: NDArray[np.float32], coded: CodedCentroids, residuals: NDArray[np.float32]
) -> QuantileResidual:
    buckets = 2**bits
    borders = np.quantile(residuals, np.arange(1, buckets) / buckets).astype(np.float32)
    values = np.quantile(residuals, (np.arange(buckets) + 0.5) / buckets).astype(np.float32)
    return QuantileResidual(bits, centroids, coded, borders, values)


def _nearest(vectors: NDArray[np.float32], coded: CodedCentroids) -> NDArray[np.uint32]:
    return nearest_centroids(vectors, coded, threads=os.cpu_count() or 1)
