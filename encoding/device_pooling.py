"""The pooling of `pooling.py` for many passages at once, where their vectors are: on a GPU.

scipy joins the tokens of one passage at a time on one core and keeps Python's lock meanwhile, so threads do not help:
it would take many times as long as a GPU takes to encode. Here one launch does all joins of all passages of a batch
(`pooling_kernel.py`), and nothing waits for how many vectors are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from encoding.pooling import pool_batch
from encoding.transfers import to_device

_LEAST_BLOCK = 32  # tokens: one for each thread of a warp
_TOKENS_A_WARP = 256  # eight for each thread; and what one warp reduces needs no shared memory
_MOST_WARPS = 16


def pool_rows(
    vectors: torch.Tensor, lengths: Sequence[int], factor: int, *, protected: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token vectors [n, D] of passages of some lengths, one below the other, pooled as `pool_tokens` does.

    Returns vectors [P, T, D], zeros among them, and which of them are a passage's, bool [P, T]. Without Triton, which
    a torch for CUDA brings along on Linux, the processor pools them.
    """
    if find_spec("triton") is None:
        return _pooled_by_processor(vectors, lengths, factor, protected)
    counts = to_device(np.array(lengths, np.int64), vectors.device)
    places = torch.arange(max(lengths), device=vectors.device)
    there = places < counts[:, None]
    # Behind a shorter passage stand vectors of the next: they join no cluster, and none of them is kept.
    rows = (counts.cumsum(0) - counts)[:, None] + places
    tokens = vectors[rows.clamp_(max=len(vectors) - 1)]
    clusters = _clusters(tokens, counts, _joins(counts, factor, protected), protected)
    sizes = torch.zeros_like(clusters).scatter_add_(1, clusters, there.long())
    sums = torch.zeros_like(tokens).scatter_add_(1, clusters[:, :, None].expand_as(tokens), tokens)
    left = sizes > 0
    return torch.where(left[:, :, None], sums / sizes[:, :, None], 0.0), left


def warps_for(block: int) -> int:
    """The warps of a program that pools passages of up to `block` tokens."""
    return min(max(1, block // _TOKENS_A_WARP), _MOST_WARPS)


def _pooled_by_processor(
    vectors: torch.Tensor, lengths: Sequence[int], factor: int, protected: int
) -> tuple[torch.Tensor, torch.Tensor]:
    passages = [one.numpy() for one in torch.split(vectors.cpu(), list(lengths))]
    pooled = [torch.from_numpy(one) for one in pool_batch(passages, factor, protected=protected)]
    padded, counts = pad_sequence(pooled, batch_first=True), torch.tensor([len(one) for one in pooled])
    left = torch.arange(padded.shape[1]) < counts[:, None]
    return padded.to(vectors.device), left.to(vectors.device)


def _joins(counts: torch.Tensor, factor: int, protected: int) -> torch.Tensor:
    """How many clusters each passage is to lose: int64 [P]."""
    free = (counts - protected).clamp(min=0)
    return free - torch.where(free > 0, (free // factor).clamp(min=1), 0)


def _clusters(tokens: torch.Tensor, counts: torch.Tensor, joins: torch.Tensor, protected: int) -> torch.Tensor:
    """The first token of each token's cluster, int64 [P, T], by Ward's criterion on the cosine distance.

    tokens: [P, T, D]. counts: int64 [P], the tokens of each passage.
    """
    from triton import next_power_of_2

    from encoding.pooling_kernel import EXACT, join_clusters  # Triton is there where a GPU is

    passages, longest, _ = tokens.shape
    squares = (1 - tokens @ tokens.mT).clamp_(min=0).square_()  # as `pooling.py` has it
    clusters = torch.empty((passages, longest), dtype=torch.int64, device=tokens.device)
    block = max(_LEAST_BLOCK, next_power_of_2(longest))
    join_clusters[(passages,)](
        squares, counts, joins, clusters, longest, protected,
        BLOCK=block, num_warps=warps_for(block), **EXACT,
    )  # fmt: skip
    return clusters
