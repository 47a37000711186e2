"""The kernels of the candidate stage: a small table of centroid scores, and a scan of all passages over it.

`centroid_values` scores every centroid (in codes of 8 bits) against the query. `round_table` makes bytes of
that: a row of the table is one centroid, a column one query vector, on one step for all columns, so that bytes
of different columns can be added. `scan` gives each passage the sum over query vectors of its best byte.

`nearest` is the same product the other way round: token vectors in the lanes, each to find its centroid.
"""

from __future__ import annotations

from llvmlite import ir

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
    splat,
)
from serving.kernels.levels import Level
from serving.kernels.products import Products
from serving.kernels.segments import Field, Walk

VALUES = "centroid_values"
VALUES_ARGUMENTS = {
    "count": i64,  # centroids
    "row_bytes": i64,
    "codes": pointer,  # u8 [count, row_bytes]
    "code_scales": pointer,  # f16 [count]
    "query": pointer,  # i8, see products.py
    "corrections": pointer,  # i32 [lanes of all blocks]
    "scales": pointer,  # f32 [lanes of all blocks]
    "values": pointer,  # f32 [count, lanes of all blocks], written
    "greatest": pointer,  # f32 [lanes of all blocks], written
}

ROUND = "round_table"
ROUND_ARGUMENTS = {
    "count": i64,  # centroids
    "values": pointer,  # f32 [count, lanes of all blocks]
    "floors": pointer,  # f32 [lanes of all blocks]: what becomes 0
    "steps": pointer,  # f32 [lanes of all blocks]: bytes per unit, 0 in a lane without a query vector
    "table": pointer,  # u8 [count, lanes of all blocks], written
}

SCAN = "scan"
SCAN_ARGUMENTS = {
    "first": i64,  # passages first to last - 1 over all segments
    "last": i64,
    "segments": pointer,  # SegmentTable.rows
    "table": pointer,  # u8 [a power of two, lanes of all blocks]
    "mask": i64,  # that power of two less one: a wrong id in a file reads a wrong row, never beyond the table
    "sums": pointer,  # i32 [passages], added to; a negative one marks a passage that is left alone
}


NEAREST = "nearest"
NEAREST_ARGUMENTS = {
    "count": i64,  # centroids
    "row_bytes": i64,
    "codes": pointer,  # u8 [count, row_bytes]
    "code_scales": pointer,  # f16 [count]
    "half_norms": pointer,  # f32 [count]: half the squared length of each centroid
    "query": pointer,  # i8, see products.py
    "corrections": pointer,  # i32 [lanes of all blocks]
    "scales": pointer,  # f32 [lanes of all blocks]
    "ids": pointer,  # i32 [lanes of all blocks], written
}


def build_values(module: ir.Module, level: Level, blocks: int) -> None:
    """Add `centroid_values` to a module."""
    builder, given = function(module, VALUES, VALUES_ARGUMENTS)
    products = Products(builder, level, 8, blocks, given["query"], given["row_bytes"])
    floats = ir.VectorType(f32, level.lanes)
    greatest = [Variable(builder, ir.Constant(floats, [float("-inf")] * level.lanes)) for _ in range(blocks)]
    with count(builder, i64(0), given["count"]) as at:
        row = builder.gep(given["codes"], [builder.mul(at, given["row_bytes"])], source_etype=i8)
        scale = element(builder, given["code_scales"], at, i16)
        for block, sums in enumerate(products.sums([row])[0]):
            correction = element(builder, given["corrections"], i64(block), products.integers)
            query_scale = element(builder, given["scales"], i64(block), floats)
            value = builder.fmul(products.values(sums, correction, scale), query_scale)
            place = builder.add(builder.mul(at, i64(blocks)), i64(block))
            builder.store(value, builder.gep(given["values"], [place], source_etype=floats), align=4)
            greatest[block].set(larger_float(builder, value, greatest[block].get()))
    for block, one in enumerate(greatest):
        builder.store(one.get(), builder.gep(given["greatest"], [i64(block)], source_etype=floats), align=4)
    builder.ret_void()


