"""Fewer vectors for a passage: tokens that say nearly the same are replaced by their mean.

Hierarchical clustering by Ward's criterion on the cosine distance, as PyLate and ColBERT have it (Clavié, Chaffin
and Adams 2024). A mean is not made a unit vector again: the further its tokens lie apart, the less it scores.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from threadpoolctl import ThreadpoolController

_limited = threading.Lock()
"""Held while BLAS is limited to one thread: the number is the process's, and whoever ends last would set back what it
found, which is the limit of another. scipy keeps Python's lock anyway, so threads lose nothing by waiting."""


def pool_batch(batch: Sequence[NDArray[np.float32]], factor: int, *, protected: int) -> list[NDArray[np.float32]]:
    """`pool_tokens` of each passage. Products this small are quicker on one thread than on all."""
    with _limited, _blas().limit(limits=1, user_api="blas"):
        return [pool_tokens(vectors, factor, protected=protected) for vectors in batch]


def pool_tokens(vectors: NDArray[np.float32], factor: int, *, protected: int) -> NDArray[np.float32]:
    """Token vectors float32 [T, D] to about T / factor of them, in the order of the first token of each.

    The first `protected` stay as they are, in front.
    """
    free = vectors[protected:]
    clusters = _clusters(free, factor)
    if clusters is None:
        return vectors
    order = np.argsort(clusters, kind="stable")
    # Where distances tie there may be fewer clusters than were asked for.
    _, firsts, sizes = np.unique(clusters[order], return_index=True, return_counts=True)
    sums = np.add.reduceat(free[order], firsts, axis=0)
    return np.concatenate([vectors[:protected], sums / sizes[:, None].astype(np.float32)])


def pooled_groups(vectors: NDArray[np.float32], factor: int, *, protected: int) -> list[list[int]]:
    """The tokens of which each vector of `pool_tokens` is the mean, by their places among the unpooled."""
    with _limited, _blas().limit(limits=1, user_api="blas"):
        clusters = _clusters(vectors[protected:], factor)
    if clusters is None:
        return [[one] for one in range(len(vectors))]
    alone = [[one] for one in range(protected)]
    return alone + [(protected + np.flatnonzero(clusters == one)).tolist() for one in np.unique(clusters)]


def _clusters(free: NDArray[np.float32], factor: int) -> NDArray[np.intp] | None:
    """The first token of each token's cluster, or None where none are joined."""
    wanted = max(len(free) // factor, 1)
    if wanted >= len(free):
        return None
    # The product of a vector with its equal may round to more than 1, and scipy refuses a distance below 0.
    distances = np.maximum(1 - free @ free.T, 0)
    condensed = squareform(distances, checks=False)
    labels = hierarchy.fcluster(hierarchy.linkage(condensed, "ward"), wanted, "maxclust")
    _, firsts, numbers = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(firsts[numbers], np.intp)


@cache
def _blas() -> ThreadpoolController:
    """The libraries that are loaded now; looking for them takes longer than pooling a passage."""
    return ThreadpoolController()
