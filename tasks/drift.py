"""How well the codebook of an index still fits what came after it was trained.

Drift costs no correctness and no score: codes are direct. It costs candidates, because passages are found by
their centroids. Token vectors that lie far from every centroid are found later, or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index_format.codec import Codec
from index_format.index import Index
from index_format.manifest import CodebookRecord, SegmentRecord
from index_format.segment import Codes, map_codes
from tasks.prefect_task import as_task
from tasks.train_codebook import LEAST_TOKENS, OUTLIER_SHARE, nearest_of, squared_distances

LIMIT = 1.12
"""A segment has drifted when its vectors lie this much farther from their centroids than text of the codebook's own
kind (docs/decisions/0026)."""

_SAMPLE = 2048  # token vectors of a segment
_MOST = 64  # segments that are looked at
_SEED = 20


@dataclass(frozen=True, slots=True)
class SegmentDrift:
    """One segment against the codebook.

    own: the codebook was trained on it, so it lies nearer than other text of its kind, and another codebook would not
    help. distance: the mean of squared distances to the nearest centroid. tail: from which distance on the farthest 2 %
    lie, as many as the codebook's own text has beyond `codebook_tail` (its outliers; None where it was too little).
    quantisation: root mean square error of the codes, where a vector has length 1.
    ratio: the distance by that of what was held out from the codebook; None where either is too little to say.
    """

    segment: str
    own: bool
    tokens: int
    distance: float
    tail: float
    codebook_tail: float | None
    quantisation: float
    ratio: float | None

    @property
    def drifted(self) -> bool:
        return not self.own and self.ratio is not None and self.ratio > LIMIT


def measure_drift(address: str, version: int) -> list[SegmentDrift]:
    """The newest segments of a version against its codebook, oldest first."""
    index = Index.at(address)
    manifest = index.version(version)
    codec, book = index.codec(manifest), index.codebook(manifest)
    nearest, found = nearest_of(book), []
    for record in manifest.segments[-_MOST:]:
        arrays = map_codes(index.files, record, codec)
        distances = squared_distances(_sample(arrays, codec), book, nearest)
        found.append(_segment_drift(record, manifest.codebook, distances, _quantisation(arrays, codec)))
    return found


measure_drift_task = as_task(measure_drift, "measure drift")


def _segment_drift(
    record: SegmentRecord, codebook: CodebookRecord, distances: NDArray[np.float32], quantisation: float
) -> SegmentDrift:
    mean, baseline = float(distances.mean()), codebook.held_out_distance
    ratio = mean / baseline if baseline and record.tokens >= LEAST_TOKENS else None
    return SegmentDrift(
        segment=record.id,
        own=record.id in codebook.trained_on_segments,
        tokens=record.tokens,
        distance=round(mean, 4),
        tail=round(float(np.quantile(distances, 1 - OUTLIER_SHARE)), 4),
        codebook_tail=None if codebook.outlier_distance is None else round(codebook.outlier_distance, 4),
        quantisation=round(quantisation, 4),
        ratio=None if ratio is None else round(ratio, 3),
    )


def _sample(arrays: Codes, codec: Codec) -> NDArray[np.float32]:
    """Some token vectors of a segment: float32 [n, D]."""
    tokens = len(arrays.scales)
    rows = np.random.default_rng(_SEED).choice(tokens, min(_SAMPLE, tokens), replace=False)
    return codec.decompress_rotated(arrays.codes[rows], arrays.scales[rows])


def _quantisation(arrays: Codes, codec: Codec) -> float:
    """The error of uniform levels is spread evenly over a step, so the step alone tells it."""
    return float(np.sqrt(codec.dim * np.square(arrays.scales.astype(np.float64)).mean() / 12))
