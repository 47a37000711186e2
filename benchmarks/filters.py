"""What a filter that keeps 1 % costs beside no filter.

    python -m benchmarks.filters [--passages 1000000] [--tokens 8]

Synthetic passages whose tokens lie around centroids, as those of texts do, and queries near some of those, so that a
search without a filter takes as many candidates as it needs. Filters keep one segment of a hundred, or a hundredth of
each. Ends with status 1 where a filtered search, its filter met before, costs more than the one without a filter.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import environment
from benchmarks.opening import Shape, near_to, random_centroids, write_index
from index_format.filters import Filter, parse_filter
from serving.search import FIRST, rank
from serving.snapshot import Snapshot, open_snapshot

SEGMENTS = 100
QUERY_TOKENS = 12
QUERIES = 3
RUNS = 5  # of each query
ONE_PERCENT = ("one segment", "a hundredth of each")


def main() -> None:
    """Write the index, ask, print one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filters", description=__doc__)
    parser.add_argument("--passages", type=int, default=1_000_000, help="a multiple of 10,000: %(default)s")
    parser.add_argument("--tokens", type=int, default=8, help="of a passage, 194 bytes each: %(default)s")
    arguments = parser.parse_args()
    shape = Shape(SEGMENTS, arguments.passages // SEGMENTS, arguments.tokens)
    with tempfile.TemporaryDirectory(prefix="filters-") as folder:
        snapshot = open_snapshot(write_index(Path(folder), shape, like_texts=True))
        found = measure(snapshot, shape)
    command = " ".join(["python -m benchmarks.filters", *sys.argv[1:]])
    print(json.dumps({"environment": str(environment(command)), **found}, indent=2))
    if slower := [name for name in ONE_PERCENT if found[f"{name}: in all, over no filter"] > 1]:
        raise SystemExit(f"slower than without a filter: {', '.join(slower)}")


def measure(snapshot: Snapshot, shape: Shape) -> dict[str, float]:
    """Milliseconds of processor, on one thread, over several queries: medians; of a filter that is new, once."""
    queries = _queries()
    scattered = [f"{segment}/{row}" for segment in range(SEGMENTS) for row in range(0, shape.passages, 100)]
    filters: dict[str, Filter | None] = {
        ONE_PERCENT[0]: parse_filter({"op": "prefix", "column": "id", "value": "7/"}),
        ONE_PERCENT[1]: parse_filter({"op": "in", "column": "id", "values": scattered}),
        "half of each": parse_filter({"op": "<", "column": "id", "value": "5"}),
    }
    whole = _median([partial(rank, snapshot, query, 10) for query in queries])
    least = _median([partial(rank, snapshot, query, 10, candidates=FIRST) for query in queries])
    found = {"no filter": whole, "no filter: scored": _scored(snapshot, queries, None)}
    found[f"no filter, the fewest candidates there ever are ({FIRST})"] = least
    for name, matching in filters.items():
        found[f"{name}: a new filter"] = _milliseconds(partial(snapshot.select, matching))
        found[f"{name}: the same again"] = again = _median([partial(snapshot.select, matching)])
        among = snapshot.select(matching)
        found[f"{name}: search"] = own = _median([partial(rank, snapshot, query, 10, among=among) for query in queries])
        found[f"{name}: scored"] = _scored(snapshot, queries, matching)
        found[f"{name}: in all, over no filter"] = (again + own) / whole
    return {name: round(value, 3) for name, value in found.items()}


def _queries() -> list[NDArray[np.float32]]:
    """Token vectors around centroids: float32 [Q, D] each."""
    rng, (_, centroids) = np.random.default_rng(2), random_centroids()
    return [near_to(centroids[rng.choice(len(centroids), QUERY_TOKENS)], rng) for _ in range(QUERIES)]


def _scored(snapshot: Snapshot, queries: list[NDArray[np.float32]], matching: Filter | None) -> float:
    """How many passages a query scores exactly, at the median."""
    among = snapshot.select(matching)
    return float(np.median([rank(snapshot, query, 10, among=among).scored for query in queries]))


def _median(works: list[Callable[[], object]]) -> float:
    for work in works:
        work()
    return float(np.median([_milliseconds(work) for work in works for _ in range(RUNS)]))


def _milliseconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return 1000 * (time.thread_time() - start)


if __name__ == "__main__":
    main()
