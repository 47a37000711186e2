"""Where kernels find the segments of a snapshot: one table of addresses, walked in ascending order of passages.

A row is six i64: the segment's first passage over all segments, then the addresses of its arrays. The table
ends with a row whose first passage is the number of all passages, so a kernel needs no count of segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from serving.kernels.ir_loops import Variable, element, i32, i64, pointer


class Field(IntEnum):
    """The columns of the table."""

    FIRST_PASSAGE = 0
    TOKEN_OFFSETS = 1
    CODES = 2
    SCALES = 3
    CENTROID_OFFSETS = 4
    CENTROID_IDS = 5


@dataclass(frozen=True, slots=True)
class SegmentTable:
    """rows: int64 [S + 1, fields]. arrays: what the addresses point into, held so that it stays."""

    rows: NDArray[np.int64]
    arrays: tuple[NDArray[np.generic], ...]

    @property
    def passages(self) -> int:
        return int(self.rows[-1, Field.FIRST_PASSAGE])

    @property
    def id_bytes(self) -> int:
        """The width of a centroid id, the same in all segments: 2 or 4."""
        return self.arrays[Field.CENTROID_IDS - 1].itemsize if self.arrays else 2

    @staticmethod
    def of(segments: Sequence[Sequence[NDArray[np.generic]]]) -> SegmentTable:
        """The table of segments, each given by its arrays in the order of the fields."""
        rows = np.zeros((len(segments) + 1, len(Field)), np.int64)
        for number, arrays in enumerate(segments):
            rows[number, 1:] = [array.ctypes.data for array in arrays]
            rows[number + 1, 0] = rows[number, 0] + len(arrays[0]) - 1
        return SegmentTable(rows, tuple(array for arrays in segments for array in arrays))


class Walk:
    """In a kernel: the segment of the passage at hand, for passages that only ascend."""

    def __init__(self, builder: ir.IRBuilder, table: ir.Value) -> None:
        self._builder = builder
        self._row = Variable(builder, table)

    def seek(self, passage: ir.Value) -> ir.Value:
        """Advance to the segment of a passage; returns the passage's ordinal in it."""
        builder = self._builder
        head, step, found = (builder.append_basic_block(name) for name in ("seek", "next", "found"))
        builder.branch(head)
        builder.position_at_end(head)
        next_first = element(builder, self._row.get(), i64(len(Field)), i64)
        builder.cbranch(builder.icmp_signed("<", passage, next_first), found, step)
        builder.position_at_end(step)
        self._row.set(builder.gep(self._row.get(), [i64(len(Field))], source_etype=i64))
        builder.branch(head)
        builder.position_at_end(found)
        return builder.sub(passage, self._field(Field.FIRST_PASSAGE))

    def array(self, field: Field) -> ir.Value:
        """The address of an array of the segment."""
        return self._builder.inttoptr(self._field(field), pointer)

    def span(self, field: Field, ordinal: ir.Value) -> tuple[ir.Value, ir.Value]:
        """`offsets[ordinal]` and `offsets[ordinal + 1]` as i64."""
        builder, base = self._builder, self.array(field)
        ends = [element(builder, base, at, i32) for at in (ordinal, builder.add(ordinal, i64(1)))]
        start, stop = (builder.zext(end, i64) for end in ends)
        return start, stop

    def _field(self, field: Field) -> ir.Value:
        return element(self._builder, self._row.get(), i64(field), i64)
