"""The kernels that find the nearest centroid of token vectors, which lie in the lanes here.

`nearest` looks at all centroids. Where they are in groups, `nearness` tells how near each vector is to the centre of
each group, and `nearest_in_groups` looks at the centroids of those groups that are near enough: a group at a time, with
the vectors that look there gathered into the lanes.

How near is the product less half of the squared length of the centroid: the greatest is that of the least distance.
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
    pointer,
    repeated,
    smaller,
    splat,
)
from serving.kernels.levels import Level
from serving.kernels.products import Products

_CENTROIDS = {
    "row_bytes": i64,
    "codes": pointer,  # u8 [count, row_bytes]
    "code_scales": pointer,  # f16 [count]
    "half_norms": pointer,  # f32 [count]
}
_FILLINGS = {
    "fillings": i64,  # of all lanes of all blocks, by token vectors
    "query": pointer,  # i8, see products.py, of each filling
    "corrections": pointer,  # i32 [fillings, lanes of all blocks]
    "scales": pointer,  # f32 [fillings, lanes of all blocks]
}

NEAREST = "nearest"
NEAREST_ARGUMENTS = {
    "count": i64,  # centroids
    **_CENTROIDS,
    **_FILLINGS,
    "ids": pointer,  # i32 [fillings, lanes of all blocks], written: of equals, the first
}

NEARNESS = "nearness"
NEARNESS_ARGUMENTS = {
    "count": i64,  # centres
    **_CENTROIDS,
    **_FILLINGS,
    "nearness": pointer,  # f32 [count, fillings, lanes of all blocks], written
    "least": pointer,  # f32 [fillings, lanes of all blocks], written: of each vector, the greatest but `probes` - 1
}

IN_GROUPS = "nearest_in_groups"
IN_GROUPS_ARGUMENTS = {
    "groups": i64,
    "starts": pointer,  # i64 [groups + 1]: each group's first centroid, in the order of `members`
    "members": pointer,  # i32: the centroids' ids, by group
    **_CENTROIDS,  # in that order
    "vectors": i64,
    "words": i64,  # of four levels each
    "levels": pointer,  # i8 [vectors, 4 · words]
    "corrections": pointer,  # i32 [vectors]
    "scales": pointer,  # f32 [vectors]
    "stride": i64,
    "nearness": pointer,  # f32 [groups, stride], of which the first `vectors` of each row are theirs
    "least": pointer,  # f32 [vectors]: how near a group must be
    "chosen": pointer,  # i32 [vectors], of this call alone
    "work": pointer,  # i8 [(words + 4) · 4 · lanes of all blocks], of this call alone
    "best": pointer,  # f32 [vectors], raised
    "ids": pointer,  # i32 [vectors], written where `best` is raised, or an equal has a lower id
}

Given = Mapping[str, ir.Value]


def build_nearest(module: ir.Module, level: Level, blocks: int) -> None:
    """Add `nearest` to a module."""
    builder, given = function(module, NEAREST, NEAREST_ARGUMENTS)
    with count(builder, i64(0), given["fillings"]) as filling:
        own = _of_filling(builder, given, filling, blocks * level.lanes, ("corrections", "scales", "ids"))
        products = Products(builder, level, 8, (level.lanes,) * blocks, own["query"], given["row_bytes"])
        ids, _ = _nearest(products, own, i64(0), given["count"])
        _store(products, own["ids"], ids)
    builder.ret_void()


def build_nearness(module: ir.Module, level: Level, blocks: int, probes: int) -> None:
    """Add `nearness` to a module."""
    builder, given = function(module, NEARNESS, NEARNESS_ARGUMENTS)
    floats = ir.VectorType(f32, level.lanes)
    with count(builder, i64(0), given["fillings"]) as filling:
        own = _of_filling(builder, given, filling, blocks * level.lanes, ("corrections", "scales", "least"))
        products = Products(builder, level, 8, (level.lanes,) * blocks, own["query"], given["row_bytes"])
        greatest = [_lowest(products, probes) for _ in range(blocks)]
        with count(builder, i64(0), given["count"]) as at:
            row = builder.gep(given["codes"], [builder.mul(at, given["row_bytes"])], source_etype=i8)
            for block, sums in enumerate(products.sums([row])[0]):
                value = _nearness(products, own, at, block, sums)
                place = builder.add(builder.mul(builder.mul(at, given["fillings"]), i64(blocks)), i64(block))
                place = builder.add(place, builder.mul(filling, i64(blocks)))
                builder.store(value, builder.gep(given["nearness"], [place], source_etype=floats), align=4)
                _insert(builder, greatest[block], value)
        _store(products, own["least"], [held[-1] for held in greatest])
    builder.ret_void()


def build_nearest_in_groups(module: ir.Module, level: Level, blocks: int) -> None:
    """Add `nearest_in_groups` to a module."""
    builder, given = function(module, IN_GROUPS, IN_GROUPS_ARGUMENTS)
    lanes = blocks * level.lanes
    query_bytes = builder.mul(given["words"], i64(4 * lanes))
    parts = {"query": given["work"]}
    for number, name in enumerate(("corrections", "scales", "near", "found")):
        at = builder.add(query_bytes, i64(4 * lanes * number))
        parts[name] = builder.gep(given["work"], [at], source_etype=i8)
    own = {**given, **parts}
    products = Products(builder, level, 8, (level.lanes,) * blocks, own["query"], given["row_bytes"])
    with count(builder, i64(0), given["groups"]) as group:
        start = element(builder, given["starts"], group, i64)
        stop = element(builder, given["starts"], builder.add(group, i64(1)), i64)
        with builder.if_then(builder.icmp_signed("<", start, stop)):
            chosen = _choose(builder, given, group)
            with count(builder, i64(0), chosen, lanes) as first:
                _gather(builder, given, own, first, chosen, lanes)
                ids, values = _nearest(products, own, start, stop)
                _store(products, own["found"], ids)
                _store(products, own["near"], values)
                _keep_better(builder, own, first, chosen, lanes)
    builder.ret_void()


def _of_filling(
    builder: ir.IRBuilder, given: Given, filling: ir.Value, lanes: int, names: tuple[str, ...]
) -> dict[str, ir.Value]:
    """The arguments, of which the query and those of four bytes a lane that are named are the filling's own."""
    query_bytes = builder.mul(builder.and_(builder.add(given["row_bytes"], i64(3)), i64(-4)), i64(lanes))
    own = dict(given)
    own["query"] = builder.gep(given["query"], [builder.mul(filling, query_bytes)], source_etype=i8)
    for name in names:
        own[name] = builder.gep(given[name], [builder.mul(filling, i64(lanes))], source_etype=i32)
    return own


