"""Centroids trained on a sample of the codes themselves.

Codes are direct, so the codebook comes after them: nothing is encoded twice for a sample, and training
again later touches no code. K-means is Lloyd's, on the search kernels: docs/decisions/0003 has the figures.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from index_format import keys
from index_format.codebook import Codebook
from index_format.codec import Codec
from index_format.errors import EncoderMismatch
from index_format.index import Index
from index_format.manifest import CodebookRecord, CodecRecord, SegmentRecord
from index_format.segment import EncodedSegment, map_codes, read_codec, write_codebook
from serving.approximate import CodedCentroids
from serving.nearest import NearestCentroids
from tasks import progress
from tasks.prefect_task import as_task

CENTROIDS_PER_ROOT_TOKEN = 8  # docs/decisions/0003
MAX_CENTROIDS = 1 << 18
SAMPLE_PER_CENTROID = 64
MAX_SAMPLE = 1 << 17  # vectors: 200 MB at 384 dimensions, so that a build needs no more memory than its encoding
LEAST_PER_CENTROID = 16  # even where that is more
HELD_OUT_EVERY = 16  # passages of a segment, one of which no codebook is trained on
HELD_OUT_SAMPLE = 1 << 14  # of those, vectors whose distance is measured
LEAST_TOKENS = 2048  # token vectors, below which they are too few to tell a kind of text, or what is rare in it
ITERATIONS = 8
OUTLIER_SHARE = 0.02  # of the tokens, which stand for themselves among candidates: docs/decisions/0003
OUTLIER_SAMPLE = 1 << 15  # tokens by whose distances that is found out
SEED = 20
_BLOCK = 8192  # vectors decompressed at once


def centroids_for(tokens: int) -> int:
    """How many centroids a corpus of that many tokens gets: the power of two at or below 8·√tokens."""
    wanted = max(1, min(int(CENTROIDS_PER_ROOT_TOKEN * tokens**0.5), MAX_CENTROIDS, tokens))
    return 1 << (wanted.bit_length() - 1)


def train_codebook(
    address: str, segments: Sequence[EncodedSegment | SegmentRecord], codec: CodecRecord, dim: int
) -> CodebookRecord:
    """Train and write a codebook of an index from the token vectors of some segments, of one encoder."""
    index, encoder = Index.at(address), _one_encoder(address, segments)
    opened = read_codec(index.files, codec, dim)
    left_out = [int(_held_out(index, segment, opened).sum()) for segment in segments]
    trained_on = [segment.tokens - left for segment, left in zip(segments, left_out, strict=True)]
    centroids = centroids_for(sum(trained_on))
    most = max(MAX_SAMPLE, LEAST_PER_CENTROID * centroids)
    size = min(sum(trained_on), SAMPLE_PER_CENTROID * centroids, most)
    book = Codebook.of(kmeans(_sample(index, segments, trained_on, opened, size, held=False), centroids))
    apart = _sample(index, segments, left_out, opened, min(sum(left_out), HELD_OUT_SAMPLE), held=True)
    tokens = [segment.tokens for segment in segments]
    any_kind = _sample(index, segments, tokens, opened, min(sum(tokens), OUTLIER_SAMPLE), held=None)
    nearest = nearest_of(book)
    farther = outlier_distance(squared_distances(any_kind, book, nearest))
    codebook_id = keys.new_id()
    return CodebookRecord(
        id=codebook_id,
        encoder=encoder,
        centroids=centroids,
        trained_on_tokens=sum(tokens),
        trained_on_segments=[segment.id for segment in segments],
        held_out_distance=_mean_distance(apart, book, nearest),
        outlier_distance=farther if sum(tokens) >= LEAST_TOKENS else None,
        file=write_codebook(index.store, codebook_id, book),
    )


train_codebook_task = as_task(train_codebook, "train codebook")


def kmeans(sample: NDArray[np.float32], centroids: int) -> NDArray[np.float32]:
    """Centroids float32 [C, D] of vectors float32 [n, D], n ≥ C; the same for the same input on any machine."""
    progress.report("codebook", total=ITERATIONS)
    random = np.random.default_rng(SEED)
    current = sample[np.sort(random.choice(len(sample), centroids, replace=False))]
    for _ in range(ITERATIONS):
        nearest = nearest_of(Codebook.of(current)).find(sample)
        current = _means(sample, nearest, centroids, random)
        progress.report("codebook", advance=1)
    return current


def _means(
    sample: NDArray[np.float32], nearest: NDArray[np.uint32], centroids: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """The mean of each centroid's vectors; one that has none begins again at a vector of the sample."""
    counts = np.bincount(nearest, minlength=centroids)
    # Which vector has which centroid: the sums are a product with that, without a copy of the sample in their order.
    ones, rows = np.ones(len(sample), np.float32), np.arange(len(sample) + 1)
    members = csr_array((ones, nearest.astype(np.int32), rows), shape=(len(sample), centroids))
    means: NDArray[np.float32] = members.T @ sample
    means /= np.maximum(counts, 1)[:, None]
    unused = np.flatnonzero(counts == 0)
    means[unused] = sample[random.choice(len(sample), len(unused))]
    return means


