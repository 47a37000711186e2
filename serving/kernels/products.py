"""Products of query levels with packed codes: the loop that all the time goes into.

A tile is a few tokens: its sums stay in registers while the loop runs over the packed bytes, and each load
of query bytes serves all of them.

Query bytes lie as [plane][group][block][lane][4]: a group is four packed bytes of a row, a plane the bits of
them that belong to one run of dimensions (SPEC §5.2), and a lane one query vector.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from serving.kernels.ir_loops import (
    Variable,
    count,
    element,
    f32,
    first_lanes,
    i8,
    i32,
    i64,
    repeated,
    splat,
)
from serving.kernels.levels import Level


@dataclass(frozen=True, slots=True)
class Cut:
    """`bits` bits of a packed byte, from bit `shift` on: codes of the plane, or half of one."""

    plane: int
    shift: int
    bits: int


@dataclass(frozen=True, slots=True)
class Products:
    """Builds the sums Σ query · code for rows of `row_bytes` packed bytes and codes of `bits`.

    widths: of each block, which is a register of sums, its lanes: the level's, or half of them in the last.
    """

    builder: ir.IRBuilder
    level: Level
    bits: int
    widths: tuple[int, ...]
    query: ir.Value
    row_bytes: ir.Value

    @property
    def blocks(self) -> int:
        return len(self.widths)

    @property
    def tile(self) -> int:
        """How many rows at once keep their sums in registers."""
        return max(1, self.level.registers // self.blocks)

    def element(self, base: ir.Value, block: int, kind: ir.Type) -> ir.Value:
        """What an array of one `kind` for each lane of all blocks has for a block."""
        at = self.builder.gep(base, [i64(block * self.level.lanes)], source_etype=kind)
        return self.builder.load(at, typ=ir.VectorType(kind, self.widths[block]), align=1)

    def sums(self, rows: list[ir.Value]) -> list[list[ir.Value]]:
        """The sums of each row, given by its address, in each block: [len(rows)][blocks] of <width x i32>."""
        builder = self.builder
        sums = [[Variable(builder, repeated(i32(0), width)) for width in self.widths] for _ in rows]
        done = i64(0)
        for groups in dict.fromkeys((self.level.groups, 1)):
            whole = builder.and_(self.row_bytes, i64(-4 * groups))
            with count(builder, done, whole, 4 * groups) as byte:
                places = [builder.add(byte, i64(4 * group)) for group in range(groups)]
                self._add(sums, [[self._four(row, place) for place in places] for row in rows], byte)
            done = whole
        with builder.if_then(builder.icmp_signed("<", done, self.row_bytes), likely=False):
            self._add(sums, [[self._tail(row, done)] for row in rows], done)
        return [[one.get() for one in own] for own in sums]

    def values(self, sums: ir.Value, correction: ir.Value, scale: ir.Value) -> ir.Value:
        """float32(2 · sum - correction) · scale, in each lane: the value t of SPEC §6.2."""
        builder, width = self.builder, sums.type.count
        doubled = builder.shl(sums, repeated(i32(1), width))
        exact = builder.sitofp(builder.sub(doubled, correction), ir.VectorType(f32, width))
        return builder.fmul(exact, splat(builder, _half_to_float(builder, scale), width))

    def _add(self, sums: list[list[Variable]], fours: list[list[ir.Value]], byte: ir.Value) -> None:
        """Add the products of each row's groups of four bytes; the first group lies at `byte`."""
        builder = self.builder
        groups = builder.lshr(builder.add(self.row_bytes, i64(3)), i64(2))
        first = builder.lshr(byte, i64(2))
        for weight, cuts in self._cuts().items():
            steps = [(cut, group) for group in range(len(fours[0])) for cut in cuts]
            at_once = self.level.at_once(2 ** min(self.bits, 4) - 1)
            for run in (steps[at : at + at_once] for at in range(0, len(steps), at_once)):
                places = [
                    builder.add(builder.mul(groups, i64(cut.plane)), builder.add(first, i64(group)))
                    for cut, group in run
                ]
                queries = [[self._query(place, block) for place in places] for block in range(self.blocks)]
                for own, four in zip(sums, fours, strict=True):
                    digits = [self._digits(four[group], cut) for cut, group in run]
                    for one, query, width in zip(own, queries, self.widths, strict=True):
                        narrow = [first_lanes(builder, digit, width) for digit in digits]
                        one.set(self.level.dot(builder, one.get(), narrow, query, weight))

    def _cuts(self) -> dict[int, list[Cut]]:
        """The bits of a packed byte that make digits for `dot`, by the digits' weight."""
        if self.bits < 8:
            return {1: [Cut(plane, plane * self.bits, self.bits) for plane in range(8 // self.bits)]}
        if self.level.whole_bytes:
            return {1: [Cut(0, 0, 8)]}
        return {1: [Cut(0, 0, 4)], 16: [Cut(0, 4, 4)]}

    def _digits(self, four: ir.Value, cut: Cut) -> ir.Value:
        """Some bits of each of four bytes, the same in each lane of the widest block."""
        spread = splat(self.builder, four, self.widths[0])
        if cut.bits == 8:
            return spread
        mask = int.from_bytes(bytes([2**cut.bits - 1] * 4), "little")
        moved = self.builder.lshr(spread, repeated(i32(cut.shift), self.widths[0])) if cut.shift else spread
        return self.builder.and_(moved, repeated(i32(mask), self.widths[0]))

    def _four(self, row: ir.Value, byte: ir.Value) -> ir.Value:
        """Four bytes of a row."""
        return self.builder.load(self.builder.gep(row, [byte], source_etype=i8), typ=i32, align=1)

    def _query(self, group: ir.Value, block: int) -> ir.Value:
        at = self.builder.add(self.builder.mul(group, i64(self.blocks)), i64(block))
        place = self.builder.gep(self.query, [at], source_etype=ir.VectorType(i8, 4 * self.level.lanes))
        return self.builder.load(place, typ=ir.VectorType(i8, 4 * self.widths[block]), align=1)

    def _tail(self, row: ir.Value, start: ir.Value) -> ir.Value:
        """The last one to three bytes of a row, without reading beyond it."""
        builder = self.builder
        four = Variable(builder, i32(0))
        with count(builder, start, self.row_bytes) as byte:
            value = builder.zext(element(builder, row, byte, i8), i32)
            shift = builder.trunc(builder.shl(builder.sub(byte, start), i64(3)), i32)
            four.set(builder.or_(four.get(), builder.shl(value, shift)))
        return four.get()


def _half_to_float(builder: ir.IRBuilder, half: ir.Value) -> ir.Value:
    """Scales are positive normal float16 (SPEC §4.4), so their bits only move: no conversion is needed."""
    moved = builder.add(builder.shl(builder.zext(half, i32), i32(13)), i32(112 << 23))
    return builder.bitcast(moved, f32)
