"""What many small segments cost a search, beside the same passages compacted into one.

    python -m benchmarks.segments

Codes are random, as their values do not change how long scoring takes. Both snapshots are asked the same queries in
turn, and must give the same answers: the figure is the ratio of medians.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.environment import Environment, environment
from benchmarks.opening import DIM, Shape, write_index
from benchmarks.report import Figures, print_table
from benchmarks.results import default_output, save
from index_format.compaction import merge_segments, publish_compaction
from serving.search import Ranking, rank
from serving.snapshot import Snapshot, open_snapshot

SHAPE = Shape(segments=200, passages=100, tokens=100)
QUERIES, QUERY_TOKENS, K = 21, 12, 10
WAYS = {"1,024 candidates": partial(rank, k=K, candidates=1024), "all scored": partial(rank, k=K, recall="exact")}


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median milliseconds of a query over both, one thread."""

    way: str
    many_ms: float
    one_ms: float
    ratio: float


@dataclass(frozen=True, slots=True)
class ManySegments:
    """All that this module measures."""

    segments: int
    passages: int
    tokens: int
    ratios: list[Ratio]
    environment: Environment


def measure_segments(folder: Path, command: str) -> ManySegments:
    """Write an index of many segments, open it, merge them into one, and ask both."""
    started = environment(command)
    index = write_index(folder, SHAPE)
    many = open_snapshot(index)
    base = index.current()
    publish_compaction(index, merge_segments(index, base, base.segments))
    one = open_snapshot(index)
    passages = SHAPE.segments * SHAPE.passages
    ratios = [_ratio(name, many, one) for name in WAYS]
    return ManySegments(len(many.segments), passages, passages * SHAPE.tokens, ratios, started)


def _ratio(way: str, many: Snapshot, one: Snapshot) -> Ratio:
    rng = np.random.default_rng(1)
    times: dict[Snapshot, list[float]] = {many: [], one: []}
    for _ in range(QUERIES):
        vectors = rng.normal(size=(QUERY_TOKENS, DIM)).astype(np.float32)
        answers = [_timed(way, snapshot, vectors, spent) for snapshot, spent in times.items()]
        if answers[0].scores != answers[1].scores:
            raise RuntimeError("Many segments and one do not give the same scores.")
    # The first query of each waits for what is opened late.
    many_ms, one_ms = (float(np.median(spent[1:])) for spent in times.values())
    return Ratio(way, round(many_ms, 3), round(one_ms, 3), round(many_ms / one_ms, 3))


def _timed(way: str, snapshot: Snapshot, vectors: NDArray[np.float32], spent: list[float]) -> Ranking:
    started = time.perf_counter()
    ranking = WAYS[way](snapshot, vectors)
    spent.append(1000 * (time.perf_counter() - started))
    return ranking


def table(measured: ManySegments) -> Figures:
    """A row for each way of searching."""
    rows = [[one.way, f"{one.many_ms:.2f}", f"{one.one_ms:.2f}", f"{one.ratio:.2f}"] for one in measured.ratios]
    title = f"{measured.passages:,} passages, {measured.tokens:,} tokens, in {measured.segments} segments and in one"
    return Figures(title, ["search", "many, p50 ms", "one, p50 ms", "ratio"], rows)


def main() -> None:
    """Measure, print and keep the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.segments", description=__doc__)
    parser.add_argument("--output", type=Path, default=default_output("segments"), help="JSON file of the result")
    arguments = parser.parse_args()
    command = " ".join(["python -m benchmarks.segments", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        measured = measure_segments(Path(folder), command)
    save(arguments.output, "segments", measured)
    print_table(Console(width=120), table(measured))


if __name__ == "__main__":
    main()