def build_round(module: ir.Module, level: Level, blocks: int) -> None:
    """Add `round_table` to a module."""
    builder, given = function(module, ROUND, ROUND_ARGUMENTS)
    floats = ir.VectorType(f32, level.lanes)
    row_kind = ir.VectorType(i8, level.lanes)
    lowest, highest = (ir.Constant(floats, [value] * level.lanes) for value in (0.0, 255.0))
    with count(builder, i64(0), given["count"]) as at:
        for block in range(blocks):
            place = builder.add(builder.mul(at, i64(blocks)), i64(block))
            floor, step = (element(builder, given[name], i64(block), floats) for name in ("floors", "steps"))
            value = element(builder, given["values"], place, floats)
            scaled = larger_float(builder, builder.fmul(builder.fsub(value, floor), step), lowest)
            capped = builder.select(builder.fcmp_ordered("<", scaled, highest), scaled, highest)
            whole = builder.fptosi(capped, ir.VectorType(i32, level.lanes))
            table = builder.gep(given["table"], [place], source_etype=row_kind)
            builder.store(builder.trunc(whole, row_kind), table, align=1)
    builder.ret_void()


def build_scan(module: ir.Module, level: Level, blocks: int, id_bytes: int) -> None:
    """Add `scan` to a module, for centroid ids of 2 or 4 bytes."""
    builder, given = function(module, SCAN, SCAN_ARGUMENTS)
    columns = level.lanes * blocks
    row_kind, wide = ir.VectorType(i8, columns), ir.VectorType(i16, columns)
    add_up = intrinsic(builder, f"llvm.vector.reduce.add.v{columns}i16", i16, [wide])
    walk = Walk(builder, given["segments"])
    with count(builder, given["first"], given["last"]) as passage:
        place = builder.gep(given["sums"], [passage], source_etype=i32)
        before = builder.load(place, typ=i32)
        with builder.if_then(builder.icmp_signed(">=", before, i32(0))):
            start, stop = walk.span(Field.CENTROID_OFFSETS, walk.seek(passage))
            ids = walk.array(Field.CENTROID_IDS)
            best = Variable(builder, ir.Constant(row_kind, [0] * columns))
            with count(builder, start, stop) as at:
                own = builder.zext(element(builder, ids, at, ir.IntType(8 * id_bytes)), i64)
                # By bytes: LLVM pads a vector in memory to a power of two, the table does not.
                start_of_row = builder.mul(builder.and_(own, given["mask"]), i64(columns))
                row = builder.load(builder.gep(given["table"], [start_of_row], source_etype=i8), typ=row_kind, align=1)
                larger = builder.icmp_unsigned(">", row, best.get())
                best.set(builder.select(larger, row, best.get()))
            total = builder.zext(builder.call(add_up, [builder.zext(best.get(), wide)]), i32)
            builder.store(builder.add(before, total), place)
    builder.ret_void()


def build_nearest(module: ir.Module, level: Level, blocks: int) -> None:
    """Add `nearest` to a module: the lowest id of those with the least distance."""
    builder, given = function(module, NEAREST, NEAREST_ARGUMENTS)
    products = Products(builder, level, 8, blocks, given["query"], given["row_bytes"])
    floats = ir.VectorType(f32, level.lanes)
    greatest = [Variable(builder, ir.Constant(floats, [float("-inf")] * level.lanes)) for _ in range(blocks)]
    ids = [Variable(builder, products.constant(0)) for _ in range(blocks)]
    last = builder.sub(given["count"], i64(1))
    with count(builder, i64(0), given["count"], products.tile) as first:
        # A tile past the end repeats the last centroid, which is not greater than itself.
        rows = [builder.add(first, i64(number)) for number in range(products.tile)]
        rows = [builder.select(builder.icmp_signed("<", row, last), row, last) for row in rows]
        places = [builder.gep(given["codes"], [builder.mul(row, given["row_bytes"])], source_etype=i8) for row in rows]
        for row, sums in zip(rows, products.sums(places), strict=True):
            scale = element(builder, given["code_scales"], row, i16)
            half_norm = splat(builder, element(builder, given["half_norms"], row, f32), level.lanes)
            number = splat(builder, builder.trunc(row, i32), level.lanes)
            for block in range(blocks):
                correction = element(builder, given["corrections"], i64(block), products.integers)
                query_scale = element(builder, given["scales"], i64(block), floats)
                value = builder.fmul(products.values(sums[block], correction, scale), query_scale)
                closer = builder.fsub(value, half_norm)
                better = builder.fcmp_ordered(">", closer, greatest[block].get())
                greatest[block].set(builder.select(better, closer, greatest[block].get()))
                ids[block].set(builder.select(better, number, ids[block].get()))
    for block, own in enumerate(ids):
        builder.store(own.get(), builder.gep(given["ids"], [i64(block)], source_etype=products.integers), align=4)
    builder.ret_void()
