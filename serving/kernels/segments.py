"""Where kernels find the segments of a snapshot: one table of addresses, walked in ascending order of passages.

A row is ten i64: the segment's first passage and first outlier over all segments, then the addresses of its arrays.
The table ends with a row whose first passage is the number of all passages, and its first outlier that of all outliers,
so a walk needs no count of segments.
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
    FIRST_OUTLIER = 1
    TOKEN_OFFSETS = 2
    CODES = 3
    SCALES = 4
    CENTROID_OFFSETS = 5
    CENTROID_IDS = 6
    OUTLIER_OFFSETS = 7
    OUTLIER_CODES = 8
    OUTLIER_SCALES = 9


ARRAYS = list(Field)[Field.TOKEN_OFFSETS :]
"""The columns that hold addresses, one for each array of a segment."""
_COUNTED = [Field.FIRST_PASSAGE, Field.FIRST_OUTLIER]


@dataclass(frozen=True, slots=True)
class SegmentTable:
    """rows: int64 [S + 1, fields]. arrays: what the addresses point into, held so that it stays."""

    rows: NDArray[np.int64]
    arrays: tuple[NDArray[np.generic], ...]

    @property
    def passages(self) -> int:
        return int(self.rows[-1, Field.FIRST_PASSAGE])

    @property
    def outliers(self) -> int:
        return int(self.rows[-1, Field.FIRST_OUTLIER])

    @property
    def centroid_ids(self) -> int:
        """How many centroid ids all passages have."""
        return sum(len(array) for array in self.arrays[ARRAYS.index(Field.CENTROID_IDS) :: len(ARRAYS)])

    @property
    def id_bytes(self) -> int:
        """The width of a centroid id, the same in all segments: 2 or 4."""
        return self.arrays[ARRAYS.index(Field.CENTROID_IDS)].itemsize if self.arrays else 2

    @staticmethod
    def of(segments: Sequence[Sequence[NDArray[np.generic]]]) -> SegmentTable:
        """The table of segments, each given by its arrays in the order of `ARRAYS`."""
        rows = np.zeros((len(segments) + 1, len(Field)), np.int64)
        for number, arrays in enumerate(segments):
            rows[number, ARRAYS] = [array.ctypes.data for array in arrays]
            counts = len(arrays[0]) - 1, len(arrays[ARRAYS.index(Field.OUTLIER_SCALES)])
            rows[number + 1, _COUNTED] = rows[number, _COUNTED] + counts
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
        _, next_first = self.share(Field.FIRST_PASSAGE)
        builder.cbranch(builder.icmp_signed("<", passage, next_first), found, step)
        builder.position_at_end(step)
        self._row.set(builder.gep(self._row.get(), [i64(len(Field))], source_etype=i64))
        builder.branch(head)
        builder.position_at_end(found)
        return builder.sub(passage, self.field(Field.FIRST_PASSAGE))

    def ahead(self, passage: ir.Value) -> ir.Value:
        """The ordinal of a passage further on; where it lies in a later segment, that of this one's last."""
        builder = self._builder
        first, next_first = self.share(Field.FIRST_PASSAGE)
        here = builder.icmp_signed("<", passage, next_first)
        return builder.sub(builder.select(here, passage, builder.sub(next_first, i64(1))), first)

    def array(self, field: Field) -> ir.Value:
        """The address of an array of the segment."""
        return self._builder.inttoptr(self.field(field), pointer)

    def span(self, field: Field, ordinal: ir.Value) -> tuple[ir.Value, ir.Value]:
        """`offsets[ordinal]` and `offsets[ordinal + 1]` as i64."""
        builder, base = self._builder, self.array(field)
        ends = [element(builder, base, at, i32) for at in (ordinal, builder.add(ordinal, i64(1)))]
        start, stop = (builder.zext(end, i64) for end in ends)
        return start, stop

    def share(self, first: Field) -> tuple[ir.Value, ir.Value]:
        """The segment's first passage or outlier over all segments, and that of the next."""
        return self.field(first), element(self._builder, self._row.get(), i64(len(Field) + first), i64)

    def field(self, field: Field) -> ir.Value:
        """A number of the segment's row."""
        return element(self._builder, self._row.get(), i64(field), i64)
