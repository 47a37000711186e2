"""A query as the kernels want it: one block of bytes, moved to the device in one copy, and views into it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.approximate import CodedCentroids, round_to_bytes
from serving.scoring import Query

_WIDTHS = (16, 32, 64)  # query vectors that one launch takes
MOST_VECTORS = _WIDTHS[-1]
_FIELDS = 6  # columns of four bytes a lane


@dataclass(frozen=True, slots=True)
class LanesOnDevice:
    """Query vectors of one launch; lanes beyond them hold zeros, which add nothing to any score.

    levels: int8 [vectors, D]. corrections, centroid_corrections: int32 [vectors]. scales: float32 [vectors], half
    of each vector's. offsets: float32 [vectors], the products with the codec's mean. floors, steps: float32 [vectors],
    how products become bytes (serving.approximate.Rounding).
    """

    levels: Tensor
    corrections: Tensor
    centroid_corrections: Tensor
    scales: Tensor
    offsets: Tensor
    floors: Tensor
    steps: Tensor

    @property
    def vectors(self) -> int:
        return len(self.levels)


def bucket(vectors: int) -> int:
    """How many lanes a query of so many vectors takes: a width of one launch, or several of the widest."""
    for width in _WIDTHS:
        if vectors <= width:
            return width
    return -(-vectors // _WIDTHS[-1]) * _WIDTHS[-1]


def packed_bytes(lanes: int, dim: int) -> int:
    """How many bytes a query of so many lanes takes."""
    return lanes * (dim + 4 * _FIELDS)


def pack(query: Query, centroids: CodedCentroids) -> NDArray[np.uint8]:
    """The bytes of a query, in the order in which `views` reads them: uint8 [packed_bytes]."""
    vectors, dim = query.levels.shape
    total = bucket(vectors)
    packed = np.zeros(packed_bytes(total, dim), np.uint8)
    packed[: vectors * dim] = query.levels.astype(np.int8).view(np.uint8).ravel()
    sums, rounding = query.levels.sum(axis=1), round_to_bytes(query, centroids)
    columns = (
        _correction(sums, query.bits),
        _correction(sums, 8),
        query.scales * np.float32(0.5),
        query.offsets,
        rounding.floors,
        np.full(vectors, rounding.step),
    )
    fields = packed[total * dim :].reshape(_FIELDS, 4 * total)
    for field, column in zip(fields, columns, strict=True):
        field[: 4 * vectors] = np.ascontiguousarray(column).view(np.uint8)
    return packed


def _correction(sums: NDArray[np.float32], bits: int) -> NDArray[np.int32]:
    """What to take from 2 · Σ q·c for Σ q·(2c - (2^bits - 1)); codes of 8 bits are multiplied less 128."""
    return (sums * np.float32(2**bits - 1 if bits < 8 else -1)).astype(np.int32)


def views(packed: Tensor, dim: int) -> list[LanesOnDevice]:
    """The lanes of each launch, as views into a packed query on the device."""
    total = len(packed) // packed_bytes(1, dim)
    width = min(total, _WIDTHS[-1])
    levels = packed[: total * dim].view(torch.int8).view(total, dim)
    rows = packed[total * dim :].view(_FIELDS, 4 * total)
    kinds = (torch.int32, torch.int32, *[torch.float32] * 4)
    fields = [row.view(kind) for row, kind in zip(rows, kinds, strict=True)]
    parts = [slice(first, first + width) for first in range(0, total, width)]
    return [LanesOnDevice(levels[own], *(field[own] for field in fields)) for own in parts]