def nearest_of(book: Codebook) -> NearestCentroids:
    """What finds the nearest centroids of a codebook, on all cores."""
    return NearestCentroids(CodedCentroids.of(book), threads=os.cpu_count() or 1)


def squared_distances(vectors: NDArray[np.float32], book: Codebook, nearest: NearestCentroids) -> NDArray[np.float32]:
    """How far vectors float32 [n, D] lie from their nearest centroids: float32 [n]. nearest: of the codebook."""
    return book.squared_distances(vectors, nearest.find(vectors))


def _mean_distance(vectors: NDArray[np.float32], book: Codebook, nearest: NearestCentroids) -> float | None:
    if len(vectors) < LEAST_TOKENS:
        return None
    return float(squared_distances(vectors, book, nearest).mean())


def outlier_distance(distances: NDArray[np.float32], share: float = OUTLIER_SHARE) -> float | None:
    """From which squared distance on a token is an outlier, so that the farthest `share` of some tokens are.

    Those are of the index as it is, whether the codebook was trained on them or not: in a small index it was trained on
    most, which lie nearer than text that it never saw. None where they lie on their centroids: then there is nothing
    that a centroid does not tell.
    """
    return float(np.quantile(distances, 1 - share, method="higher")) or None


def _one_encoder(address: str, segments: Sequence[EncodedSegment | SegmentRecord]) -> str:
    """The fingerprint of the encoder that made all of some segments. Raises EncoderMismatch."""
    encoder, *others = sorted({segment.encoder for segment in segments})
    if others:
        raise EncoderMismatch(
            f"{address}: a codebook cannot be trained on vectors of two encoders, {encoder!r} and {others[0]!r}. "
            "Encode all documents with one."
        )
    return encoder


def _held_out(index: Index, segment: EncodedSegment | SegmentRecord, codec: Codec) -> NDArray[np.bool_]:
    """Which token vectors of a segment no codebook is trained on, bool [T]: those of every sixteenth passage.

    They tell how far text of the same kind lies from the centroids; what a codebook was trained on lies nearer.
    """
    offsets = map_codes(index.files, segment, codec).offsets
    passages = np.arange(1, len(offsets)) % HELD_OUT_EVERY == 0
    return np.repeat(passages, np.diff(offsets))


def _sample(
    index: Index,
    segments: Sequence[EncodedSegment | SegmentRecord],
    counts: Sequence[int],
    codec: Codec,
    size: int,
    *,
    held: bool | None,
) -> NDArray[np.float32]:
    """`size` token vectors float32 [size, D], drawn evenly from all segments.

    held: whether from those that are held out, or those that are not; None: from all. counts: how many that are, by
    segment.
    """
    random, filled = np.random.default_rng(SEED), 0
    sample = np.empty((size, codec.dim), np.float32)
    # So many of each segment: one choice among all tokens would take eight bytes for each of them.
    shares = np.diff(np.cumsum([0, *counts]) * size // max(1, sum(counts)))
    for segment, count, share in zip(segments, counts, shares.tolist(), strict=True):
        arrays = map_codes(index.files, segment, codec)
        is_held = _held_out(index, segment, codec)
        rows_of_kind = np.flatnonzero((is_held == held) | (held is None))
        own = rows_of_kind[np.sort(random.choice(count, share, replace=False))]
        for start in range(0, len(own), _BLOCK):
            rows = own[start : start + _BLOCK]
            sample[filled : filled + len(rows)] = codec.decompress_rotated(arrays.codes[rows], arrays.scales[rows])
            filled += len(rows)
    return sample
