"""Instruction levels: how each adds up products of four bytes, in as many lanes as its registers have.

Query vectors lie in lanes: one lane adds for one query vector, so nothing is ever summed across lanes.

AVX2 has no product of bytes that adds to 32 bits: it multiplies bytes and adds pairs to 16 bits, and widening those is
half of the work. So several products are added in 16 bits first, as many as cannot overflow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import binding, ir

from serving.kernels.ir_loops import i8, i16, i32, intrinsic

Dot = Callable[[ir.IRBuilder, ir.Value, Sequence[ir.Value], Sequence[ir.Value], int], ir.Value]
"""(builder, sums <lanes x i32>, digits, queries, weight) to the new sums: Σ weight · digits · query is added.

digits: each the same four unsigned bytes in each lane, at most as many as `Level.at_once` says, queries
<4·lanes x i8> with them. weight: 1, or 16 where a level does not take whole bytes.
"""


@dataclass(frozen=True, slots=True)
class Level:
    """One instruction set. `lanes` 32-bit sums fit a register; `registers` may hold sums of several rows at once.

    step: query vectors come by so many lanes: the last register may be used by half, where half of it costs less.
    whole_bytes: whether `dot` takes bytes up to 255, or else up to 15. groups: how many groups of four packed bytes
    are unpacked at once. room: how far digits may add up in `dot`, beyond the first. costs: of MaxSim by steps of query
    vectors, up to four registers, beside each other (docs/decisions/0028).
    """

    name: str
    lanes: int
    step: int
    registers: int
    features: str
    needs: frozenset[str]
    whole_bytes: bool
    dot: Dot
    costs: tuple[float, ...]
    groups: int = 1
    room: int = 0

    def widths(self, vectors: int) -> tuple[int, ...]:
        """How many lanes of each register are added up for so many query vectors."""
        steps = -(-vectors // self.step) * self.step
        return tuple(min(self.lanes, steps - at) for at in range(0, steps, self.lanes))

    def cost(self, vectors: int) -> float:
        """Of MaxSim with so many query vectors, at most four registers of them."""
        return self.costs[-(-vectors // self.step) - 1]

    def at_once(self, top: int) -> int:
        """How many digits up to `top` one `dot` takes."""
        return max(1, self.room // top)


def _dot_vnni(
    builder: ir.IRBuilder, sums: ir.Value, digits: Sequence[ir.Value], queries: Sequence[ir.Value], weight: int
) -> ir.Value:
    assert weight == 1
    (four,), (query,) = digits, queries
    wide, quads = sums.type, query.type
    dpbusd = intrinsic(builder, f"llvm.x86.avx512.vpdpbusd.{32 * wide.count}", wide, [wide, quads, quads])
    return builder.call(dpbusd, [sums, builder.bitcast(four, quads), query])


def _dot_avx2(
    builder: ir.IRBuilder, sums: ir.Value, digits: Sequence[ir.Value], queries: Sequence[ir.Value], weight: int
) -> ir.Value:
    wide, bytes32, halves = ir.VectorType(i32, 8), ir.VectorType(i8, 32), ir.VectorType(i16, 16)
    pairs = intrinsic(builder, "llvm.x86.avx2.pmadd.ub.sw", halves, [bytes32, bytes32])
    quads = intrinsic(builder, "llvm.x86.avx2.pmadd.wd", wide, [halves, halves])
    products = [
        builder.call(pairs, [builder.bitcast(four, bytes32), query])
        for four, query in zip(digits, queries, strict=True)
    ]
    narrow = functools.reduce(builder.add, products)
    return builder.add(sums, builder.call(quads, [narrow, ir.Constant(halves, [weight] * 16)]))


def _dot_portable(
    builder: ir.IRBuilder, sums: ir.Value, digits: Sequence[ir.Value], queries: Sequence[ir.Value], weight: int
) -> ir.Value:
    assert weight == 1
    (four,), (query,) = digits, queries
    wide = sums.type
    for place in range(4):
        own = ir.Constant(ir.VectorType(i32, wide.count), [4 * lane + place for lane in range(wide.count)])
        factor = builder.sext(builder.shuffle_vector(query, ir.Constant(query.type, ir.Undefined), own), wide)
        shift, mask = (ir.Constant(wide, [value] * wide.count) for value in (8 * place, 255))
        byte = builder.and_(builder.lshr(four, shift), mask)
        sums = builder.add(sums, builder.mul(byte, factor))
    return sums


LEVELS = (
    Level(
        name="avx512-vnni",
        lanes=16,
        step=8,
        registers=12,
        features="+avx2,+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512vnni,-prefer-256-bit",
        needs=frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"}),
        whole_bytes=True,
        dot=_dot_vnni,
        costs=(1, 1.5, 1.75, 2, 2.5, 3, 3.5, 4),
    ),
    Level(
        name="avx2",
        lanes=8,
        step=8,
        registers=1,  # a product reads query bytes from memory at no cost; a second row would need its registers
        features="+avx2",
        needs=frozenset({"avx2"}),
        whole_bytes=False,
        dot=_dot_avx2,
        costs=(1, 1.55, 2.1, 2.8),
        groups=4,
        room=(2**15 - 1) // (2 * 127),  # a query's level is at most 127, and each product adds two
    ),
    Level("portable", 4, 4, 8, "", frozenset(), True, _dot_portable, costs=(1, 2, 3, 4)),
)


def levels_here() -> list[Level]:
    """The levels that this processor has, the best first."""
    have = {name for name, there in binding.get_host_cpu_features().items() if there}
    return [level for level in LEVELS if level.needs <= have]


@functools.cache
def best_level() -> Level:
    """The best instruction level of this processor."""
    return levels_here()[0]
