"""The kernels of the candidate stage: a small table of centroid scores, and a scan of all passages over it.

`centroid_values` scores every centroid (in codes of 8 bits) against the query. `round_table` makes bytes of
that: a row of the table is one centroid, a column one query vector, on one step for all columns, so that bytes
of different columns can be added. `outlier_bytes` makes such rows of the outliers' own codes, of all passages at once:
a passage has one or two, which would leave most of a tile empty. `scan` gives each passage the sum over query vectors
of its best byte.
"""

from __future__ import annotations

from collections.abc import Mapping

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
}

ROUND = "round_table"
ROUND_ARGUMENTS = {
    "count": i64,  # centroids
    "values": pointer,  # f32 [count, lanes of all blocks]
    "floors": pointer,  # f32 [lanes of all blocks]: what becomes 0
    "steps": pointer,  # f32 [lanes of all blocks]: bytes per unit, 0 in a lane without a query vector
    "table": pointer,  # u8 [count, lanes of all blocks], written
}

OUTLIERS = "outlier_bytes"
OUTLIERS_ARGUMENTS = {
    "first": i64,  # outliers first to last - 1 over all segments
    "last": i64,
    "segment_count": i64,
    "segments": pointer,  # SegmentTable.rows
    "row_bytes": i64,
    "query": pointer,  # i8, see products.py
    "corrections": pointer,  # i32 [lanes of all blocks]: (2^bits - 1) · Σ levels
    "scales": pointer,  # f32 [lanes of all blocks]
    "offsets": pointer,  # f32 [lanes of all blocks]
    "floors": pointer,  # as in `round_table`
    "steps": pointer,
    "outliers": pointer,  # u8 [outliers of all segments, lanes of all blocks], written
}

SCAN = "scan"
SCAN_ARGUMENTS = {
    "first": i64,  # passages first to last - 1 over all segments
    "last": i64,
    "segments": pointer,  # SegmentTable.rows
    "table": pointer,  # u8 [a power of two, lanes of all blocks]
    "mask": i64,  # that power of two less one: a wrong id in a file reads a wrong row, never beyond the table
    "outliers": pointer,  # u8 [outliers of all segments, lanes of all blocks]
    "sums": pointer,  # i32 [passages], added to; a negative one marks a passage that is left alone
}


def build_values(module: ir.Module, level: Level, blocks: int) -> None:
    """Add `centroid_values` to a module."""
    builder, given = function(module, VALUES, VALUES_ARGUMENTS)
    products = Products(builder, level, 8, blocks, given["query"], given["row_bytes"])
    floats = ir.VectorType(f32, level.lanes)
    with count(builder, i64(0), given["count"]) as at:
        row = builder.gep(given["codes"], [builder.mul(at, given["row_bytes"])], source_etype=i8)
        scale = element(builder, given["code_scales"], at, i16)
        for block, sums in enumerate(products.sums([row])[0]):
            correction = element(builder, given["corrections"], i64(block), products.integers)
            query_scale = element(builder, given["scales"], i64(block), floats)
            value = builder.fmul(products.values(sums, correction, scale), query_scale)
            place = builder.add(builder.mul(at, i64(blocks)), i64(block))
            builder.store(value, builder.gep(given["values"], [place], source_etype=floats), align=4)
    builder.ret_void()


def build_round(module: ir.Module, level: Level, blocks: int) -> None:
    """Add `round_table` to a module."""
    builder, given = function(module, ROUND, ROUND_ARGUMENTS)
    floats = ir.VectorType(f32, level.lanes)
    with count(builder, i64(0), given["count"]) as at:
        for block in range(blocks):
            place = builder.add(builder.mul(at, i64(blocks)), i64(block))
            value = element(builder, given["values"], place, floats)
            _store_bytes(builder, level, given, block, value, "table", place)
    builder.ret_void()


def _store_bytes(
    builder: ir.IRBuilder,
    level: Level,
    given: Mapping[str, ir.Value],
    block: int,
    value: ir.Value,
    target: str,
    place: ir.Value,
) -> None:
    """Make bytes of the values of a block, by its floors and steps, and store them as number `place` of `target`."""
    floats, bytes_ = ir.VectorType(f32, level.lanes), ir.VectorType(i8, level.lanes)
    lowest, highest = (ir.Constant(floats, [end] * level.lanes) for end in (0.0, 255.0))
    floor, step = (element(builder, given[name], i64(block), floats) for name in ("floors", "steps"))
    scaled = larger_float(builder, builder.fmul(builder.fsub(value, floor), step), lowest)
    capped = builder.select(builder.fcmp_ordered("<", scaled, highest), scaled, highest)
    whole = builder.fptosi(capped, ir.VectorType(i32, level.lanes))
    builder.store(builder.trunc(whole, bytes_), builder.gep(given[target], [place], source_etype=bytes_), align=1)