def _lowest(products: Products, count_: int) -> list[Variable]:
    lowest = repeated(f32(float("-inf")), products.level.lanes)
    return [Variable(products.builder, lowest) for _ in range(count_)]


def _nearest(
    products: Products, given: Given, start: ir.Value, stop: ir.Value
) -> tuple[list[Variable], list[Variable]]:
    """Of centroids `start` to `stop` - 1, the nearest to each lane, and how near; of equals, the first."""
    builder, level, blocks = products.builder, products.level, products.blocks
    greatest, ids = _lowest(products, blocks), [Variable(builder, repeated(i32(0), level.lanes)) for _ in range(blocks)]
    last = builder.sub(stop, i64(1))
    with count(builder, start, stop, products.tile) as first:
        # A tile past the end repeats the last centroid, which is not greater than itself.
        rows = [builder.add(first, i64(number)) for number in range(products.tile)]
        rows = [smaller(builder, row, last) for row in rows]
        places = [builder.gep(given["codes"], [builder.mul(row, given["row_bytes"])], source_etype=i8) for row in rows]
        for row, sums in zip(rows, products.sums(places), strict=True):
            number = splat(builder, builder.trunc(row, i32), level.lanes)
            for block in range(blocks):
                closer = _nearness(products, given, row, block, sums[block])
                better = builder.fcmp_ordered(">", closer, greatest[block].get())
                greatest[block].set(builder.select(better, closer, greatest[block].get()))
                ids[block].set(builder.select(better, number, ids[block].get()))
    return ids, greatest


