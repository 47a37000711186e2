"""The kernels of a search on a GPU, in Triton: what `serving/kernels` says for a processor, with the same results.

A row of `segments` is that of `serving/kernels/segments.py`: the segment's first passage and first outlier, then
addresses. `segment_of` has each passage's row and `outlier_segment_of` each outlier's, so that one launch serves all
segments and none needs a search.

A tile past the end of a passage repeats the last token, which changes no maximum; so passages need no padding.
No product may be fused with a sum (SPEC §6.2): every launch says `enable_fp_fusion=False` (launches.py).
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

SIZES = ["first", "count", "centroids", "stride"]
"""Arguments that differ from query to query, or from version to version: no value of theirs is compiled for."""


@triton.jit
def _span(row, offsets_field: tl.constexpr, passage):
    """First item of a passage in its segment, and one past its last, as int64."""
    offsets = tl.load(row + offsets_field).to(tl.pointer_type(tl.uint32))
    ordinal = passage - tl.load(row + FIRST_PASSAGE)
    return tl.load(offsets + ordinal).to(tl.int64), tl.load(offsets + ordinal + 1).to(tl.int64)


@triton.jit
def _values(
    rows, scales, query, corrections, BITS: tl.constexpr, DIM: tl.constexpr, VECTORS: tl.constexpr,
    ROWS: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """float32(Σ q · (2c - (2^BITS - 1))) · scale of rows of codes against all query vectors: float32 [ROWS, VECTORS].

    rows: where each begins. scales: where each one's scale is.
    """
    WIDTH: tl.constexpr = DIM * BITS // 8
    vectors = tl.arange(0, VECTORS)
    sums = tl.zeros([ROWS, VECTORS], tl.int32)
    for chunk in tl.static_range((WIDTH + BYTES - 1) // BYTES):
        byte = chunk * BYTES + tl.arange(0, BYTES)
        places = rows[:, None] + byte[None, :]
        packed = tl.load(places) if WIDTH % BYTES == 0 else tl.load(places, mask=byte[None, :] < WIDTH, other=0)
        for plane in tl.static_range(8 // BITS):
            if BITS == 8:
                digits = (packed ^ 128).to(tl.int8, bitcast=True)  # the code less 128: see the corrections
            else:
                digits = ((packed >> (plane * BITS)) & ((1 << BITS) - 1)).to(tl.int8, bitcast=True)
            own = query + vectors[None, :] * DIM + plane * WIDTH + byte[:, None]
            levels = tl.load(own) if WIDTH % BYTES == 0 else tl.load(own, mask=byte[:, None] < WIDTH, other=0)
            sums = tl.dot(digits, levels, sums, out_dtype=tl.int32)
    exact = (2 * sums - tl.load(corrections + vectors)[None, :]).to(tl.float32)
    return exact * tl.load(scales).to(tl.float32)[:, None]


@triton.jit(do_not_specialize=SIZES)
def maxsim(
    chosen, first, count, found, segments, segment_of, query, corrections, query_scales, offsets, parts,
    LISTED: tl.constexpr, BITS: tl.constexpr, DIM: tl.constexpr, VECTORS: tl.constexpr, TOKENS: tl.constexpr,
    BYTES: tl.constexpr,
):  # fmt: skip
    """The part of each query vector in the score of `count` passages: parts float32 [count, VECTORS].

    The passages are those in `chosen` (int64), or without a list `first` and those that follow; of these only
    the ones that may be found are scored, and the parts of the others stay as they were.
    """
    vectors = tl.arange(0, VECTORS)
    for at in range(tl.program_id(0), count, tl.num_programs(0)):
        if LISTED:
            passage, wanted = tl.load(chosen + at), True
        else:
            passage = first + at
            wanted = tl.load(found + passage) != 0
        if wanted:
            row = segments + tl.load(segment_of + passage).to(tl.int64) * FIELDS
            start, stop = _span(row, TOKEN_OFFSETS, passage)
            codes = tl.multiple_of(tl.load(row + CODES).to(tl.pointer_type(tl.uint8)), 16)
            scales = tl.load(row + SCALES).to(tl.pointer_type(tl.float16))
            best = tl.full([TOKENS, VECTORS], LOWEST, tl.float32)
            for token in range(start, stop, TOKENS):
                tokens = tl.minimum(token + tl.arange(0, TOKENS), stop - 1)
                rows = codes + tokens * (DIM * BITS // 8)
                values = _values(rows, scales + tokens, query, corrections, BITS, DIM, VECTORS, TOKENS, BYTES)
                best = tl.maximum(best, values)
            part = tl.max(best, axis=0) * tl.load(query_scales + vectors) + tl.load(offsets + vectors)
            tl.store(parts + at * VECTORS + vectors, part)


@triton.jit(do_not_specialize=SIZES)
def sum_parts(
    parts, first, count, found, totals, LISTED: tl.constexpr, ADDED: tl.constexpr, VECTORS: tl.constexpr,
    PASSAGES: tl.constexpr,
):  # fmt: skip
    """Each passage's parts, summed from the first query vector to the last, in `totals`; -inf where it is not found.

    Lanes without a query vector have parts of zero. ADDED: the parts follow those of earlier query vectors.
    """
    at = tl.program_id(0).to(tl.int64) * PASSAGES + tl.arange(0, PASSAGES)
    inside = at < count
    wanted = inside
    if not LISTED:
        wanted = tl.load(found + first + at, mask=inside, other=0) != 0
    total = tl.zeros([PASSAGES], tl.float32)
    if ADDED:
        total = tl.load(totals + first + at, mask=wanted, other=0.0)
    for vector in range(VECTORS):
        total += tl.load(parts + at * VECTORS + vector, mask=wanted, other=0.0)
    tl.store(totals + first + at, tl.where(wanted, total, LOWEST), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def sum_parts_by_query(
    parts, edges, first, count, found, totals, stride, VECTORS: tl.constexpr, PASSAGES: tl.constexpr,
):  # fmt: skip
    """What `sum_parts` says, for each of several queries that share the lanes: totals float32 [queries, stride].

    edges: int32 [queries + 1], each query's first lane, and one past the last. A query without lanes sums to 0.
    """
    query = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0).to(tl.int64) * PASSAGES + tl.arange(0, PASSAGES)
    inside = at < count
    wanted = tl.load(found + first + at, mask=inside, other=0) != 0
    total = tl.zeros([PASSAGES], tl.float32)
    for vector in range(tl.load(edges + query), tl.load(edges + query + 1)):
        total += tl.load(parts + at * VECTORS + vector, mask=wanted, other=0.0)
    tl.store(totals + query * stride + first + at, tl.where(wanted, total, LOWEST), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def centroid_values(
    count, codes, scales, query, corrections, query_scales, values, DIM: tl.constexpr, VECTORS: tl.constexpr,
    CENTROIDS: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """The product of every centroid (codes of 8 bits) with every query vector: values float32 [count, VECTORS]."""
    at = tl.program_id(0).to(tl.int64) * CENTROIDS + tl.arange(0, CENTROIDS)
    vectors = tl.arange(0, VECTORS)
    rows = tl.minimum(at, count - 1)
    own = _values(codes + rows * DIM, scales + rows, query, corrections, 8, DIM, VECTORS, CENTROIDS, BYTES)
    own *= tl.load(query_scales + vectors)[None, :]
    tl.store(values + at[:, None] * VECTORS + vectors[None, :], own, mask=at[:, None] < count)


@triton.jit(do_not_specialize=SIZES)
def round_table(count, values, floors, steps, table, VECTORS: tl.constexpr, CENTROIDS: tl.constexpr):
    """Values as whole steps above their floor, in bytes: table uint8 [count, VECTORS]."""
    at = tl.program_id(0).to(tl.int64) * CENTROIDS + tl.arange(0, CENTROIDS)
    vectors = tl.arange(0, VECTORS)
    inside = at[:, None] < count
    own = tl.load(values + at[:, None] * VECTORS + vectors[None, :], mask=inside, other=0.0)
    tl.store(table + at[:, None] * VECTORS + vectors[None, :], _bytes(own, floors, steps, VECTORS), mask=inside)


@triton.jit
def _bytes(values, floors, steps, VECTORS: tl.constexpr):
    """Values as whole steps above their floor, cut to a byte: uint8 like `values`, which has a column a vector."""
    vectors = tl.arange(0, VECTORS)
    scaled = (values - tl.load(floors + vectors)[None, :]) * tl.load(steps + vectors)[None, :]
    return tl.minimum(tl.maximum(scaled, 0.0), TABLE_TOP).to(tl.int32).to(tl.uint8)


@triton.jit(do_not_specialize=SIZES)
def outlier_bytes(
    count, segments, outlier_segment_of, query, corrections, query_scales, offsets, floors, steps, outliers,
    BITS: tl.constexpr, DIM: tl.constexpr, VECTORS: tl.constexpr, OUTLIERS: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """The byte of every outlier for every query vector, as in the table of centroids: outliers uint8 [count, VECTORS].

    Of all passages at once: one has one or two, which would leave most of a tile empty.
    """
    at = tl.program_id(0).to(tl.int64) * OUTLIERS + tl.arange(0, OUTLIERS)
    vectors = tl.arange(0, VECTORS)
    inside = tl.minimum(at, count - 1)
    own = segments + tl.load(outlier_segment_of + inside).to(tl.int64) * FIELDS
    ordinals = inside - tl.load(own + FIRST_OUTLIER)
    codes = tl.load(own + OUTLIER_CODES).to(tl.pointer_type(tl.uint8))
    scales = tl.load(own + OUTLIER_SCALES).to(tl.pointer_type(tl.float16))
    rows = codes + ordinals * (DIM * BITS // 8)
    values = _values(rows, scales + ordinals, query, corrections, BITS, DIM, VECTORS, OUTLIERS, BYTES)
    parts = values * tl.load(query_scales + vectors)[None, :] + tl.load(offsets + vectors)[None, :]
    whole = _bytes(parts, floors, steps, VECTORS)
    tl.store(outliers + at[:, None] * VECTORS + vectors[None, :], whole, mask=at[:, None] < count)


@triton.jit(do_not_specialize=SIZES)
def scan(
    count, found, segments, segment_of, centroids, table, outliers, sums, ADDED: tl.constexpr, WIDE: tl.constexpr,
    VECTORS: tl.constexpr, IDS: tl.constexpr,
):  # fmt: skip
    """Each passage's sum over query vectors of its best byte, in `sums` int32; -1 where it is not found.

    The bytes are those of its centroids in the table, and of its outliers. WIDE: centroid ids have four bytes, not two.
    ADDED: to what earlier query vectors gave.
    """
    vectors = tl.arange(0, VECTORS)
    for passage in range(tl.program_id(0), count, tl.num_programs(0)):
        total = -1
        if tl.load(found + passage) != 0:
            row = segments + tl.load(segment_of + passage).to(tl.int64) * FIELDS
            start, stop = _span(row, CENTROID_OFFSETS, passage)
            best = tl.zeros([IDS, VECTORS], tl.int32)
            for first in range(start, stop, IDS):
                places = tl.minimum(first + tl.arange(0, IDS), stop - 1)
                if WIDE:
                    ids = tl.load(tl.load(row + CENTROID_IDS).to(tl.pointer_type(tl.uint32)) + places).to(tl.int64)
                else:
                    ids = tl.load(tl.load(row + CENTROID_IDS).to(tl.pointer_type(tl.uint16)) + places).to(tl.int64)
                # A wrong id in a file reads a wrong row, never beyond the table.
                rows = tl.minimum(ids, centroids - 1)[:, None] * VECTORS + vectors[None, :]
                best = tl.maximum(best, tl.load(table + rows).to(tl.int32))
            start, stop = _span(row, OUTLIER_OFFSETS, passage)
            own = outliers + tl.load(row + FIRST_OUTLIER) * VECTORS
            for first in range(start, stop, IDS):
                places = tl.minimum(first + tl.arange(0, IDS), stop - 1)
                best = tl.maximum(best, tl.load(own + places[:, None] * VECTORS + vectors[None, :]).to(tl.int32))
            total = tl.sum(tl.max(best, axis=0), axis=0)
            if ADDED:
                total += tl.load(sums + passage)
        tl.store(sums + passage, total)


@triton.jit(do_not_specialize=SIZES)
def count_sums(count, sums, histogram, PASSAGES: tl.constexpr):
    """How many passages have each approximate score: added to `histogram` int32. Negative ones are left out."""
    at = tl.program_id(0).to(tl.int64) * PASSAGES + tl.arange(0, PASSAGES)
    own = tl.load(sums + at, mask=at < count, other=-1)
    tl.atomic_add(histogram + own, 1, mask=own >= 0, sem="relaxed")
