"""What the inner loops cost on this processor: nanoseconds a token, one thread, on every instruction level it has.

    python -m benchmarks.kernels

Codes are random, as their values do not change how long scoring takes. Each figure is the best of several rounds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks.environment import Environment, environment
from benchmarks.gpu_check import random_query
from benchmarks.report import Figures, print_table
from benchmarks.results import default_output, save
from index_format.codebook import Codebook, exclusive_sum
from index_format.codec import BITS, Codec
from serving.approximate import CodedCentroids
from serving.compress import compress
from serving.kernels.levels import Level, levels_here
from serving.kernels.segments import SegmentTable
from serving.nearest import nearest_of_all
from serving.scoring import Query, maxsim, maxsim_of_several, prepare_query, sharing

DIMS = (128, 384)
QUERY_VECTORS = (8, 32)
TOGETHER, VECTORS_EACH = 4, 12
PASSAGES, PASSAGE_TOKENS = 300, 100
CENTROIDS, ASSIGNED = 2_048, 2_048
ROUNDS = 7


@dataclass(frozen=True, slots=True)
class Cost:
    """One kernel at one shape. nanoseconds: a token, and of queries that are asked together by each of them."""

    kernel: str
    level: str
    dim: int
    nanoseconds: float


@dataclass(frozen=True, slots=True)
class Kernels:
    """All that this module measures."""

    costs: list[Cost]
    environment: Environment


def measure_kernels(command: str) -> Kernels:
    """MaxSim and compression at every width of codes, and the nearest centroid, on every level."""
    started = environment(command)
    shapes = [(level, dim) for level in levels_here() for dim in DIMS]
    return Kernels([cost for shape in track(shapes, "Kernels") for cost in _costs(*shape)], started)


def _costs(level: Level, dim: int) -> list[Cost]:
    costs, tokens = [], random_query(ASSIGNED, dim, 2)
    for bits in BITS:
        codec = Codec(np.zeros(dim, np.float32), bits)
        table = _table(codec)
        for vectors in QUERY_VECTORS:
            query = prepare_query(random_query(vectors, dim), codec, level)
            work = partial(maxsim, query, table, codec.row_bytes, np.arange(PASSAGES))
            name = f"MaxSim, {bits} bit{'s' if bits > 1 else ''}, {vectors} query vectors"
            costs.append(Cost(name, level.name, dim, _best(work) / (PASSAGES * PASSAGE_TOKENS)))
        several = [prepare_query(random_query(VECTORS_EACH, dim, seed), codec, level) for seed in range(TOGETHER)]
        for how, passes in (("one by one", [[one] for one in several]), ("together", _passes(several))):
            each = _best(partial(_score, passes, table, codec.row_bytes)) / (PASSAGES * PASSAGE_TOKENS * TOGETHER)
            name = f"MaxSim, {bits} bit{'s' if bits > 1 else ''}, {TOGETHER} queries of {VECTORS_EACH} vectors {how}"
            costs.append(Cost(name, level.name, dim, each))
        coding = partial(compress, Codec.of(tokens, bits), tokens, level=level)
        costs.append(
            Cost(f"compression, {bits} bit{'s' if bits > 1 else ''}", level.name, dim, _best(coding) / ASSIGNED)
        )
    centroids = CodedCentroids.of(Codebook.of(random_query(CENTROIDS, dim, 1)))
    nearest = partial(nearest_of_all, tokens, centroids, level=level)
    costs.append(Cost(f"nearest of {CENTROIDS:,} centroids", level.name, dim, _best(nearest) / ASSIGNED))
    return costs


def _passes(queries: list[Query]) -> list[list[Query]]:
    """The queries as a server asks them together."""
    shared = sharing([len(one.vectors) for one in queries], queries[0].level)
    return [[queries[place] for place in own] for own in shared]


def _score(passes: list[list[Query]], table: SegmentTable, row_bytes: int) -> None:
    for own in passes:
        maxsim_of_several(own, table, row_bytes, np.arange(PASSAGES))


def _table(codec: Codec) -> SegmentTable:
    """One segment of random codes, without centroids."""
    rng, tokens = np.random.default_rng(0), PASSAGES * PASSAGE_TOKENS
    codes = rng.integers(0, 256, (tokens, codec.row_bytes), np.uint8)
    none = np.zeros(PASSAGES + 1, np.uint32)
    offsets = exclusive_sum(np.full(PASSAGES, PASSAGE_TOKENS))
    ids, no_scales = np.zeros(0, np.uint16), np.zeros(0, np.float16)
    scales = np.full(tokens, 0.01, np.float16)
    return SegmentTable.of([[offsets, codes, scales, none, ids, none, codes[:0], no_scales]])


def _best(work: Callable[[], object]) -> float:
    """Nanoseconds of the quickest round; the first compiles."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - started)
    return float(min(times))


def table(measured: Kernels) -> Figures:
    """A row for each kernel, a column for each level and number of dimensions."""
    columns = list(dict.fromkeys((one.level, one.dim) for one in measured.costs))
    costs = {(one.kernel, one.level, one.dim): one.nanoseconds for one in measured.costs}
    kernels = dict.fromkeys(one.kernel for one in measured.costs)
    rows = [[name, *(f"{costs[name, *column]:,.0f}" for column in columns)] for name in kernels]
    head = ["nanoseconds a token", *(f"{level}, {dim} dimensions" for level, dim in columns)]
    return Figures("Kernels, one thread", head, rows)


def main() -> None:
    """Measure, print and keep the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--output", type=Path, default=default_output("kernels"), help="JSON file of the result")
    arguments = parser.parse_args()
    measured = measure_kernels(" ".join(["python -m benchmarks.kernels", *sys.argv[1:]]))
    save(arguments.output, "kernels", measured)
    print_table(Console(width=140), table(measured))


if __name__ == "__main__":
    main()
