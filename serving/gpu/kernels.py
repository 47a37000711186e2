"""The kernels of a search on a GPU, in Triton: what `serving/kernels` says for a processor, with the same results.

A row of `segments` is that of `serving/kernels/segments.py`: the segment's first passage and first outlier, then
addresses. `segment_of` has each passage's row and `outlier_segment_of` each outlier's, so that one launch serves all
segments and none needs a search.

A tile past the end of a passage repeats the last token, which changes no maximum; so passages need no padding.
No product may be fused with a sum (SPEC §6.2): every launch says `enable_fp_fusion=False` (launches.py).

Two steps are written in the assembler's words, because what Triton makes of bytes takes a register for each: codes
are unpacked four at a time, and bytes are compared two at a time. The interpreter has no assembler, so beside each
stands what it means; `python -m benchmarks.gpu` holds both against the processor.
"""

from __future__ import annotations

import triton
import triton.language as tl

from serving.kernels.segments import Field

FIELDS = tl.constexpr(len(Field))
FIRST_PASSAGE = tl.constexpr(int(Field.FIRST_PASSAGE))
FIRST_OUTLIER = tl.constexpr(int(Field.FIRST_OUTLIER))
TOKEN_OFFSETS = tl.constexpr(int(Field.TOKEN_OFFSETS))
CODES = tl.constexpr(int(Field.CODES))
SCALES = tl.constexpr(int(Field.SCALES))
CENTROID_OFFSETS = tl.constexpr(int(Field.CENTROID_OFFSETS))
CENTROID_IDS = tl.constexpr(int(Field.CENTROID_IDS))
OUTLIER_OFFSETS = tl.constexpr(int(Field.OUTLIER_OFFSETS))
OUTLIER_CODES = tl.constexpr(int(Field.OUTLIER_CODES))
OUTLIER_SCALES = tl.constexpr(int(Field.OUTLIER_SCALES))
LOWEST = tl.constexpr(float("-inf"))
TABLE_TOP = tl.constexpr(255.0)
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))

SIZES = ["count", "centroids", "queries", "stride"]
"""Arguments that differ from query to query, or from version to version: no value of theirs is compiled for."""


@triton.jit
def _span(row, offsets_field: tl.constexpr, passage):
    """First item of a passage in its segment, and one past its last, as int64."""
    offsets = tl.load(row + offsets_field).to(tl.pointer_type(tl.uint32))
    ordinal = passage - tl.load(row + FIRST_PASSAGE)
    return tl.load(offsets + ordinal).to(tl.int64), tl.load(offsets + ordinal + 1).to(tl.int64)


@triton.constexpr_function
def _unpacking(bits, plane):
    """Four packed bytes to the four codes of a plane, as assembly of PTX."""
    if bits == 8:
        return "xor.b32 $0, $1, 0x80808080;"
    mask = ((1 << bits) - 1) * 0x01010101
    return f"{{.reg .b32 moved; shr.b32 moved, $1, {plane * bits}; and.b32 $0, moved, {mask};}}"


@triton.jit
def _digits(packed, BITS: tl.constexpr, PLANE: tl.constexpr):
    """The codes of a plane in packed bytes: int8. Those of 8 bits less 128, which the corrections know."""
    if not INTERPRETED:
        digits = tl.inline_asm_elementwise(
            _unpacking(BITS, PLANE), "=r,r", [packed], dtype=tl.int8, is_pure=True, pack=4
        )
    elif BITS == 8:
        digits = (packed ^ 128).to(tl.int8, bitcast=True)
    else:
        digits = ((packed >> (PLANE * BITS)) & ((1 << BITS) - 1)).to(tl.int8, bitcast=True)
    return digits


