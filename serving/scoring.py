"""MaxSim on codes, by the kernels of `serving/kernels`.

Scores are defined on integers (SPEC §6.2): query vectors are rounded to 8 bits, so each dot product is a sum
of small integers. That makes a score the same bit for bit whatever the instruction level, the block, the
number of threads or the segment. `oracle.py` states the same definition without the speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from index_format.codec import Codec
from serving.kernels import native
from serving.kernels.calls import address, aligned, in_threads, padded
from serving.kernels.levels import Level, best_level
from serving.kernels.segments import SegmentTable
from serving.sharing import share

QUERY_LEVELS = 127
MOST_BLOCKS = 4  # registers of query vectors that a kernel takes at once


@dataclass(frozen=True, slots=True)
class Lanes:
    """Some query vectors as a kernel wants them, one in each lane; the lanes beyond `vectors` hold zeros.

    query: int8 [groups, blocks, lanes, 4]. corrections: int32, scales and offsets: float32, one for each lane.
    edges: int64 [queries + 1], the first lane of each query whose vectors these are, and one past the last.
    """

    vectors: int
    blocks: int
    query: NDArray[np.int8]
    corrections: NDArray[np.int32]
    scales: NDArray[np.float32]
    offsets: NDArray[np.float32]
    edges: NDArray[np.int64]

    @property
    def arguments(self) -> tuple[int, ...]:
        """As kernels take them."""
        return address(self.query), address(self.corrections), address(self.scales), address(self.offsets)


@dataclass(frozen=True)
class Query:
    """Query vectors on 8-bit levels, each on its own scale: vectors ≈ scales · levels.

    vectors: float32 [Q, D], rotated. levels: integers as float32 [Q, D]. scales: float32 [Q]. offsets: float32 [Q],
    each vector's product with the codec's mean.
    """

    vectors: NDArray[np.float32]
    levels: NDArray[np.float32]
    scales: NDArray[np.float32]
    offsets: NDArray[np.float32]
    bits: int
    level: Level

    @property
    def row_bytes(self) -> int:
        """Packed bytes of one token of the index."""
        return int(self.vectors.shape[1]) * self.bits // 8

    @cached_property
    def lanes(self) -> list[Lanes]:
        """For codes of the index."""
        return self._arrange(self.bits, self.offsets)

    @cached_property
    def centroid_lanes(self) -> list[Lanes]:
        """For centroids, which are coded in 8 bits and not centred."""
        return self._arrange(8, np.zeros_like(self.offsets))

    def _arrange(self, bits: int, offsets: NDArray[np.float32]) -> list[Lanes]:
        size = MOST_BLOCKS * self.level.lanes
        parts = [slice(at, at + size) for at in range(0, len(self.vectors), size)]
        return [_fill(self.levels[own], self.scales[own], offsets[own], bits, self.level) for own in parts]


def join(queries: Sequence[Query]) -> Query:
    """The vectors of several queries, one query after the other, each as rounded by itself."""
    return Query(
        vectors=np.concatenate([one.vectors for one in queries]),
        levels=np.concatenate([one.levels for one in queries]),
        scales=np.concatenate([one.scales for one in queries]),
        offsets=np.concatenate([one.offsets for one in queries]),
        bits=queries[0].bits,
        level=queries[0].level,
    )


def edges_of(queries: Sequence[Query]) -> NDArray[np.int64]:
    """Where each query's vectors begin in `join`, and where the last one's end: int64 [queries + 1]."""
    return np.cumsum([0, *(len(query.vectors) for query in queries)])


def _shared_lanes(queries: Sequence[Query]) -> Lanes:
    (lanes,) = join(queries).lanes
    return replace(lanes, edges=edges_of(queries))


def _fill(
    levels: NDArray[np.float32], scales: NDArray[np.float32], offsets: NDArray[np.float32], bits: int, level: Level
) -> Lanes:
    """Lanes of query levels float32 [Q, D], for codes of `bits`."""
    blocks = -(-len(levels) // level.lanes)
    planes, width = 8 // bits, levels.shape[1] * bits // 8
    groups = -(-width // 4)
    by_plane = np.zeros((planes, groups * 4, blocks * level.lanes), np.int8)
    by_plane[:, :width, : len(levels)] = levels.T.reshape(planes, width, -1)
    query = by_plane.reshape(planes * groups, 4, blocks, level.lanes).transpose(0, 2, 3, 1)
    corrections = (2**bits - 1) * levels.sum(axis=1).astype(np.int32)  # beyond 2^24 a float32 rounds an odd product
    return Lanes(
        vectors=len(levels),
        blocks=blocks,
        query=aligned(query),
        corrections=padded(corrections, blocks * level.lanes),
        scales=padded(scales * np.float32(0.5), blocks * level.lanes),
        offsets=padded(offsets, blocks * level.lanes),
        edges=np.array([0, len(levels)]),
    )


def prepare_query(vectors: NDArray[np.float32], codec: Codec, level: Level | None = None) -> Query:
    """Rotate query vectors float32 [Q, D] as the codec does, and round them to 8-bit levels, each on its own scale."""
    vectors = codec.rotated(np.ascontiguousarray(vectors, np.float32))
    levels, scales = round_to_levels(vectors)
    return Query(vectors, levels, scales, vectors @ codec.mean, codec.bits, level or best_level())


def round_to_levels(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors float32 [n, D] as integers from -127 to 127, in float32 [n, D], and the scale of each: float32 [n]."""
    scales = np.abs(vectors).max(axis=1, initial=0.0) / np.float32(QUERY_LEVELS)
    scales[scales == 0] = 1
    return np.rint(vectors / scales[:, None]), scales


def maxsim(
    query: Query, table: SegmentTable, row_bytes: int, passages: NDArray[np.int64], *, threads: int = 1
) -> NDArray[np.float32]:
    """The MaxSim of some passages, given by their numbers in ascending order: float32 [len(passages)]."""
    scores: NDArray[np.float32] = maxsim_of_several([query], table, row_bytes, passages, threads=threads)[0]
    return scores


def maxsim_of_several(
    queries: Sequence[Query], table: SegmentTable, row_bytes: int, passages: NDArray[np.int64], *, threads: int = 1
) -> NDArray[np.float32]:
    """The same for each of several queries, by one pass over the codes: float32 [queries, len(passages)].

    Their vectors together must fit one call, as those of a range of `sharing` do.
    """
    totals = np.zeros((len(queries), len(passages)), np.float32)
    level, bits = queries[0].level, queries[0].bits
    for lanes in queries[0].lanes if len(queries) == 1 else [_shared_lanes(queries)]:
        kernel = native.maxsim_kernel(level, bits, level.widths(lanes.vectors))

        def score(first: int, last: int, kernel: native.Kernel = kernel, lanes: Lanes = lanes) -> None:
            kernel(
                last - first,
                address(passages[first:]),
                address(table.rows),
                row_bytes,
                *lanes.arguments,
                len(totals),
                address(lanes.edges),
                address(totals[:, first:]),
                len(passages),
            )

        in_threads(score, len(passages), threads)
    return totals


def sharing(counts: Sequence[int], level: Level | None = None) -> list[range]:
    """Which neighbours of queries with so many vectors each `maxsim_of_several` scores quicker than `maxsim`."""
    level = level or best_level()
    lanes = MOST_BLOCKS * level.lanes
    return share(counts, lanes, level.cost, most=lanes)
