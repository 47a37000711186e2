"""ColBERT's codec, to hold ours against: the nearest centroid, and the residual in buckets of equal frequency.

As ColBERTv2 and PLAID have it (colbert/indexing/codecs/residual.py and collection_indexer.py): 2^⌊log2(16·√T)⌋
centroids, or as many as the sample can train by faiss's rule; bucket borders and values are quantiles of the
residuals of vectors held out, one table for all dimensions; a restored vector has length 1.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index_format.codebook import Codebook
from serving.approximate import CodedCentroids
from serving.nearest import nearest_of_all
from tasks.train_codebook import kmeans

CENTROID_BYTES = 4  # an int32 id beside the residual of each token
_HELD_OUT = 0.05
_LEAST_PER_CENTROID = 39  # vectors of the sample; faiss warns below


@dataclass(frozen=True, slots=True)
class Buckets:
    """One width. borders: float32 [2^bits - 1]. values: float32 [2^bits]."""

    bits: int
    borders: NDArray[np.float32]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class QuantileResidual:
    """The codec in several widths, which share their centroids float32 [C, D]."""

    centroids: NDArray[np.float32]
    coded: CodedCentroids
    widths: list[Buckets]

    def token_bytes(self, bits: int) -> int:
        return int(self.centroids.shape[1]) * bits // 8 + CENTROID_BYTES

    def restored(self, vectors: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Vectors float32 [T, D] after compression and decompression, in each width."""
        nearest = self.centroids[_nearest(vectors, self.coded)]
        residuals = vectors - nearest
        made = [nearest + one.values[np.searchsorted(one.borders, residuals)] for one in self.widths]
        return [np.asarray(one / np.linalg.norm(one, axis=1, keepdims=True), np.float32) for one in made]


def fit(sample: NDArray[np.float32], tokens: int, widths: tuple[int, ...]) -> QuantileResidual:
    """The codec for a collection of `tokens` vectors, of which float32 [n, D] are a sample."""
    held_out = np.random.default_rng(0).random(len(sample)) < _HELD_OUT
    wanted = max(1, min(int(16 * tokens**0.5), int((~held_out).sum()) // _LEAST_PER_CENTROID))
    centroids = kmeans(sample[~held_out], 1 << (wanted.bit_length() - 1))
    coded = CodedCentroids.of(Codebook.of(centroids))
    residuals = sample[held_out] - centroids[_nearest(sample[held_out], coded)]
    return QuantileResidual(centroids, coded, [_buckets(bits, residuals) for bits in widths])


def _buckets(bits: int, residuals: NDArray[np.float32]) -> Buckets:
    count = 2**bits
    borders = np.quantile(residuals, np.arange(1, count) / count).astype(np.float32)
    values = np.quantile(residuals, (np.arange(count) + 0.5) / count).astype(np.float32)
    return Buckets(bits, borders, values)


def _nearest(vectors: NDArray[np.float32], coded: CodedCentroids) -> NDArray[np.uint32]:
    return nearest_of_all(vectors, coded, threads=os.cpu_count() or 1)
