"""The kernels of the candidate stage: a small table of centroid scores, and a scan of all passages over it.

`centroid_bytes` scores every centroid (in codes of 8 bits) against the query and makes bytes of that: a row of the
table is one centroid, a column one query vector, on one step for all columns, so that bytes of different columns can be
added. `outlier_bytes` makes such rows of the outliers' own codes, of all passages at once: a passage has one or two,
which would leave most of a tile empty. `scan` gives each passage the sum over query vectors of its best byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    prefetch,
    repeated,
    smaller,
)
from serving.kernels.levels import Level
from serving.kernels.products import Products
from serving.kernels.segments import Field, Walk

CENTROIDS = "centroid_bytes"
CENTROIDS_ARGUMENTS = {
    "first": i64,  # centroids first to last - 1
    "last": i64,
    "row_bytes": i64,
    "codes": pointer,  # u8 [centroids, row_bytes]
    "code_scales": pointer,  # f16 [centroids]
    "query": pointer,  # i8, see products.py
    "corrections": pointer,  # i32 [lanes of all blocks]: 255 · Σ levels
    "scales": pointer,  # f32 [lanes of all blocks]
    "offsets": pointer,  # f32 [lanes of all blocks]
    "floors": pointer,  # f32 [lanes of all blocks]: what becomes 0
    "steps": pointer,  # f32 [lanes of all blocks]: bytes per unit, 0 in a lane without a query vector
    "table": pointer,  # u8 [centroids, lanes of all blocks], written as far as blocks are wide
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
    "floors": pointer,  # as in `centroid_bytes`
    "steps": pointer,
    "outliers": pointer,  # u8 [outliers of all segments, lanes of all blocks], written as far as blocks are wide
}

SCAN = "scan"
SCAN_ARGUMENTS = {
    "count": i64,  # passages to scan
    "passages": pointer,  # i64 [count], ascending
    "segments": pointer,  # SegmentTable.rows
    "table": pointer,  # u8 [a power of two, lanes of all blocks]
    "mask": i64,  # that power of two less one: a wrong id in a file reads a wrong row, never beyond the table
    "outliers": pointer,  # u8 [outliers of all segments, lanes of all blocks]
    "sums": pointer,  # i32 [count], added to
}
_AHEAD = 4  # passages whose ids are fetched meanwhile, where few of many are scanned
_AHEAD_LINES = 3  # of them: some hundred ids


def build_centroids(module: ir.Module, level: Level, widths: tuple[int, ...]) -> None:
    """Add `centroid_bytes` to a module."""
    builder, given = function(module, CENTROIDS, CENTROIDS_ARGUMENTS)
    products = Products(builder, level, 8, widths, given["query"], given["row_bytes"])
    coded = _Coded(given["codes"], given["code_scales"], i64(0))
    with count(builder, given["first"], given["last"], products.tile) as tile:
        _store_tile(products, given, coded, tile, given["last"], given["table"])
    builder.ret_void()


def build_outliers(module: ir.Module, level: Level, bits: int, widths: tuple[int, ...]) -> None:
    """Add `outlier_bytes`, for codes of `bits`, to a module."""
    builder, given = function(module, OUTLIERS, OUTLIERS_ARGUMENTS)
    products = Products(builder, level, bits, widths, given["query"], given["row_bytes"])
    with count(builder, i64(0), given["segment_count"]) as number:
        row = builder.gep(given["segments"], [builder.mul(number, i64(len(Field)))], source_etype=i64)
        segment = Walk(builder, row)
        start, stop = segment.share(Field.FIRST_OUTLIER)
        start_here = builder.select(builder.icmp_signed(">", start, given["first"]), start, given["first"])
        stop_here = smaller(builder, stop, given["last"])
        coded = _Coded(segment.array(Field.OUTLIER_CODES), segment.array(Field.OUTLIER_SCALES), start)
        with count(builder, start_here, stop_here, products.tile) as tile:
            _store_tile(products, given, coded, tile, stop_here, given["outliers"])
    builder.ret_void()


@dataclass(frozen=True, slots=True)
class _Coded:
    """Where coded vectors lie, the first of which is number `first`. codes: u8 [n, row_bytes]. scales: f16 [n]."""

    codes: ir.Value
    scales: ir.Value
    first: ir.Value


def _store_tile(
    products: Products, given: Mapping[str, ir.Value], coded: _Coded, tile: ir.Value, stop: ir.Value, target: ir.Value
) -> None:
    """The bytes of a tile of coded vectors, in their places of `target`; past `stop` the last vector is repeated."""
    builder = products.builder
    last = builder.sub(stop, i64(1))
    numbers = [builder.add(tile, i64(number)) for number in range(products.tile)]
    numbers = [smaller(builder, one, last) for one in numbers]
    places = [builder.sub(one, coded.first) for one in numbers]
    rows = [builder.gep(coded.codes, [builder.mul(one, products.row_bytes)], source_etype=i8) for one in places]
    for number, place, sums in zip(numbers, places, products.sums(rows), strict=True):
        code_scale = element(builder, coded.scales, place, i16)
        for block in range(products.blocks):
            correction = products.element(given["corrections"], block, i32)
            scale, offset = (products.element(given[name], block, f32) for name in ("scales", "offsets"))
            value = builder.fadd(builder.fmul(products.values(sums[block], correction, code_scale), scale), offset)
            at = builder.add(builder.mul(number, i64(products.blocks)), i64(block))
            place = builder.gep(target, [builder.mul(at, i64(products.level.lanes))], source_etype=i8)
            _store_bytes(products, given, block, value, place)


def _store_bytes(
    products: Products, given: Mapping[str, ir.Value], block: int, value: ir.Value, place: ir.Value
) -> None:
    """Make bytes of the values of a block, by its floors and steps, and store them."""
    builder, width = products.builder, products.widths[block]
    lowest, highest = (repeated(f32(end), width) for end in (0.0, 255.0))
    floor, step = (products.element(given[name], block, f32) for name in ("floors", "steps"))
    scaled = larger_float(builder, builder.fmul(builder.fsub(value, floor), step), lowest)
    capped = builder.select(builder.fcmp_ordered("<", scaled, highest), scaled, highest)
    whole = builder.fptosi(capped, ir.VectorType(i32, width))
    builder.store(builder.trunc(whole, ir.VectorType(i8, width)), place, align=1)


def build_scan(module: ir.Module, level: Level, blocks: int, id_bytes: int) -> None:
    """Add `scan` to a module, for centroid ids of 2 or 4 bytes."""
    builder, given = function(module, SCAN, SCAN_ARGUMENTS)
    row_kind = ir.VectorType(i8, level.lanes * blocks)
    walk = Walk(builder, given["segments"])
    last = builder.sub(given["count"], i64(1))
    with count(builder, i64(0), given["count"]) as number:
        ordinal = walk.seek(element(builder, given["passages"], number, i64))
        ids = walk.array(Field.CENTROID_IDS)
        later = smaller(builder, builder.add(number, i64(_AHEAD)), last)
        start, _ = walk.span(Field.CENTROID_OFFSETS, walk.ahead(element(builder, given["passages"], later, i64)))
        prefetch(builder, builder.gep(ids, [start], source_etype=ir.IntType(8 * id_bytes)), _AHEAD_LINES)
        best = Variable(builder, ir.Constant(row_kind, [0] * row_kind.count))
        start, stop = walk.span(Field.CENTROID_OFFSETS, ordinal)
        with count(builder, start, stop) as at:
            own = builder.zext(element(builder, ids, at, ir.IntType(8 * id_bytes)), i64)
            raise_best(builder, best, given["table"], builder.and_(own, given["mask"]))
        start, stop = walk.span(Field.OUTLIER_OFFSETS, ordinal)
        first_outlier = walk.field(Field.FIRST_OUTLIER)
        with count(builder, start, stop) as at:
            raise_best(builder, best, given["outliers"], builder.add(first_outlier, at))
        place = builder.gep(given["sums"], [number], source_etype=i32)
        builder.store(builder.add(builder.load(place, typ=i32), sum_of_bytes(builder, best.get())), place)
    builder.ret_void()


def row_of_bytes(builder: ir.IRBuilder, rows: ir.Value, number: ir.Value, kind: ir.VectorType) -> ir.Value:
    """Row `number` of a table of bytes."""
    # By bytes: LLVM pads a vector in memory to a power of two, the rows are not.
    start = builder.mul(number, i64(kind.count))
    return builder.load(builder.gep(rows, [start], source_etype=i8), typ=kind, align=1)


def raise_best(builder: ir.IRBuilder, best: Variable, rows: ir.Value, number: ir.Value) -> None:
    """Keep in each column the larger of `best` and row `number`."""
    row = row_of_bytes(builder, rows, number, best.get().type)
    best.set(builder.select(builder.icmp_unsigned(">", row, best.get()), row, best.get()))


def sum_of_bytes(builder: ir.IRBuilder, row: ir.Value) -> ir.Value:
    """The sum of a row of bytes, as i32."""
    columns = row.type.count
    wide = ir.VectorType(i16, columns)
    add_up = intrinsic(builder, f"llvm.vector.reduce.add.v{columns}i16", i16, [wide])
    return builder.zext(builder.call(add_up, [builder.zext(row, wide)]), i32)