def build_outliers(module: ir.Module, level: Level, bits: int, blocks: int) -> None:
    """Add `outlier_bytes`, for codes of `bits`, to a module."""
    builder, given = function(module, OUTLIERS, OUTLIERS_ARGUMENTS)
    products = Products(builder, level, bits, blocks, given["query"], given["row_bytes"])
    with count(builder, i64(0), given["segment_count"]) as number:
        row = builder.gep(given["segments"], [builder.mul(number, i64(len(Field)))], source_etype=i64)
        segment = Walk(builder, row)
        start, stop = segment.share(Field.FIRST_OUTLIER)
        start_here = builder.select(builder.icmp_signed(">", start, given["first"]), start, given["first"])
        stop_here = builder.select(builder.icmp_signed("<", stop, given["last"]), stop, given["last"])
        with count(builder, start_here, stop_here, products.tile) as tile:
            _outlier_tile(products, given, segment, start, tile, stop_here)
    builder.ret_void()


def _outlier_tile(
    products: Products, given: Mapping[str, ir.Value], segment: Walk, start: ir.Value, tile: ir.Value, stop: ir.Value
) -> None:
    """The bytes of a tile of outliers of a segment, whose first one is `start`; past `stop` the last is repeated."""
    builder, level = products.builder, products.level
    floats = ir.VectorType(f32, level.lanes)
    codes, scales = segment.array(Field.OUTLIER_CODES), segment.array(Field.OUTLIER_SCALES)
    last = builder.sub(stop, i64(1))
    outliers = [builder.add(tile, i64(number)) for number in range(products.tile)]
    outliers = [builder.select(builder.icmp_signed("<", one, last), one, last) for one in outliers]
    ordinals = [builder.sub(one, start) for one in outliers]
    rows = [builder.gep(codes, [builder.mul(one, products.row_bytes)], source_etype=i8) for one in ordinals]
    for outlier, ordinal, sums in zip(outliers, ordinals, products.sums(rows), strict=True):
        code_scale = element(builder, scales, ordinal, i16)
        for block in range(products.blocks):
            correction = element(builder, given["corrections"], i64(block), products.integers)
            scale, offset = (element(builder, given[name], i64(block), floats) for name in ("scales", "offsets"))
            value = builder.fmul(products.values(sums[block], correction, code_scale), scale)
            place = builder.add(builder.mul(outlier, i64(products.blocks)), i64(block))
            _store_bytes(builder, level, given, block, builder.fadd(value, offset), "outliers", place)


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
            ordinal = walk.seek(passage)
            start, stop = walk.span(Field.CENTROID_OFFSETS, ordinal)
            ids = walk.array(Field.CENTROID_IDS)
            best = Variable(builder, ir.Constant(row_kind, [0] * columns))
            with count(builder, start, stop) as at:
                own = builder.zext(element(builder, ids, at, ir.IntType(8 * id_bytes)), i64)
                _raise_best(builder, best, given["table"], builder.and_(own, given["mask"]))
            start, stop = walk.span(Field.OUTLIER_OFFSETS, ordinal)
            first_outlier = walk.field(Field.FIRST_OUTLIER)
            with count(builder, start, stop) as at:
                _raise_best(builder, best, given["outliers"], builder.add(first_outlier, at))
            total = builder.zext(builder.call(add_up, [builder.zext(best.get(), wide)]), i32)
            builder.store(builder.add(before, total), place)
    builder.ret_void()


def _raise_best(builder: ir.IRBuilder, best: Variable, rows: ir.Value, number: ir.Value) -> None:
    """Keep in each column the larger of `best` and row `number`."""
    kind = best.get().type
    # By bytes: LLVM pads a vector in memory to a power of two, the rows are not.
    start = builder.mul(number, i64(kind.count))
    row = builder.load(builder.gep(rows, [start], source_etype=i8), typ=kind, align=1)
    best.set(builder.select(builder.icmp_unsigned(">", row, best.get()), row, best.get()))
