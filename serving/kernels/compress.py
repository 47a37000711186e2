"""The codec's compression: rotation, the levels of a token on the best of a few steps, its scale, its packed codes.

Tokens lie in the lanes, so a sum over dimensions is taken in their order, whatever the level: the bits are those of
`Codec.compress`. Work is done on as many tokens as there are lanes, whose vectors stay in a core's first cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from index_format.codec import LEAST_SCALE, STEP_SHARES
from serving.kernels.ir_loops import (
    Variable,
    count,
    element,
    f32,
    function,
    i8,
    i16,
    i32,
    i64,
    intrinsic,
    larger_float,
    pointer,
    smaller,
    splat,
)
from serving.kernels.levels import Level

NAME = "compress"
ARGUMENTS = {
    "count": i64,  # tokens, at least one
    "dim": i64,
    "rounds": i64,  # of the rotation: the binary logarithm of its block
    "vectors": pointer,  # f32 [count, dim]
    "order": pointer,  # u16 [dim]
    "signs": pointer,  # f32 [dim]
    "factor": pointer,  # f32 [1]: 1/√block
    "mean": pointer,  # f32 [dim]
    "work": pointer,  # f32 [dim, lanes], of this call alone
    "row_bytes": i64,
    "codes": pointer,  # u8 [count, row_bytes], written
    "scales": pointer,  # f32 [count], written
}


def build(module: ir.Module, level: Level, bits: int) -> None:
    """Add the kernel for codes of `bits` to a module."""
    builder, given = function(module, NAME, ARGUMENTS)
    with count(builder, i64(0), given["count"], level.lanes) as first:
        # Lanes past the end repeat the last token, and write what it writes.
        last = builder.sub(given["count"], i64(1))
        tokens = [builder.add(first, i64(lane)) for lane in range(level.lanes)]
        tokens = [smaller(builder, token, last) for token in tokens]
        _Tile(builder, given, level.lanes, bits, tokens).build()
    builder.ret_void()


@dataclass(frozen=True, slots=True)
class _Tile:
    """Builds what is done with a token in each lane."""

    builder: ir.IRBuilder
    given: dict[str, ir.Value]
    lanes: int
    bits: int
    tokens: list[ir.Value]

    def build(self) -> None:
        builder, half = self.builder, self._constant((2**self.bits - 1) / 2)
        self._gather()
        self._transform()
        reach = builder.fdiv(self._centre(), half)
        best = self._measured(reach, STEP_SHARES[self.bits][0])
        for share in STEP_SHARES[self.bits][1:]:
            other = self._measured(reach, share)
            better = builder.fcmp_ordered("<", other[0], best[0])
            best = tuple(builder.select(better, *pair) for pair in zip(other, best, strict=True))
        _, scale, step = best
        self._pack(step)
        self._store_scales(larger_float(builder, scale, self._constant(float(LEAST_SCALE))))

    @property
    def floats(self) -> ir.VectorType:
        return ir.VectorType(f32, self.lanes)

    def _constant(self, value: float) -> ir.Constant:
        return ir.Constant(self.floats, [value] * self.lanes)

    def _place(self, dimension: ir.Value) -> ir.Value:
        return self.builder.gep(self.given["work"], [dimension], source_etype=self.floats)

    def _work(self, dimension: ir.Value) -> ir.Value:
        return self.builder.load(self._place(dimension), typ=self.floats, align=4)

    def _set_work(self, dimension: ir.Value, value: ir.Value) -> None:
        self.builder.store(value, self._place(dimension), align=4)

    def _each(self, name: str, dimension: ir.Value) -> ir.Value:
        """What an argument f32 [dim] has for a dimension, in each lane."""
        return splat(self.builder, element(self.builder, self.given[name], dimension, f32), self.lanes)

    def _gather(self) -> None:
        """SPEC §5.4, step 1."""
        builder, dim = self.builder, self.given["dim"]
        rows = [
            builder.gep(self.given["vectors"], [builder.mul(token, dim)], source_etype=f32) for token in self.tokens
        ]
        with count(builder, i64(0), dim) as dimension:
            source = builder.zext(element(builder, self.given["order"], dimension, i16), i64)
            taken: ir.Value = ir.Constant(self.floats, ir.Undefined)
            for lane, row in enumerate(rows):
                taken = builder.insert_element(taken, element(builder, row, source, f32), i32(lane))
            self._set_work(dimension, builder.fmul(taken, self._each("signs", dimension)))

    def _transform(self) -> None:
        """SPEC §5.4, step 2."""
        builder = self.builder
        with count(builder, i64(0), self.given["rounds"]) as round_:
            width = builder.shl(i64(1), round_)
            with count(builder, i64(0), builder.lshr(self.given["dim"], i64(1))) as pair:
                before = builder.and_(pair, builder.sub(width, i64(1)))
                first = builder.add(builder.shl(builder.sub(pair, before), i64(1)), before)
                second = builder.add(first, width)
                a, b = self._work(first), self._work(second)
                self._set_work(first, builder.fadd(a, b))
                self._set_work(second, builder.fsub(a, b))

    def _centre(self) -> ir.Value:
        """SPEC §5.4, step 3, less the mean. Returns the largest magnitude."""
        builder = self.builder
        magnitude = intrinsic(builder, f"llvm.fabs.v{self.lanes}f32", self.floats, [self.floats])
        factor, largest = self._each("factor", i64(0)), Variable(builder, self._constant(0.0))
        with count(builder, i64(0), self.given["dim"]) as dimension:
            rotated = builder.fmul(self._work(dimension), factor)
            centred = builder.fsub(rotated, self._each("mean", dimension))
            self._set_work(dimension, centred)
            largest.set(larger_float(builder, builder.call(magnitude, [centred]), largest.get()))
        return largest.get()

    def _measured(self, reach: ir.Value, share: float) -> tuple[ir.Value, ...]:
        """The error with a step that is a share of `reach`, less what all have; the scale; the step."""
        builder, half = self.builder, self._constant((2**self.bits - 1) / 2)
        least = self._constant(float(LEAST_SCALE))
        step = larger_float(builder, builder.fmul(reach, self._constant(share)), least)
        energy, overlap = (Variable(builder, self._constant(0.0)) for _ in range(2))
        with count(builder, i64(0), self.given["dim"]) as dimension:
            centred = self._work(dimension)
            level = builder.fsub(self._code(centred, step), half)
            energy.set(builder.fadd(energy.get(), builder.fmul(level, level)))
            overlap.set(builder.fadd(overlap.get(), builder.fmul(centred, level)))
        error = builder.fdiv(builder.fneg(builder.fmul(overlap.get(), overlap.get())), energy.get())
        return error, builder.fdiv(overlap.get(), energy.get()), step

    def _code(self, centred: ir.Value, step: ir.Value) -> ir.Value:
        """⌊y / step + h + 0.5⌋, no less than 0 and no more than 2^bits − 1, as a float."""
        builder, top = self.builder, 2**self.bits - 1
        whole = intrinsic(builder, f"llvm.floor.v{self.lanes}f32", self.floats, [self.floats])
        raised = builder.fadd(builder.fdiv(centred, step), self._constant(top / 2))
        code = builder.call(whole, [builder.fadd(raised, self._constant(0.5))])
        code = larger_float(builder, code, self._constant(0.0))
        highest = self._constant(float(top))
        return builder.select(builder.fcmp_ordered("<", code, highest), code, highest)

    def _pack(self, step: ir.Value) -> None:
        """SPEC §5.2."""
        builder, row_bytes = self.builder, self.given["row_bytes"]
        integers = ir.VectorType(i32, self.lanes)
        rows = [
            builder.gep(self.given["codes"], [builder.mul(token, row_bytes)], source_etype=i8) for token in self.tokens
        ]
        with count(builder, i64(0), row_bytes) as byte:
            packed: ir.Value = ir.Constant(integers, [0] * self.lanes)
            for plane in range(8 // self.bits):
                dimension = builder.add(byte, builder.mul(row_bytes, i64(plane)))
                code = builder.fptosi(self._code(self._work(dimension), step), integers)
                shift = ir.Constant(integers, [plane * self.bits] * self.lanes)
                packed = builder.or_(packed, builder.shl(code, shift))
            for lane, row in enumerate(rows):
                own = builder.trunc(builder.extract_element(packed, i32(lane)), i8)
                builder.store(own, builder.gep(row, [byte], source_etype=i8))

    def _store_scales(self, scales: ir.Value) -> None:
        builder = self.builder
        for lane, token in enumerate(self.tokens):
            own = builder.extract_element(scales, i32(lane))
            builder.store(own, builder.gep(self.given["scales"], [token], source_etype=f32))
