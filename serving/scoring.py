"""MaxSim on codes, and the approximate score on centroids, by the kernels of `serving/kernels`.

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

from index_format.codebook import Codebook
from index_format.codec import Codec
from serving.kernels import native
from serving.kernels.calls import address, aligned, in_threads, padded
from serving.kernels.levels import Level, best_level
from serving.kernels.segments import SegmentTable
from serving.sharing import share

QUERY_LEVELS = 127
MOST_BLOCKS = 4  # registers of query vectors that a kernel takes at once
_TABLE_TOP = 255


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


@dataclass(frozen=True, slots=True)
class CodedCentroids:
    """Centroids as kernels want them. codes: uint8 [C, D], scales: float16 [C], half_norms: float32 [C].

    mean: float32 [D], of all of them as decoded. longest: the length of the longest.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    half_norms: NDArray[np.float32]
    mean: NDArray[np.float32]
    longest: np.float32

    @staticmethod
    def of(book: Codebook) -> CodedCentroids:
        decoded = book.centroids
        half_norms = np.einsum("cd,cd->c", decoded, decoded) / np.float32(2)
        mean = decoded.mean(axis=0, dtype=np.float64).astype(np.float32)
        return CodedCentroids(book.codes, book.scales, half_norms, mean, np.sqrt(2 * half_norms.max()))


@dataclass(frozen=True, slots=True)
class Rounding:
    """How products become bytes: (product - floor) · step, cut to 0..255 and rounded down.

    floors: float32 [Q], one for each query vector. step: the same for all, so that bytes can be added.
    """

    floors: NDArray[np.float32]
    step: np.float32


def round_to_bytes(query: Query, centroids: CodedCentroids) -> Rounding:
    """The rounding of a query's products with centroids and outliers.

    It depends on query and codebook alone, so that an approximate score does not depend on what other passages there
    are. The top is the product with a centroid as long as the longest in the vector's own direction, which no other
    exceeds; from there the widest way down to the mean of all centroids has 255 steps. What lies below the mean is no
    passage's best, and an outlier above the top counts as the top.
    """
    rounded = query.levels * query.scales[:, None]
    tops = np.sqrt(np.einsum("qd,qd->q", rounded, rounded)) * centroids.longest
    reach = (tops - rounded @ centroids.mean).max(initial=0.0)
    return Rounding(tops - reach, np.float32(_TABLE_TOP / float(reach)) if reach > 0 else np.float32(0))


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
        kernel = native.maxsim_kernel(level, bits, lanes.blocks)

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
    return share(counts, lanes, lambda vectors: level.costs[-(-vectors // level.lanes) - 1], most=lanes)


def approximate_scores(
    query: Query, table: SegmentTable, centroids: CodedCentroids, allowed: NDArray[np.bool_], *, threads: int = 1
) -> NDArray[np.int32]:
    """For each passage, the sum over query vectors of its best product, in small whole steps: int32 [P].

    The best of the products with the passage's centroids, and of those with its outliers on their own codes (a part of
    SPEC §6.2), each made a byte by `round_to_bytes`. A passage that is not allowed gets -1, and one that is allowed at
    least 0.
    """
    sums = allowed.astype(np.int32) - 1
    rounding = round_to_bytes(query, centroids)
    first_vector = 0
    for lanes, centroid_lanes in zip(query.lanes, query.centroid_lanes, strict=True):
        columns = len(lanes.scales)
        floors = padded(rounding.floors[first_vector : first_vector + lanes.vectors], columns)
        steps = padded(np.full(lanes.vectors, rounding.step), columns)
        first_vector += lanes.vectors
        rows = _centroid_table(query, centroid_lanes, centroids, floors, steps, threads)
        outliers = _outlier_bytes(query, lanes, table, floors, steps, threads)
        kernel = native.scan_kernel(query.level, lanes.blocks, table.id_bytes)

        def scan(
            first: int,
            last: int,
            kernel: native.Kernel = kernel,
            rows: NDArray[np.uint8] = rows,
            outliers: NDArray[np.uint8] = outliers,
        ) -> None:
            kernel(
                first,
                last,
                address(table.rows),
                address(rows),
                len(rows) - 1,
                address(outliers),
                address(sums),
            )

        in_threads(scan, len(sums), threads)
    return sums


def _centroid_table(
    query: Query,
    lanes: Lanes,
    centroids: CodedCentroids,
    floors: NDArray[np.float32],
    steps: NDArray[np.float32],
    threads: int,
) -> NDArray[np.uint8]:
    """The byte of each centroid: [a power of two, lanes]; the rows beyond the centroids are zeros."""
    count = len(centroids.codes)
    table = np.zeros((1 << (count - 1).bit_length(), len(lanes.scales)), np.uint8)
    kernel = native.centroid_bytes_kernel(query.level, lanes.blocks)

    def score(first: int, last: int) -> None:
        kernel(
            first,
            last,
            centroids.codes.shape[1],
            address(centroids.codes),
            address(centroids.scales),
            *lanes.arguments,
            address(floors),
            address(steps),
            address(table),
        )

    in_threads(score, count, threads)
    return table


def _outlier_bytes(
    query: Query,
    lanes: Lanes,
    table: SegmentTable,
    floors: NDArray[np.float32],
    steps: NDArray[np.float32],
    threads: int,
) -> NDArray[np.uint8]:
    """The byte of each outlier of all segments: [outliers, lanes]."""
    outliers = np.empty((table.outliers, len(lanes.scales)), np.uint8)
    kernel = native.outlier_bytes_kernel(query.level, query.bits, lanes.blocks)

    def score(first: int, last: int) -> None:
        kernel(
            first,
            last,
            len(table.rows) - 1,
            address(table.rows),
            query.row_bytes,
            *lanes.arguments,
            address(floors),
            address(steps),
            address(outliers),
        )

    in_threads(score, len(outliers), threads)
    return outliers
