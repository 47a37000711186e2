"""The kernels that bound approximate scores from above, without a look at most centroid ids.

`probes` finds, for each query vector, the byte that few centroids exceed (its floor), and those that do. `gains` goes
through the postings of those and adds to each passage what its best centroid exceeds the floor by. `bounds` adds the
floors themselves, or a passage's outliers where they exceed them. What a passage touches else is at most the floor, so
the sum is at least its approximate score.
"""

from __future__ import annotations

from llvmlite import ir

from serving.kernels.centroids import raise_best, row_of_bytes, sum_of_bytes
from serving.kernels.ir_loops import (
    Variable,
    count,
    element,
    function,
    i8,
    i16,
    i32,
    i64,
    intrinsic,
    pointer,
    prefetch,
    smaller,
    splat,
)
from serving.kernels.levels import Level
from serving.kernels.segments import Field, Walk

PROBES = "probes"
PROBES_ARGUMENTS = {
    "rows": i64,  # of the table
    "table": pointer,  # u8 [rows, lanes of all blocks], see centroids.py
    "wanted": i64,  # fewer centroids than this are above each floor
    "floors": pointer,  # u8 [lanes of all blocks], written
    "keys": pointer,  # i64 [lanes of all blocks · wanted], written as far as there are any
    "found": pointer,  # i64, written: how many keys there are
}
"""A key is one centroid above the floor of one query vector: lane << 48 | 255 - (byte - floor) << 40 | centroid. When
they are sorted those of a vector lie together, the greatest byte first."""

GAINS = "gains"
GAINS_ARGUMENTS = {
    "keys": pointer,  # i64 [count], ascending
    "count": i64,
    "starts": pointer,  # i32 [centroids + 1], of a block of postings
    "passages": pointer,  # u16
    "gains": pointer,  # i32 [passages of the block], 0 at first; then gain << 8 | 1 + the lane that was added last
}

BOUNDS = "bounds"
BOUNDS_ARGUMENTS = {
    "first": i64,  # passages first to last - 1 over all segments
    "last": i64,
    "segments": pointer,  # SegmentTable.rows
    "floors": pointer,  # u8 [lanes of all blocks]
    "outliers": pointer,  # u8 [outliers of all segments, lanes of all blocks]
    "gains": pointer,  # i32 [passages]
    "sums": pointer,  # i32 [passages], added to; a negative one marks a passage that is left alone
}

_LANE, _GAIN = 48, 40  # where they begin in a key
_CHUNK = 255  # rows that are counted in bytes
_AHEAD = 2  # keys whose postings are fetched meanwhile
_AHEAD_LINES = 3  # of them: some hundred passages, and a processor guesses the rest


def build_probes(module: ir.Module, level: Level, blocks: int) -> None:
    """Add `probes` to a module."""
    builder, given = function(module, PROBES, PROBES_ARGUMENTS)
    kind = ir.VectorType(i8, level.lanes * blocks)
    floor = Variable(builder, ir.Constant(kind, [0] * kind.count))
    with count(builder, i64(0), i64(8)) as place:  # the bits of a byte, the highest first
        bit = builder.lshr(i8(128), builder.trunc(place, i8))
        higher = builder.or_(floor.get(), splat(builder, bit, kind.count))
        reached = _rows_that_reach(builder, given["rows"], given["table"], higher)
        wanted = splat(builder, builder.trunc(given["wanted"], i32), kind.count)
        floor.set(builder.select(builder.icmp_signed(">=", reached, wanted), higher, floor.get()))
    builder.store(floor.get(), given["floors"], align=1)
    _store_keys(builder, given, floor.get())
    builder.ret_void()


def _rows_that_reach(builder: ir.IRBuilder, rows: ir.Value, table: ir.Value, least: ir.Value) -> ir.Value:
    """How many rows have at least the byte of `least` in each column: <columns x i32>."""
    kind = least.type
    wide = ir.VectorType(i32, kind.count)
    reached = Variable(builder, ir.Constant(wide, [0] * kind.count))
    with count(builder, i64(0), rows, _CHUNK) as start:
        end = smaller(builder, builder.add(start, i64(_CHUNK)), rows)
        near = Variable(builder, ir.Constant(kind, [0] * kind.count))
        with count(builder, start, end) as number:
            reaches = builder.icmp_unsigned(">=", row_of_bytes(builder, table, number, kind), least)
            near.set(builder.sub(near.get(), builder.sext(reaches, kind)))
        reached.set(builder.add(reached.get(), builder.zext(near.get(), wide)))
    return reached.get()


