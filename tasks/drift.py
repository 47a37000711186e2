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
from index_format.manifest import SegmentRecord
from index_format.segment import map_codes
from serving.scoring import CodedCentroids, nearest_centroids
from tasks.prefect_task import as_task
from tasks.train_codebook import held_out

LIMIT = 1.12
"""A segment has drifted when its vectors lie this much farther from their centroids than text of the codebook's own
kind (docs/decisions/0026)."""

LEAST_TOKENS = 2048  # token vectors, below which they are too few to tell a kind of text
_SAMPLE = 2048  # token vectors of a segment
_MOST = 32  # segments of each kind that are looked at, the newest
_TAIL = 95.0
_SEED = 20


@dataclass(frozen=True, slots=True)
class SegmentDrift:
    """One segment against the codebook.

    own: the codebook was trained on it. distance and tail: the mean and the 95th percentile of squared distances to
    the nearest centroid; of an own segment, of the vectors that the codebook was not trained on, None without any.
    quantisation: root mean square error of the codes, where a vector has length 1.
    ratio: the distance, in that of all own segments; None where too little of either is there to say.
    """

    segment: str
    own: bool
    tokens: int
    distance: float | None
    tail: float | None
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
    distances = {one.id: _distances(index, one, codec, book, coded, own=one in own) for one in [*own, *later]}
    baseline = _baseline([distances[one.id] for one in own])
    return [
        _segment_drift(one, one in own, distances[one.id], _quantisation(index, one, codec), baseline)
        for one in [*own, *later]
    ]


measure_drift_task = as_task(measure_drift, "measure drift")


def _segment_drift(
    record: SegmentRecord, own: bool, distances: NDArray[np.float32], quantisation: float, baseline: float | None
) -> SegmentDrift:
    mean = float(distances.mean()) if len(distances) else None
    ratio = mean / baseline if mean and baseline and record.tokens >= LEAST_TOKENS else None
    return SegmentDrift(
        segment=record.id,
        own=own,
        tokens=record.tokens,
        distance=None if mean is None else round(mean, 4),
        tail=None if mean is None else round(float(np.percentile(distances, _TAIL)), 4),
        quantisation=round(quantisation, 4),
        ratio=None if ratio is None else round(ratio, 3),
    )


def _baseline(own: list[NDArray[np.float32]]) -> float | None:
    """How far text lies that the codebook was not trained on, but is of its kind; where enough of it is there."""
    distances = np.concatenate([*own, np.empty(0, np.float32)])
    return float(distances.mean()) if len(distances) >= LEAST_TOKENS else None


def _distances(
    index: Index,
    record: SegmentRecord,
    codec: Codec,
    book: NDArray[np.float32],
    coded: CodedCentroids,
    *,
    own: bool,
) -> NDArray[np.float32]:
    """Squared distances of a sample of a segment's token vectors to their centroids: float32 [n].

    Of the codebook's own segments these are vectors that it was not trained on, if there are any.
    """
    arrays = map_codes(index.files, record, codec)
    if own and not held_out(arrays.offsets).any():
        return np.empty(0, np.float32)
    open_rows = np.flatnonzero(held_out(arrays.offsets)) if own else np.arange(record.tokens)
    rows = np.random.default_rng(_SEED).choice(open_rows, min(_SAMPLE, len(open_rows)), replace=False)
    vectors = codec.decompress(arrays.codes[rows], arrays.scales[rows])
    nearest = nearest_centroids(vectors, coded, threads=os.cpu_count() or 1)
    distances: NDArray[np.float32] = np.square(vectors - book[nearest]).sum(axis=1)
    return distances


def _quantisation(index: Index, record: SegmentRecord, codec: Codec) -> float:
    """The error of uniform levels is spread evenly over a step, so the step alone tells it."""
    scales = map_codes(index.files, record, codec).scales.astype(np.float64)
    return float(np.sqrt(codec.dim * np.square(scales).mean() / 12))