@triton.jit
def _levels(query, BITS: tl.constexpr, DIM: tl.constexpr, VECTORS: tl.constexpr, BYTES: tl.constexpr):
    """The query's levels, int8 [BYTES, VECTORS] for each chunk of packed bytes and each plane of it.

    Loaded once, before any loop.
    """
    WIDTH: tl.constexpr = DIM * BITS // 8
    vectors = tl.arange(0, VECTORS)
    levels = ()
    for chunk in tl.static_range((WIDTH + BYTES - 1) // BYTES):
        byte = chunk * BYTES + tl.arange(0, BYTES)
        for plane in tl.static_range(8 // BITS):
            own = query + vectors[None, :] * DIM + plane * WIDTH + byte[:, None]
            if WIDTH % BYTES == 0:
                levels += (tl.load(own),)  # type: ignore[assignment]
            else:
                levels += (tl.load(own, mask=byte[:, None] < WIDTH, other=0),)  # type: ignore[assignment]
    return levels


@triton.jit
def _values(
    rows, scales, levels, corrections, BITS: tl.constexpr, DIM: tl.constexpr, VECTORS: tl.constexpr,
    ROWS: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """float32(Σ q · (2c - (2^BITS - 1))) · scale of rows of codes against all query vectors: float32 [ROWS, VECTORS].

    rows: where each begins. scales: where each one's scale is. levels: as `_levels` has them.
    """
    WIDTH: tl.constexpr = DIM * BITS // 8
    PLANES: tl.constexpr = 8 // BITS
    sums = tl.zeros([ROWS, VECTORS], tl.int32)
    for chunk in tl.static_range((WIDTH + BYTES - 1) // BYTES):
        byte = chunk * BYTES + tl.arange(0, BYTES)
        places = rows[:, None] + byte[None, :]
        packed = tl.load(places) if WIDTH % BYTES == 0 else tl.load(places, mask=byte[None, :] < WIDTH, other=0)
        for plane in tl.static_range(PLANES):
            sums = tl.dot(_digits(packed, BITS, plane), levels[chunk * PLANES + plane], sums, out_dtype=tl.int32)
    exact = (2 * sums - corrections[None, :]).to(tl.float32)
    return exact * tl.load(scales).to(tl.float32)[:, None]


@triton.jit(do_not_specialize=SIZES)
def maxsim(
    chosen, count, found, segments, segment_of, query, corrections, query_scales, offsets, parts,
    edges, queries, totals, stride,
    LISTED: tl.constexpr, ADDED: tl.constexpr, SEVERAL: tl.constexpr, BITS: tl.constexpr, DIM: tl.constexpr,
    VECTORS: tl.constexpr, TOKENS: tl.constexpr, BYTES: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """The score of `count` passages, in `totals`; -inf where one may not be found.

    The passages are those in `chosen` (int64), or without a list all. A program takes runs of neighbours: what is read
    of one brings along what the next one needs. Of each passage it writes down the part of every query vector (parts
    float32 [programs · RUN, VECTORS]), and sums them from first to last, for which no reduction of Triton has an order.

    totals: float32 [count], ADDED: to what earlier query vectors gave. SEVERAL: float32 [queries, stride], and `edges`
    int32 [queries + 1] has each query's first lane, and one past the last. Lanes without a vector have parts of zero.
    """
    WIDTH: tl.constexpr = DIM * BITS // 8
    vectors = tl.arange(0, VECTORS)
    levels = _levels(query, BITS, DIM, VECTORS, BYTES)
    correction, scale = tl.load(corrections + vectors), tl.load(query_scales + vectors)
    offset = tl.load(offsets + vectors)
    own_parts = parts + tl.program_id(0) * RUN * VECTORS
    for run in range(tl.program_id(0) * RUN, count, tl.num_programs(0) * RUN):
        for at in range(run, tl.minimum(run + RUN, count)):
            if LISTED:
                passage, wanted = tl.load(chosen + at), True
            else:
                passage, wanted = at, tl.load(found + at) != 0
            if wanted:
                row = segments + tl.load(segment_of + passage).to(tl.int64) * FIELDS
                start, stop = _span(row, TOKEN_OFFSETS, passage)
                last = (stop - start).to(tl.int32) - 1
                codes = tl.multiple_of(tl.load(row + CODES).to(tl.pointer_type(tl.uint8)), 16) + start * WIDTH
                scales = tl.load(row + SCALES).to(tl.pointer_type(tl.float16)) + start
                best = tl.full([TOKENS, VECTORS], LOWEST, tl.float32)
                for token in range(0, last + 1, TOKENS):
                    tokens = tl.minimum(token + tl.arange(0, TOKENS), last)
                    rows = codes + tokens * WIDTH
                    values = _values(rows, scales + tokens, levels, correction, BITS, DIM, VECTORS, TOKENS, BYTES)
                    best = tl.maximum(best, values)
                tl.store(own_parts + (at - run) * VECTORS + vectors, tl.max(best, axis=0) * scale + offset)
        tl.debug_barrier()  # other threads read the parts than those that wrote them
        each = tl.arange(0, RUN)
        inside = run + each < count
        there = inside
        if not LISTED:
            there = tl.load(found + run + each, mask=inside, other=0) != 0
        if SEVERAL:
            place = totals + run + each
            for number in range(queries):
                total = tl.zeros([RUN], tl.float32)
                for vector in range(tl.load(edges + number), tl.load(edges + number + 1)):
                    total += tl.load(own_parts + each * VECTORS + vector, mask=there, other=0.0)
                tl.store(place, tl.where(there, total, LOWEST), mask=inside)
                place += stride
        else:
            total = tl.zeros([RUN], tl.float32)
            if ADDED:
                total = tl.load(totals + run + each, mask=there, other=0.0)
            for vector in tl.static_range(VECTORS):
                total += tl.load(own_parts + each * VECTORS + vector, mask=there, other=0.0)
            tl.store(totals + run + each, tl.where(there, total, LOWEST), mask=inside)
        tl.debug_barrier()


@triton.jit(do_not_specialize=SIZES)
def centroid_bytes(
    count, codes, scales, query, corrections, query_scales, floors, steps, table, DIM: tl.constexpr,
    VECTORS: tl.constexpr, ROWS: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """The product of every centroid (codes of 8 bits) with every query vector as a byte: table uint8 [count, VECTORS].

    Whole steps above the vector's floor.
    """
    vectors = tl.arange(0, VECTORS)
    levels, correction = _levels(query, 8, DIM, VECTORS, BYTES), tl.load(corrections + vectors)
    scale = tl.load(query_scales + vectors)[None, :]
    for first in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        at = first + tl.arange(0, ROWS)
        rows = tl.minimum(at, count - 1).to(tl.int64)
        own = _values(codes + rows * DIM, scales + rows, levels, correction, 8, DIM, VECTORS, ROWS, BYTES)
        whole = _bytes(own * scale, floors, steps, VECTORS)
        tl.store(table + at.to(tl.int64)[:, None] * VECTORS + vectors[None, :], whole, mask=at[:, None] < count)


@triton.jit
def _bytes(values, floors, steps, VECTORS: tl.constexpr):
    """Values as whole steps above their floor, cut to a byte: uint8 like `values`, which has a column a vector."""
    vectors = tl.arange(0, VECTORS)
    scaled = (values - tl.load(floors + vectors)[None, :]) * tl.load(steps + vectors)[None, :]
    return tl.minimum(tl.maximum(scaled, 0.0), TABLE_TOP).to(tl.int32).to(tl.uint8)


@triton.jit(do_not_specialize=SIZES)
def outlier_bytes(
    count, segments, outlier_segment_of, query, corrections, query_scales, offsets, floors, steps, outliers,
    BITS: tl.constexpr, DIM: tl.constexpr, VECTORS: tl.constexpr, ROWS: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """The byte of every outlier for every query vector, as in the table of centroids: outliers uint8 [count, VECTORS].

    Of all passages at once: one has one or two, which would leave most of a tile empty.
    """
    vectors = tl.arange(0, VECTORS)
    levels, correction = _levels(query, BITS, DIM, VECTORS, BYTES), tl.load(corrections + vectors)
    scale, offset = tl.load(query_scales + vectors)[None, :], tl.load(offsets + vectors)[None, :]
    for first in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        at = first + tl.arange(0, ROWS)
        inside = tl.minimum(at, count - 1)
        own = segments + tl.load(outlier_segment_of + inside).to(tl.int64) * FIELDS
        ordinals = inside - tl.load(own + FIRST_OUTLIER)
        codes = tl.load(own + OUTLIER_CODES).to(tl.pointer_type(tl.uint8))
        scales = tl.load(own + OUTLIER_SCALES).to(tl.pointer_type(tl.float16))
        rows = codes + ordinals * (DIM * BITS // 8)
        values = _values(rows, scales + ordinals, levels, correction, BITS, DIM, VECTORS, ROWS, BYTES)
        whole = _bytes(values * scale + offset, floors, steps, VECTORS)
        tl.store(outliers + at.to(tl.int64)[:, None] * VECTORS + vectors[None, :], whole, mask=at[:, None] < count)


@triton.jit
def _spans(rows, offsets_field: tl.constexpr, ordinals):
    """What `_span` says, for a passage of each row."""
    offsets = tl.load(rows + offsets_field).to(tl.pointer_type(tl.uint32)) + ordinals
    return tl.load(offsets).to(tl.int64), tl.load(offsets + 1).to(tl.int64)


@triton.jit
def _larger(one, other):
    """The larger of two bytes in each half of a word: they are numbers of 16 bits, whose order is that of halves."""
    if INTERPRETED:
        larger = tl.maximum(one & 0xFFFF, other & 0xFFFF) | tl.maximum(one & 0xFF0000, other & 0xFF0000)
    else:
        larger = tl.inline_asm_elementwise(
            "max.f16x2 $0, $1, $2;", "=r,r,r", [one, other], dtype=tl.int32, is_pure=True, pack=1
        )
    return larger


@triton.jit(do_not_specialize=SIZES)
def scan(
    count, found, segments, segment_of, centroids, table, outliers, sums, ADDED: tl.constexpr, WIDE: tl.constexpr,
    VECTORS: tl.constexpr, PASSAGES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Each passage's sum over query vectors of its best byte, in `sums` int32; -1 where it is not found.

    The bytes are those of its centroids in the table, and of its outliers. WIDE: centroid ids have four bytes, not two.
    ADDED: to what earlier query vectors gave.

    Each step takes `ROWS` rows of bytes for each of `PASSAGES` passages, so that threads compare what they find only at
    the end; a passage that has no more repeats its last row.
    """
    words = tl.arange(0, VECTORS // 4)[None, None, :]
    at = tl.program_id(0).to(tl.int64) * PASSAGES + tl.arange(0, PASSAGES)
    inside = at < count
    wanted = tl.load(found + at, mask=inside, other=0) != 0
    passages = tl.minimum(at, count - 1)
    own = segments + tl.load(segment_of + passages).to(tl.int64) * FIELDS
    ordinals = passages - tl.load(own + FIRST_PASSAGE)
    start, stop = _spans(own, CENTROID_OFFSETS, ordinals)
    first_outlier, last_outlier = _spans(own, OUTLIER_OFFSETS, ordinals)
    touched = (stop - start).to(tl.int32)
    last = tl.where(wanted, touched + (last_outlier - first_outlier).to(tl.int32) - 1, 0)
    ids = tl.load(own + CENTROID_IDS).to(tl.pointer_type(tl.uint32 if WIDE else tl.uint16)) + start
    beyond = outliers + (tl.load(own + FIRST_OUTLIER) + first_outlier - touched) * VECTORS
    even = tl.zeros([PASSAGES, ROWS, VECTORS // 4], tl.int32)
    odd = tl.zeros([PASSAGES, ROWS, VECTORS // 4], tl.int32)
    for step in range(0, tl.max(last, axis=0) + 1, ROWS):
        place = tl.minimum(step + tl.arange(0, ROWS)[None, :], last[:, None])
        near = place < touched[:, None]
        # A wrong id in a file reads a wrong row, never beyond the table.
        centroid = tl.minimum(tl.load(ids[:, None] + place, mask=near, other=0).to(tl.int64), centroids - 1)
        rows = tl.where(near, table + centroid * VECTORS, beyond[:, None] + place * VECTORS)
        rows = tl.multiple_of(rows, [16, 16]).to(tl.pointer_type(tl.int32))
        packed = tl.load(rows[:, :, None] + words)
        even = _larger(even, packed & 0xFF00FF)
        odd = _larger(odd, (packed >> 8) & 0xFF00FF)
    both = tl.reduce(even, 1, _larger) + tl.reduce(odd, 1, _larger)
    total = tl.sum((both & 0xFFFF) + (both >> 16), axis=1)
    if ADDED:
        total += tl.load(sums + at, mask=inside, other=0)
    tl.store(sums + at, tl.where(wanted, total, -1), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def count_sums(count, sums, histograms, BINS: tl.constexpr, COPIES: tl.constexpr, PASSAGES: tl.constexpr):
    """How many passages have each approximate score: added to `histograms` int32 [COPIES, BINS]. Negative ones are out.

    Most have one of a few hundred scores, and additions to one place wait for each other: so there are copies.
    """
    at = tl.program_id(0).to(tl.int64) * PASSAGES + tl.arange(0, PASSAGES)
    own = tl.load(sums + at, mask=at < count, other=-1)
    tl.atomic_add(histograms + tl.program_id(0) % COPIES * BINS + own, 1, mask=own >= 0, sem="relaxed")
