"""The approximate score of a passage: of each query vector the best product with its centroids and its outliers.

It finds candidates, and no score of a hit depends on it. `bounds.py` spares most passages of a large index that, and
changes nothing of what comes of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index_format.codebook import Codebook
from serving.kernels import native
from serving.kernels.calls import address, in_threads, padded
from serving.kernels.segments import SegmentTable
from serving.scoring import Query

_TABLE_TOP = 255


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

    @property
    def rows(self) -> int:
        """The power of two at or above their number: any id, cut to its bits, is a row of as many."""
        return 1 << (len(self.codes) - 1).bit_length()

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


@dataclass(frozen=True, slots=True)
class ByteRows:
    """The bytes of all centroids and outliers for the query vectors that a kernel takes at once, one a column.

    blocks: registers that they fill. centroids: uint8 [a power of two, columns], the rows beyond the centroids zeros.
    outliers: uint8 [outliers of all segments, columns].
    """

    blocks: int
    centroids: NDArray[np.uint8]
    outliers: NDArray[np.uint8]


def byte_rows(query: Query, table: SegmentTable, centroids: CodedCentroids, *, threads: int = 1) -> list[ByteRows]:
    """What approximate scores are made of: products with centroids and outliers, by `round_to_bytes`.

    Those of outliers are with their own codes (a part of SPEC §6.2).
    """
    rounding = round_to_bytes(query, centroids)
    made, first_vector = [], 0
    for lanes, centroid_lanes in zip(query.lanes, query.centroid_lanes, strict=True):
        columns, widths = len(lanes.scales), query.level.widths(lanes.vectors)
        floors = padded(rounding.floors[first_vector : first_vector + lanes.vectors], columns)
        steps = padded(np.full(lanes.vectors, rounding.step), columns)
        first_vector += lanes.vectors
        of_centroids = np.zeros((centroids.rows, columns), np.uint8)
        coded = centroids.codes.shape[1], address(centroids.codes), address(centroids.scales)
        given = *coded, *centroid_lanes.arguments, address(floors), address(steps)
        kernel = native.centroid_bytes_kernel(query.level, widths)
        _fill(of_centroids, len(centroids.codes), kernel, given, threads)
        of_outliers = np.zeros((table.outliers, columns), np.uint8)
        coded = len(table.rows) - 1, address(table.rows), query.row_bytes
        given = *coded, *lanes.arguments, address(floors), address(steps)
        kernel = native.outlier_bytes_kernel(query.level, query.bits, widths)
        _fill(of_outliers, table.outliers, kernel, given, threads)
        made.append(ByteRows(lanes.blocks, of_centroids, of_outliers))
    return made


def approximate_scores(
    query: Query, table: SegmentTable, centroids: CodedCentroids, allowed: NDArray[np.bool_], *, threads: int = 1
) -> NDArray[np.int32]:
    """For each passage, the sum over query vectors of its best product, in small whole steps: int32 [P].

    A passage that is not allowed gets -1, and one that is allowed at least 0.
    """
    rows = byte_rows(query, table, centroids, threads=threads)
    scores = np.full(len(allowed), -1, np.int32)
    scores[allowed] = scan(query, table, rows, np.flatnonzero(allowed), threads=threads)
    return scores


def scan(
    query: Query, table: SegmentTable, rows: list[ByteRows], passages: NDArray[np.int64], *, threads: int = 1
) -> NDArray[np.int32]:
    """The approximate scores of some passages, int64 [n] ascending, made of `byte_rows`: int32 [n]."""
    sums = np.zeros(len(passages), np.int32)
    for own in rows:
        kernel = native.scan_kernel(query.level, own.blocks, table.id_bytes)

        def add(first: int, last: int, kernel: native.Kernel = kernel, own: ByteRows = own) -> None:
            kernel(
                last - first,
                address(passages[first:]),
                address(table.rows),
                address(own.centroids),
                len(own.centroids) - 1,
                address(own.outliers),
                address(sums[first:]),
            )

        in_threads(add, len(sums), threads)
    return sums


def _fill(rows: NDArray[np.uint8], count: int, kernel: native.Kernel, given: tuple[int, ...], threads: int) -> None:
    """Make bytes of coded vectors, in the first `count` rows, by a kernel of `kernels/centroids.py`.

    It leaves alone what lies beyond the last block's width, so rows are zeros before.
    """

    def fill(first: int, last: int) -> None:
        kernel(first, last, *given, address(rows))

    in_threads(fill, count, threads)
