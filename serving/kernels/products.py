"""Products of query levels with packed codes: the loop that all the time goes into.

A tile is a few tokens: its sums stay in registers while the loop runs over the packed bytes, and each load
of query bytes serves all of them.

Query bytes lie as [plane][group][block][lane][4]: a group is four packed bytes of a row, a plane the bits of
them that belong to one run of dimensions (SPEC §5.2), and a lane one query vector.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from serving.kernels.ir_loops import Variable, count, element, f32, i8, i32, i64, splat
from serving.kernels.levels import Level


@dataclass(frozen=True, slots=True)
class Products:
    """Builds the sums Σ query · code for rows of `row_bytes` packed bytes, codes of `bits`, `blocks` registers."""

    builder: ir.IRBuilder
    level: Level
    bits: int
    blocks: int
    query: ir.Value
    row_bytes: ir.Value

    @property
    def tile(self) -> int:
        """How many rows at once keep their sums in registers."""
        return max(1, self.level.registers // self.blocks)

    @property
    def integers(self) -> ir.VectorType:
        return ir.VectorType(i32, self.level.lanes)

    def constant(self, value: int) -> ir.Constant:
        return ir.Constant(self.integers, [value] * self.level.lanes)

    def sums(self, rows: list[ir.Value]) -> list[list[ir.Value]]:
        """The sums of each row, given by its address, in each block: [len(rows)][blocks] of <lanes x i32>."""
        builder = self.builder
        sums = [[Variable(builder, self.constant(0)) for _ in range(self.blocks)] for _ in rows]
        whole = builder.and_(self.row_bytes, i64(-4))
        with count(builder, i64(0), whole, 4) as byte:
            fours = [builder.load(builder.gep(row, [byte], source_etype=i8), typ=i32, align=1) for row in rows]
            self._add(sums, fours, byte)
        with builder.if_then(builder.icmp_signed("<", whole, self.row_bytes), likely=False):
            self._add(sums, [self._tail(row, whole) for row in rows], whole)
        return [[one.get() for one in own] for own in sums]

    def values(self, sums: ir.Value, correction: ir.Value, scale: ir.Value) -> ir.Value:
        """float32(2 · sum - correction) · scale, in each lane: the value t of SPEC §6.2."""
        builder, floats = self.builder, ir.VectorType(f32, self.level.lanes)
        doubled = builder.shl(sums, self.constant(1))
        exact = builder.sitofp(builder.sub(doubled, correction), floats)
        return builder.fmul(exact, splat(builder, _half_to_float(builder, scale), self.level.lanes))

    def _add(self, sums: list[list[Variable]], fours: list[ir.Value], byte: ir.Value) -> None:
        builder = self.builder
        groups = builder.lshr(builder.add(self.row_bytes, i64(3)), i64(2))
        for plane in range(8 // self.bits):
            group = builder.add(builder.mul(groups, i64(plane)), builder.lshr(byte, i64(2)))
            query = [self._query(group, block) for block in range(self.blocks)]
            for own, four in zip(sums, fours, strict=True):
                for digits, weight in self._digits(four, plane):
                    for one, bytes4 in zip(own, query, strict=True):
                        one.set(self._dot(one.get(), digits, bytes4, weight))

    def _dot(self, sums: ir.Value, digits: ir.Value, query: ir.Value, weight: int) -> ir.Value:
        if weight == 1:
            return self.level.dot(self.builder, sums, digits, query)
        more = self.level.dot(self.builder, self.constant(0), digits, query)
        return self.builder.add(sums, self.builder.mul(more, self.constant(weight)))

    def _digits(self, four: ir.Value, plane: int) -> list[tuple[ir.Value, int]]:
        """The codes of one plane as bytes that `dot` takes, each with its weight."""
        spread = splat(self.builder, four, self.level.lanes)
        if self.bits < 8:
            return [(self._cut(spread, plane * self.bits, self.bits), 1)]
        if self.level.whole_bytes:
            return [(spread, 1)]
        return [(self._cut(spread, 0, 4), 1), (self._cut(spread, 4, 4), 16)]

    def _cut(self, spread: ir.Value, shift: int, bits: int) -> ir.Value:
        """`bits` bits of each byte, from bit `shift` on."""
        mask = int.from_bytes(bytes([2**bits - 1] * 4), "little")
        moved = self.builder.lshr(spread, self.constant(shift)) if shift else spread
        return self.builder.and_(moved, self.constant(mask))

    def _query(self, group: ir.Value, block: int) -> ir.Value:
        kind = ir.VectorType(i8, 4 * self.level.lanes)
        at = self.builder.add(self.builder.mul(group, i64(self.blocks)), i64(block))
        return element(self.builder, self.query, at, kind)

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
