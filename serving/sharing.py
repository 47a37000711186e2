"""Which queries share a pass: neighbours whose vectors together fill the lanes of one kernel call.

A call takes as many query vectors as registers hold, and what it costs does not grow with each of them: lanes come by
registers or halves of them, and unpacking a code costs the same for one register as for four. So a few short queries
together take less than one after the other, and long ones, which fill the lanes by themselves, take as much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, takewhile


def share(counts: Sequence[int], lanes: int, cost: Callable[[int], float], most: int) -> list[range]:
    """Ranges of places in `counts`, the query vectors of each query, that cost least by query; the shorter of equals.

    lanes: how many vectors a call takes; a query of more is alone. cost: of a call for so many vectors, up to `lanes`.
    most: how many queries may share a call.
    """
    shared, first = [], 0
    while first < len(counts):
        sums = list(takewhile(lambda vectors: vectors <= lanes, accumulate(counts[first : first + most])))
        size = min(range(1, len(sums) + 1), key=lambda size: cost(sums[size - 1]) / size, default=1)
        shared.append(range(first, first + size))
        first += size
    return shared
