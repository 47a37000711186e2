"""Several queries over one snapshot: those that are compared with all of the same passages share passes over the codes.

Each gets what `rank` says of it alone, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.matches import Selection
from serving.search import Ranking, Recall, best_of, is_scored_whole, rank
from serving.snapshot import Snapshot


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What one query asks of `rank`, whose parameters these are."""

    vectors: NDArray[np.float32]
    k: int
    recall: Recall
    among: Selection


def passes(snapshot: Snapshot, wanted: Sequence[Wanted]) -> list[list[int]]:
    """Which queries `rank_together` ranks at once, by their places: each is in one list, the first asked first."""
    found: list[list[int]] = []
    alike: dict[int, list[int]] = {}
    for place, one in enumerate(wanted):
        if is_scored_whole(snapshot, one.among, one.recall):
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
        return [rank(snapshot, w.vectors, w.k, recall=w.recall, among=w.among, threads=threads) for w in wanted]
    queries, most = [one.vectors for one in wanted], max(one.k for one in wanted)
    several = snapshot.scorer.best_of_several(queries, first.among.mask, most, threads=threads)
    return [
        Ranking(*best_of(snapshot, scored, one.k), scored.count) for one, scored in zip(wanted, several, strict=True)
    ]
