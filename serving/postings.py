"""Postings: for each centroid, the passages that touch it. Made in memory from the centroid ids of a snapshot.

Passages lie in blocks, so that two bytes tell a passage in its block and a block's work fits a core's cache. A block
knows the arrays that it was made from: a snapshot takes those blocks of the one before that hold the same passages.
Two bytes for each id that a passage has are some two in a hundred of codes of 4 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from serving.kernels.segments import ARRAYS, Field, SegmentTable

MOST_PASSAGES = 1 << 15
"""Of a block: at most 65,536, which two bytes tell. Half of that lets two threads share 50,000 passages."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Passages `start` to `stop` - 1 of a segment, whose arrays of centroids.npz these are."""

    offsets: NDArray[np.uint32]
    ids: NDArray[np.uint16] | NDArray[np.uint32]
    start: int
    stop: int

    @property
    def identity(self) -> tuple[int, int, int]:
        """Equal for equal passages of the same mapped arrays."""
        return self.ids.ctypes.data, self.start, self.stop


@dataclass(frozen=True, slots=True)
class Block:
    """Postings of consecutive passages over all segments.

    starts: int32 [C + 1]. passages: uint16, counted from the block's first: those that touch centroid c are
    `passages[starts[c] : starts[c + 1]]`, ascending. pieces: what it was made from.
    """

    pieces: tuple[Piece, ...]
    starts: NDArray[np.int32]
    passages: NDArray[np.uint16]

    @staticmethod
    def of(pieces: tuple[Piece, ...], centroids: int) -> Block:
        """centroids: a power of two. Ids beyond it, which only a damaged file has, count from 0 again."""
        counts = [np.diff(one.offsets[one.start : one.stop + 1]).astype(np.int64) for one in pieces]
        offsets = np.zeros(sum(map(len, counts)) + 1, np.int32)
        np.cumsum(np.concatenate(counts), out=offsets[1:])
        ids = np.concatenate([one.ids[one.offsets[one.start] : one.offsets[one.stop]] for one in pieces])
        touched = csr_array(
            (np.ones(len(ids), np.int8), ids.astype(np.int32) & (centroids - 1), offsets),
            shape=(len(offsets) - 1, centroids),
        )
        by_centroid = touched.tocsc()  # a counting sort
        return Block(pieces, by_centroid.indptr.astype(np.int32), by_centroid.indices.astype(np.uint16))


@dataclass(frozen=True, slots=True)
class Postings:
    """The postings of all passages of a snapshot.

    firsts: int64 [blocks + 1], the first passage of each block, and how many passages there are.
    """

    blocks: tuple[Block, ...]
    firsts: NDArray[np.int64]

    @staticmethod
    def of(table: SegmentTable, centroids: int, before: Postings | None = None) -> Postings:
        """Of the passages of a table. centroids: a power of two. before: whose blocks are taken where they fit."""
        known = {_identity(block.pieces): block for block in before.blocks} if before else {}
        runs = _runs(table)
        blocks = tuple(known.get(_identity(pieces)) or Block.of(pieces, centroids) for pieces in runs)
        sizes = [sum(piece.stop - piece.start for piece in pieces) for pieces in runs]
        return Postings(blocks, np.cumsum([0, *sizes]))


def _identity(pieces: Sequence[Piece]) -> tuple[tuple[int, int, int], ...]:
    return tuple(piece.identity for piece in pieces)


def _runs(table: SegmentTable) -> list[tuple[Piece, ...]]:
    """The pieces of each block: segments one after the other, cut where a block is full."""
    runs: list[list[Piece]] = [[]]
    room = MOST_PASSAGES
    columns = [ARRAYS.index(field) for field in (Field.CENTROID_OFFSETS, Field.CENTROID_IDS)]
    for at in range(0, len(table.arrays), len(ARRAYS)):
        offsets, ids = (table.arrays[at + column] for column in columns)
        start, count = 0, len(offsets) - 1
        while start < count:
            if not room:
                runs.append([])
                room = MOST_PASSAGES
            stop = min(count, start + room)
            runs[-1].append(Piece(offsets, ids, start, stop))  # type: ignore[arg-type]  # by the columns
            room -= stop - start
            start = stop
    return [tuple(run) for run in runs if run]