def _nearness(products: Products, given: Given, row: ir.Value, block: int, sums: ir.Value) -> ir.Value:
    """How near the vectors of a block are to centroid `row`."""
    builder = products.builder
    scale = element(builder, given["code_scales"], row, i16)
    half_norm = splat(builder, element(builder, given["half_norms"], row, f32), products.level.lanes)
    correction = products.element(given["corrections"], block, i32)
    query_scale = products.element(given["scales"], block, f32)
    return builder.fsub(builder.fmul(products.values(sums, correction, scale), query_scale), half_norm)


def _insert(builder: ir.IRBuilder, greatest: list[Variable], value: ir.Value) -> None:
    """Put a value among the greatest, in falling order: what is pushed out goes on to the next, and is lost at last."""
    for held in greatest:
        before = held.get()
        is_greater = builder.fcmp_ordered(">", before, value)
        held.set(builder.select(is_greater, before, value))
        value = builder.select(is_greater, value, before)


def _store(products: Products, place: ir.Value, found: list[Variable]) -> None:
    """Write a register of each block, one after the other."""
    for block, own in enumerate(found):
        value = own.get()
        at = products.builder.gep(place, [i64(block)], source_etype=value.type)
        products.builder.store(value, at, align=4)


def _choose(builder: ir.IRBuilder, given: Given, group: ir.Value) -> ir.Value:
    """Write the numbers of the vectors that look into a group to `chosen`. Returns how many they are."""
    row = builder.gep(given["nearness"], [builder.mul(group, given["stride"])], source_etype=f32)
    chosen = Variable(builder, i64(0))
    with count(builder, i64(0), given["vectors"]) as vector:
        number = builder.trunc(vector, i32)
        builder.store(number, builder.gep(given["chosen"], [chosen.get()], source_etype=i32))
        near, least = (element(builder, one, vector, f32) for one in (row, given["least"]))
        looks = builder.fcmp_ordered(">=", near, least)
        chosen.set(builder.add(chosen.get(), builder.zext(looks, i64)))
    return chosen.get()


def _gather(builder: ir.IRBuilder, given: Given, own: Given, first: ir.Value, chosen: ir.Value, lanes: int) -> None:
    """Bring `lanes` of the chosen vectors into the lanes; past the end the last is repeated."""
    last = builder.sub(chosen, i64(1))
    with count(builder, i64(0), i64(lanes)) as lane:
        at = builder.add(first, lane)
        at = smaller(builder, at, last)
        vector = builder.zext(element(builder, given["chosen"], at, i32), i64)
        levels = builder.gep(given["levels"], [builder.mul(vector, given["words"])], source_etype=i32)
        with count(builder, i64(0), given["words"]) as word:
            place = builder.add(builder.mul(word, i64(lanes)), lane)
            _copy(builder, i32, levels, word, own["query"], place)
        _copy(builder, i32, given["corrections"], vector, own["corrections"], lane)
        _copy(builder, f32, given["scales"], vector, own["scales"], lane)


def _copy(
    builder: ir.IRBuilder, kind: ir.Type, source: ir.Value, at: ir.Value, target: ir.Value, place: ir.Value
) -> None:
    value = element(builder, source, at, kind)
    builder.store(value, builder.gep(target, [place], source_etype=kind), align=1)


def _keep_better(builder: ir.IRBuilder, own: Given, first: ir.Value, chosen: ir.Value, lanes: int) -> None:
    """Raise `best` where a lane found a nearer centroid; of equals, the one with the lowest id stays."""
    rest = builder.sub(chosen, first)
    filled = smaller(builder, rest, i64(lanes))
    with count(builder, i64(0), filled) as lane:
        vector = builder.zext(element(builder, own["chosen"], builder.add(first, lane), i32), i64)
        near, best = element(builder, own["near"], lane, f32), element(builder, own["best"], vector, f32)
        member = builder.zext(element(builder, own["found"], lane, i32), i64)
        new, old = element(builder, own["members"], member, i32), element(builder, own["ids"], vector, i32)
        is_equal = builder.and_(builder.fcmp_ordered("==", near, best), builder.icmp_signed("<", new, old))
        with builder.if_then(builder.or_(builder.fcmp_ordered(">", near, best), is_equal)):
            builder.store(near, builder.gep(own["best"], [vector], source_etype=f32))
            builder.store(new, builder.gep(own["ids"], [vector], source_etype=i32))
