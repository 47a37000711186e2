"""The MaxSim kernel: codes of passages, unpacked in registers, against as many query vectors as registers hold.

The lanes are shared by `queries` queries, each in lanes of its own, one after the other. For each of `count` passages,
given by their number over all segments in ascending order, it adds the parts of each query's vectors to that query's
`totals`, in their order, as SPEC §6.2 says: what a query shares its lanes with changes nothing. A query of more vectors
than fit takes several calls; the order of the sum stays the same.

A tile past the end of a passage repeats the last token, which changes no maximum.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from serving.kernels.ir_loops import (
    Variable,
    count,
    element,
    f32,
    first_lanes,
    function,
    i8,
    i16,
    i32,
    i64,
    larger_float,
    pointer,
    repeated,
    smaller,
)
from serving.kernels.levels import Level
from serving.kernels.products import Products
from serving.kernels.segments import Field, Walk

NAME = "maxsim"
ARGUMENTS = {
    "count": i64,  # passages to score
    "passages": pointer,  # i64 [count], ascending
    "segments": pointer,  # SegmentTable.rows
    "row_bytes": i64,
    "query": pointer,  # i8, see products.py
    "corrections": pointer,  # i32 [lanes of all blocks]: (2^bits - 1) · Σ levels
    "scales": pointer,  # f32 [lanes of all blocks]
    "offsets": pointer,  # f32 [lanes of all blocks]
    "queries": i64,
    "edges": pointer,  # i64 [queries + 1]: each query's first lane, and at the end one past the last
    "totals": pointer,  # f32 [queries, stride], of which the first `count` of each row are added to
    "stride": i64,
}


def build(module: ir.Module, level: Level, bits: int, widths: tuple[int, ...]) -> None:
    """Add the kernel for codes of `bits` and query vectors in registers of so many lanes to a module."""
    builder, given = function(module, NAME, ARGUMENTS)
    products = Products(builder, level, bits, widths, given["query"], given["row_bytes"])
    with builder.goto_entry_block():
        parts = builder.alloca(ir.VectorType(f32, level.lanes), size=len(widths))
    walk = Walk(builder, given["segments"])
    with count(builder, i64(0), given["count"]) as at:
        ordinal = walk.seek(element(builder, given["passages"], at, i64))
        start, stop = walk.span(Field.TOKEN_OFFSETS, ordinal)
        best = [Variable(builder, repeated(f32(float("-inf")), width)) for width in widths]
        with count(builder, start, stop, products.tile) as token:
            _raise_best(products, given["corrections"], walk, token, stop, best)
        for block, one in enumerate(best):
            scale, offset = (products.element(given[name], block, f32) for name in ("scales", "offsets"))
            part = builder.fadd(builder.fmul(one.get(), scale), offset)
            builder.store(first_lanes(builder, part, level.lanes), builder.gep(parts, [i64(block)]))
        with count(builder, i64(0), given["queries"]) as query:
            place = builder.add(builder.mul(query, given["stride"]), at)
            total = builder.gep(given["totals"], [place], source_etype=f32)
            edge = builder.gep(given["edges"], [query], source_etype=i64)
            _add_in_order(builder, total, parts, *(element(builder, edge, i64(end), i64) for end in (0, 1)))
    builder.ret_void()


def _raise_best(
    products: Products, corrections: ir.Value, walk: Walk, token: ir.Value, stop: ir.Value, best: Sequence[Variable]
) -> None:
    """Score a tile of tokens and keep the greatest value of each lane."""
    builder = products.builder
    last = builder.sub(stop, i64(1))
    tokens = []
    for number in range(products.tile):
        own = builder.add(token, i64(number))
        tokens.append(smaller(builder, own, last))
    codes, scales = walk.array(Field.CODES), walk.array(Field.SCALES)
    rows = [builder.gep(codes, [builder.mul(own, products.row_bytes)], source_etype=i8) for own in tokens]
    for own, sums in zip(tokens, products.sums(rows), strict=True):
        scale = element(builder, scales, own, i16)
        for block, one in enumerate(best):
            correction = products.element(corrections, block, i32)
            one.set(larger_float(builder, products.values(sums[block], correction, scale), one.get()))


def _add_in_order(builder: ir.IRBuilder, place: ir.Value, parts: ir.Value, first: ir.Value, stop: ir.Value) -> None:
    """Add the parts of lanes `first` to `stop` - 1 to the float at a place, one after the other."""
    total = Variable(builder, builder.load(place, typ=f32))
    with count(builder, first, stop) as vector:
        total.set(builder.fadd(total.get(), element(builder, parts, vector, f32)))
    builder.store(total.get(), place)
