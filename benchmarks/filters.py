"""What a filter costs on a million passages: `python -m benchmarks.filters`.

Random codes, where candidates foretell nothing, so the search without a filter is given the fewest candidates that a
search ever takes; a real one takes as many or more. Filters keep 1 % of the passages: one segment of a hundred, or a
hundredth of each.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.environment import environment
from benchmarks.opening import DIM, Shape, write_index
from index_format.filters import Filter, parse_filter
from serving.search import FIRST, rank
from serving.snapshot import Snapshot, open_snapshot

SHAPE = Shape(segments=100, passages=10_000, tokens=8)
QUERY_TOKENS = 12
RUNS = 9


def main() -> None:
    """Write the index, ask, print one JSON document."""
    with tempfile.TemporaryDirectory(prefix="filters-") as folder:
        snapshot = open_snapshot(write_index(Path(folder), SHAPE))
        print(
            json.dumps({"environment": str(environment("python -m benchmarks.filters")), **measure(snapshot)}, indent=2)
        )


def measure(snapshot: Snapshot) -> dict[str, float]:
    """Milliseconds of processor, on one thread: medians; of a filter that is new, once."""
    vectors = np.random.default_rng(1).normal(size=(QUERY_TOKENS, DIM)).astype(np.float32)
    scattered = [f"{segment}/{row}" for segment in range(SHAPE.segments) for row in range(0, SHAPE.passages, 100)]
    filters: dict[str, Filter | None] = {
        "one segment": parse_filter({"op": "prefix", "column": "id", "value": "7/"}),
        "a hundredth of each": parse_filter({"op": "in", "column": "id", "values": scattered}),
        "half of each": parse_filter({"op": "<", "column": "id", "value": "5"}),
    }
    found = {"no filter, 256 candidates": _median(lambda: rank(snapshot, vectors, 10, candidates=FIRST))}
    for name, matching in filters.items():
        select = partial(snapshot.select, matching)
        found[f"{name}, new filter"] = _milliseconds(select)
        found[f"{name}, repeated filter"] = _median(select)
        among = select()
        candidates = None if among.passages * 10 < snapshot.manifest.passages else FIRST
        search = partial(rank, snapshot, vectors, 10, among=among, candidates=candidates)
        found[f"{name}, search"] = _median(search)
    return {name: round(value, 3) for name, value in found.items()}


def _median(work: Callable[[], object]) -> float:
    work()
    return float(np.median([_milliseconds(work) for _ in range(RUNS)]))


def _milliseconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return 1000 * (time.thread_time() - start)


if __name__ == "__main__":
    main()