def _store_keys(builder: ir.IRBuilder, given: dict[str, ir.Value], floor: ir.Value) -> None:
    """The keys of all centroids above the floor of a column, in the order of centroids."""
    kind = floor.type
    cttz = intrinsic(builder, "llvm.cttz.i64", i64, [i64, ir.IntType(1)])
    ctpop = intrinsic(builder, "llvm.ctpop.i64", i64, [i64])
    found = Variable(builder, i64(0))
    with count(builder, i64(0), given["rows"]) as number:
        above = builder.icmp_unsigned(">", row_of_bytes(builder, given["table"], number, kind), floor)
        rest = Variable(builder, builder.zext(builder.bitcast(above, ir.IntType(kind.count)), i64))
        with count(builder, i64(0), builder.call(ctpop, [rest.get()])):
            lane = builder.call(cttz, [rest.get(), ir.IntType(1)(1)])
            rest.set(builder.and_(rest.get(), builder.sub(rest.get(), i64(1))))
            at = builder.add(builder.mul(number, i64(kind.count)), lane)
            gain = builder.sub(element(builder, given["table"], at, i8), element(builder, given["floors"], lane, i8))
            falling = builder.zext(builder.xor(gain, i8(255)), i64)  # 255 - gain
            key = builder.or_(builder.shl(lane, i64(_LANE)), builder.shl(falling, i64(_GAIN)))
            place = builder.gep(given["keys"], [found.get()], source_etype=i64)
            builder.store(builder.or_(key, number), place)
            found.set(builder.add(found.get(), i64(1)))
    builder.store(found.get(), given["found"])


def build_gains(module: ir.Module) -> None:
    """Add `gains` to a module."""
    builder, given = function(module, GAINS, GAINS_ARGUMENTS)
    last = builder.sub(given["count"], i64(1))
    with count(builder, i64(0), given["count"]) as number:
        later = smaller(builder, builder.add(number, i64(_AHEAD)), last)
        start, _ = _postings(builder, given, element(builder, given["keys"], later, i64))
        prefetch(builder, builder.gep(given["passages"], [start], source_etype=i16), _AHEAD_LINES)
        key = element(builder, given["keys"], number, i64)
        mark = builder.trunc(builder.add(builder.lshr(key, i64(_LANE)), i64(1)), i32)
        falling = builder.and_(builder.lshr(key, i64(_GAIN)), i64(255))
        gain = builder.shl(builder.trunc(builder.sub(i64(255), falling), i32), i32(8))
        start, stop = _postings(builder, given, key)
        with count(builder, start, stop) as at:
            passage = builder.zext(element(builder, given["passages"], at, i16), i64)
            place = builder.gep(given["gains"], [passage], source_etype=i32)
            before = builder.load(place, typ=i32)
            # Of a query vector only the first counts, which is the best.
            seen = builder.icmp_unsigned("==", builder.and_(before, i32(255)), mark)
            added = builder.add(builder.and_(before, i32(-256)), builder.select(seen, i32(0), gain))
            builder.store(builder.or_(added, mark), place)
    builder.ret_void()


def _postings(builder: ir.IRBuilder, given: dict[str, ir.Value], key: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Where the postings of a key's centroid begin and end."""
    centroid = builder.and_(key, i64(2**_GAIN - 1))
    ends = [element(builder, given["starts"], builder.add(centroid, i64(end)), i32) for end in (0, 1)]
    start, stop = (builder.zext(end, i64) for end in ends)
    return start, stop


def build_bounds(module: ir.Module, level: Level, blocks: int) -> None:
    """Add `bounds` to a module."""
    builder, given = function(module, BOUNDS, BOUNDS_ARGUMENTS)
    kind = ir.VectorType(i8, level.lanes * blocks)
    floor = builder.load(given["floors"], typ=kind, align=1)
    walk = Walk(builder, given["segments"])
    with count(builder, given["first"], given["last"]) as passage:
        place = builder.gep(given["sums"], [passage], source_etype=i32)
        before = builder.load(place, typ=i32)
        with builder.if_then(builder.icmp_signed(">=", before, i32(0))):
            start, stop = walk.span(Field.OUTLIER_OFFSETS, walk.seek(passage))
            first_outlier = walk.field(Field.FIRST_OUTLIER)
            best = Variable(builder, floor)
            with count(builder, start, stop) as at:
                raise_best(builder, best, given["outliers"], builder.add(first_outlier, at))
            gain = builder.lshr(element(builder, given["gains"], passage, i32), i32(8))
            total = builder.add(sum_of_bytes(builder, best.get()), gain)
            builder.store(builder.add(before, total), place)
    builder.ret_void()
