"""The pooling of `pooling.py` for many passages at once, where their vectors are: on a GPU.

scipy joins the tokens of one passage at a time on one core and keeps Python's lock meanwhile, so threads do not help:
it would take many times as long as a GPU takes to encode. Here each step joins the nearest two clusters of every
passage of a batch. The steps are as many as the longest passage loses vectors, and each reads all distances once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

_NEVER = float("inf")


def pool_rows(
    vectors: torch.Tensor, lengths: Sequence[int], factor: int, *, protected: int
) -> tuple[torch.Tensor, list[int]]:
    """Token vectors [n, D] of passages of some lengths, one below the other, pooled as `pool_tokens` does.

    Returns what is left, one below the other too, and how many of each passage.
    """
    tokens = pad_sequence(list(torch.split(vectors, list(lengths))), batch_first=True)
    counts = torch.tensor(lengths, device=vectors.device)
    there = torch.arange(tokens.shape[1], device=vectors.device) < counts[:, None]
    clusters = _clusters(tokens, there, _joins(counts, factor, protected), protected)
    sizes = torch.zeros_like(clusters).scatter_add_(1, clusters, there.long())
    sums = torch.zeros_like(tokens).scatter_add_(1, clusters[:, :, None].expand_as(tokens), tokens)
    left = sizes > 0
    return sums[left] / sizes[left][:, None], left.sum(1).tolist()


def _joins(counts: torch.Tensor, factor: int, protected: int) -> torch.Tensor:
    """How many clusters each passage is to lose: int64 [P]."""
    free = (counts - protected).clamp(min=0)
    return free - torch.where(free > 0, (free // factor).clamp(min=1), 0)


def _clusters(tokens: torch.Tensor, there: torch.Tensor, joins: torch.Tensor, protected: int) -> torch.Tensor:
    """The first token of each token's cluster, int64 [P, T], by Ward's criterion on the cosine distance.

    tokens: [P, T, D]. there: bool [P, T], which are no padding. Distances are kept squared, as Ward adds them up.
    """
    passages, longest = there.shape
    each = torch.arange(passages, device=tokens.device)
    clusters = torch.arange(longest, device=tokens.device).repeat(passages, 1)
    free = there & (clusters >= protected)
    apart = free[:, :, None] & free[:, None, :] & ~torch.eye(longest, dtype=torch.bool, device=tokens.device)
    squares = (1 - tokens @ tokens.mT).square_().masked_fill_(~apart, _NEVER)
    sizes = torch.ones_like(tokens[:, :, 0])
    height = torch.full_like(sizes[:, 0], -1)
    while True:
        least, place = squares.flatten(1).min(1)
        # Those that tie with the last join are joined too, as scipy has it.
        joined = ((joins > 0) | (least <= height)) & (least < _NEVER)
        if not joined.any():
            return clusters
        rows, columns = place // longest, place % longest
        one, other = torch.minimum(rows, columns), torch.maximum(rows, columns)
        size, added = sizes[each, one][:, None], sizes[each, other][:, None]
        near, far = squares[each, one], squares[each, other]
        both = ((size + sizes) * near + (added + sizes) * far - sizes * least[:, None]) / (size + added + sizes)
        now = joined[:, None]
        squares[each, one] = squares[each, :, one] = torch.where(now, both, near)
        squares[each, other] = squares[each, :, other] = far.masked_fill(now, _NEVER)
        sizes[each, one] += torch.where(joined, added[:, 0], 0)
        clusters = torch.where(now & (clusters == other[:, None]), one[:, None], clusters)
        height = torch.where(joined, least, height)
        joins = joins - joined.long()
