"""Several queries over one snapshot: those that are compared with all of the same passages share passes over the codes.

Each gets what `rank` says of it alone, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.hybrid import Fusion, rank_hybrid
from serving.matches import Selection
from serving.search import Ranking, Recall, best_of, is_scored_whole, rank
from serving.snapshot import Snapshot


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What one query asks of `rank`, whose parameters these are; with `fusion` of `rank_hybrid`, and the text too."""

    vectors: NDArray[np.float32]
    k: int
    recall: Recall
    among: Selection
    text: str | None = None
    fusion: Fusion | None = None


def passes(snapshot: Snapshot, wanted: Mapping[int, Wanted]) -> list[list[int]]:
    """Which queries `rank_together` ranks at once, by their places: each is in one list, the first asked first."""
    found: list[list[int]] = []
    alike: dict[int, list[int]] = {}
    for place, one in wanted.items():
        if one.fusion is None and is_scored_whole(snapshot, one.among, one.recall):
            # By identity: a snapshot keeps the selections of its last filters, and `wanted` holds these.
            alike.setdefault(id(one.among), []).append(place)
        else:
            found.append([place])
    for places in alike.values():
        shared = snapshot.scorer.sharing([len(wanted[place].vectors) for place in places])
        found += [[places[at] for at in own] for own in shared]
    return sorted(found)


def rank_together(snapshot: Snapshot, wanted: Sequence[Wanted], *, threads: int = 1) -> list[Ranking]:
    """The rankings of the queries of one of `passes`."""
    first = wanted[0]
    if len(wanted) == 1 or not first.among.passages:
        return [_rank(snapshot, one, threads) for one in wanted]
    queries, most = [one.vectors for one in wanted], max(one.k for one in wanted)
    several = snapshot.scorer.best_of_several(queries, first.among.mask, most, threads=threads)
    return [
        Ranking(*best_of(snapshot, scored, one.k), scored.count) for one, scored in zip(wanted, several, strict=True)
    ]


def _rank(snapshot: Snapshot, one: Wanted, threads: int) -> Ranking:
    vectors, k, recall, among = one.vectors, one.k, one.recall, one.among
    if one.fusion is None:
        return rank(snapshot, vectors, k, recall=recall, among=among, threads=threads)
    assert one.text is not None
    return rank_hybrid(snapshot, one.text, vectors, k, fusion=one.fusion, recall=recall, among=among, threads=threads)
