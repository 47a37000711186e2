"""MaxSim on codes, and the approximate score on centroids: NumPy over blocks that fit the cache.

Scores are defined on integers (SPEC §6): query vectors are rounded to 8 bits, so each dot product is a sum
of small integers, which float32 holds exactly in any order. That makes a score the same bit for bit
whatever the block, the segment, or the kernel. `oracle.py` states the same definition without the speed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from index_format.codebook import exclusive_sum
from index_format.codec import Codec
from index_format.segment import SegmentReader

QUERY_LEVELS = 127
_BLOCK_TOKENS = 2048  # decoded at once: their float32 levels should stay in the cache


@dataclass(frozen=True, slots=True)
class Query:
    """A query made ready for one codec.

    vectors: float32 [Q, D]. levels: integers as float32 [Q, D]. scales: float32 [Q], so that
    vectors ≈ scales · levels. offsets: float32 [Q], each vector's product with the codec's mean.
    """

    vectors: NDArray[np.float32]
    levels: NDArray[np.float32]
    scales: NDArray[np.float32]
    offsets: NDArray[np.float32]


def use_one_thread_a_query() -> None:
    """Keep NumPy's BLAS to one thread in this process, as one that answers queries should.

    A block's product is so thin that threads spend nine tenths of their time waiting for each other;
    several cores are better used by several queries.
    """
    threadpoolctl.threadpool_limits(limits=1, user_api="blas")


def prepare_query(vectors: NDArray[np.float32], codec: Codec) -> Query:
    """Round query vectors float32 [Q, D] to 8-bit levels, each on its own scale."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    scales = np.abs(vectors).max(axis=1, initial=0.0) / np.float32(QUERY_LEVELS)
    scales[scales == 0] = 1
    levels = np.rint(vectors / scales[:, None])
    return Query(vectors, levels, scales, vectors @ codec.mean)


def centroid_scores(query: Query, centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """The product of every centroid with every query vector: float32 [C, Q]."""
    return centroids @ query.vectors.T


def approximate_scores(scores_CQ: NDArray[np.float32], segment: SegmentReader) -> NDArray[np.float32]:
    """For each passage of a segment, the sum over query vectors of its best centroid's product: float32 [P]."""
    offsets, ids = segment.centroids.offsets, segment.centroids.ids
    totals = np.empty(len(offsets) - 1, np.float32)
    for first, last in _blocks(offsets, 8 * _BLOCK_TOKENS):
        gathered = scores_CQ[ids[offsets[first] : offsets[last]]]
        best = np.maximum.reduceat(gathered, offsets[first:last] - offsets[first], axis=0)
        totals[first:last] = _sum_in_order(best)
    return totals


def maxsim(query: Query, codec: Codec, segment: SegmentReader, ordinals: NDArray[np.int64]) -> NDArray[np.float32]:
    """The MaxSim of the given passages of a segment, on their codes: float32 [len(ordinals)]."""
    codes = segment.codes
    starts, ends = codes.offsets[ordinals].astype(np.int64), codes.offsets[ordinals + 1].astype(np.int64)
    offsets = exclusive_sum(ends - starts)
    totals = np.empty(len(ordinals), np.float32)
    for first, last in _blocks(offsets, _BLOCK_TOKENS):
        rows = _rows(starts[first:last], ends[first:last])
        products_TQ = _products(query, codec, codes.codes[rows]) * codes.scales[rows].astype(np.float32)[:, None]
        best = np.maximum.reduceat(products_TQ, offsets[first:last] - offsets[first], axis=0)
        totals[first:last] = _sum_in_order(best * (query.scales * np.float32(0.5)) + query.offsets)
    return totals


def _rows(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """The tokens of some passages; a slice where they follow each other, which saves a copy."""
    if (starts[1:] == ends[:-1]).all():
        return slice(int(starts[0]), int(ends[-1]))
    return np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])


def _products(query: Query, codec: Codec, packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Twice the product of query levels with code levels, an integer in float32 [T, Q]."""
    highest = 2**codec.bits - 1
    zero = 128 if codec.bits == 8 else 0  # keeps the partial sums of 8-bit codes below 2^24
    width = packed.shape[1]
    codes = np.empty((len(packed), codec.dim), np.float32)
    for plane in range(8 // codec.bits):
        # Each plane of bits goes straight to its place as float32: one pass, no copy in between.
        np.copyto(codes[:, plane * width : (plane + 1) * width], (packed >> (plane * codec.bits)) & highest)
    if zero:
        codes -= np.float32(zero)
    products = codes @ query.levels.T
    return np.asarray(2 * products + np.float32(2 * zero - highest) * query.levels.sum(axis=1), np.float32)


def _sum_in_order(values_PQ: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum over query vectors from the first to the last, so that the result does not depend on the layout."""
    total = np.zeros(len(values_PQ), np.float32)
    for column in values_PQ.T:
        total += column
    return total


def _blocks(offsets: NDArray[np.uint32], most_tokens: int) -> list[tuple[int, int]]:
    """Runs of passages [first, last) that hold at most `most_tokens` tokens together, one passage at least."""
    passages = len(offsets) - 1
    blocks, first = [], 0
    while first < passages:
        limit = int(offsets[first]) + most_tokens
        last = max(first + 1, int(np.searchsorted(offsets, limit, side="right")) - 1)
        blocks.append((first, min(last, passages)))
        first = last
    return blocks
