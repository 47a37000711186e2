"""Ward's joins of one passage in one program, in Triton: for `device_pooling.py`.

Distances lie in device memory, in the cache, and are joined where they lie. Beside them a program keeps, for each
row, the least distance and where it is, so a step reads the two rows that it joins and those whose nearest neighbour
that was; all rows are read once, at the start.

Of equal distances the first by row, then by column, is joined, whatever the order of threads.
"""

from __future__ import annotations

import triton
import triton.language as tl

NEVER = tl.constexpr(float("inf"))

EXACT = {"enable_fp_fusion": False}
"""For every launch: a fused multiply-add rounds once where torch, and SPEC §6.2, round twice."""

SIZES = ["longest", "protected"]
"""Arguments that differ from batch to batch: no value of theirs is compiled for."""


@triton.jit(do_not_specialize=SIZES)
def join_clusters(squares, counts, joins, clusters, longest, protected, BLOCK: tl.constexpr):
    """The first token of each token's cluster, int64 [P, T]; one program for each passage.

    squares: float32 [P, T, T], squared distances, which are overwritten. counts, joins: int64 [P], the tokens of each
    passage and how many clusters it is to lose. longest: T, at most BLOCK. The first `protected` are never joined.
    """
    passage = tl.program_id(0).to(tl.int64)
    squares += passage * longest * longest
    token = tl.arange(0, BLOCK)
    joins_left = tl.load(joins + passage)
    alive = (token >= protected) & (token < tl.load(counts + passage))
    firsts = token
    sizes = tl.full([BLOCK], 1.0, tl.float32)
    least, nearest = _search(squares, longest, alive, alive, tl.full([BLOCK], NEVER, tl.float32), token, BLOCK)
    distance, one, other = _nearest_two(least, nearest, token)
    height = -1.0
    # Those that tie with the last join are joined too, as scipy has it.
    while ((joins_left > 0) | (distance <= height)) & (distance < NEVER):
        third = alive & (token != one) & (token != other)
        near = tl.load(squares + one * longest + token, mask=third, other=0.0)
        far = tl.load(squares + other * longest + token, mask=third, other=0.0)
        size = tl.sum(tl.where(token == one, sizes, 0.0), axis=0)
        added = tl.sum(tl.where(token == other, sizes, 0.0), axis=0)
        # Ward adds up squares. A plain `/` would be an approximation on a GPU.
        both = tl.div_rn(
            (size + sizes) * near + (added + sizes) * far - sizes * distance,
            size + added + sizes,
        )
        tl.debug_barrier()  # all threads have read the rows before one writes
        tl.store(squares + one * longest + token, both, mask=third)
        tl.store(squares + token * longest + one, both, mask=third)
        tl.debug_barrier()  # and all writes are there before another thread reads them

        alive = alive & (token != other)
        firsts = tl.where(firsts == other, one, firsts)
        sizes = tl.where(token == one, size + added, sizes)
        height = distance
        joins_left -= 1

        # Ward brings no third nearer to the two than the nearer one was, except by rounding.
        nearer = third & ((both < least) | ((both == least) & (one < nearest)))
        lost = alive & ((token == one) | (nearest == one) | (nearest == other))
        least = tl.where(nearer, both, tl.where(token == other, NEVER, least))
        nearest = tl.where(nearer, one, nearest)
        least, nearest = _search(squares, longest, alive, lost, least, nearest, BLOCK)
        distance, one, other = _nearest_two(least, nearest, token)
    tl.store(clusters + passage * longest + token, firsts, mask=token < longest)


@triton.jit
def _search(squares, longest, alive, wanted, least, nearest, BLOCK: tl.constexpr):
    """`least` and `nearest` with the rows that are wanted searched anew among those alive."""
    token = tl.arange(0, BLOCK)
    row = tl.min(tl.where(wanted, token, BLOCK), axis=0)
    while row < BLOCK:
        # The mask also hides the diagonal, padding, what is protected and what was joined to another.
        own = tl.load(squares + row * longest + token, mask=alive & (token != row), other=NEVER)
        value, place = tl.min(own, axis=0, return_indices=True, return_indices_tie_break_left=True)
        least = tl.where(token == row, value, least)
        nearest = tl.where(token == row, place, nearest)
        wanted = wanted & (token != row)
        row = tl.min(tl.where(wanted, token, BLOCK), axis=0)
    return least, nearest


@triton.jit
def _nearest_two(least, nearest, token):
    """The least distance of all, and its two clusters in order."""
    distance, row = tl.min(least, axis=0, return_indices=True, return_indices_tie_break_left=True)
    column = tl.sum(tl.where(token == row, nearest, 0), axis=0)
    return distance, tl.minimum(row, column), tl.maximum(row, column)
