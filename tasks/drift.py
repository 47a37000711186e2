"""How well the codebook of an index still fits what came after it was trained.

Drift costs no correctness and no score: codes are direct. It costs candidates, because passages are found by
their centroids. Token vectors that lie far from every centroid are found later, or not at all.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index_format import keys
from index_format.codec import Codec
from index_format.index import Index
from index_format.manifest import Manifest, SegmentRecord
from index_format.segment import map_codes
from serving.scoring import CodedCentroids, nearest_centroids
from tasks.prefect_task import as_task

LIMIT = 1.25
"""A segment has drifted when its vectors lie this much farther from their centroids than the codebook's own."""

LEAST_TOKENS_PER_CENTROID = 16  # below, a codebook has learned its tokens by heart, and all others lie far from it
_SAMPLE = 2048  # token vectors of a segment
_MOST = 32  # segments of each kind that are looked at, the newest
_TAIL = 95.0
_SEED = 20


@dataclass(frozen=True, slots=True)
class SegmentDrift:
    """One segment against the codebook.

    own: the codebook was trained on it. distance and tail: the mean and the 95th percentile of squared distances to
    the nearest centroid. quantisation: root mean square error of the codes, where a vector has length 1.
    ratio: the distance, in those of the codebook's own segments; None where there are none, or too small ones.
    """

    segment: str
    own: bool
    tokens: int
    distance: float
    tail: float
    quantisation: float
    ratio: float | None

    @property
    def drifted(self) -> bool:
        return not self.own and self.ratio is not None and self.ratio > LIMIT


def measure_drift(address: str, version: int) -> list[SegmentDrift]:
    """The newest segments of a version, and the newest that its codebook was trained on, oldest first."""
    index = Index.at(address)
    manifest = index.version(version)
    codec, book = index.codec(manifest), index.codebook(manifest).centroids
    coded = CodedCentroids.of(book)
    drawn = keys.drawn_at(manifest.codebook.id)
    own = [one for one in manifest.segments if keys.drawn_at(one.id) < drawn][-_MOST:]
    later = [one for one in manifest.segments if keys.drawn_at(one.id) >= drawn][-_MOST:]
    distances = {one.id: _distances(index, one, codec, book, coded) for one in [*own, *later]}
    baseline = _baseline(manifest, [distances[one.id] for one in own])
    return [
        SegmentDrift(
            segment=one.id,
            own=one in own,
            tokens=one.tokens,
            distance=round(float(distances[one.id].mean()), 4),
            tail=round(float(np.percentile(distances[one.id], _TAIL)), 4),
            quantisation=round(_quantisation(index, one, codec), 4),
            ratio=round(float(distances[one.id].mean()) / baseline, 3) if baseline else None,
        )
        for one in [*own, *later]
    ]


measure_drift_task = as_task(measure_drift, "measure drift")


def _baseline(manifest: Manifest, own: list[NDArray[np.float32]]) -> float | None:
    """The mean distance of what the codebook was trained on, where that says something."""
    enough = manifest.codebook.trained_on_tokens >= LEAST_TOKENS_PER_CENTROID * manifest.codebook.centroids
    return float(np.concatenate(own).mean()) if own and enough else None


def _distances(
    index: Index, record: SegmentRecord, codec: Codec, book: NDArray[np.float32], coded: CodedCentroids
) -> NDArray[np.float32]:
    """Squared distances of a sample of a segment's token vectors to their centroids: float32 [n]."""
    arrays = map_codes(index.files, record, codec)
    rows = np.random.default_rng(_SEED).choice(record.tokens, min(_SAMPLE, record.tokens), replace=False)
    vectors = codec.decompress(arrays.codes[rows], arrays.scales[rows])
    nearest = nearest_centroids(vectors, coded, threads=os.cpu_count() or 1)
    distances: NDArray[np.float32] = np.square(vectors - book[nearest]).sum(axis=1)
    return distances


def _quantisation(index: Index, record: SegmentRecord, codec: Codec) -> float:
    """The error of uniform levels is spread evenly over a step, so the step alone tells it."""
    scales = map_codes(index.files, record, codec).scales.astype(np.float64)
    return float(np.sqrt(codec.dim * np.square(scales).mean() / 12))
